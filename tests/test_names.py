"""What names say, and names that are safe."""

import pytest

from apfunc.names import band, parse, safe, stem


@pytest.mark.parametrize("name, expected", [
    ("raw-T05-user-NGC_6888-20200716-231744-Ha-BIN1-E-180-001.fit",
     dict(state="raw", telescope="T05", user="user", object="NGC_6888", date="20200716", time="231744", filter="Ha", binning=1, pier="E",
          exptime=180, number=1, kind="light")),
    ("raw-T30-a.b c-M 31 x-1_x1_y1-20200716-231744-Red-BIN2-W-300.5-012.fit.gz",
     dict(user="a.b c", object="M 31 x-1_x1_y1", filter="Red", binning=2, pier="W", exptime=300.5, number=12)),
    ("2021-02-14/calibrated-T11-u-2021-thing-20200716-231744-Blue-BIN1-E-60-001.fit", dict(state="calibrated", date="20200716", object="2021-thing")),
    ("Master_Dark_1_4008x2672_Bin1x1_Temp-15C_ExpTime900s.fit", dict(kind="dark", master=True, temp=-15, exptime=900, binning=1)),
    ("Master_Flat_Ha_1_Ha_2184x1472_Bin1x1_Temp-10C_ExpTime46s.fit", dict(kind="flat", master=True, filter="Ha", temp=-10)),
    ("T24-user-Dark-300-LD20250203-LT171434-BIN1.fit", dict(kind="dark", exptime=300, date="20250203", binning=1, telescope="T24")),
    ("FLI6303 -0001dark900secBin2.fit", dict(kind="dark", exptime=900, binning=2)),
    ("scope_Luminance_1x1_skyflat0.fit", dict(kind="flat", filter="Luminance", binning=1)),
    ("Calibrated-iTelescope-Whale_Galaxy_NGC_55-900s-Red-5.fits", dict(state="calibrated", object="Whale_Galaxy_NGC_55", exptime=900, filter="Red")),
    ("43Bet Com_z_20250602_033902.fits.fz", dict(object="43Bet Com", filter="z", kind="light", time="033902")),
    ("Bias_BIN1_20250601_025309.fits.fz", dict(kind="bias", binning=1)),
    ("domeflat_H-Alpha_001.fits.fz", dict(kind="flat", filter="H-Alpha")),
])
def test_parse_known_names(name, expected):
    found = parse(name)
    assert {k: found.get(k) for k in expected} == expected


def test_parse_says_nothing_of_other_names():
    assert parse("x.fit") == {} and parse("2021-02-14/image.fits") == {}


@pytest.mark.parametrize("aliases, expected", [
    ("H-Alpha ha Ha H_alpha halpha Ha_5nm Ha7nm", "Ha"), ("Luminance Lum L Clear", "L"), ("Red red R", "R"), ("r SDSS_r sloan-r rp", "r"),
    ("OIII O3 oiii", "OIII"), ("SII S2", "SII"), ("g sdss_g", "g"), ("Green G", "G"), ("V", "V"), ("I", "I"), ("i", "i"), ("NoSuch", "NoSuch")])
def test_band_is_tolerant_of_spelling(aliases, expected):
    assert {band(a) for a in aliases.split()} == {expected}


@pytest.mark.parametrize("text", ["$(shell touch x)", "a;b", "`id`", "a b", "x#y", "100%", "a\nb", "../../etc", "-rf", "", ".", "..", "é ü", "a'b\"c", "a:b=c", "\\", "x" * 500])
def test_safe_names_are_safe_for_make_shell_and_folders(text):
    name = safe(text)
    assert name and len(name) <= 150 and name[0] not in ".-" and set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")


def test_stem_knows_fits_extensions():
    assert [stem(n) for n in ("a/b.x.fits.fz", "b.FIT", "c.fts.gz", "d")] == ["b.x", "b", "c", "d"]
