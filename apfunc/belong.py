"""Which frames of a set belong together: the odd ones are found by header and by data, and named with the reason.

Nothing here knows how frames are combined; it works on the thin samples of `apfunc.raw.sample`.
"""

import numpy as np

from apfunc.clip import middle_of_rows
from apfunc.header import binning, number, temperature, text
from apfunc.names import KINDS, band
from apfunc.raw import BANDS, middle, spread

TEMPERATURE = {"bias": 1.0, "dark": 1.0, "flat": 5.0}  # C, to either side
EXPOSURE = 0.02, 0.1  # relative and in seconds, the larger counts: 300, 300.1 and 300.2 s are one set


def kind_of(header):
    """bias, dark, flat or light, from IMAGETYP in any of its spellings ('Flat Field', 'zero', …); None if unknown."""
    words = (text(header, "IMAGETYP", "IMAGETYPE", "FRAME", "OBSTYPE") or "").lower().replace("master", " ")
    return next((KINDS[w] for w in words.replace("-", " ").replace("_", " ").split() if w in KINDS), None)


def by_header(headers, shapes, kind, only_size=False):
    """A list with, for each frame, why its header says it does not belong, or None.

    The largest group of equals stands: size, binning, readout mode, gain setting, filter (flats); temperature
    within 1 C (flats 5 C); exposure time of biases and darks within 2 % or 0.1 s.  A missing keyword fits everything.
    `only_size`: look at nothing but the size.
    """
    reasons = [None] * len(headers)
    setting = [h.get("GAIN") if isinstance(h.get("GAIN"), int) else None for h in headers]
    facts = {"size": ["{1}x{0}".format(*s) for s in shapes],
             "binning": ["{}x{}".format(*binning(h)) for h in headers],
             "camera": [text(h, "INSTRUME") for h in headers],
             "readout mode": [text(h, "READOUTM", "READMODE") for h in headers],
             "gain setting": setting}
    if kind == "flat":
        facts["filter"] = [text(h, "FILTER") and band(text(h, "FILTER")) for h in headers]
    for what, values in facts.items() if not only_size else [("size", facts["size"])]:
        most = usual([v for v, r in zip(values, reasons) if r is None and v is not None])
        reject(reasons, [f"{what} {v}, the others {most}" if v not in (None, most) else None for v in values])
    degrees = TEMPERATURE.get(kind, 5.0)
    numeric = [] if only_size else [("temperature", [temperature(h) for h in headers], lambda v: degrees, "C")]
    if kind in ("bias", "dark") and not only_size:
        exposures = [number(h, "EXPTIME", "EXPOSURE") for h in headers]
        numeric.append(("exposure", exposures, lambda v: max(EXPOSURE[0] * abs(v), EXPOSURE[1]), "s"))
    for what, values, within, unit in numeric:
        left = [v for v, r in zip(values, reasons) if r is None and v is not None]
        near = [sum(abs(v - w) <= within(v) for w in left) for v in left]
        if left:
            most = left[int(np.argmax(near))]
            off = [v is not None and abs(v - most) > within(most) for v in values]
            reject(reasons, [f"{what} {v:g} {unit}, the others {most:g}" if o else None for v, o in zip(values, off)])
    return reasons


def usual(values):
    """The commonest value, the first of equals; None of an empty list."""
    return max(dict.fromkeys(values), key=list(values).count, default=None)


def reject(reasons, found):
    """Fill the reasons (in place) that are still None from `found`."""
    for i, why in enumerate(found):
        reasons[i] = reasons[i] or why


def by_level(levels, noise):
    """For each bias or dark, why its level says it does not belong, or None; None in `levels` = not to be looked at.

    Sorted levels are split where the gap exceeds half the noise of a pixel (2 ADU at least), and the largest chain
    stands, the lower of equals (drift is continuous, a mistyped frame is not; light comes in, it never leaks out).
    """
    reasons = [None] * len(levels)
    there = sorted((v, i) for i, v in enumerate(levels) if v is not None)
    if not there:
        return reasons
    values = np.array([v for v, _ in there])
    chains = np.split(np.arange(len(there)), np.nonzero(np.diff(values) > max(0.5 * noise, 2))[0] + 1)
    chain = max(chains, key=len)
    most = float(np.median(values[chain]))
    for j, (v, i) in enumerate(there):
        if j not in chain:
            reasons[i] = f"level {v:.1f} ADU, the others {most:.1f}"
    return reasons


def by_exposure_level(levels, raw_levels, full, at_full):
    """For each flat, why its level says it does not belong, or None; None in `levels` = not to be looked at.

    Saturated: the raw median above 90 % of the `full` scale, or more than 2 % of the pixels at it (`at_full`).  No
    light: a level (bias subtracted) under a tenth of the usual.
    """
    reasons = [None] * len(levels)
    for i, level in enumerate(levels):
        if level is not None and full and (raw_levels[i] > 0.9 * full or at_full[i] > 0.02):
            part = f"{100 * at_full[i]:.0f} % of its pixels at {full:.0f}"
            reasons[i] = f"saturated: median {raw_levels[i]:.0f} ADU, {part}"
    left = [v for v, r in zip(levels, reasons) if v is not None and r is None]
    most = float(np.median(left)) if left else 0.0
    reject(reasons, [f"level {v:.0f} ADU, the others {most:.0f}" if v is not None and v <= 0.1 * most else None
                     for v in levels])
    return reasons


def by_pattern(samples, kind):
    """For each sample (None = not to be looked at), why its picture does not fit the median of the others, or None.

    Uneven: some part of the frame (a cell of 1/16 x 1/16) deviates by more than half the noise (flats: 5 %) and
    3 times what is usual in the set: a light leak, a cloud, another illumination.  Tails: pixels 8 sigma above
    (stars or hot pixels in a bias) or below (hot pixels missing in a dark), 3 times and 1 in 1000 more than usual.
    """
    reasons = [None] * len(samples)
    there = [i for i, s in enumerate(samples) if s is not None]
    if len(there) < 3:
        return reasons
    some = [there[int(k)] for k in np.linspace(0, len(there) - 1, min(len(there), 15))]
    common = np.median([samples[i] for i in some], axis=0)
    off = {i: samples[i] - common - middle(samples[i] - common) for i in there}
    noise = max(float(np.median([spread(off[i]) for i in there])), 1e-3 if kind == "flat" else 0.5)
    uneven = {i: unevenness(off[i]) for i in there}
    above = {i: float(np.mean(off[i] > 8 * noise)) for i in there}
    below = {i: float(np.mean(off[i] < -8 * noise)) for i in there}
    floor = 0.05 if kind == "flat" else 0.5 * noise
    for i in there:
        others = [float(np.median([d[j] for j in there if j != i])) for d in (uneven, above, below)]
        if uneven[i] > max(3 * others[0], floor):
            size = f"{100 * uneven[i]:.0f} %" if kind == "flat" else f"{uneven[i]:.1f} ADU"
            reasons[i] = f"uneven by {size} against the others: a light leak, a cloud or another illumination"
        elif kind != "flat" and above[i] > 3 * others[1] + 1e-3:
            reasons[i] = f"{100 * above[i]:.1f} % of its pixels stand 8 sigma above the others: not a {kind} like them"
        elif kind != "flat" and below[i] > 3 * others[2] + 1e-3:
            reasons[i] = f"{100 * below[i]:.1f} % of its pixels lie 8 sigma below the others: not a {kind} like them"
    return reasons


def unevenness(off):
    """The largest deviation of a cell's median from the median of all cells, of a sample's difference image."""
    rows, columns = off.shape
    cells = off[:rows // BANDS * BANDS, :columns // BANDS * BANDS] if min(off.shape) >= BANDS else off
    ny, nx = (BANDS, BANDS) if min(off.shape) >= BANDS else (1, 1)
    cells = cells.reshape(ny, cells.shape[0] // ny, nx, cells.shape[1] // nx)
    medians = middle_of_rows(cells.transpose(0, 2, 1, 3).reshape(ny * nx, -1))
    return float(np.nanmax(np.abs(medians - middle(medians))))
