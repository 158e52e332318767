"""Where stars may be: the frame freed of its sky, the width of its stars, the peaks of a matched filter.

Everything here is shared arithmetic of `apfunc.stars`: plain NumPy on whole frames in strips, no loop over pixels.
"""

import functools

import numpy as np

from apfunc import background, psf


TEXTURE = 0.8  # share of the scatter round a peak that counts as its noise, where it is more than that of the sky
LARGE, BAND, SURE = 4e6, 128, 25  # pixels of a frame, rows, stars of like width; see `seeing`
STRIP = 1 << 16  # pixels looked at at a time, so that they stay in the cache


def flatten(data, bad, box=64):
    """The frame without its sky, bad pixels bridged by the mean of those round them, and the sky that was there:
    (By, Bx, mesh of the sky, mesh of the noise), see `apfunc.background`.  NaN must be `bad`."""
    step, holes = (8 if data.size > LARGE else 4) * max(1, box // 64) + 1, bad.any()  # odd: sees odd and even rows
    y, x, sky, _ = background.mesh(data, bad if holes else None, box, step)
    if not np.isfinite(sky).all():
        raise ValueError("no good pixel in the frame, so no sky; check the frame and its mask")
    sky = background.median_filter(sky)
    noise = _noise(data, bad if holes else None, box, step)
    if np.median(noise) == 0:  # a colour of a mosaic: every second pixel is the mean of its neighbours
        noise = _noise(data, bad if holes else None, box, step, lag=2)
    noise = background.median_filter(noise)
    by, bx = background.spline_matrix(y, len(data)), background.spline_matrix(x, data.shape[1])
    flat, middle = np.empty_like(data), np.median(sky)
    across = (sky - middle).astype("f4") @ bx.T
    for rows in background.cubics(y, len(data)):  # data - By @ mesh @ Bx.T, from four rows of each cubic of the spline
        four, mix = background.cubic(rows.stop - rows.start)
        part = mix @ (by[rows.start + four] @ across + np.float32(middle))
        np.subtract(data[rows], part, out=flat[rows])
    y, x = np.divmod(np.flatnonzero(bad), data.shape[1]) if holes else ((), ())
    for i in range(0, len(y), 65536):
        at, near = slice(i, i + 65536), psf.disc(2)
        hidden, values = stamps((bad, flat), y[at], x[at], near)
        good = hidden == 0
        flat[y[at], x[at]] = np.where(good, values, 0).sum(1) / np.maximum(good.sum(1), 1)
    return flat, (by, bx, sky, np.maximum(noise, 0.1 * np.median(noise)))


def _noise(data, bad, box, step, lag=1):
    """Noise of a pixel in each box of the mesh, from the median size of v - (left + right) / 2, `lag` pixels to the
    left and right: neither stars nor nebulae nor gradients add to it."""
    rows, high, wide = data[::step], max(1, round(box / step)), min(box, data.shape[1]) - 2 * lag
    if wide < 1:
        return np.full((len(background.starts(len(rows), min(high, len(rows)))), 1), np.nan_to_num(data).std(), "f4")
    high = min(high, len(rows))
    out = []
    for top in background.starts(len(rows), high):
        part = rows[top:top + high]
        part = np.where(bad[::step][top:top + high], np.nan, part) if bad is not None else part
        size = np.abs(part[:, lag:-lag] - (part[:, :-2 * lag] + part[:, 2 * lag:]) / 2)
        across = background.starts(data.shape[1], wide + 2 * lag)
        size = np.lib.stride_tricks.sliding_window_view(size, wide, axis=1)[:, across]
        size = np.sort(size.transpose(1, 0, 2).reshape(size.shape[1], -1), axis=1)
        count = np.isfinite(size).sum(1)
        middle = size[np.arange(len(size)), np.maximum(count // 2 - (count % 2 == 0) * (count > 1), 0)]
        out.append(np.where(count > 0.2 * size.shape[1], 1.4826 * middle / np.sqrt(1.5), np.nan))
    return background.filled(np.array(out, "f4"))


def seeing(flat, full, noise):
    """FWHM [pixel] of the brightest stars of a sky-free frame of known noise; None when nothing looks like a star.

    The frame is binned 2, 4, 8 and 16 times, and each time the 100 highest peaks that are no wider than a few pixels are
    fitted at half that binning.  Stars have the form of the model and one width, which knots of a nebula, cosmic rays
    and rings have not: the finest binning counts where at least half as many are alike as in the best one.  Where
    nothing has the form (rings of stars far out of focus), that counts where most are alike.  `full`: saturated
    pixels, whose stars are not asked.  Of a LARGE frame every fourth band of BAND rows is asked first: where they show
    more than SURE stars alike, the others would say the same.
    """
    if flat.size > LARGE:
        some = np.arange(len(flat)) // BAND % 4 == 1
        width, alike = _seeing(flat[some], full[some], noise)
        if alike > SURE:
            return width
    return _seeing(flat, full, noise)[0]


def _seeing(flat, full, noise):
    """What `seeing` says, and of how many stars."""
    found, formless, white, small, burnt = [], [], 0.0, flat, np.divmod(np.flatnonzero(full), full.shape[1])
    for binning in (2, 4, 8, 16):
        if min(flat.shape) // binning < 16:
            break
        before, small = small, shrink(small, 2)
        blocked = np.zeros((small.shape[0] + 1, small.shape[1] + 1), bool)
        blocked[tuple(np.minimum(v // binning, n) for v, n in zip(burnt, small.shape))] = True
        filtered = background.separable(small, gaussian(2.0))
        filtered -= background.separable(filtered, gaussian(6.0))  # nebulae are wide
        seen = max(background.level(filtered)[1], 1e-9)
        white = seen if binning == 2 else white / 2  # what white noise leaves; wide stars of a full field add to `seen`
        y, x = maxima(filtered, 8 * max(white, seen / 2))
        pixels = around(small, y, x)  # one pixel that holds it all is no star
        star = (pixels[:, 4] < 0.8 * np.maximum(pixels.sum(1), 1e-9)) & ~around(blocked, y, x).any(1)
        best = np.flatnonzero(star)[np.argsort(-filtered[y[star], x[star]], kind="stable")[:100]]
        form, any_form = _alike(before, 2 * y[best], 2 * x[best], noise / (binning // 2))
        found += [(len(form), binning // 2 * float(np.median(form)))] if len(form) else []
        formless += [(len(any_form) / len(best), binning // 2 * float(np.median(any_form)))] if len(any_form) > 4 else []
        if len(form) > SURE:
            break
    most = max((count for count, _ in found), default=0)
    return next((width for count, width in found if count >= most / 2), max(formless, default=(0, None))[1]), most


def _alike(frame, y, x, noise):
    """The largest group of like widths (within 25 %), sorted: of the peaks that have the form of stars, and of all."""
    offsets = psf.disc(6)
    start = np.repeat(psf.star(3.0), len(y), 0)
    start[:, [psf.A, psf.X, psf.Y]] = np.stack([frame[y, x], x + 0.5, y + 0.5], 1)
    p, errors, chi2 = psf.fit(stamps(frame, y, x, offsets), y, x, offsets, start, np.full(len(y), noise),
                              free=psf.SHAPE, passes=8, near=0.003)
    width, ellipticity, _ = psf.shape(p)
    light = (psf.profiles(p, y, x, offsets) ** 2).sum(1) / noise**2
    misfit = np.sqrt(np.maximum(chi2 - len(offsets[0]) + 7, 0) / np.maximum(light, 1e-9))
    good = (width > 1.25) & (width < 7) & (ellipticity < 0.7) & (p[:, psf.A] > 8 * errors[:, psf.A])
    good &= np.hypot(p[:, psf.X] - x - 0.5, p[:, psf.Y] - y - 0.5) < 3
    groups = []
    for some in (good & (misfit < 0.15), good):
        widths = np.sort(width[some])
        near = np.searchsorted(widths, 1.25 * widths, "right") - np.arange(len(widths))
        groups.append(widths[near.argmax():][:near.max()] if len(widths) else widths)
    return groups


def peaks(flat, sky, width, sigma, out=None):
    """Pixels (y, x), most significant first, where the frame, filtered with a Gaussian of FWHM `width`, has a maximum
    `sigma` times its noise above what lies round it.  out: a float32 frame to hold the filtered one."""
    by, bx, _, noise = sky
    kernel = gaussian(width)
    filtered = background.separable(flat, kernel, out)
    left = 2 * (kernel**2).sum() - kernel[0] ** 2  # of the noise of a pixel, along both axes
    y, x = maxima(filtered, sigma * left * float(noise.min()))
    local = left * at_pixels(by, noise, bx, y, x)
    good = filtered[y, x] > sigma * local
    y, x, local = y[good], x[good], local[good]
    beside = ring(width)
    height = np.empty(len(y))
    for i in range(0, len(y), 20000):
        at = slice(i, i + 20000)
        low, middle = quantile(stamps(filtered, y[at], x[at], beside), [0.2, 0.5])
        texture = (middle - low) / 0.8416  # of a nebula; stars near by only add above the middle
        height[at] = (filtered[y[at], x[at]] - np.maximum(middle, 0)) / np.maximum(local[at], TEXTURE * texture)
    order = np.argsort(-height, kind="stable")
    order = order[height[order] > sigma]
    return y[order], x[order]


def ring(width):
    """Offsets (dy, dx) of about 48 pixels round a star of that FWHM: a sample of the nebula it may lie on."""
    dy, dx = psf.disc(2.8 * width)
    far = np.flatnonzero(np.hypot(dy, dx) > 1.8 * width)
    far = far[::max(1, len(far) // 48)]
    return dy[far], dx[far]


def excess(rest, sky, width, strips=4, high=96):
    """By how much the noise that a filter of FWHM `width` leaves exceeds that of independent pixels (>= 1), from some
    strips of a finite frame without its stars: more than 1 where pixels were interpolated, bands run, stars crowd."""
    kernel, found = gaussian(width), []
    for top in background.starts(len(rest), min(high, len(rest)), strips):
        filtered = background.separable(rest[top:top + high], kernel)
        found.append(background.level(filtered[len(kernel):-len(kernel), len(kernel):-len(kernel)])[1])
    left = 2 * (kernel**2).sum() - kernel[0] ** 2
    return max(1.0, float(np.nanmedian(found)) / (left * float(np.median(sky[3])))) if np.isfinite(found).any() else 1.0


def saturated(full):
    """The saturated stars: y, x (centres, float) and half size of each connected group of pixels in `full`.

    The widest rows of a group say where it is, so that a column bled out of it does not.
    """
    at, wide = np.flatnonzero(full), full.shape[1]
    if not len(at):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    first = np.flatnonzero((np.diff(at, prepend=-9) != 1) | (at % wide == 0))
    start, length = at[first], np.diff(first, append=len(at))
    row, left = np.divmod(start, wide)
    right = left + length
    group = list(range(len(row)))  # union-find over the runs of saturated pixels

    def root(i):
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    above = 0
    for i in range(len(row)):
        while row[above] < row[i] - 1 or (row[above] == row[i] - 1 and right[above] < left[i]):
            above += 1
        j = above
        while row[j] == row[i] - 1 and left[j] <= right[i]:
            group[root(i)] = root(j)
            j += 1
    name = np.unique([root(i) for i in range(len(row))], return_inverse=True)[1]
    size = np.zeros(name.max() + 1)
    np.maximum.at(size, name, length / 2)
    weight = np.where(length > size[name], length.astype(float), 0)  # the rows more than half as wide as the widest
    y, x = np.bincount(name, row * weight), np.bincount(name, (left + (length - 1) / 2) * weight)
    return y / np.bincount(name, weight), x / np.bincount(name, weight), size


def gaussian(width):
    """Half (centre outwards) of a Gaussian kernel of that FWHM, its sum over both sides 1."""
    deviation = width / 2.3548
    kernel = np.exp(-np.arange(max(2, int(np.ceil(2 * deviation))) + 1) ** 2 / 2 / deviation**2)
    return kernel / (2 * kernel.sum() - kernel[0])


def shrink(data, factor):
    """Means over blocks of factor x factor pixels; rows and columns that do not fill a block are left out."""
    if factor == 1:
        return data.astype("f4", copy=False)
    ny, nx = data.shape[0] // factor, data.shape[1] // factor
    out = np.empty((ny, nx), "f4")
    for i in range(0, ny, 32):  # strips that stay in the cache
        part = data[i * factor:min(i + 32, ny) * factor, :nx * factor]
        rows = functools.reduce(np.add, (part[j::factor].astype("f4", copy=False) for j in range(factor)))
        columns = functools.reduce(np.add, (rows[:, j::factor] for j in range(factor)))
        np.divide(columns, np.float32(factor**2), out=out[i:i + 32])
    return out


def maxima(data, limit):
    """Pixels (y, x) above `limit` that none of their eight neighbours exceeds; not on the rim."""
    wide, flat, found = data.shape[1], data.reshape(-1), []
    for i in range(wide + 1, flat.size - wide - 1, STRIP):
        k = slice(i, min(i + STRIP, flat.size - wide - 1))
        middle = flat[k]
        high = middle > limit
        if high.any():
            high &= middle > flat[k.start - 1:k.stop - 1]
            high &= middle >= flat[k.start + 1:k.stop + 1]
            found.append(np.flatnonzero(high) + i)
    at = np.concatenate(found or [np.zeros(0, int)])
    at = at[(at % wide > 0) & (at % wide < wide - 1)]
    for move in (-wide, -wide - 1, -wide + 1):
        at = at[(flat[at] > flat[at + move]) & (flat[at] >= flat[at - move])]
    return np.divmod(at, wide)


def around(data, y, x):
    """The 3x3 pixels round each of (y, x), as (n, 9); at the rim the nearest ones stand in."""
    dy, dx = np.mgrid[-1:2, -1:2].reshape(2, -1)
    return data[np.clip(y[:, None] + dy, 0, data.shape[0] - 1), np.clip(x[:, None] + dx, 0, data.shape[1] - 1)]


def quantile(values, share):
    """The value (one of them) below which that share of each row of `values` (n, pixels) lies; NaN is left out."""
    values = np.sort(values, axis=1)
    count, share = np.isfinite(values).sum(1), np.asarray(share)
    return values[np.arange(len(values)), (share[..., None] * count).astype(int)]


def stamps(data, y, x, offsets):
    """The pixels at `offsets` (dy, dx) of each (y, x), (n, pixels) float32; NaN outside the frame.  data: a frame, or a
    tuple of several, for as many results."""
    frames = data if isinstance(data, tuple) else (data,)
    at, rim, outside = _addresses(frames[0].shape, y, x, offsets)
    found = [frame.reshape(-1).take(at).astype("f4", copy=False) for frame in frames]
    for out in found if len(rim) else ():
        out[rim] = np.where(outside, np.nan, out[rim])
    return found if isinstance(data, tuple) else found[0]


def paint(data, model, y, x, offsets):
    """Add, in place, `model` (n, pixels) at the `offsets` of each (y, x) to `data`."""
    at, rim, outside = _addresses(data.shape, y, x, offsets)
    if len(rim):
        model = model.copy()
        model[rim] = np.where(outside, 0, model[rim])
    np.add.at(data.reshape(-1), at.reshape(-1), model.reshape(-1))


def _addresses(shape, y, x, offsets):
    """Flat addresses (n, pixels) of the `offsets` of each (y, x); which of those lie so near the rim of a frame that
    pixels may be outside, and which pixels of theirs are; those have the address 0."""
    (dy, dx), (rows, columns) = offsets, shape
    at = (y * columns + x)[:, None] + (dy * columns + dx)
    high, wide = np.abs(offsets).max(1, initial=0)
    rim = np.flatnonzero((y < high) | (y >= rows - high) | (x < wide) | (x >= columns - wide))
    outside = np.zeros((0, len(dy)), bool)
    if len(rim):
        down, right = y[rim, None] + dy, x[rim, None] + dx
        outside = (down < 0) | (down >= rows) | (right < 0) | (right >= columns)
        at[rim] = np.where(outside, 0, at[rim])
    return at, rim, outside


def at_pixels(by, values, bx, y, x):
    """What By @ values @ Bx.T has at the pixels (y, x)."""
    return ((by[y] @ values) * bx[x]).sum(1)
