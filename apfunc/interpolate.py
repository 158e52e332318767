"""Values of an image between its pixels: kernels, the spline's prefilter, and the filling of holes.

With the taps w of a kernel and the coefficients c (the pixels, or for the spline the prefiltered pixels), the value at
(y, x) = (i + s, j + t) is

    sum_m  w_m(s)  sum_n  w_n(t)  c[i + m, j + n]

Sources: cubic B-spline, Unser 1999 (IEEE Signal Proc. Mag. 16, 22); Lanczos, Duchon 1979 (J. Appl. Met. 18, 1016).
"""

import numpy as np

POLE = np.sqrt(3.0) - 2  # of the cubic B-spline's inverse filter
DILATIONS = (1, 2, 4, 8)
REACH = sum(DILATIONS)


def spline(t):
    """The four taps of the cubic B-spline at pixels -1, 0, 1, 2 for the fraction t in [0, 1)."""
    u = 1 - t
    third, low, high = np.float32(2 / 3), u * u * u * np.float32(1 / 6), t * t * t * np.float32(1 / 6)
    return low, third - t * t + 3 * high, third - u * u + 3 * low, high


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
PAD = 3  # rows and columns beyond the frame's edges that the widest kernel needs


def coefficients(data, kernel, strip=64):
    """`data` (no NaN) with PAD mirrored pixels on every side, prefiltered where the kernel is the spline; float32."""
    if kernel != "spline":
        return np.pad(data, PAD, mode="reflect")
    out = np.empty((data.shape[0] + 2 * PAD, data.shape[1] + 2 * PAD), "f4")
    rows, columns = (np.pad(np.arange(n), PAD + REACH, mode="reflect") for n in data.shape)
    for top in range(0, len(out), strip):
        part = unspline(data[rows[top : top + strip + 2 * REACH]])
        out[top : top + strip] = unspline(part.T[columns]).T
    return out


def unspline(values):
    """B-spline coefficients of `values` along the first axis, REACH values shorter at either end.

    The inverse filter -6 z / (1 - z q) (1 - z / q), q the shift by a pixel, as a product of three-tap filters:
    1 / (1 - z q) = (1 + z q)(1 + z^2 q^2)(1 + z^4 q^4) …, good to z^16 = 7e-10.
    """
    values = values * np.float32(-6 * POLE)
    for n in DILATIONS:
        sides = values[: -2 * n] + values[2 * n :]
        sides *= np.float32(POLE**n)
        values = np.float32(1 + POLE ** (2 * n)) * values[n:-n]
        values += sides
    return values


def sample(padded, y, x, kernel, base_y=0, base_x=0):
    """Values at the positions y + base_y, x + base_x, within half a pixel of the frame, of padded `coefficients`.

    y, x: float arrays of one shape; bases: integers, or arrays of them for the columns.  Also returns the pixel below
    each position as one index, (floor(y) + 1) * padded columns + floor(x) + 1, and the fractions y - floor(y),
    x - floor(x) as float32.
    """
    taps, before = KERNELS[kernel]
    width, pixels = padded.shape[1], padded.ravel()
    i, j = np.floor(y), np.floor(x)
    down, across = (y - i).astype("f4", copy=False), (x - j).astype("f4", copy=False)
    start = i.astype(np.intp) * width
    start += j.astype(np.intp)
    start += (base_y + 1) * width + base_x + 1
    total, weights = np.zeros(start.shape, "f4"), taps(across)
    for m, factor in enumerate(taps(down), PAD - 1 - before):
        line = 0
        for n, weight in enumerate(weights, PAD - 1 - before):
            term = pixels[m * width + n :].take(start)
            term *= weight
            line = np.add(line, term, out=term)
        line *= factor
        total += line
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
