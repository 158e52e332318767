"""Making a master fit a frame: is it of the right kind, which way up is it, which part of it, does it hold the bias."""

import math

import numpy as np

from apfunc import raw
from apfunc.belong import EXPOSURE, kind_of
from apfunc.header import binning, number, text
from apfunc.header import temperature as header_temperature
from apfunc.names import band

# How a master may lie: the steps in y and x with which to read it.
TURNS = {"": (1, 1), "flipped in y": (-1, 1), "flipped in x": (1, -1), "turned by 180 degrees": (-1, -1)}


def prepared(master):
    """A master as float32, without overscan and pedestal."""
    data, header = master
    shape, read, base = raw.opened(data, header)
    level = base(0, shape[0])
    values = np.asarray(read(0, shape[0]), "f4")
    return values if np.ndim(level) == 0 and level == 0 else values - level, raw.plain(header, data.shape)


def check(kind, master, header, temperature=6.5):
    """ValueError when a master is of another kind, binning, gain setting, readout mode or filter than the frame with
    this header needs, or (a dark) differs by more than `temperature` C.  A keyword that is missing fits everything."""
    its = master[1]
    if kind_of(its) not in (None, kind):
        raise ValueError(f"what is given as {kind} is a {kind_of(its)} (IMAGETYP {text(its, 'IMAGETYP')}); "
                         f"give a master {kind}")
    if kind == "bias" and "OVSCAN" in its and "OVSCAN" not in header:
        raise ValueError("the overscan was subtracted from the bias, but not from the frame; give a bias that fits")
    pairs = [("binning", *("{}x{}".format(*binning(h)) if "XBINNING" in h else None for h in (its, header)))]
    if kind == "flat":
        pairs.append(("filter", *(text(h, "FILTER") and band(text(h, "FILTER")) for h in (its, header))))
    else:
        settings = (h.get("GAIN") for h in (its, header))
        pairs.append(("gain setting", *(g if isinstance(g, int) else None for g in settings)))
        pairs.append(("readout mode", *(text(h, "READOUTM", "READMODE") for h in (its, header))))
    for what, ours, theirs in pairs:
        if None not in (ours, theirs) and ours != theirs:
            raise ValueError(f"the {kind} has {what} {ours}, the frame {theirs}; give a {kind} that matches")
    cold, here = header_temperature(its), header_temperature(header)
    if kind == "dark" and None not in (cold, here) and abs(cold - here) > temperature:
        raise ValueError(f"the dark was taken at {cold:g} C, the frame at {here:g} C; "
                         f"give a dark within {temperature:g} C")


def place(kind, master, header, shape):
    """Row and column of the master where a frame of `shape` begins: 0, 0, or a subframe's XORGSUBF and YORGSUBF."""
    data, its = master
    origin = [number(header, key) for key in ("YORGSUBF", "XORGSUBF")]
    start = [int((o or 0) - (number(its, key) or 0)) for o, key in zip(origin, ("YORGSUBF", "XORGSUBF"))]
    if data.shape == tuple(shape) and (not any(start) or None in origin):
        return 0, 0
    if None in origin or not all(s >= 0 and s + n <= full for s, n, full in zip(start, shape, data.shape)):
        at = "" if None in origin else f" at {origin[1]:g},{origin[0]:g}"
        raise ValueError(f"the {kind} is {data.shape[1]}x{data.shape[0]}, the frame {shape[1]}x{shape[0]}{at}; "
                         f"give a {kind} of that size and place")
    return tuple(start)


def fitted(kind, master, header, shape, turn=""):
    """The master turned (a name of TURNS) and cut to the place of a frame of `shape`."""
    y, x = place(kind, master, header, shape)
    return master[0][::TURNS[turn][0], ::TURNS[turn][1]][y:y + shape[0], x:x + shape[1]], master[1]


def said_turn(its, header):
    """"flipped in y" when ROWORDER says that two frames were written in opposite order, else ""."""
    orders = {(text(h, "ROWORDER") or "").upper() for h in (its, header)}
    return "flipped in y" if orders == {"TOP-DOWN", "BOTTOM-UP"} else ""


def turn_of(dark, light, header):
    """How a dark must be turned to lie over `light`: a name of TURNS.

    Its hot pixels tell: under the right turn the same pixels stand out of the light.  ROWORDER stands unless another
    turn has at least 8 of up to 400 hot pixels in place, and 3 times as many.
    """
    expected = said_turn(dark[1], header)
    (y0, x0), (rows, columns) = place("dark", dark, header, light.shape), dark[0].shape
    y, x = hot_pixels(dark[0])
    values = raw.thin(light)
    noise = max(raw.spread(values[:, 1:] - values[:, :-1]) / math.sqrt(2), 0.1)
    hits = {name: stands_out(light, noise, (y if sy > 0 else rows - 1 - y) - y0,
                             (x if sx > 0 else columns - 1 - x) - x0) for name, (sy, sx) in TURNS.items()}
    best = max(hits, key=hits.get)
    return best if hits[best] >= 8 and hits[best] > 3 * hits[expected] else expected


def hot_pixels(dark):
    """Rows and columns of the up to 400 hottest pixels of a dark, 20 sigma above its median or more; those of every
    fourth row where they are enough."""
    values = raw.thin(dark)
    limit = raw.middle(values) + 20 * max(raw.spread(values), 0.1)
    for step in (4, 1):
        y, x = np.divmod(np.flatnonzero(dark[::step] > limit), dark.shape[1])
        if len(y) >= 400:
            break
    order = np.argsort(-dark[y * step, x], kind="stable")[:400]
    return y[order] * step, x[order]


def stands_out(light, noise, y, x):
    """How many of the pixels (y, x) lie 5 `noise` above the median of the four pixels two steps away in x and y."""
    inside = (y >= 2) & (y < light.shape[0] - 2) & (x >= 2) & (x < light.shape[1] - 2)
    y, x = y[inside], x[inside]
    around = np.median([light[y - 2, x], light[y + 2, x], light[y, x - 2], light[y, x + 2]], axis=0)
    return int(np.count_nonzero(light[y, x] - around > 5 * noise))


def dark_scale(seconds, of_dark):
    """What to multiply a dark of `of_dark` seconds by for a frame of `seconds`: 1 when they are equal within 2 % or
    0.1 s."""
    return 1.0 if abs(seconds - of_dark) <= max(EXPOSURE[0] * seconds, EXPOSURE[1]) else seconds / of_dark


def subtract(bias, dark, seconds, held=True):
    """What to subtract from a frame of `seconds` that holds the bias (or, with held=False, does not).

    Gives ``(terms, scale, bias_free)``: a list of (array, factor), the factor of the dark current, and whether the
    result is free of bias.  bias, dark: prepared masters of the frame's size, or None.  With t the exposure times and
    h = 1 for a frame or dark that holds the bias, 0 for one that does not:

        frame - (h_frame - h_dark * scale) * bias - scale * dark,     scale = t_frame / t_dark

    Raises ValueError where this needs a bias that was not given, or an exposure time that is not known.
    """
    if dark is None:
        terms = [(bias[0], 1.0)] if held and bias is not None else []
        return terms, None, bool(terms) or not held
    of_dark = number(dark[1], "EXPTIME", "EXPOSURE")
    if not of_dark or of_dark < 0:
        raise ValueError("no exposure time in the dark's header (looked for EXPTIME, EXPOSURE); give another --dark")
    scale = dark_scale(seconds, of_dark)
    thin = None if bias is None else raw.thin(bias[0])
    dark_held = raw.holds_bias(raw.thin(dark[0]), dark[1], thin)
    left = held - dark_held * scale
    if bias is None and left:
        cure = "give --bias, or a dark of the frame's exposure that holds the bias" if held else "give --bias"
        raise ValueError(f"the dark ({of_dark:g} s) {'still holds' if dark_held else 'holds no'} bias, "
                         f"the frame ({seconds:g} s) {'holds it' if held else 'does not'}; {cure}")
    return ([(bias[0], float(left))] if left else []) + [(dark[0], scale)], scale, True


def quieted(dark, bias, seconds):
    """The dark for a frame of `seconds`: scaled up by more than 1.5 it is made `quiet`, and free of bias."""
    of_dark = number(dark[1], "EXPTIME", "EXPOSURE")
    if not of_dark or of_dark < 0 or dark_scale(seconds, of_dark) <= 1.5:
        return dark
    thin = None if bias is None else raw.thin(bias[0])
    held = raw.holds_bias(raw.thin(dark[0]), dark[1], thin)
    if held and bias is None:
        return dark
    header = dark[1].copy()
    header["BIASSUB"] = True
    return quiet(dark[0] - bias[0] if held else dark[0], number(dark[1], "NOISE")), header


def quiet(dark, noise=None):
    """A bias-free dark whose noise does not grow when it is scaled up: pixels within 5 `noise` (or robust spreads) of
    the mean of their block of 32 x 32 get that mean; hot pixels and glow stay."""
    size, columns = 32, dark.shape[1]
    thin = raw.thin(dark)
    noise, usual = noise or raw.spread(thin), raw.middle(thin)
    out = dark.astype("f4")
    for a in range(0, len(dark), size):
        band = out[a:a + size]
        tiles = np.pad(np.nan_to_num(band, nan=usual), ((0, 0), (0, -columns % size)), mode="symmetric")
        tiles = tiles.reshape(len(band), -1, size)
        middle = np.median(tiles[::3, :, ::3], axis=(0, 2))[:, None]
        calm = np.abs(tiles - middle) <= 5 * noise
        level = np.where(calm, tiles, 0).sum(axis=(0, 2)) / np.maximum(calm.sum(axis=(0, 2)), 1)
        smooth = np.repeat(level, size)[:columns].astype("f4")
        band[:] = np.where(np.abs(band - smooth) <= 5 * noise, smooth, band)
    return out


def response(flat, bias):
    """A flat as relative response: without bias, median 1 over its well-lit part.

    `flat` and `bias` are prepared masters (bias may be None).  An own master has FLATNORM and needs at most its bias
    removed (bias / FLATNORM).  Another says by CALSTAT whether it holds the bias; one that does not say it is taken
    to hold it when its level is above the bias (a plain mean of raw frames), not when it is normalised.
    Raises ValueError: no light in it, or a bias in it that would have to be subtracted and was not given.
    """
    data, header = flat
    held, level = raw.said_bias(header), raw.good_level(raw.thin(data))
    norm = number(header, "FLATNORM")
    if held is None:
        held = bias is not None and level > 20 and level > raw.middle(raw.thin(bias[0]))
    if held and bias is None:
        raise ValueError("the flat still holds the bias; give --bias, or a flat without it")
    if held:
        zero, _ = fitted("bias", bias, header, data.shape, said_turn(bias[1], header))
        data = data - (zero / np.float32(norm) if norm else zero)
        level = raw.good_level(raw.thin(data))
    if not level > 0:
        raise ValueError("no light in the flat (its level is not above zero); give another --flat")
    return (data if norm and not held else data / np.float32(level)), header
