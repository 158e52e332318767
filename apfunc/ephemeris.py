"""Where a target, the Moon and the Sun stood over a site: pure numbers, from ERFA.

ERFA is the library below astropy.coordinates (the IAU's SOFA routines in C).  It is called directly because every frame
is a process of its own: importing astropy.time, astropy.coordinates and astroplan and filling their tables takes 0.9 s
of CPU for these dozen numbers, ERFA 0.01 s (its import on top of astropy.io.fits: 0.004 s).  astropy and astroplan are
the oracle of the tests: over random dates from 1995 on, sites and targets, altitude agrees within 0.05 arcsec, airmass
within 1e-5 (above 10 degrees), LST within 3 ms, BJD within 0.2 ms, the Sun within 0.1 and the Moon within 1 arcsec, its
illuminated fraction within 1e-4.
"""

import math
import warnings
from datetime import UTC

DEGREE = math.pi / 180
ARCSEC = DEGREE / 3600
AU_DAYS = 499.004784 / 86400  # light time for one astronomical unit


def ephemeris(time, ra=None, dec=None, latitude=None, longitude=None, elevation=0.0):
    """A dict by FITS keyword of what is known of the sky at `time`.

    time: datetime, UTC.  ra, dec: ICRS [deg].  latitude, longitude (east positive) [deg, WGS 84], elevation [m].  What
    rests on a missing target or site is left out; a BJD without a site is that of the Earth's centre (20 ms at most).

    BJD-MID: barycentric Julian date, TDB [d]; MOONPHAS: illuminated fraction of the Moon; LST: apparent [h]; MOONALT,
    SUNALT, OBJCTALT: altitudes; OBJCTAZ: azimuth, north through east; OBJCTHA: hour angle [h], west positive; PARANG:
    parallactic angle, to the pole of date; MOONSEP: Moon to target; angles in degrees, all seen from the site, with
    aberration, parallax and polar motion but without refraction; AIRMASS (not below the horizon).

    Precession and nutation: IAU 2006/2000A.  Earth: ERFA's epv00 (to 12 km).  Moon: moon98 (Meeus 1998; to 10 arcsec).
    """
    import erfa

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)  # years whose leap seconds nobody knows
        found = _ephemeris(erfa, time, ra, dec, latitude, longitude, elevation)
    return {key: float(value) for key, value in found.items() if value is not None}


def _ephemeris(erfa, time, ra, dec, latitude, longitude, elevation):
    utc = julian_date(time)
    tt = erfa.taitt(*erfa.utctai(*utc))
    heliocentric, earth = (pv["p"] for pv in erfa.epv00(*tt))  # the Earth from the Sun, from the barycentre [au]
    moon = erfa.moon98(*tt)["p"]  # from the Earth [au]
    found = {"MOONPHAS": (1 + math.cos(erfa.sepp(-heliocentric - moon, -moon))) / 2}  # angle Sun - Moon - Earth
    star = None if ra is None else (ra * DEGREE, dec * DEGREE)
    if latitude is None:
        return found | ({} if star is None else {"BJD-MID": _bjd(erfa, tt, earth, star)})
    ut1_utc, pole_x, pole_y = earth_rotation(utc[0] - 2400000.5 + utc[1])
    site = longitude * DEGREE, latitude * DEGREE, elevation, pole_x, pole_y
    sky, origin = erfa.apco13(*utc, ut1_utc, *site, 0, 0, 0, 0.55)  # pressure 0: no refraction

    def horizon(place):
        """Azimuth, altitude, hour angle, declination [rad] of a place in the intermediate system of date."""
        azimuth, zenith, hour, declination, _ = erfa.atioq(*place, sky)
        return azimuth, math.pi / 2 - zenith, hour, declination

    observer = sky["eb"] - earth  # from the Earth's centre [au]
    sun = horizon(erfa.atciqz(*erfa.c2s(-sky["eh"]), sky))
    moon = horizon(erfa.c2s(sky["bpn"] @ (moon - observer)))  # it moves with us: no aberration but the diurnal one
    found |= {
        "LST": float((sky["eral"] - origin) % (2 * math.pi)) / DEGREE / 15,
        "MOONALT": moon[1] / DEGREE,
        "SUNALT": sun[1] / DEGREE,
    }
    if star is not None:
        azimuth, altitude, hour, declination = horizon(erfa.atciqz(*star, sky))
        found |= {
            "BJD-MID": _bjd(erfa, tt, sky["eb"], star),
            "OBJCTALT": altitude / DEGREE,
            "OBJCTAZ": azimuth / DEGREE,
            "OBJCTHA": hour / DEGREE / 15,
            "PARANG": erfa.hd2pa(hour, declination, latitude * DEGREE) / DEGREE,
            "MOONSEP": erfa.seps(azimuth, altitude, *moon[:2]) / DEGREE,
            "AIRMASS": airmass(altitude / DEGREE),
        }
    return found


def _bjd(erfa, tt, observer, star):
    """Barycentric Julian date (TDB): the time, and the light's way from the observer's plane [au] to the barycentre."""
    tdb_tt = erfa.dtdb(*tt, 0, 0, 0, 0) / 86400  # at the Earth's centre: good to 2 microseconds
    return tt[0] + (tt[1] + tdb_tt + float(observer @ erfa.s2c(*star)) * AU_DAYS)


def airmass(altitude):
    """Airmass at a true (unrefracted) altitude [deg]; None below the horizon.  Young 1994, Appl. Opt. 33, 1108."""
    if altitude < 0:
        return None
    c = math.sin(altitude * DEGREE)
    return (1.002432 * c**2 + 0.148386 * c + 0.0096467) / (c**3 + 0.149864 * c**2 + 0.0102963 * c + 0.000303978)


def julian_date(time):
    """The Julian date (UTC) of a datetime, as the two parts that ERFA takes."""
    import erfa

    time = time.astimezone(UTC) if time.tzinfo else time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        day, part = erfa.dtf2d(
            "UTC", time.year, time.month, time.day, time.hour, time.minute, time.second + time.microsecond / 1e6
        )
    return float(day), float(part)


def earth_rotation(mjd):
    """UT1 - UTC [s] and the pole's x, y [rad] on a day, from the IERS table packaged as astropy-iers-data.

    finals2000A.all has a line of fixed width a day, from 1973 to a year after the package's date, where the columns are
    filled that far.  The line's values hold for the whole day (UT1 drifts by 3 ms a day at most).  Off the table all
    three are 0: an error below 0.9 s, 14 arcsec in the altitude.
    """
    from astropy_iers_data import IERS_A_FILE

    with open(IERS_A_FILE, "rb") as file:
        first = file.readline()
        row = math.floor(mjd - float(first[7:15]))
        if row < 0:
            return 0.0, 0.0, 0.0
        file.seek(row * len(first))
        line = file.readline()
    try:
        return float(line[58:68]), float(line[18:27]) * ARCSEC, float(line[37:46]) * ARCSEC
    except ValueError:
        return 0.0, 0.0, 0.0
