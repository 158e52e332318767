"""Gain and read noise of a camera from pairs of biases and pairs of flats (photon transfer; Janesick 2001).

    biases:  D = b1 - b2         var(D) = 2 R^2                                R: read noise [adu]
    flats:   D = f1 - k f2       var(D) = S (1 + k) / g + (1 + k^2) R^2        S: signal of f1 [adu], g: gain

with k the ratio of the two signals in a small cell of the frame.  The difference cancels the fixed pattern, k the
lamp's drift, and the cells vignetting and bad regions.
"""

import functools
import itertools
import math

import numpy as np

from apfunc import belong, raw
from apfunc.clip import middle_of_rows
from apfunc.header import camera, text

CELL = 32  # pixels a side
PIXELS = 2**22  # looked at in all pairs together, in rows of cells spread over the frame; they tell a part in 2,000
PAIRS = 12  # pairs that are looked at, spread over the frames
CHUNK = 64  # cells worked on at a time, so that they stay in the cache


def readnoise(biases, flats=(), sigma=4.0, saturate=None):
    """Table of one row: camera; gain, gain_err [electron/adu]; readnoise, readnoise_err [electron]; readnoise_adu,
    readnoise_adu_err [adu]; nbias, nflat (frames used); bias, level (median bias, median signal of the flats) [adu].

    biases, flats : lists of (rows, header) as in `apfunc.combine.combine`; at least two biases.  Neighbours in the
        order given are paired, flats within their filter; their levels may differ.  Without a pair of flats the gain
        and what is in electrons are NaN.
    sigma : differences beyond `sigma` standard deviations of their cell (cosmic rays, flickering pixels) do not count;
        the variance is corrected for the truncation, and for the 1/12 adu^2 that rounding adds to each frame.
    saturate : raw ADU of saturation (else as in `apfunc.raw.full_scale`); flats do not count above 0.9 of it.

    The errors are those of the mean over the cells, from the scatter between cells.  Frames that do not belong to
    the others (size, binning, temperature, level) are not used.
    Raises ValueError: fewer than two biases that belong together, or biases without noise.

    >>> from astropy.io import fits
    >>> random = np.random.default_rng(1)
    >>> pair = [(random.normal(1000, 10, (256, 256)), fits.Header()) for _ in range(2)]
    >>> abs(float(readnoise(pair)["readnoise_adu"][0]) - 10) < 0.1
    True
    """
    from astropy.table import Table
    biases, headers, levels, values = _alike(biases, "bias")
    if len(biases) < 2:
        raise ValueError("read noise needs two biases of one size, binning, temperature and level; "
                         f"found {len(biases)}: give more")
    shape = biases[0][0]
    flats, flat_headers, _, lit = _alike([f for f in flats if raw.opened(*f)[0] == shape], "flat")
    rounding = 1 / 12 if all(map(raw.whole, values)) else 0.0
    filters = [text(h, "FILTER") for h in flat_headers]
    sets = [[flat for flat, its in zip(flats, filters) if its == name] for name in dict.fromkeys(filters)]
    bias_pairs = _some(pairs(biases))
    flat_pairs = _some([pair for flats_of_one in sets for pair in pairs(flats_of_one)])
    pixels = PIXELS // max(len(bias_pairs), len(flat_pairs))
    cells = functools.lru_cache(PAIRS + 1)(functools.partial(cells_of, pixels=pixels))

    variances = np.array([chunked(lambda one, two: truncated_variance(one - two, sigma)[0], cells(a)[0], cells(b)[0])
                          for a, b in bias_pairs]) / 2 - rounding
    power, power_err = robust_mean(variances.mean(axis=0))
    if not power > 0:
        raise ValueError("the biases have no noise; give raw bias frames")
    noise = math.sqrt(power)
    row = {"camera": camera(headers[0], shape),
           "gain": math.nan, "gain_err": math.nan, "readnoise": math.nan, "readnoise_err": math.nan,
           "readnoise_adu": noise, "readnoise_adu_err": power_err / (2 * noise), "nbias": len(biases), "nflat": 0,
           "bias": float(np.median(levels)), "level": math.nan}

    if flat_pairs:
        full = raw.full_scale(np.stack(lit), flat_headers[0], saturate)
        dark = chunked(lambda *some: middle_of_rows(np.stack([s.ravel() for s in some], axis=1)),
                       *(cells(frame)[0] for frame in _some(biases))).reshape(-1, cells(biases[0])[0].shape[1])
        found = np.array([chunked(lambda *some: flat_cells(*some, sigma, full), *cells(a), *cells(b), dark)
                          for a, b in flat_pairs])
        inverse, inverse_err = inverse_gain(*np.moveaxis(found, 1, 0), power + rounding)
        if inverse > 0:
            gain = 1 / inverse
            gain_err = gain * inverse_err / inverse
            row |= {"gain": gain, "gain_err": gain_err, "readnoise": gain * noise, "nflat": len(flats),
                    "readnoise_err": math.hypot(gain_err * noise, gain * row["readnoise_adu_err"]),
                    "level": float(np.nanmedian(found[:, 0]))}
    units = {"gain": "electron/adu", "readnoise": "electron", "readnoise_adu": "adu"}
    table = Table([row])
    for name in table.colnames:
        table[name].unit = units.get(name.removesuffix("_err")) or {"bias": "adu", "level": "adu"}.get(name)
    return table


def _alike(images, kind):
    """(opened frames, headers, levels, samples as read out) of the images that belong together; flats of several
    filters do."""
    frames, headers = [raw.opened(*image) for image in images], [header for _, header in images]
    reasons = belong.by_header(headers, [shape for shape, _, _ in frames], kind if kind == "bias" else None)
    samples, levels, noise = [None] * len(frames), [None] * len(frames), []
    for i, (shape, read, base) in enumerate(frames):
        try:
            samples[i] = raw.thin(read, shape)
        except ValueError as error:
            reasons[i] = reasons[i] or str(error)
            continue
        values = samples[i] - raw.sample_base(base, shape)
        noise.append(raw.spread(np.diff(values, axis=1)) / math.sqrt(2))
        levels[i] = None if reasons[i] else raw.middle(values)
    if kind == "bias":
        belong.reject(reasons, belong.by_level(levels, float(np.median(noise)) if noise else 0.0))
    used = [i for i, why in enumerate(reasons) if why is None]
    return [[some[i] for i in used] for some in (frames, headers, levels, samples)]


def chunked(function, *cells):
    """What a function gives for arrays of cells, a few cells at a time, joined along its last axis."""
    return np.concatenate([function(*(c[a:a + CHUNK] for c in cells)) for a in range(0, len(cells[0]), CHUNK)], axis=-1)


def pairs(frames):
    """Neighbours: (0, 1), (1, 2), …"""
    return list(itertools.pairwise(frames))


def _some(items):
    """At most PAIRS of the items, evenly spread."""
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, min(len(items), PAIRS))] if items else []


def cells_of(frame, pixels):
    """About so many pixels of a frame in cells, (cells, pixels), float32: rows of cells spread over the frame; without
    its overscan and pedestal, and as read out."""
    (rows, columns), read, base = frame
    size = min(CELL, rows, columns)
    starts = np.linspace(0, rows - size, min(rows // size, pixels // (columns * size) + 1)).astype(int)
    wide = columns // size
    plain, as_read = [], []
    for a in map(int, starts):
        band, level = np.asarray(read(a, a + size), "f4"), base(a, a + size)
        bands = [band] if np.ndim(level) == 0 and level == 0 else [band - level, band]
        cut = [b[:, :wide * size].reshape(size, wide, size).transpose(1, 0, 2).reshape(wide, -1) for b in bands]
        plain.append(cut[0])
        as_read.append(cut[-1])
    plain, whole = np.concatenate(plain), plain
    return plain, plain if whole[0] is as_read[0] else np.concatenate(as_read)


def truncated_variance(values, sigma, good=True):
    """Variance of each row of `values` without what lies beyond `sigma` standard deviations, corrected for the
    truncation of normal noise, and the array of what counted.  NaN and pixels that are not `good` do not count."""
    middle = middle_of_rows(values)[:, None]
    deviation = 1.4826 * middle_of_rows(np.abs(values - middle))[:, None]
    tail = sigma * math.sqrt(2 / math.pi) * math.exp(-sigma**2 / 2) / math.erf(sigma / math.sqrt(2))
    deviation = np.maximum(deviation, 0.7)  # (differences of whole numbers)
    for _ in range(3):
        offset = values - middle
        keep = good & (np.abs(offset) <= (sigma * deviation).astype(values.dtype))
        count = np.maximum(keep.sum(axis=1, keepdims=True), 2)
        offset = np.where(keep, offset, values.dtype.type(0))
        shift = offset.sum(axis=1, keepdims=True, dtype="f8") / count
        variance = (offset * offset).sum(axis=1, keepdims=True, dtype="f8") - count * shift**2
        variance = np.maximum(variance, 0) / (count - 1) / (1 - tail)
        middle, deviation = (middle + shift).astype(values.dtype), np.maximum(np.sqrt(variance), 1e-3)
    return variance[:, 0], keep


def flat_cells(f1, read1, f2, read2, dark, sigma, full):
    """(S, k, variance of f1 - k f2) of cells of a pair of flats, without pedestal and as read out (`cells_of`); NaN in
    cells that do not count.  `dark`: the cells of the median bias."""
    limit = np.float32(full or np.inf)
    f1, f2 = f1 - dark, f2 - dark
    good = (read1 < np.float32(0.97) * limit) & (read2 < np.float32(0.97) * limit)
    level = np.maximum(middle_of_rows(read1), middle_of_rows(read2))
    with np.errstate(invalid="ignore", divide="ignore"):
        k = middle_of_rows(f1) / middle_of_rows(f2)
        for _ in range(2):
            variance, keep = truncated_variance(level_cells(f1 - k.astype("f4")[:, None] * f2), sigma, good)
            s1, s2 = (np.where(keep, f, np.float32(0)).sum(axis=1, dtype="f8") / keep.sum(axis=1) for f in (f1, f2))
            k = s1 / s2
    counts = (level < 0.9 * limit) & (s1 > 0) & (s2 > 0) & (k > 0.2) & (k < 5) & (keep.mean(axis=1) > 0.9)
    return np.where(counts, [s1, k, variance], np.nan)


def level_cells(values):
    """Cells (cells, pixels) without their slopes in x and y (from medians of rows and columns, to spare them from
    outliers): the light may have moved between two flats."""
    size = math.isqrt(values.shape[1])
    if size * size != values.shape[1] or size < 8:
        return values
    cube = values.reshape(-1, size, size)
    half = (size + 1) // 2
    out = cube.copy()
    for axis in (1, 2):
        profile = middle_of_rows(cube.swapaxes(axis, 1).reshape(-1, size)).reshape(-1, size)
        slope = (profile[:, half:].mean(axis=1) - profile[:, :size - half].mean(axis=1)) / half
        ramp = slope[:, None] * (np.arange(size, dtype="f4") - np.float32((size - 1) / 2))
        out -= ramp[:, :, None] if axis == 1 else ramp[:, None, :]
    return out.reshape(values.shape)


def inverse_gain(signal, k, variance, power):
    """1 / g [adu/electron] and its error, from arrays (pairs, cells); `power` is the variance of a bias [adu^2].

    Each value (var - (1 + k^2) power) / (S (1 + k)) weighs by the variance that the model gives it.
    """
    doubled, floor = signal * (1 + k), (1 + k**2) * power
    each = (variance - floor) / doubled
    if not np.isfinite(each).any():
        return math.nan, math.nan
    rough = np.nanmedian(each)
    weight = np.nan_to_num((doubled / (doubled * max(rough, 0) + floor))**2)
    weight[~np.isfinite(each)] = 0
    total = weight.sum(axis=0)
    seen = total > 0
    return robust_mean((weight * np.nan_to_num(each)).sum(axis=0)[seen] / total[seen], total[seen])


def robust_mean(values, weights=None):
    """Weighted mean of the values within 5 robust deviations of their median, and its error from their scatter."""
    weights = np.ones(len(values)) if weights is None else weights
    reach = 5 * max(raw.spread(values), 1e-12) if len(values) > 3 else np.inf
    keep = np.abs(values - np.median(values)) <= reach
    v, w = values[keep], weights[keep] / weights[keep].sum()
    centre = float(w @ v)
    error = math.sqrt(float(w**2 @ (v - centre)**2) * len(v) / (len(v) - 1)) if len(v) > 1 else math.nan
    return centre, error


def from_sky(image, readnoise_adu=0.0):
    """(gain [electron/adu], read noise [electron]) that explain the noise of a calibrated frame's sky, or None.

    For a camera of which there is no pair of biases and flats, and no gain in the header.  With the read noise known
    in adu it is the gain, from one level: sky / (noise^2 - readnoise_adu^2).  Without, all noise is laid to the sky's
    photons, which gives the right noise of sky and nearly that of the stars.  None where the sky is not above zero,
    or has no more noise than the read-out.
    """
    from apfunc.background import level
    sky, noise = level(image[0])
    photons = noise * noise - readnoise_adu * readnoise_adu
    if not (sky > 0 and photons > 0):
        return None
    gain = sky / photons
    return gain, gain * readnoise_adu
