"""The weighted mean of a stack of frames without its outliers (see apfunc.outliers), tile by tile.

Of two frames each is compared with the other: m is the `innocent` of them.  Else m is their median.
"""

import numpy as np

from apfunc.outliers import CACHED, WING, extremes, limits, outliers, square
from apfunc.ranks import LOW, halved, median, rank

ENOUGH, FEW = 25, 5  # of more frames the median is that of so many, evenly chosen, unless fewer than FEW have a value
LOBE, NEAR = 0.35, 3  # at most: depth of the dark lobes beside a cosmic ray in its height, how far off they are [pixel]


def halo(frames, wing):
    """Pixels round a tile that it needs: for a neighbour's limits and what it is compared with, of two frames twice.

    Few frames may be but two in some place.
    """
    reach = (WING if np.any(wing) else 4) + 1
    return 2 * (reach + NEAR) if frames < 3 else reach + NEAR if frames < 9 else reach


def merge(d, w, good, rest, photon, excess, slack, wing, sigma=4.0, method="clip", share=None, keep=slice(None)):
    """Weighted mean and weight of the rows `keep` of a tile, float32 (rows, columns); numbers of outliers (frames,).

    d       (frames, rows, columns) float32, finite; w: inverse variances; good: boolean, where these are above 0.
    rest    like d, or None: known difference of each frame's sky, left out of account in the comparison with others.
    photon  (frames,) variance per unit of signal; excess (frames,): see above; share: further weights.
    slack, wing  (2, frames): of stars against the median, and where but two frames are good.
    """
    kept, lost = (d[:, keep], w[:, keep]), np.zeros(len(d), int)
    if method == "none" or len(d) == 1:
        return *in_strips(mean, *kept, share), lost
    compared = d if rest is None else d - rest
    if method == "minmax":
        compared, good = compared[:, keep], good[:, keep]
        ranked, count = rank(compared, good)
        largest = np.take_along_axis(np.stack(ranked), np.maximum(count, 1)[None].astype(np.intp) - 1, 0)[0]
        out = good & (count > 2) & ((compared <= ranked[0]) | (compared >= largest))
        return *mean(kept[0], np.where(out, np.float32(0), kept[1]), share), out.sum((1, 2))
    if method == "median":
        value, some = in_strips(centre, kept[0], good[:, keep])
        return np.where(some > 0, value, np.float32(np.nan)), mean(*kept)[1], lost
    middle, count = in_strips(centre, compared, good)
    if method == "winsor":
        y, x = np.indices(middle.shape).reshape(2, -1)
        limit = limits(middle, count == 2, w, good, photon, excess, slack, wing, sigma, y, x)[0].reshape(d.shape)
        off = np.where(good, compared - middle, np.float32(0))
        return *mean((d + (np.clip(off, -limit, limit) - off))[:, keep], kept[1], share), lost
    facts = photon, excess, slack, wing, sigma
    if len(d) == 2:  # what is strong of one must be gone before the fainter of the other can be seen beside it
        two, strong, out = count == 2, np.zeros(d.shape, bool), np.zeros(d.shape, bool)
        strong[outliers(compared, innocent(compared, good), two, w, good, *facts, strong=True)] = True
        middle = innocent(compared, good, strong)
        out[outliers(compared, middle, two, w, good & ~strong, *facts)] = True
        k, y, x = np.nonzero(strong | out & ~strong[::-1])
    else:
        middle, two = pairs(middle, compared, good, np.divmod(np.flatnonzero(count == 2), d.shape[2]))
        k, y, x = outliers(compared, middle, two, w, good, *facts, keep=keep)
    first, last, _ = keep.indices(len(middle))
    value, weight = in_strips(mean, *kept, share)
    inside = (y >= first) & (y < last)
    pixel, at = np.unique(y[inside] * d.shape[2] + x[inside], return_inverse=True)
    if len(pixel):
        y, x = np.divmod(pixel, d.shape[2])
        out = np.zeros((len(d), len(pixel)), bool)
        out[k[inside], at] = True
        some = (plane[:, y, x] for plane in (d, w, good))
        value[y - first, x], weight[y - first, x], out = without(*some, out, middle[y, x], share)
        lost = np.count_nonzero(out, axis=1)
    return value, weight, lost


def in_strips(function, *planes):
    """Two planes that a function makes of some (frames, rows, columns), in strips of rows that stay in the processor's
    cache; of what is no such plane it gets all.
    """
    rows, columns = planes[0].shape[1:]
    high, out = max(1, CACHED // (min(len(planes[0]), ENOUGH) * columns)), None
    for top in range(0, rows, high):
        part = np.s_[:, top:top + high]
        done = function(*(plane[part] if np.ndim(plane) == 3 else plane for plane in planes))
        out = [np.empty((rows, columns), v.dtype) for v in done] if out is None else out
        for whole, piece in zip(out, done):
            whole[top:top + high] = piece
    return out


def without(d, w, good, out, middle, share):
    """Mean and weight of pixels (frames, n) without the outliers, and these.

    Of two frames that both are some the innocent stays; where more frames leave nothing it is the median, of weight 0.
    """
    out = out.copy()
    none = (out | ~good).all(0)
    two = np.flatnonzero(none & (good.sum(0) == 2))
    out[np.where(good, np.abs(d - middle), np.inf)[:, two].argmin(0), two] = False
    value, weight = mean(d, np.where(out, np.float32(0), w), share)
    return np.where((weight == 0) & good.any(0), middle, value), weight, out


def centre(values, good):
    """What the frames are compared with, finite: the median of those good, 0 of none (see LOW); how many are good."""
    n, count = len(values), good.sum(0, dtype="u1" if len(good) < 256 else "u4")
    if n > ENOUGH:
        some = np.round(np.linspace(0, n - 1, ENOUGH)).astype(int)
        middle, seen = centre(values[some], good[some])
        few = (seen < FEW) & (count > 0)
    else:
        lanes = list(values)
        for i, j, low, high in halved(n):
            one, two = lanes[i], lanes[j]
            lanes[i], lanes[j] = np.minimum(one, two) if low else one, np.maximum(one, two) if high else two
        middle = lanes[(n - 1) // 2].copy()
        if n > LOW and n % 2 == 0:
            middle += lanes[n // 2]
            middle *= np.float32(0.5)
        few = (count < n) & (count > 0)
    np.copyto(middle, 0, where=count == 0)
    few = np.flatnonzero(few)
    if len(few):
        middle.reshape(-1)[few] = median(*rank(*(np.stack([v.reshape(-1)[few] for v in p]) for p in (values, good))))
    return middle, count


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


def pairs(middle, values, good, two):
    """`middle` with that of `innocent` at the pixels `two` (y, x) where but two frames are good; and where that is, or
    beside it, boolean."""
    beside, (y, x) = np.zeros((middle.shape[0] + 2, middle.shape[1] + 2), bool), two
    if len(y):
        known = good[:, y, x]
        first, last = values[known.argmax(0), y, x], values[len(known) - 1 - known[::-1].argmax(0), y, x]
        more = np.zeros((middle.shape[0] + 2 * NEAR, middle.shape[1] + 2 * NEAR), "f4")
        more[y + NEAR, x + NEAR] = first - last
        down, up = extremes(more, y + NEAR, x + NEAR, square(range(-NEAR, NEAR + 1)))
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
    """Mean over the first axis with the weights share * w, below 0 taken as none, and its inverse variance; NaN and 0
    where there is none.

    Added frame by frame, so that a pixel's value does not depend on how many pixels there are.
    """
    part, term = np.empty(d.shape[1:], "f4"), np.empty(d.shape[1:], "f4")
    value, total, square = (np.zeros(d.shape[1:], "f4") for _ in range(3))
    for k in range(len(d)):
        np.maximum(w[k], 0, out=part)
        if share is not None:
            part *= np.float32(share[k])
            square += np.multiply(part, np.float32(share[k]), out=term)
        total += part
        value += np.multiply(d[k], part, out=term)
    with np.errstate(invalid="ignore", divide="ignore"):
        value /= total
        return value, total if share is None else np.where(total > 0, total * total / square, 0).astype("f4")
