"""Stars on a frame without their neighbours: their pixels, the PSF over the field, their fluxes.

A set of stars is an (n, 8) array of `apfunc.psf` parameters; (y, x) are the pixels about which their stamps of
`offsets` (dy, dx) are cut.
"""

import numpy as np

from apfunc import detect, psf
from apfunc.psf import SLOPE, XX, XY, YY, A, X, Y

FAINT, REACH = (5.0, 100.0), (2.0, 2.5, 5.0)  # stars up to this height [noise] are followed to that radius [FWHM]
CHANGED = 0.05  # [noise of a pixel] a change of the neighbours' light after which a star is fitted again
PRIOR = 0.25, 0.08  # 1/beta of the atmosphere's images and how much it differs, used when no star is bright enough


def paint(light, y, x, p, noise, width, before=None, sizes=None):
    """Add the models of the stars, without sky, to the frame `light`, in place; faint ones on fewer pixels.

    before: what the same stars added earlier, and comes off; sizes: what this function gave then (so that the same
    pixels are meant).
    """
    sizes = np.digitize(p[:, A] / noise, FAINT) if sizes is None else sizes
    wide = psf.disc(max(REACH[-1] * width, 6))
    for size, reach in enumerate(REACH):
        rows, at = np.flatnonzero(sizes == size), tuple(v[np.hypot(*wide) <= max(reach * width, 3)] for v in wide)
        for k in (rows[part] for part in psf.parts(len(rows), at)):
            model = psf.profiles(p[k], y[k], x[k], at)
            model -= 0 if before is None else psf.profiles(before[k], y[k], x[k], at)
            detect.paint(light, model, y[k], x[k], at)
    return sizes


def refit(flat, light, y, x, offsets, before, start, noise, gain=None, **how):
    """`psf.fit` (its `how`) from `start` of the stars on `flat` less all other stars: parameters and chi2.

    light: what all stars add to the frame, each as `before` has it (None: nothing yet); NaN where pixels are left out.
    """
    values, others = np.empty((2, len(y), len(offsets[0])), "f4")
    for k in psf.parts(len(y), offsets):
        values[k], others[k] = detect.stamps((flat, light), y[k], x[k], offsets)
        if before is not None:
            others[k] -= psf.profiles(before[k], y[k], x[k], offsets)
        values[k] -= others[k]
    p, _, chi2 = psf.fit(values, y, x, offsets, start, noise, gain, others, sure=False, **how)
    return p, chi2


def settle(flat, light, y, x, offsets, p, noise, gain, sizes, width, moved, rounds=5):
    """The stars after rounds in which those are fitted again whose neighbours have changed; `light` follows.

    moved: which are fitted in any case.
    """
    some, p = tuple(v[::8] for v in offsets), p.copy()  # pixels that are looked at for changes
    seen = np.zeros((len(y), len(some[0])), "f4")  # what the others added there when a star was fitted last
    cell = int(max(REACH[-1] * width, 6) + np.abs(offsets).max()) + 2  # two cells apart, out of each other's reach
    row, column, near = y // cell + 1, x // cell + 1, np.arange(len(y))
    for _ in range(rounds):
        others = detect.stamps(light, y[near], x[near], some) - psf.profiles(p[near], y[near], x[near], some)
        changed = (np.abs(others - seen[near]) > CHANGED * noise[near, None]).any(1) | moved[near]
        k, others = near[changed], others[changed]
        if not len(k):
            break
        found, _ = refit(flat, light, y[k], x[k], offsets, p[k], p[k], noise[k], gain, passes=4, near=0.003)
        paint(light, y[k], x[k], found, noise[k], width, p[k], sizes[k])
        seen[k], p[k], moved = others, found, np.zeros(len(y), bool)
        touched = np.zeros((row.max() + 2, column.max() + 2), bool)
        for i, j in np.ndindex(3, 3):
            touched[row[k] + i - 1, column[k] + j - 1] = True
        near = np.flatnonzero(touched[row, column])
    return p


def field(p, errors, shape, width):
    """Coefficients of the PSF over the frame from free fits `p` (psf.ALL) of clean bright stars; None without stars.

    The matrix of squared half widths, the inverse of (a b; b c), is a polynomial of degree 2, 1 or 0 in x and y, as the
    number of stars allows; stars off by 3 sigma are left out.  1/beta is the weighted mean, with PRIOR.
    """
    fwhm = psf.shape(p)[0] if len(p) else np.zeros(0)
    ok = np.abs(np.log(np.maximum(fwhm, 1e-3) / width)) < 0.4
    if not ok.any():
        return None
    p, errors = p[ok], errors[ok]
    moments = p[:, [YY, XY, XX]] * [1, -1, 1] / (p[:, XX] * p[:, YY] - p[:, XY] ** 2)[:, None]
    good = np.ones(len(p), bool)
    for _ in range(6):
        size = 6 if good.sum() >= 40 else 3 if good.sum() >= 12 else 1
        terms = _terms(p, shape)[:, :size]
        centre = np.median(moments[good], 0)[None]
        if size > 1:
            centre = np.linalg.lstsq(terms[good], moments[good], rcond=None)[0]
        off = np.abs(moments - terms @ centre).max(1)
        keep = off <= 3 * 1.4826 * np.median(off[good]) + 1e-3 * width**2
        if (keep == good).all() or keep.sum() < 1:
            break
        good = keep
    weight = 1 / (errors[good, SLOPE] ** 2 + 0.02**2)
    slope = ((weight * p[good, SLOPE]).sum() + PRIOR[0] / PRIOR[1] ** 2) / (weight.sum() + 1 / PRIOR[1] ** 2)
    return centre, float(np.clip(slope, psf.GAUSSIAN, 0.75)), int(good.sum())


def shaped(p, model, shape):
    """The stars with the PSF that `model` (of `field`) has at their places."""
    centre, slope, _ = model
    xx, xy, yy = (_terms(p, shape)[:, :len(centre)] @ centre).T
    middle = centre[0, 0] * centre[0, 2] - centre[0, 1] ** 2
    sane = (xx > 0) & (xx * yy - xy**2 > 0.1 * middle)  # a polynomial may run away in a corner without stars
    xx, xy, yy = (np.where(sane, v, c) for v, c in zip((xx, xy, yy), centre[0]))
    out = p.copy()
    out[:, [XX, XY, YY]] = (np.stack([yy, -xy, xx]) / (xx * yy - xy**2)).T
    out[:, SLOPE] = slope
    return out


def fluxes(p, unit, rest, light, noise, gain):
    """Flux, its error, its significance over empty sky, height and local sky of stars whose place and PSF are given.

    flux = sum c d, c = (P - <P>) / sum (P - <P>)^2 times the flux of P: least squares of the profile P and a constant,
    all good pixels of the same weight, so that stars bright and faint are on one scale whatever the PSF.
    unit: P of height 1, rest: the pixels less the models of all stars, NaN = left out, light: those models, whose
    photons make noise; each (n, pixels).
    """
    good = np.isfinite(rest)
    share, rest = good.astype("f4"), np.where(good, rest, 0)
    count = np.maximum(good.sum(1), 1)
    mean = np.vecdot(unit, share) / count
    lean = unit - mean.astype("f4")[:, None]
    lean *= share
    power = np.maximum(np.vecdot(lean, lean), 1e-12)
    more = (np.vecdot(lean, rest) / power).astype("f8")
    sky = rest.sum(1) / count - more * mean
    empty = noise / np.sqrt(power)
    lean *= lean
    photons = np.vecdot(lean, np.fmax(light, 0)) / gain if gain else 0
    error = np.sqrt(empty**2 + photons / power**2)
    height, area = p[:, A] + more, psf.total(p) / p[:, A]
    return height * area, error * area, height / np.maximum(empty, 1e-12), height, sky


def aperture(flat, frame, y, x, p, width, usual=0.0):
    """Factor that makes the PSF's fluxes total: what these stars have within 3 FWHM (less the ring of 4 to 5.5) beyond
    their models, weighted; drawn to 1 +/- 0.05 (or `usual`, the misfit of the PSF) as far as it is uncertain.  Haloes
    and tracking change it from frame to frame.  frame: the `light` of all stars; bad pixels count as modelled."""
    offsets = psf.disc(5.5 * width)
    inner, ring = np.hypot(*offsets) <= 3 * width, np.hypot(*offsets) >= 4 * width
    rest = np.subtract(*detect.stamps((flat, frame), y, x, offsets))
    whole = (np.isfinite(rest[:, inner]).mean(1) > 0.9) & (np.isfinite(rest[:, ring]).mean(1) > 0.5)
    if not whole.any():
        return 1.0
    rest, model = rest[whole], psf.profiles(p[whole], y[whole], x[whole], offsets)
    light = model[:, inner].sum(1) - inner.sum() * np.median(model[:, ring], 1)
    excess = (np.nansum(rest[:, inner], 1) - inner.sum() * detect.quantile(rest[:, ring], 0.5)) / light
    spread = 1.4826 * detect.quantile(np.abs(rest[:, ring]), 0.5) * inner.sum() ** 0.5 / light
    error2 = spread**2 + 0.01**2
    good = spread < 0.2
    for _ in range(5):
        weight = good / error2
        mean = (weight * excess).sum() / max(weight.sum(), 1e-9)
        good = (spread < 0.2) & (np.abs(excess - mean) < 3 * np.sqrt(error2))
    return float(np.clip(1 + (weight * excess).sum() / (weight.sum() + max(usual, 0.05) ** -2), 0.7, 1.4))


def _terms(p, shape):
    u, v = 2 * p[:, X] / shape[1] - 1, 2 * p[:, Y] / shape[0] - 1
    return np.stack([np.ones(len(p)), u, v, u * u, u * v, v * v], 1)
