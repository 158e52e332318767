"""Values of an image between its pixels: kernels, the spline's prefilter, and the filling of holes.

With the taps w of a kernel and the coefficients c (the pixels, or for the spline the prefiltered pixels), the value at
(y, x) = (i + s, j + t) is

    sum_m  w_m(s)  sum_n  w_n(t)  c[i + m, j + n]

Sources: B-splines, Unser 1999 (IEEE Signal Proc. Mag. 16, 22); Lanczos, Duchon 1979 (J. Appl. Met. 18, 1016).
"""

import functools
from math import comb

import numpy as np

BLOCK = 16  # rows or columns that are prefiltered by one matrix product
LINES = 48  # lines of positions at a time


def quadratic(t):
    """Twice the three taps of the quadratic B-spline for the distance t in [-0.5, 0.5) from the nearest pixel: at
    pixels -1, 0, 1."""
    first, middle, last = taps = np.empty((3, *t.shape), "f4")
    np.subtract(np.float32(0.5), t, out=first)
    np.add(np.float32(0.5), t, out=last)
    first *= first
    last *= last
    np.subtract(2, first, out=middle)  # they add up to two
    middle -= last
    return taps


def spline(t):
    """Six times the four taps of the cubic B-spline for the fraction t in [0, 1): at pixels -1, 0, 1, 2."""
    first, second, third, last = taps = np.empty((4, *t.shape), "f4")
    np.subtract(1, t, out=third)
    np.multiply(third, third, out=first)
    first *= third  # (1 - t)^3
    np.multiply(t, t, out=third)
    np.multiply(third, t, out=last)  # t^3
    np.multiply(third, np.float32(-6), out=second)
    np.multiply(last, np.float32(3), out=third)
    second += third
    second += np.float32(4)  # 4 - 6 t^2 + 3 t^3
    np.subtract(6, first, out=third)
    third -= second
    third -= last  # they add up to six
    return taps


def quintic(t):
    """The six taps of the quintic B-spline at pixels -2 … 3, times 120, by their polynomials in the fraction."""
    powers = np.empty((6, *t.shape), "f4")
    powers[0], powers[1] = 1, t
    for n in range(2, 6):
        np.multiply(powers[n - 1], t, out=powers[n, ...])
    rows = [[sum((-1) ** k * comb(6, k) * comb(5, j) * (p - k) ** (5 - j) for k in range(p + 1)) for j in range(6)]
            for p in range(5, -1, -1)]
    return (np.array(rows, "f4") @ powers.reshape(6, -1)).reshape(powers.shape)


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


# The taps, how many of them lie before pixel 0, and the reach [pixel] of the prefilter, beyond which it weighs 1e-7.
KERNELS = {"quadratic": (quadratic, 1, 9), "spline": (spline, 1, 12), "quintic": (quintic, 2, 18),
           "lanczos3": (lanczos3, 2, 0), "bilinear": (bilinear, 0, 0), "nearest": (nearest, 0, 0)}


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
    (top, bottom, left, right), (*_, reach) = box, KERNELS[kernel]
    part = window(data, (top - reach, bottom + reach, left - reach, right + reach), "reflect")
    return unspline(unspline(part.T, kernel).T, kernel) if reach else np.ascontiguousarray(part)


def unspline(values, kernel):
    """B-spline coefficients of `values` along the second axis, fewer by the kernel's reach at either end; float32."""
    *_, reach = KERNELS[kernel]
    out = np.empty((len(values), values.shape[1] - 2 * reach), "f4")
    for left in range(0, out.shape[1], BLOCK):
        count = min(BLOCK, out.shape[1] - left)
        np.matmul(values[:, left:left + count + 2 * reach], inverse(count, kernel).T, out=out[:, left:left + count])
    return out


@functools.cache
def inverse(count, kernel):
    """Matrix (count, count + 2 reach), float32: the inverse of the filter that a spline's taps at the pixels are;
    what they add up to is made up for."""
    taps, before, reach = KERNELS[kernel]
    response = np.zeros(1024)
    response[np.arange(-before, before + 1)] = taps(np.zeros(1, "f4"))[:2 * before + 1, 0].astype(float)
    impulse = np.fft.ifft(1 / np.fft.fft(response)).real
    distance = np.abs(np.arange(count + 2 * reach) - np.arange(count)[:, None] - reach)
    return np.where(distance <= reach, impulse[np.minimum(distance, 512)], 0).astype("f4")


def sample(coefficients, y, x, kernel, base_y=0, base_x=0, about=None):
    """Values at the positions (y + base_y, x + base_x) of an array of `coefficients`.

    y, x: float arrays of one shape, some hundred pixels from the bases; these: integers, or arrays of them for the
    columns.  The array must reach 3 pixels beyond the positions.

    Also returns the positions whose pixel below, (i, j), of the quadratic spline the nearest, is True in `about`, an
    array of the coefficients' shape or None: their flat indices, i, j, and the fractions y - i, x - j as float32.
    """
    taps, before, _ = KERNELS[kernel]
    width, pixels = coefficients.shape[1], coefficients.ravel()
    half, first = np.float32(0.5 if kernel == "quadratic" else 0), before * (width + 1)
    base, total, found = base_y * width + base_x - first, np.empty(y.shape, "f4"), []
    for top in range(0, len(total), LINES):  # all of a few lines at a time: it stays in the processor's cache
        rows = slice(top, top + LINES)
        i, j = np.floor(y[rows] + half), np.floor(x[rows] + half)
        down, across = (y[rows] - i).astype("f4", copy=False), (x[rows] - j).astype("f4", copy=False)
        i *= width
        i += j
        start = i.astype(np.intp)  # of whole numbers below 2^24: exact in single precision
        start += base
        line, term = np.empty((2, *start.shape), "f4")
        weights, out = taps(across), total[rows]
        for m, factor in enumerate(taps(down)):
            for n, weight in enumerate(weights):
                part = term if n else line
                pixels[m * width + n:].take(start, out=part, mode="clip")  # "raise" would go through a copy
                part *= weight
                if n:
                    line += part
            if m:
                line *= factor
                out += line
            else:
                np.multiply(line, factor, out=out)
        if about is not None:
            spot = np.flatnonzero(about.ravel()[first:].take(start, mode="clip"))
            found.append((spot + top * y.shape[1], *np.divmod(start.ravel()[spot] + first, width), down.ravel()[spot],
                          across.ravel()[spot]))
    return total, [np.concatenate(v) for v in zip(*found)] if found else [np.zeros(0, np.intp)] * 5


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
