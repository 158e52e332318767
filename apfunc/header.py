"""What a FITS header says: values that are there, and a clear error for those that are not.

A value is read from the header or given by the user; nothing is invented here.  A keyword that is
absent, blank, not a number or not finite counts as missing.
"""

import math
import re
from datetime import datetime, timedelta

# The bits of a mask (uint8).  Non-zero means: do not trust this pixel.
BAD, COSMIC, SATURATED, TRAIL, NODATA = 1, 2, 4, 8, 16
MASK_BITS = {"BAD": BAD, "COSMIC": COSMIC, "SATURATED": SATURATED, "TRAIL": TRAIL, "NODATA": NODATA}

# The bits of a bad-pixel map (uint8).  Non-zero means: bad.
HOT, DEAD, COLUMN, UNSTABLE, USER = 1, 2, 4, 8, 16
BADPIX_BITS = {"HOT": HOT, "DEAD": DEAD, "COLUMN": COLUMN, "UNSTABLE": UNSTABLE, "USER": USER}


def number(header, *names):
    """The first finite number among the keywords `names`, as a float; None when there is none."""
    for name in names:
        value = header.get(name)
        if isinstance(value, bool):
            continue
        try:
            value = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(value):
            return value
    return None


def text(header, *names):
    """The first non-blank string among the keywords `names`, stripped; None when there is none."""
    for name in names:
        value = header.get(name)
        if value is not None and not hasattr(value, "cards") and str(value).strip():
            return str(value).strip()
    return None


def need(value, what, looked_for, option):
    """`value`, or a ValueError that says what was looked for and which option gives it."""
    if value is None:
        raise ValueError(f"no {what} in the header (looked for {looked_for}); give {option}")
    return value


def gain(header, option=None):
    """Gain in electron/ADU: `option`, else EGAIN, else a GAIN that is a gain; else ValueError.

    The GAIN of a CMOS camera is often the number of a setting (0, 100, 2750): an integer GAIN is
    therefore not believed, unless its comment says that it is in electrons per ADU.
    """
    if option is not None:
        return float(option)
    value = number(header, "EGAIN")
    if value is None or value <= 0:
        value = number(header, "GAIN")
        comment = header.comments["GAIN"].lower() if value is not None else ""
        is_gain = isinstance(header.get("GAIN"), float) or re.search(r"\be-?\s*/|electron", comment)
        value = value if is_gain and value and 0.01 < value < 100 else None
    return need(value, "gain", "EGAIN, GAIN", "--gain")


def readnoise(header, option=None):
    """Read noise in electrons: `option`, else RDNOISE, READNOIS or RON; else ValueError."""
    value = float(option) if option is not None else number(header, "RDNOISE", "READNOIS", "RON")
    return need(value, "read noise", "RDNOISE, READNOIS, RON", "--readnoise")


def exptime(header, option=None):
    """Exposure time in seconds: `option`, else EXPTIME or EXPOSURE; else ValueError."""
    value = float(option) if option is not None else number(header, "EXPTIME", "EXPOSURE")
    return need(value, "exposure time", "EXPTIME, EXPOSURE", "--exptime")


def temperature(header):
    """Sensor temperature in Celsius (CCD-TEMP, else the set point SET-TEMP), or None."""
    return number(header, "CCD-TEMP", "SET-TEMP")


def binning(header):
    """Binning as (x, y); (1, 1) where the header does not say."""
    return int(number(header, "XBINNING") or 1), int(number(header, "YBINNING") or 1)


def pixel_scale(header):
    """Nominal pixel scale in arcsec/pixel from XPIXSZ [um] (binned) and FOCALLEN [mm], or None."""
    size, focal = number(header, "XPIXSZ"), number(header, "FOCALLEN")
    return 206.264806 * size / focal if size and focal and size > 0 and focal > 0 else None


def angle(value, hours=False):
    """Degrees of a sexagesimal string ('-31 16 24', '17:58:33.2') or of a number; None if neither.

    With `hours` a sexagesimal string is in hours; a plain number is always in degrees.
    """
    if value is None or isinstance(value, bool):
        return None
    parts = [p for p in re.split(r"[\s:hmsd°'\"]+", str(value).strip()) if p]
    try:
        parts = [float(p) for p in parts]
    except ValueError:
        return None
    if not parts or len(parts) > 3 or not all(map(math.isfinite, parts)):
        return None
    size = sum(abs(p) / 60**i for i, p in enumerate(parts))
    size *= 15 if hours and len(parts) > 1 else 1
    return -size if str(value).strip().startswith("-") else size


def pointing(header):
    """(RA, Dec) in degrees of the telescope or target: OBJCTRA/OBJCTDEC, RA/DEC; None when missing."""
    for ra_name, dec_name in (("OBJCTRA", "OBJCTDEC"), ("RA", "DEC")):
        ra, dec = angle(header.get(ra_name), hours=True), angle(header.get(dec_name))
        if ra is not None and dec is not None and abs(dec) <= 90:
            return ra % 360, dec
    return None


def site(header):
    """(latitude, longitude east) in degrees from SITELAT/SITELONG or LAT-OBS/LONG-OBS, or None."""
    for lat_name, lon_name in (("SITELAT", "SITELONG"), ("LAT-OBS", "LONG-OBS")):
        lat, lon = angle(header.get(lat_name)), angle(header.get(lon_name))
        if lat is not None and lon is not None and abs(lat) <= 90 and abs(lon) <= 360:
            return lat, (lon + 180) % 360 - 180
    return None


def date_obs(header):
    """UT start of the exposure as a datetime, from DATE-OBS (with TIME-OBS or UT if it has no time),
    else from JD; None when there is none."""
    date = text(header, "DATE-OBS")
    if date and "T" not in date and text(header, "TIME-OBS", "UT"):
        date = f"{date}T{text(header, 'TIME-OBS', 'UT')}"
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", lambda m: m[1].ljust(7, "0"), date).rstrip("Z"))
    except (TypeError, ValueError):
        pass
    jd = number(header, "JD")
    return datetime(2000, 1, 1, 12) + timedelta(days=jd - 2451545) if jd and 2400000 < jd < 2600000 else None


def history(header, stage, **parameters):
    """Add the one HISTORY line of a stage, 'apfunc <stage> key=value …', to `header` (in place).

    Call it on the stage's own copy.  Parameters that are None are left out; floats are short.
    """
    said = [f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in parameters.items() if v is not None]
    header.add_history(" ".join([f"apfunc {stage}", *said]))


def camera(header, shape):
    """The camera group of a frame, as one safe word: instrument, size, binning, readout mode, gain setting.

    Frames of one group share masters, gain and read noise.  `shape` is (rows, columns).
    """
    from apfunc.names import safe
    setting = number(header, "GAIN") if isinstance(header.get("GAIN"), int) else None
    parts = [text(header, "INSTRUME") or "camera", f"{shape[1]}x{shape[0]}", "bin{}x{}".format(*binning(header)),
             text(header, "READOUTM", "READMODE"), setting is not None and f"g{setting:g}"]
    return safe("-".join(str(p) for p in parts if p))
