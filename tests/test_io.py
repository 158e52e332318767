"""Images, planes and tables survive the disk; a file is whole or not there."""

import gzip
import io as memory
import os
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from apfunc import io
from apfunc.tables import read_columns, read_records, read_stars, read_table, write_table

RAMP = np.arange(12 * 9, dtype=np.uint16).reshape(12, 9) + 65000


@pytest.fixture
def raw(tmp_path):
    fits.PrimaryHDU(RAMP, fits.Header({"OBJECT": "M 1"})).writeto(tmp_path / "raw.fit")
    return tmp_path / "raw.fit"


@pytest.mark.parametrize("form", ["plain", "gz", "fz"])
def test_read_gives_native_float32_whatever_the_file(raw, form):
    path = raw
    if form == "gz":
        path = raw.with_suffix(".fit.gz")
        path.write_bytes(gzip.compress(raw.read_bytes()))
    if form == "fz":
        path = raw.with_suffix(".fz")
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(RAMP, fits.Header({"OBJECT": "M 1"}))]).writeto(path)
    data, header = io.read(path)
    assert data.dtype == np.dtype("f4") and data.dtype.isnative and np.array_equal(data, RAMP)
    assert header["OBJECT"] == "M 1" and header["RAWFILE"] == path.name and not {"BZERO", "BSCALE", "ZIMAGE"} & set(header)
    rows, _ = io.read_rows(path)
    assert np.array_equal(rows[3:7], RAMP[3:7]) and rows.shape == RAMP.shape


def test_write_then_read_is_the_same_and_the_bytes_are_too(tmp_path, raw):
    image = io.read(raw)
    planes = {"MASK": (RAMP > 65050).astype("u1"), "WEIGHT": np.sqrt(RAMP.astype("f4"))}
    io.write(tmp_path / "a.fits", image, planes)
    again, planes_again = io.read_all(tmp_path / "a.fits")
    assert np.array_equal(again[0], image[0]) and all(np.array_equal(planes[k], planes_again[k]) for k in planes)
    io.write(tmp_path / "b.fits", again, planes_again)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


@pytest.mark.parametrize("content, complaint", [(b"", "empty"), (b"hello" * 1000, "not a FITS"), (None, "cut short")])
def test_unreadable_files_say_so(tmp_path, raw, content, complaint):
    path = tmp_path / "bad.fits"
    whole = tmp_path / "whole.fits"
    fits.PrimaryHDU(np.zeros((200, 200), "f4")).writeto(whole)
    path.write_bytes(whole.read_bytes()[:20000] if content is None else content)
    with pytest.raises(ValueError, match=complaint):
        io.read(path)


@pytest.mark.parametrize("shape", [(5,), (3, 4, 5)])
def test_other_dimensions_are_refused(tmp_path, shape):
    fits.PrimaryHDU(np.zeros(shape, "f4")).writeto(tmp_path / "x.fits")
    with pytest.raises(ValueError, match="no 2-D image"):
        io.read(tmp_path / "x.fits")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), io.replacing(target) as temporary:
        open(temporary, "w").write("half")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


def test_write_text_only_if_changed_keeps_the_time(tmp_path):
    target = tmp_path / "x"
    assert io.write_text(target, "a")
    os.utime(target, (1, 1))
    assert not io.write_text(target, "a", only_if_changed=True) and target.stat().st_mtime == 1
    assert io.write_text(target, "b", only_if_changed=True) and target.stat().st_mtime > 1


def test_stdin_may_be_gzipped(monkeypatch, raw):
    stream = memory.TextIOWrapper(memory.BytesIO(gzip.compress(raw.read_bytes())))
    monkeypatch.setattr(sys, "stdin", stream)
    assert np.array_equal(io.read("-")[0], RAMP)


@pytest.mark.parametrize("ending", ["fits", "ecsv", "csv"])
def test_tables_survive(tmp_path, ending):
    table = Table({"x": [1.5, 2.5], "name": ["a", "b"]})
    write_table(tmp_path / f"t.{ending}", table)
    again = read_table(tmp_path / f"t.{ending}")
    assert list(again["x"]) == [1.5, 2.5] and list(again["name"]) == ["a", "b"]


def test_records_are_the_rows_of_any_table(tmp_path):
    table = Table({"camera": ["a b", "say \"c\""], "gain": [1.25, np.nan], "n": [3, 4]}, meta={"SOURCE": "x # y"})
    for ending in ("ecsv", "csv", "fits"):
        write_table(tmp_path / f"t.{ending}", table)
        rows = read_records(tmp_path / f"t.{ending}")
        assert [str(row["camera"]) for row in rows] == list(table["camera"])
        assert np.array_equal([float(row["gain"] or "nan") for row in rows], table["gain"], equal_nan=True)
        assert [int(row["n"]) for row in rows] == [3, 4]
    Table({"camera": ["a"], "gain": np.ma.array([1.0], mask=[True])}).write(tmp_path / "m.ecsv")
    assert read_records(tmp_path / "m.ecsv") == [{"camera": "a", "gain": None}]
    Table({"camera": ["a"], "gain": [2.0]}).write(tmp_path / "d.ecsv", delimiter=",")
    assert [float(row["gain"]) for row in read_records(tmp_path / "d.ecsv")] == [2.0]
    (tmp_path / "n.csv").write_text("name,n,x,reason\n0012,7,1e-3,\n0013,-8,,clouded\n")  # frames may be numbered
    assert read_records(tmp_path / "n.csv") == [{"name": "0012", "n": 7, "x": 0.001, "reason": None},
                                                {"name": "0013", "n": -8, "x": None, "reason": "clouded"}]
    (tmp_path / "e.ecsv").write_bytes(b"SIMPLE")
    with pytest.raises(ValueError, match="not a table"):
        read_records(tmp_path / "e.ecsv")


@pytest.mark.parametrize("kind", ["f4", "u1", "u2", "i2", "gz", "fz", "second"])
def test_thin_pixels_are_those_of_the_image(tmp_path, kind):
    data = (np.arange(60 * 90).reshape(60, 90) % 200).astype(kind if kind[1].isdigit() else "f4")
    image = {"fz": fits.CompImageHDU, "second": fits.ImageHDU}.get(kind, fits.PrimaryHDU)(data, fits.Header({"OBJECT": "M 1"}))
    hdus = fits.HDUList([image] if kind not in ("fz", "second") else [fits.PrimaryHDU(), image])
    hdus.writeto(path := tmp_path / ("a.fits.gz" if kind == "gz" else "a.fits"))
    for size, step in ((None, 1), (30, 3), (200, 1)):
        found, header = io.read_thin(path, size)
        np.testing.assert_array_equal(found, data[::step, ::step])
        assert header["OBJECT"] == "M 1" and (found.dtype == "f4" or size is None)
    if kind in ("f4", "u1"):
        os.truncate(path, 4000)
        with pytest.raises(ValueError, match="cut short"):
            io.read_thin(path)


def test_columns_are_those_of_astropy(tmp_path):
    rng = np.random.default_rng(5)
    table = Table({"x": rng.normal(size=7), "flux": rng.normal(size=7).astype("f4"), "id": np.arange(7, dtype="i4"),
                   "flags": np.arange(7, dtype="i2"), "name": list("abcdefg"),
                   "who": ["one", "four"] * 3 + [""]})
    table.meta = {"FWHM": 3.5, "NAXIS1": 100}
    write_table(tmp_path / "t.fits", table)
    columns, header = read_columns(tmp_path / "t.fits")
    assert header["FWHM"] == 3.5 and header["IMAGEW"] == 100 and list(columns.dtype.names) == table.colnames
    for name in table.colnames:
        np.testing.assert_array_equal(columns[name].astype(table[name].dtype), table[name])
    io.write(tmp_path / "i.fits", (np.zeros((2, 2), "f4"), fits.Header()))
    with pytest.raises(ValueError, match="not a table"):
        read_columns(tmp_path / "i.fits")


def test_odd_header_cards_do_not_cost_the_frame(tmp_path):
    path = tmp_path / "odd.fits"
    hdu = fits.PrimaryHDU(np.ones((4, 4), "i2"), fits.Header({"AAA": 1, "OBJECT": "x"}))
    hdu.writeto(path)
    path.write_bytes(path.read_bytes().replace(b"AAA     =                    1", b"AAA     =                  nan"))
    data, header = io.read(path)
    assert header["OBJECT"] == "x" and data.sum() == 16
    io.write(tmp_path / "out.fits", (data, header))
    assert io.read(tmp_path / "out.fits")[1]["OBJECT"] == "x"


def test_write_like_gives_the_bytes_of_write(tmp_path):
    data, mask = np.arange(12, dtype="f4").reshape(3, 4), np.eye(3, 4, dtype="u1")
    header = fits.Header({"OBJECT": "M1", "RAWFILE": "a.fit"})
    for name, planes in (("plain", {}), ("masked", {"MASK": mask}), ("all", {"MASK": mask, "WEIGHT": data})):
        io.write(tmp_path / f"{name}.fits", (data, header), planes)
        new = io.read_header(tmp_path / f"{name}.fits")[0]
        new["CRVAL1"] = 12.5
        io.write_like(tmp_path / "copied.fits", tmp_path / f"{name}.fits", new)
        io.write(tmp_path / "written.fits", (data, new), planes)
        assert (tmp_path / "copied.fits").read_bytes() == (tmp_path / "written.fits").read_bytes()
    fits.PrimaryHDU(data.astype("i2")).writeto(tmp_path / "integers.fits")  # not ours: read and written
    io.write_like(tmp_path / "copied.fits", tmp_path / "integers.fits", header)
    assert np.array_equal(io.read(tmp_path / "copied.fits")[0], data)
    shape_only, said = io.unread(tmp_path / "masked.fits")
    assert shape_only.shape == (3, 4) and said["OBJECT"] == "M1"


def test_write_gives_the_bytes_of_astropy(tmp_path):
    header = fits.Header({"OBJECT": "M1"})
    for data, planes in ((RAMP.astype("f4"), {}), (RAMP.astype("f4"), {"MASK": RAMP.astype("u1"), "WEIGHT": RAMP.astype("f4")}),
                         (RAMP.astype("u1"), {}), (None, {})):
        io.write(tmp_path / "ours.fits", (data, header), planes)
        io.hdus_of((data, header), planes).writeto(tmp_path / "astropys.fits", overwrite=True)
        assert (tmp_path / "ours.fits").read_bytes() == (tmp_path / "astropys.fits").read_bytes()


def test_star_tables_that_are_not_plain_are_read_by_astropy_and_cut_ones_refused(tmp_path):
    plain, scaled = tmp_path / "plain.fits", tmp_path / "scaled.fits"
    fits.BinTableHDU.from_columns([fits.Column("x", "D", array=np.arange(5.0))]).writeto(plain)
    counts = fits.Column("n", "I", bzero=32768, array=np.array([0, 1, 65535], "u2"))
    fits.BinTableHDU.from_columns([counts]).writeto(scaled)
    assert read_columns(plain)[0]["x"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="scaled"):
        read_columns(scaled)
    assert list(read_stars(scaled)["n"]) == [0, 1, 65535]
    cut = tmp_path / "cut.fits"
    cut.write_bytes(plain.read_bytes()[:2 * 2880 + 16])
    with pytest.raises(ValueError, match="cut short"):
        read_columns(cut)
