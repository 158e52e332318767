"""The plan of a night: which frame is what, which masters serve it, what is left out and why."""

import os
import re
import zipfile

import numpy as np
import pytest
from astropy.io import fits

from apfunc.cli_night import INVENTORY, inventory
from apfunc import batch, ingest, plan, rules

NIGHT = "2024-05-01"
HOSTILE = ["$(shell touch x)", "a;touch x", "`touch x`", "a b", "x#y", "100%", "$x", "../../up", "-rf", "it's \"q\"", "a:b", "a|b", "a&b", "*", "~"]


def frame(folder, name, kind="Light Frame", date="2024-05-02T04:00:00", **cards):
    """A small raw frame as MaxIm DL writes it."""
    header = fits.Header({"IMAGETYP": kind, "DATE-OBS": date, "EXPTIME": 60.0, "CCD-TEMP": -20.0, "XBINNING": 1, "YBINNING": 1,
                          "INSTRUME": "cam", "SITELAT": "32 54 11", "SITELONG": "-105 31 43"})
    for key, value in cards.items():
        header[key.replace("_", "-")] = value
        if value is None:
            del header[key.replace("_", "-")]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(np.zeros((8, 8), np.uint16), header).writeto(path, overwrite=True)
    return path


def planned(folder, out, night=NIGHT, *more):
    files, ignored = ingest.find([folder, *more])
    frames, groups = plan.plan(ingest.ingest(files, out / "raw", {}), night)
    return {f["name"]: f for f in frames}, groups


def calibration(folder, exptimes=(60,), filters=("R",), date="2024-05-02T02:{:02d}:00"):
    for i in range(3):
        frame(folder, f"bias-{i}.fit", "Bias Frame", date.format(i), EXPTIME=0.037)
        for t in exptimes:
            frame(folder, f"dark-{t}-{i}.fit", "Dark Frame", date.format(10 + i), EXPTIME=float(t) - 0.001 * i)
        for f in filters:
            frame(folder, f"flat-{f}-{i}.fit", "Flat Field", date.format(20 + i), EXPTIME=3.0 + i, FILTER=f)


@pytest.mark.parametrize("word, kind", [("Light Frame", "light"), ("LIGHT", "light"), ("object", "light"), ("Bias", "bias"), ("zero", "bias"),
                                        ("Dark Frame", "dark"), ("Flat Field", "flat"), ("FLAT", "flat"), ("Master Dark", "dark"),
                                        ("DARKFLAT", "dark"), ("Flat Dark", "dark"), ("sky flat", "flat"), ("", None), ("test", None)])
def test_imagetyp_in_all_its_spellings(word, kind):
    assert ingest.kind_of(word) == kind


def test_the_night_gets_its_masters(tmp_path):
    calibration(tmp_path / "raw")
    frame(tmp_path / "raw", "m1.fit", OBJECT="M 1", FILTER="R")
    frames, groups = planned(tmp_path / "raw", tmp_path / "out")
    assert {groups[m]["kind"]: len(groups[m]["frames"]) for m in frames["m1"]["masters"].split()} == {"bias": 3, "dark": 3, "flat": 3}
    assert frames["m1"]["target"] == "M_1" and "same night" in frames["m1"]["reason"]
    assert sum(f["used"] for f in frames.values()) == 10


def test_near_exposures_are_one_group_and_lone_ones_fall_back(tmp_path):
    calibration(tmp_path / "raw", exptimes=(300,))
    for name, seconds in (("a", 300.2), ("b", 299.9), ("c", 120.0)):
        frame(tmp_path / "raw", f"{name}.fit", EXPTIME=seconds, FILTER="B", OBJECT="x", date=f"2024-05-02T05:0{ord(name) % 9}:00")
    frames, groups = planned(tmp_path / "raw", tmp_path / "out")
    assert sum(g["kind"] == "dark" for g in groups.values()) == 1
    assert "scaled by 0.4" in frames["c"]["reason"] and "scaled" not in frames["a"]["reason"]
    assert "no flat of B found" in frames["a"]["reason"]


def test_degrades_in_the_stated_order_and_says_so(tmp_path):
    frame(tmp_path / "raw", "only.fit", FILTER="R", OBJECT="x")
    frames, groups = planned(tmp_path / "raw", tmp_path / "out")
    assert not groups and frames["only"]["reason"] == ("no bias found: none subtracted; no dark found: none subtracted; "
                                                      "no flat of R found: not flat-fielded")


def test_hard_keys_must_agree(tmp_path):
    calibration(tmp_path / "raw")
    frame(tmp_path / "raw", "other.fit", FILTER="R", OBJECT="x", INSTRUME="another")
    frame(tmp_path / "raw", "binned.fit", FILTER="R", OBJECT="x", XBINNING=2, YBINNING=2, date="2024-05-02T05:00:00")
    frames, groups = planned(tmp_path / "raw", tmp_path / "out")
    assert not groups and frames["other"]["masters"] == frames["binned"]["masters"] == ""


def test_of_two_nights_of_flats_the_nearest_serves(tmp_path):
    for day in ("2024-04-20", "2024-05-04"):
        for i in range(3):
            frame(tmp_path / "raw", f"flat-{day}-{i}.fit", "FLAT", f"{day}T02:0{i}:00", FILTER="R")
    frame(tmp_path / "raw", "x.fit", FILTER="R", OBJECT="x")
    frames, groups = planned(tmp_path / "raw", tmp_path / "out")
    assert "2 days later" in frames["x"]["reason"]
    assert "not needed" in frames["flat-2024-04-20-0"]["reason"]


def test_a_pool_of_nights_gives_the_night_asked_for_or_lists_them(tmp_path):
    for day in ("01", "02", "03"):
        frame(tmp_path / "raw", f"x{day}.fit", date=f"2024-05-{day}T05:00:00", OBJECT="x", FILTER="R")
    frames, _ = planned(tmp_path / "raw", tmp_path / "out", "2024-05-01")
    assert [n for n, f in frames.items() if f["used"]] == ["x02"] and "another night (2024-04-30)" in frames["x01"]["reason"]
    with pytest.raises(ValueError, match="2024-04-30, 2024-05-01, 2024-05-02"):
        planned(tmp_path / "raw", tmp_path / "out", "2023-01-01")


def test_lights_of_one_night_are_the_night_whatever_its_label(tmp_path):
    frame(tmp_path / "raw", "x.fit", OBJECT="x", FILTER="R")
    frames, _ = planned(tmp_path / "raw", tmp_path / "out", "1999-01-01")
    assert frames["x"]["used"]


def test_raw_and_calibrated_copies_of_an_exposure_count_once(tmp_path):
    for state in ("raw", "calibrated"):
        frame(tmp_path / "raw", f"{state}-T05-u-M1-20240501-220000-R-BIN1-E-060-001.fit", OBJECT="", FILTER="R",
              **({"CALSTAT": "BDF"} if state == "calibrated" else {}))
    frames, _ = planned(tmp_path / "raw", tmp_path / "out")
    used = [f for f in frames.values() if f["used"]]
    assert [f["state"] for f in used] == ["raw"] and used[0]["object"] == "M1" and "object:name" in used[0]["origin"]


def test_calibrated_sets_enter_after_calibration(tmp_path):
    calibration(tmp_path / "raw")
    frame(tmp_path / "raw", "Calibrated-iTelescope-Whale_Galaxy_NGC_55-900s-Red-5.fits", kind="", date=None, OBJECT=None, FILTER="Red", GAIN=0.9)
    frames, groups = planned(tmp_path / "raw", tmp_path / "out")
    light = frames["Calibrated-iTelescope-Whale_Galaxy_NGC_55-900s-Red-5"]
    assert light["used"] and light["kind"] == "light" and not light["masters"] and light["object"] == "Whale_Galaxy_NGC_55"


def test_library_masters_are_used_as_they_are(tmp_path):
    frame(tmp_path / "raw", "x.fit", OBJECT="x", FILTER="Ha", EXPTIME=900.0)
    cal = tmp_path / "T05" / "Masters"
    frame(cal, "Darks/2024-04/Master_Dark_1_8x8_Bin1x1_Temp-20C_ExpTime900s.fit", "Master Dark", None, EXPTIME=900.0, CALSTAT="BM")
    frame(cal, "Flats/2024-04-02/Master_Flat_Ha_1_Ha_8x8_Bin1x1_Temp-20C_ExpTime4s.fit", "", None, CALSTAT="BDM")
    frame(cal, "Bias/2024-04/Master_Bias_1_8x8_Bin1x1_Temp-20C_ExpTime0s.fit", "Master Bias", None, EXPTIME=0.0, CALSTAT="M")
    frames, groups = planned(tmp_path / "raw", tmp_path / "out", NIGHT, tmp_path / "T05")
    assert sorted(groups[m]["kind"] for m in frames["x"]["masters"].split()) == ["bias", "dark", "flat"]
    assert all(g["master"] for g in groups.values()) and "library master" in frames["x"]["reason"]


def test_colliding_names_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        for i in range(2):
            frame(tmp_path / "raw" / folder, f"scope_Red_1x1_skyflat{i}.fit", "Flat Field", f"2024-05-02T02:0{i}:0{ord(folder) % 9}", FILTER="Red")
    frame(tmp_path / "raw", "x.fit", OBJECT="x", FILTER="R")
    frames, groups = planned(tmp_path / "raw", tmp_path / "out")
    assert len(frames) == 5 and len(next(iter(groups.values()))["frames"]) == 4


def test_what_cannot_be_read_is_named_and_left_out(tmp_path):
    raw = tmp_path / "raw"
    frame(raw, "good.fit", OBJECT="x", FILTER="R")
    (raw / "empty.fit").write_bytes(b"")
    (raw / "text.fits").write_text("no FITS at all")
    (raw / "cut.fit").write_bytes(frame(raw, "whole.fit", OBJECT="x", FILTER="R", date="2024-05-02T06:00:00").read_bytes()[:2890])
    (raw / "notes.txt").write_text("hello")
    fits.PrimaryHDU(np.zeros((3, 4, 5), "u2")).writeto(raw / "cube.fits")
    files, ignored = ingest.find([raw])
    frames, _ = planned(raw, tmp_path / "out")
    assert ignored == 1 and frames["good"]["used"]
    assert "empty" in frames["empty"]["reason"] and "not a FITS" in frames["text"]["reason"] and "2-D" in frames["cube"]["reason"]
    assert "cut short" in frames["cut"]["reason"] and frames["cut"]["used"]  # a light: it gets its row in the quality table


def test_zip_members_are_read_and_tricks_refused(tmp_path):
    raw = tmp_path / "raw"
    light = frame(tmp_path, "raw-T05-u-M1-20240501-220000-R-BIN1-E-060-001.fit", FILTER="R", OBJECT="")
    raw.mkdir()
    with zipfile.ZipFile(raw / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(light, "raw-T05-u-M1-20240501-220000-R-BIN1-E-060-001.fit")
        archive.write(light, "../../escape.fit")
        archive.writestr("bomb.fit", b"\0" * 30_000_000)
    frames, _ = planned(raw, tmp_path / "out")
    assert frames["raw-T05-u-M1-20240501-220000-R-BIN1-E-060-001"]["used"]
    assert "outside" in frames["escape"]["reason"] and "inflates" in frames["bomb"]["reason"]
    assert not (tmp_path.parent / "escape.fit").exists()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_harmless(tmp_path, text):
    calibration(tmp_path / "raw")
    frame(tmp_path / "raw", "n" + re.sub("/", "_", text) + ".fit", OBJECT=text, FILTER=text, INSTRUME="cam")
    frames, groups = planned(tmp_path / "raw", tmp_path / "out")
    frames_ = list(frames.values())
    made = rules.night_mk(frames_, groups, batch.batches(frames_), batch.batches(frames_, mixed=True))
    for line in made.splitlines()[1:]:
        assert re.fullmatch(r"[A-Za-z0-9_.+/ -]*:[A-Za-z0-9_.+/ -]*", line.replace("$(OUT)", "")), line
    assert ".." not in made and all(os.path.dirname(os.path.join("raw", n)) == "raw" for n in frames)


def test_only_changed_files_are_read_again(tmp_path, monkeypatch):
    raw, out, cache = tmp_path / "raw", tmp_path / "out", {}
    frame(raw, "a.fit", OBJECT="x", FILTER="R")
    frame(raw, "b.fit", OBJECT="x", FILTER="R")
    read = []
    describe = ingest.describe
    monkeypatch.setattr(ingest, "describe", lambda header, shape, path: read.append(path) or describe(header, shape, path))
    for _ in range(2):
        ingest.ingest(ingest.find([raw])[0], out / "raw", cache)
    assert len(read) == 2
    os.utime(raw / "b.fit", (1, 1))
    ingest.ingest(ingest.find([raw])[0], out / "raw", cache)
    assert len(read) == 3
    (raw / "a.fit").unlink()
    assert [r["name"] for r in ingest.ingest(ingest.find([raw])[0], out / "raw", cache)] == ["b"] and os.listdir(out / "raw") == ["b.fits"]


@pytest.mark.parametrize("exptime, bias, served", [(60, True, False), (30, True, True), (4, True, True), (60, False, False)])
def test_a_flat_takes_no_dark_of_ten_times_its_exposure(tmp_path, exptime, bias, served):
    """The flats last 4 s; without a bias to take off, a dark can only serve as it is."""
    calibration(tmp_path / "raw", (exptime,))
    frame(tmp_path / "raw", "m1.fit", OBJECT="M 1", FILTER="R", EXPTIME=float(exptime))
    if not bias:
        for path in (tmp_path / "raw").glob("bias*"):
            path.unlink()
    frames, groups = planned(tmp_path / "raw", tmp_path / "out")
    flat, = (g for g in groups.values() if g["kind"] == "flat")
    assert bool(flat["dark"]) == served and bool(flat["bias"]) == bias
    assert "dark" in {groups[m]["kind"] for m in frames["m1"]["masters"].split()}


def test_the_inventory_is_ecsv_as_astropy_writes_it(tmp_path):
    from astropy.table import Table
    frame = dict.fromkeys(INVENTORY, "a b") | {"name": 'say "c"', "object": "", "exptime": 30.5, "temp": None, "used": True}
    inventory(tmp_path / "frames.ecsv", [frame, frame | {"name": "Cat's\tEye", "exptime": None, "used": False}])
    table = Table.read(tmp_path / "frames.ecsv", format="ascii.ecsv")
    table.write(tmp_path / "again.ecsv", format="ascii.ecsv")
    assert (tmp_path / "frames.ecsv").read_text() == (tmp_path / "again.ecsv").read_text()
    assert list(table["name"]) == ['say "c"', "Cat's\tEye"] and str(table["exptime"].unit) == "s"
    assert list(table["temp"].mask) == [True, True] and list(table["used"]) == [True, False]
