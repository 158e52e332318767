"""When a simulated night takes which frame, through which air: the table of frames (`apfunc simulate`).

`s` is everywhere the dict of settings that `simulate.night` makes of its options.
"""

from datetime import date as day
from datetime import datetime, timedelta

import numpy as np

from apfunc import sky, wcs
from apfunc.names import safe

SITE = {"SITELAT": "+32 54 11", "SITELONG": "-105 31 43"}  # Mayhill, New Mexico
LATITUDE, LONGITUDE = 32.90306, -105.52861


def frames(s):
    """The table of frames: calibration frames at dusk, then the lights, filter after filter in turn."""
    from astropy.table import Table
    rows = []
    dusk = _local_midnight(s) - timedelta(hours=6)
    clock = dusk - timedelta(hours=2)
    for kind, exptime, count in [("bias", 0.037, s["biases"])] + [("dark", t, s["darks"])
                                                                  for t in sorted(set(s["exptimes"].values()))]:
        for i in range(count):
            rows.append(_row(s, len(rows), kind, "", exptime, clock, i))
            clock += timedelta(seconds=exptime + 12)
    for f in s["filters"]:
        for i in range(s["flats"]):
            rows.append(_row(s, len(rows), "flat", f, round(3 + 0.7 * i, 2), dusk, i))
            dusk += timedelta(seconds=20)
    lights = [(f, i) for i in range(s["lights"]) for f in s["filters"]]
    total = sum(s["exptimes"][f] + 15 for f, _ in lights) / 3600
    length, start = max(s["span"], total), _start(s, max(s["span"], total))
    gap, clock = (length - total) * 3600 / max(len(lights) - 1, 1), start
    special = _special(s)
    for number, (f, i) in enumerate(lights):
        row = _row(s, len(rows), "light", f, s["exptimes"][f], clock, i)
        rows.append(_view(s, row, special.get((f, i), ""), number >= len(lights) / 2))
        clock += timedelta(seconds=s["exptimes"][f] + 15 + gap)
    names = list(rows[-1] if lights else rows[0])
    table = Table({n: [r.get(n, "" if isinstance(rows[-1][n], str) else np.nan) for r in rows] for n in names})
    for name, unit in {"exptime": "s", "temp": "deg_C", "ra": "deg", "dec": "deg", "angle": "deg", "altitude": "deg",
                       "fwhm": "pix",
                       "fwhm_sampled": "pix", "theta": "deg", "sky": "electron/pix"}.items():
        if name in names:
            table[name].unit = unit
    return table


def _local_midnight(s):
    """UT of the middle of the night at the site (mean sun)."""
    return datetime.combine(day.fromisoformat(s["date"]) + timedelta(days=1),
                            datetime.min.time()) - timedelta(hours=LONGITUDE / 15)


def _start(s, length):
    """UT of the first light: so that the target culminates in the middle, as far as the night allows."""
    midnight = _local_midnight(s)
    angle = (hour_angle(s["ra"], s["dec"], midnight)[0] + 180) % 360 - 180
    shift = float(np.clip(-angle / 15.041, -max(0, 3.4 - length / 2), max(0, 3.4 - length / 2)))
    return (midnight + timedelta(hours=shift - length / 2)).replace(microsecond=0)


def hour_angle(ra, dec, when):
    """Hour angle and declination of date [deg] at the site: IAU 1976 precession and mean sidereal time (20 arcsec)."""
    days = (when - datetime(2000, 1, 1, 12)).total_seconds() / 86400
    t = days / 36525
    zeta, z, theta = (np.radians(np.polyval(c, t) / 3600)
                      for c in ((0.017998, 0.30188, 2306.2181, 0), (0.018203, 1.09468, 2306.2181, 0),
                                                                    (-0.041833, -0.42665, 2004.3109, 0)))
    a, d = np.radians(ra) + zeta, np.radians(dec)
    x = np.cos(theta) * np.cos(d) * np.cos(a) - np.sin(theta) * np.sin(d)
    ra_now = np.degrees(np.arctan2(np.cos(d) * np.sin(a), x) + z)
    dec_now = np.degrees(np.arcsin(np.sin(theta) * np.cos(d) * np.cos(a) + np.cos(theta) * np.sin(d)))
    return (280.46061837 + 360.98564736629 * days + LONGITUDE - ra_now) % 360, dec_now


def altitude(ra, dec, when):
    """True altitude [deg] of a J2000 position at the site."""
    angle, dec = np.radians(hour_angle(ra, dec, when))
    lat = np.radians(LATITUDE)
    return np.degrees(np.arcsin(np.sin(lat) * np.sin(dec) + np.cos(lat) * np.cos(dec) * np.cos(angle)))


def airmass(height):
    """Young 1994 (Applied Optics 33, 1108), of the true altitude [deg]."""
    c = np.sin(np.radians(height))
    return (1.002432 * c**2 + 0.148386 * c + 0.0096467) / (c**3 + 0.149864 * c**2 + 0.0102963 * c + 0.000303978)


def _special(s):
    """Which (filter, number) is clouded, trailed or defocused; dealt out over the filters."""
    found = {}
    for kind, count, first, turn in (("clouded", s["clouded"], 1, 0), ("trail", s["trails"], 2, 1),
                                     ("defocused", s["defocused"], 3, 0)):
        for k in range(count):
            f = s["filters"][(k + turn) % len(s["filters"])]
            free = [i % s["lights"] for i in range(first + k // len(s["filters"]), first + 2 * s["lights"])
                    if (f, i % s["lights"]) not in found]
            if free:
                found[f, free[0]] = kind
    return found


def _row(s, index, kind, name, exptime, when, number):
    """The part of a frame's row that all kinds have."""
    rng = np.random.default_rng([s["seed"], 21, index])
    local = when + timedelta(hours=round(LONGITUDE / 15))
    stamp, bin, who = local.strftime("%Y%m%d-%H%M%S"), f"BIN{s['binning']}", f"{s['telescope']}-{s['user']}"
    library = f"LD{stamp[:8]}-LT{stamp[9:]}-{bin}.fit"
    file = {"bias": f"{who}-Bias-{library}", "dark": f"{who}-Dark-{exptime:g}-{library}",
            "flat": f"{s['telescope']}_{name}_{s['binning']}x{s['binning']}_skyflat{number}.fit",
            "light": f"{stamp}-{name}-{bin}"}[kind]
    dark_ends = 0.001 if kind == "dark" and number % 3 == 2 else 0.0  # 119.999 s, as real darks have
    return {"name": file, "kind": kind, "filter": name, "exptime": exptime - dark_ends, "number": number + 1,
            "index": index,
            "date_obs": when.isoformat(timespec="milliseconds"),
            "temp": round(s["temperature"] + 0.08 * rng.standard_normal(), 3),
            "level": float(rng.uniform(17000, 31000)) if kind == "flat" else np.nan}


def _view(s, row, special, late):
    """A light's row: where it looks, through which air, how sharp."""
    rng = np.random.default_rng([s["seed"], 22, row["index"]])
    middle = datetime.fromisoformat(row["date_obs"]) + timedelta(seconds=row["exptime"] / 2)
    height = altitude(s["ra"], s["dec"], middle)
    west = hour_angle(s["ra"], s["dec"], middle)[0] < 180
    if height < 5:
        raise ValueError(f"the field is {height:.0f} degrees high at {middle:%Y-%m-%d %H:%M} UT; give another date")
    pier = "W" if (late if s["flip"] else west) else "E"
    air = float(airmass(height))
    clear = 1 - abs(0.015 * rng.standard_normal())
    transparency = clear * {"clouded": 0.3}.get(special, 1)
    f, x = sky.facts(row["filter"]), max(air, 1)
    glow = f["zero"] * s["area"] * 10**(-0.4 * f["sky"]) * s["scale"]**2 * x**0.5 * (1 + 0.04 * rng.standard_normal())
    error = np.array([0.8, -0.6]) * min(s["pointing"] / 60, 0.08 * s["field"])
    step = rng.uniform(-1, 1, 2) * s["dither"] * s["scale"] / 3600
    ra, dec = wcs.deproject(*(error + step), (s["ra"], s["dec"]))
    name = "-".join(["raw", s["telescope"], s["user"], safe(s["object"]), row["name"], pier, f"{row['exptime']:03.0f}",
                     f"{row['number']:03d}.fit"])
    theta, ellipticity = rng.uniform(0, 180), 0.02 + 0.05 * rng.random()
    fwhm = s["fwhm"] * x**0.6 * (1 + 0.05 * abs(rng.standard_normal())) * (2.4 if special == "defocused" else 1)
    return row | {
        "name": name, "ra": float(ra), "dec": float(dec),
        "angle": (s["angle"] + 0.03 * rng.standard_normal() + 180 * (pier == "W")) % 360, "pier": pier, "airmass": air,
        "altitude": float(height), "fwhm": fwhm, "fwhm_sampled": float(sky.sampled(fwhm * (1 + 0.08 / 3), s["beta"])),
                  "ellipticity": ellipticity, "theta": theta,
        "transparency": transparency, "factor": transparency * 10**(-0.4 * f["extinction"] * x),
        "sky": float(glow * row["exptime"] * (1.6 if special == "clouded" else 1)),
                  "gradient": float(0.04 * rng.standard_normal()),
        "special": special, "verdict": "reject" if special in ("clouded", "defocused") else "accept"}


def view(s, row):
    """The geometry of a light, for `sky.to_pixel`, `sky.to_sky` and `sky.shape_at`, from settings and its row."""
    rows, columns = s["shape"]
    corner = float(np.hypot(rows, columns) / 2)
    return {"x0": (columns - 1) / 2 + 3.0, "y0": (rows - 1) / 2 - 2.0, "corner": corner, "scale": s["scale"],
            "mirror": s["mirror"],
            "distortion": s["distortion"] / corner} | {k: float(row[k])
                                                       for k in ("ra", "dec", "angle", "fwhm", "ellipticity", "theta")}
