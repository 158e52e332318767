"""Metadata against independent formulas of the almanac kind, and what happens when something is missing."""

import math

import numpy as np
import pytest
from astropy.io import fits

from apfunc.ephemeris import airmass
from apfunc.metadata import metadata

DATA = np.zeros((4, 4), "f4")


def frame(**cards):
    header = fits.Header()
    for key, value in {
        "OBJECT": "XO-1",
        "FILTER": "z",
        "DATE-OBS": "2025-06-02T04:51:43.298",
        "EXPTIME": 60.0,
        "OBJCTRA": "16 02 11.83",
        "OBJCTDEC": "+28 10 10.7",
        "SITELAT": "32 46 49",
        "SITELONG": "-105 49 13",
        "ALT-OBS": 2788.0,
        **{key.replace("_", "-"): value for key, value in cards.items()},
    }.items():
        if value is not None:
            header[key] = value
    return DATA, header


def almanac(mjd, ra, dec, lat, lon):
    """Altitude, azimuth, hour angle [deg]: mean sidereal time (IAU 1982, linear) and precession (Meeus), to 0.02
    degrees."""
    days = mjd - 51544.5
    ra += (3.07496 + 1.33621 * math.sin(math.radians(ra)) * math.tan(math.radians(dec))) / 240 * days / 365.25
    dec += 20.0431 / 3600 * math.cos(math.radians(ra)) * days / 365.25
    hour = math.radians((280.46061837 + 360.98564736629 * days + lon - ra) % 360)
    lat, dec = math.radians(lat), math.radians(dec)
    altitude = math.asin(math.sin(lat) * math.sin(dec) + math.cos(lat) * math.cos(dec) * math.cos(hour))
    azimuth = math.atan2(
        -math.cos(dec) * math.sin(hour), math.sin(dec) * math.cos(lat) - math.cos(dec) * math.sin(lat) * math.cos(hour)
    )
    parallactic = math.atan2(math.sin(hour), math.tan(lat) * math.cos(dec) - math.sin(dec) * math.cos(hour))
    return [
        math.degrees(a)
        for a in (altitude, azimuth % (2 * math.pi), (hour + math.pi) % (2 * math.pi) - math.pi, parallactic)
    ]


def test_geometry_agrees_with_the_almanac():
    _, header = metadata(frame())
    altitude, azimuth, hour, parallactic = almanac(header["MJD-MID"], 240.549292, 28.169639, 32.780278, -105.820278)
    assert header["OBJCTALT"] == pytest.approx(altitude, abs=0.02)
    assert header["OBJCTAZ"] == pytest.approx(azimuth, abs=0.05)
    assert header["OBJCTHA"] * 15 == pytest.approx(hour, abs=0.02)
    assert header["PARANG"] == pytest.approx(parallactic, abs=0.1)
    assert header["LST"] == pytest.approx((header["OBJCTHA"] + 16.0366 + 25.4 * 2.54 / 3600) % 24, abs=0.001)
    assert header["MJD-MID"] - header["MJD-OBS"] == pytest.approx(30 / 86400, abs=1e-9)
    assert header["MJD-OBS"] == pytest.approx(60828.2025844676, abs=1e-8)


def test_barycentric_time():
    """BJD(TDB) - JD(UTC) is 69.18 s (2025) plus the light time, at most 499 s; here from the Sun's ecliptic
    longitude."""
    _, header = metadata(frame())
    days = header["MJD-MID"] - 51544.5
    mean = math.radians(357.529 + 0.98560028 * days)
    sun = math.radians(280.459 + 0.98564736 * days + 1.915 * math.sin(mean) + 0.020 * math.sin(2 * mean))
    tilt, ra, dec = math.radians(23.436), math.radians(240.549292), math.radians(28.169639)
    earth = -np.array([math.cos(sun), math.sin(sun) * math.cos(tilt), math.sin(sun) * math.sin(tilt)]) * (
        1.00014 - 0.01671 * math.cos(mean)
    )
    star = np.array([math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)])
    want = header["MJD-MID"] + 2400000.5 + (69.18 + 499.005 * earth @ star) / 86400
    assert header["BJD-MID"] == pytest.approx(want, abs=6 / 86400)  # the Sun itself moves 4 s about the barycentre


def test_the_airmass_is_that_of_the_altitude():
    _, header = metadata(frame())
    assert header["AIRMASS"] == pytest.approx(airmass(header["OBJCTALT"]), abs=1e-6)


def test_full_moon_and_new_moon():
    full = metadata(frame(DATE_OBS="2024-01-25T17:54:00"))[1]
    new = metadata(frame(DATE_OBS="2024-04-08T18:21:00"))[1]
    assert full["MOONPHAS"] > 0.995 and new["MOONPHAS"] < 0.005
    assert new["MOONALT"] == pytest.approx(new["SUNALT"], abs=1.5)  # the day of a solar eclipse over America
    assert 0 <= full["MOONSEP"] <= 180


def test_the_site_comes_from_the_header_then_the_telescope_then_the_option():
    assert metadata(frame())[1]["SITESRC"] == "header"
    name = "raw-T31-user-NGC_6888-20200716-231744-Ha-BIN1-E-180-001.fit"
    blank = frame(SITELAT=None, SITELONG=" ", OBJECT="", FILTER=None, RAWFILE=name)
    _, header = metadata(blank, latitude=50, longitude=8)
    assert header["SITESRC"].startswith("iTelescope") and header["SITELAT"] == pytest.approx(-31.2733, abs=1e-3)
    assert (header["OBJECT"], header["OBJSRC"], header["FILTER"], header["TELESCOP"]) == (
        "NGC_6888",
        "file name",
        "Ha",
        "T31",
    )
    _, header = metadata(frame(SITELAT=None), latitude=50, longitude=8)
    assert header["SITESRC"] == "option" and header["SITELONG"] == 8
    _, header = metadata(frame(SITELAT=None))
    assert "AIRMASS" not in header and "no site" in header["METAWARN"] and header["BJD-MID"] > 2460828


def test_the_position_is_resolved_offline_by_name():
    pytest.importorskip("pyongc")
    _, header = metadata(frame(OBJECT="Cat's Eye Nebula", OBJCTRA=None, OBJCTDEC=None))
    assert (
        header["POSSRC"] == "name"
        and header["OBJCTRA"].startswith("17 58 33")
        and header["OBJCTDEC"].startswith("+66 37 5")
    )
    _, header = metadata(frame(OBJECT="nothing known", OBJCTRA=None, OBJCTDEC=None))
    assert "OBJCTALT" not in header and "no position" in header["METAWARN"] and "MOONALT" in header


def test_below_the_horizon_is_said():
    _, header = metadata(frame(DATE_OBS="2025-06-02T18:30:00", AIRMASS=13.37))
    assert "below the horizon" in header["METAWARN"] and "AIRMASS" not in header and header["OBJCTALT"] < 0


def test_a_header_without_a_date_keeps_what_it_has():
    _, header = metadata(frame(DATE_OBS=None, AIRMASS=1.3))
    assert header["AIRMASS"] == 1.3 and "no DATE-OBS" in header["METAWARN"] and "MJD-MID" not in header
    _, header = metadata(frame(DATE_OBS="yesterday", AIRMASS=float(0)))
    assert "AIRMASS" not in header


def test_pure_and_repeatable():
    data, header = frame()
    before = header.tostring()
    first, second = metadata((data, header))[1], metadata((data, header))[1]
    assert header.tostring() == before and first.tostring() == second.tostring()
    again = metadata((data, first))[1]
    assert {k: again[k] for k in again if k != "HISTORY"} == {k: first[k] for k in first if k != "HISTORY"}
    assert sum("apfunc metadata" in str(h) for h in first["HISTORY"]) == 1


def test_no_network_and_no_waiting(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    for date in ("2031-01-01T00:00:00", "1999-01-01T00:00:00"):
        assert metadata(frame(DATE_OBS=date))[1]["LST"] >= 0
