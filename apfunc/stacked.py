"""The flux scale of a stack's frames, and its header."""

from datetime import datetime, timedelta

import numpy as np

from apfunc import header as hdr

SCALES = ("auto", "header", "stars", "exposure", "none")
AGREE = 0.05  # largest difference between FLXSCALE and the measured factors, beyond which FLXSCALE is not believed
OWN = frozenset((  # cards that describe one frame only
    "FLXSCALE FLXSCERR FLXEXPT SKY SKYNOISE BKGMETH BKGBOX BKGORDER NCOSMIC EXPOSURE TIME-OBS UT JD "
    "LST OBJCTALT OBJCTAZ OBJCTHA PARANG PIERSIDE DATE-END DATE-AVG WCSRMS WCSRMSPX WCSNMATC").split())
MJD0 = datetime(1858, 11, 17)


def gains(headers):
    """EGAIN or GAIN of each header [electron/adu]; NaN where unknown."""
    found = []
    for header in headers:
        try:
            found.append(hdr.gain(header))
        except ValueError:
            found.append(np.nan)
    return np.array(found)


def scale(headers, measured, error, choice="auto"):
    """Factors that bring frames to the flux of the most transparent one at the reference exposure.

    measured, error: factors by the common stars, to any one scale, NaN where unknown.  Returns (factors, source,
    reference exposure [s] or None).  The reference is FLXEXPT of the headers when their FLXSCALE is used, else the
    median exposure.  Frames without common stars get the median factor for their exposure.
    """
    exposure = np.array([hdr.number(h, "EXPTIME", "EXPOSURE") or np.nan for h in headers])
    header = np.array([hdr.number(h, "FLXSCALE") or np.nan for h in headers])
    timed, known = np.isfinite(exposure).all() and (exposure > 0).all(), np.isfinite(measured)
    reference = float(np.median(exposure)) if timed else None
    exposure = exposure if timed else np.ones(len(headers))
    if choice == "none":
        return np.ones(len(headers)), "none", reference
    if choice in ("auto", "header") and (header > 0).all():
        ratio = measured[known] / header[known]
        agree = not len(ratio) or (np.abs(ratio / np.median(ratio) - 1) < AGREE + 3 * error[known]).all()
        if agree or choice == "header":
            return header, "header", hdr.number(headers[0], "FLXEXPT") or reference
    if choice == "header":
        raise ValueError("not all frames have FLXSCALE; run apfunc astrometry, or choose another scale")
    source = "exposure" if choice == "exposure" or not known.any() else "stars"
    rate = measured * exposure if source == "stars" else np.ones(len(headers))
    rate = np.where(np.isfinite(rate), rate, np.nanmedian(rate))
    return rate / rate.min() / exposure * (reference or 1), source, reference


def header(headers, facts, method):
    """The header of a stack: the cards that all its frames share, and

    NCOMBINE; EXPTIME [s] (sum of the exposures); EXPEFF [s] (as long as the best frame would need for the stack's
    noise); EXPREF [s] (the pixels are adu of this exposure); DATE-OBS, MJD-OBS, MJD-MID, BJD-MID, AIRMASS (weighted
    means); EGAIN and RDNOISE (noise^2 = (data + SKYLEVEL) / EGAIN + (RDNOISE / EGAIN)^2, to a few per cent where
    frames differ much); FWHM [pixel] (measured, else the mean); MAGZP; SKYLEVEL [adu] (removed, weighted mean);
    SATURATE; SCALSRC; REJECT; REJFRAC; INPnnn = "RAWFILE weight" (weights add up to 1).  What is unknown is left out.
    """
    weight = facts["weight"] if facts["weight"].sum() > 0 else np.ones(len(headers))
    weight = weight / weight.sum()
    out = shared(headers)
    mean = lambda *keys: _mean([hdr.number(h, *keys) for h in headers], weight)

    def put(key, value, comment, digits=7):
        if value is not None and np.isfinite(value):
            out[key] = (float(f"{value:.{digits}g}"), comment)

    exposure = [hdr.number(h, "EXPTIME", "EXPOSURE") for h in headers]
    out["NCOMBINE"] = (len(headers), "frames in this stack")
    if None not in exposure:
        put("EXPTIME", sum(exposure), "[s] sum of the exposures")
        if min(exposure) > 0:
            put("EXPEFF", weight.sum() / (weight / exposure).max(), "[s] of the best frame's quality, for this noise")
    put("EXPREF", facts["reference"], "[s] the pixels are adu of this exposure")
    _dates(out, headers, weight, exposure)
    put("AIRMASS", mean("AIRMASS"), "mean", 6)
    _noise(put, headers, facts, weight)
    put("FWHM", facts["fwhm"] if np.isfinite(facts["fwhm"]) else mean("FWHM"), "[pixel] of the stack's stars", 5)
    zero = [hdr.number(h, "MAGZP") for h in headers]
    if None not in zero:
        put("MAGZP", np.median(np.array(zero) + 2.5 * np.log10(facts["scale"])), "magnitude of 1 adu of this stack")
    put("SKYLEVEL", float((weight * facts["level"]).sum()), "[adu] sky level removed")
    put("SATURATE", facts["saturate"], "[adu] lower limit at and above this")
    out["SCALSRC"] = (facts["source"], "what the frames' flux scale rests on")
    out["REJECT"] = (method, "rejection")
    out["REJFRAC"] = (round(float(np.mean(facts["rejected"])), 7), "share of the pixels rejected")
    for k, (h, w) in enumerate(zip(headers, weight), 1):
        out[f"INP{k:03d}"] = f"{hdr.text(h, 'RAWFILE') or k} {w:.5f}"
    out.remove("RAWFILE", ignore_missing=True)
    hdr.history(out, "coadd", n=len(headers), reject=method, scale=facts["source"])
    return out


def shared(headers):
    """The cards that are the same in all headers, without those that describe one frame only."""
    from astropy.io.fits import Header

    out = Header()
    for card in headers[0].cards:
        key = card.keyword
        if key in OWN or key.startswith("TRAIL"):
            continue
        if key in ("HISTORY", "COMMENT", ""):
            if all(str(card.value) in map(str, h.get(key, [])) for h in headers[1:]):
                out.append(tuple(card), end=True)
        elif all(h.get(key) == card.value for h in headers[1:]):
            out.append(tuple(card), end=True)
    return out


def _mean(values, weight):
    """Weighted mean of what is known; None when nothing is."""
    values = np.array([np.nan if v is None else v for v in values], float)
    known = np.isfinite(values) & (weight > 0)
    return float((values * weight)[known].sum() / weight[known].sum()) if known.any() else None


def _dates(out, headers, weight, exposure):
    """Mean epochs (in place): DATE-OBS and MJD-OBS (starts), MJD-MID (or from the starts and exposures), BJD-MID."""
    starts = [hdr.date_obs(h) for h in headers]
    days = [None if s is None else (s - MJD0) / timedelta(days=1) for s in starts]
    middles = [hdr.number(h, "MJD-MID") for h in headers]
    if None in middles and None not in days and None not in exposure:
        middles = [d + e / 172800 for d, e in zip(days, exposure)]
    if None not in days:
        mean = MJD0 + timedelta(days=_mean(days, weight))
        out["DATE-OBS"] = (mean.isoformat(timespec="milliseconds"), "UT, mean start of the exposures")
        out["MJD-OBS"] = (round(_mean(days, weight), 8), "[d] mean start of the exposures")
    for key, values in (("MJD-MID", middles), ("BJD-MID", [hdr.number(h, "BJD-MID") for h in headers])):
        out.remove(key, ignore_missing=True)
        if None not in values:
            out[key] = (round(_mean(values, weight), 8), "[d] mean of the frames")


def _noise(put, headers, facts, weight):
    """EGAIN and RDNOISE of the weighted mean of scaled frames."""
    gain, noise = gains(headers), np.array([hdr.number(h, "RDNOISE", "READNOIS", "RON") or np.nan for h in headers])
    photon = float((weight**2 * facts["scale"] / gain).sum())
    put("EGAIN", 1 / photon, "[electron/adu] of the stack")
    put("RDNOISE", np.sqrt(((weight * facts["scale"] * noise / gain) ** 2).sum()) / photon, "[electron] of the stack")
