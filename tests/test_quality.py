"""Verdicts on frames whose faults are known: every bad frame out, no good one."""

import numpy as np
import pytest
from astropy.io.fits import Header
from astropy.table import Table

from apfunc.quality import COLUMNS, as_table, judged, quality, quality_row
from apfunc.tables import csv_text, read_columns, write_table


def light(name="a", filter="R", fwhm=3.0, flux=1.0, airmass=1.2, ellipticity=0.05, noise=10.0, sky=300.0, exptime=60.0,
          n=200, scale=True, seed=0, solved=True, ids=True, **header):
    """A header and a star table as a navigated frame has them; `flux`: transparency of its sky, extinction aside."""
    rng = np.random.default_rng(seed)
    true = 1e5 * np.arange(1, n + 1) ** -1.0 * exptime / 60
    seen = flux * 10 ** (-0.4 * 0.2 * (airmass - 1))
    values = true * seen * rng.normal(1, 0.01, n)
    stars = Table({"flux": values, "snr": values / noise / 10, "flags": np.zeros(n, int)})
    stars = stars[stars["snr"] > 5]
    if ids:
        stars["id"] = np.arange(len(stars))
    stars.meta |= {"FWHM": fwhm * airmass**0.6, "ELLIP": ellipticity, "SKY": sky, "SKYNOISE": noise, "SATFRAC": 0.0}
    h = Header()
    h["RAWFILE"], h["OBJECT"], h["FILTER"], h["EXPTIME"], h["AIRMASS"] = name + ".fit", "M 1", filter, exptime, airmass
    if solved:
        h["CTYPE1"], h["WCSRMS"], h["WCSRMSPX"], h["WCSNMATC"], h["PIXSCALE"] = "RA---TAN", 0.1, 0.1, 50, 1.0
    if scale:
        h["FLXSCALE"] = 1 / seen * 60 / exptime
    h.update(header)
    return quality_row(h, stars)


def verdicts(rows, **options):
    return quality(rows, **options)["verdict"].tolist()


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("n", [3, 5, 12])
def test_cloud_and_defocus_go_and_the_others_stay(n, scale, ids):
    rng = np.random.default_rng(n)
    for flux, blur in ((0.6, 1.6), (0.4, 2.0), (0.1, 4.0)):
        how = {"scale": scale, "ids": ids}
        rows = [light(f"g{i}", fwhm=3 * rng.uniform(0.95, 1.05), flux=rng.uniform(0.97, 1), seed=i, **how)
                for i in range(n - 2)]
        rows[1:1] = [light("cloud", flux=flux, seed=90, **how), light("blur", fwhm=3 * blur, seed=91, **how)]
        table = quality(rows)
        bad = [str(r["name"]) for r in table if r["verdict"] == "reject"]
        assert bad == ["cloud", "blur"]
        assert "cloud" in table["reason"][1] and "focus" in table["reason"][2]
        assert all(r["reason"] == "" for r in table if r["verdict"] == "accept")


@pytest.mark.parametrize("n", [2, 3, 4, 10, 40])
def test_what_drifts_is_not_rejected(n):
    """Seeing by 30 %, airmass by 0.5, haze by 10 %, a sky that grows five times brighter: all at once."""
    t = np.linspace(0, 1, n)
    rows = [light(f"a{i}", fwhm=3 * (1 + 0.3 * v), airmass=1.1 + 0.5 * v, flux=1 - 0.1 * v,
                  noise=10 * np.sqrt(1 + 4 * v), sky=300 * (1 + 4 * v), ellipticity=0.03 + 0.1 * v, seed=i) for i, v in enumerate(t)]
    assert verdicts(rows) == ["accept"] * n
    assert verdicts(rows[::-1]) == ["accept"] * n


def test_one_and_two_frames():
    assert verdicts([light()]) == ["accept"]
    assert quality([light()])["weight"][0] == 1
    assert verdicts([light(), light("b", fwhm=6.5)]) == ["accept", "reject"]
    assert verdicts([light("b", flux=0.3), light()]) == ["reject", "accept"]
    night = [light(f"n{i}", filter=f) for i, f in enumerate("RGB")]
    assert verdicts([*night, light("f", filter="Ha", fwhm=12)]) == ["accept"] * 3 + ["reject"]
    assert verdicts([*night, light("f", filter="Ha", fwhm=6)]) == ["accept"] * 3 + ["reject"]
    assert verdicts([*night, light("f", filter="Ha", fwhm=4.5)]) == ["accept"] * 4


def test_trailed_and_misplaced():
    good = [light(f"g{i}", seed=i) for i in range(3)]
    assert verdicts([*good, light("t", ellipticity=0.404)])[-1] == "reject"
    assert verdicts([light("t", ellipticity=0.404)]) == ["reject"]
    assert "trailed" in quality([*good, light("t", ellipticity=0.33)])["reason"][-1]
    assert verdicts([*good, light("t", ellipticity=0.2)])[-1] == "accept"
    assert "astrometric" in quality([*good, light("w", WCSRMS=2.0, WCSRMSPX=2.0)])["reason"][-1]


def test_frames_without_stars_or_solution_or_file():
    rows = [light("a"), light("u", solved=False), light("e", n=0, scale=False),
            {"name": "cut", "reason": "the file is cut short"}, {"name": "t", "object": "M 1", "filter": "R", "reason": "no solution: 2 stars"}, light("b")]
    table = quality(rows, keep=["u", "cut", "t"])
    assert table["verdict"].tolist() == ["accept"] + ["reject"] * 4 + ["accept"]
    assert table["reason"].tolist()[1:5] == [
        "no astrometric solution", "no stars found (cloud, closed dome, or far out of focus)", "the file is cut short",
        "no solution: 2 stars"]
    assert table["airmass"].mask.tolist() == [False, False, False, True, True, False]
    assert table["name"].tolist() == ["a", "u", "e", "cut", "t", "b"]


def test_by_hand():
    rows = [light("a-1"), light("a-2", fwhm=9), light("a-3")]
    table = quality(rows, keep=["a-2"], drop=["a-1.fit"])
    assert table["verdict"].tolist() == ["reject", "accept", "accept"]
    assert table["reason"][0] == "dropped by hand" and table["reason"][1].startswith("kept by hand (out of focus")
    assert verdicts(rows, drop=["a-*"], keep=["a-2"]) == ["reject"] * 3


def test_absolute_limits():
    rows = [light("a"), light("b", fwhm=3.6), light("c", sky=3000)]
    assert verdicts(rows, max_fwhm=3.7) == ["accept", "reject", "accept"]
    assert verdicts(rows, max_sky=20) == ["accept", "accept", "reject"]
    assert verdicts([light("a"), light("b", n=20)], min_stars=50) == ["accept", "reject"]
    assert verdicts([light("a", SATFRAC=0)]) == ["accept"]


def test_transparency_and_weight_are_those_of_the_sky():
    frames = {"a": {}, "b": {"flux": 0.85}, "c": {"exptime": 120}, "d": {"noise": 20}, "e": {"fwhm": 3.75}}
    for scale in (True, False):
        table = quality([light(n, scale=scale, seed=i, **k) for i, (n, k) in enumerate(frames.items())])
        assert np.allclose(table["transparency"], [1, 0.85, 1, 1, 1], atol=0.01)
        assert np.allclose(np.array(table["weight"]) / table["weight"][0], [1, 0.7225, 4, 0.25, 0.64], rtol=0.03)


def test_targets_and_filters_are_judged_apart():
    rows = [light("a", fwhm=3), light("b", fwhm=3), light("c", filter="Ha", fwhm=5),
            light("d", filter="Ha", fwhm=5, flux=0.2), light("e", filter="Ha", fwhm=5.2)]
    assert verdicts(rows) == ["accept", "accept", "accept", "reject", "accept"]


def test_the_table_is_the_contract(tmp_path):
    from apfunc.tables import read_table
    table = quality([light("a"), {"name": "b", "reason": "cut short"}])
    assert tuple(table.colnames) == COLUMNS
    write_table(tmp_path / "quality.csv", table)
    back = read_table(tmp_path / "quality.csv")
    assert back["verdict"].tolist() == ["accept", "reject"] and back["nstars"][0] == table["nstars"][0]
    assert len(quality([])) == 0 and tuple(quality([]).colnames) == COLUMNS


def test_text_of_the_rows_is_that_of_the_table(tmp_path):
    rows = judged([light("a", flux=1e-7), light("b, c", noise=1e7, seed=3), {"name": 'd "e" \'f\'', "reason": "cut, short"},
                   light("g", AIRMASS="", OBJECT="a;b")])
    for some in (rows, []):
        write_table(tmp_path / "quality.csv", as_table(some))
        assert csv_text(some, COLUMNS) == (tmp_path / "quality.csv").read_text()


def test_columns_by_name_do_as_well_as_a_table(tmp_path):
    rng = np.random.default_rng(9)
    stars = Table({"flux": rng.uniform(1, 9, 30), "snr": rng.uniform(1, 90, 30), "flags": np.arange(30) % 3, "id": np.arange(30)})
    stars.meta |= {"FWHM": 3.0, "ELLIP": 0.1, "SKY": 5.0, "SKYNOISE": 2.0, "TRAIL": 1}
    write_table(tmp_path / "s.fits", stars)
    for one, other in zip(quality_row(Header(), stars).values(), quality_row({}, *read_columns(tmp_path / "s.fits")).values()):
        np.testing.assert_array_equal(one, other)


def test_arguments_stay_and_unknown_is_unknown():
    row = light("a")
    before = dict(row)
    quality([row, light("b")])
    assert row.keys() == before.keys() and row["exptime"] == before["exptime"]
    stars = Table({"flux": [5.0], "snr": [8.0], "flags": [0]})
    bare = quality_row(Header({"CTYPE1": "RA---TAN"}), stars)
    assert bare["exptime"] is None and bare["fwhm_px"] is None
    table = quality([bare])
    assert table["verdict"][0] == "reject" and table["airmass"].mask[0] and "width" in table["reason"][0]
