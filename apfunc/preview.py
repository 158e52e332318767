"""A stretched picture of any frame, to look at."""

import numpy as np

from apfunc import starflux, stretch


def preview(image, size=None, stretch_to=None, strength=1.0):
    """The image as an 8-bit grey picture: uint8 (rows, columns), row 0 the bottom as in the image.

    image   (data, header); NaN = no value, shown black.
    size    largest number of rows or columns [pixel]; a larger image is binned to whole blocks (mean of what is there).
    strength  more than 1 shows more of what is faint.  stretch_to: (black, white) [adu] for a linear scale by hand.

    The curve is that of apfunc.stretch, the sky dark grey, faint light well above it.  `apfunc.picture.encode` makes a
    PNG of it.  A constant or an empty image is shown as flat grey or black; nothing is raised.
    """
    data = np.asarray(image[0]).astype("f4", copy=False)
    if size and max(data.shape) > size:
        data = binned(data, -(-max(data.shape) // int(size)))
    good = np.isfinite(data)
    if not good.any():
        return np.zeros(data.shape, np.uint8)
    if stretch_to is not None:
        black, white = stretch_to
        shown = (data - np.float32(black)) / np.float32((white - black) or 1)
    else:
        sky, noise = starflux.sky(data)
        if not np.isfinite(sky):
            sky, noise = float(np.median(data[good])), 0.0
        step = max(1, int(np.sqrt(data.size / 4e5)))
        light = data - np.float32(sky)
        soft, scale, _ = stretch.curve(light[::step, ::step], noise, strength=strength)
        shown = np.float32(stretch.SKY) + light * stretch.factor(light, soft, scale)
    shown[~good] = 0
    return (np.clip(shown, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def binned(data, block):
    """`data` in blocks of block x block pixels, each the mean of its finite ones; NaN where there is none.

    Rows and columns that fill no block at the far edges are left off.
    """
    rows, columns = (max(n // block, 1) for n in data.shape)
    data = data[:rows * block, :columns * block]
    step = [min(block, n) for n in data.shape]
    cut = data.reshape(rows, step[0], columns, step[1])
    good = np.isfinite(cut)
    count = good.sum((1, 3))
    with np.errstate(all="ignore"):
        mean = cut.mean((1, 3), dtype="f4") if good.all() else np.where(good, cut, 0).sum((1, 3)) / count
    return mean.astype("f4", copy=False)
