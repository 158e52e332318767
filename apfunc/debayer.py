"""One colour of a one-shot-colour frame, as an image that then goes its way like that of a filter."""

import numpy as np

from apfunc import header as h

STRIP = 32  # rows done at a time, so that they stay in the cache


def pattern_of(header, option=None):
    """The 2x2 colour pattern in the order of the array, such as 'RGGB': `option`, else BAYERPAT.

    XBAYROFF and YBAYROFF shift it; ROWORDER 'BOTTOM-UP' with an even number of rows (NAXIS2 is not in the
    header here, sensors have an even number) turns it over.  Raises ValueError when it is not a Bayer pattern.
    """
    name = (option or h.text(header, "BAYERPAT", "COLORTYP") or "").upper()
    if sorted(name) != sorted("RGGB"):
        raise ValueError(f"no Bayer pattern in the header (looked for BAYERPAT, found {name or 'nothing'}); "
                         "give --pattern RGGB")
    cells = np.array(list(name)).reshape(2, 2)
    if option is None:
        if (h.text(header, "ROWORDER") or "").upper() == "BOTTOM-UP":
            cells = cells[::-1]
        shift = [-int(h.number(header, key) or 0) for key in ("YBAYROFF", "XBAYROFF")]
        cells = np.roll(cells, shift, (0, 1))
    return "".join(cells.ravel())


def debayer(image, channel, method="bilinear", pattern=None, badpix=None):
    """The `channel` ('R', 'G' or 'B') of a mosaic frame, as an image.

    method 'bilinear' keeps the full resolution: where the pixel is of another colour, the mean of the
    nearest pixels of this one (weights 1 2 1 / 2 4 2 / 1 2 1, normalised over the pixels that are there).
    'superpixel' makes one pixel of each 2x2 cell, nothing interpolated; XPIXSZ, YPIXSZ and the binning
    double.  NaN and non-zero `badpix` (2-D, or an image) are no values: neighbours of the same colour fill
    them in bilinear, and a cell without a value is NaN.  Reads BAYERPAT, XBAYROFF, YBAYROFF, ROWORDER; sets
    FILTER to the channel and drops BAYERPAT.  Raises ValueError for an unknown pattern, channel or method.
    """
    data, header = image
    cells = pattern_of(header, pattern)
    if channel not in ("R", "G", "B"):
        raise ValueError(f"no channel {channel}; it is one of R, G, B")
    if badpix is not None:
        data = np.where(np.asarray(badpix[0] if isinstance(badpix, tuple) else badpix) != 0, np.float32(np.nan), data)
    header = header.copy()
    where = [divmod(i, 2) for i, colour in enumerate(cells) if colour == channel]
    if method == "superpixel":
        rows, columns = data.shape[0] // 2 * 2, data.shape[1] // 2 * 2
        result = _mean([data[r:rows:2, c:columns:2] for r, c in where])
        for key in ("XPIXSZ", "YPIXSZ", "XBINNING", "YBINNING"):
            if key in header:
                header[key] = header[key] * 2
    elif method == "bilinear":
        result = _bilinear(data, where)
    else:
        raise ValueError(f"no method {method}; it is bilinear or superpixel")
    header["FILTER"] = (channel, "colour of the Bayer mosaic")
    for key in ("BAYERPAT", "XBAYROFF", "YBAYROFF", "COLORTYP"):
        header.remove(key, ignore_missing=True)
    h.history(header, "debayer", channel=channel, method=method, pattern=cells)
    return result.astype(np.float32), header


def _mean(planes):
    """Mean of a few planes over their finite values; NaN where there are none."""
    count = sum(np.isfinite(p).astype(np.float32) for p in planes)
    total = sum(np.nan_to_num(p, nan=0.0) for p in planes)
    with np.errstate(invalid="ignore"):
        return total / count  # 0 / 0 is NaN


def _bilinear(data, where):
    out = np.empty(data.shape, np.float32)
    for a in range(0, len(data), STRIP):
        top = max(a - 1, 0)
        part = data[top:a + STRIP + 1]
        known = np.zeros(part.shape, np.float32)
        for r, c in where:
            known[(r - top) % 2::2, c::2] = 1
        known *= np.isfinite(part)
        total, weight = _smooth(np.where(known > 0, part, np.float32(0))), _smooth(known)
        with np.errstate(invalid="ignore"):
            mean = total / weight  # NaN without neighbours: 0 / 0
        out[a:a + STRIP] = np.where(known > 0, part, mean)[a - top:a - top + STRIP]
    return out


def _smooth(plane):
    """Convolution with 1 2 1 / 2 4 2 / 1 2 1, zero beyond the edge."""
    padded = np.pad(plane, 1)
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]
