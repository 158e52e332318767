"""Master bias, dark and flat frames, combined pixel by pixel in bands of rows.

    bias:  master = <raw>                   dark:  master = <raw - bias>
    flat:  master = <(raw - bias - dark * t / t_dark) / level>

where <> is the mean of the values that agree (`apfunc.clip`).
"""

import functools

import numpy as np

from apfunc import belong, clip, masters, raw
from apfunc.header import BAD, NODATA, SATURATED, history, number, temperature, text

METHODS = {"clip": clip.clipped_mean, "median": clip.median, "mean": clip.mean}
BAND = 16e6  # bytes of raw rows read at a time, all frames together (at least 64 rows, while they fit into 100 MB)
STRIP = 5e6  # bytes of float32 worked on at a time, so that they stay in the cache
LEAST = 4  # rows worked on at a time at least: of hundreds of frames, what is done once for each must not count
KEPT = """TELESCOP INSTRUME OBSERVAT XPIXSZ YPIXSZ XBINNING YBINNING XORGSUBF YORGSUBF READOUTM READMODE GAIN EGAIN
          OFFSET RDNOISE SET-TEMP FILTER FOCALLEN APTDIA APTAREA SITELAT SITELONG SITEELEV ROWORDER FLIPSTAT BAYERPAT
          XBAYROFF YBAYROFF DATE-OBS OVSCAN TRIMMED""".split()


def combine(images, kind=None, method="clip", sigma=4.0, bias=None, dark=None, vet=True, saturate=None):
    """The master of a set of raw frames: ``(data, header), planes``.

    images : list of (rows, header); rows has ``.shape`` and ``[a:b]`` (an array, or the lazily read rows of
        `apfunc.io.read_rows`), any number type, ADU.  PEDESTAL, overscan (BIASSEC) and trim (TRIMSEC) are applied.
    kind : "bias", "dark" or "flat"; without it the commonest IMAGETYP, and frames of another type are left out.
    method : "clip" (mean of what lies within `sigma` robust standard deviations), "median" or "mean".
    bias, dark : master images.  A dark has the bias subtracted when one is given, unless its data or header say
        that it holds none; a flat has bias and dark (scaled to its exposure) subtracted and is divided by its level.
    vet : leave out frames that do not belong (`apfunc.belong`); each is listed with its reason (and so are, in any
        case, files that are cut short).
    saturate : raw ADU of saturation; else the pile-up of the pixels, SATURATE, or 65535 for 16-bit integers.

    The result is float32: ADU for EXPTIME seconds; of a flat the relative response, with median 1 over its well-lit
    part (above 0.7 of the bright end).  NaN = no value.  planes["MASK"] is uint8: SATURATED (in most frames), BAD (half
    of the frames or more were clipped), NODATA.  planes["UNCERT"] is the standard error of each pixel from the
    noise of its surroundings, undone of the truncation by clipping, or its own scatter where that is larger.
    Header: IMAGETYP, CALSTAT, BIASSUB (T: holds no bias), NCOMBINE, EXPTIME (median), CCD-TEMP (mean), TEMPSPRD,
    REJFRAC, NOISE (median UNCERT), FLATNORM [adu], SATLEVEL [raw adu], INPnnn = "name id" (id: `apfunc.raw.sample`),
    EXCnnn = "name: reason".

    Raises ValueError: no images, unknown kind or method, no frame left, master bias or dark that do not fit.

    >>> from astropy.io import fits
    >>> (data, header), planes = combine([(np.full((4, 4), 10 + i), fits.Header()) for i in range(3)], kind="bias")
    >>> float(data[0, 0]), header["NCOMBINE"]
    (11.0, 3)
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; one of {', '.join(METHODS)}")
    kinds = [belong.kind_of(header) for _, header in images]
    reasons = [None] * len(images)
    if kind is None:
        kind = belong.usual([k for k in kinds if k in ("bias", "dark", "flat")])
        reasons = [f"IMAGETYP says {k}" if k not in (None, kind) else None for k in kinds]
    if not images or kind not in ("bias", "dark", "flat"):
        raise ValueError("not known whether bias, dark or flat; give --kind" if images else "no frames to combine")
    frames = [raw.opened(*image) for image in images]
    headers = [raw.plain(header, rows.shape) for rows, header in images]
    belong.reject(reasons, belong.by_header(headers, [shape for shape, _, _ in frames], kind, only_size=not vet))
    samples = {}
    for i in [i for i, why in enumerate(reasons) if why is None]:
        try:
            samples[i] = raw.sample(frames[i][1], frames[i][0])
        except ValueError as error:
            reasons[i] = str(error)
    values = {i: s - raw.sample_base(frames[i][2], frames[i][0]) for i, (s, _) in samples.items()}
    ready = _masters(kind, bias, dark, headers, frames, samples)
    terms = {i: _terms(kind, values[i], headers[i], ready) for i in samples}
    for i in samples:
        values[i] = values[i] - _thin(terms[i][0], frames[i][0])
    _some(samples, headers, reasons)
    whole = all(raw.whole(s) for s, _ in samples.values())
    full = raw.full_scale(np.stack([s for s, _ in samples.values()]), headers[min(samples)], saturate)
    if vet:
        belong.reject(reasons, by_data(kind, values, {i: s for i, (s, _) in samples.items()}, full, len(images)))
    used = [i for i, why in enumerate(reasons) if why is None]
    _some(used, headers, reasons)
    levels = flat_levels([values[i] for i in used]) if kind == "flat" else np.ones(len(used))
    step = float(whole) / float(np.median(levels))
    data, error, mask, rejected = _run([frames[i] for i in used], [terms[i][0] for i in used], levels, full,
                                       METHODS[method], sigma, step, kind == "flat")
    normal = np.float32(raw.good_level(raw.thin(data))) if kind == "flat" else np.float32(1)
    data /= normal
    error /= normal
    facts = {"CALSTAT": "BDM" if ready["dark"] else "BM" if all(terms[i][1] for i in used) else "M",
             "BIASSUB": all(terms[i][1] for i in used), "NCOMBINE": len(used), "REJFRAC": rejected,
             "NOISE": _middle(error[::max(1, len(error) // 256)]), "SATLEVEL": full,
             "FLATNORM": float(normal / np.mean(1 / levels)) if kind == "flat" else None}
    header = master_header(kind, [headers[i] for i in used], facts)
    _list(header, "INP", [f"{_name(headers[i])} {samples[i][1]}" for i in used], "input and its content id")
    _list(header, "EXC", [f"{_name(h)}: {why}" for h, why in zip(headers, reasons) if why], "left out")
    history(header, "combine", kind=kind, method=method, sigma=float(sigma), used=len(used), of=len(images))
    return (data, header), {"MASK": mask, "UNCERT": error}


def _some(used, headers, reasons):
    """ValueError when no frame is left."""
    if not used:
        raise ValueError("no frame is left: " + "; ".join(f"{_name(h)}: {why}" for h, why in zip(headers, reasons)))


def _masters(kind, bias, dark, headers, frames, samples):
    """The masters that this kind needs, as they lie over the frames: {"bias": image or None, "dark": image or None}."""
    ready = {"bias": bias if kind in ("dark", "flat") else None, "dark": dark if kind == "flat" else None}
    if not samples:
        return ready
    shape, first = frames[min(samples)][0], headers[min(samples)]
    for what, master in ready.items():
        if master is not None:
            master = masters.prepared(master)
            masters.check(what, master, first, temperature=np.inf)
            ready[what] = masters.fitted(what, master, first, shape, masters.said_turn(master[1], first))
    if ready["dark"] is not None:
        longest = max(number(headers[i], "EXPTIME", "EXPOSURE") or 0.0 for i in samples)
        ready["dark"] = masters.quieted(ready["dark"], ready["bias"], longest)
    return ready


def _terms(kind, values, header, ready):
    """What to subtract from a frame, [(array, factor), …], and whether it then is free of bias."""
    if kind == "bias":
        return [], False
    if kind == "dark":
        held = raw.holds_bias(values, header, None if ready["bias"] is None else raw.thin(ready["bias"][0]))
    else:
        held = raw.said_bias(header) is not False
    seconds = number(header, "EXPTIME", "EXPOSURE") or 0.0
    terms, _, bias_free = masters.subtract(ready["bias"], ready["dark"], seconds, held)
    return terms, bias_free


def _thin(terms, shape):
    """The sum of the terms under the pixels of a sample."""
    return sum((np.float32(factor) * raw.thin(array) for array, factor in terms), np.float32(0))


def by_data(kind, values, samples, full, number):
    """Why each of `number` frames does not belong by what its pixels say.  Dicts index -> sample: `values` without the
    masters' part, `samples` as read out."""
    reasons = [None if i not in values or np.isfinite(values[i]).any() else "no values in it" for i in range(number)]

    def left(find):
        return [find(i) if i in values and reasons[i] is None else None for i in range(number)]
    levels = left(lambda i: raw.middle(values[i]))
    if kind == "flat":
        middle = left(lambda i: raw.middle(samples[i]))
        at_full = left(lambda i: float(np.mean(samples[i] >= full)) if full else 0.0)
        belong.reject(reasons, belong.by_exposure_level(levels, middle, full, at_full))
        belong.reject(reasons, belong.by_pattern(left(lambda i: values[i] / np.float32(levels[i])), kind))
    else:
        noise = left(lambda i: raw.spread(np.diff(values[i], axis=1)) / np.sqrt(2))
        belong.reject(reasons, belong.by_level(levels, float(np.median([n for n in noise if n is not None] or [0]))))
        belong.reject(reasons, belong.by_pattern(left(lambda i: values[i]), kind))
    return reasons


def flat_levels(values):
    """The level of each flat [adu] from its sample: the median ratio to the mean shape over the well-lit pixels."""
    some = [values[int(k)] for k in np.linspace(0, len(values) - 1, min(len(values), 15))]
    shape = np.median([v / raw.middle(v) for v in some], axis=0)
    shape = shape / np.float32(raw.good_level(shape))
    lit = shape > 0.7
    return np.array([raw.middle(v[lit] / shape[lit]) for v in values])


def _run(frames, terms, levels, full, method, sigma, step, flat):
    """Combine band by band: ``(data, error, mask, rejected fraction)``."""
    (rows, columns), read, _ = frames[0]
    data, error = np.empty((rows, columns), "f4"), np.empty((rows, columns), "f4")
    mask, clipped = np.zeros((rows, columns), "u1"), 0
    line = len(frames) * columns
    strip = int(min(rows, max(LEAST, STRIP // (4 * line))))
    of_row = read(0, 1).dtype.itemsize * line
    band = int(max(strip, min(max(64, BAND // of_row), 100e6 // of_row) // strip * strip))
    stack = np.empty((len(frames), strip, columns), "f4")
    room = np.empty((len(frames), band * columns), "i2")
    for a in range(0, rows, band):
        b = min(a + band, rows)
        bands = [_band(read, base, a, b, full, into) for (_, read, base), into in zip(frames, room)]
        for c in range(a, b, strip):
            d = min(c + strip, b)
            part = stack[:, :d - c]
            full_count = _fill(part, bands, terms, levels, full, flat, slice(c - a, d - a), slice(c, d))
            data[c:d], error[c:d], count = method(part, sigma, step)
            at = np.flatnonzero(count != len(frames))
            some = count.ravel()[at]
            clipped += at.size * len(frames) - int(some.sum())
            mask[c:d].ravel()[at] = (2 * some <= len(frames)) * np.uint8(BAD) | (some == 0) * np.uint8(NODATA)
            mask[c:d] |= (full_count * 2 > len(frames)) * np.uint8(SATURATED)
    return data, error, mask, clipped / (len(frames) * rows * columns)


def _band(read, base, a, b, full, into):
    """Rows a to b as read out, what to subtract from them (None: nothing), and whether any may be saturated."""
    values, level = read(a, b, into), base(a, b)
    level = None if np.ndim(level) == 0 and level == 0 else np.broadcast_to(level, values.shape)
    return values, level, full is not None and not values.max() < full


def _fill(stack, bands, terms, levels, full, flat, here, there):
    """Fill a stack with (raw - base - terms) / level, rows `here` of the bands and `there` of the masters; gives the
    number of frames that are saturated in each pixel (a flat has no value there)."""
    full_count, before, less = 0, None, None
    for out, (values, base, bright), subtrahends, level in zip(stack, bands, terms, levels):
        out[:] = values[here]
        over = out >= full if bright else False
        if bright:
            full_count = full_count + over
        if base is not None:
            out -= base[here]
        if subtrahends:
            factors = [factor for _, factor in subtrahends]
            if factors != before:
                parts = [array[there] if factor == 1 else np.float32(factor) * array[there]
                         for array, factor in subtrahends]
                before, less = factors, functools.reduce(np.add, parts)
            out -= less
        if flat:
            out /= np.float32(level)
            if bright:
                out[over] = np.nan
    return full_count


def master_header(kind, headers, facts):
    """The header of a master made from frames with these headers; `facts` are its own keywords (None = unknown)."""
    from astropy.io import fits
    out = fits.Header()
    for key in KEPT:
        if key in headers[0] and (key != "FILTER" or kind == "flat"):
            out[key] = (headers[0][key], headers[0].comments[key])
    temperatures = [t for t in map(temperature, headers) if t is not None]
    times = [t for t in (number(h, "EXPTIME", "EXPOSURE") for h in headers) if t is not None]
    facts = {"IMAGETYP": f"Master {kind.capitalize()}", **facts, "BUNIT": "" if kind == "flat" else "adu",
             "EXPTIME": float(np.median(times)) if times else None,
             "CCD-TEMP": float(np.mean(temperatures)) if temperatures else None,
             "TEMPSPRD": max(temperatures) - min(temperatures) if temperatures else None}
    comments = {"CALSTAT": "B, D: subtracted; M: master", "BIASSUB": "whether it is free of bias",
                "NCOMBINE": "frames combined", "REJFRAC": "fraction of values clipped",
                "NOISE": "median standard error of a pixel", "SATLEVEL": "[adu] raw value of saturation",
                "FLATNORM": "[adu] level that was set to 1 (harmonic mean)",
                "EXPTIME": "[s] median exposure time", "CCD-TEMP": "[C] mean", "TEMPSPRD": "[C] largest minus smallest"}
    for key, value in facts.items():
        if value is not None:
            out[key] = (value, comments.get(key))
    return out


def _middle(values):
    """The median of the finite values, None when there is none."""
    values = values[np.isfinite(values)]
    return raw.middle(values) if values.size else None


def _name(header):
    return text(header, "RAWFILE") or "frame"


def _list(header, word, entries, comment):
    """Number the entries into keywords INP001, INP002, …"""
    for i, entry in enumerate(entries, 1):
        header[f"{word}{i:03d}"] = entry if len(entry) > 40 else (entry, comment)
