"""Matching two lists of points whose relation is unknown: by shifts, by triangles, and the nearest neighbour.

A transformation is a 2x3 array t: (X, Y) = t @ (x, y, 1).  Everything is deterministic; nothing depends on the
order of the input beyond rounding.  Triangles: Groth 1986 (AJ 91, 1244), with votes for the transformation
itself in place of votes for pairs of stars.
"""

import math

import numpy as np

SURE = 25.0  # a significance beyond which no other hypothesis is tried


def apply(t, x, y):
    """The points (x, y) after the transformation t."""
    return t[0, 0] * x + t[0, 1] * y + t[0, 2], t[1, 0] * x + t[1, 1] * y + t[1, 2]


def spread(x, y, flux, n, cells=6):
    """Indices of at most `n` points, bright and spatially even: the brightest of each cell first, then the second…

    The area is divided in cells x cells; so a cluster cannot take all places.
    """
    if len(x) == 0:
        return np.zeros(0, int)
    column = np.floor(cells * (x - x.min()) / (np.ptp(x) * (1 + 1e-9) + 1e-9))
    cell = column * cells + np.floor(cells * (y - y.min()) / (np.ptp(y) * (1 + 1e-9) + 1e-9))
    order = np.lexsort((y, x, -flux))
    cell = cell[order]
    within = np.argsort(cell, kind="stable")  # the best of each cell first
    rank = np.empty(len(x), int)
    rank[within] = np.arange(len(x)) - np.searchsorted(cell[within], cell[within])
    return order[np.argsort(rank, kind="stable")][:n]


def pairs_within(x1, y1, x2, y2, radius):
    """Indices (i, j) of all pairs closer than `radius`, and their distance, by a sort along x."""
    order = np.argsort(x2, kind="stable")
    low, high = np.searchsorted(x2[order], x1 - radius), np.searchsorted(x2[order], x1 + radius, side="right")
    i = np.repeat(np.arange(len(x1)), high - low)
    j = order[np.arange(len(i)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
              + np.repeat(low, high - low)]
    gap = np.hypot(x1[i] - x2[j], y1[i] - y2[j])
    keep = gap <= radius
    return i[keep], j[keep], gap[keep]


def nearest(x1, y1, x2, y2, radius):
    """Indices (i, j) of the pairs that are each other's nearest neighbour within `radius`."""
    i, j, gap = pairs_within(x1, y1, x2, y2, radius)
    best1, best2 = np.full(len(x1), np.inf), np.full(len(x2), np.inf)
    np.minimum.at(best1, i, gap)
    np.minimum.at(best2, j, gap)
    keep = (gap == best1[i]) & (gap == best2[j])
    i, j = i[keep], j[keep]
    once = np.unique(i, return_index=True)[1]
    i, j = i[once], j[once]
    once = np.sort(np.unique(j, return_index=True)[1])
    return i[once], j[once]


def affine(x, y, big_x, big_y, similar=False):
    """Least-squares transformation of matched points: six free numbers, or a similarity of either parity (2 points
    do)."""
    if similar or len(x) < 4:
        z, big_z = x + 1j * y, big_x + 1j * big_y
        best = None
        for parity in (1, -1):
            w = z if parity == 1 else z.conj()
            d, big_d = w - w.mean(), big_z - big_z.mean()
            a = (d.conj() @ big_d) / max((d.conj() @ d).real, 1e-30)
            rest = np.abs(big_d - a * d).sum()
            if best is None or rest < best[0]:
                best = rest, a, big_z.mean() - a * w.mean(), parity
        _, a, b, parity = best
        return np.array([[a.real, -parity * a.imag, b.real], [a.imag, parity * a.real, b.imag]])
    design = np.stack([x, y, np.ones(len(x))], axis=1)
    return np.linalg.lstsq(design, np.stack([big_x, big_y], axis=1), rcond=None)[0].T


def significance(matches, tries, chance):
    """-log10 of the probability that `matches` or more of `tries` points fall on another by chance (Chernoff bound)."""
    share = matches / max(tries, 1)
    if matches <= 0 or share <= chance:
        return 0.0
    chance = max(chance, 1e-12)
    rest = (1 - share) * math.log((1 - share) / (1 - chance)) if share < 1 else 0.0
    return tries * (share * math.log(share / chance) + rest) / math.log(10)


def refine(t, one, two, radius, free=2, rounds=5, similar=False):
    """Follow a rough transformation to its best: match, fit, match closer.

    `one`, `two`: (x, y) arrays; `radius`: the first and the last matching radius, in units of `two`; `free`: matches
    that the hypothesis itself used up.  Returns (t, i, j, score), score being the significance of the last match.
    """
    i = j = np.zeros(0, int)
    shape = np.linalg.det(t[:, :2])
    for r in np.geomspace(*radius, rounds):
        moved = apply(t, *one)
        i, j = nearest(*moved, *two, r)
        if len(i) < 2:
            return t, i, j, 0.0
        new = affine(one[0][i], one[1][i], two[0][j], two[1][j], similar=similar or len(i) < 6)
        if not 0.5 < np.linalg.det(new[:, :2]) / shape < 2:
            return t, i, j, 0.0
        t = new
    i, j = nearest(*apply(t, *one), *two, radius[1])
    return t, i, j, _score(t, one, two, len(i), radius[1], free)


def _score(t, one, two, matches, radius, free):
    """Significance of `matches`, from the side it is clearer: stars of `one` that hit one of `two`, or the other way
    round. Only points inside the other list's bounds could match at all."""
    x, y = apply(t, *one)
    both = []
    for (a, b), (c, d) in (((x, y), two), (two, (x, y))):
        (x0, x1), (y0, y1) = (c.min(), c.max()), (d.min(), d.max())
        tries = np.count_nonzero((a > x0 - radius) & (a < x1 + radius) & (b > y0 - radius) & (b < y1 + radius))
        others = np.count_nonzero((c >= a.min()) & (c <= a.max()) & (d >= b.min()) & (d <= b.max()))
        area = max(min(x1, a.max()) - max(x0, a.min()), radius) * max(min(y1, b.max()) - max(y0, b.min()), radius)
        both.append(significance(matches - free, max(tries - free, 1), min(others * math.pi * radius**2 / area, 0.9)))
    return max(both)


def shifts(one, two, linear, cell, top=5):
    """The likeliest transformations with the known 2x2 matrix `linear`: peaks among all differences of positions.

    `cell`: the accuracy asked for, in units of `two`.  Returns a list of at most `top` transformations.
    """
    linear = np.asarray(linear, float)
    x, y = linear @ np.stack(one)
    d_x, d_y = (two[0][None, :] - x[:, None]).ravel(), (two[1][None, :] - y[:, None]).ravel()
    found = []
    for offset in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)):
        key_x, key_y = np.floor(d_x / cell + offset[0]), np.floor(d_y / cell + offset[1])
        key = key_x * 1e7 + key_y
        values, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
        for k in np.argsort(-counts, kind="stable")[:top]:
            members = inverse == k
            found.append((int(counts[k]), np.median(d_x[members]), np.median(d_y[members])))
    found.sort(key=lambda f: (-f[0], f[1], f[2]))
    return [np.column_stack([linear, [f[1], f[2]]]) for f in found[:top]]


def _triangles(x, y, smallest):
    """Vertices (opposite the longest, middle, shortest side), side ratios, longest side and turning sense of all
    triangles."""
    n = len(x)
    i, j, k = (np.array([(a, b, c) for a in range(n) for b in range(a + 1, n) for c in range(b + 1, n)],
                        int).reshape(-1, 3).T)
    corners = np.stack([i, j, k])
    sides = np.stack([np.hypot(x[b] - x[c], y[b] - y[c]) for b, c in ((j, k), (i, k), (i, j))])
    order = np.argsort(-sides, axis=0, kind="stable")
    corners, sides = np.take_along_axis(corners, order, 0), np.take_along_axis(sides, order, 0)
    a, b, c = corners
    turn = np.sign((x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a]))
    mid, short = sides[1] / np.maximum(sides[0], 1e-9), sides[2] / np.maximum(sides[0], 1e-9)
    good = (sides[0] > smallest) & (short > 0.1) & (mid + short > 1.02)
    return corners[:, good], mid[good], short[good], sides[0][good], turn[good]


def triangles(one, two, scales=(0.9, 1.1), parities=(1, -1), tolerance=0.012, n=(22, 36), top=12):
    """The likeliest similarities from `one` to `two`, rotation unknown: all triangles of the first `n` points of each.

    `one`, `two`: (x, y), best points first (see `spread`); `scales`: the allowed range of (size in two) / (size in
    one).  Each pair of like triangles votes for a transformation (rotation, scale, where the centre goes); returned
    are the transformations at the `top` peaks of the votes, best first.
    """
    x1, y1, x2, y2 = one[0][:n[0]], one[1][:n[0]], two[0][:n[1]], two[1][:n[1]]
    if len(x1) < 3 or len(x2) < 3:
        return []
    size1 = max(np.ptp(x1), np.ptp(y1))
    c1, mid1, short1, long1, turn1 = _triangles(x1, y1, 0.08 * size1)
    c2, mid2, short2, long2, turn2 = _triangles(x2, y2, 0.08 * size1 * scales[0])
    order = np.argsort(mid2, kind="stable")
    low, high = np.searchsorted(mid2[order], mid1 - tolerance), np.searchsorted(mid2[order], mid1 + tolerance)
    chunks = []
    step = max(1, int(2e6 // max(1, (high - low).mean() if len(low) else 1)))
    for s in range(0, len(mid1), step):
        count = (high - low)[s:s + step]
        p = np.repeat(np.arange(s, s + len(count)), count)
        q = order[np.arange(len(p)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low[s:s + step], count)]
        ratio = long2[q] / long1[p]
        keep = (np.abs(short1[p] - short2[q]) < tolerance) & (ratio > scales[0]) & (ratio < scales[1])
        keep &= np.isin(turn1[p] * turn2[q], parities)
        chunks.append((p[keep], q[keep]))
    p, q = (np.concatenate(c) for c in zip(*chunks)) if chunks else (np.zeros(0, int), np.zeros(0, int))
    if len(p) == 0:
        return []
    parity = turn1[p] * turn2[q]
    z1, z2 = x1 + 1j * y1, x2 + 1j * y2
    centre = complex(np.mean(x1), np.mean(y1))
    d1, d2 = z1[c1[2, p]] - z1[c1[1, p]], z2[c2[2, q]] - z2[c2[1, q]]
    middle1, middle2 = z1[c1[:, p]].mean(axis=0), z2[c2[:, q]].mean(axis=0)
    a = d2 / np.where(parity > 0, d1, d1.conj())
    to_centre = centre - middle1
    c = middle2 + a * np.where(parity > 0, to_centre, to_centre.conj())
    return _peaks(a, c, parity, centre, size1, top)


def _peaks(a, c, parity, centre, size, top):
    """Transformations at the crowded places of (rotation, scale, shift, parity): votes are counted in a grid twice,
    the second time displaced by half a cell, and averaged within the cell."""
    width = 0.03 * size * np.median(np.abs(a))
    turn, zoom = np.angle(a) / 0.05, np.log(np.abs(a)) / 0.025
    found = []
    for half in (0.0, 0.5):
        cells = np.stack([
            np.floor(turn + half) % math.ceil(2 * math.pi / 0.05),
            np.floor(zoom + half),
            np.floor(c.real / width + half),
            np.floor(c.imag / width + half), parity
        ]).astype(np.int64)
        cells -= cells.min(axis=1, keepdims=True)
        key = (np.ravel_multi_index(cells,
                                    cells.max(axis=1) + 1) if np.prod(
                                        (cells.max(axis=1) + 1).astype(float)) < 2**62 else cells[0])
        _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
        for k in np.argsort(-counts, kind="stable")[:top]:
            members = inverse == k
            found.append((int(counts[k]), complex(np.median(a[members].real), np.median(a[members].imag)),
                          complex(np.median(c[members].real), np.median(c[members].imag)), int(parity[members][0])))
    found.sort(key=lambda f: (-f[0], f[1].real, f[1].imag))
    result = []
    for _, a_0, c_0, sense in found[:2 * top]:
        b = c_0 - a_0 * (centre if sense > 0 else centre.conjugate())
        result.append(np.array([[a_0.real, -sense * a_0.imag, b.real], [a_0.imag, sense * a_0.real, b.imag]]))
    return result


def match(one, two, guesses=(), radius=(20.0, 3.0), scales=(0.9, 1.1), parities=(1, -1), least=6.0, n=(22, 36),
          tolerance=0.012, similar=False, blind=True):
    """The transformation from `one` to `two`, or None: guesses first, then triangles.

    `one`, `two`: (x, y) arrays, best points first.  `guesses`: 2x2 matrices that may be the linear part: tried with
    all shifts.  `radius`: first and last matching radius, in units of `two`.  `least`: the significance (-log10 of a
    chance match, trials included) a match must have.  Returns (t, i, j, score) or None.
    """
    best = None
    some1, some2 = tuple(c[:80] for c in one), tuple(c[:160] for c in two)

    def better(t, free, trials):
        found = refine(t, some1, some2, radius, free=free, similar=similar)
        score = found[3] - math.log10(trials)
        return (found[0], score) if best is None or score > best[1] else best

    for linear in guesses:
        for t in shifts(some1, some2, linear, radius[0] / 2):
            best = better(t, 1, 1 + len(some1[0]) * len(some2[0]))
            if best[1] > SURE:
                break
        if best[1] > SURE:
            break
    if (best is None or best[1] < max(least, 8)) and blind:
        peaks = triangles(one, two, scales, parities, tolerance, n)
        for t in peaks:
            best = better(t, 3, 2 * len(peaks))  # twice: the clearer of two sides counts
            if best[1] > SURE:
                break
    if best is None or best[1] < least:
        return None
    t, i, j, score = refine(best[0], one, two, (radius[1] * 1.5, radius[1]), free=2)
    return t, i, j, best[1]
