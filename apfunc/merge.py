"""The weighted mean of a stack of frames without its outliers, tile by tile.

A value d_k is an outlier when, with m the median of the frames,

    |d_k - m| > sigma * noise_k + slack_k * steepness_2(m) + wing_k * steepness_15(m)       or, means over 3 x 3 pixels,
    |<d_k - m>| > sigma * COHERENT * noise_k + slack_k * steepness_3(m) + wing_k * steepness_15(m)

(then with its neighbours), with noise_k^2 = excess_k / w_k + photon_k * m.  A strong outlier takes its neighbours with
it too, for it has dark lobes where the frame was interpolated.  Steepness_r is the range within r pixels (a square) of
m's means over 3 x 3 pixels, less what noise makes of it; `slack` and `wing` are measured from the frames' own stars
(see apfunc.seeing), so that neither seeing nor a shift of a tenth of a pixel makes an outlier of a star: where one
frame's wing is wide and faint the star's core is near.  (DrizzlePac's driz_cr has a constant times the derivative.)

Two frames are compared with each other: m is the `innocent` of them, noise_k the mean of both.

Only what exceeds the least noise of a tile is looked at in such detail.
"""

import numpy as np

from apfunc.ranks import LOW, halved, median, rank

COHERENT = 0.45  # noise of a mean over 3 x 3 interpolated pixels, in that of a pixel
ENOUGH, FEW = 25, 5  # of more frames the median is that of so many, evenly chosen, unless fewer than FEW have a value
STRONG = 4  # times its limit is an outlier strong, which takes its neighbours with it
LOBE, NEAR = 0.35, 3  # at most: depth of the dark lobes beside a cosmic ray in its height, how far off they are [pixel]
WING = 16  # [pixel] from how far off, nearly, a star's light tells how bright its wing may be (3 k + 1)


def halo(frames, wing):
    """Pixels round a tile that it needs: for a neighbour's limits and what it is compared with, of two frames twice.

    Few frames may be but two in some place.
    """
    reach = (WING if np.any(wing) else 4) + 1
    return 2 * (reach + NEAR) if frames < 3 else reach + NEAR if frames < 9 else reach


def merge(d, w, good, rest, photon, excess, slack, wing, sigma=4.0, method="clip", share=None):
    """Weighted mean and weight of a tile: float32 arrays (rows, columns), and the number of outliers (frames,).

    d       (frames, rows, columns) float32, finite; w: inverse variances, 0 where not good; good: boolean.
    rest    like d, or None: known difference of each frame's sky, left out of account in the comparison with others.
    photon  (frames,) variance per unit of signal; excess (frames,): see above; share: further weights.
    slack, wing  (2, frames): of stars against the median, and where but two frames are good.
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
        limit = limits(middle, good.sum(0) == 2, w, photon, excess, slack, wing, sigma, y, x)[0].reshape(d.shape)
        off = np.where(good, compared - middle, np.float32(0))
        return *mean(d + (np.clip(off, -limit, limit) - off), w, share), lost
    facts = photon, excess, slack, wing, sigma
    if len(d) == 2:  # what is strong of one must be gone before the fainter of the other can be seen beside it
        two = good.all(0)
        strong = outliers(compared, innocent(compared, good), two, w, good, *facts, strong=True)
        left, middle = good & ~strong, innocent(compared, good, strong)
        out = outliers(compared, middle, two, np.where(left, w, np.float32(0)), left, *facts)
        out = strong | out & ~strong[::-1]
    else:
        middle, two = pairs(middle, compared, good)
        out = outliers(compared, middle, two, w, good, *facts)
    value, weight = mean(d, w, share)
    y, x = np.divmod(np.flatnonzero(out.any(0)), d.shape[2])
    if len(y):
        some = (part[:, y, x] for part in (d, w, out, good))
        value[y, x], weight[y, x], out = without(*some, middle[y, x], share)
        lost = np.count_nonzero(out, axis=1)
    return value, weight, lost


def outliers(d, middle, two, w, good, photon, excess, slack, wing, sigma, strong=False):
    """Boolean (frames, rows, columns): the outliers of d from the median; `strong`: only the strong ones; `two`: see
    `limits`."""
    shape, some = (len(d), middle.shape[0] + 2, middle.shape[1] + 2), not good.all()
    off = np.zeros(shape, "f4")  # with a rim of zeros
    doubtful, scratch = np.zeros(middle.shape, bool), [np.empty(shape[1:], "f4") for _ in range(2)]
    for k in range(len(d)):
        inner, size = off[k, 1:-1, 1:-1], scratch[0][1:-1, 1:-1]
        np.subtract(d[k], middle, out=inner)
        if some:
            np.copyto(inner, 0, where=~good[k])
        least = sigma * np.sqrt(excess[k] / max(w[k].max(), np.float32(1e-30)))
        doubtful |= np.abs(inner, out=size) > np.float32((STRONG if strong else 1) * least)
        if not strong:
            sums = box(off[k], *scratch)
            doubtful |= np.abs(sums, out=sums) > np.float32(9 * COHERENT * least)
    y, x = np.divmod(np.flatnonzero(doubtful), middle.shape[1])
    limit, mean_limit = limits(middle, two, w, photon, excess, slack, wing, sigma, y, x)
    times = np.abs(off[:, 1 + y, 1 + x]) / limit
    with_rim = times > STRONG
    if not strong:
        sums = sum(off[:, y + dy, x + dx] for dy in (0, 1, 2) for dx in (0, 1, 2))
        with_rim |= np.abs(sums) > 9 * mean_limit
    out = np.zeros(shape, bool)
    k, at = np.nonzero(times > (STRONG if strong else 1))
    out[k, 1 + y[at], 1 + x[at]] = True
    k, at = np.nonzero(with_rim)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            out[k, y[at] + dy, x[at] + dx] = True
    return out[:, 1:-1, 1:-1] & good


def without(d, w, out, good, middle, share):
    """Mean and weight of pixels (frames, n) without the outliers, and these.

    Of two frames that both are some the innocent stays; where more frames leave nothing it is the median, of weight 0.
    """
    out = out.copy()
    none = (out | ~good).all(0)
    two = np.flatnonzero(none & (good.sum(0) == 2))
    out[np.where(good, np.abs(d - middle), np.inf)[:, two].argmin(0), two] = False
    value, weight = mean(d, np.where(out, np.float32(0), w), share)
    return np.where((weight == 0) & good.any(0), middle, value), weight, out


def limits(middle, two, w, photon, excess, slack, wing, sigma, y, x):
    """How far values, and means over 3 x 3 pixels, may lie from the median at the pixels (y, x): (frames, n) each,
    infinite where not good.  `two`: where but two frames are good, or beside that."""
    known = w[:, y, x] > 0
    with np.errstate(divide="ignore"):
        noise = column(excess, 2) / w[:, y, x] + column(photon, 2) * np.maximum(middle[y, x], 0)
    calm = np.sqrt(noise.min(0)) * np.float32(COHERENT * np.sqrt(1.57 / len(w)))  # noise of the median's means
    calm[~np.isfinite(calm)] = 0
    two = np.flatnonzero(two[y, x])
    if len(two):  # they are compared with each other
        known = known[:, two]
        noise[:, two] = np.where(known, np.where(known, noise[:, two], 0).sum(0) / np.maximum(known.sum(0), 1), np.inf)
        calm[two] *= np.float32(np.sqrt(len(w) / 1.57))
    smooth = box(np.pad(middle, WING, mode="edge")) / np.float32(9)
    windows = np.lib.stride_tricks.sliding_window_view(smooth, (2 * WING - 1, 2 * WING - 1))

    def allowed(kind, places, of_noise):
        steep = spread(windows[:, :, places, places], y, x) - np.float32(of_noise) * calm
        factor = np.repeat(column(kind[0], 2), len(y), 1)
        factor[:, two] = column(kind[1], 2)
        return factor * np.maximum(steep, 0)
    noise = np.float32(sigma) * np.sqrt(noise)
    wings = allowed(wing, slice(None, None, 3), 4.1) if np.any(wing) else np.float32(0)
    return (noise + allowed(slack, slice(WING - 3, WING + 2), 3.3) + wings,
            np.float32(COHERENT) * noise + allowed(slack, slice(WING - 4, WING + 3), 3.8) + wings)


def spread(windows, y, x, what=np.ptp):
    """Range (or the like) of the windows (rows, columns, …, …) at the pixels (y, x): (n,)."""
    parts = [what(windows[y[k:k + 4096], x[k:k + 4096]], axis=(1, 2)) for k in range(0, len(y), 4096)]
    return np.concatenate(parts) if parts else np.zeros(0, "f4")


def column(values, axes=3):
    """Numbers (frames,) as float32 (frames, 1, …) of so many axes."""
    return np.asarray(values, "f4").reshape(-1, *[1] * (axes - 1))


def box(values, lines=None, out=None):
    """Sums over 3 x 3 pixels of values with a rim: (…, rows, columns) of (…, rows + 2, columns + 2).

    `lines` and `out`, if given, are what it works in, of the shape of `values`; the result lies in `out`.
    """
    lines = None if lines is None else lines[..., :-2, :]
    lines = np.add(values[..., :-2, :], values[..., 1:-1, :], out=lines)
    lines += values[..., 2:, :]
    out = np.add(lines[..., :-2], lines[..., 1:-1], out=None if out is None else out[..., :-2, :-2])
    out += lines[..., 2:]
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


def innocent(values, good, out=None):
    """Of two frames (2, …, rows, columns) the one that, within NEAR pixels, is not the higher where they differ most.

    What is wrong in a frame is light too much; dark are only the lobes that interpolation puts beside it, not as deep
    as LOBE of its height: of what is `out` already only these are reckoned with.  Where one frame alone is good it is
    that; 0 where none is.
    """
    more = np.where(good.all(0), values[0] - values[1], np.float32(0))
    if out is not None:
        more[out.any(0)] *= np.float32(LOBE)
        good = good & ~out
    first = np.where(good[0] == good[1], highest(more) >= highest(-more), good[1])
    return np.where(good.any(0), np.where(first, values[1], values[0]), np.float32(0))


def pairs(middle, values, good):
    """`middle` with that of `innocent` where but two frames are good; and where that is, or beside it, boolean."""
    beside = np.zeros((middle.shape[0] + 2, middle.shape[1] + 2), bool)
    y, x = np.divmod(np.flatnonzero(~good.all(0)), middle.shape[1])
    two = good[:, y, x].sum(0) == 2
    y, x = y[two], x[two]
    if len(y):
        known = good[:, y, x]
        first, last = values[known.argmax(0), y, x], values[len(good) - 1 - known[::-1].argmax(0), y, x]
        more = np.zeros((middle.shape[0] + 2 * NEAR, middle.shape[1] + 2 * NEAR), "f4")
        more[y + NEAR, x + NEAR] = first - last
        windows = np.lib.stride_tricks.sliding_window_view(more, (2 * NEAR + 1, 2 * NEAR + 1))
        up, down = (spread(windows, y, x, end) for end in (np.max, np.min))
        middle = middle.copy()
        middle[y, x] = np.where(up >= -down, last, first)
        for dy in (0, 1, 2):
            for dx in (0, 1, 2):
                beside[y + dy, x + dx] = True
    return middle, beside[1:-1, 1:-1]


def highest(values, near=NEAR):
    """The largest value within `near` pixels (a square of the last two axes) of each."""
    for axis in (-1, -2):
        turned = np.moveaxis(values, axis, -1)
        wide = np.pad(turned, [(0, 0)] * (values.ndim - 1) + [(near, near)], mode="edge")
        size = 1
        while size < 2 * near + 1:
            step = min(size, 2 * near + 1 - size)
            wide, size = np.maximum(wide[..., :-step], wide[..., step:]), size + step
        values = np.moveaxis(wide, -1, axis)
    return values


def mean(d, w, share=None):
    """Mean over the first axis with the weights share * w, and its inverse variance; NaN and 0 where there is none.

    Added frame by frame, so that a pixel's value does not depend on how many pixels there are.
    """
    total = w[0] * np.float32(1 if share is None else share[0])
    value, square, term = d[0] * total, total * np.float32(1 if share is None else share[0]), np.empty_like(total)
    for k in range(1, len(d)):
        part = w[k] if share is None else w[k] * np.float32(share[k])
        total += part
        value += np.multiply(d[k], part, out=term)
        if share is not None:
            square += np.multiply(part, np.float32(share[k]), out=term)
    with np.errstate(invalid="ignore", divide="ignore"):
        value /= total
        return value, total if share is None else np.where(total > 0, total * total / square, 0).astype("f4")
