"""Which frames are good: a row and a verdict for each light, with the reason in words.

A frame is compared with the best ones of its own target and filter, because what is wrong with a frame (cloud, focus,
tracking) makes it worse, never better: with three frames, two of them bad, there is still one to compare with.  What
changes by nature is allowed for: extinction and seeing with airmass, seeing and haze that drift.
"""

import fnmatch

import numpy as np

from apfunc import header as hdr

COLUMNS = ("name", "object", "filter", "exptime", "airmass", "fwhm_px", "fwhm_arcsec", "ellipticity", "nstars", "sky",
           "noise", "transparency", "wcs_rms_arcsec", "wcs_nmatch", "trail", "satfrac", "weight", "verdict", "reason")
TEXTS, COUNTS = ("name", "object", "filter", "verdict", "reason"), ("nstars", "wcs_nmatch", "trail")
UNITS = {"exptime": "s", "fwhm_px": "pixel", "fwhm_arcsec": "arcsec", "sky": "adu", "noise": "adu",
         "wcs_rms_arcsec": "arcsec"}
EXTINCTION = 0.25  # [magnitude an airmass] taken off before a frame counts as clouded


def quality_row(header, stars, meta=None):
    """What there is to say about one light: a dict with the COLUMNS that are measured (None = unknown), for `quality`.

    header: of the navigated frame (read: WCSRMS, WCSRMSPX, WCSNMATC, PIXSCALE, FLXSCALE, CTYPE1, RAWFILE, OBJECT,
    FILTER, EXPTIME, AIRMASS); stars: its star table, or columns by name, and its header as `meta`.  Keys that begin with
    "_" are for `quality` alone.
    """
    from apfunc.names import safe, stem
    meta = stars.meta if meta is None else meta
    fwhm, time = hdr.number(meta, "FWHM"), hdr.number(header, "EXPTIME", "EXPOSURE")
    pixel = hdr.number(header, "PIXSCALE") or hdr.pixel_scale(header)
    scale = hdr.number(header, "FLXSCALE")
    good = np.zeros(len(stars), bool)
    if len(stars):
        good = ((np.asarray(stars["flags"]) & 17) == 0) & (np.asarray(stars["snr"]) > 10)
    shaped = int(np.count_nonzero(good & (np.asarray(stars["snr"]) > 20))) if len(stars) else 0
    return {"name": safe(stem(hdr.text(header, "RAWFILE") or "")), "object": hdr.text(header, "OBJECT"),
            "filter": hdr.text(header, "FILTER"), "exptime": time, "airmass": hdr.number(header, "AIRMASS"),
            "fwhm_px": fwhm,
            "fwhm_arcsec": fwhm * pixel if fwhm and pixel else None, "ellipticity": hdr.number(meta, "ELLIP"),
            "nstars": len(stars), "sky": hdr.number(meta, "SKY"), "noise": hdr.number(meta, "SKYNOISE"),
            "wcs_rms_arcsec": hdr.number(header, "WCSRMS"), "wcs_nmatch": hdr.number(header, "WCSNMATC"),
            "trail": hdr.number(meta, "TRAIL") or 0, "satfrac": hdr.number(meta, "SATFRAC"),
            "_raw": hdr.text(header, "RAWFILE"), "_solved": hdr.text(header, "CTYPE1") is not None, "_shaped": shaped,
            "_pixels": hdr.number(header, "WCSRMSPX"),
            "_rate": 1 / (scale * (time or 1)) if scale and scale > 0 else None,
            "_id": np.asarray(stars["id"])[good] if "id" in stars.dtype.names else None,
            "_flux": np.asarray(stars["flux"], float)[good] / (time or 1) if len(stars) else np.zeros(0)}


def quality(rows, **options):
    """The Table of what `judged` finds; unknown numbers are masked."""
    return as_table(judged(rows, **options))


def judged(rows, keep=(), drop=(), min_transparency=0.7, max_ellipticity=0.38, max_fwhm=None, max_sky=None,
           min_stars=None, max_rms=None):
    """Dicts of COLUMNS, one for each of `rows` in their order, with weight, verdict (accept|reject) and reason.

    rows: dicts of `quality_row`, or {name, reason} (object, filter) for a light that could not be measured.
    keep, drop: names (or patterns) of frames to accept or reject by hand; a frame without a solution cannot be kept.
    min_transparency: against the group's best, extinction taken off.  max_ellipticity, max_fwhm [arcsec; pixels without
    a scale], max_sky [adu/s], min_stars, max_rms [arcsec]: absolute limits.  The other limits are relative to the group
    (target and filter), see the rules below.

    transparency: flux of the stars a second, the group's best = 1.  weight: squared signal-to-noise of a faint star,
    (flux a noise and FWHM)^2, the group's best = 1; 0 for rejected frames.  Unknown numbers are None.
    """
    rows = [dict(row) for row in rows]
    groups = {}
    for row in rows:
        row["_reason"] = str(row.get("reason") or "") or _unusable(row)
        groups.setdefault((row.get("object"), row.get("filter")), []).append(row)
    limits = {"min_transparency": min_transparency, "max_ellipticity": max_ellipticity, "max_fwhm": max_fwhm,
              "max_sky": max_sky, "min_stars": min_stars, "max_rms": max_rms}
    for group in groups.values():
        _transparency([r for r in group if not r["_reason"]])
    night = _low([_width(r) for r in rows if not r["_reason"]])
    for group in groups.values():
        _judge(group, limits, night)
        for row in group:
            _by_hand(row, keep, drop)
        _weigh(group)
    return [{name: _plain(name, row.get(name)) for name in COLUMNS} for row in rows]


def _plain(name, value):
    """A value as a str, int, float of six digits, or None."""
    if name in TEXTS:
        return str(value if value is not None else "")
    return None if not _known(value) else int(value) if name in COUNTS else float(f"{value:.6g}")


def _unusable(row):
    if not row.get("nstars"):
        return "no stars found (cloud, closed dome, or far out of focus)"
    if not row.get("_solved", True):
        return "no astrometric solution"
    return "" if _known(row.get("fwhm_px")) else "no width of the stars could be measured"


def _transparency(group):
    """transparency of each row: from FLXSCALE where all have it, else from common stars, else from the brightest."""
    if not group:
        return
    if all(_known(r.get("_rate")) for r in group):
        rates = [r["_rate"] for r in group]
    else:
        most = max(group, key=lambda r: len(_fluxes(r)))
        rates = [_ratio(r, most) for r in group]
    known = sorted(v for v in rates if _known(v))
    best = known[-1 - len(known) // 10] if known else 1.0
    for row, rate in zip(group, rates):
        row["transparency"] = rate / best if _known(rate) else None


def _ratio(row, other):
    """Flux of the stars of `row` over that of the same stars in `other`: by id, else by rank of brightness."""
    a, b = _fluxes(row), _fluxes(other)
    if row.get("_id") is not None and other.get("_id") is not None:
        i, j = np.intersect1d(np.where(row["_id"] >= 0, row["_id"], -1), np.where(other["_id"] >= 0, other["_id"], -2),
                              return_indices=True)[1:]
        if len(i) >= 3:
            return float(np.median(a[i] / b[j]))
    n = min(len(a), len(b), 20)
    return float(np.median(np.sort(a)[::-1][:n] / np.sort(b)[::-1][:n])) if n >= 3 else None


def _judge(group, limits, night):
    """Reasons for the frames of one target and filter, in order: those already out are nobody's standard."""
    for rule in (_absolute, _clouded, _blurred, _trailed, _misplaced, _useless):
        good = [r for r in group if not r["_reason"]]
        for row, reason in rule(good, limits, night):
            row["_reason"] = row["_reason"] or reason


def _absolute(group, limits, night):
    for r in group:
        width = r["fwhm_arcsec"] if _known(r.get("fwhm_arcsec")) else r["fwhm_px"]
        if limits["max_fwhm"] and width > limits["max_fwhm"]:
            yield r, f"FWHM {width:.2f}, over the limit of {limits['max_fwhm']:g}"
        if limits["max_sky"] and _known(r.get("sky")) and r["sky"] / (r.get("exptime") or 1) > limits["max_sky"]:
            yield r, f"sky {r['sky'] / (r.get('exptime') or 1):.3g} adu/s, over the limit of {limits['max_sky']:g}"
        if limits["min_stars"] and r["nstars"] < limits["min_stars"]:
            yield r, f"{r['nstars']} stars, under the limit of {limits['min_stars']:g}"
        if limits["max_rms"] and _known(r.get("wcs_rms_arcsec")) and r["wcs_rms_arcsec"] > limits["max_rms"]:
            yield r, f"astrometric rms {r['wcs_rms_arcsec']:.2f} arcsec, over the limit of {limits['max_rms']:g}"
        if _known(r.get("satfrac")) and r["satfrac"] > 0.2:
            yield r, f"{100 * r['satfrac']:.0f} % of the pixels are saturated"


def _clouded(group, limits, night):
    """Stars fainter than in the best frame: below the limit, or by 20 % and six times the scatter of the others."""
    known = [r for r in group if _known(r.get("transparency"))]
    clear = [r["transparency"] * 10 ** (0.4 * EXTINCTION * (_airmass(r) - min(map(_airmass, known)))) for r in known]
    best = sorted(clear)[-1 - len(clear) // 10] if clear else 1.0  # one frame too good to be true is nobody's standard
    clear = [v / max(best, 1.0) for v in clear]
    typical, scatter = _typical(clear, 0.02)
    for r, value in zip(known, clear):
        if value < limits["min_transparency"] or len(known) > 2 and value < min(0.8, typical - 6 * scatter):
            yield r, f"clouded: stars at {100 * r['transparency']:.0f} % of their flux in the best frame"
    typical = np.median([r["nstars"] for r in group]) if group else 0
    for r in group:
        if r not in known and len(group) > 1 and r["nstars"] < 0.3 * typical:
            yield r, f"few stars: {r['nstars']} where {typical:.0f} are usual"


def _blurred(group, limits, night):
    """Stars half as wide again as in the better half, or 40 % and six times the scatter; alone, against the night."""
    low = _low([_width(r) for r in group])
    typical, scatter = _typical([_width(r) for r in group], 0.04 * low)
    for r in group:
        width = _width(r)
        if width > 1.5 * low or (len(group) > 2 and width > 1.4 * low and width > typical + 6 * scatter):
            yield r, f"out of focus or bad seeing: FWHM {width / low:.1f} times that of the better frames"
        elif len(group) < 3 and width > 1.8 * night:
            yield r, f"out of focus: FWHM {width / night:.1f} times that of the night's better frames"


def _trailed(group, limits, night):
    """Stars longer than the limit, or clearly longer than in the better half."""
    known = [r for r in group if _known(r.get("ellipticity")) and r.get("_shaped", 3) >= 3]
    low = _low([r["ellipticity"] for r in known])
    for r in known:
        if r["ellipticity"] > limits["max_ellipticity"] or (len(known) > 1 and r["ellipticity"] > max(0.3, low + 0.15)):
            yield r, f"trailed: ellipticity {r['ellipticity']:.2f}"


def _misplaced(group, limits, night):
    """A solution that fits far worse than the others', and badly."""
    known = [r for r in group if _known(r.get("wcs_rms_arcsec"))]
    typical = np.median([r["wcs_rms_arcsec"] for r in known]) if known else 0
    for r in known:
        pixels = r["_pixels"] if _known(r.get("_pixels")) else 0
        if pixels > 1.5 or (len(known) > 2 and r["wcs_rms_arcsec"] > 5 * typical and pixels > 0.3 * r["fwhm_px"]):
            yield r, f"bad astrometric solution: rms {r['wcs_rms_arcsec']:.2f} arcsec"


def _useless(group, limits, night):
    """So much noise that the frame would add next to nothing."""
    merits = [_merit(r) for r in group]
    best = max((m for m in merits if m), default=0)
    for r, merit in zip(group, merits):
        if merit and merit < 0.03 * best and len(group) > 1:
            yield r, f"adds nothing: {100 * merit / best:.0f} % of the best frame's weight (bright sky, haze, exposure)"


def _by_hand(row, keep, drop):
    names = {str(n) for n in (row.get("name"), row.get("_raw")) if n}
    if any(fnmatch.fnmatchcase(n, str(p)) for n in names for p in drop):
        row["_reason"] = "dropped by hand"
    elif row["_reason"] and row.get("_solved") and any(fnmatch.fnmatchcase(n, str(p)) for n in names for p in keep):
        row["_reason"], row["reason"] = "", f"kept by hand ({row['_reason']})"


def _weigh(group):
    best = max((_merit(r) or 0 for r in group if not r["_reason"]), default=0)
    for row in group:
        row["verdict"] = "reject" if row["_reason"] else "accept"
        row["reason"] = row["_reason"] or row.get("reason") or ""
        row["weight"] = 0.0 if row["_reason"] else (_merit(row) or best) / best if best else 1.0


def _merit(row):
    """Squared signal-to-noise of a faint star, up to a factor common to the group; None when unknown."""
    if not (_known(row.get("noise")) and row["noise"] > 0 and _known(row.get("fwhm_px"))):
        return None
    signal = (row["transparency"] if _known(row.get("transparency")) else 1.0) * (row.get("exptime") or 1.0)
    return (signal / (row["noise"] * row["fwhm_px"])) ** 2


def _known(value):
    return value is not None and np.isfinite(value)


def _fluxes(row):
    return row["_flux"] if row.get("_flux") is not None else np.zeros(0)


def _airmass(row):
    return min(max(row["airmass"], 1.0), 5.0) if _known(row.get("airmass")) else 1.0


def _width(row):
    """FWHM at the zenith: seeing grows with airmass to the power of 0.6; in arcsec where the scale is known."""
    width = row["fwhm_arcsec"] if _known(row.get("fwhm_arcsec")) else row["fwhm_px"]
    return width / _airmass(row) ** 0.6


def _low(values):
    """Median of the better (lower) half; infinite without values."""
    return float(np.median(np.sort(values)[:(len(values) + 1) // 2])) if len(values) else np.inf


def _typical(values, least):
    """Median and robust scatter, at least `least`."""
    if not len(values):
        return np.nan, least
    middle = np.median(values)
    return middle, max(1.4826 * float(np.median(np.abs(np.asarray(values) - middle))), least)


def as_table(rows):
    """The rows of `judged` as a Table."""
    from astropy.table import MaskedColumn, Table
    table = Table()
    for name in COLUMNS:
        values = [row[name] for row in rows]
        if name in TEXTS:
            table[name] = np.array(values, dtype=str)
            continue
        values = [(0, True) if value is None else (value, False) for value in values]
        table[name] = MaskedColumn([value for value, _ in values], mask=[lost for _, lost in values],
                                   dtype=int if name in COUNTS else float, unit=UNITS.get(name))
    return table
