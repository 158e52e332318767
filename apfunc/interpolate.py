"""Values of an image between its pixels: kernels, the spline's prefilter, and the filling of holes.

With the taps w of a kernel and the coefficients c (the pixels, or for the spline the prefiltered pixels), the value at
(y, x) = (i + s, j + t) is

    sum_m  w_m(s)  sum_n  w_n(t)  c[i + m, j + n]

Sources: B-splines, Unser 1999 (IEEE Signal Proc. Mag. 16, 22); Lanczos, Duchon 1979 (J. Appl. Met. 18, 1016).
"""

import functools
from bisect import bisect
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


def window(array, box, mode="edge", patches=None):
    """array[top:bottom, left:right] of a box (top, bottom, left, right) that touches it.

    Beyond its edges the array is continued by its outermost pixels, or with `mode` "reflect" by its mirror image.
    patches: (y, x, values) of pixels, by rows, that are replaced (see `holes`).
    """
    ends = [(max(first, 0), min(end, n)) for first, end, n in zip(box[::2], box[1::2], array.shape)]
    beyond = [(low - first, end - high) for first, end, (low, high) in zip(box[::2], box[1::2], ends)]
    inner = array[slice(*ends[0]), slice(*ends[1])]
    if patches is not None:
        (top, bottom), (left, right) = ends
        y, x, values = (v[slice(*np.searchsorted(patches[0], (top, bottom)))] for v in patches)
        inside = (x >= left) & (x < right)
        if inside.any():
            inner = inner.copy()
            inner[y[inside] - top, x[inside] - left] = values[inside]
    return np.pad(inner, beyond, mode=mode) if np.any(beyond) else inner


def coefficients(pixels, kernel):
    """The coefficients c of an array of pixels (no NaN), but of those within the kernel's reach of its edges."""
    pixels = np.ascontiguousarray(pixels)  # of a part of a frame a copy, which stays in the processor's cache
    return unspline(unspline(pixels.T, kernel).T, kernel) if KERNELS[kernel][-1] else pixels


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
    columns.  The array must reach 3 pixels beyond the positions; of a few lines the outermost lie at their ends.

    Also returns the positions whose pixel below, (i, j), of the quadratic spline the nearest, is True in `about`, an
    array of the coefficients' shape or None: their flat indices, i, j, and the fractions y - i, x - j as float32.
    """
    taps, before, _ = KERNELS[kernel]
    width, pixels = coefficients.shape[1], coefficients.ravel()
    half, first = np.float32(0.5 if kernel == "quadratic" else 0), before * (width + 1)
    base, total, found = base_y * width + base_x - first, np.empty(y.shape, "f4"), []
    space, tilt = np.empty((2, *y[:LINES].shape), "f4"), np.broadcast_to(base_y, y.shape[1:])[[0, -1]].tolist()
    flagged = [] if about is None else np.flatnonzero(about.any(1)).tolist()  # rows
    for top in range(0, len(total), LINES):  # all of a few lines at a time: it stays in the processor's cache
        rows = slice(top, top + LINES)
        i, j = np.floor(y[rows] + half), np.floor(x[rows] + half)
        down, across = (y[rows] - i).astype("f4", copy=False), (x[rows] - j).astype("f4", copy=False)
        i *= width
        i += j
        start = i.astype(np.intp)  # of whole numbers below 2^24: exact in single precision
        start += base
        line, term = space[:, :len(start)]
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
        ends = [y[row, column] + tilt[column] for row in (top, min(top + LINES, len(y)) - 1) for column in (0, -1)]
        if bisect(flagged, min(ends) - 2) < bisect(flagged, max(ends) + 2):
            spot = np.flatnonzero(about.ravel()[first:].take(start, mode="clip"))
            found.append((spot + top * y.shape[1], *np.divmod(start.ravel()[spot] + first, width), down.ravel()[spot],
                          across.ravel()[spot]))
    return total, [np.concatenate(v) for v in zip(*found)] if found else [np.zeros(0, np.intp)] * 5


def holes(data, bad, rounds=3):
    """(y, x, values) of the `bad` pixels: the weighted means of the good ones in 5 x 5 around.

    Repeated `rounds` times, from the rim of a hole inwards; what is left gets the median of the good pixels.
    """
    offsets = np.mgrid[-2:3, -2:3].reshape(2, -1)
    weight = np.exp(-(offsets**2).sum(0) / 2).astype("f4")
    at, (rows, columns) = np.flatnonzero(bad), data.shape
    every = 1 + int(np.sqrt(data.size / 1e5))
    some = data[::every, ::every][~bad[::every, ::every]]
    values, left = np.full(len(at), np.median(some) if len(some) else 0, "f4"), np.arange(len(at))
    known = ~bad.ravel()
    for _ in range(rounds):
        found = np.zeros(len(left), bool)
        for k in range(0, len(left), 100000):
            y, x = (v[:, None] + move for v, move in zip(np.divmod(at[left[k:k + 100000]], columns), offsets))
            around = np.clip(y, 0, rows - 1) * columns + np.clip(x, 0, columns - 1)
            share = weight * (known.take(around) & (y >= 0) & (y < rows) & (x >= 0) & (x < columns))
            light = np.where(share > 0, data.ravel().take(around), 0)
            filled = (share > 0) & bad.ravel().take(around)  # in an earlier round
            light[filled] = values[np.searchsorted(at, around[filled])]
            total = share.sum(1)
            found[k:k + 100000] = good = total > 0
            values[left[k:k + 100000][good]] = (share * light).sum(1)[good] / total[good]
        known[at[left[found]]] = True
        left = left[~found]
    return *np.divmod(at, columns), values
