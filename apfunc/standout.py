"""What stands out of its surroundings: residuals from a running median, their local scatter, and bad lines in them."""

import functools

import numpy as np

from apfunc.clip import middle_of_rows
from apfunc.raw import middle

WINDOW = 9   # [pixel] of the local median, across and along: blind to defects up to 4 pixels wide
BOX = 32     # [pixel] of the mesh of the local scatter
SHORT = 32   # [pixel] shortest pieces of columns that are looked at as a whole
STRIP = 16   # rows done at a time, so that they stay in the cache


def residual(data):
    """A frame less its running 9x9 median (first across, then along); float32, NaN taken for the frame's median."""
    data = _filled(data)
    places = _mirrored(len(data))
    if len(data) <= WINDOW // 2:
        return data - _across(data)
    out, more = np.empty_like(data), WINDOW - 1
    near = _across(data[places[:more]])
    for top in range(0, len(data), STRIP):
        near = np.concatenate([near[-more:], _across(data[places[top + more:top + more + STRIP]])])
        rows = np.s_[top:top + STRIP]
        np.subtract(data[rows], median9(near), out=out[rows])
    return out


def level_at(data, at):
    """The running 9x9 median that `residual` takes off, at the pixels with flat indices `at` only."""
    y, x = (_mirrored(size)[index[:, None] + np.arange(WINDOW)] if size > WINDOW // 2 else index[:, None]
            for size, index in zip(data.shape, np.divmod(at, data.shape[1])))
    window = np.broadcast_to(_filled(data[y[:, :, None], x[:, None, :]], data), (len(at), WINDOW, WINDOW))
    return middle_of_rows(middle_of_rows(window.reshape(-1, WINDOW)).reshape(-1, WINDOW))


def least_around(data):
    """A lower bound of the running 9x9 median: rows (one for every 8 rows of the frame) of the least of the 24x24 or so
    around; NaN is left out."""
    nx = data.shape[1]
    blocks = np.stack([np.fmin.reduce(data[top:top + 8].astype("f4"), axis=0) for top in range(0, len(data), 8)])
    blocks = np.pad(blocks, ((0, 0), (0, -nx % 8)), mode="edge")
    blocks = functools.reduce(np.fmin, [blocks[:, i::8] for i in range(8)])
    for _ in range(2):
        near = np.pad(blocks, ((1, 1), (0, 0)), mode="edge")
        blocks = np.fmin(np.fmin(near[:-2], near[1:-1]), near[2:]).T
    return np.repeat(blocks, 8, axis=1)[:, :nx]


def _filled(data, frame=None):
    """Values as float32, those that are not finite replaced by the median of the frame they are from."""
    data = np.asarray(data, "f4")
    finite = np.isfinite(data)
    if finite.all():
        return data
    thin = (data if frame is None else frame)[::7, ::7].astype("f4")
    level = np.nanmedian(thin) if np.isfinite(thin).any() else 0
    return np.where(finite, data, np.float32(level))


def _mirrored(size):
    """The places -4 … size + 3 of an axis of 5 or more pixels, mirrored on the outermost."""
    return np.pad(np.arange(size), WINDOW // 2, mode="reflect")


def _across(rows):
    """Running median of 9 along rows, mirrored on the outermost pixel; under 5 pixels they stay as they are."""
    half = WINDOW // 2
    if rows.shape[1] <= half:
        return rows
    return median9(np.concatenate([rows[:, half:0:-1], rows, rows[:, -2:-half - 2:-1]], axis=1).T).T


def median9(lines):
    """Running median of 9 lines (8 fewer come out): of the largest minimum, the middle median and the smallest maximum
    of three triples, and each triple serves three times."""
    low, middle, high = _sorted3(lines[:-2], lines[1:-1], lines[2:])
    low = _last(np.maximum, low)
    high = _last(np.minimum, high)
    return _middle3(low, _middle3(middle[:-6], middle[3:-3], middle[6:]), high)


def _sorted3(a, b, c):
    low, high = np.minimum(a, b), np.maximum(a, b)
    middle = np.minimum(high, c)
    return np.minimum(low, c), np.maximum(low, middle, out=middle), np.maximum(high, c, out=high)


def _middle3(a, b, c):
    low, high = np.minimum(a, b), np.maximum(a, b)
    return np.maximum(low, np.minimum(high, c, out=high), out=low)


def _last(choose, lines):
    """The largest, or smallest, of three lines that are three apart."""
    found = choose(lines[:-6], lines[3:-3])
    return choose(found, lines[6:], out=found)


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
    lines = (1.4826 * mesh @ _weights(nx, wide).T).astype("f4")
    weights, out = _weights(ny, tall).astype("f4"), np.empty(rest.shape, "f4")
    above = np.minimum((weights > 0).argmax(axis=1), max(tall - 2, 0))
    for i in range(max(tall - 1, 1)):  # only the lines above and below a row weigh
        rows = slice(*np.searchsorted(above, (i, i + 1)))
        np.matmul(weights[rows, i:i + 2], lines[i:i + 2], out=out[rows])
    return out


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
    """Bool map of bad columns and rows, whole or in part, in a residual frame, which is used up, and its scatter.

    sigma: times 1.5, of the scatter of one line to the next; least: smallest step, in the units of `rest`, to the lines
    on both sides that counts; at least the scatter of a pixel.
    """
    found = np.zeros(rest.shape, bool)
    floor = scatter.min()
    if not floor > 0:
        floor = scatter.min(where=scatter > 0, initial=np.inf)
    if min(rest.shape) < 3 or not floor < np.inf:
        return found
    for top in range(0, len(rest), STRIP):  # in units of the scatter
        part = rest[top:top + STRIP]
        part /= np.maximum(scatter[top:top + STRIP], floor)
        part[~np.isfinite(part)] = 0
    _columns(found, rest, scatter, sigma, least)
    _columns(found.T, rest.T, scatter.T, sigma, least)
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
            floor = np.maximum(least / np.maximum(scatter[(top + bottom) // 2], 1e-30), 1)
            if not (np.abs(mean) > floor).any():
                continue
            noise = 1.0484 * middle(np.abs(np.diff(mean)))
            for x, step in _steps(mean, np.maximum(1.5 * sigma * noise, floor)):
                start, stop = _extent(height[:, x] / step, top, bottom)
                found[start:stop, x] = True


def _steps(mean, limit, widest=4):
    """(column, height) of the groups of 1 to 4 columns that all lie `limit` (an array) above, or below, the level and
    both columns beside."""
    nx = mean.size
    steps = {}
    for sign in (1, -1):
        if not (sign * mean > limit).any():
            continue
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
