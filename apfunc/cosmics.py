"""Cosmic rays: found by their sharp edges (L.A.Cosmic, see `apfunc.lacosmic`) and replaced."""

import numpy as np

from apfunc.fixpix import estimate
from apfunc.header import COSMIC, NODATA, SATURATED, history, number
from apfunc.header import gain as header_gain
from apfunc.header import readnoise as header_readnoise
from apfunc.lacosmic import detect, star_contrast


def cosmics(image, mask=None, sigma=4.5, sigfrac=0.3, contrast=None, iterations=4, gain=None, readnoise=None,
            fwhm=None, saturate=None):
    """Find cosmic rays (van Dokkum 2001, PASP 113, 1420) and replace them by an estimate from their neighbours.

    image     (data, header): 2-D float32 [adu], calibrated, with its sky left in; NaN is never flagged
    mask      2-D uint8 or None; it takes no part in the detection, the result is added to it
    sigma     significance S of a hit above the noise sqrt(local level + readnoise^2), in electrons
    sigfrac   neighbours of a hit are hits when above sigfrac * sigma
    contrast  a hit's significance over the fine structure of a smooth star in its place, at least; without it
              what stars of `fwhm` [pixel] ask for, and without that, what those of the frame do (1.5 to 5)
    gain, readnoise, saturate   [electron/adu], [electron], [adu]: win over the header

    Returns (image, mask): the image with the hits replaced (NaN where their neighbours are too few), all else
    as it was, and a uint8 mask with COSMIC on the hits, SATURATED where the result is at or above the
    saturation level, NODATA where it is NaN.  Saturated stars with their surroundings are spared; so are
    the neighbours of pixels that are far too low (over-subtracted hot ones).

    Reads EGAIN or GAIN, RDNOISE, SATURATE.  Writes NCOSMIC (pixels) and a HISTORY line.
    Raises ValueError when gain or read noise are unknown.

    >>> clean, mask = cosmics(image, gain=1.4, readnoise=8)                             # doctest: +SKIP
    """
    data, header = np.asarray(image[0], "f4"), image[1].copy()
    gain, readnoise = header_gain(header, gain), header_readnoise(header, readnoise)
    if not gain > 0 or not readnoise >= 0:
        raise ValueError(f"gain {gain} and read noise {readnoise} make no noise model; give --gain and --readnoise")
    saturate = number(header, "SATURATE") if saturate is None else float(saturate)
    contrast = star_contrast(fwhm) if contrast is None and fwhm else contrast
    at, contrast = detect(data, float(gain), float(readnoise), saturate, sigma, sigfrac, contrast, iterations)
    out = data.copy()
    if at.size:
        wrong = ~np.isfinite(data)
        wrong.ravel()[at] = True
        out.ravel()[at] = estimate(data, at, wrong, fwhm)
    flags = np.zeros(data.shape, "u1") if mask is None else np.array(mask, "u1")
    flags.ravel()[at] |= COSMIC
    flags[np.isnan(out)] |= NODATA
    if saturate is not None:
        flags[out >= saturate] |= SATURATED
        header["SATURATE"] = saturate
    header["NCOSMIC"] = (at.size, "pixels hit by cosmic rays, replaced")
    history(header, "cosmics", sigma=float(sigma), sigfrac=None if sigfrac == 0.3 else float(sigfrac),
            contrast=float(contrast), iterations=None if iterations == 4 else iterations,
            gain=float(gain), readnoise=float(readnoise))
    return (out, header), flags
