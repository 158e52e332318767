"""The parts of bench.py that run inside one Python process: `bench_inside.py FUNCTION FOLDER [WORDS]`.

A function does its imports and its reading, then calls `clocked`; what it gives is the last line printed, as JSON.
"""

import json
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench_data import FILTERS, frame, frames, north_up, settings


def clocked(function, most=5, enough=10.0):
    """(CPU seconds of all threads: the least of up to `most` runs, what the function gave).

    The first run pays for what is imported or compiled late; there is no other after `enough` seconds.
    """
    least, begun = float("inf"), time.process_time()
    for _ in range(most):
        start = time.process_time()
        result = function()
        least = min(least, time.process_time() - start)
        if time.process_time() - begun > enough:
            break
    return least, result


def versions(folder):
    """The versions of ours and of the Python peers."""
    import subprocess
    said = []
    for name in ("apfunc", "numpy", "scipy", "astropy", "seiza", "ccdproc", "astroscrappy", "reproject"):
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            said.append(f"{name} not installed")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                            cwd=Path(__file__).parent).stdout.strip()
    return {"says": ", ".join([f"{said[0]} {commit and f'({commit})'}", *said[1:]])}


# ---------------------------------------------------------------------------------- masters to stacks, in one process

def apfunc_night(folder):
    """Our functions composed.  The register step is the whole solution, relative to the frames (no catalogue), by the
    stars above 200 sigma of the frames binned 2 x 2: 450 of 3,100.  Three R frames lie within 0.003 pixel of where
    all stars of the frames themselves put them, 0.001 in the median."""
    from apfunc import io
    from apfunc.astrometry import astrometry
    from apfunc.calibrate import calibrate
    from apfunc.coadd import coadd
    from apfunc.combine import combine
    from apfunc.field import field
    from apfunc.grid import grid
    from apfunc.resample import light_of, resample
    from apfunc.stars import stars
    paths, known = frames(folder), settings(folder)
    out = Path(folder) / "library"
    out.mkdir(exist_ok=True)

    def rows(kind):
        return [io.read_rows(p) for p in paths[kind]]

    def stacked(f, bias, dark):
        flat = combine(rows(("flat", f)), "flat", bias=bias)[0]
        solved = [calibrate(io.read_rows(path), bias, dark, flat, known["gain"], known["readnoise"])
                  for path in paths["light", f]]
        tables = [stars(image, sigma=200, binning=2, trail=False) for image in solved]
        sky = field(tables)
        solved = [astrometry(image, table, sky)[0] for image, table in zip(solved, tables)]
        common, light = grid(solved, like=solved[0]), light_of(flat)
        return coadd(*zip(*(resample(solved.pop(0), common, flat=light) for _ in paths["light", f])))

    def run():
        bias = combine(rows("bias"), "bias")[0]
        dark = combine(rows("dark"), "dark", bias=bias)[0]
        for f in FILTERS:
            stack, weight = stacked(f, bias, dark)
            io.write(out / f"{f}.fits", stack, {"WEIGHT": weight})
    return {"cpu": clocked(run, most=1)[0]}


def seiza_night(folder):
    """The calls of seiza's Python bindings that do the same."""
    from seiza import build_bias, build_dark, build_flat, stack_fits
    paths, out = frames(folder), Path(folder) / "seiza"
    out.mkdir(exist_ok=True)
    masters = {kind: str(out / f"{kind}.fits") for kind in ("bias", "dark")}

    def run():
        build_bias(paths["bias"], masters["bias"])
        build_dark(paths["dark"], masters["dark"], bias=masters["bias"])
        for f in FILTERS:
            flat = str(out / f"flat-{f}.fits")
            build_flat(paths["flat", f], flat, bias=masters["bias"])
            done = stack_fits(paths["light", f], str(out / f"{f}.fits"), flat=flat, **masters)
            if done.rejected_frames:
                raise SystemExit(f"seiza left out {done.rejected_frames} lights in {f}")
    return {"cpu": clocked(run, most=1)[0]}


# -------------------------------------------------------------------------------------------------- stage by stage

def twenty(folder, share=1):
    """Twenty bias frames of noise with a few outliers, uint16, in memory; `share`: the fraction of their rows."""
    import numpy as np
    size = settings(folder)["size"]
    rng = np.random.default_rng(20)
    some = []
    for _ in range(20):
        data = rng.normal(1000, 8, (int(size * share), size)).astype("u2")
        data.ravel()[rng.integers(0, data.size, data.size // 10000)] += 500
        some.append(data)
    return some


def combine(folder):
    from astropy.io.fits import Header
    from apfunc.combine import combine
    images = [(data, Header({"IMAGETYP": "Bias Frame"})) for data in twenty(folder)]
    return {"cpu": clocked(lambda: combine(images))[0]}


def ccdproc(folder):
    """The same clipping; a quarter of the rows, its time times four."""
    import numpy as np
    from astropy.nddata import CCDData
    from astropy.stats import mad_std
    from ccdproc import combine
    images = [CCDData(data.astype("f4"), unit="adu") for data in twenty(folder, 0.25)]
    cpu, _ = clocked(lambda: combine(images, method="average", sigma_clip=True, sigma_clip_low_thresh=4,
                                     sigma_clip_high_thresh=4, sigma_clip_func=np.ma.median,
                                     sigma_clip_dev_func=mad_std, dtype="f4"), most=1)
    return {"cpu": 4 * cpu}


def cosmics(folder):
    import numpy as np
    from apfunc.cosmics import cosmics
    from apfunc.header import COSMIC
    image = frame(folder)
    cpu, (_, mask) = clocked(lambda: cosmics(image))
    np.save(Path(folder) / "stage" / "cosmics.npy", mask & COSMIC != 0)
    return {"cpu": cpu}


def astroscrappy(folder):
    import numpy as np
    from astroscrappy import detect_cosmics
    data, header = frame(folder)
    noise = {"gain": header["EGAIN"], "readnoise": header["RDNOISE"], "satlevel": header["SATURATE"] * header["EGAIN"]}
    cpu, (mask, _) = clocked(lambda: detect_cosmics(data, sigclip=4.5, sigfrac=0.3, objlim=5.0, niter=4, sepmed=False,
                                                    **noise))
    np.save(Path(folder) / "stage" / "astroscrappy.npy", mask)
    return {"cpu": cpu}


def masks(folder):
    """How the two masks differ."""
    import numpy as np
    ours, theirs = (np.load(Path(folder) / "stage" / f"{name}.npy") for name in ("cosmics", "astroscrappy"))
    both = (ours & theirs).sum()
    return {"says": f"pixels flagged: {ours.sum()} by ours, {theirs.sum()} by astroscrappy, {both} by both"}


def stars(folder):
    from apfunc.stars import stars
    image = frame(folder)
    cpu, table = clocked(lambda: stars(image))
    return {"cpu": cpu, "says": f"{len(table)} stars"}


def astrometry(folder):
    """The field catalogue from this frame's stars, tied to the installed catalogues, and the solution by it."""
    from apfunc.astrometry import astrometry
    from apfunc.catalog import around
    from apfunc.field import field
    from apfunc.stars import stars
    image = frame(folder)
    search, table = clocked(lambda: stars(image))
    cpu, (solved, _) = clocked(lambda: astrometry(image, table, field([table], around([table]))))
    if solved[1].get("WCSSRC", "relative") == "relative":
        raise SystemExit("solved relative to itself only: no catalogue fits")
    return {"cpu": cpu, "with_stars": cpu + search}


def resample(folder):
    from apfunc.resample import resample
    image, grid = frame(folder, "solved"), north_up(folder)
    return {"cpu": clocked(lambda: resample(image, grid))[0]}


def reproject(folder):
    from astropy.wcs import WCS
    from reproject import reproject_interp
    data, header = frame(folder, "solved")
    grid = north_up(folder)
    shape = grid["NAXIS2"], grid["NAXIS1"]
    return {"cpu": clocked(lambda: reproject_interp((data, WCS(header)), WCS(grid), shape_out=shape), most=1)[0]}


def composite(folder):
    from apfunc.composite import composite
    from apfunc.picture import encode
    images = {name: frame(folder, colour) for name, colour in zip("RGB", ("red", "green", "blue"))}
    return {"cpu": clocked(lambda: encode(*composite(images, "RGB"), "tif"))[0]}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
