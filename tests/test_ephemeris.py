"""The sky's numbers against astropy and astroplan, over random dates, sites and targets."""

import math
import random
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import TETE, AltAz, EarthLocation, SkyCoord, get_body
from astropy.time import Time
from astropy.utils import iers

from apfunc.ephemeris import airmass, earth_rotation, ephemeris, julian_date

ARCSEC = 1 / 3600
AGREEMENT = {  # what the two may differ by, in the keyword's unit, and the period of an angle
    "LST": (0.005 / 3600, 24),
    "OBJCTALT": (0.2 * ARCSEC, 360),
    "OBJCTHA": (0.04 / 3600, 24),  # times the secant of the declination: polar motion is in ours, not in the oracle's
    "OBJCTAZ": (0.3 * ARCSEC, 360),
    "PARANG": (0.005, 360),
    "BJD-MID": (0.001 / 86400, math.inf),
    "MOONALT": (3 * ARCSEC, 360),
    "MOONSEP": (3 * ARCSEC, 360),
    "SUNALT": (0.5 * ARCSEC, 360),
    "MOONPHAS": (0.0002, math.inf),
}
KEYS = {*AGREEMENT, "AIRMASS"}


def oracle(time, ra, dec, latitude, longitude, elevation):
    """The same numbers by the classes of astropy and astroplan, on the tables they carry."""
    astroplan = pytest.importorskip("astroplan")
    with (
        warnings.catch_warnings(),
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
    ):
        warnings.simplefilter("ignore")
        location = EarthLocation.from_geodetic(longitude * u.deg, latitude * u.deg, elevation * u.m)
        time = Time(time, scale="utc", location=location)
        star, horizon = SkyCoord(ra * u.deg, dec * u.deg), AltAz(obstime=time, location=location)
        moon, sun, seen = (b.transform_to(horizon) for b in (get_body("moon", time), get_body("sun", time), star))
        of_date = star.transform_to(TETE(obstime=time, location=location))
        sidereal = time.sidereal_time("apparent")
        observer = astroplan.Observer(location=location)
        parallactic = observer.parallactic_angle(time, SkyCoord(of_date.ra, of_date.dec), kind="apparent")
        return {
            "LST": sidereal.hour,
            "OBJCTALT": seen.alt.deg,
            "OBJCTAZ": seen.az.deg,
            "OBJCTHA": (sidereal - of_date.ra).wrap_at(180 * u.deg).hour,
            "PARANG": parallactic.deg,
            "BJD-MID": (time.tdb + time.light_travel_time(star, "barycentric")).jd,
            "MOONALT": moon.alt.deg,
            "MOONSEP": seen.separation(moon).deg,
            "SUNALT": sun.alt.deg,
            "MOONPHAS": astroplan.moon_illumination(time),
        }


def situations(seed, count, years):
    """Random arguments of `ephemeris`, between two years."""
    draw = random.Random(seed)
    for _ in range(count):
        time = datetime(years[0], 1, 1) + timedelta(days=draw.uniform(0, 365.25 * (years[1] - years[0])))
        target = draw.uniform(0, 360), math.degrees(math.asin(draw.uniform(-1, 1)))
        yield time, *target, draw.uniform(-75, 75), draw.uniform(-180, 180), draw.uniform(0, 4500)


def difference(found, wanted, key):
    period = AGREEMENT[key][1]
    distance = abs(found[key] - wanted[key])
    return min(distance, period - distance)


def test_agrees_with_astropy_and_astroplan():
    for situation in situations(1, 30, (1995, 2026)):
        found, wanted = ephemeris(*situation), oracle(*situation)
        assert set(found) | {"AIRMASS"} == KEYS and all(type(value) is float for value in found.values())
        secants = {
            "OBJCTAZ": 1 / math.cos(math.radians(wanted["OBJCTALT"])),
            "OBJCTHA": 1 / math.cos(math.radians(situation[2])),
            "PARANG": 1 / math.cos(math.radians(situation[2])) / math.cos(math.radians(wanted["OBJCTALT"])),
        }
        for key, (limit, _) in AGREEMENT.items():
            assert difference(found, wanted, key) < limit * secants.get(key, 1), (key, situation)
        if wanted["OBJCTALT"] > 10:
            assert found["AIRMASS"] == pytest.approx(airmass(wanted["OBJCTALT"]), abs=1e-5)


def test_after_the_last_prediction_it_is_as_good_as_ut1_is_near_utc():
    for situation in situations(2, 4, (2029, 2031)):
        found, wanted = ephemeris(*situation), oracle(*situation)
        assert difference(found, wanted, "LST") < 0.9 / 3600
        assert difference(found, wanted, "OBJCTALT") < 14 * ARCSEC
        assert difference(found, wanted, "BJD-MID") < 0.001 / 86400


def test_earth_rotation_is_the_day_s_line_of_the_table():
    table = iers.IERS_A.open(iers.IERS_A_FILE)
    for mjd in (41684.0, 50123.75, 57753.99, 57754.0, 60000.5):
        row = table[int(mjd) - 41684]
        assert row["MJD"].value == math.floor(mjd)
        ut1_utc, x, y = earth_rotation(mjd)
        assert ut1_utc == row["UT1_UTC_A"].value
        assert [math.degrees(x) * 3600, math.degrees(y) * 3600] == pytest.approx(
            [row["PM_x_A"].value, row["PM_y_A"].value]
        )
    assert earth_rotation(41683.9) == earth_rotation(0) == earth_rotation(99999) == (0, 0, 0)
    last = table["MJD"][-1].value  # astropy leaves out the lines that are not filled yet
    assert earth_rotation(last)[0] != 0 and earth_rotation(last + 1) == (0, 0, 0)


def test_a_leap_second_does_not_turn_the_earth():
    """Half a second before midnight and half after are two seconds apart, on the last day of 2016."""
    place = 0.0, 0.0, 30.0, 0.0, 0.0
    before, after = (ephemeris(datetime(2017, 1, 1) + timedelta(seconds=s), *place)["LST"] for s in (-0.5, 0.5))
    assert (after - before) * 3600 == pytest.approx(2 * 1.0027379, abs=0.004)


def test_julian_date_of_any_clock():
    time = datetime(2025, 6, 2, 4, 52, 13, 298000)
    assert sum(julian_date(time)) == Time(time).jd
    assert sum(julian_date(datetime(2000, 1, 1, 12))) == 2451545
    east = time.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=9.5)))
    assert julian_date(east) == julian_date(time)


def test_what_is_not_known_is_left_out():
    time = datetime(2025, 6, 2)
    assert set(ephemeris(time)) == {"MOONPHAS"}
    assert set(ephemeris(time, latitude=30, longitude=10)) == {"MOONPHAS", "LST", "MOONALT", "SUNALT"}
    centre, seen = ephemeris(time, 240, 28), ephemeris(time, 240, 28, 30, 10, 2000)
    assert set(centre) == {"MOONPHAS", "BJD-MID"} and set(seen) | {"AIRMASS"} == KEYS
    assert centre["BJD-MID"] == pytest.approx(seen["BJD-MID"], abs=0.022 / 86400)


def test_poles_and_far_years_give_numbers():
    for time in (datetime(1860, 1, 1), datetime(1975, 6, 1), datetime(2400, 12, 31, 23, 59, 59)):
        for dec in (-90.0, 0.0, 90.0):
            for latitude in (-90.0, 0.0, 90.0):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    found = ephemeris(time, 359.999, dec, latitude, 180.0, 0.0)
                assert np.isfinite(list(found.values())).all()
                assert 0 <= found["LST"] < 24 and 0 <= found["OBJCTAZ"] <= 360 and 0 <= found["MOONPHAS"] <= 1
    pole = ephemeris(datetime(2000, 1, 1), 0.0, 90.0, 40.0, 0.0, 0.0)
    assert pole["OBJCTALT"] == pytest.approx(40, abs=0.02)


def test_airmass_is_near_the_formulas_of_others_and_valid_at_the_horizon():
    for altitude in np.arange(15, 91, 5.0):
        apparent = altitude + 1.02 / 60 / math.tan(math.radians(altitude + 10.3 / (altitude + 5.11)))
        kasten = 1 / (math.sin(math.radians(apparent)) + 0.50572 * (apparent + 6.07995) ** -1.6364)
        assert airmass(altitude) == pytest.approx(kasten, abs=0.002)
    assert airmass(90.0) == pytest.approx(1, abs=1e-4)
    assert 30 < airmass(0.0) < 40
    assert airmass(-0.1) is None


def test_no_import_costs_more_than_the_numbers():
    code = (
        "import sys, datetime, astropy.io.fits; from apfunc.ephemeris import ephemeris;"
        "ephemeris(datetime.datetime(2025, 1, 1), 1., 2., 3., 4., 5.);"
        "print({'astropy.time', 'astropy.coordinates', 'astropy.utils.iers', 'astroplan', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
