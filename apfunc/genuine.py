"""Which of the peaks of a frame are stars, and what is to be said of each.

A peak is no star when it is too faint, sharper than the PSF (cosmic rays, hot pixels), wider (knots of a nebula), of
another form altogether, or a ripple on the light of a bright neighbour.
"""

import numpy as np

from apfunc import detect, nebula, psf, starfit
from apfunc.psf import SKY, A, X, Y

# The bits of a star's flags.
FULL, EDGE, BLEND, DEFECT, SHAPE = 1, 2, 4, 8, 16


def judged(flat, light, p, y, x, offsets, core, noise, gain, sigma, width, usual, planes):
    """Columns (of `stars.stars`) of the peaks that are stars, and which they are, brightest first.

    flat: the frame without sky; light: the models of all the stars `p`, NaN where pixels say nothing; core: the part of
    the `offsets` that shapes are fitted to; usual: misfit of a good star; planes: bad and
    saturated pixels, and the nebula taken off the frame.
    """
    inside = np.abs((p[:, [Y, X]] + 0.5) / flat.shape - 0.5).max(1) <= 0.5
    row = np.flatnonzero(inside & (np.hypot(p[:, X] - x, p[:, Y] - y) < max(width, 2)))
    parts = []
    for k in (row[part] for part in psf.parts(max(len(row), 1), offsets)):
        seen = _seen(flat, light, p[k], y[k], x[k], offsets, len(core[0]), noise[k], gain, width)
        clear = seen[2] >= sigma
        parts.append([v[clear] for v in (k, *seen)])
    row, flux, error, sure, height, local, own, others, share, peak, point2, touched = map(np.concatenate, zip(*parts))
    p, y, x, noise = (v[row] for v in (p, y, x, noise))
    free, _, least2 = psf.fit(own, y, x, core, p, noise, gain, others, psf.SHAPE, 8, 0.02, sure=False)
    gained = point2 - least2  # of chi2, by a shape of its own
    fwhm, ellipticity, theta = psf.shape(free)
    minor, major = fwhm * np.sqrt(1 - ellipticity), fwhm / np.sqrt(1 - ellipticity)
    point, flatness, _ = psf.shape(p)
    least, most = point * np.sqrt(1 - flatness), point / np.sqrt(1 - flatness)

    bad, full, cloud = planes
    burnt, edge, broken = np.zeros((3, len(row)), bool)
    k, distance = np.flatnonzero(touched), np.hypot(*offsets)
    bad, full = detect.stamps((bad, full), y[k], x[k], offsets)
    edge[k] = np.isnan(full[:, distance <= 1.5 * width]).any(1)
    burnt[k] = (full[:, distance <= 1.5 * width] > 0).any(1)
    broken[k] = (bad[:, distance <= 1.2 * width] > 0).any(1)
    strange = (gained > 25) & ((fwhm > 1.3 * point) | (major > 1.5 * most) | (minor < 0.75 * least)) & ~burnt
    flags = FULL * burnt + EDGE * edge + BLEND * (share > 0.1) + DEFECT * broken + SHAPE * strange

    sharp = (gained > 16) & (minor < 0.65 * least)
    formless = (certain(least2, core) > 5) & (share < 0.1)
    k = np.flatnonzero(formless)
    formless[k] = misfit(least2[k], free[k], core, noise[k], gain) > max(0.3, 4 * usual)
    wide = (gained > 9) & (minor > 1.6 * point)
    some = np.flatnonzero((gained > 9) & (minor > 1.25 * point) & ~wide & ~burnt)
    for part in psf.parts(len(some), psf.disc(4.5 * width)):
        k = some[part]
        wide[k] = _wide(flat, light, free[k], p[k], noise[k], point[k], y[k], x[k], width)
    ripple = height < 0.15 * others[:, 0]
    odd = strange & (sure < 20) & (share < 0.1)  # so faint, and alone, a star has the PSF's shape within the noise
    wider = (gained > 3) & ((fwhm > 1.2 * point) | (major > 1.5 * most))
    some = np.flatnonzero(wider & (share < 0.1) & (sure < 10 * sigma))
    for part in psf.parts(len(some), psf.disc(4.3 * width)):
        k = some[part]
        noisier = nebula.rough(flat, light, cloud, y[k], x[k], noise[k], width)
        odd[k] |= (noisier > 1.15) & (sure[k] < 1.25 * sigma * noisier)  # like a filament, no more than what lies round
    keep = np.flatnonzero(~ripple & (burnt | ~(sharp | wide | formless | odd)))
    keep = keep[np.argsort(-flux[keep], kind="stable")]

    odd = ~np.isfinite(fwhm) | (fwhm > 4 * width) | (fwhm < 0.2)
    fwhm, ellipticity, theta = (np.where(odd, np.nan, v) for v in (fwhm, ellipticity, theta))
    columns = {"flux": flux, "fluxerr": error, "fwhm": fwhm, "ellipticity": ellipticity, "theta": theta, "peak": peak,
               "snr": flux / np.maximum(error, 1e-12), "flags": flags, "sky": local}
    return {name: values[keep] for name, values in columns.items()}, row[keep]


def _seen(flat, light, p, y, x, offsets, core, noise, gain, width):
    """What the pixels of some stars say, their models given: what `starfit.fluxes` gives; of the first `core` pixels
    those without the other stars, and the others; the share of the others' light; the peak; chi2 in the core; whether a
    pixel within 1.5 FWHM says nothing."""
    rest, shine = detect.stamps((flat, light), y, x, offsets)
    rest -= shine
    unit = p.copy()
    unit[:, A] = 1
    unit = psf.profiles(unit, y, x, offsets)
    measured = starfit.fluxes(p, unit, rest, shine, noise, gain)
    model, good, distance = unit * p[:, A, None].astype("f4"), np.isfinite(rest), np.hypot(*offsets)
    others = np.where(good, shine - model, 0)
    share = np.vecdot(others, model) / np.maximum(np.vecdot(model, model), 1e-12)
    peak, near = np.count_nonzero(distance <= 1.5), np.count_nonzero(distance <= 1.5 * width)
    peak = np.where(good[:, :peak], rest[:, :peak] + shine[:, :peak], -np.inf).max(1)
    rest, shine, good, touched = rest[:, :core], shine[:, :core], good[:, :core], ~good[:, :near].all(1)
    variance = np.maximum(shine, 0)
    variance *= np.float32(1 / gain if gain else 0)
    variance += (noise**2).astype("f4")[:, None]
    chi2 = np.where(good, (rest - p[:, SKY, None].astype("f4")) ** 2 / variance, 0).sum(1)
    return *measured, rest + model[:, :core], others[:, :core], share, peak, chi2, touched


def certain(chi2, offsets):
    """By how many sigma the misfit of stars is more than noise."""
    freedom = max(len(offsets[0]) - 7, 1)
    return (chi2 - freedom) / np.sqrt(2 * freedom)


def misfit(chi2, p, offsets, noise, gain):
    """Share of a star's light, in units of what its fit weighs, that has not the form of the model."""
    profile = psf.profiles(p, np.rint(p[:, Y]).astype(int), np.rint(p[:, X]).astype(int), offsets)
    weight = 1 / (noise[:, None] ** 2 + (np.maximum(profile, 0) / gain if gain else 0))
    light, freedom = np.maximum((weight * profile**2).sum(1), 1e-9), max(len(offsets[0]) - 7, 1)
    return np.sqrt(np.maximum(chi2 - freedom, 0) / light)


def _wide(flat, light, free, p, noise, point, y, x, width):
    """Whether peaks that look wider than the PSF are much wider when their surroundings are seen as well."""
    wide = psf.disc(4.5 * width)
    values, shine = detect.stamps((flat, light), y, x, wide)
    values += psf.profiles(p, y, x, wide) - shine
    found = psf.fit(values, y, x, wide, free, noise, free=psf.SHAPE, passes=8, near=0.01, sure=False)[0]
    fwhm, ellipticity, _ = psf.shape(found)
    return fwhm * np.sqrt(1 - ellipticity) > 1.7 * point
