"""The outliers of a stack of frames: what differs from the median by more than noise, seeing and small shifts explain.

A value d_k is an outlier when, with m the median of the frames,

    |d_k - m| > sigma * noise_k + slack_k * steepness_2(m) + wing_k * steepness_15(m)       or, means over 3 x 3 pixels,
    |<d_k - m>| > sigma * COHERENT * noise_k + slack_k * steepness_3(m) + wing_k * steepness_15(m)

(then with its neighbours), with noise_k^2 = excess_k / w_k + photon_k * m.  A strong outlier takes its neighbours with
it too, for it has dark lobes where the frame was interpolated.  Steepness_r is the range within r pixels (a square) of
m's means over 3 x 3 pixels, less what noise makes of it; `slack` and `wing` are measured from the frames' own stars
(see apfunc.seeing), so that neither seeing nor a shift of a tenth of a pixel makes an outlier of a star: where one
frame's wing is wide and faint the star's core is near.  (DrizzlePac's driz_cr has a constant times the derivative.)

Two frames are compared with each other, noise_k is the mean of both.

Every value is held against the least noise of its frame in a few passes over rows that stay in the processor's cache;
only what exceeds it, a few in a thousand, is looked at in detail.
"""

import numpy as np

COHERENT = 0.45  # noise of a mean over 3 x 3 interpolated pixels, in that of a pixel
STRONG = 4  # times its limit is an outlier strong, which takes its neighbours with it
CACHED = 1 << 18  # values that are worked on at a time, so that they stay in the processor's cache
WING = 16  # [pixel] from how far off, nearly, a star's light tells how bright its wing may be (3 k + 1)


def outliers(d, middle, two, w, good, photon, excess, slack, wing, sigma, strong=False, keep=slice(None)):
    """Where (frame, y, x) the outliers of d from the median are, at least those of the rows `keep`; `strong`: only the
    strong ones; `two`: see `limits`.
    """
    first, last, _ = keep.indices(len(middle))
    rows = slice(max(first - 2, 0), last + 2)  # those that have a say: a sum and a rim reach one row each
    least = sigma * np.sqrt(np.divide(excess, np.maximum([plane.max() for plane in w], 1e-30)))
    k, y, x, off, sums = suspects(d[:, rows], middle[rows], good[:, rows], least, strong)
    y, times = y + rows.start, STRONG if strong else 1
    noise = column(excess, 1)[k] / w[k, y, x] + column(photon, 1)[k] * np.maximum(middle[y, x], 0)
    floor = np.float32(sigma) * np.sqrt(noise)
    far = two[y, x] | (np.abs(off) > times * floor) | (np.abs(sums) > 9 * np.float32(COHERENT) * floor)
    k, y, x, off, sums = (v[far] for v in (k, y, x, off, sums))
    limit, mean_limit = (v[k, np.arange(len(k))]
                         for v in limits(middle, two, w, good, photon, excess, slack, wing, sigma, y, x))
    alone, with_rim = np.abs(off) > times * limit, np.abs(off) > STRONG * limit
    if not strong:
        with_rim |= np.abs(sums) > 9 * mean_limit
    rim = [(k[with_rim], y[with_rim] + dy, x[with_rim] + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    k, y, x = (np.concatenate(v) for v in zip((k[alone], y[alone], x[alone]), *rim))
    inside = (y >= 0) & (y < middle.shape[0]) & (x >= 0) & (x < middle.shape[1])
    k, y, x = k[inside], y[inside], x[inside]
    there = good[k, y, x]
    return k[there], y[there], x[there]


def suspects(d, middle, good, least, strong):
    """Values farther off than `least` (frames,), the least limit of a frame, alone or with those round them: frame, y,
    x, how far off they are and the sum of that over 3 x 3 pixels; `strong`: strong ones, whose sum is not needed.
    """
    (rows, columns), found = middle.shape, []
    high = max(1, CACHED // 4 // columns)
    rim, lines, sums = (np.zeros((high + 2, columns + 2), "f4") for _ in range(3))
    for top in range(0, rows, high):
        a, b = max(top - 1, 0), min(top + high + 1, rows)
        n = min(high, rows - top)
        rim[0] = rim[n + 1] = 0
        off, inner = rim[1:n + 1], rim[a - top + 1:b - top + 1, 1:-1]
        for k in range(len(d)):
            np.subtract(d[k, a:b], middle[a:b], out=inner)
            if not good[k, a:b].all():
                np.copyto(inner, 0, where=~good[k, a:b])
            far = np.abs(off, out=lines[:n]) > np.float32((STRONG if strong else 1) * least[k])
            if not strong:
                box(rim[:n + 2], lines[:n], sums[:n])
                far |= np.abs(sums[:n], out=lines[:n]) > np.float32(9 * COHERENT * least[k])
                far[:, 0] = far[:, -1] = False
            y, x = np.divmod(np.flatnonzero(far), columns + 2)
            there = good[k, top + y, x - 1]
            y, x = y[there], x[there]
            found.append((np.full(len(y), k), y + top, x - 1, off[y, x], sums[y, x]))
    return tuple(np.concatenate(v) for v in zip(*found))


def limits(middle, two, w, good, photon, excess, slack, wing, sigma, y, x):
    """How far values, and means over 3 x 3 pixels, may lie from the median at the pixels (y, x): (frames, n) each,
    infinite where not good.  `two`: where but two frames are good, or beside that."""
    known = good[:, y, x]
    with np.errstate(divide="ignore"):
        noise = column(excess, 2) / np.where(known, w[:, y, x], np.float32(0))
    noise += column(photon, 2) * np.maximum(middle[y, x], 0)
    calm = np.sqrt(noise.min(0)) * np.float32(COHERENT * np.sqrt(1.57 / len(w)))  # noise of the median's means
    calm[~np.isfinite(calm)] = 0
    two = np.flatnonzero(two[y, x])
    if len(two):  # they are compared with each other
        known = known[:, two]
        noise[:, two] = np.where(known, np.where(known, noise[:, two], 0).sum(0) / np.maximum(known.sum(0), 1), np.inf)
        calm[two] *= np.float32(np.sqrt(len(w) / 1.57))
    reach = WING - 1 if np.any(wing) else 3
    smooth = box(np.pad(middle, reach + 1, mode="edge"))
    smooth /= np.float32(9)

    def allowed(kind, ends, of_noise):
        factor = np.repeat(column(kind[0], 2), len(y), 1)
        factor[:, two] = column(kind[1], 2)
        return factor * np.maximum(ends[1] - ends[0] - np.float32(of_noise) * calm, 0)
    noise, at = np.float32(sigma) * np.sqrt(noise), (smooth, y + reach, x + reach + 1)
    near = extremes(*at, square(range(-2, 3)))
    far = extremes(*at, [step for step in square(range(-3, 4)) if max(map(abs, step)) == 3], near)
    wings = allowed(wing, extremes(*at, square(range(1 - WING, WING, 3))), 4.1) if np.any(wing) else np.float32(0)
    return noise + allowed(slack, near, 3.3) + wings, np.float32(COHERENT) * noise + allowed(slack, far, 3.8) + wings


def square(steps):
    """All pairs (dy, dx) of the steps."""
    return [(dy, dx) for dy in steps for dx in steps]


def extremes(plane, y, x, steps, before=None):
    """The least and the largest value of a plane at the steps (dy, dx) from the pixels (y, x), all inside it, and of
    those known `before`: (n,) each."""
    low, high = before or (np.float32(np.inf), np.float32(-np.inf))
    low, high = (np.full(len(y), v) if np.ndim(v) == 0 else v.copy() for v in (low, high))
    line, at = plane.reshape(-1), y * plane.shape[1] + x
    for dy, dx in steps:
        value = line[at + (dy * plane.shape[1] + dx)]
        np.minimum(low, value, out=low)
        np.maximum(high, value, out=high)
    return low, high


def column(values, axes=3):
    """Numbers (frames,) as float32 (frames, 1, …) of so many axes."""
    return np.asarray(values, "f4").reshape(-1, *[1] * (axes - 1))


def box(values, lines=None, out=None):
    """Sums over 3 x 3 pixels of values (rows + 2, columns): (rows, columns), whose first and last column say nothing.

    `lines` and `out`, if given, are what it works in, of the result's shape; it lies in `out`.  All rows are taken as
    one, which goes twice as fast as many short ones.
    """
    lines = np.add(values[:-2], values[1:-1], out=lines)
    lines += values[2:]
    out, line = np.empty_like(lines) if out is None else out, lines.reshape(-1)
    inner = np.add(line[:-2], line[1:-1], out=out.reshape(-1)[1:-1])
    inner += line[2:]
    out[0, 0] = out[-1, -1] = 0
    return out
