"""The part of several images that a picture shows: what they have in common."""

import numpy as np


COVERED = 0.5  # of the usual weight: where fewer frames meet, the noise is seen
RIM = 0.25  # share of a field that may be cropped for that; more is a panel of a mosaic with fewer frames
SPOTS = 0.02  # share of an edge that may be empty


def common(data, crop, coverage=()):
    """Slices of the part to show: the largest rectangle that all images fill, or that holds any of them.

    coverage: weight planes of the images, or every n-th row of them; a pixel below COVERED of a plane's median
    counts as empty, unless there are too many to be a rim.
    """
    good = np.ones(data[0].shape, bool)
    for d in data:
        good &= np.isfinite(d)
    if not good.any():
        raise ValueError("the images have no pixel in common; check that they are of one field and on one grid")
    for weight in coverage if crop else ():
        some = weight > 0
        low = some & (weight < np.float32(COVERED * np.median(weight[some]))) if some.any() else some
        if low.sum() < RIM * some.sum():
            step, full = -(-len(good) // len(low)), ~low
            for k in range(step):
                good[k::step] &= full[:len(good[k::step])]
    if not crop or not good.any():
        return slice(None), slice(None)
    every = max(1, min(good.shape) // 500)  # small holes do not count, so a part of the pixels will do
    thin = good[::every, ::every]
    step = min(max(8, max(thin.shape) // 200), *thin.shape)
    rows, columns = (n // step for n in thin.shape)
    share = thin[: rows * step, : columns * step].reshape(rows, step, columns, step).mean((1, 3))
    edges = np.array(rectangle(share > 0.7)) * step * every + np.array([-1, 1, -1, 1]) * 2 * step * every
    window = _trimmed(good, *(int(v) for v in np.clip(edges, 0, np.repeat(good.shape, 2))))
    if good[window].sum() < 0.5 * good.sum():  # an odd shape, a mosaic: show it all
        y, x = np.flatnonzero(good.any(1)), np.flatnonzero(good.any(0))
        window = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
    return window


def _trimmed(good, top, bottom, left, right):
    """The window without the rows and columns at its edges that are empty for more than SPOTS of their length."""
    for _ in range(sum(good.shape)):
        edges = good[top, left:right], good[bottom - 1, left:right], good[top:bottom, left], good[top:bottom, right - 1]
        filled = [np.count_nonzero(e) / max(e.size, 1) for e in edges]
        if min(filled) >= 1 - SPOTS or bottom - top < 3 or right - left < 3:
            break
        bad = np.arange(4) == np.argmin(filled)
        top, bottom, left, right = top + bad[0], bottom - bad[1], left + bad[2], right - bad[3]
    top, bottom, left, right = (int(v) for v in (top, bottom, left, right))
    return slice(top, bottom), slice(left, right)


def rectangle(good):
    """(top, bottom, left, right) of the largest rectangle of True, by the histogram of heights (one pass a row)."""
    best, found, height = 0, (0, good.shape[0], 0, good.shape[1]), np.zeros(good.shape[1] + 1, int)
    for row, line in enumerate(good):
        height[:-1] = np.where(line, height[:-1] + 1, 0)
        stack = []
        for column, high in enumerate(height):
            left = column
            while stack and stack[-1][1] >= high:
                left, tall = stack.pop()
                if tall * (column - left) > best:
                    best, found = tall * (column - left), (row + 1 - tall, row + 1, left, column)
            stack.append((left, high))
    return found
