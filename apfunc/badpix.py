"""The bad-pixel map of a camera: hot, dead and unstable pixels, bad columns and rows, and the user's own list."""

import numpy as np

from apfunc.header import BAD, COLUMN, DEAD, HOT, SATURATED, UNSTABLE, USER, history, number, text

WINDOW = 9   # [pixel] of the local median, across and along: blind to defects up to 4 pixels wide
BOX = 32     # [pixel] of the mesh of the local scatter
SHORT = 32   # [pixel] shortest pieces of columns that are looked at as a whole
STRIP = 16   # rows done at a time


def badpix(dark=None, flats=(), bias=None, user=None, shape=None, sigma=4.5, hot=1.0, dead=0.2, gain=None):
    """Find the bad pixels in master frames.

    dark    master dark: (data, header) or ((data, header), planes), in ADU for its EXPTIME; its UNCERT and
            MASK planes, when there, show unstable pixels
    flats   master flats, normalised to 1, of any filters; bias: a master bias (as dark)
    user    a dict as read from YAML, any of bad_columns: [x, …], bad_rows: [y, …], bad_rectangles:
            [[first row, last row, first column, last column], …]; pixels count from 1, ends are included
    shape   (rows, columns) of the map, needed only when there is no master
    sigma   pixels this far from their surroundings, in units of the local scatter, may be bad, and are when
    hot     they are also this much brighter in the dark [electron/s] (without gain or EXPTIME: sigma alone), or
    dead    their sensitivity is this fraction below that of their surroundings (or above)
    gain    [electron/adu], for masters whose header has none

    Returns (map, header): uint8, 0 where good, else bits HOT 1, DEAD 2, COLUMN 4 (rows too), UNSTABLE 8, USER 16.
    Everything is relative to a running 9x9 median and to the scatter in the neighbourhood, so amplifier
    glow, vignetting and dust shadows are not bad.  A pixel is dead when at least half of the flats say so.
    Columns and rows, up to 4 adjacent ones, at the edges too, are found from pieces of 32 pixels and more, and
    from where they begin to where they end.  NaN in a master is bad: HOT in a dark, else DEAD.

    Reads EXPTIME, EGAIN or GAIN, BIASSUB, and copies INSTRUME, XBINNING, YBINNING, READOUTM.  Writes IMAGETYP
    'Bad Pixel Map', NHOT, NDEAD, NCOLUMN, NUNSTABL, NUSER, NBAD (pixels) and a HISTORY line.
    Raises ValueError when there is nothing to make a map of, shapes differ, or the user's list is not understood.

    >>> bad, header = badpix(dark, flats=[flat], user={"bad_columns": [12, 13]})         # doctest: +SKIP
    """
    dark, bias, flats = _split(dark), _split(bias), [_split(flat) for flat in flats]
    masters = [m for m in (dark, bias, *flats) if m is not None]
    shapes = {m[0][0].shape for m in masters} | ({tuple(shape)} if shape is not None else set())
    if not shapes:
        raise ValueError("nothing to make a bad-pixel map of; give a master dark, a master flat or the shape")
    if len(shapes) > 1:
        raise ValueError(f"masters of different shapes {sorted(shapes)}; use those of one camera and binning")
    out = np.zeros(shapes.pop(), "u1")
    if dark is not None:
        _from_dark(out, dark, bias, sigma, hot, gain)
    if bias is not None:
        rest, scatter = residual(bias[0][0])
        out[lines(rest, scatter, sigma, 2 * sigma * float(np.median(scatter)))] |= COLUMN  # less is subtracted well
        out[~np.isfinite(bias[0][0])] |= DEAD
        _unstable(out, bias)
    _from_flats(out, flats, sigma, dead)
    out |= user_map(user, out.shape)
    return out, _header(out, masters, sigma, hot, dead)


def _from_dark(out, dark, bias, sigma, hot, gain):
    """Hot: dark - bias > local median + max(sigma * scatter, hot * EXPTIME / gain)."""
    (data, header), planes = dark
    if bias is not None and not header.get("BIASSUB", False):
        data = data - bias[0][0]
    exposure, gain = number(header, "EXPTIME", "EXPOSURE"), _known_gain(header, gain)
    least = hot * exposure / gain if gain and exposure else 0.0
    rest, scatter = residual(data)
    out[rest > np.maximum(sigma * scatter, least)] |= HOT
    out[lines(rest, scatter, sigma, max(float(np.median(scatter)), least / 10))] |= COLUMN
    out[~np.isfinite(data)] |= HOT
    _unstable(out, dark, np.maximum(rest, 0) / gain if gain else 0)


def _unstable(out, master, extra=0):
    """Unstable: clipped in most frames (MASK), or the standard error (UNCERT) is above that of the surroundings, with
    the shot noise of what the pixel has more than these [adu^2] allowed for, by a factor that chance does not give:
    4, or in few frames the 5.5 sigma point of chi^2 (Wilson & Hilferty 1931)."""
    (_, header), planes = master
    frames = int(number(header, "NCOMBINE") or 2)
    if planes.get("MASK") is not None:
        out[planes["MASK"] & SATURATED != 0] |= HOT
        if frames > 4:  # in fewer frames a cosmic ray is half of them
            out[planes["MASK"] & BAD != 0] |= UNSTABLE
    if planes.get("UNCERT") is not None:
        free = 2 / (9 * max(frames - 1, 1))
        factor2 = max(16, (1 - free + 5.5 * free**0.5) ** 3)
        error = np.asarray(planes["UNCERT"], "f4")
        rest, _ = residual(error)
        out[error**2 > factor2 * ((error - rest) ** 2 + extra / frames)] |= UNSTABLE


def _from_flats(out, flats, sigma, dead):
    """Dead: |flat / local median - 1| > max(dead, sigma * scatter) in at least half of the flats."""
    votes = np.zeros(out.shape, "u1")
    column_votes = np.zeros(out.shape, "u1")
    for (data, _), _ in flats:
        rest, _ = residual(data)
        with np.errstate(invalid="ignore", divide="ignore"):
            rest = rest / np.where(data - rest > 0, data - rest, np.nan)
        scatter = spread(rest)
        votes += ~(np.abs(rest) <= np.maximum(dead, sigma * scatter))
        column_votes += lines(rest, scatter, sigma, max(dead / 4, float(np.median(scatter))))
    if flats:
        out[2 * votes >= len(flats)] |= DEAD
        out[2 * column_votes >= len(flats)] |= COLUMN


def residual(data):
    """A frame less its running 9x9 median (first across, then along), and the scatter of that; both float32."""
    data = np.asarray(data, "f4")
    level = np.float32(np.nanmedian(data[::7, ::7])) if np.isfinite(data[::7, ::7]).any() else np.float32(0)
    filled = np.where(np.isfinite(data), data, level)
    rest = filled - _running_median(_running_median(filled, 1), 0)
    return rest, spread(rest)


# Compare-exchange steps that bring the median of nine values to place 4 (Smith 1996, "Implementing median filters").
MEDIAN9 = ((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7), (3, 6), (1, 4),
           (2, 5), (4, 7), (4, 2), (6, 4), (4, 2))


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
    size = np.abs(np.nan_to_num(rest))
    tall, wide = -(-ny // BOX), -(-nx // BOX)
    mesh = np.empty((tall, wide))
    for i, rows in enumerate(np.array_split(size, tall)):
        for j, box in enumerate(np.array_split(rows, wide, axis=1)):
            mesh[i, j] = np.median(box)
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
    """First row, and row after the last, of the bad stretch of a column (its height is 1, that of good pixels 0) that has
    its clearest part in rows top to bottom: outwards, as long as the sum of (height - 1/2) grows."""
    score = np.clip(column, -1.5, 2.5) - 0.5
    middle = top + int(np.convolve(score[top:bottom], np.ones(9), "same").argmax())

    def reach(part):
        total = np.cumsum(part)
        done = np.flatnonzero(np.maximum.accumulate(total) - total > patience)
        return int(total[:done[0] if done.size else None].argmax()) + 1
    return middle + 1 - reach(score[middle::-1]), middle + reach(score[middle:])


def user_map(user, shape):
    """The map (USER bits) of the user's columns, rows and rectangles; see `badpix`."""
    out = np.zeros(shape, "u1")
    if user is None:
        return out
    if not isinstance(user, dict) or set(user) - {"bad_columns", "bad_rows", "bad_rectangles"}:
        raise ValueError("the list of bad pixels must hold bad_columns, bad_rows and bad_rectangles, nothing else")
    ny, nx = shape
    columns, rows, rectangles = (user.get(f"bad_{name}") or [] for name in ("columns", "rows", "rectangles"))
    if not all(isinstance(section, list) for section in (columns, rows, rectangles)):
        raise ValueError("bad_columns, bad_rows and bad_rectangles must each be a list")
    boxes = [(1, ny, x, x) for x in columns] + [(y, y, 1, nx) for y in rows]
    boxes += [tuple(box) if isinstance(box, list) else (box,) for box in rectangles]
    for box in boxes:
        whole = len(box) == 4 and all(isinstance(n, int) and not isinstance(n, bool) for n in box)
        if not whole or not (1 <= box[0] <= box[1] <= ny and 1 <= box[2] <= box[3] <= nx):
            raise ValueError(f"bad pixels {box} do not fit {nx} columns and {ny} rows; give [first row, last row, first "
                             "column, last column] counted from 1")
        out[box[0] - 1:box[1], box[2] - 1:box[3]] |= USER
    return out


def _split(master):
    """((data, header), planes) of a master with or without planes; None of None."""
    if master is None:
        return None
    image, planes = master if isinstance(master[0], tuple) else (master, {})
    return (np.asarray(image[0], "f4"), image[1]), planes or {}


def _known_gain(header, option):
    from apfunc.header import gain
    try:
        return gain(header, option)
    except ValueError:
        return None


def _header(out, masters, sigma, hot, dead):
    from astropy.io import fits
    header = fits.Header()
    header["IMAGETYP"] = "Bad Pixel Map"
    for name in ("INSTRUME", "TELESCOP", "XBINNING", "YBINNING", "READOUTM"):
        values = [m[0][1][name] for m in masters if text(m[0][1], name)]
        if values:
            header[name] = values[0]
    for name, bit, what in (("NHOT", HOT, "hot pixels"), ("NDEAD", DEAD, "pixels of wrong sensitivity"),
                            ("NCOLUMN", COLUMN, "pixels in bad columns and rows"), ("NUNSTABL", UNSTABLE, "unstable pixels"),
                            ("NUSER", USER, "pixels on the user's list"), ("NBAD", 255, "bad pixels in all")):
        header[name] = (int(np.count_nonzero(out & bit)), what)
    history(header, "badpix", masters=len(masters), sigma=float(sigma), hot=float(hot), dead=float(dead))
    return header
