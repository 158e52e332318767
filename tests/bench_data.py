"""The data of bench.py: `bench_data.py FUNCTION FOLDER [WORDS]` writes them, the other functions read them.

FOLDER/raw        a simulated night
FOLDER/stage      a frame of it for the stages, made by plain NumPy so that it depends on no stage
"""

import json
import sys
from pathlib import Path

FILTERS = ("R", "G", "B", "Ha")


def simulate(folder, options):
    """Write a raw night: clear, no trails, all lights on one side of the meridian, so that every peer can stack all."""
    from apfunc.simulate import write_night
    write_night(folder, **({"clouded": 0, "trails": 0, "flip": False} | json.loads(options)))


def frames(folder):
    """The raw frames of the night as lists of paths by kind: bias, dark, (flat, R), (light, R), …"""
    raw = Path(folder) / "raw"
    found = {"bias": "*-Bias-*.fit", "dark": "*-Dark-*.fit"}
    found |= {("flat", f): f"*_{f}_*skyflat*.fit" for f in FILTERS}
    found |= {("light", f): f"raw-*-{f}-BIN*.fit" for f in FILTERS}
    return {kind: sorted(map(str, raw.glob(pattern))) for kind, pattern in found.items()}


def settings(folder):
    """What the simulation was told: gain, readnoise, scale, ra, dec, size …"""
    return json.loads((Path(folder) / "raw" / "truth" / "night.json").read_text())


def frame(folder, name="frame"):
    from apfunc.io import read
    return read(Path(folder) / "stage" / f"{name}.fits")


def prepare(folder):
    """The frame of the stages, by plain NumPy: stage/frame.fits, solved.fits with its WCS, and 64x64 pixels of both."""
    import numpy as np
    from astropy.io import fits
    from astropy.table import Table
    paths, known, stage = frames(folder), settings(folder), Path(folder) / "stage"
    if (stage / "settings.json").exists():
        return
    stage.mkdir(exist_ok=True)
    bias, dark, flat = (np.median([fits.getdata(path) for path in paths[kind][:5]], axis=0).astype("f4")
                        for kind in ("bias", "dark", ("flat", "R")))
    raw, header = fits.getdata(paths["light", "R"][0], header=True)
    data = ((raw - dark) / np.maximum((flat - bias) / np.median(flat - bias), 0.2)).astype("f4")
    repair(data, Path(folder) / "raw" / "truth" / "pixels.ecsv")
    saturate = 50000.0
    data[raw >= 64000] = np.maximum(data[raw >= 64000], np.float32(saturate))
    header = fits.Header([c for c in header.cards if c.keyword not in ("BZERO", "BSCALE", "PEDESTAL")])
    header.update({"EGAIN": known["gain"], "RDNOISE": known["readnoise"], "SATURATE": saturate, "BUNIT": "adu"})
    truth = Table.read(Path(folder) / "raw" / "truth" / "frames.ecsv", format="ascii.ecsv")
    seeing = float(truth["fwhm_sampled"][truth["name"] == Path(paths["light", "R"][0]).name][0])
    wcs, centre = true_wcs(folder, Path(paths["light", "R"][0]).name, data.shape)
    for start, cut in (("", data), ("tiny", data[:64, :64])):
        fits.writeto(stage / f"{start}frame.fits", cut, header, overwrite=True)
        for name, factor in (("solved", 1.0), ("red", 1.0), ("green", 0.8), ("blue", 0.9)):
            solved = fits.Header([*header.cards, *wcs.cards, ("FWHM", seeing, "[pixel] as apfunc astrometry writes it")])
            fits.writeto(stage / f"{start}{name}.fits", cut * np.float32(factor), solved, overwrite=True)
    for name, path in (("tinyraw", paths["light", "R"][0]), ("tinybias", paths["bias"][0])):
        fits.writeto(stage / f"{name}.fits", fits.getdata(path)[:64, :64], fits.getheader(path), overwrite=True)
    said = {"gain": known["gain"], "saturate": saturate, "scale": known["scale"], "centre": centre,
            "size": max(data.shape), "hint": [known["ra"], known["dec"]]}
    (stage / "settings.json").write_text(json.dumps(said))


def repair(data, truth):
    """Put the median of the good pixels of 5x5 in place of the camera's bad ones (in place)."""
    import numpy as np
    from astropy.table import Table
    pixels = Table.read(truth, format="ascii.ecsv")
    y, x = (np.array(pixels[name], int) for name in "yx")
    good = data.copy()
    good[y, x] = np.nan
    good = np.pad(good, 2, mode="reflect")
    data[y, x] = np.nanmedian([good[y + j, x + i] for j in range(5) for i in range(5)], axis=0)


def true_wcs(folder, name, shape):
    """The TAN solution of a light from the truth, as a header, and (ra, dec) of its middle."""
    import numpy as np
    from astropy.coordinates import SkyCoord
    from astropy.table import Table
    from astropy.wcs.utils import fit_wcs_from_points
    truth = Table.read(Path(folder) / "raw" / "truth" / "wcs.ecsv", format="ascii.ecsv")
    truth = truth[truth["name"] == name]
    sky = SkyCoord(np.array(truth["ra"]), np.array(truth["dec"]), unit="deg")
    found = fit_wcs_from_points((np.array(truth["x"]), np.array(truth["y"])), sky, projection="TAN")
    centre = found.wcs_pix2world([[(shape[1] - 1) / 2, (shape[0] - 1) / 2]], 0)[0].tolist()
    return tan(found.wcs.crval.tolist(), found.wcs.crpix.tolist(), found.pixel_scale_matrix.tolist()), centre


def tan(crval, crpix, cd):
    from astropy.io.fits import Header
    keys = "CRVAL1 CRVAL2 CRPIX1 CRPIX2 CD1_1 CD1_2 CD2_1 CD2_2".split()
    kind = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"}
    return Header(kind | dict(zip(keys, (*crval, *crpix, *cd[0], *cd[1]))))


def north_up(folder):
    """The grid the frame is resampled to: north up, of its own scale, size and centre."""
    known = json.loads((Path(folder) / "stage" / "settings.json").read_text())
    step, middle = known["scale"] / 3600, (known["size"] + 1) / 2
    grid = tan(known["centre"], (middle, middle), ((-step, 0.0), (0.0, step)))
    grid["NAXIS"], grid["NAXIS1"], grid["NAXIS2"] = 2, known["size"], known["size"]
    return grid


# ------------------------------------------------------------------------------------------------------ many frames

def multiply(raw, count):
    """Copy the lights of a tiny night, each a few seconds later, until the folder has `count` frames."""
    from datetime import datetime, timedelta
    from astropy.io import fits
    raw = Path(raw)
    lights, here = sorted(raw.glob("raw-*.fit")), len(list(raw.glob("*.fit")))
    for i in range(int(count) - here):
        light = lights[i % len(FILTERS)]
        data, header = fits.getdata(light, header=True)
        later = datetime.fromisoformat(header["DATE-OBS"]) + timedelta(seconds=7 + i)
        header["DATE-OBS"] = later.isoformat(timespec="milliseconds")
        fits.writeto(raw / light.name.replace("-001.fit", f"-{i + 2:04d}.fit"), data, header, overwrite=True)


def many(out, count, size):
    """bias-NNN.fits, links to eight raw frames of noise, and frame-NNN.fits, links to four resampled ones."""
    import numpy as np
    from astropy.io import fits
    from apfunc.io import write
    out, count, size, rng = Path(out), int(count), int(size), np.random.default_rng(8)
    out.mkdir(parents=True, exist_ok=True)
    step = 1 / 3600
    wcs = tan((120.0, 30.0), (size / 2, size / 2), ((-step, 0.0), (0.0, step)))
    wcs.update({"IMAGETYP": "Light Frame", "FILTER": "R", "EXPTIME": 60.0, "FLXSCALE": 1.0,
                "EGAIN": 1.4, "RDNOISE": 8.0, "SATURATE": 6e4})
    for i in range(8):
        bias = fits.Header({"IMAGETYP": "Bias Frame", "EXPTIME": 0.0})
        data = (1000 + 8 * rng.standard_normal((size, size), "f4")).astype("u2")
        fits.writeto(out / f"noise{i}.fits", data, bias, overwrite=True)
    for i in range(4):
        data = 100 + 10 * rng.standard_normal((size, size), "f4")
        planes = {"WEIGHT": np.full_like(data, 0.01), "MASK": np.zeros(data.shape, "u1")}
        write(out / f"sky{i}.fits", (data, wcs), planes)
    for i in range(count):
        for link, target in ((f"bias-{i:04d}.fits", f"noise{i % 8}.fits"),
                             (f"frame-{i:04d}.fits", f"sky{i % 4}.fits")):
            (out / link).unlink(missing_ok=True)
            (out / link).symlink_to(target)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
