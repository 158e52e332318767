"""The weighted mean of a stack of frames without its outliers, tile by tile.

A value d_k is an outlier when, with m the median of the frames,

    |d_k - m| > sigma * noise_k + slack_k * steepness(m)         or, for the means over 3 x 3 pixels,
    |<d_k - m>| > sigma * COHERENT * noise_k + slack_k * <steepness>        (its neighbours with it)

noise_k^2 = excess_k / w_k + photon_k * m.  Steepness is the range of m in 3 x 3 pixels, less what noise alone makes;
`slack` is measured from the frames' own stars (see `slacks`), so that neither seeing nor a shift of a tenth of a pixel
makes an outlier of a star.  Only what exceeds the least noise of a tile is looked at in such detail.
"""

import functools

import numpy as np

COHERENT = 0.45  # noise of a mean over 3 x 3 interpolated pixels, in that of a pixel
HALO = 3  # pixels round a tile that it needs
ENOUGH, FEW = 25, 5  # of more frames the median is that of so many, evenly chosen, unless fewer than FEW have a value
LOW = 4  # of two or four values the lower middle one stands for the median: of two the larger is the suspect


def merge(d, w, good, rest, photon, excess, slack, sigma=4.0, method="clip", share=None):
    """Weighted mean and weight of a tile: float32 arrays (rows, columns), and the number of outliers (frames,).

    d       (frames, rows, columns) float32, finite; w: inverse variances, 0 where not good; good: boolean.
    rest    like d, or None: known difference of each frame's sky, left out of account in the comparison with others.
    photon  (frames,) variance per unit of signal; excess, slack (frames,): see above; share: further weights.
    """
    lost = np.zeros(len(d), int)
    if method == "none" or len(d) == 1:
        return *mean(d, w, share), lost
    compared = d if rest is None else d - rest
    if method == "minmax":
        ranked, count = rank(compared, good)
        largest = np.take_along_axis(np.stack(ranked), np.maximum(count - 1, 0)[None].astype(np.intp), 0)[0]
        out = good & (count > 2) & ((compared <= ranked[0]) | (compared >= largest))
        return *mean(d, np.where(out, np.float32(0), w), share), out.sum((1, 2))
    middle = centre(compared, good)
    if method == "median":
        some = good.any(0)
        middle = middle if rest is None else centre(d, good)
        return np.where(some, middle, np.float32(np.nan)), w.sum(0), lost
    off = np.zeros((len(d), middle.shape[0] + 2, middle.shape[1] + 2), "f4")  # with a rim of zeros
    inner = off[:, 1:-1, 1:-1]
    np.subtract(compared, middle, out=inner)
    if not good.all():
        np.copyto(inner, 0, where=~good)
    signal = np.maximum(middle, 0)
    steep = steepness(middle, signal, w, photon, excess)
    slope = box(np.pad(steep, 1))
    if method == "winsor":
        with np.errstate(divide="ignore"):
            noise = np.sqrt(column(excess) / w + column(photon) * signal)
        limit = np.float32(sigma) * noise + column(slack) * steep
        return *mean(d + (np.clip(inner, -limit, limit) - inner), w, share), lost
    out = [outliers(*part, signal, steep, slope, sigma) for part in zip(off, w, good, photon, excess, slack)]
    value, weight = mean(d, w, share)
    few = np.unique(np.concatenate(out))
    if len(few):
        y, x = np.divmod(few, d.shape[2])
        some, trusted = d[:, y, x], w[:, y, x]
        for k, at in enumerate(out):
            trusted[k, np.searchsorted(few, at)], lost[k] = 0, len(at)
        part, total = mean(some, trusted, share)
        value[y, x] = np.where((total == 0) & good[:, y, x].any(0), middle[y, x], part)
        weight[y, x] = total
    return value, weight, lost


def outliers(off, w, good, photon, excess, slack, signal, steep, slope, sigma):
    """Indices in a flat tile of a frame's outliers; `off`, d_k - m, has a rim of zeros, 0 where not good.

    `slope` is the steepness' sum over 3 x 3 pixels.
    """
    inner, sums, coherent = off[1:-1, 1:-1], box(off), 9 * COHERENT * sigma
    least = np.sqrt(excess / max(w.max(), np.float32(1e-30)))
    doubtful = np.abs(inner) > np.float32(sigma * least)
    doubtful |= np.abs(sums) > np.float32(coherent * least)
    y, x = np.divmod(np.flatnonzero(doubtful), inner.shape[1])
    with np.errstate(divide="ignore"):
        noise = np.sqrt(np.float32(excess) / w[y, x] + np.float32(photon) * signal[y, x])
    alone = np.abs(inner[y, x]) > np.float32(sigma) * noise + np.float32(slack) * steep[y, x]
    along = np.abs(sums[y, x]) > np.float32(coherent) * noise + np.float32(slack) * slope[y, x]
    out = np.zeros(off.shape, bool)
    out[1 + y[alone], 1 + x[alone]] = True
    y, x = y[along], x[along]
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            out[y + dy, x + dx] = True
    return np.flatnonzero(out[1:-1, 1:-1] & good)


def steepness(middle, signal, w, photon, excess):
    """Range of the median in 3 x 3 pixels, less that of its noise (four times it, from the best frame's)."""
    best = np.maximum.reduce(w if np.all(excess == 1) else w / column(excess), axis=0)
    calm = np.sqrt(1 / np.maximum(best, np.float32(1e-30)) + np.float32(np.min(photon)) * signal)
    calm *= best > 0
    steep = extent(middle)
    steep -= calm * np.float32(4 / np.sqrt(len(w)))
    return np.maximum(steep, 0, out=steep)


def column(values):
    """Numbers (frames,) as float32 (frames, 1, 1)."""
    return np.asarray(values, "f4")[:, None, None]


def box(values):
    """Sums over 3 x 3 pixels of values with a rim: (rows, columns) of (rows + 2, columns + 2)."""
    lines = values[:-2] + values[1:-1]
    lines += values[2:]
    out = lines[:, :-2] + lines[:, 1:-1]
    out += lines[:, 2:]
    return out


def centre(values, good):
    """What the frames are compared with, finite: the median of those good, 0 of none (and see LOW)."""
    n = len(values)
    if n > ENOUGH:
        some = np.round(np.linspace(0, n - 1, ENOUGH)).astype(int)
        middle = centre(values[some], good[some])
        few = np.divmod(np.flatnonzero(good[some].sum(0, dtype="u1") < FEW), good.shape[2])
        if len(few[0]):
            middle[few] = median(*rank(values[:, *few], good[:, *few]))
        return middle
    few = np.divmod(np.flatnonzero(~good.all(0)), good.shape[2])
    if len(few[0]) > 0.3 * good[0].size:
        return median(*rank(values, good))
    lanes = list(values)
    for i, j, low, high in halved(n):
        one, two = lanes[i], lanes[j]
        lanes[i], lanes[j] = np.minimum(one, two) if low else one, np.maximum(one, two) if high else two
    middle = lanes[(n - 1) // 2].copy()
    if n > LOW and n % 2 == 0:
        middle += lanes[n // 2]
        middle *= np.float32(0.5)
    if len(few[0]):
        middle[few] = median(*rank(values[:, *few], good[:, *few]))
    return middle


def mean(d, w, share=None):
    """Mean over the first axis with the weights share * w, and its inverse variance; NaN and 0 where there is none."""
    if share is not None:
        plain, w = w, w * np.asarray(share, "f4").reshape(-1, *[1] * (w.ndim - 1))
    total, value = w.sum(0), np.einsum("k...,k...->...", d, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        value /= total
        if share is None:
            return value, total
        square = np.einsum("k...,k...->...", w, w / np.where(plain > 0, plain, 1))
        return value, np.where(total > 0, total * total / square, 0).astype("f4")


def rank(values, good):
    """The values sorted along the first axis, those not good at the end as infinity; and the number of good ones."""
    lanes = [np.where(g, v, np.float32(np.inf)) for v, g in zip(values, good)]
    for i, j in network(len(lanes)):
        lanes[i], lanes[j] = np.minimum(lanes[i], lanes[j]), np.maximum(lanes[i], lanes[j])
    return lanes, good.sum(0, dtype="u1" if len(good) < 256 else "u4")


@functools.cache
def network(n):
    """Compare-exchange pairs that sort n lanes: Batcher's odd-even merge sort (Knuth, TAOCP 3, 5.2.2 M)."""
    pairs, p = [], 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                pairs += [(i + j, i + j + k) for i in range(min(k, n - j - k))
                          if (i + j) // (2 * p) == (i + j + k) // (2 * p)]
            k //= 2
        p *= 2
    return pairs


@functools.cache
def halved(n):
    """What of `network` the middle lanes need: (i, j, whether the smaller is needed, whether the larger is)."""
    needed, steps = {(n - 1) // 2, n // 2 if n > LOW else (n - 1) // 2}, []
    for i, j in reversed(network(n)):
        if i in needed or j in needed:
            steps.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return steps[::-1]


def median(ranked, count):
    """Median of `count` sorted values (see LOW), 0 of none."""
    ranked, c = np.stack(ranked), count.astype(np.intp)
    lower = np.maximum(c - 1, 0) // 2
    one, two = (np.take_along_axis(ranked, i[None], 0)[0] for i in (lower, np.where(c > LOW, c // 2, lower)))
    return np.where(c > 0, (one + two) / 2, np.float32(0))


def extent(values):
    """Largest less smallest value in the 3 x 3 pixels round each."""
    high, low = values, values
    for axis in (0, 1):
        high, low = around(high, np.maximum, axis), around(low, np.minimum, axis)
    return high - low


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
    middle = median(ranked, count)
    steep = np.stack([extent(m) for m in middle])
    sharp = (steep > 20 * np.median(noise)) & (count >= min(3, frames))
    for k in range(frames):
        use = sharp & good[k]
        worst = np.where(use, np.abs(cores[k] - middle) / np.where(use, steep, 1), 0).max((1, 2))
        if use.any((1, 2)).sum() >= 3:
            out[k] = 1.3 * np.percentile(worst[use.any((1, 2))], 95)
    return np.clip(out, least, most)
