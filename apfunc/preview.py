"""A stretched picture of any frame, to look at."""

import numpy as np

from apfunc import level, stretch

STRIP = 16  # rows stretched at a time, so that they stay in the cache


def preview(image, size=None, stretch_to=None, strength=1.0):
    """The image as an 8-bit grey picture: uint8 (rows, columns), row 0 the bottom as in the image.

    image   (data, header); NaN = no value, shown black.
    size    largest number of rows or columns [pixel]; a larger image is binned to whole blocks (mean of what is there).
    strength  more than 1 shows more of what is faint.  stretch_to: (black, white) [adu] for a linear scale by hand.

    The curve is that of apfunc.stretch, the sky dark grey, faint light well above it.  `apfunc.picture.encode` makes a
    PNG of it.  A constant or an empty image is shown as flat grey or black; nothing is raised.
    """
    data = np.asarray(image[0])
    if size and max(data.shape) > size:
        data = binned(data, -(-max(data.shape) // int(size)))
    out = np.zeros(data.shape, np.uint8)
    some = data[::max(1, data.shape[0] // 600), ::max(1, data.shape[1] // 600)]
    some = (some if np.isfinite(some).any() else data).astype("f4", copy=False)
    if not np.isfinite(some).any():
        return out
    if stretch_to is not None:
        black, white = stretch_to
        slope, scale, floor = 255 / ((white - black) or 1), None, 0.5
    else:
        (black,), (noise,) = level.skies([data], 0)
        black = float(black[0, 0])
        if not np.isfinite(black):
            black, noise = float(np.median(some[np.isfinite(some)])), 0.0
        soft, scale, _ = stretch.curve(some - np.float32(black), noise, strength=strength)
        slope, scale, floor = 1 / soft, np.float32(255 * scale), 255 * stretch.SKY + 0.5
    for top in range(0, len(data), STRIP):
        shown = data[top:top + STRIP].astype("f4")
        shown -= np.float32(black)
        shown *= np.float32(slope)
        if scale is not None:
            np.arcsinh(shown, out=shown)
            shown *= scale
        shown += np.float32(floor)
        np.fmin(np.fmax(shown, 0, out=shown), 255, out=shown)  # NaN becomes 0
        out[top:top + STRIP] = shown
    return out


def binned(data, block):
    """`data` in blocks of block x block pixels, each the mean of its finite ones; NaN where there is none.

    Rows and columns that fill no block at the far edges are left off.
    """
    rows, columns = (max(n // block, 1) for n in data.shape)
    data = data[:rows * block, :columns * block]
    step = [min(block, n) for n in data.shape]
    total = data.reshape(rows, step[0], -1).sum(1, dtype="f4")
    total = sum(total[:, i::step[1]] for i in range(step[1]))
    if np.isfinite(total).all():
        return total / np.float32(step[0] * step[1])
    cut = data.reshape(rows, step[0], columns, step[1])
    good = np.isfinite(cut)
    with np.errstate(all="ignore"):
        return (np.where(good, cut, 0).sum((1, 3)) / good.sum((1, 3))).astype("f4", copy=False)
