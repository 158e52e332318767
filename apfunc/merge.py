"""The weighted mean of a stack of frames without its outliers, tile by tile.

A value d_k is an outlier when, with m the median of the frames,

    |d_k - m| > sigma * noise_k + slack_k * steepness(m)         or, for the means over 3 x 3 pixels,
    |<d_k - m>| > sigma * COHERENT * <noise_k> + slack_k * <steepness>        (its neighbours with it)

noise_k^2 = excess_k / w_k + photon_k * m.  Steepness is the range of m in 3 x 3 pixels; `slack` is measured from the
frames' own stars (see `slacks`), so that neither seeing nor a shift of a tenth of a pixel makes an outlier of a star.
"""

import functools

import numpy as np

COHERENT = 0.45  # noise of a mean over 3 x 3 interpolated pixels, in that of a pixel
HALO = 3  # pixels round a tile that it needs
ENOUGH, FEW = 25, 5  # of more frames the median is that of so many, evenly chosen, unless fewer than FEW have a value


def merge(d, w, good, rest, photon, excess, slack, sigma=4.0, method="clip", share=None):
    """Weighted mean and weight of a tile: float32 arrays (rows, columns), and the outliers (frames, rows, columns).

    d       (frames, rows, columns) float32, finite; w: inverse variances, 0 where not good; good: boolean.
    rest    like d, or None: known difference of each frame's sky, left out of account in the comparison with others.
    photon  (frames,) variance per unit of signal; excess, slack (frames,): see above; share: further weights.
    """
    if method == "none" or len(d) == 1:
        return (*mean(d, w, share), np.zeros(d.shape, bool))
    compared = d if rest is None else d - rest
    middle = centre(compared, good)
    if method == "median":
        ranked, count = rank(d, good)
        return np.where(count > 0, median(ranked, count), np.float32(np.nan)), w.sum(0), np.zeros(d.shape, bool)
    if method == "minmax":
        ranked, count = rank(compared, good)
        largest = np.take_along_axis(np.stack(ranked), np.maximum(count - 1, 0)[None], 0)[0]
        out = good & (count > 2) & ((compared <= ranked[0]) | (compared >= largest))
        return (*mean(d, np.where(out, np.float32(0), w), share), out)
    out, d = np.zeros(d.shape, bool), d.copy() if method == "winsor" else d
    signal = np.maximum(middle, 0)
    with np.errstate(divide="ignore"):
        noise = [np.sqrt(np.float32(excess[k]) / w[k] + np.float32(photon[k]) * signal) for k in range(len(d))]
    calm = np.minimum.reduce(noise)
    steep = extent(middle) - np.where(np.isfinite(calm), calm, 0) * np.float32(4 / np.sqrt(len(d)))
    steep = np.maximum(steep, 0, out=steep)
    around_steep = box(steep)
    for k in range(len(d)):
        off = compared[k] - middle
        off *= good[k]
        limit = np.float32(sigma) * noise[k] + np.float32(slack[k]) * steep
        if method == "winsor":
            d[k] += np.clip(off, -limit, limit) - off
            continue
        coherent = np.abs(box(off)) > np.float32(9 * sigma * COHERENT) * noise[k] + np.float32(slack[k]) * around_steep
        out[k] = ((np.abs(off) > limit) | grown(coherent)) & good[k]
    w = np.where(out, np.float32(0), w) if out.any() else w
    value, weight = mean(d, w, share)
    none = (weight == 0) & good.any(0)
    if none.any():
        value[none] = middle[none]
    return value, weight, out


def centre(values, good):
    """What the frames are compared with, finite: the median of those good; of two or four the lower middle value."""
    n = len(values)
    some = np.arange(n) if n <= ENOUGH else np.round(np.linspace(0, n - 1, ENOUGH)).astype(int)
    ranked, count = rank(values[some], good[some])
    middle = median(ranked, count, low=n <= 4)
    few = np.flatnonzero(count < FEW) if n > ENOUGH else ()
    if len(few):
        ranked, count = rank(*(part.reshape(n, -1)[:, few] for part in (values, good)))
        middle.ravel()[few] = median(ranked, count)
    return middle


def mean(d, w, share=None):
    """Mean over the first axis with the weights share * w, and its inverse variance; NaN and 0 where there is none."""
    total, value, square = 0, 0, 0
    for k in range(len(d)):
        part = w[k] if share is None else w[k] * np.float32(share[k])
        total, value = total + part, value + d[k] * part
        square = square if share is None else square + part * np.float32(share[k])
    with np.errstate(invalid="ignore", divide="ignore"):
        value = value / total
        return value, total if share is None else np.where(total > 0, total * total / square, 0).astype("f4")


def rank(values, good):
    """The values sorted along the first axis, those not good at the end as infinity; and the number of good ones."""
    lanes = [np.where(g, v, np.float32(np.inf)) for v, g in zip(values, good)]
    for i, j in network(len(lanes)):
        lanes[i], lanes[j] = np.minimum(lanes[i], lanes[j]), np.maximum(lanes[i], lanes[j])
    return lanes, good.sum(0)


@functools.cache
def network(n):
    """Compare-exchange pairs that sort n lanes: Batcher's odd-even merge sort (Knuth, TAOCP 3, 5.2.2 M)."""
    pairs, p = [], 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                pairs += [
                    (i + j, i + j + k) for i in range(min(k, n - j - k)) if (i + j) // (2 * p) == (i + j + k) // (2 * p)
                ]
            k //= 2
        p *= 2
    return pairs


def median(ranked, count, low=False):
    """Median of `count` sorted values, 0 of none; of an even number the mean of the middle two, or the `low` one."""
    n = len(ranked)
    middle = ranked[(n - 1) // 2] if low or n % 2 else (ranked[(n - 1) // 2] + ranked[n // 2]) / 2
    few = np.flatnonzero(count < n)
    if len(few):
        c = count.ravel()[few]
        some = np.stack([lane.ravel()[few] for lane in ranked])
        one, two = np.maximum(c - 1, 0) // 2, c // 2
        one, two = (np.take_along_axis(some, i[None], 0)[0] for i in (one, one if low else np.minimum(two, n - 1)))
        middle = middle.copy()
        middle.ravel()[few] = np.where(c > 0, (one + two) / 2, 0)
    return middle


def extent(values):
    """Largest less smallest value in the 3 x 3 pixels round each."""
    high, low = values, values
    for axis in (0, 1):
        high, low = around(high, np.maximum, axis), around(low, np.minimum, axis)
    return high - low


def box(values):
    """Sum over the 3 x 3 pixels round each."""
    return around(around(values, np.add, 0), np.add, 1)


def grown(flags):
    """True where any of the 3 x 3 pixels round is."""
    return around(around(flags, np.logical_or, 0), np.logical_or, 1) if flags.any() else flags


def around(values, operation, axis):
    """`operation` over each value and its two neighbours along an axis."""
    values = values.T if axis else values
    out = values.copy()
    operation(out[1:], values[:-1], out=out[1:])
    operation(out[:-1], values[1:], out=out[:-1])
    return out.T if axis else out


def slacks(cores, noise, least=0.3, most=6.0):
    """How far each frame's stars may differ from their median, in units of its steepness: (frames,).

    cores: (frames, stars, rows, columns) cut-outs on one flux scale, NaN where not known; noise: (frames,) of a pixel.
    Each star gives its largest |d_k - m| / steepness(m); it is 1.3 times the 95th percentile of these.
    """
    frames = len(cores)
    out = np.full(frames, 2.0)
    if frames < 2 or not cores.size:
        return out
    good = np.isfinite(cores)
    ranked, count = rank(cores, good)
    middle = median(ranked, count, low=frames <= 4)
    steep = np.stack([extent(m) for m in middle])
    sharp = (steep > 20 * np.median(noise)) & (count >= min(3, frames))
    for k in range(frames):
        use = sharp & good[k]
        worst = np.where(use, np.abs(cores[k] - middle) / np.where(use, steep, 1), 0).max((1, 2))
        if use.any((1, 2)).sum() >= 3:
            out[k] = 1.3 * np.percentile(worst[use.any((1, 2))], 95)
    return np.clip(out, least, most)
