"""L.A.Cosmic (van Dokkum 2001, PASP 113, 1420) with the costly medians taken only where they can matter.

    L   positive Laplacian of the twice subsampled frame      N = sqrt(median5 + readnoise^2)
    S = L / 2N        S' = S - median5(S)        F = median3 - median7(median3)

A pixel is hit where S' > sigma and S' > contrast * F / N; then its neighbours are hit where S' > sigma, and theirs
where S' > sigfrac * sigma.  The hits are smoothed away and the search repeated.  All in electrons, with the
sky left in.
"""

import numpy as np

from apfunc.standout import median9

PAD = 4        # a pixel's verdict depends on the data this far away
BAND = 32      # rows done at a time in the pass over the whole frame
CHUNK = 1 << 12  # pixels done at a time where windows are gathered
LEAST, MARGIN = 1.5, 3.0  # lowest contrast that is used; contrast over that of the lower quartile of the stars
FAINTEST = np.float32(1e-5)  # [electron] lower limit of the local level in the noise model


def detect(data, gain, readnoise, saturate, sigma, sigfrac, contrast, iterations):
    """Flat indices of the hits in `data` (2-D float32, ADU), and the contrast used; parameters as in `apfunc.cosmics`,
    `saturate` and `contrast` may be None.

    Exactly what L.A.Cosmic on the whole frame gives: the first pass takes every pixel that a lower bound of the
    noise leaves possible, the next ones only what lies within PAD of a pixel that has changed.
    """
    electrons, usable = _padded(data, gain)
    if saturate is not None:
        _spare_saturated_stars(usable, electrons, np.flatnonzero(data >= saturate))
    look, low = _first_look(electrons, readnoise, sigma)
    deep, middle = _deep(electrons, low, readnoise)
    if deep.size:
        electrons.ravel()[deep] = middle
        _mirror_edges(electrons)
        look = _around(np.concatenate([look, deep]), 0, usable)
    scratch = np.empty_like(electrons)  # values of the pixels that were worked out, at their places
    hit, good = np.zeros(electrons.shape, bool), usable.copy()
    found, level = [look[:0]], None
    for _ in range(iterations):
        look = _sharp(electrons, look[usable.ravel()[look]], readnoise, sigma)
        look = look[_significance(electrons, look, readnoise) > sigma]
        excess = _excess(electrons, look, readnoise, scratch)
        if contrast is None:
            contrast = frame_contrast(electrons, look, excess, readnoise, scratch)
        look, excess = look[excess > sigma], excess[excess > sigma]
        new = look[excess > contrast * _structure(electrons, look, readnoise, scratch)]
        for limit in (sigma, sigma * sigfrac):
            new = _sharp(electrons, _around(new, 1, usable), readnoise, limit)
            new = new[_excess(electrons, new, readnoise, scratch) > limit]
        new = new[~hit.ravel()[new]]
        if new.size == 0:
            break
        found.append(new)
        hit.ravel()[new], good.ravel()[new] = True, False
        level = _level(electrons, usable) if level is None else level
        changed = _around(new, 2, hit)
        electrons.ravel()[changed] = _mean_of_good(electrons, changed, good, level)
        _mirror_edges(electrons)
        look = _around(changed, PAD, usable)
    y, x = np.divmod(np.sort(np.concatenate(found)), electrons.shape[1])
    return (y - PAD) * data.shape[1] + x - PAD, 5.0 if contrast is None else contrast


def star_contrast(fwhm):
    """The contrast that keeps a star of this FWHM [pixel] safe: 1.5 times the sharpest look of a bright Gaussian star,
    on whichever place in a pixel it falls; at least LEAST."""
    sharpest = []
    for y, x in ((0, 0), (0, 0.25), (0.25, 0.25), (0, 0.5), (0.25, 0.5), (0.5, 0.5)):
        distance2 = (np.arange(-11, 12)[:, None] - y) ** 2 + (np.arange(-11, 12) - x) ** 2
        star = (1e4 * np.exp(-2.7726 * distance2 / fwhm**2)).astype("f4")
        centre, scratch = np.array([star.argmax()]), star.copy()
        sharpest.append((_excess(star, centre, 1, scratch) / _structure(star, centre, 1, scratch)).item())
    return max(LEAST, 1.5 * max(sharpest))


def frame_contrast(electrons, look, excess, readnoise, scratch):
    """The contrast that the frame's own stars ask for: MARGIN times the lower quartile of S' / F of the peaks among
    `look` with plenty of fine structure (F > 10), which are stars and a few fat hits; between LEAST and 5, and 5
    without 5 such peaks."""
    window = electrons.ravel()[look[:, None] + _offsets(1, electrons)]
    peak = window[:, 4] >= window.max(axis=1)
    structure = _structure(electrons, look[peak], readnoise, scratch)
    stars = np.sort((excess[peak] / structure)[structure > 10])
    return float(np.clip(MARGIN * stars[stars.size // 4], LEAST, 5)) if stars.size >= 5 else 5.0


# The quantities of the paper, for the pixels with flat indices `at` of a padded frame in electrons.

def _laplacian(frame, at):
    """Positive Laplacian of the twice subsampled frame, summed back: the mean over the corners of a pixel v with
    its neighbours a, b at that corner of max(0, 2v - a - b)."""
    flat, width, zero = frame.ravel(), frame.shape[1], np.float32(0)
    v = flat[at]
    left, right, up, down = v - flat[at - 1], v - flat[at + 1], v - flat[at - width], v - flat[at + width]
    return ((np.maximum(left + up, zero) + np.maximum(right + down, zero))
            + (np.maximum(right + up, zero) + np.maximum(left + down, zero))) * np.float32(0.25)


def _sharp(frame, at, readnoise, limit):
    """Those pixels whose S would exceed `limit` if N were the read noise alone: a cheap first choice."""
    return at[_laplacian(frame, at) > np.float32(0.999 * 2 * limit * readnoise)]


def _noise(frame, at, readnoise):
    """N = sqrt(median5 + readnoise^2)."""
    return np.sqrt(np.maximum(_median5(frame, at), FAINTEST) + np.float32(readnoise**2))


def _significance(frame, at, readnoise):
    """S = L / 2N."""
    out = _laplacian(frame, at)
    some = np.flatnonzero(out)  # (nothing curves up around many)
    out[some] /= 2 * _noise(frame, at[some], readnoise)
    return out


def _excess(frame, at, readnoise, scratch):
    """S' = S - median5(S): without what extended objects add."""
    near = _around(at, 2, None, frame)
    scratch.ravel()[near] = _significance(frame, near, readnoise)
    return scratch.ravel()[at] - _median5(scratch, at)


def _structure(frame, at, readnoise, scratch):
    """F / N, at least 0.01, with F = median3 - median7(median3): what a smooth object leaves.

    Between bright stars, where the median of the 7x7 lies as high as the wing, F is nothing and the curvature of
    the wing would pass for a hit: there the quartile stands in, less the half N that it lies lower in an even sky.
    """
    near = _around(at, 3, None, frame)
    scratch.ravel()[near] = _median3(frame, near)
    smooth = scratch.ravel()[at]
    quartile, median = _ranked(scratch, at, 3, 12, 24)
    noise = _noise(frame, at, readnoise)
    return np.maximum(np.maximum((smooth - median) / noise, (smooth - quartile) / noise - np.float32(0.5)),
                      np.float32(0.01))


def _median3(frame, at):
    parts = np.array_split(at, 1 + at.size // CHUNK)
    return np.concatenate([median9(frame.ravel()[part + _offsets(1, frame)[:, None]])[0] for part in parts])


def _median5(frame, at):
    return _ranked(frame, at, 2, 12)[0]


def _ranked(frame, at, half, *ranks):
    """The values of these ranks in the window of each pixel, (ranks, n)."""
    flat, offsets = frame.ravel(), _offsets(half, frame)
    out = np.empty((len(ranks), at.size), "f4")
    for start in range(0, at.size, CHUNK):
        window = flat[at[start:start + CHUNK, None] + offsets]
        window.sort(axis=1)
        out[:, start:start + CHUNK] = window[:, ranks].T
    return out


def _offsets(half, frame):
    steps = np.arange(-half, half + 1)
    return (steps[:, None] * frame.shape[1] + steps).ravel()


def _around(at, half, allowed, frame=None):
    """Sorted flat indices of the pixels within `half` of those `at`, where `allowed` (2-D bool; None: all)."""
    near = (at[:, None] + _offsets(half, frame if allowed is None else allowed)).ravel()
    near = near if allowed is None else near[allowed.ravel()[near]]
    near.sort()
    first = np.ones(near.size, bool)
    np.not_equal(near[1:], near[:-1], out=first[1:])
    return near[first]


def _mean_of_good(frame, at, good, otherwise):
    window = at[:, None] + _offsets(2, frame)
    keep = good.ravel()[window]
    total = np.where(keep, frame.ravel()[window], np.float32(0)).sum(1)
    count = keep.sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(otherwise)).astype("f4")


def _level(frame, usable):
    """Median of about 100,000 usable pixels."""
    step = max(1, frame.size // 100_000)
    sample = frame.ravel()[::step][usable.ravel()[::step]]
    return float(np.median(sample)) if sample.size else 0.0


# What passes over the whole frame.

def _first_look(frame, readnoise, sigma):
    """Flat indices of the pixels whose S could exceed sigma, and of those that could lie 3 N or more below all their
    four neighbours: by a lower bound of N, from the least value of a band of rows within 2 columns."""
    flat, (height, width) = frame.ravel(), frame.shape
    possible, low = [], []
    for top in range(PAD, height - PAD, BAND):
        bottom = min(top + BAND, height - PAD)
        a, b = top * width, bottom * width
        least = np.minimum(flat[a - 1:b - 1], flat[a + 1:b + 1])
        np.minimum(least, flat[a - width:b - width], out=least)
        np.minimum(least, flat[a + width:b + width], out=least)
        step = np.subtract(flat[a:b], least, out=least).reshape(-1, width)
        lowest = frame[top - 2:bottom + 2, PAD - 2:width - PAD + 2].min(axis=0)
        lowest = np.min([lowest[k:k + width - 2 * PAD] for k in range(5)], axis=0)
        noise = np.full(width, np.inf, "f4")  # (nothing is found in the padding)
        noise[PAD:-PAD] = np.float32(0.999) * np.sqrt(np.maximum(lowest, FAINTEST) + np.float32(readnoise**2))
        high = a + np.flatnonzero(step > np.float32(sigma) * noise)  # for L <= 2 step
        possible.append(high[_laplacian(frame, high) > np.float32(2 * sigma) * noise[high % width]])
        low.append(a + np.flatnonzero(step < -3 * noise))
    return np.concatenate(possible), np.concatenate(low)


def _deep(frame, low, readnoise):
    """Those pixels `low` that lie more than 3 N below all their four neighbours, by the N that the least of the 5x5
    makes, and more than 5 N below the median of the 5x5; and these medians."""
    ranked = _ranked(frame, low, 2, 0, 12)
    noise_of_least, noise = np.sqrt(np.maximum(ranked, FAINTEST) + np.float32(readnoise**2))
    flat, width = frame.ravel(), frame.shape[1]
    drop = flat[low + np.array([[-1], [1], [-width], [width]])].min(axis=0) - flat[low]
    deep = (drop > 3 * noise_of_least) & (flat[low] < ranked[1] - 5 * noise)
    return low[deep], ranked[1, deep]


def _padded(data, gain):
    """The frame in electrons with PAD mirrored pixels on every side, and without NaN or infinities: these become
    the median of the finite pixels in the 5x5 around, or else of the frame.  And where it was finite."""
    frame = np.empty((data.shape[0] + 2 * PAD, data.shape[1] + 2 * PAD), "f4")
    inner = frame[PAD:-PAD, PAD:-PAD]
    np.multiply(data, np.float32(gain), out=inner)
    finite = np.zeros(frame.shape, bool)
    if not np.isfinite(inner, out=finite[PAD:-PAD, PAD:-PAD]).all():
        holes = _inside(np.flatnonzero(~finite[PAD:-PAD, PAD:-PAD]), data.shape[1])
        frame.ravel()[holes] = np.inf
        level = np.float32(_level(frame, finite))
        for part in np.array_split(holes, -(-holes.size // CHUNK)):
            window = part[:, None] + _offsets(2, frame)
            ordered = np.sort(np.where(finite.ravel()[window], frame.ravel()[window], np.float32(np.inf)), axis=1)
            middle = np.maximum(finite.ravel()[window].sum(1) - 1, 0) // 2
            value = np.take_along_axis(ordered, middle[:, None], 1)[:, 0]
            frame.ravel()[part] = np.where(np.isfinite(value), value, level)
    _mirror_edges(frame)
    return frame, finite


def _inside(at, width):
    """Flat indices in the padded frame of the pixels `at` of one with `width` columns."""
    y, x = np.divmod(at, width)
    return (y + PAD) * (width + 2 * PAD) + x + PAD


def _mirror_edges(frame):
    """Set the PAD pixels outside each edge to those inside it, mirrored on the outermost pixel (in place)."""
    for side in (frame, frame.T):
        period = 2 * (side.shape[0] - 2 * PAD) - 2
        source = np.abs(np.arange(-PAD, side.shape[0] - PAD)) % max(period, 1)
        source = np.minimum(source, period - source) + PAD if period else np.full(side.shape[0], PAD)
        side[:PAD], side[-PAD:] = side[source[:PAD]], side[source[-PAD:]]


def _spare_saturated_stars(usable, electrons, at):
    """Make unusable (in place) what lies within 4 pixels of those of the saturated pixels `at` (of the unpadded frame)
    that belong to a star (their 3x3 median is above a tenth of the saturation level, as in no cosmic ray) or to the
    trail that runs from one."""
    if at.size == 0:
        return
    at = _inside(at, electrons.shape[1] - 2 * PAD)
    left = np.zeros(usable.shape, bool)
    left.ravel()[at] = True
    front = at[_median3(electrons, at) > electrons.ravel()[at].min() / 10]
    spared = []
    while front.size:
        spared.append(front)
        left.ravel()[front] = False
        front = _around(front, 1, left)
    if spared:
        usable.ravel()[_around(np.concatenate(spared), 4, None, usable)] = False
