"""How far the stars of frames on one grid and scale may differ: what rejection must allow for seeing and small shifts.

`slack` is in units of the steepness near a pixel, `wing` in units of what is seen within outliers.WING pixels of it:
see apfunc.outliers.  Both are measured from the frames' own stars.
"""

import functools
import warnings

import numpy as np

from apfunc import merge, outliers

LEAST, MOST = 0.3, 6.0  # of slack
LITTLE, WIDEST = 0.0125, 0.5  # of wing; less is none, for it saves the looking around
MANY = 9  # frames from which on the median lies amidst the wings: wing is none
UNKNOWN = 2.0  # slack without any star
FIRST = 6  # [pixel] from where on the steepness near a pixel does not tell of a star any more


def tolerances(cores, profiles, noise, fwhm):
    """slack and wing, (2, frames) each: against the median of all frames, and where but two frames are good.

    cores     (frames, stars, rows, columns) cut-outs on one flux scale, NaN where not known.
    profiles  (frames, stars, radii) mean brightness at 0, 1, … pixels from a star, on the same scale.
    noise, fwhm  (frames,) of a pixel, and of the stars [pixel], NaN where unknown.

    Of three frames and more two are known to differ by no more than both do from the median; in units of the steepness
    of the wider one, which goes with the third power of the width.
    """
    slack, wing = slacks(cores, noise), wings(profiles, noise)
    if not np.isfinite(slack).all():  # too few stars: those of a model
        known = np.isfinite(fwhm).all()
        slack = slacks(stars(fwhm), 1e-3 * np.ones(len(fwhm))) if known else np.full(len(fwhm), UNKNOWN)
    if len(slack) < 3:
        return np.stack([slack, slack]), np.stack([wing, wing])
    wide = (np.nanmax(fwhm) / np.nanmedian(fwhm)) ** 3 if np.isfinite(fwhm).any() else 1
    return tuple(np.stack([v, np.minimum((v + v.max()) * wide, most)]) for v, most in ((slack, MOST), (wing, WIDEST)))


def slacks(cores, noise):
    """How far each frame's stars differ from their median in units of its steepness: (frames,), NaN with too few stars.

    Each star gives its largest |d_k - m| / steepness_2(m); it is 1.5 times the 70th percentile of these: a cosmic ray
    near every fourth star has no say.
    """
    frames = len(cores)
    out = np.full(frames, np.nan)
    if frames < 2 or not cores.size:
        return out
    good = np.isfinite(cores)
    ranked, count = merge.rank(cores, good)
    middle = merge.innocent(cores, good) if frames == 2 else merge.median(ranked, count)
    padded = np.pad(middle, ((0, 0), (3, 3), (3, 3)), mode="edge")
    smooth = np.stack([outliers.box(star)[:, 1:-1] for star in padded]) / 9
    rows, columns = middle.shape[1:]
    near = [smooth[:, i:i + rows, j:j + columns] for i in range(5) for j in range(5)]
    steep = functools.reduce(np.maximum, near) - functools.reduce(np.minimum, near)
    sharp = (steep > 20 * np.median(noise)) & (count >= min(3, frames))
    for k in range(frames):
        use = sharp & good[k]
        worst = np.where(use, np.abs(cores[k] - middle) / np.where(use, steep, 1), 0).max((1, 2))
        if use.any((1, 2)).sum() >= 3:
            out[k] = 1.5 * np.percentile(worst[use.any((1, 2))], 70)
    return np.clip(out, LEAST, MOST)


def wings(profiles, noise):
    """How far each frame's wide wings may differ from the usual ones, in units of what is near: (frames,).

    From FIRST pixels on; 1.5 times what the median star shows, as far as this is not noise.
    """
    out = np.zeros(len(profiles))
    profiles = profiles[:, np.isfinite(profiles[:, :, 0]).all(0)]
    profiles = profiles[:, profiles[:, :, 0].min(0) > 50 * np.median(noise)]
    frames, count, radii = profiles.shape
    if not 2 <= frames < MANY or count < 3:
        return out
    profiles = profiles / profiles[:, :, :1].min(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rings that no star has
        usual = profiles[::-1] if frames == 2 else np.nanmedian(profiles, 0)[None]
        near = np.nanmedian(np.nanmin(profiles, 0) if frames == 2 else usual[0], 0)
        off = profiles - usual
        more = np.nanmedian(off, 1)
        error = 1.86 * np.nanmedian(np.abs(off - more[:, None]), 1) / np.sqrt(count)
    near = near[np.maximum(np.arange(radii) - outliers.WING + 1, 0)] - near
    for k in range(frames):
        size = more[k] if frames == 2 else np.abs(more[k])
        sure = (size > 3 * error[k]) & (near > 0) & (np.arange(radii) >= FIRST)
        out[k] = 1.5 * np.max(size[sure] / near[sure], initial=0)
    return np.where(out < LITTLE, 0, np.minimum(out, WIDEST))


def stars(fwhm, half=7):
    """Cut-outs (frames, 3, rows, columns) of three Moffat stars (beta 3) of one flux, with these FWHM [pixel]."""
    dy, dx = np.mgrid[-half:half + 1, -half:half + 1]
    core = np.asarray(fwhm)[:, None, None, None] / 2 / np.sqrt(2 ** (1 / 3) - 1)
    distance2 = np.stack([(dy - y) ** 2 + (dx - x) ** 2 for y, x in ((0, 0), (0.5, 0), (0.3, 0.5))])
    return ((1 + distance2 / core**2) ** -3 / core**2).astype("f4")
