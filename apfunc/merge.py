"""The weighted mean of a stack of frames without its outliers, tile by tile.

A value d_k is an outlier when, with m the median of the frames,

    |d_k - m| > sigma * noise_k + slack_k * steepness_2(m)       or, for the means over 3 x 3 pixels,
    |<d_k - m>| > sigma * COHERENT * noise_k + slack_k * steepness_3(m)        (its neighbours with it)

with noise_k^2 = excess_k / w_k + photon_k * m.  A strong outlier takes its neighbours with it too, for it has dark lobes
where the frame was interpolated; where of two frames each is an outlier, the larger stays.  Steepness_r is the range of
m within r pixels (a square), less what noise makes of it; `slack` is measured from the frames' own stars (see `slacks`),
so that neither seeing nor a shift of a tenth of a pixel makes an outlier of a star: where one frame's wing is wide and
faint the star's core is near.  Only what exceeds the least noise of a tile is looked at in such detail.
"""

import functools

import numpy as np

COHERENT = 0.45  # noise of a mean over 3 x 3 interpolated pixels, in that of a pixel
ENOUGH, FEW = 25, 5  # of more frames the median is that of so many, evenly chosen, unless fewer than FEW have a value
STRONG = 4  # times its limit is an outlier strong, which takes its neighbours with it
LOW = 4  # of two or four values the lower middle one stands for the median: of two the larger is the suspect


def halo(frames):
    """Pixels round a tile that it needs: a neighbour's median within three, of two frames that of its own neighbours.

    Few frames may be but two in some place.
    """
    return 7 if frames < 9 else 4


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
    if method == "winsor":
        y, x = np.indices(middle.shape).reshape(2, -1)
        noise, steep, _ = tolerances(middle, w, photon, excess, y, x)
        limit = (np.float32(sigma) * noise + column(slack, 2) * steep).reshape(d.shape)
        off = np.where(good, compared - middle, np.float32(0))
        return *mean(d + (np.clip(off, -limit, limit) - off), w, share), lost
    facts = photon, excess, slack, sigma
    if len(d) == 2:  # a strong outlier of one must be gone before its dark lobes make outliers of the other
        strong = outliers(compared, middle, w, good, *facts, strong=True)
        left = good & ~strong
        middle = centre(compared, left)
        out = strong | outliers(compared, middle, np.where(left, w, np.float32(0)), left, *facts)
    else:
        out = outliers(compared, middle, w, good, *facts)
    value, weight = mean(d, w, share)
    y, x = np.divmod(np.flatnonzero(out.any(0)), d.shape[2])
    if len(y):
        value[y, x], weight[y, x] = without(d[:, y, x], w[:, y, x], out[:, y, x], good[:, y, x], middle[y, x], share)
    return value, weight, np.array([np.count_nonzero(flags) for flags in out])


def outliers(d, middle, w, good, photon, excess, slack, sigma, strong=False):
    """Boolean (frames, rows, columns): the outliers of d from the median; `strong`: only the strong ones."""
    off = np.zeros((len(d), middle.shape[0] + 2, middle.shape[1] + 2), "f4")  # with a rim of zeros
    inner, coherent = off[:, 1:-1, 1:-1], 9 * COHERENT * sigma
    np.subtract(d, middle, out=inner)
    if not good.all():
        np.copyto(inner, 0, where=~good)
    sums = None if strong else box(off)
    doubtful = np.zeros(middle.shape, bool)
    for k in range(len(d)):
        least = np.sqrt(excess[k] / max(w[k].max(), np.float32(1e-30)))
        doubtful |= np.abs(inner[k]) > np.float32((STRONG if strong else 1) * sigma * least)
        if not strong:
            doubtful |= np.abs(sums[k]) > np.float32(coherent * least)
    y, x = np.divmod(np.flatnonzero(doubtful), middle.shape[1])
    noise, steep, slope = tolerances(middle, w, photon, excess, y, x)
    times = np.abs(inner[:, y, x]) / (np.float32(sigma) * noise + column(slack, 2) * steep)
    wide = times > STRONG  # and with them those along which the means differ, with their neighbours
    if not strong:
        wide |= np.abs(sums[:, y, x]) > np.float32(coherent) * noise + column(slack, 2) * (9 * slope)
    out = np.zeros(off.shape, bool)
    k, at = np.nonzero(times > (STRONG if strong else 1))
    out[k, 1 + y[at], 1 + x[at]] = True
    k, at = np.nonzero(wide)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            out[k, y[at] + dy, x[at] + dx] = True
    return out[:, 1:-1, 1:-1] & good


def without(d, w, out, good, middle, share):
    """Mean and weight of pixels (frames, n) without the outliers; of two frames that both are some the larger stays.

    Where more frames leave nothing it is the median, of weight 0.
    """
    out = out.copy()
    none = (out | ~good).all(0)
    two = np.flatnonzero(none & (good.sum(0) == 2))
    out[np.where(good, d, -np.inf)[:, two].argmax(0), two] = False
    value, weight = mean(d, np.where(out, np.float32(0), w), share)
    return np.where((weight == 0) & good.any(0), middle, value), weight


def tolerances(middle, w, photon, excess, y, x):
    """At the pixels (y, x): noise (frames, n), infinite where not good, and steepness within two and three pixels (n,).

    Steepness is the range of the median less what its noise makes of it.
    """
    signal = np.maximum(middle[y, x], 0)
    with np.errstate(divide="ignore"):
        fixed = column(excess, 2) / w[:, y, x]
    noise = np.sqrt(fixed + column(photon, 2) * signal)
    calm = np.sqrt(fixed.min(0) + np.float32(np.min(photon)) * signal) / np.float32(np.sqrt(len(w)))
    calm[~np.isfinite(calm)] = 0
    wide = np.lib.stride_tricks.sliding_window_view(np.pad(middle, 3, mode="edge"), (7, 7))
    parts = [wide[y[k:k + 4096], x[k:k + 4096]] for k in range(0, len(y), 4096)]
    near, far = (np.concatenate([np.ptp(p, axis=(1, 2)) for p in some]) if len(y) else np.zeros(0, "f4")
                 for some in ([p[:, 1:-1, 1:-1] for p in parts], parts))
    return noise, np.maximum(near - np.float32(5) * calm, 0), np.maximum(far - np.float32(6.5) * calm, 0)


def column(values, axes=3):
    """Numbers (frames,) as float32 (frames, 1, …) of so many axes."""
    return np.asarray(values, "f4").reshape(-1, *[1] * (axes - 1))


def box(values):
    """Sums over 3 x 3 pixels of values with a rim: (frames, rows, columns) of (frames, rows + 2, columns + 2)."""
    lines = values[:, :-2] + values[:, 1:-1]
    lines += values[:, 2:]
    out = lines[:, :, :-2] + lines[:, :, 1:-1]
    out += lines[:, :, 2:]
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
    """Mean over the first axis with the weights share * w, and its inverse variance; NaN and 0 where there is none.

    Added frame by frame, so that a pixel's value does not depend on how many pixels there are.
    """
    total, value, square, term = np.zeros((4, *d.shape[1:]), "f4")
    for k in range(len(d)):
        part = w[k] if share is None else w[k] * np.float32(share[k])
        total += part
        value += np.multiply(d[k], part, out=term)
        if share is not None:
            square += np.multiply(part, np.float32(share[k]), out=term)
    with np.errstate(invalid="ignore", divide="ignore"):
        value /= total
        return value, total if share is None else np.where(total > 0, total * total / square, 0).astype("f4")


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
    middle_and_rim = np.pad(middle, ((0, 0), (2, 2), (2, 2)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(middle_and_rim, (5, 5), (1, 2))
    steep = windows.max((3, 4)) - windows.min((3, 4))
    sharp = (steep > 20 * np.median(noise)) & (count >= min(3, frames))
    for k in range(frames):
        use = sharp & good[k]
        worst = np.where(use, np.abs(cores[k] - middle) / np.where(use, steep, 1), 0).max((1, 2))
        if use.any((1, 2)).sum() >= 3:
            out[k] = 1.5 * np.percentile(worst[use.any((1, 2))], 70)
    return np.clip(out, least, most)
