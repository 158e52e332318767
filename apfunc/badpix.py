"""The bad-pixel map of a camera: hot, dead and unstable pixels, bad columns and rows, and the user's own list."""

import numpy as np

from apfunc.header import COLUMN, DEAD, HOT, UNSTABLE, USER, history, number, text

WINDOW = 9   # [pixel] of the local median, across and along: blind to defects up to 4 pixels wide
BOX = 32     # [pixel] of the mesh of the local scatter
SHORT = 32   # [pixel] shortest pieces of columns that are looked at as a whole
BAND = 64    # rows done at a time


def badpix(dark=None, flats=(), bias=None, user=None, shape=None, sigma=5.0, hot=1.0, dead=0.2, gain=None):
    """Find the bad pixels in master frames.

    dark    master dark: (data, header) or ((data, header), planes), in ADU for its EXPTIME; its UNCERT plane,
            when there, shows unstable pixels
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
        out[lines(rest, scatter, sigma, 3 * float(np.median(scatter)))] |= COLUMN
        out[~np.isfinite(bias[0][0])] |= DEAD
        _unstable(out, bias[1])
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
    out[lines(rest, scatter, sigma, max(float(np.median(scatter)), least / 2))] |= COLUMN
    out[~np.isfinite(data)] |= HOT
    _unstable(out, planes)


def _unstable(out, planes, sigma=8.0):
    """Unstable: the scatter between the frames of a master is far above that of the pixels around."""
    if planes.get("UNCERT") is not None:
        rest, scatter = residual(planes["UNCERT"])
        out[rest > np.maximum(sigma * scatter, planes["UNCERT"] / 2)] |= UNSTABLE


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


def _running_median(data, axis, size=WINDOW):
    """Running median along an axis, mirrored on the outermost pixel."""
    half = min(size // 2, data.shape[axis] - 1)
    if half < 1:
        return data
    pad = np.pad(data, [(half, half) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
    out = np.empty_like(data)
    for top in range(0, data.shape[0], BAND):
        rows = slice(top, min(top + BAND, data.shape[0]))
        part = pad[rows] if axis else pad[rows.start:rows.stop + 2 * half]
        window = np.lib.stride_tricks.sliding_window_view(part, 2 * half + 1, axis=axis)
        out[rows] = np.sort(window, axis=2)[:, :, half]
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
    """Bool map of bad columns and rows, whole or in part, in a residual frame.

    sigma: of the scatter of one line to the next; least: smallest step to the lines on both sides that counts.
    """
    rest = np.nan_to_num(rest)
    return _columns(rest, sigma, least) | _columns(np.ascontiguousarray(rest.T), sigma, least).T


def _columns(rest, sigma, least):
    ny, nx = rest.shape
    found = np.zeros(rest.shape, bool)
    if nx < 3 or ny < 3:
        return found
    count = max(1, ny // SHORT)
    pieces = np.array_split(np.arange(ny), count)
    profile = np.stack([np.median(rest[p], axis=0) for p in pieces])
    for group in sorted({1, min(8, count), count}):
        parts = np.array_split(np.arange(count), count // group)
        means = np.stack([np.median(profile[p], axis=0) for p in parts])
        for part, mean in zip(parts, means):
            noise = 1.0484 * np.median(np.abs(np.diff(mean)))
            for x, height in _steps(mean, max(1.5 * sigma * noise, least)):
                rows = slice(pieces[part[0]][0], pieces[part[-1]][-1] + 1)
                start, stop = _extent(rest[:, x], height, rows)
                found[start:stop, x] = True
    return found


def _steps(mean, limit, widest=4):
    """(column, height) of the groups of 1 to 4 columns that all lie `limit` above, or below, both columns beside."""
    nx = mean.size
    steps = {}
    for sign in (1, -1):
        value = np.concatenate([[-np.inf], sign * mean, [-np.inf]])
        for width in range(1, min(widest, nx - 1) + 1):
            inner = np.min([value[1 + k:nx + 2 - width + k] for k in range(width)], axis=0)
            beside = np.maximum(value[:nx + 1 - width], value[1 + width:])
            for x in np.flatnonzero(inner - beside > limit):
                for k in range(x, x + width):
                    steps[int(k)] = float(mean[k])
    return sorted(steps.items())


def _extent(column, height, rows):
    """First row, and row after the last, of the bad stretch of a column that is nearest the middle of `rows`: where the
    running median of 9 is beyond half the height."""
    bad = _running_median((np.sign(height) * column)[:, None], 0)[:, 0] > abs(height) / 2
    inside = rows.start + np.flatnonzero(bad[rows])
    if inside.size == 0:
        return rows.start, rows.start
    seed = inside[np.abs(inside - (rows.start + rows.stop) // 2).argmin()]
    before, after = np.flatnonzero(~bad[:seed]), np.flatnonzero(~bad[seed:])
    return (before[-1] + 1 if before.size else 0), (seed + after[0] if after.size else column.size)


def user_map(user, shape):
    """The map (USER bits) of the user's columns, rows and rectangles; see `badpix`."""
    out = np.zeros(shape, "u1")
    if user is None:
        return out
    if not isinstance(user, dict) or set(user) - {"bad_columns", "bad_rows", "bad_rectangles"}:
        raise ValueError("the list of bad pixels must hold bad_columns, bad_rows and bad_rectangles, nothing else")
    ny, nx = shape
    boxes = [(1, ny, x, x) for x in user.get("bad_columns") or ()]
    boxes += [(y, y, 1, nx) for y in user.get("bad_rows") or ()]
    boxes += [tuple(box) if isinstance(box, (list, tuple)) else (box,) for box in user.get("bad_rectangles") or ()]
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
