"""Values of an image between its pixels: kernels, the spline's prefilter, and the filling of holes.

With the taps w of a kernel and the coefficients c (the pixels, or for the spline the prefiltered pixels), the value at
(y, x) = (i + s, j + t) is

    sum_m  w_m(s)  sum_n  w_n(t)  c[i + m, j + n]

Sources: cubic B-spline, Unser 1999 (IEEE Signal Proc. Mag. 16, 22); Lanczos, Duchon 1979 (J. Appl. Met. 18, 1016).
"""

import functools

import numpy as np

POLE = np.sqrt(3.0) - 2  # of the cubic B-spline's inverse filter
REACH = 12  # [pixel] of that filter: what is beyond weighs 1e-7
BLOCK = 48  # rows or columns that are prefiltered by one matrix product


def spline(t):
    """The four taps of the cubic B-spline at pixels -1, 0, 1, 2 for the fraction t in [0, 1)."""
    u, square = 1 - t, t * t
    low, high = u * u * u * np.float32(1 / 6), square * t * np.float32(1 / 6)
    upper = (t * np.float32(0.5) - 1) * square + np.float32(2 / 3)
    return low, upper, 1 - low - upper - high, high


def lanczos3(t):
    """The six taps of the normalised Lanczos-3 kernel at pixels -2 … 3, from a table of 1/2048 pixel."""
    steps = 2048
    distance = np.arange(steps + 1)[None, :] / steps - np.arange(-2, 4)[:, None]
    table = np.sinc(distance) * np.sinc(distance / 3) * (np.abs(distance) < 3)
    table = (table / table.sum(0)).astype("f4")
    return [row.take((t * steps + np.float32(0.5)).astype(np.intp)) for row in table]


def bilinear(t):
    """The two taps of linear interpolation at pixels 0, 1."""
    return 1 - t, t


def nearest(t):
    """The two taps of the nearest pixel at pixels 0, 1."""
    upper = (t >= 0.5).astype("f4")
    return 1 - upper, upper


KERNELS = {"spline": (spline, 1), "lanczos3": (lanczos3, 2), "bilinear": (bilinear, 0), "nearest": (nearest, 0)}


def window(array, box, mode="edge"):
    """array[top:bottom, left:right] of a box (top, bottom, left, right) that touches it.

    Beyond its edges the array is continued by its outermost pixels, or with `mode` "reflect" by its mirror image.
    """
    ends = [(max(first, 0), min(end, n)) for first, end, n in zip(box[::2], box[1::2], array.shape)]
    beyond = [(low - first, end - high) for first, end, (low, high) in zip(box[::2], box[1::2], ends)]
    inner = array[slice(*ends[0]), slice(*ends[1])]
    return np.pad(inner, beyond, mode=mode) if np.any(beyond) else inner


def coefficients(data, kernel, box):
    """The coefficients c of `data` (no NaN) in a box (top, bottom, left, right), which may reach beyond the edges."""
    if kernel != "spline":
        return np.ascontiguousarray(window(data, box, "reflect"))
    top, bottom, left, right = box
    part = window(data, (top - REACH, bottom + REACH, left - REACH, right + REACH), "reflect")
    return unspline(unspline(part.T).T)


def unspline(values):
    """B-spline coefficients of `values` along the first axis, REACH values shorter at either end; float32."""
    out = np.empty((len(values) - 2 * REACH, values.shape[1]), "f4")
    for top in range(0, len(out), BLOCK):
        count = min(BLOCK, len(out) - top)
        np.matmul(inverse(count), values[top:top + count + 2 * REACH], out=out[top:top + count])
    return out


@functools.cache
def inverse(count):
    """Matrix (count, count + 2 REACH) of the inverse of the filter (1, 4, 1) / 6; float32.

    It is -6 q / (1 - q^2) q^|k|, with q the POLE.
    """
    distance = np.abs(np.arange(count + 2 * REACH) - np.arange(count)[:, None] - REACH)
    return np.where(distance <= REACH, -6 * POLE / (1 - POLE**2) * POLE**distance, 0).astype("f4")


def sample(coefficients, y, x, kernel, base_y=0, base_x=0):
    """Values at the positions (y + base_y, x + base_x) of an array of `coefficients`.

    y, x: float arrays of one shape, some hundred pixels from the bases; these: integers, or arrays of them for the
    columns.  The array must reach 2 pixels beyond the positions, and 3 where the kernel is Lanczos's.  Also returns the
    pixel below each position as one index, floor(y) * columns + floor(x), and the fractions y - floor(y), x - floor(x)
    as float32.
    """
    taps, before = KERNELS[kernel]
    width, pixels = coefficients.shape[1], coefficients.ravel()
    i, j = np.floor(y), np.floor(x)
    down, across = (y - i).astype("f4", copy=False), (x - j).astype("f4", copy=False)
    start = (i * width + j).astype(np.intp)  # of whole numbers below 2^24: exact in single precision
    start += base_y * width + base_x - before * (width + 1)
    total, line, term = np.empty((3, *start.shape), "f4")
    weights = taps(across)
    for m, factor in enumerate(taps(down)):
        for n, weight in enumerate(weights):
            part = term if n else line
            pixels[m * width + n:].take(start, out=part, mode="clip")  # "raise" would go through a copy
            part *= weight
            if n:
                line += part
        if m:
            line *= factor
            total += line
        else:
            np.multiply(line, factor, out=total)
    start += before * (width + 1)
    return total, start, down, across


def fill(data, bad, rounds=3):
    """`data` if no pixel is `bad`, else a copy where these hold the weighted mean of the good ones in 5 x 5 around.

    Repeated `rounds` times, from the rim of a hole inwards; what is left gets the median of the good pixels.
    """
    window = np.array([(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)])
    weight = np.exp(-(window**2).sum(1) / 2).astype("f4")
    if not bad.any():
        return data
    y, x = np.nonzero(bad)
    data, good = np.array(data, "f4"), np.pad(~bad, 2)
    every = 1 + int(np.sqrt(data.size / 1e5))
    some = data[::every, ::every][~bad[::every, ::every]]
    middle = np.median(some) if len(some) else 0
    data[bad] = 0
    for _ in range(rounds):
        found = np.zeros(len(y), bool)
        for part in np.array_split(np.arange(len(y)), 1 + len(y) // 100000):
            wy, wx = y[part, None] + window[:, 0], x[part, None] + window[:, 1]
            share = weight * good[wy + 2, wx + 2]
            values = data[np.clip(wy, 0, len(data) - 1), np.clip(wx, 0, data.shape[1] - 1)]
            total = share.sum(1)
            found[part] = total > 0
            data[y[part], x[part]] = (share * values).sum(1) / np.where(total > 0, total, 1)
        good[y[found] + 2, x[found] + 2] = True
        y, x = y[~found], x[~found]
    data[y, x] = middle
    return data
