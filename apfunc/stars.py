"""Find the stars of a frame and measure them all at once: place, flux, width, shape, and what is wrong with them.

    sky off -> width of the brightest -> matched filter -> peaks -> fit with the frame's own PSF -> what is no star goes

Each star is fitted on the frame without its neighbours (Stetson 1987, PASP 99, 191, all stars in one batch) with a PSF
that may change over the field.  Its flux is linear in the pixels (all of the same weight), so that a wrong PSF changes
the scale of all fluxes alike; that scale is then set by the bright stars' light within four FWHM.
"""

import numpy as np

from apfunc import detect, psf, starfit, trails
from apfunc import header as hdr
from apfunc.psf import SLOPE, A, X, Y

# The bits of a star's flags.
FULL, EDGE, BLEND, DEFECT, SHAPE = 1, 2, 4, 8, 16
FLAG_BITS = {"SATURATED": FULL, "EDGE": EDGE, "BLENDED": BLEND, "DEFECT": DEFECT, "SHAPE": SHAPE}

COPIED = ("OBJECT", "FILTER", "EXPTIME", "AIRMASS", "MJD-MID", "MJD-OBS", "DATE-OBS", "RAWFILE", "OBJCTRA", "OBJCTDEC",
          "RA", "DEC", "XPIXSZ", "YPIXSZ", "FOCALLEN", "XBINNING", "YBINNING", "SITELAT", "SITELONG", "EQUINOX",
          "RADESYS", "CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2",
          "CDELT1", "CDELT2", "CROTA1", "CROTA2", "PC1_1", "PC1_2", "PC2_1", "PC2_2")
COLUMNS = {"x": "pixel", "y": "pixel", "flux": "adu", "fluxerr": "adu", "fwhm": "pixel", "ellipticity": "", "theta": "deg",
           "peak": "adu", "snr": "", "flags": "", "sky": "adu"}
MANY = 30000  # candidates kept, brightest first: bounds the time spent on a frame that shows no sky


def stars(image, mask=None, sigma=5.0, gain=None, readnoise=None, fwhm=None, saturate=None, box=64, trail=True):
    """Table of the stars of `image`, brightest first; an empty one, with its meta, when there are none.

    image   (data, header), data in adu.  NaN and pixels with a non-zero `mask` (bits of apfunc.header) say nothing about
            a star: they are bridged for the search and left out of the fit.  So are saturated ones, but they make a star.
    sigma   least significance of a star's flux against the noise of the sky.
    gain    [electron/adu], else EGAIN or GAIN of the header; without it the errors hold the noise of the sky alone.
    fwhm    [pixel] of the stars, for the search, else measured.  saturate: [adu], else SATURATE.  readnoise: [electron],
            noted only (the noise of the sky is measured).  trail=False: no search for satellite trails.

    Columns: x, y (0-based), flux, fluxerr (total, to infinity) [adu], fwhm [pixel] (geometric mean of the axes: the
    major one is fwhm / sqrt(1 - ellipticity)), ellipticity (1 - minor/major), theta [deg, from +x towards +y], peak
    (highest pixel above the sky) [adu], snr (flux/fluxerr), flags (FLAG_BITS), sky [adu].
    meta: FWHM, ELLIP, THETA, BETA (Moffat), NSTARS, SKY, SKYNOISE, SATFRAC, EGAIN, RDNOISE, NAXIS1, NAXIS2, APCOR (by
    which the PSF's fluxes were multiplied), GRIDFWHM and GRIDELL (medians over 3x3 fields, rows upwards, "nan" where
    there are no stars), TRAIL (how many) and TRAIL1… (apfunc.trails), and the header's keywords of COPIED.  What is not
    known is absent.
    """
    data, header = np.asarray(image[0], "f4"), image[1]
    gain, readnoise = _known(hdr.gain, header, gain), _known(hdr.readnoise, header, readnoise)
    saturate = saturate if saturate is not None else hdr.number(header, "SATURATE")
    bad = ~np.isfinite(data)
    full = data >= saturate if saturate is not None else np.zeros(data.shape, bool)
    if mask is not None:
        full |= (mask & hdr.SATURATED) != 0
        bad |= (mask & (255 - hdr.SATURATED)) != 0
    meta = {k: header[k] for k in COPIED if header.get(k) not in (None, "") and header[k] == header[k]}
    meta |= {"NAXIS1": data.shape[1], "NAXIS2": data.shape[0], "SATFRAC": round(float(full.mean()), 8), "TRAIL": 0}
    meta |= {k: float(v) for k, v in (("EGAIN", gain), ("RDNOISE", readnoise)) if v is not None}
    if bad.mean() > 0.98 or min(data.shape) < 8:
        return _table(np.zeros((0, 8)), {}, meta)
    flat, sky = detect.flatten(data, bad, box)
    meta |= {"SKY": round(float(np.median(sky[2])), 4), "SKYNOISE": round(float(np.median(sky[3])), 4)}
    if not meta["SKYNOISE"] > 0:
        return _table(np.zeros((0, 8)), {}, meta)
    found = trails.find(flat, meta["SKYNOISE"]) if trail else []
    meta |= trails.keywords(found)
    width = fwhm or detect.seeing(flat, full, meta["SKYNOISE"]) or 3.0
    for _ in range(2):
        p, columns, about = _binned(flat, data, bad, full, sky, box, width, sigma, gain, found)
        if fwhm or not len(p) or abs(np.log(about.get("FWHM", width) / width)) < 0.25:
            break
        width = about["FWHM"]  # the brightest were no stars: once more with what was found
    return _table(p, columns, meta | about)


def region(table):
    """The stars of a table as the text of a ds9 region file: an ellipse of twice the FWHM each, red when flagged."""
    lines = ["# Region file format: DS9", "global color=green", "image"]
    for s in table:
        major, minor = s["fwhm"] / (1 - s["ellipticity"]) ** 0.5, s["fwhm"] * (1 - s["ellipticity"]) ** 0.5
        lines.append(f"ellipse({s['x'] + 1:.2f},{s['y'] + 1:.2f},{2 * major:.2f},{2 * minor:.2f},{s['theta']:.1f})"
                     + (" # color=red" if s["flags"] else ""))
    return "\n".join(lines) + "\n"


def _binned(flat, data, bad, full, sky, box, width, sigma, gain, found):
    """`_measure` on a frame binned so that the stars are 4 to 8 pixels wide, in pixels of the whole frame."""
    scale = max(1, int(width // 4))
    if scale > 1:
        flat, sky = detect.flatten(data, bad, box * scale)
        bad, full, flat = (detect.shrink(plane, scale) for plane in (bad, full, flat))
        bad, full, rows, columns = bad > 0.5, full > 0, *(np.arange(n) * scale + scale // 2 for n in flat.shape)
        sky = sky[0][rows], sky[1][columns], sky[2], sky[3] / scale
    lines = [tuple((v + 0.5) / scale - 0.5 for v in line[:4]) + (line[4] / scale,) for line in found]
    along = trails.cover(flat.shape, lines) if found else None
    p, columns, about = _measure(flat, bad, full, sky, along, width / scale, sigma, gain and gain * scale**2)
    p[:, [X, Y]] = (p[:, [X, Y]] + 0.5) * scale - 0.5
    for what, power in (("flux", 2), ("fluxerr", 2), ("fwhm", 1)):
        columns[what] = columns[what] * scale**power
    if "FWHM" in about:
        about["FWHM"] *= scale
    return p, columns, about


def _measure(flat, bad, full, sky, along, width, sigma, gain):
    """The stars of the sky-free frame `flat`, FWHM about `width`: parameters (n, 8), columns and meta."""
    y, x, excess = detect.peaks(flat, sky, width, 0.8 * sigma)
    y, x = _one_each(full, y[:MANY], x[:MANY], width)
    if along is not None:
        y, x, bad = y[~along[y, x]], x[~along[y, x]], bad | along
    noise = excess * detect.at_pixels(sky[0], sky[3], sky[1], y, x).astype("f8")
    p = np.repeat(psf.star(width), len(y), 0)
    p[:, [A, X, Y]] = np.stack([np.maximum(flat[y, x], noise), x, y], 1)
    flat[bad | full] = np.nan
    offsets = psf.disc(max(2.5 * width, 3))
    at, pixels = (y, x, offsets), detect.stamps(flat, y, x, offsets)
    p = psf.fit(pixels, *at, p, noise, free=psf.POINT, passes=3, near=0.1)[0]
    more = starfit.others(starfit.light(flat.shape, *at, p, noise), *at, p)
    best = _clean(pixels, more, p, noise, offsets, width)
    free, errors, _ = psf.fit(pixels[best], y[best], x[best], offsets, p[best], noise[best], gain, free=psf.ALL)
    model = starfit.field(free, errors, flat.shape, width)
    p = starfit.shaped(p, model, flat.shape) if model else p
    p = psf.fit(pixels - more, *at, p, noise, gain, more, psf.POINT, 6)[0]
    near = np.flatnonzero((more > 1e-3 * noise[:, None]).any(1) | (p[:, A] > 100 * noise))  # they touch each other
    part = y[near], x[near], offsets
    for _ in range(2 if len(near) < 0.3 * len(p) else 4):
        frame = starfit.light(flat.shape, *part, p[near], noise[near])
        more[near] = starfit.others(frame, *part, p[near])
        p[near] = psf.fit(pixels[near] - more[near], *part, p[near], noise[near], gain, more[near], psf.POINT, 4)[0]
    columns, keep = _judged(pixels - more, more, p, *at, noise, gain, sigma, width, bad, full)
    p, y, x = p[keep], y[keep], x[keep]
    columns["sky"] += detect.at_pixels(sky[0], sky[2], sky[1], y, x)
    clean = np.flatnonzero((columns["flags"] == 0) & (columns["snr"] > 20))[:200]
    about, bright = {}, clean[np.isin(keep[clean], near)]
    if len(bright):
        about["APCOR"] = round(starfit.aperture(flat, frame, y[bright], x[bright], p[bright], width), 5)
        columns["flux"], columns["fluxerr"] = columns["flux"] * about["APCOR"], columns["fluxerr"] * about["APCOR"]
    return p, columns, about | _psf(p, columns, clean)


def _one_each(full, y, x, width):
    """The peaks, those in and beside saturated pixels replaced by one for each group of such pixels."""
    if not full.any():
        return y, x
    apart = ~(detect.stamps(full, y, x, psf.disc(0.7 * width)) > 0).any(1)
    cy, cx, _ = detect.saturated(full)
    return (np.concatenate([np.rint(c).astype(int), v[apart]]) for c, v in ((cy, y), (cx, x)))


def _clean(pixels, more, p, noise, offsets, width):
    """The brightest stars, up to 200, that nothing disturbs: all their pixels good, hardly any light of others."""
    near = np.hypot(*offsets) <= 1.5 * width
    whole = np.isfinite(pixels[:, near]).all(1) & (more[:, near].sum(1) < 0.05 * pixels[:, near].sum(1))
    good = np.flatnonzero(whole & (p[:, A] > 5 * noise))
    best = good[np.argsort(-p[good, A], kind="stable")[:200]]
    bright = p[best, A] > 25 * noise[best]
    return best[bright] if bright.sum() > 5 else best[:10]


def _judged(own, more, p, y, x, offsets, noise, gain, sigma, width, bad, full):
    """Columns of the stars that are stars, and which they are, brightest first."""
    at = y, x, offsets
    flux, error, sure, height, local = starfit.fluxes(p, own, more, *at, noise, gain)
    free, _, least2 = psf.fit(own, *at, p, noise, gain, more, psf.SHAPE, 8, 0.03)
    point2 = psf.fit(own, *at, p, noise, gain, more, psf.POINT, 0)[2]
    fwhm, ellipticity, theta = psf.shape(free)
    point, flatness, _ = psf.shape(p)
    gained = point2 - least2  # of chi2, by a shape of its own
    minor, major = fwhm * np.sqrt(1 - ellipticity), fwhm / np.sqrt(1 - ellipticity)
    least, most = point * np.sqrt(1 - flatness), point / np.sqrt(1 - flatness)
    distance = np.hypot(*offsets)
    core = distance <= 1.5 * width
    burnt, broken = (detect.stamps(plane, *at) for plane in (full, bad))
    edge, burnt = np.isnan(burnt[:, core]).any(1), (burnt[:, core] > 0).any(1)
    broken = (broken[:, distance <= 1.2 * width] > 0).any(1)
    model = psf.profiles(p, *at)
    share = (more * model).sum(1) / np.maximum((model**2).sum(1), 1e-12)
    strange = (gained > 25) & ((fwhm > 1.3 * point) | (major > 1.5 * most) | (minor < 0.75 * least))
    flags = FULL * burnt + EDGE * edge + BLEND * (share > 0.1) + DEFECT * broken + SHAPE * (strange & ~burnt)
    inside = (np.abs(p[:, X] / full.shape[1] - 0.5) <= 0.5) & (np.abs(p[:, Y] / full.shape[0] - 0.5) <= 0.5)
    sharp, wide = (gained > 16) & (minor < 0.65 * least) & ~burnt, (gained > 9) & (minor > 1.6 * point) & ~burnt
    keep = inside & (sure >= sigma) & (height > 0.15 * more[:, distance <= 0.5].mean(1)) & ~sharp & ~wide
    keep &= np.hypot(p[:, X] - x, p[:, Y] - y) < max(width, 2)
    order = np.argsort(-flux, kind="stable")
    keep = order[keep[order]]
    odd = ~np.isfinite(fwhm) | (fwhm > 4 * width) | (fwhm < 0.2)
    fwhm, ellipticity, theta = (np.where(odd, np.nan, v) for v in (fwhm, ellipticity, theta))
    peak = np.where(np.isfinite(own), own + more, -np.inf)[:, distance <= 1.5].max(1)
    columns = {"flux": flux, "fluxerr": error, "fwhm": fwhm, "ellipticity": ellipticity, "theta": theta, "peak": peak,
               "snr": flux / np.maximum(error, 1e-12), "flags": flags, "sky": local}
    return {name: values[keep] for name, values in columns.items()}, keep


def _psf(p, columns, clean):
    """FWHM, ELLIP, THETA and BETA of the frame from its clean stars, else from all."""
    good = clean if len(clean) else np.flatnonzero(np.isfinite(columns["fwhm"]))
    good = good[np.isfinite(columns["fwhm"][good])]
    if not len(good):
        return {}
    turn = 2j * np.radians(columns["theta"][good])
    mean = (columns["ellipticity"][good] * np.exp(turn)).mean()
    return {"FWHM": round(float(np.median(columns["fwhm"][good])), 4),
            "ELLIP": round(float(np.median(columns["ellipticity"][good])), 4),
            "THETA": round(float(np.degrees(np.angle(mean)) / 2), 2), "BETA": round(float(1 / p[good[0], SLOPE]), 3)}


def _grid(columns, p, shape):
    """Medians of fwhm and ellipticity over 3x3 parts of the frame, as two lines of nine numbers."""
    use = np.flatnonzero((columns["flags"] == 0) & (columns["snr"] > 20))
    cell = (np.minimum(3 * p[use, Y] / shape[0], 2).astype(int) * 3 + np.minimum(3 * p[use, X] / shape[1], 2).astype(int))
    said = []
    for name in ("fwhm", "ellipticity"):
        parts = [columns[name][use[cell == i]] for i in range(9)]
        said.append(" ".join(f"{np.median(v):.3g}" if len(v) else "nan" for v in parts))
    return said


def _table(p, columns, meta):
    from astropy.table import Table
    table = Table()
    place = {"x": p[:, X], "y": p[:, Y]}
    for name, unit in COLUMNS.items():
        values = place.get(name, columns.get(name, np.zeros(0)))
        table[name] = values.astype("i2" if name == "flags" else "f8" if name in "xy" else "f4")
        if unit:
            table[name].unit = unit
    meta = meta | {"NSTARS": len(table)}
    if len(table):
        meta["GRIDFWHM"], meta["GRIDELL"] = _grid(columns, p, (meta["NAXIS2"], meta["NAXIS1"]))
    table.meta.update(meta)
    return table


def _known(read, header, option):
    try:
        return read(header, option)
    except ValueError:
        return None
