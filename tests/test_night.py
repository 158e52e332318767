"""A whole simulated night through make: products, three ways in, what is redone, and what a bad frame costs."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from apfunc.calibrate import calibrate
from apfunc.cosmics import cosmics
from apfunc.fixpix import fixpix, flag
from apfunc.io import read, read_all
from apfunc.metadata import metadata
from apfunc.simulate import write_night

TOP = Path(__file__).parent.parent
NIGHT = dict(size=400, lights=3, biases=4, darks=4, flats=3, filters=("R", "Ha"), date="2024-05-01")
NAME = "raw-T05-user-NGC_6888-"


def make(out, *words, night="NIGHT=2024-05-01", raw=None, jobs=2, check=True):
    command = ["make", "-C", TOP, f"-j{jobs}", night, f"RAW={raw or out.parent / 'raw'}", f"OUT={out}",
               f"APFUNC={sys.executable} -m apfunc", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(TOP), "MAKEFLAGS": ""})
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def state(out):
    """The time of each product."""
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.suffix in
            (".fits", ".csv", ".png", ".tif", ".html") and not p.is_symlink()}


def content(out):
    """A digest of each product that must not depend on -j."""
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*"))
            if p.is_file() and not p.is_symlink() and p.suffix in (".fits", ".csv", ".png", ".tif", ".ecsv")}


def redone(before, after):
    return {name.split("/")[0] + "/" + name.split("/")[-1] for name in after if after[name] != before.get(name)}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    write_night(folder / "raw", **NIGHT)
    make(folder / "out")
    return folder / "out"


@pytest.fixture
def night(first):
    """The finished night, up to date; a test that changes its raw frames puts them back."""
    make(first)
    return first


def lights(out, filter=""):
    return sorted(p.stem for p in (out / "raw").glob(f"{NAME}*-{filter}*"))


def test_the_night_is_there(first):
    names = lights(first)
    assert len(names) == 6
    for folder in ("calibrated", "navigated", "resampled"):
        assert all((first / folder / f"{n}.fits").exists() for n in names)
    assert {p.name for p in (first / "coadd").iterdir()} == {"NGC_6888-R.fits", "NGC_6888-Ha.fits"}
    assert (first / "continuum/NGC_6888-Ha.fits").exists() and list((first / "composite").glob("NGC_6888-*.png"))
    assert (first / "report.html").stat().st_size > 10000
    quality = Table.read(first / "quality.csv")
    assert sorted(quality["name"]) == names and set(quality["verdict"]) <= {"accept", "reject"}
    with fits.open(first / "coadd/NGC_6888-R.fits") as hdus:
        assert "WEIGHT" in hdus and hdus[0].header["NCOMBINE"] == np.sum((quality["filter"] == "R") & (quality["verdict"] == "accept"))


def test_the_clouded_frame_is_the_one_rejected(first):
    truth = Table.read(first.parent / "raw/truth/frames.ecsv")
    expected = {str(n).rsplit(".", 1)[0]: str(v) for n, k, v in zip(truth["name"], truth["kind"], truth["verdict"]) if k == "light"}
    quality = Table.read(first / "quality.csv")
    assert {str(r["name"]): str(r["verdict"]) for r in quality} == expected


def test_three_ways_give_equal_pixels(first):
    name = lights(first, "R-")[0]
    made, planes = read_all(first / f"calibrated/{name}.fits")
    light = first.parent / "raw" / f"{name}.fit"
    masters = {k: next((first / "masters").glob(f"{k}-*.fits")) for k in ("bias", "dark", "flat-R", "badpix")}
    masters["flat"] = masters.pop("flat-R")
    measured = Table.read(first / "masters/readnoise.ecsv")[0]
    images = {k: read(v) for k, v in masters.items()}

    one = calibrate(read(light), bias=images["bias"], dark=images["dark"], flat=images["flat"], gain=float(measured["gain"]),
                    readnoise=float(measured["readnoise"]))
    fixed = fixpix(metadata(one), images["badpix"])
    clean, mask = cosmics(fixed)
    assert np.array_equal(clean[0], made[0], equal_nan=True)
    assert np.array_equal(flag(mask, images["badpix"], fixed), planes["MASK"])

    apfunc = f"{sys.executable} -m apfunc -q"
    pipe = (f"{apfunc} calibrate {light} --bias {masters['bias']} --dark {masters['dark']} --flat {masters['flat']} --table {first}/masters/readnoise.ecsv"
            f" | {apfunc} metadata | {apfunc} fixpix --badpix {masters['badpix']} | {apfunc} cosmics")
    piped = subprocess.run(pipe, shell=True, capture_output=True, check=True, env=os.environ | {"PYTHONPATH": str(TOP)}).stdout
    assert piped == (first / f"calibrated/{name}.fits").read_bytes()


def test_a_second_make_does_nothing(night):
    before = state(night)
    said = make(night).stdout
    assert state(night) == before and " run " not in said and " coadd " not in said


def test_a_touched_frame_redoes_its_own_chain(night):
    before = state(night)
    name = lights(night)[0]
    os.utime(night.parent / "raw" / f"{name}.fit")
    make(night)
    done = redone(before, state(night))
    others = [d for d in done if NAME in d and name not in d]
    assert not others and f"calibrated/{name}.fits" in done and f"resampled/{name}.fits" in done
    assert "coadd/NGC_6888-R.fits" in done and "coadd/NGC_6888-Ha.fits" not in done and not any(d.startswith("masters") for d in done)


def test_changed_flags_redo_their_stage_and_what_follows(night):
    before = state(night)
    make(night, "coadd_FLAGS=--sigma 5")
    done = redone(before, state(night))
    assert any(d.startswith("coadd/") for d in done) and any(d.startswith("composite/") for d in done)
    assert not any(d.startswith(("resampled", "calibrated", "navigated", "masters")) for d in done)


def test_a_removed_frame_leaves_its_stack(night):
    before = state(night)
    name = lights(night)[0]
    frame = night.parent / "raw" / f"{name}.fit"
    frame.rename(night.parent / "away.fit")
    try:
        make(night)
        done, quality = redone(before, state(night)), Table.read(night / "quality.csv")
    finally:
        (night.parent / "away.fit").rename(frame)
    assert "coadd/NGC_6888-R.fits" in done and "coadd/NGC_6888-Ha.fits" not in done
    assert not any(NAME in d for d in done)
    assert name not in set(quality["name"])


def test_drop_by_hand_wins(night):
    name = next(n for n in Table.read(night / "quality.csv")["name"] if "-R-" in n)
    make(night, f"DROP={name}")
    row = next(r for r in Table.read(night / "quality.csv") if r["name"] == name)
    assert row["verdict"] == "reject" and "hand" in row["reason"]


def test_a_deleted_product_comes_back_the_same(night):
    before, times = content(night), state(night)
    name = lights(night)[0]
    (night / f"calibrated/{name}.fits").unlink()
    (night / "coadd/NGC_6888-R.fits").unlink()
    make(night)
    assert content(night) == before
    assert {d for d in redone(times, state(night)) if d.startswith("calibrated/")} == {f"calibrated/{name}.fits"}
    for lost in ("fields/NGC_6888.fits", "grids/NGC_6888.fits", "quality.csv"):
        (night / lost).unlink()
    shutil.rmtree(night / "accepted")
    make(night)
    assert content(night) == before


def test_batches_of_any_size_give_the_same(night):
    before = content(night)
    make(night, "BATCH=1")
    assert content(night) == before
    times = state(night)
    os.utime(night.parent / "raw" / f"{lights(night)[1]}.fit")
    make(night, "BATCH=2")
    assert content(night) == before and {d for d in redone(times, state(night)) if d.startswith("resampled/")} == {f"resampled/{lights(night)[1]}.fits"}


def test_jobs_and_kills_do_not_change_a_byte(first, tmp_path):
    out = tmp_path / "out"
    command = ["make", "-C", TOP, "-j8", "NIGHT=2024-05-01", f"RAW={first.parent / 'raw'}", f"OUT={out}", f"APFUNC={sys.executable} -m apfunc"]
    for seconds in (3, 6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                                   env=os.environ | {"PYTHONPATH": str(TOP), "MAKEFLAGS": ""})
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    make(out, raw=first.parent / "raw", jobs=8)
    assert content(out) == content(first)


def test_several_nights_make_one_stack(first, tmp_path):
    write_night(tmp_path / "second", **NIGHT | {"date": "2024-05-02", "lights": 1, "filters": ("R",), "clouded": 0, "trails": 0})
    make(tmp_path / "out", "coadd", night="NIGHTS=2024-05-01 2024-05-02", raw=f"{first.parent / 'raw'} {tmp_path / 'second'}")
    header = fits.getheader(tmp_path / "out/coadd/NGC_6888-R.fits")
    one = fits.getheader(first / "coadd/NGC_6888-R.fits")
    assert header["NCOMBINE"] == one["NCOMBINE"] + 1 and header["MJD-OBS"] > one["MJD-OBS"]
    assert len(list((tmp_path / "out/masters").glob("flat-R-*"))) == 2


def test_lights_alone_make_a_night(first, tmp_path):
    (tmp_path / "raw").mkdir()
    for path in (first.parent / "raw").glob(f"{NAME}*-R-*"):
        (tmp_path / "raw" / path.name).symlink_to(path)
    make(tmp_path / "out", raw=tmp_path / "raw")
    assert fits.getheader(tmp_path / "out/coadd/NGC_6888-R.fits")["NCOMBINE"] >= 2
    assert "no bias found" in (tmp_path / "out/frames.ecsv").read_text()


def test_hopeless_frames_get_a_verdict_and_the_night_goes_on(first, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(first.parent / "raw", raw)
    names = [p for p in sorted(raw.glob(f"{NAME}*-R-*"))]
    names[0].write_bytes(names[0].read_bytes()[:100000])  # cut short
    with fits.open(names[1], mode="update") as hdus:  # nothing but noise: no stars
        hdus[0].data = np.random.default_rng(1).normal(1500, 9, hdus[0].shape).astype("u2")
    name = "raw-T05-user-it's $(shell touch hacked); `touch hacked` #1-20240502-030000-R-BIN1-E-120-009.fit"
    header = fits.getheader(names[2])
    header["OBJECT"], header["DATE-OBS"] = "$(shell touch hacked)<script>", "2024-05-02T10:00:00"
    fits.PrimaryHDU(fits.getdata(names[2]), header).writeto(raw / name)
    done = make(out, raw=raw)
    quality = {str(r["name"]): r for r in Table.read(out / "quality.csv")}
    assert quality[names[0].stem]["verdict"] == "reject" and "cut short" in quality[names[0].stem]["reason"]
    assert quality[names[1].stem]["verdict"] == "reject" and quality[names[1].stem]["reason"]
    assert (out / "coadd/NGC_6888-R.fits").exists() and names[0].stem in done.stdout + done.stderr
    page = (out / "report.html").read_text()
    assert names[0].stem in page and "<script>" not in page and not list(tmp_path.rglob("hacked")) and not (TOP / "hacked").exists()


@pytest.fixture
def bench(first, tmp_path):
    """A folder with what the README's snippets name: raw frames with a gain in their headers, and masters; and apfunc on PATH."""
    for names, kind in ((("bias",), "bias"), (("dark",), "dark"), (("f", "flat"), "flat-R"), (("b", "badpix"), "badpix")):
        for name in names:
            shutil.copy(next((first / "masters").glob(f"{kind}-*.fits")), tmp_path / f"{name}.fits")
    (tmp_path / "raw").mkdir()
    for path in sorted((first.parent / "raw").glob(f"{NAME}*-R-*")):
        data, header = fits.getdata(path, header=True)
        header["EGAIN"], header["RDNOISE"] = 1.4, 8.0
        fits.PrimaryHDU(data, header).writeto(tmp_path / "raw" / path.name)
    shutil.copy(tmp_path / "raw" / path.name, tmp_path / "raw.fit")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apfunc").write_text(f'#!/bin/sh\nexec {sys.executable} -m apfunc -q "$@"\n')
    (tmp_path / "bin/apfunc").chmod(0o755)
    run_in(tmp_path, "apfunc", "combine", f"{first.parent / 'raw'}/*Dark*", "-o", "d.fits")  # one that still holds the bias
    return tmp_path


def run_in(folder, *command):
    env = os.environ | {"PYTHONPATH": str(TOP), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_readmes_snippets_run_and_agree(bench):
    readme = (TOP / "README.md").read_text()
    shell, python = ("\n".join(re.findall(rf"```{kind}\n(.*?)```", readme, re.S)) for kind in ("sh", "python"))
    run_in(bench, "sh", "-ec", shell.splitlines()[0])
    (bench / "clean.fits").rename(bench / "piped.fits")
    run_in(bench, "sh", "-ec", shell)
    assert (bench / "clean.fits").read_bytes() == (bench / "piped.fits").read_bytes()
    assert len(list((bench / "calibrated").iterdir())) == 3
    run_in(bench, sys.executable, "-c", python)
    assert np.isfinite(read(bench / "clean.fits")[0]).mean() > 0.99


def test_the_examples_run(bench, first):
    masters = [bench / f"{name}.fits" for name in ("badpix", "bias", "dark", "flat")]
    run_in(bench, sys.executable, TOP / "examples/compose.py", *masters, *sorted((bench / "raw").iterdir()))
    assert read(bench / "stack.fits")[1]["NCOMBINE"] == 3
    (bench / "calibration").mkdir()
    for path in (first.parent / "raw").glob("*.fit"):
        if "Bias" in path.name or "Dark" in path.name or "_R_" in path.name:  # of flats, those of the light's filter
            (bench / "calibration" / path.name).symlink_to(path)
    run_in(bench, "sh", TOP / "examples/pipe.sh", bench / "calibration", bench / "raw.fit")
    assert len(Table.read(bench / "stars.ecsv", format="ascii.ecsv")) > 20
