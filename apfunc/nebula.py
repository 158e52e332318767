"""The nebula that stars lie on: taken off before they are measured, and asked whether they are part of it.

What is finer than the mesh of the sky (`apfunc.background`) but wider than a star pulls the places of stars on it and
hides faint ones; once the stars are known, it is what is left of the frame without them, smoothed.
"""

import numpy as np

from apfunc import background, detect, psf

CLEAR = 2.0  # a nebula's power in units of that of the noise, above which it counts


def find(flat, light, y, x, flux, full, noise, width):
    """What a frame less its stars (`flat` - `light`; NaN counts as zero) holds that is wider than 3 FWHM, as means over
    blocks of `step` pixels; drawn to zero as far as it is no more than CLEAR times the power of what the `noise` of a
    pixel and 10 % of the stars' light (flux at the pixels y, x) make of themselves, and beside saturated pixels
    (`full`).  (cells, step); None when there is nothing."""
    step = max(int(width), 1)
    if min(flat.shape) < 8 * step:
        return None
    kernel, parts = detect.gaussian(3 * width / step), []
    for i in range(0, len(flat) - step + 1, 8 * step):  # strips that stay in the cache
        rest = flat[i:i + 8 * step] - light[i:i + 8 * step]
        np.copyto(rest, 0, where=rest != rest)
        parts.append(detect.shrink(rest, step))
    cells = background.separable(np.concatenate(parts), kernel)
    stars, reach = np.zeros(cells.shape, "f4"), len(kernel) - 1
    np.add.at(stars, _inside(y // step, x // step, cells.shape), np.maximum(flux, 0) / step**2)
    white = float(2 * (kernel**2).sum() - kernel[0] ** 2) * noise / step  # a number, so that all stays float32
    power = background.separable(cells**2, kernel) / (white**2 + (0.1 * background.separable(stars, kernel)) ** 2)
    cells *= np.maximum(1 - CLEAR / np.maximum(power, 1e-6), 0)
    burnt = _inside(*(v // step for v in np.divmod(np.flatnonzero(full), full.shape[1])), cells.shape)
    for row, column in set(zip(*(v.tolist() for v in burnt))):
        cells[max(row - reach, 0):row + reach + 1, max(column - reach, 0):column + reach + 1] = 0
    cells -= np.clip(cells, -0.05 * noise, 0.05 * noise)  # what no star feels
    return (cells, step) if np.count_nonzero(power > 8) > 1e-3 * cells.size else None


def remove(flat, cells, step):
    """Take a nebula (of `find`), linear between the middles of its cells, off the frame, in place."""
    (above, down), (left, right) = (_between(cells.shape[i], step, flat.shape[i]) for i in (0, 1))
    for i in range(0, len(flat), 8 * step):
        rows = slice(i, i + 8 * step)
        first, part = above[rows][0], down[rows]
        some = cells[first:above[rows][-1] + 2]
        seen = np.flatnonzero(some.any(0))
        if len(seen):
            columns = slice(max(seen[0] - 1, 0) * step, (seen[-1] + 2) * step)
            k, share = left[columns], right[columns]
            wide, right_of = some.take(k, 1), some.take(np.minimum(k + 1, cells.shape[1] - 1), 1)
            wide *= 1 - share
            right_of *= share
            wide += right_of
            mix, row = np.zeros((len(part), len(some)), "f4"), np.arange(len(part))
            np.add.at(mix, (row, above[rows] - first), 1 - part)
            np.add.at(mix, (row, np.minimum(above[rows] - first + 1, len(some) - 1)), part)
            flat[rows, columns] -= mix @ wide


def at(cloud, y, x):
    """What a nebula (of `find`, or None) has in the cells of the pixels (y, x)."""
    if cloud is None:
        return np.zeros(np.broadcast_shapes(np.shape(y), np.shape(x)), "f4")
    cells, step = cloud
    return cells[tuple(np.clip(v // step, 0, n - 1) for v, n in zip((y, x), cells.shape))]


def uneven(cloud, y, x, reach):
    """By how much a nebula changes within `reach` of the pixels (y, x)."""
    around = ((0, 0), (0, -reach), (0, reach), (-reach, 0), (reach, 0))
    return np.ptp([at(cloud, y + down, x + right) for down, right in around], axis=0)


def rough(flat, light, cloud, y, x, noise, width):
    """Noise of a filter of FWHM `width` round the pixels (y, x) of a frame less its stars (`flat` - `light`), what the
    nebula taken off it (`cloud`) adds included, in units of what independent pixels of that `noise` leave (>= 1)."""
    (ry, rx), (wy, wx) = detect.ring(width), psf.disc(4.3 * width)
    kernel = np.exp(-4 * np.log(2) * ((wy[:, None] - ry) ** 2 + (wx[:, None] - rx) ** 2) / width**2)
    kernel /= kernel.sum(0)
    rest = np.nan_to_num(np.subtract(*detect.stamps((flat, light), y, x, (wy, wx))))
    rest = rest @ kernel.astype("f4") + at(cloud, y[:, None] + ry, x[:, None] + rx)
    low, middle = detect.quantile(rest, [0.2, 0.5])
    return np.maximum(detect.TEXTURE * (middle - low) / 0.8416 / noise / np.sqrt((kernel**2).sum(0).mean()), 1)


def _between(cells, step, size):
    """For each of `size` pixels the cell before it, and its part of the way to the next one."""
    at = np.clip((np.arange(size) + 0.5) / step - 0.5, 0, cells - 1)
    return at.astype(int), (at % 1).astype("f4")


def _inside(y, x, shape):
    """The cells (y, x), those beyond the last ones in them."""
    return np.minimum(y, shape[0] - 1), np.minimum(x, shape[1] - 1)
