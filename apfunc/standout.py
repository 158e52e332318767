"""What stands out of its surroundings: residuals from a running median, their local scatter, and bad lines in them."""

import numpy as np

WINDOW = 9   # [pixel] of the local median, across and along: blind to defects up to 4 pixels wide
BOX = 32     # [pixel] of the mesh of the local scatter
SHORT = 32   # [pixel] shortest pieces of columns that are looked at as a whole
STRIP = 16   # rows done at a time


def residual(data):
    """A frame less its running 9x9 median (first across, then along); float32, NaN taken for the frame's median."""
    data = np.asarray(data, "f4")
    level = np.float32(np.nanmedian(data[::7, ::7])) if np.isfinite(data[::7, ::7]).any() else np.float32(0)
    filled = np.where(np.isfinite(data), data, level)
    return filled - _running_median(_running_median(filled, 1), 0)


# Compare-exchange steps that bring the median of nine values to place 4 (Smith 1996, "Implementing median filters").
MEDIAN9 = ((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7), (3, 6),
           (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2))


def _running_median(data, axis):
    """Running median of 9 along an axis, mirrored on the outermost pixel; frames under 5 pixels stay as they are."""
    size, half = data.shape[axis], WINDOW // 2
    if size <= half:
        return data
    pad = np.pad(data, [(half, half) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
    out = np.empty_like(data)
    for top in range(0, data.shape[0], STRIP):
        stop = min(top + STRIP, data.shape[0])
        nine = [(pad[top:stop, k:k + size] if axis else pad[top + k:stop + k]).copy() for k in range(WINDOW)]
        for low, high in MEDIAN9:
            nine[low], nine[high] = np.minimum(nine[low], nine[high]), np.maximum(nine[low], nine[high])
        out[top:stop] = nine[4]
    return out


def spread(rest):
    """Robust standard deviation around each pixel, from the median |rest| of a 32-pixel mesh and its neighbours."""
    ny, nx = rest.shape
    tall, wide = -(-ny // BOX), -(-nx // BOX)
    rows, columns = ((np.arange(n) * size // n)[:, None] + np.arange(size // n) for n, size in ((tall, ny), (wide, nx)))
    boxes = np.abs(np.nan_to_num(rest[rows.ravel()][:, columns.ravel()])).reshape(*rows.shape, *columns.shape)
    mesh = np.median(boxes.transpose(0, 2, 1, 3).reshape(tall, wide, -1), axis=2).astype(float)
    near = np.pad(mesh, 1, mode="edge")
    mesh = np.median([near[i:i + tall, j:j + wide] for i in range(3) for j in range(3)] + [mesh] * 2, axis=0)
    return (1.4826 * _weights(ny, tall) @ mesh @ _weights(nx, wide).T).astype("f4")


def _weights(size, boxes):
    """Matrix (size, boxes) of the linear interpolation between the centres of `boxes` equal parts."""
    place = np.clip((np.arange(size) + 0.5) * boxes / size - 0.5, 0, boxes - 1)
    return np.clip(1 - np.abs(place[:, None] - np.arange(boxes)), 0, None)


def lines(rest, scatter, sigma, least):
    """Bool map of bad columns and rows, whole or in part, in a residual frame and its scatter.

    sigma: times 1.5, of the scatter of one line to the next; least: smallest step, in the units of `rest`, to the lines
    on both sides that counts; at least the scatter of a pixel.
    """
    rest = np.nan_to_num(rest)
    return _columns(rest, scatter, sigma, least) | _columns(rest.T, scatter.T, sigma, least).T


def _columns(rest, scatter, sigma, least):
    ny, nx = rest.shape
    found = np.zeros(rest.shape, bool)
    if nx < 3 or ny < 3 or not scatter.any():
        return found
    height = np.ascontiguousarray(rest / np.maximum(scatter, scatter[scatter > 0].min()))  # in units of the scatter
    count = max(1, ny // SHORT)
    edges = np.arange(count + 1) * ny // count
    profile = np.stack([np.median(height[a:b], axis=0) for a, b in zip(edges[:-1], edges[1:])])
    for group in sorted({1, min(8, count), count}):
        for part in np.array_split(np.arange(count), count // group):
            top, bottom = edges[part[0]], edges[part[-1] + 1]
            mean = profile[part].mean(axis=0)
            noise = 1.0484 * np.median(np.abs(np.diff(mean)))
            floor = np.maximum(least / np.maximum(scatter[(top + bottom) // 2], 1e-30), 1)
            for x, step in _steps(mean, np.maximum(1.5 * sigma * noise, floor)):
                start, stop = _extent(height[:, x] / step, top, bottom)
                found[start:stop, x] = True
    return found


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
