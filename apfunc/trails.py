"""Satellite and aircraft trails: the straight lines of a frame, found by adding up its pixels along all lines.

The fast Radon transform (Brady 1998, SIAM J. Comput. 27, 107; for streaks: Nir, Zackay & Ofek 2018, AJ 156, 229) adds
the pixels of all lines of a strip of 2h rows from those of its two halves,

    R(s, x) = upper(s // 2, x) + lower(s // 2, x + (s + 1) // 2),

so that a trail far below the noise of a pixel is seen.  Each is then followed on the unbinned frame.
"""

import functools

import numpy as np

from apfunc import background, clip, detect
from apfunc import header as hdr

CELLS = 512  # the frame is binned so that neither side has more
PARTS = 32  # a trail is followed in so many parts at most, each of 30 pixels at least
REACH = 24  # [pixel] to either side of a line where the trail is looked for


def find(flat, noise, sigma=8.0, most=5):
    """The trails of a frame without its sky: a list of (x0, y0, x1, y1, width) [pixel], 0-based, ends included.

    noise: of a pixel; sigma: least significance of the sum along the trail.  A trail must be straight, narrow, and run
    over a third of its line through the frame at least; rows and columns are no trails (bands, bad columns, bleeding).
    """
    factor = max(1, -(-max(flat.shape) // CELLS))
    if min(flat.shape) // factor < 64:
        return []
    cells = detect.shrink(flat, factor)
    cells = cells - clip.middle_of_rows(cells)[:, None]
    cells = cells - clip.middle_of_rows(cells.T)
    spread = background.level(cells)[1]
    if not spread > 0:
        return []
    cells = np.clip(cells / spread, -3, 3)
    cells -= background.separable(cells, np.ones(5) / 9)  # nebulae and haloes are wide, trails are not
    found = []
    for _ in range(most):
        line = _strongest(cells, sigma)
        line = line and _followed(flat, noise, tuple((v + 0.5) * factor - 0.5 for v in line), sigma, factor)
        if not line or any(np.abs(np.subtract(line, other))[:4].max() < 10 for other in found):
            break
        found.append(line)
        wide = tuple((v + 0.5) / factor - 0.5 for v in line[:4]) + (line[4] / factor + 4,)
        cells[cover(cells.shape, [wide])] = 0
    return found


def keywords(found):
    """The trails as keywords: TRAIL (how many) and TRAIL1… ("x0 y0 x1 y1 width", pixels, 0-based)."""
    return {"TRAIL": len(found)} | {f"TRAIL{i + 1}": " ".join(f"{v:.1f}" for v in line) for i, line in enumerate(found)}


def trail_mask(shape, meta):
    """uint8 mask of `shape` with the bit TRAIL where the trails of `meta` (a star table's meta or a header that has
    TRAIL1…, see `keywords`) lie.  All zero when there are none.

    >>> trail_mask((5, 5), {"TRAIL": 1, "TRAIL1": "0 2 4 2 1"})[:, 0].tolist()
    [0, 0, 8, 0, 0]
    """
    lines = [tuple(map(float, str(meta[f"TRAIL{i + 1}"]).split())) for i in range(int(meta.get("TRAIL") or 0))]
    return cover(shape, lines).astype("u1") * np.uint8(hdr.TRAIL)


def cover(shape, lines):
    """Boolean array, True within width / 2 of the lines (x0, y0, x1, y1, width)."""
    out = np.zeros(shape, bool)
    for x0, y0, x1, y1, width in lines:
        length = max(np.hypot(x1 - x0, y1 - y0), 1e-9)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        for row in range(max(0, int(min(y0, y1) - width)), min(shape[0], int(max(y0, y1) + width) + 2)):
            x = np.arange(shape[1])
            across, along = (x - x0) * uy - (row - y0) * ux, (x - x0) * ux + (row - y0) * uy
            out[row] |= (np.abs(across) <= width / 2) & (along >= -width / 2) & (along <= length + width / 2)
    return out


def radon(cells):
    """Sums (n, columns + n) of an image along all lines that move s = 0 … n-1 columns to the right over its n rows
    (its rows, filled up to a power of two); [s, x] is the line from column x - n in the first row."""
    n, columns = 1 << (len(cells) - 1).bit_length(), cells.shape[1]
    sums = np.zeros((n, 1, 2 + columns + 1), "f4")  # of strips of one row, from column -2 on
    sums[:len(cells), 0, 2:-1] = cells
    while len(sums) > 1:
        upper, lower = sums[::2], sums[1::2]
        parts, moves, (far, step, one) = len(upper), upper.shape[1], lower.strides
        wide, rim = columns + 2 * moves, 2 * moves if parts > 1 else 0  # zeros to both sides, for the next step
        sums = np.empty((parts, 2 * moves, rim + wide + rim), "f4")
        sums[:, :, :rim] = sums[:, :, rim + wide:] = 0
        for odd in (0, 1):  # the lower half of the lines s = 2t + odd, moved by t + odd
            moved = np.lib.stride_tricks.as_strided(lower[:, :, odd:], (parts, moves, wide), (far, step + one, one))
            np.add(upper[:, :, :wide], moved, out=sums[:, odd::2, rim:rim + wide])
    return sums[0, :, -columns - n:]


def _strongest(cells, sigma):
    """The line (x0, y0, x1, y1) of the most significant sum of the cells; None when it is not significant."""
    best = (0.7 * sigma, None)
    for turned in (False, True):
        view = cells.T if turned else cells
        rows, columns = view.shape
        scale = _scale(rows, columns)
        n = len(scale)
        for mirrored in (False, True):
            score = radon(view[:, ::-1] if mirrored else view)
            score *= scale
            some = score[::8, ::8][score[::8, ::8] != 0]
            i, j = np.unravel_index(score.argmax(), score.shape)
            highest = score[i, j] / (max(1.4826 * np.median(np.abs(some)), 1.0) if len(some) else 1.0)
            if highest > best[0]:
                a, b = j - n, j - n + i * (rows - 1) / (n - 1)
                a, b = (columns - 1 - a, columns - 1 - b) if mirrored else (a, b)
                best = highest, ((0, a, rows - 1, b) if turned else (a, 0, b, rows - 1))
    return best[1]


@functools.lru_cache(maxsize=2)  # frames are mostly of one size
def _scale(rows, columns):
    """What brings the sums of `radon` to unit noise, 1 / sqrt(cells on the line); zero for lines that are too short."""
    n = 1 << (rows - 1).bit_length()
    start, s = np.arange(-n, columns, dtype="f4"), np.arange(n, dtype="f4")[:, None] + np.float32(1e-6)
    enter, leave = np.maximum(-start / s, 0), np.minimum((columns - start) / s, np.float32(1))
    count = (np.minimum(leave, np.float32((rows - 1) / (n - 1))) - enter) * (n - 1) + 1
    return np.where(count > min(rows, columns) / 3, 1 / np.sqrt(np.maximum(count, 1)), 0)


def _followed(flat, noise, line, sigma, factor):
    """The trail along a line across the frame, its place, ends and width measured; None when it is none."""
    across = np.arange(-REACH, REACH + 1)
    reach = np.arange(-2 * factor - 2, 2 * factor + 3)
    for turn in range(3):
        line = _clipped(*line, flat.shape)
        length = np.hypot(line[2] - line[0], line[3] - line[1]) if line else 0
        if length < min(flat.shape) / 3:
            return None
        count = int(np.clip(length / 30, 8, PARTS))
        where, parts = (np.arange(count) + 0.5) / count, _parts(flat, noise, line, length, across, count)
        if turn < 2:  # where it enters and leaves: the best of all pairs of offsets
            smooth = np.minimum(sum(np.roll(parts, k, 1) for k in (-1, 0, 1)), 3 * np.abs(np.median(parts, 0)).max())
            offset = np.rint(reach[:, None, None] + (reach[None, :, None] - reach[:, None, None]) * where).astype(int)
            a, b = np.unravel_index(smooth[np.arange(count), offset + REACH].sum(2).argmax(), (len(reach),) * 2)
            line = _moved(line, length, reach[a], reach[b])
    middle = (line[0] + line[2]) / 2, (line[1] + line[3]) / 2
    if min(*middle, flat.shape[1] - middle[0], flat.shape[0] - middle[1]) < REACH:  # along the rim of the frame
        return None
    one = 1.25 * noise / np.sqrt(length / count)  # noise of a pixel of `parts`
    profile = np.convolve(np.median(parts, 0), np.ones(3) / 3, "same")
    limit, half = max(0.1 * profile[REACH], 2 * one / np.sqrt(count), 0.15 * noise), 1
    while half < REACH // 2 and profile[[REACH - half - 1, REACH + half + 1]].max() > limit:
        half += 1
    window = np.abs(across) <= half
    strength = parts[:, window].sum(1) / (one * np.sqrt(window.sum()))
    seen = np.flatnonzero(strength > max(1.0, 0.3 * np.median(strength)))
    if strength.sum() / np.sqrt(count) < sigma or half >= REACH // 2 or len(seen) < count / 3:
        return None
    bright = np.maximum(strength, 0)
    if np.convolve(bright, np.ones(count // 4), "valid").max() > 0.6 * bright.sum():
        return None  # the spikes of a bright star: they fade away from it
    first, last = seen[0], seen[-1] + 1
    if len(seen) < 0.6 * (last - first) or profile[window].max() < 2 * np.abs(profile[~window]).max():
        return None  # lit here and there only, or one ridge among others
    first, last = 0 if first <= 2 else first / count, 1 if last >= count - 2 else last / count
    dx, dy = line[2] - line[0], line[3] - line[1]
    ends = line[0] + first * dx, line[1] + first * dy, line[0] + last * dx, line[1] + last * dy
    return tuple(float(round(v, 2)) for v in (*ends, 2 * half + 3))


def _parts(flat, noise, line, length, across, count):
    """Medians over each of `count` pieces of a line, at the offsets `across` to its side, less what lies beside it."""
    ux, uy = (line[2] - line[0]) / length, (line[3] - line[1]) / length
    along = np.arange(0, length)[:, None]
    x = np.rint(line[0] + along * ux + across * uy).astype(int)
    y = np.rint(line[1] + along * uy - across * ux).astype(int)
    inside = (x >= 0) & (x < flat.shape[1]) & (y >= 0) & (y < flat.shape[0])
    strip = np.where(inside, flat[np.clip(y, 0, flat.shape[0] - 1), np.clip(x, 0, flat.shape[1] - 1)], 0)
    parts = np.stack([clip.middle_of_rows(part.T) for part in np.array_split(np.maximum(strip, -5 * noise), count)])
    return parts - np.median(parts[:, np.abs(across) > REACH // 2], 1)[:, None]


def _moved(line, length, begin, end):
    """The line with its ends moved sideways by `begin` and `end`."""
    ux, uy = (line[2] - line[0]) / length, (line[3] - line[1]) / length
    return line[0] + begin * uy, line[1] - begin * ux, line[2] + end * uy, line[3] - end * ux


def _clipped(x0, y0, x1, y1, shape):
    """The part of a line, made endless, that lies in the frame; None when it misses it."""
    dx, dy = x1 - x0, y1 - y0
    low, high = -np.inf, np.inf
    for start, step, size in ((x0, dx, shape[1]), (y0, dy, shape[0])):
        if abs(step) < 1e-9:
            if not -0.5 <= start <= size - 0.5:
                return None
            continue
        a, b = sorted(((-0.5 - start) / step, (size - 0.5 - start) / step))
        low, high = max(low, a), min(high, b)
    return (x0 + low * dx, y0 + low * dy, x0 + high * dx, y0 + high * dy) if low < high else None
