"""Bias, dark and flat correction of one frame.

    out = (raw - overscan - pedestal - bias - dark * t / t_dark) / flat

What makes a master fit the frame is in `apfunc.masters`, what a raw frame holds in `apfunc.raw`.
"""

import contextlib

import numpy as np

from apfunc import header as known
from apfunc import masters, raw
from apfunc.header import history, number, text

STRIP = 16  # rows done at a time, so that they stay in the cache
THIN = np.s_[::17, ::17]


def calibrate(image, bias=None, dark=None, flat=None, gain=None, readnoise=None, saturate=None, temperature=6.5,
              flatmin=0.1):
    """The calibrated image of a raw frame, ``(data, header)``: float32 ADU above zero, on the scale of the flat's
    median response.

    image, bias, dark, flat : images (data, header); the data of `image` may be rows (see apfunc.io.read_rows); each
        master may be left out, and may be the whole frame of a subframe (XORGSUBF, YORGSUBF).  Overscan (BIASSEC),
        TRIMSEC and PEDESTAL are applied once, to masters as well.
    gain, readnoise : electron/ADU and electron; they win over the header, both may stay unknown.
    saturate : raw ADU of saturation; else the pile-up of the pixels (here, or in the flats: SATLEVEL), SATURATE, or
        65535 for 16-bit integers.
    temperature : largest difference in C between the frame and its dark.
    flatmin : pixels whose flat is below it, or NaN, become NaN.

    A dark or flat that still holds the bias (keyword, or measured against `bias`) has it subtracted, and is refused
    where that needs a bias that is not given; a dark is scaled to the exposure only without its bias.  Masters are
    turned to the frame's orientation as ROWORDER says, unless the dark's hot pixels in the frame say another.

    Saturated pixels are exactly those with ``data >= header["SATURATE"]``: SATURATE lies above every other pixel, and
    saturated pixels below it, which are lower limits anyway, are raised to it (NaN stays NaN).
    Header: EGAIN, RDNOISE, SATURATE (each when known), CALSTAT (B, D, F are added), BUNIT, BIASFILE, DARKFILE, FLATFILE
    and BIASID, DARKID, FLATID (RAWFILE and content id of the masters), DARKSCL, FLATMIN, MASTTURN (when turned).
    PEDESTAL, BIASSEC and TRIMSEC are dropped.

    Raises ValueError: a correction that was done before (CALSTAT, own keywords), a master of another kind, size,
    binning, gain setting, readout mode or filter, a dark of another temperature, a bias state that forbids the step.

    >>> from astropy.io import fits
    >>> frame, bias = (np.full((4, 4), 1500), fits.Header()), (np.full((4, 4), 1000.0), fits.Header())
    >>> float(calibrate(frame, bias=bias)[0][0, 0])
    500.0
    """
    data, header = image
    given = {kind: master for kind, master in (("bias", bias), ("dark", dark), ("flat", flat)) if master is not None}
    done = steps_done(header)
    for kind in given:
        if kind[0].upper() in done:
            raise ValueError(f"the {kind} correction was done before (CALSTAT {text(header, 'CALSTAT') or 'none'}); "
                             f"leave --{kind} out")
    shape, read, base = raw.opened(data, header)
    light = read(0, shape[0])
    full = raw.full_scale(light, header, saturate)
    if saturate is None and full is not None and flat is not None:
        full = min(full, number(flat[1], "SATLEVEL") or full)
    ground = np.broadcast_to(base(0, shape[0]), shape)
    lifted = ground.strides != (0, 0) or ground[0, 0] != 0

    head = raw.plain(header, data.shape)
    ready, turn = fit(given, light, head, temperature)
    held, thin = "B" not in done, np.subtract(light[THIN], ground[THIN], dtype="f4")
    if held and bias is not None:
        _check_level(thin, ready["bias"][0])
    seconds = number(header, "EXPTIME", "EXPOSURE")
    if dark is not None:
        known.need(seconds, "exposure time", "EXPTIME, EXPOSURE", "no --dark")
        ready["dark"] = masters.quieted(ready["dark"], ready.get("bias"), seconds)
    terms, scale, bias_free = masters.subtract(ready.get("bias"), ready.get("dark"), seconds, held)
    zero = np.subtract(light[THIN], _less(thin, terms, THIN), dtype="f4")
    zero = float(np.median(zero[np.isfinite(zero)])) if np.isfinite(zero).any() else 0.0
    out = np.empty(shape, "f4")
    for a in range(0, shape[0], STRIP):
        part = out[a:a + STRIP]
        part[:] = light[a:a + STRIP]
        if lifted:
            part -= ground[a:a + STRIP]
        _less(part, terms, np.s_[a:a + STRIP])
        if flat is not None:
            relative = ready["flat"][0][a:a + STRIP]
            if not relative.min() >= flatmin:
                relative = np.where(relative >= flatmin, relative, np.float32(np.nan))
            part /= relative

    head.remove("SATURATE", ignore_missing=True)
    if full is not None:
        level = mark_saturated(out, np.flatnonzero(light >= full), full - zero)
        head["SATURATE"] = (level, "[adu] saturated at or above this")
    with contextlib.suppress(ValueError):
        head["EGAIN"] = (known.gain(header, gain), "[electron/adu] gain")
    with contextlib.suppress(ValueError):
        head["RDNOISE"] = (known.readnoise(header, readnoise), "[electron] read noise")
    steps = done | ({"B"} if bias_free else set()) | {kind[0].upper() for kind in given if kind != "bias"}
    if steps:
        head["CALSTAT"] = ("".join(s for s in "BDF" if s in steps), "bias, dark, flat corrections that were done")
    for kind, (values, its) in given.items():
        if text(its, "RAWFILE"):
            head[f"{kind.upper()}FILE"] = (text(its, "RAWFILE"), f"master {kind}")
        head[f"{kind.upper()}ID"] = (raw.sample(values)[1], f"content id of the master {kind}")
    facts = {"DARKSCL": scale, "FLATMIN": flatmin if flat is not None else None, "MASTTURN": turn or None}
    for key, comment in (("DARKSCL", "the dark was multiplied by this"), ("FLATMIN", "pixels with less flat are NaN"),
                         ("MASTTURN", "how the masters were turned")):
        if facts[key] is not None:
            head[key] = (facts[key], comment)
    head["BUNIT"] = "adu"
    history(head, "calibrate", steps="".join(kind[0] for kind in given) or "none", darkscl=scale, full=full)
    return out, head


def steps_done(header):
    """The set of corrections (B, D, F) that a header says were done: CALSTAT and the keywords written here."""
    said = {s for s in (text(header, "CALSTAT") or "").upper() if s in "BDF"}
    return said | {kind[0] for kind in ("BIAS", "DARK", "FLAT") if f"{kind}FILE" in header or f"{kind}ID" in header}


def fit(given, light, header, temperature):
    """The masters as they lie over the light: checked, without pedestal, the flat as relative response, turned, cut.

    `given` is a dict kind -> image; gives such a dict, and how the masters were turned.
    """
    ready = {kind: masters.prepared(master) for kind, master in given.items()}
    for kind, master in ready.items():
        masters.check(kind, master, header, temperature)
    if "flat" in ready:
        ready["flat"] = masters.response(ready["flat"], ready.get("bias"))
    extra = ""
    if "dark" in ready:
        extra = masters.turn_of(ready["dark"], light, header)
    turns = {kind: extra if kind == "dark" or ("dark" in ready and not masters.said_turn(its, ready["dark"][1]))
             else masters.said_turn(its, header) for kind, (_, its) in ready.items()}
    return ({kind: masters.fitted(kind, master, header, light.shape, turns[kind]) for kind, master in ready.items()},
            extra or next(filter(None, turns.values()), ""))


def _check_level(light, bias):
    """ValueError when the light (THIN of it) lies so far below the bias that the bias cannot be in it any more."""
    here, level = raw.middle(light), raw.middle(bias[THIN])
    if level > 20 and here < 0.5 * level:
        raise ValueError(f"the frame's level ({here:.0f} ADU) is far below the bias ({level:.0f} ADU): its bias was "
                         "subtracted before, or the bias is of another camera; leave --bias out, or give the right one")


def _less(part, terms, where):
    """Subtract (in place) from `part` of a frame, which lies `where`, the terms of `masters.subtract`; gives `part`."""
    for master, factor in terms:
        part -= master[where] if factor == 1 else np.float32(factor) * master[where]
    return part


def mark_saturated(out, over, nominal):
    """Raise (in place) the saturated pixels of `out` (`over`: their flat indices) to a level above all others, and give
    that level.

    The level is `nominal` (the full scale less what was subtracted), or the next float32 above the brightest
    unsaturated pixel where that is higher.
    """
    pixels = out.reshape(-1)
    saturated = pixels[over]
    pixels[over] = np.nan
    top = np.fmax.reduce(pixels, initial=-np.inf)
    level = max(np.float32(nominal), np.nextafter(np.float32(top), np.float32(np.inf)))
    pixels[over] = np.maximum(saturated, level)
    return float(level)
