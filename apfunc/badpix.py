"""The bad-pixel map of a camera: hot, dead and unstable pixels, bad columns and rows, and the user's own list."""

import numpy as np

from apfunc.bands import whole
from apfunc.header import BAD, COLUMN, DEAD, HOT, SATURATED, UNSTABLE, USER, history, number, text
from apfunc.standout import beyond, least_around, level_at, lines, residual, spread


def badpix(dark=None, flats=(), bias=None, user=None, shape=None, sigma=4.5, hot=1.0, dead=0.2, gain=None):
    """Find the bad pixels in master frames.

    dark    master dark: (data, header) or ((data, header), planes), in ADU for its EXPTIME; its UNCERT and
            MASK planes, when there, show unstable pixels
    flats   master flats, normalised to 1, of any filters; bias: a master bias (as dark).  All of them also as rows-like
            (`apfunc.raw`): they are read one after the other
    user    a dict as read from YAML, any of bad_columns: [x, …], bad_rows: [y, …], bad_rectangles:
            [[first row, last row, first column, last column], …]; pixels count from 1, ends are included
    shape   (rows, columns) of the map, needed only when there is no master
    sigma   pixels this far from their surroundings, in units of the local scatter, may be bad, and are when
    hot     they are also this much brighter in the dark [electron/s]; the gain, if not known, is estimated from the
            noise of the flats (UNCERT, FLATNORM, NCOMBINE), and without it or EXPTIME sigma alone decides; or
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
    if any(m[0][1].get("BAYERPAT") for m in masters):  # each of the four colours of a mosaic against its own kind
        dark, bias, flats = _whole(dark), _whole(bias), [_whole(flat) for flat in flats]
        for r, c in np.ndindex(2, 2):
            one, two, more = _colour(dark, r, c), _colour(bias, r, c), [_colour(flat, r, c) for flat in flats]
            out[r::2, c::2] = badpix(one, more, two, None, None, sigma, hot, dead, gain)[0]
        out |= user_map(user, out.shape)
        return out, _header(out, masters, sigma, hot, dead)
    if dark is not None:
        _from_dark(out, dark, bias, sigma, hot, _known_gain(dark[0][1], gain, flats))
    if bias is not None:
        _from_bias(out, bias, sigma)
    _from_flats(out, flats, sigma, dead)
    out |= user_map(user, out.shape)
    return out, _header(out, masters, sigma, hot, dead)


def _colour(master, r, c):
    """One colour of a mosaic's master, as a master of half the size."""
    if master is None:
        return None
    (data, header), planes = master
    header = header.copy()
    header.remove("BAYERPAT", ignore_missing=True)
    return (data[r::2, c::2], header), {name: plane[r::2, c::2] for name, plane in planes.items()}


def _from_dark(out, dark, bias, sigma, hot, gain):
    """Hot: dark - bias > local median + max(sigma * scatter, hot * EXPTIME / gain)."""
    rows, header = dark[0]
    data = _native(rows)
    if bias is not None and not header.get("BIASSUB", False):
        data -= whole(bias[0][0])
    exposure = number(header, "EXPTIME", "EXPOSURE")
    least = hot * exposure / gain if gain and exposure else 0.0
    rest = residual(data)
    scatter = spread(rest)
    out.ravel()[beyond(rest, scatter, sigma, least)] |= HOT
    if not (finite := np.isfinite(data)).all():
        out |= ~finite * np.uint8(HOT)
    _unstable(out, dark, rest, gain)
    out |= lines(rest, scatter, sigma, max(_middle(scatter), least / 10)) * np.uint8(COLUMN)


def _from_bias(out, bias, sigma):
    """Columns only far above the scatter, for less is subtracted well."""
    data = _native(bias[0][0])
    rest = residual(data)
    scatter = spread(rest)
    out |= lines(rest, scatter, sigma, 2 * sigma * _middle(scatter)) * np.uint8(COLUMN)
    if not (finite := np.isfinite(data)).all():
        out |= ~finite * np.uint8(DEAD)
    _unstable(out, bias)


def _unstable(out, master, rest=None, gain=None):
    """Unstable: clipped in most frames (MASK), or the standard error (UNCERT) is above that of the surroundings, with
    the shot noise of what the pixel has more than these (`rest`) allowed for, by a factor that chance does not give:
    4, or in few frames the 5.5 sigma point of chi^2 (Wilson & Hilferty 1931)."""
    (_, header), planes = master
    frames = int(number(header, "NCOMBINE") or 2)
    if planes.get("MASK") is not None and (mask := whole(planes["MASK"])).any():
        out |= (mask & SATURATED != 0) * np.uint8(HOT)
        if frames > 4:  # in fewer frames a cosmic ray is half of them
            out |= (mask & BAD != 0) * np.uint8(UNSTABLE)
    if planes.get("UNCERT") is not None:
        free = 2 / (9 * max(frames - 1, 1))
        factor2 = max(16, (1 - free + 5.5 * free**0.5) ** 3)
        error = whole(planes["UNCERT"])
        bound = 0.999 * factor2**0.5 * least_around(error)
        at = np.concatenate([np.flatnonzero(error[a:a + 8].astype("f4") > row) + a * error.shape[1]
                             for a, row in zip(range(0, len(error), 8), bound)])
        extra = np.maximum(rest.ravel()[at], 0) / gain if gain else 0
        far = error.ravel()[at].astype("f4")**2 > factor2 * (level_at(error, at)**2 + extra / frames)
        out.ravel()[at[far]] |= UNSTABLE


def _from_flats(out, flats, sigma, dead):
    """Dead: |flat / local median - 1| > max(dead, sigma * scatter) in the mean flat, and half of that in most flats."""
    if not flats:
        return
    mean = _native(flats[0][0][0])
    for (rows, _), _ in flats[1:]:
        mean += whole(rows)
    mean /= len(flats)
    rest = residual(mean)
    level = np.subtract(mean, rest, out=mean)
    with np.errstate(invalid="ignore", divide="ignore"):
        rest /= level
    if not level.min() > 0:
        rest[~(level > 0)] = np.nan
    scatter = spread(rest)
    at = beyond(rest, scatter, sigma, dead, below=True)
    limit, votes = np.maximum(dead, sigma * scatter.ravel()[at]), 0
    for (rows, _), _ in flats:
        values = whole(rows).ravel()[at].astype("f4")
        with np.errstate(invalid="ignore", divide="ignore"):
            votes = votes + ~(np.abs(values / level.ravel()[at] - 1) <= limit / 2)
    out.ravel()[at[2 * votes >= len(flats)]] |= DEAD
    out |= lines(rest, scatter, sigma, max(dead / 4, _middle(scatter))) * np.uint8(COLUMN)


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
            raise ValueError(f"bad pixels {box} do not fit {nx} columns and {ny} rows; give [first row, last row, "
                             "first column, last column] counted from 1")
        out[box[0] - 1:box[1], box[2] - 1:box[3]] |= USER
    return out


def _split(master):
    """((rows, header), planes) of a master with or without planes; None of None."""
    if master is None:
        return None
    image, planes = master if isinstance(master[0], tuple) else (master, {})
    return image, planes or {}


def _whole(master):
    """((data, header), planes), all in memory."""
    if master is None:
        return None
    (rows, header), planes = _split(master)
    return (np.asarray(rows[:], "f4"), header), {name: np.asarray(plane[:]) for name, plane in planes.items()}


def _native(rows):
    """All rows as an array of float32 of its own."""
    return whole(rows).astype("f4", order="C")


def _middle(scatter):
    """The median of a map that is smooth."""
    return float(np.median(scatter[::3, ::3]))


def _thin(rows):
    """Every seventh pixel of every seventh row."""
    return whole(rows)[::7, ::7].astype("f4")


def _known_gain(header, option, flats):
    """Gain [electron/adu]: the option, the header's, or that which the photon noise of the flats shows, UNCERT^2 =
    flat / (gain * FLATNORM * NCOMBINE), to a few per cent; None when there is none of these."""
    from apfunc.header import gain
    try:
        return gain(header, option)
    except ValueError:
        pass
    found = []
    for (rows, head), planes in flats:
        level, frames = number(head, "FLATNORM"), number(head, "NCOMBINE")
        if planes.get("UNCERT") is not None and level and frames:
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.nanmedian(_thin(rows) / _thin(planes["UNCERT"]) ** 2) / (level * frames))
    found = [value for value in found if np.isfinite(value) and value > 0]
    return float(np.median(found)) if found else None


def _header(out, masters, sigma, hot, dead):
    from astropy.io import fits
    header = fits.Header()
    header["IMAGETYP"] = "Bad Pixel Map"
    for name in ("INSTRUME", "TELESCOP", "XBINNING", "YBINNING", "READOUTM"):
        values = [m[0][1][name] for m in masters if text(m[0][1], name)]
        if values:
            header[name] = values[0]
    bad = out[out != 0]
    for name, bit, what in (("NHOT", HOT, "hot pixels"), ("NDEAD", DEAD, "pixels of wrong sensitivity"),
                            ("NCOLUMN", COLUMN, "pixels in bad columns and rows"),
                            ("NUNSTABL", UNSTABLE, "unstable pixels"), ("NUSER", USER, "pixels on the user's list"),
                            ("NBAD", 255, "bad pixels in all")):
        header[name] = (int(np.count_nonzero(bad & bit)), what)
    history(header, "badpix", masters=len(masters), sigma=float(sigma), hot=float(hot), dead=float(dead))
    return header
