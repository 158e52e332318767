"""Where each pixel of a grid lies in a frame: computed at nodes, interpolated between them by cubics.

The mapping from output to input pixels goes through the sky, input = pixel(source, sky(target, output)), with the SIP
distortion of either side, and is smooth: over NODE pixels a cubic follows it to better than 0.001 pixel.
"""

import numpy as np

from apfunc import wcs
from apfunc.grid import rim

NODE = 32  # [pixel] spacing of the nodes
FAR = 1e6  # [pixel] stands for positions that the input's projection does not reach
TILE = 448, 448  # rows and columns of a tile: the fewer, the less is prefiltered twice; more leave the processor's cache

UNTOUCHED = "the frame does not touch the grid; check its solution, or take a grid of this target's frames"


def overlap(source, source_shape, target, shape):
    """The part of the target grid that the source frame touches: (first row, end row, first column, end column).

    `source`, `target`: solutions (see apfunc.wcs); shapes are (rows, columns).  Raises ValueError when it is empty.
    """
    x, y = wcs.pixel(target, *wcs.sky(source, *rim(source_shape)))
    rows, columns = shape
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return 0, rows, 0, columns
    box = (max(0, int(np.floor(y.min())) - 1), min(rows, int(np.ceil(y.max())) + 2),
           max(0, int(np.floor(x.min())) - 1), min(columns, int(np.ceil(x.max())) + 2))
    if box[0] >= box[1] or box[2] >= box[3]:
        raise ValueError(UNTOUCHED)
    return box


def tiles(source, target, box, fine=1):
    """Tiles of `box`, each as (rows, columns, jacobian, positions): slices of the output, and where it lies.

    jacobian   input pixels an output pixel covers (array of the tile's shape, float32).
    positions  list of fine * fine tuples (y, x, base_y, base_x), where the sub-pixel centres lie in the input: float32
               arrays of the tile's shape, to be added to the integers of their columns.
    """
    top, bottom, left, right = box
    first_y, first_x = top - 2 * NODE, left - 2 * NODE
    node_y = first_y + NODE * np.arange((bottom - top) // NODE + 6)
    node_x = first_x + NODE * np.arange((right - left) // NODE + 6)
    x, y = wcs.pixel(source, *wcs.sky(target, *np.meshgrid(node_x, node_y)))
    x, y = (np.clip(np.nan_to_num(v, nan=FAR), -FAR, FAR) for v in (x, y))
    (x_y, x_x), (y_y, y_x) = np.gradient(x, NODE), np.gradient(y, NODE)
    jacobian = np.maximum(np.abs(x_x * y_y - x_y * y_x), 1e-6)

    offsets = (np.arange(fine) + 0.5) / fine - 0.5
    across = [cubic(np.arange(left, right) + o, first_x, len(node_x)).T for o in offsets]
    down = [cubic(np.arange(top, bottom) + o, first_y, len(node_y)) for o in offsets]
    lines, areas = [(y @ a, x @ a) for a in across], (jacobian @ across[fine // 2]).astype("f4")
    height, width = max(TILE[0] // fine, 8), max(TILE[1] // fine, 8)
    for row in range(top, bottom, height):
        end = min(row + height, bottom)
        part, used = slice(row - top, end - top), slice((row - first_y) // NODE - 2, (end - first_y) // NODE + 4)
        rows = [d[part, used] for d in down]
        for column in range(left, right, width):
            last = min(column + width, right)
            here = slice(column - left, last - left)
            area = np.maximum(rows[fine // 2].astype("f4") @ areas[used, here], np.float32(1e-6))
            places = [(_relative(d, ys[used, here]), _relative(d, xs[used, here])) for d in rows for ys, xs in lines]
            yield (slice(row, end), slice(column, last), area,
                   [(y, x, base_y, base_x) for (y, base_y), (x, base_x) in places])


def _relative(down, lines):
    """down @ lines as float32, less the integers (columns,) that it has in the middle row, and these.

    So small are the numbers that single precision gives a hundred thousandth of a pixel.
    """
    base = np.floor(down[len(down) // 2] @ lines)
    return down.astype("f4") @ (lines - base).astype("f4"), base.astype(np.intp)


def cubic(positions, start, count):
    """Matrix (len(positions), count) of the cubic through the four nodes around, nodes at start + NODE k."""
    place = (np.asarray(positions) - start) / NODE
    k = np.floor(place).astype(int)
    t = place - k
    matrix, row = np.zeros((len(t), count)), np.arange(len(t))
    matrix[row, k - 1] = -t * (t - 1) * (t - 2) / 6
    matrix[row, k] = (t + 1) * (t - 1) * (t - 2) / 2
    matrix[row, k + 1] = -(t + 1) * t * (t - 2) / 2
    matrix[row, k + 2] = (t + 1) * t * (t - 1) / 6
    return matrix
