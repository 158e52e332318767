"""Combining a stack of equal exposures pixel by pixel: clipped mean, median, mean; each with its standard error.

A stack is a float32 array (frames, rows, columns); NaN and infinity are no values.  Each function returns
``(value, error, count)``, arrays (rows, columns): float32, float32, number of values used.
"""

import functools
import math
from statistics import NormalDist

import numpy as np

BLOCK = 256  # columns over which the noise is taken as constant


def clipped_mean(stack, sigma=4.0, step=0.0):
    """Mean of the values within `sigma` * noise of their median.

    The noise is the mean range (largest minus smallest value) of the pixels of a block, over the range that normal
    noise has when it is truncated at +/- sigma, so that clipping does not bias it; at least step / 2, `step` being
    the quantum of the values.  A pixel whose own quantiles are wider (a hot pixel in a dark) has its own noise.

    Most pixels lie within sigma * noise as a whole: for these the plain mean is the clipped mean, known from the
    minimum, the maximum and the sum alone.  Only the others (0.2 % and the outliers) are sorted: the cost is linear in
    frames.
    """
    n = len(stack)
    low, high, total = stack.min(axis=0), stack.max(axis=0), stack.sum(axis=0)
    with np.errstate(invalid="ignore"):
        centre = (total - low - high) / np.float32(n - 2) if n > 2 else low
        noise, odd = _noise(low, high, centre, n, sigma, step)
    value, error, count = total / np.float32(n), np.empty_like(total), np.full(total.shape, n, "i4")
    error[:] = noise / np.float32(math.sqrt(n))
    at = np.flatnonzero(odd)
    if at.size:
        found = sorted_mean(stack.reshape(n, -1)[:, at].T, noise[at % noise.size], sigma)
        for out, of_odd in zip((value, error, count), found):
            out.ravel()[at] = of_odd
    return value, error, count


def _noise(low, high, centre, n, sigma, step):
    """Noise of one value, (columns,), constant in blocks of columns, and where the values do not all lie within the
    reach of the clip."""
    rows, columns = low.shape
    if n == 1:
        return np.full(columns, np.nan, "f4"), ~np.isfinite(low)
    wide = min(BLOCK, columns)
    width = high - low
    blocks = width[:, :columns // wide * wide].reshape(rows, -1, wide).transpose(1, 0, 2).reshape(columns // wide, -1)
    first = middle_of_rows(blocks[:, ::7])
    first = np.fmax(first / (mean_range(n) * (1 - 0.6 / n**2)), step / 2)  # (the median of a range, to a per cent)
    widen = sigma * math.sqrt(1 + 1 / n)  # the centre has an error of its own
    at = np.minimum(np.arange(columns) // wide, len(first) - 1)
    calm = np.maximum(high - centre, centre - low) <= (widen * first).astype("f4")[at]
    starts = np.arange(len(first)) * wide
    number = np.add.reduceat(np.add.reduce(calm, axis=0, dtype="i4"), starts)
    total = np.add.reduceat(np.where(calm, width, np.float32(0)).sum(axis=0), starts, dtype="f8")
    second = np.where(number > 0, total / np.maximum(number, 1) / mean_range(n, sigma), first)
    return np.fmax(second, step / math.sqrt(12)).astype("f4")[at], ~calm


def middle_of_rows(values):
    """Median of the finite values of each row, NaN without any.  (np.median takes five times as long.)"""
    v = np.sort(values, axis=1)
    if np.isfinite(v[:, [0, -1]]).all():  # NaN goes last
        return (v[:, (v.shape[1] - 1) // 2] + v[:, v.shape[1] // 2]) / 2
    return np.array([np.median(v[np.isfinite(v)]) if np.isfinite(v).any() else np.nan for v in values])


def sorted_mean(values, noise, sigma):
    """The clipped mean of each row of `values` (pixels, frames) by sorting; `noise` is that of a value, (pixels,).

    Own noise: the distance of two quantiles (a sixth of the values is left out on each side, at least one), widened
    for its own error in small sets.  Of two values that disagree the lower stands: what is wrong in a pair of
    biases, darks or flats adds light.
    """
    v = np.sort(np.where(np.isfinite(values), values, np.float32(np.nan)), axis=1)  # NaN goes last
    n, pixel = np.isfinite(v).sum(axis=1), np.arange(len(v))
    out = np.maximum(np.rint(n / 6).astype(int), 1)
    usable = n >= 4
    low, high = np.where(usable, out, 0), np.where(usable, n - 1 - out, 0)
    per_sigma = np.array([quantile_range(int(k)) for k in range(v.shape[1] + 1)])[n]
    own = np.where(usable, (v[pixel, high] - v[pixel, low]) / per_sigma * (1 + 4 / np.maximum(n, 1)), 0)
    left, right = np.maximum(n - 1, 0) // 2, np.minimum(n // 2, v.shape[1] - 1)
    middle = np.where(n > 2, (v[pixel, left] + v[pixel, right]) / 2, v[:, 0])
    reach = sigma * np.fmax(np.where(np.isnan(noise), np.inf, noise), own) * np.where(n == 2, math.sqrt(2), 1)
    offset = v - middle[:, None].astype("f4")
    keep = np.abs(offset) <= reach[:, None].astype("f4")
    count = keep.sum(axis=1)
    kept = np.where(keep, offset, np.float32(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = kept.sum(axis=1, dtype="f8") / count
        scatter = np.sqrt(np.maximum((kept * kept).sum(axis=1, dtype="f8") - count * mean**2, 0) / (count - 1))
        error = np.fmax(noise, np.where(count > 1, scatter, 0)) / np.sqrt(count)
    empty = count == 0
    return np.where(empty, np.nan, middle + mean), np.where(empty, np.nan, error), count


def median(stack, sigma=4.0, step=0.0):
    """Median of the values; its error is sqrt(pi / 2) times that of a mean (exact for many frames)."""
    v = np.sort(np.where(np.isfinite(stack), stack, np.float32(np.nan)), axis=0)
    n = np.isfinite(v).sum(axis=0) if np.isnan(v[-1]).any() else np.full(v.shape[1:], len(v))
    pick = functools.partial(np.take_along_axis, v, axis=0)
    value = (pick(np.maximum(n - 1, 0)[None] // 2) + pick(n[None] // 2))[0] / 2
    _, error, _ = mean(stack, sigma, step)
    return value, error * np.float32(math.sqrt(math.pi / 2) if len(v) > 2 else 1), n


def mean(stack, sigma=4.0, step=0.0):
    """Plain mean of the values that there are."""
    good = np.isfinite(stack)
    count = good.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (np.where(good, stack, 0).sum(axis=0) / count).astype("f4")
        low, high = stack.min(axis=0), stack.max(axis=0)
        noise, _ = _noise(low, high, (low + high) / 2, len(stack), sigma, step)
        return value, np.where(count > 0, noise / np.sqrt(count, dtype="f4"), np.float32(np.nan)), count


@functools.cache
def mean_range(n, truncated=math.inf):
    """Mean of (largest - smallest) of n normal values of sigma 1, drawn from within +/- `truncated` sigma."""
    x = np.linspace(-min(truncated, 9), min(truncated, 9), 4001)
    below = np.array([0.5 * math.erfc(-t / math.sqrt(2)) for t in x])
    below = (below - below[0]) / (below[-1] - below[0])
    return float(np.sum(1 - below**n - (1 - below)**n) * (x[1] - x[0]))


@functools.cache
def quantile_range(n):
    """Distance of the two order statistics that `sorted_mean` takes of n normal values, in sigma (Blom 1958)."""
    if n < 4:
        return 1.0
    out = max(int(np.rint(n / 6)), 1)
    return -2 * NormalDist().inv_cdf((out + 1 - 0.375) / (n + 0.25))
