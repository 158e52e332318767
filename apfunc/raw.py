"""What a raw frame holds besides its exposure: pedestal, overscan, bias, full wells; and which frame it is.

Rows-like objects are anything with ``.shape`` and ``[a:b]`` that gives rows of any number type: an array,
or the lazily read section of a file.
"""

import hashlib
import math
import re

import numpy as np

from apfunc.bands import reader
from apfunc.header import number, text

BANDS, TALL, COLUMNS = 16, 4, 512  # a sample: 16 bands of 4 rows, every so many columns


def section(value, shape):
    """The slices (rows, columns) of an IRAF section such as ``[1:2048,5:1028]`` (x first, 1-based, inclusive).

    None when there is none, when it is malformed, or when it reaches outside `shape` (the frame was trimmed).
    """
    found = re.fullmatch(r"\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*", str(value or ""))
    if not found:
        return None
    x1, x2, y1, y2 = map(int, found.groups())
    inside = 1 <= x1 <= x2 <= shape[1] and 1 <= y1 <= y2 <= shape[0]
    return (slice(y1 - 1, y2), slice(x1 - 1, x2)) if inside else None


def opened(rows, header):
    """``(shape, read, base)`` of a frame: the size of its trimmed image, ``read(a, b)``, its rows a to b as they
    were read out, and ``base(a, b)``, the float32 level to subtract from them (broadcasts): overscan and pedestal.
    ``read(a, b, into)`` reads them into the array `into`, flat int16, if they are such and it has the room.

    TRIMSEC gives the image.  Where BIASSEC lies inside the frame, its median along its shorter side is the
    overscan level of each row (or column), as in ccdproc.subtract_overscan(median=True, overscan_axis=None).
    A frame whose sections are as large as itself, or reach outside, was trimmed before.
    """
    trim, scan = section(header.get("TRIMSEC"), rows.shape), section(header.get("BIASSEC"), rows.shape)
    if scan and all(s.stop - s.start == n for s, n in zip(scan, rows.shape)):
        scan = None
    ys, xs = trim or (slice(0, rows.shape[0]), slice(0, rows.shape[1]))
    fetch, half = reader(rows), rows.shape[0] // 2
    level = pedestal(header, rows[half:half + TALL]) if "PEDESTAL" in header else 0.0
    along_rows = scan and scan[0].stop - scan[0].start >= scan[1].stop - scan[1].start
    per_column = None if not scan or along_rows else np.median(rows[scan[0]], axis=0)[None, xs].astype("f4")

    def read(a, b, into=None):
        return fetch(ys.start + a, min(ys.start + b, ys.stop), into)[:, xs]

    def base(a, b):
        if per_column is not None:
            return per_column
        if scan:
            band = fetch(ys.start + a, min(ys.start + b, ys.stop))[:, scan[1]]
            return np.median(band, axis=1, keepdims=True).astype("f4")
        return np.float32(level)
    return (ys.stop - ys.start, xs.stop - xs.start), read, base


def plain(header, shape):
    """A copy of a raw frame's header without what `opened` has applied: PEDESTAL, BIASSEC, TRIMSEC.

    `shape` is the shape before trimming.  OVSCAN and TRIMMED say what was done.
    """
    out = header.copy()
    for name, key in (("BIASSEC", "OVSCAN"), ("TRIMSEC", "TRIMMED")):
        found = section(out.pop(name, None), shape)
        if found and any(s.stop - s.start != n for s, n in zip(found, shape)):
            out[key] = (header[name], f"{name} that was applied")
    out.remove("PEDESTAL", ignore_missing=True)
    return out


def pedestal(header, values):
    """The ADU that software added to a frame, from PEDESTAL; 0 when there is none.

    MaxIm DL writes -100 ("add this for zero-based ADU"), others +100: both mean that 100 was added.  A number
    above the frame's own level (median of `values` + 5 sigma) cannot have been added to it and is not believed.
    """
    added = abs(number(header, "PEDESTAL") or 0.0)
    if not added:
        return 0.0
    values = np.asarray(values, "f8")
    return added if added <= middle(values) + 5 * spread(values) + 1 else 0.0


def sample(rows, shape=None):
    """``(values, id)``: a `thin` sample of a frame, and the first 10 hexadecimal digits of the SHA-1 of its size and of
    the sampled rows (all columns, as little-endian float32).

    `rows` is rows-like, or with `shape` a function (a, b) -> rows.
    """
    found, shape = _sampled(rows, shape)
    found = [band.astype("<f4") for band in found]
    digest = hashlib.sha1(repr(tuple(int(n) for n in shape)).encode())
    for band in found:
        digest.update(np.ascontiguousarray(band))
    return np.concatenate([band[:, ::stride(shape)] for band in found]), digest.hexdigest()[:10]


def thin(rows, shape=None):
    """A thin sample of a frame as float32: up to 64 rows, about 512 columns; `rows` and `shape` as in `sample`."""
    found, shape = _sampled(rows, shape)
    return np.concatenate([band[:, ::stride(shape)] for band in found]).astype("f4", copy=False)


def _sampled(rows, shape):
    read, shape = (rows, shape) if callable(rows) else (lambda a, b: rows[a:b], rows.shape)
    return [np.asarray(read(a, b)) for a, b in bands(shape)], shape


def sample_base(base, shape):
    """The values of ``base(a, b)`` (see `opened`) under the pixels of a sample."""
    return np.concatenate([np.broadcast_to(base(a, b), (b - a, shape[1]))[:, ::stride(shape)] for a, b in bands(shape)])


def stride(shape):
    """Every which column a sample takes: odd, so that it meets both columns of a Bayer pattern."""
    return max(1, shape[1] // COLUMNS) | 1


def bands(shape):
    """The row ranges (a, b) of a sample: evenly spread over the frame; all of a low frame."""
    if shape[0] <= BANDS * TALL:
        return [(0, shape[0])]
    starts = (np.arange(BANDS) + 0.5) * shape[0] / BANDS - TALL / 2
    return [(int(a), int(a) + TALL) for a in starts]


def middle(values):
    """Median of an array, NaN left out; NaN where there is no value.  (np.nanmedian takes five times as long, for NumPy
    is fast at partitions about one place only.)"""
    v = values[values == values]
    half = v.size // 2
    if not v.size:
        return math.nan
    v.partition(half)
    return float(v[half]) if v.size % 2 else (float(v[:half].max()) + float(v[half])) / 2


def spread(values):
    """Robust standard deviation: 1.4826 times the median absolute deviation; NaN is ignored."""
    return 1.4826 * middle(np.abs(values - middle(values)))


def full_scale(values, header, saturate=None):
    """The ADU at which a raw frame saturates: `saturate`, else the lower of the header's SATURATE and the value at
    which pixels pile up (`pile`), else 65535 for whole numbers of 16 bits; None when nothing says it."""
    if saturate is not None:
        return float(saturate)
    said = number(header, "SATURATE")
    said = said if said and said > 0 else None
    top = float(np.nanmax(values, initial=0.0)) if values.size else 0.0
    if top > 65535 or not whole(values):
        return said
    return min([full for full in (pile(values, top), said) if full] or [65535.0])


def pile(values, top):
    """The value above which saturated pixels pile up below the largest value `top`, or None when they do not.

    Under half of the frame lies in it.  A sharp one (a converter's limit): 3 or more at `top`, 20 times as frequent
    as the values 5 % below it.  A soft one (full wells over the pattern of the bias): 5 or more, 3 times as many in the
    uppermost 1.5 % as in the 5.5 % below it (where stars have a quarter as many), and less than half of them at `top`.
    """
    if top <= 4000:  # (the smallest converters have 12 bits)
        return None
    high = values[values >= 0.93 * top]
    at_top, near, upper = (int(np.count_nonzero(high >= f * top)) for f in (1, 0.95, 0.985))
    if 5 <= upper < values.size / 2 and upper > 3 * (len(high) - upper) and at_top < upper / 2:
        heap = high[high >= 0.985 * top]
        return middle(heap) - max(6 * spread(heap), 2)
    sharp = 3 <= at_top < values.size / 2 and at_top > 20 * (near - at_top) / (0.05 * top)
    return top if sharp else None


def whole(values):
    """Whether the values are whole numbers, as a converter gives them (up to 64 of the rows are looked at)."""
    few = values[::max(1, len(values) // 64)]
    return few.dtype.kind in "ui" or bool(np.all((few == np.rint(few)) | np.isnan(few)))


def good_level(values):
    """The level of a flat: the median of its well-lit part, the pixels above 0.7 of the 95th percentile."""
    top = np.nanpercentile(values, 95)
    return float(np.median(values[values > 0.7 * top])) if top > 0 else float("nan")


def said_bias(header):
    """Whether a header says that its frame still holds the bias: True, False, or None when it does not say.

    Looks at BIASSUB, then at CALSTAT: 'M' a master that holds it, 'BM', 'BD', … one that does not.
    """
    if isinstance(header.get("BIASSUB"), bool):
        return not header["BIASSUB"]
    state = text(header, "CALSTAT")
    return None if state is None else "B" not in state.upper()


def holds_bias(values, header, bias=None, raw=True):
    """Whether a dark (or bias-like) frame still holds the bias: the data decide where they can, else the header,
    else `raw`.

    `values` and `bias` are samples of the frame and of the master bias.  A dark below half the bias level
    cannot hold it; one within 5 % of that level does.  In between and above, the pattern of the bias tells: its
    slope in the frame is 1 where the bias is held, -1 where the bias's own noise was subtracted with it, and near
    0 (undecided) where the pattern is weaker than its noise.
    """
    said = said_bias(header)
    if bias is not None and bias.shape == values.shape:
        level, here = middle(bias), middle(values)
        if level > max(20.0, 5 * spread(values - bias)):
            if here < 0.5 * level:
                return False
            if abs(here - level) < 0.05 * level:
                return True
            slope, error = pattern_slope(values, bias)
            if error < 0.15 and abs(slope) > 0.5:
                return slope > 0
    return said if said is not None else raw


def pattern_slope(values, bias):
    """Slope of `values` on the small-scale pattern of `bias`, and its error: both minus their medians in runs of
    16 columns, the wildest tenth of the pixels left out."""
    def fine(a):
        a = a[:, :a.shape[1] // 16 * 16]
        runs = a.reshape(len(a), -1, 16)
        return (runs - np.median(runs, axis=2, keepdims=True)).ravel()
    x, y = fine(bias), fine(values)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    if x.size < 100:
        return 0.0, math.inf
    calm = (np.abs(y) <= np.quantile(np.abs(y), 0.95)) & (np.abs(x) <= np.quantile(np.abs(x), 0.95))
    x, y = x[calm], y[calm]
    power = float(x @ x)
    if power == 0:
        return 0.0, math.inf
    slope = float(x @ y) / power
    return slope, math.sqrt(float(np.var(y - slope * x)) / power)
