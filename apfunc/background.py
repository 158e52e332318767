"""The sky under the stars: a mesh of clipped statistics, drawn through by a spline or a low polynomial.

Each box of the mesh gives one value, the mode of its clipped pixels, `2.5 median - 1.5 mean` (Bertin & Arnouts
1996, A&AS 117, 393); with By and Bx the matrices of a natural cubic spline,

    sky = By @ mesh @ Bx.T

gives every pixel its sky in two small matrix products.
"""

import functools

import numpy as np

from apfunc import header as hdr

CLIP = 3.0  # clipping limit of a box, in its own standard deviations
FULL = 0.3  # a box with a smaller share of good pixels takes its value from its neighbours
MANY = 1 << 17  # pixels whose statistics are done at a time, so that they stay in the cache
MODES = ("mesh", "polynomial")


def background(image, mask=None, box=64, mode="mesh", order=2, smooth=3, passes=2):
    """Sky image and noise map of `image`, sources and nebulae left out: ``((sky, header), rms)``.

    image   (data, header); NaN pixels, infinite ones and those with a non-zero `mask` (any array of the image's
            shape: the frame's own mask or a user's, drawn round a nebula) say nothing.
    box     size of a mesh box [pixel]: several times the largest thing that shall *not* count as sky.
    mode    "mesh": natural cubic spline through the mesh; follows anything smoother than the box.
            "polynomial": one of total degree `order` through the mesh, boxes above it left out step by step: takes
            gradients away and leaves nebulae.
    smooth  size of the median filter over the mesh boxes (mesh method; 1 = none); passes: rounds of source masking.

    Returns the sky [adu] as float32, no NaN in it, with a header copy that holds BKGMETH, BKGBOX, BKGORDER (of the
    polynomial), SKY (median of the sky) and SKYNOISE (median of rms), and the rms of one pixel [adu], float32.  Raises
    ValueError when no pixel is good or an option makes no sense.

    >>> import numpy as np; from astropy.io.fits import Header
    >>> (sky, header), rms = background((np.full((256, 256), 7, "f4"), Header()))
    >>> float(sky[0, 0]), float(rms[0, 0])
    (7.0, 0.0)
    """
    if mode not in MODES:
        raise ValueError(f"no background mode {mode!r}; choose {' or '.join(MODES)}")
    if not (box >= 4 and 0 <= order <= 6 and smooth >= 1):
        raise ValueError("background needs a box of at least 4 pixels, an order of 0-6 and a filter of at least 1")
    data = np.asarray(image[0], "f4")
    bad = ~np.isfinite(data) if mask is None else ~np.isfinite(data) | (np.asarray(mask) != 0)
    if bad.all():
        raise ValueError("no good pixel in the frame, so no sky; check the frame and its mask")
    surface, hidden = np.zeros(data.shape, "f4"), bad
    for turn in range(max(1, passes)):  # each round on what the one before left, so that gradients are no noise
        y, x, sky, rms = mesh(data - surface, hidden, box)
        sky = _poly(y, x, sky, rms, order) if mode == "polynomial" else median_filter(sky, smooth)
        by, bx = spline_matrix(y, len(data)), spline_matrix(x, data.shape[1])
        surface += expand(by, sky, bx)
        noise = np.maximum(expand(by, median_filter(rms, 3), bx), 0)
        if turn + 1 < passes:
            hidden = bad | _sources(data, bad, surface, noise)
    header = image[1].copy()
    header["BKGMETH"] = (mode, "how the sky was modelled")
    header["BKGBOX"] = (int(box), "[pixel] box of the sky's mesh")
    if mode == "polynomial":
        header["BKGORDER"] = (int(order), "degree of the sky's polynomial")
    header["SKY"] = (round(float(np.median(surface[::7, ::7])), 4), "[adu] median sky")
    header["SKYNOISE"] = (round(float(np.median(noise[::7, ::7])), 4), "[adu] noise of a sky pixel")
    hdr.history(header, "background", box=box, mode=mode)
    return (surface, header), noise


def subtract(image, mask=None, keep_level=False, **options):
    """`image` minus its `background` (same options); with `keep_level` minus the sky's variation only.

    The header gets the keywords of `background` and SKYLEVEL [adu], the level taken away (0 with `keep_level`).
    """
    (sky, header), _ = background(image, mask, **options)
    kept = np.float32(header["SKY"] if keep_level else 0)
    header["SKYLEVEL"] = (round(float(header["SKY"] - kept), 4), "[adu] sky level removed")
    return np.asarray(image[0], "f4") - sky + kept, header


def level(data, mask=None):
    """(sky, noise) [adu] of a frame as two floats, from up to 64 boxes of it; (nan, nan) when no pixel is good.

    Noise is that of one pixel within its box: neither a gradient nor a nebula adds to it.
    """
    _, _, sky, rms = mesh(np.asarray(data), mask if mask is None else np.asarray(mask) != 0, 32, most=8, fill=False)
    sky, rms = sky[np.isfinite(sky)].astype("f8"), rms[np.isfinite(rms)]
    return (float(np.median(sky)), float(np.median(rms))) if len(sky) else (np.nan, np.nan)


def mesh(data, bad=None, box=64, step=1, most=None, fill=True):
    """Clipped statistics of the boxes: y centres, x centres, sky (ny, nx) and rms (ny, nx), float32.

    Boxes are all `box` wide and evenly spread, overlapping a little where the frame is no multiple; `step` uses only
    every so many rows (an odd one sees odd and even rows), `most` limits the boxes of an axis.  Boxes with too few
    good pixels are NaN, and filled from their neighbours with `fill`.
    """
    rows = data[::step]
    high, wide = min(max(1, round(box / step)), len(rows)), min(box, data.shape[1])
    y, x = starts(len(rows), high, most), starts(data.shape[1], wide, most)
    sky, rms = np.empty((2, len(y), len(x)), "f4")
    group = max(1, MANY // (len(x) * high * wide))  # rows of boxes done at a time
    for i in range(0, len(y), group):
        boxes = np.empty((len(y[i:i + group]), len(x), high, wide), "f4")
        for out, top in zip(boxes, y[i:i + group]):
            part = np.lib.stride_tricks.sliding_window_view(rows[top:top + high], wide, axis=1)[:, x]
            np.copyto(out, part.transpose(1, 0, 2))
            if bad is not None:
                part = np.lib.stride_tricks.sliding_window_view(bad[::step][top:top + high], wide, axis=1)[:, x]
                out[part.transpose(1, 0, 2)] = np.nan
        boxes[~np.isfinite(boxes)] = np.nan
        found = clipped(boxes.reshape(-1, high * wide), FULL)
        sky[i:i + group], rms[i:i + group] = (v.reshape(-1, len(x)) for v in found)
    if fill:
        sky, rms = filled(sky), filled(rms)
    return step * (y + (high - 1) / 2), x + (wide - 1) / 2, sky, rms


def clipped(values, full=0.0):
    """Mode and standard deviation of each row of `values` (k, n), clipped at CLIP until nothing changes.

    The values are sorted once; clipping then only moves two indices.  The deviation is corrected for what clipping a
    normal distribution takes away.  NaN is left out; a row with less than `full` of its values good gives NaN.
    """
    tail = 2 * CLIP * np.exp(-(CLIP**2) / 2) / np.sqrt(2 * np.pi) / 0.9973002
    values = np.sort(values, axis=1)
    count = np.isfinite(values).sum(1)
    row = np.arange(len(values))
    zero = np.where(count > 0, values[row, count // 2 - (count > 1)], 0)
    reach = CLIP * (values[row, count * 21 // 25 - (count > 1)] - values[row, count * 4 // 25]) / 2  # 3 sigma, nearly
    low, high = _first(values < (zero - reach)[:, None]), _first(values <= (zero + reach)[:, None])
    low, high = np.where((count > 0) & (high > low), (low, high), (np.zeros_like(count), count))
    centred = values - zero[:, None]
    sums = np.empty(values.shape, "c16")  # of the values and, as imaginary part, of their squares, running on
    sums.real = centred
    np.multiply(centred, centred, out=sums.imag)
    np.cumsum(sums, axis=1, out=sums)  # NaN, sorted to the end, is never asked
    for _ in range(20):
        n, last, before = np.maximum(high - low, 1), np.maximum(high - 1, 0), np.maximum(low - 1, 0)
        mean = (sums[row, last] - np.where(low > 0, sums[row, before], 0)) / n
        mean, square = mean.real, mean.imag
        median = (centred[row, np.maximum((low + high - 1) // 2, 0)] +
                  centred[row, np.minimum((low + high) // 2, values.shape[1] - 1)]) / 2
        sigma = np.sqrt(np.maximum(square - mean**2, 0) / (1 - tail))
        reach = CLIP * sigma + 1e-6 * np.abs(zero)
        start = _first(centred < (median - reach).astype("f4")[:, None])
        stop = _first(centred <= (median + reach).astype("f4")[:, None])
        start, stop = np.where(stop > start, (start, stop), (low, high))
        if (start == low).all() and (stop == high).all():
            break
        low, high = start, stop
    mode = np.where(np.abs(mean - median) < 0.3 * sigma, 2.5 * median - 1.5 * mean, median) + zero
    empty = count <= full * values.shape[1]
    return np.where(empty, np.nan, mode), np.where(empty, np.nan, sigma)


def _first(true):
    """How many in each row are True; all of those come before the others."""
    return np.where(true[:, -1], true.shape[1], true.argmin(1))


def spline_matrix(knots, size):
    """Matrix (size, n) that takes n values at `knots` to the natural cubic spline at 0 … size-1; straight outside."""
    return _spline_matrix(tuple(knots), size).copy()


@functools.lru_cache(maxsize=4)  # frames are mostly of one size
def _spline_matrix(knots, size):
    n, at, knots = len(knots), np.arange(size), np.array(knots)
    if n == 1:
        return np.ones((size, 1), "f4")
    step = np.diff(knots)
    slopes = (np.eye(n)[1:] - np.eye(n)[:-1]) / step[:, None]
    bend = np.zeros((n, n))  # second derivatives at the knots, as a matrix on the values
    if n > 2:
        system = np.diag((step[1:] + step[:-1]) / 3) + np.diag(step[1:-1] / 6, 1) + np.diag(step[1:-1] / 6, -1)
        bend[1:-1] = np.linalg.solve(system, np.diff(slopes, axis=0))
    i = np.clip(np.searchsorted(knots, at) - 1, 0, n - 2)
    h = step[i][:, None]
    v = (np.clip(at, knots[0], knots[-1]) - knots[i])[:, None] / h
    u = 1 - v
    curve = u * np.eye(n)[i] + v * np.eye(n)[i + 1] + ((u**3 - u) * bend[i] + (v**3 - v) * bend[i + 1]) * h**2 / 6
    first, last = slopes[0] - step[0] / 6 * bend[1], slopes[-1] + step[-1] / 6 * bend[-2]
    beyond = np.minimum(at - knots[0], 0)[:, None] * first + np.maximum(at - knots[-1], 0)[:, None] * last
    return (curve + beyond).astype("f4")


def cubics(knots, size, most=64):
    """Slices of at most so many of the rows 0 … size-1 on which a spline is one cubic, for there is no knot between."""
    edges = [0, *np.clip(np.ceil(knots), 0, size).astype(int).tolist(), size]
    return [slice(i, min(i + most, stop)) for start, stop in zip(edges, edges[1:]) for i in range(start, stop, most)]


@functools.lru_cache(maxsize=8)
def cubic(size):
    """Four of `size` rows, and the matrix (size, 4) that takes a cubic's values there to those of all rows."""
    some = np.arange(min(size, 4))
    some = some * (size - 1) // max(len(some) - 1, 1)
    powers = np.vander(np.linspace(-1, 1, size), len(some)) if size > 1 else np.ones((1, 1))
    return some, np.linalg.solve(powers[some].T, powers.T).T.astype("f4")


def expand(by, values, bx):
    """By @ values @ Bx.T as float32, about the median of the values for the sake of precision."""
    middle = np.median(values)
    return by @ (values - middle).astype("f4") @ bx.T + np.float32(middle)


def median_filter(values, size=3):
    """Median of size x size boxes round each box, the mesh continued linearly beyond its edges."""
    half = min(size // 2, min(values.shape) - 1)
    if half < 1:
        return values
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(values, half, mode="reflect", reflect_type="odd"), (2 * half + 1, 2 * half + 1))
    return np.median(windows, axis=(2, 3))


def separable(data, kernel, out=None, high=8, wide=16):
    """`data`, finite, filtered with the symmetric kernel (its half from the centre out) along both axes, zero outside.

    Products with small banded matrices: of `high` rows at a time, then of `wide` columns.  out: float32, to be filled.
    """
    kernel, half = np.asarray(kernel, "f4"), len(kernel) - 1
    (rows, columns), blocks = data.shape, -(-data.shape[1] // wide)
    down, across = _band(kernel, high), _band(kernel, wide).T
    out = np.empty((rows, columns), "f4") if out is None else out
    strip, done = np.zeros((high, blocks * wide + 2 * half), "f4"), np.empty((high, blocks, wide), "f4")
    windows = np.lib.stride_tricks.sliding_window_view(strip, wide + 2 * half, axis=1)[:, ::wide].transpose(1, 0, 2)
    for top in range(0, rows, high):
        n, a, b = min(high, rows - top), max(top - half, 0), min(top + high + half, rows)
        np.matmul(down[:n, a - top + half:b - top + half], data[a:b], out=strip[:n, half:half + columns])
        np.matmul(windows, across, out=done.transpose(1, 0, 2))
        out[top:top + n] = done.reshape(high, -1)[:n, :columns]
    return out


def _band(kernel, size):
    """The matrix (size, size + 2 half) that filters `size` values with a symmetric kernel."""
    half = len(kernel) - 1
    apart = np.abs(np.arange(size)[:, None] + half - np.arange(size + 2 * half))
    return np.where(apart <= half, kernel[np.minimum(apart, half)], 0)


def starts(size, box, most=None):
    """First pixels of the boxes of an axis: evenly spread, all inside, `most` of them at most."""
    count = -(-size // box)
    return np.round(np.linspace(0, size - box, min(count, most or count))).astype(int)


def filled(values):
    """The mesh with each NaN box replaced by the mean of its good neighbours, from the rim inwards."""
    while np.isnan(values).any() and np.isfinite(values).any():
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, 1, constant_values=np.nan), (3, 3))
        good = np.isfinite(windows)
        mean = np.where(good, windows, 0).sum((2, 3)) / np.maximum(good.sum((2, 3)), 1)
        values = np.where(np.isnan(values) & good.any((2, 3)), mean, values).astype("f4")
    return values


def _poly(by, bx, sky, rms, order):
    """The mesh replaced by its robust polynomial: boxes above it are dropped sooner than boxes below it."""
    y, x = (2 * (by - by.mean()) / max(np.ptp(by), 1))[:, None], 2 * (bx - bx.mean()) / max(np.ptp(bx), 1)
    order = min(order, len(by) - 1 + len(bx) - 1)
    powers = [(i, j) for i in range(min(order, len(by) - 1) + 1) for j in range(min(order - i, len(bx) - 1) + 1)]
    terms = np.stack([np.broadcast_to(y**i * x**j, sky.shape).ravel() for i, j in powers], 1)
    values = sky.ravel().astype("f8")
    good = np.ones(len(values), bool)
    for _ in range(20):
        fit = terms @ np.linalg.lstsq(terms[good], values[good], rcond=None)[0]
        rest = values - fit
        sigma = 1.4826 * np.median(np.abs(rest[good] - np.median(rest[good]))) + 1e-6 * np.median(rms)
        keep = (rest < 2 * sigma) & (rest > -4 * sigma)
        if (keep == good).all() or keep.sum() < 2 * len(powers):
            break
        good = keep
    return fit.reshape(sky.shape).astype("f4")


def _sources(data, bad, sky, rms):
    """Pixels of stars and nebulae: the smoothed frame 3 sigma above the sky, grown by 4 pixels."""
    kernel = np.exp(-np.arange(5) ** 2 / 2 / 1.5**2)
    kernel /= 2 * kernel.sum() - 1
    gain = (2 * (kernel**2).sum() - kernel[0] ** 2)  # noise left by the filter, along both axes
    seen = separable(np.where(bad, 0, data - sky), kernel) > 3 * gain * rms
    return separable(seen, np.ones(5)) > 0
