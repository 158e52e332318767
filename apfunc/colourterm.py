"""The colour term of a continuum: two broad bands mixed into one that has the stars' light at the line.

    narrow / broad of a star = s (1 + k c),   c = (other / broad) / (that of the median star) - 1
    mixed = (1 - k) broad + k other / (other / broad of the median star)

so that narrow = s mixed for stars, galaxies and dust of any colour, pixel by pixel.  It is used only where it clearly
helps: k is five times its error and the ratios of the stars scatter a fifth less.
"""

import numpy as np

from apfunc import psfmatch, starflux
from apfunc.continuum import APERTURE, matched, measured, places, same_grid, sky_free
from apfunc.header import history, number, text

SURE = 5.0  # errors that k must differ from none
GAIN = 0.8  # share of the scatter of the ratios that may be left
FEWEST = 12  # stars for a slope


def colourterm(line, cont, other):
    """The image (data, header) to subtract from `line` in place of `cont`: mixed with `other`, or `cont` as it is.

    line, cont, other  images (data, header) of the narrow and of two broad bands on one grid [adu]; NaN = no value.

    Where it is used, the sky is gone and the sharper of the two broad bands has the other's PSF; saturated pixels of
    either are NaN, and SATURATE is dropped.  Header, used or not, as far as measured: CONTCOLK and CONTCOLE (k and its
    error), CONTCOLS (the scatter left of the ratios, 1 = no gain), CONTCOLU (used or not), CONTCOLF (the filter of
    `other`).  Raises ValueError when the grids differ.
    """
    for image in (cont, other):
        same_grid(line, image)
    header = cont[1].copy()
    data, _, noises = zip(*map(sky_free, (line, cont, other)))
    gains = [number(image[1], "EGAIN") for image in (line, cont, other)]
    x, y = places(data[1], noises[1])
    shapes = [psfmatch.profile(d, x[:100], y[:100], n, g) for d, n, g in zip(data[1:], noises[1:], gains[1:])]
    if any(p is None for p, _ in shapes):
        return cont
    widths = [psfmatch.fwhm(p) for p, _ in shapes]
    light = measured(data, x, y, float(np.clip(APERTURE * max(widths), 2.5, 15)), gains)
    k, error, left, typical = _slope(*light)
    if not np.isfinite(k):
        return cont
    used = bool(abs(k) > SURE * error and left < GAIN)
    header["CONTCOLK"] = (round(float(k), 5), "colour term of the continuum")
    header["CONTCOLE"] = (round(float(error), 5), "its error")
    header["CONTCOLS"] = (round(float(left), 4), "scatter of the stars' ratios with it, of that without")
    header["CONTCOLU"] = (used, "is it used")
    header["CONTCOLF"] = (text(other[1], "FILTER") or "", "filter of the second broad band")
    if not used:
        return cont[0], header
    one, two, _ = matched(*data[1:], x, y, light[:, 1:], psfmatch.alike(shapes), widths, noises[1:], gains[1:])
    header.remove("SATURATE", ignore_missing=True)
    history(header, "colourterm", k=float(k), other=text(other[1], "FILTER") or "")
    return np.float32(1 - k) * one + np.float32(k / typical) * two, header


def _slope(flux, error, half):
    """(k, its error, scatter with it of that without, other / broad of the median star) from the stars; NaN without."""
    good = starflux.good_stars(flux, error, half, (8, 15, 15))
    if good.sum() < FEWEST:
        return (np.nan,) * 4
    (fl, fc, fo), (el, ec, _) = flux[:, good].astype("f8"), error[:, good].astype("f8")
    typical = np.median(fo / fc)
    c, ratio = fo / fc / typical - 1, fl / fc / np.median(fl / fc) - 1
    noise = np.hypot(np.hypot(el / fl, ec / fc) * (1 + ratio), 0.01)
    kept = np.ones(len(c), bool)
    for _ in range(10):  # emission-line stars and knots are left out
        design = np.stack([np.ones(len(c)), c], 1)
        found = np.linalg.lstsq(design[kept] / noise[kept, None], ratio[kept] / noise[kept], rcond=None)[0]
        rest = (ratio - design @ found) / noise
        before, kept = kept, np.abs(rest) < 4 * max(1.0, 1.4826 * np.median(np.abs(rest[kept])))
        if (before == kept).all():
            break
    normal = np.linalg.inv((design[kept] / noise[kept, None]).T @ (design[kept] / noise[kept, None]))
    error = np.sqrt(normal[1, 1]) * max(1.0, np.sqrt(np.mean(rest[kept]**2)))
    scatter = [np.median(np.abs(r - np.median(r))) for r in (rest[kept], (ratio / noise)[kept])]
    return found[1] / (1 + found[0]), error / (1 + found[0]), scatter[0] / max(scatter[1], 1e-9), typical
