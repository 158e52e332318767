"""The weighted mean of a stack of frames without its outliers, tile by tile.

A value d_k is an outlier when, with m the median of the frames,

    |d_k - m| > sigma * noise_k + slack_k * steepness_2(m)       or, for the means over 3 x 3 pixels,
    |<d_k - m>| > sigma * COHERENT * noise_k + slack_k * steepness_3(m)        (its neighbours with it)

A strong outlier takes its neighbours with it too, for it has dark lobes where the frame was interpolated; where of two
frames each is an outlier beside the other, the larger stays.  noise_k^2 = excess_k / w_k + photon_k * m.  Steepness_r is the range of m within r pixels (a square), less what noise
alone makes; `slack` is measured from the frames' own stars (see `slacks`), so that neither seeing nor a shift of a
tenth of a pixel makes an outlier of a star: where a wing is faint and wide the star's core is near.  Only what exceeds
the least noise of a tile is looked at in such detail.
"""

import functools

import numpy as np

COHERENT = 0.45  # noise of a mean over 3 x 3 interpolated pixels, in that of a pixel
HALO = 5  # pixels round a tile that it needs
ENOUGH, FEW = 25, 5  # of more frames the median is that of so many, evenly chosen, unless fewer than FEW have a value
STRONG = 3  # times its limit is an outlier strong, which takes its neighbours with it
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
    steep, slope = steepness(middle, signal, w, photon, excess)
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
        there = good[:, y, x]
        none = ~trusted.any(0) & there.any(0)
        both = np.flatnonzero(none & (there.sum(0) == 2))
        larger = np.where(there, some, -np.inf)[:, both].argmax(0)
        trusted[larger, both] = w[larger, y[both], x[both]]
        part, total = mean(some, trusted, share)
        value[y, x], weight[y, x] = np.where(none & (total == 0), middle[y, x], part), total
    return value, weight, lost


def outliers(off, w, good, photon, excess, slack, signal, steep, slope, sigma):
    """Indices in a flat tile of a frame's outliers; `off`, d_k - m, has a rim of zeros, 0 where not good.

    `steep` and `slope` are the steepness within two and three pixels.
    """
    inner, sums, coherent = off[1:-1, 1:-1], box(off), 9 * COHERENT * sigma
    least = np.sqrt(excess / max(w.max(), np.float32(1e-30)))
    doubtful = np.abs(inner) > np.float32(sigma * least)
    doubtful |= np.abs(sums) > np.float32(coherent * least)
    y, x = np.divmod(np.flatnonzero(doubtful), inner.shape[1])
    with np.errstate(divide="ignore"):
        noise = np.sqrt(np.float32(excess) / w[y, x] + np.float32(photon) * signal[y, x])
    times = np.abs(inner[y, x]) / (np.float32(sigma) * noise + np.float32(slack) * steep[y, x])
    along = np.abs(sums[y, x]) > np.float32(coherent) * noise + np.float32(9 * slack) * slope[y, x]
    out = np.zeros(off.shape, bool)
    out[1 + y[times > 1], 1 + x[times > 1]] = True
    rim = along | (times > STRONG)
    y, x = y[rim], x[rim]
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            out[y + dy, x + dx] = True
    return np.flatnonzero(out[1:-1, 1:-1] & good)


def steepness(middle, signal, w, photon, excess):
    """Ranges of the median within two and three pixels, less what its noise makes of it."""
    best = np.maximum.reduce(w if np.all(excess == 1) else w / column(excess), axis=0)
    calm = np.sqrt(1 / np.maximum(best, np.float32(1e-30)) + np.float32(np.min(photon)) * signal)
    calm *= (best > 0) * np.float32(1 / np.sqrt(len(w)))
    near = extremes(middle, middle, 1)
    wide = extremes(*near, 2)
    return [np.maximum(high - low - np.float32(times) * calm, 0)
            for (high, low), times in ((extremes(*near, 1), 5), (wide, 6.5))]


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


def extremes(high, low, step):
    """Largest of `high` and smallest of `low` of each pixel and those `step` rows, columns or both away."""
    for axis in (0, 1):
        high, low = around(high, np.maximum, axis, step), around(low, np.minimum, axis, step)
    return high, low


def around(values, operation, axis, step):
    """`operation` over each value and those `step` before and after it along an axis."""
    values = values.T if axis else values
    out = values.copy()
    operation(out[step:], values[:-step], out=out[step:])
    operation(out[:-step], values[step:], out=out[:-step])
    return out.T if axis else out


def slacks(cores, noise, least=0.3, most=6.0):
    """How far each frame's stars may differ from their median, in units of its steepness: (frames,).

    cores: (frames, stars, rows, columns) cut-outs on one flux scale, NaN where not known; noise: (frames,) of a pixel.
    Each star gives its largest |d_k - m| / steepness_2(m); it is 1.5 times the 70th percentile of these: a cosmic ray
    near every fourth star has no say.
    """
    frames = len(cores)
    out = np.full(frames, 2.0)
    if frames < 2 or not cores.size:
        return out
    good = np.isfinite(cores)
    ranked, count = rank(cores, good)
    middle = median(ranked, count)
    steep = np.stack([np.subtract(*extremes(*extremes(m, m, 1), 1)) for m in middle])
    sharp = (steep > 20 * np.median(noise)) & (count >= min(3, frames))
    for k in range(frames):
        use = sharp & good[k]
        worst = np.where(use, np.abs(cores[k] - middle) / np.where(use, steep, 1), 0).max((1, 2))
        if use.any((1, 2)).sum() >= 3:
            out[k] = 1.5 * np.percentile(worst[use.any((1, 2))], 70)
    return np.clip(out, least, most)
