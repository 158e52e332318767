"""What stands out of its surroundings: residuals from a running median, their local scatter, and bad lines in them."""

import numpy as np

from apfunc.clip import middle_of_rows

WINDOW = 9   # [pixel] of the local median, across and along: blind to defects up to 4 pixels wide
BOX = 32     # [pixel] of the mesh of the local scatter
SHORT = 32   # [pixel] shortest pieces of columns that are looked at as a whole
STRIP = 16   # rows done at a time, so that they stay in the cache


def residual(data):
    """A frame less its running 9x9 median (first across, then along); float32, NaN taken for the frame's median."""
    data = _filled(data)
    level = _running_median(_running_median(data, 1), 0)
    return np.subtract(data, level, out=None if level is data else level)


def level_at(data, at):
    """The running 9x9 median that `residual` takes off, at the pixels with flat indices `at` only."""
    data = _filled(data)
    y, x = (_mirrored(size)[index[:, None] + np.arange(WINDOW)] if size > WINDOW // 2 else index[:, None]
            for size, index in zip(data.shape, np.divmod(at, data.shape[1])))
    window = np.broadcast_to(data[y[:, :, None], x[:, None, :]], (len(at), WINDOW, WINDOW))
    return middle_of_rows(middle_of_rows(window.reshape(-1, WINDOW)).reshape(-1, WINDOW))


def least_around(data):
    """A lower bound of the running 9x9 median: rows (one for every 8 rows of the frame) of the least of the 24x24 or so
    around; NaN is left out."""
    (ny, nx), blocks = data.shape, data
    if ny % 8 or nx % 8:
        blocks = np.pad(data, ((0, -ny % 8), (0, -nx % 8)), mode="edge")
    blocks = np.fmin.reduce(blocks.reshape(-1, 8, blocks.shape[1]), axis=1)
    blocks = np.fmin.reduce(blocks.reshape(len(blocks), -1, 8), axis=2)
    for _ in range(2):
        near = np.pad(blocks, ((1, 1), (0, 0)), mode="edge")
        blocks = np.fmin(np.fmin(near[:-2], near[1:-1]), near[2:]).T
    return np.repeat(blocks, 8, axis=1)[:, :nx]


def _filled(data):
    data = np.asarray(data, "f4")
    finite = np.isfinite(data)
    if finite.all():
        return data
    thin = data[::7, ::7]
    level = np.nanmedian(thin) if np.isfinite(thin).any() else 0
    return np.where(finite, data, np.float32(level))


def _mirrored(size):
    """The places -4 … size + 3 of an axis of 5 or more pixels, mirrored on the outermost."""
    return np.pad(np.arange(size), WINDOW // 2, mode="reflect")


def _running_median(data, axis):
    """Running median of 9 along an axis, mirrored on the outermost pixel; frames under 5 pixels stay as they are."""
    if data.shape[axis] <= WINDOW // 2:
        return data
    places, out = _mirrored(data.shape[axis]), np.empty_like(data)
    for top in range(0, len(data), STRIP):
        stop = min(top + STRIP, len(data))
        if axis:
            out[top:stop] = median9(np.take(data[top:stop], places, axis=1).T).T
        else:
            out[top:stop] = median9(data[places[top:stop + WINDOW - 1]])
    return out


def median9(lines):
    """Running median of 9 lines (8 fewer come out): of the largest minimum, the middle median and the smallest maximum
    of three triples, and each triple serves three times."""
    low, middle, high = _sorted3(lines[:-2], lines[1:-1], lines[2:])
    low = np.maximum(np.maximum(low[:-6], low[3:-3]), low[6:])
    high = np.minimum(np.minimum(high[:-6], high[3:-3]), high[6:])
    middle = _sorted3(middle[:-6], middle[3:-3], middle[6:])[1]
    return _sorted3(low, middle, high)[1]


def _sorted3(a, b, c):
    low, high = np.minimum(a, b), np.maximum(a, b)
    return np.minimum(low, c), np.maximum(low, np.minimum(high, c)), np.maximum(high, c)


def spread(rest):
    """Robust standard deviation around each pixel, from the median |rest| of a 32-pixel mesh and its neighbours."""
    ny, nx = rest.shape
    tall, wide = -(-ny // BOX), -(-nx // BOX)
    height, columns = ny // tall, (np.arange(wide)[:, None] * nx // wide + np.arange(nx // wide)).ravel()
    mesh = np.empty((tall, wide))
    for i in range(tall):
        boxes = np.abs(np.take(rest[i * ny // tall:][:height], columns, axis=1))
        boxes[~(boxes < np.inf)] = 0
        mesh[i] = middle_of_rows(boxes.reshape(height, wide, -1).transpose(1, 0, 2).reshape(wide, -1))
    near = np.pad(mesh, 1, mode="edge")
    mesh = np.median([near[i:i + tall, j:j + wide] for i in range(3) for j in range(3)] + [mesh] * 2, axis=0)
    return (1.4826 * _weights(ny, tall) @ mesh).astype("f4") @ _weights(nx, wide).astype("f4").T


def _weights(size, boxes):
    """Matrix (size, boxes) of the linear interpolation between the centres of `boxes` equal parts."""
    place = np.clip((np.arange(size) + 0.5) * boxes / size - 0.5, 0, boxes - 1)
    return np.clip(1 - np.abs(place[:, None] - np.arange(boxes)), 0, None)


def beyond(rest, scatter, sigma, least, below=False):
    """Flat indices of the pixels with rest > max(sigma * scatter, least); with `below` also of -rest, and NaN."""
    found = []
    for top in range(0, len(rest), STRIP):
        part = rest[top:top + STRIP]
        limit = np.maximum(sigma * scatter[top:top + STRIP], np.float32(least))
        found.append(np.flatnonzero(~(np.abs(part) <= limit) if below else part > limit) + top * rest.shape[1])
    return np.concatenate(found)


def lines(rest, scatter, sigma, least):
    """Bool map of bad columns and rows, whole or in part, in a residual frame and its scatter.

    sigma: times 1.5, of the scatter of one line to the next; least: smallest step, in the units of `rest`, to the lines
    on both sides that counts; at least the scatter of a pixel.
    """
    found = np.zeros(rest.shape, bool)
    if min(rest.shape) < 3 or not scatter.any():
        return found
    height, floor = np.empty_like(rest), scatter.min(where=scatter > 0, initial=np.inf)
    for top in range(0, len(rest), STRIP):  # in units of the scatter
        rows = np.s_[top:top + STRIP]
        part = np.divide(rest[rows], np.maximum(scatter[rows], floor), out=height[rows])
        part[~np.isfinite(part)] = 0
    _columns(found, height, scatter, sigma, least)
    _columns(found.T, height.T, scatter.T, sigma, least)
    return found


def _columns(found, height, scatter, sigma, least):
    """Mark (in place) the bad columns."""
    ny = len(height)
    count = max(1, ny // SHORT)
    edges = np.arange(count + 1) * ny // count
    profile = np.stack([middle_of_rows(height[a:b].T) for a, b in zip(edges[:-1], edges[1:])])
    for group in sorted({1, min(8, count), count}):
        for part in np.array_split(np.arange(count), count // group):
            top, bottom = edges[part[0]], edges[part[-1] + 1]
            mean = profile[part].mean(axis=0)
            noise = 1.0484 * np.median(np.abs(np.diff(mean)))
            floor = np.maximum(least / np.maximum(scatter[(top + bottom) // 2], 1e-30), 1)
            for x, step in _steps(mean, np.maximum(1.5 * sigma * noise, floor)):
                start, stop = _extent(height[:, x] / step, top, bottom)
                found[start:stop, x] = True


def _steps(mean, limit, widest=4):
    """(column, height) of the groups of 1 to 4 columns that all lie `limit` (an array) above, or below, the level and
    both columns beside."""
    nx = mean.size
    steps = {}
    for sign in (1, -1):
        value = np.concatenate([[0], sign * mean, [0]])
        for width in range(1, min(widest, nx - 1) + 1):
            inner = np.min([value[1 + k:nx + 2 - width + k] for k in range(width)], axis=0)
            beside = np.maximum(0, np.maximum(value[:nx + 1 - width], value[1 + width:]))
            for x in np.flatnonzero(inner - beside > limit[:nx + 1 - width]):
                steps |= {int(k): float(mean[k]) for k in range(x, x + width)}
    return sorted(steps.items())


def _extent(column, top, bottom, patience=10):
    """First row, and row after the last, of the bad stretch of a column (its height is 1, that of good pixels 0) that
    has its clearest part in rows top to bottom: outwards, as long as the sum of (height - 1/2) grows."""
    score = np.clip(column, -1.5, 2.5) - 0.5
    middle = top + int(np.convolve(score[top:bottom], np.ones(9), "same").argmax())

    def reach(part):
        total = np.cumsum(part)
        done = np.flatnonzero(np.maximum.accumulate(total) - total > patience)
        return int(total[:done[0] if done.size else None].argmax()) + 1
    return middle + 1 - reach(score[middle::-1]), middle + reach(score[middle:])
