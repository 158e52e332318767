"""What a frame's header should say: target, site, time, airmass, where the Moon and the Sun were, and on what it
rests."""

import re
from datetime import timedelta

from apfunc.header import date_obs, history, number, pointing, site, text

# iTelescope's sites: latitude, east longitude [deg], elevation [m], and the telescopes there.
SITES = {
    "Mayhill H06": (32.903308, -105.528700, 2222.0, (2, 5, 11, 14, 20, 21, 68)),
    "Auberry U69": (37.070278, -119.413056, 1403.0, (24,)),
    "Siding Spring Q62": (-31.273333, 149.069722, 1118.0, (8, 9, 12, 17, 30, 31, 32, 33)),
    "Nerpio I89": (38.165556, -2.326944, 1607.0, (7, 16, 18)),
}
COMPUTED = {
    "AIRMASS": "airmass at mid-exposure (Young 1994)",
    "OBJCTALT": "[deg] altitude, mid-exposure, no refraction",
    "OBJCTAZ": "[deg] azimuth, north through east, mid-exposure",
    "OBJCTHA": "[h] hour angle at mid-exposure, west positive",
    "PARANG": "[deg] parallactic angle at mid-exposure",
    "MOONPHAS": "illuminated fraction of the Moon",
    "MOONALT": "[deg] altitude of the Moon",
    "MOONSEP": "[deg] Moon to target",
    "SUNALT": "[deg] altitude of the Sun",
    "MJD-OBS": "[d] UTC start of the exposure",
    "MJD-MID": "[d] UTC middle of the exposure",
    "BJD-MID": "[d] BJD (TDB) of the middle, at the target",
    "LST": "[h] apparent local sidereal time, middle",
}


def metadata(image, object=None, filter=None, latitude=None, longitude=None, elevation=None):
    """The image with a completed header; the data are handed through.

    image: (data, header); reads OBJECT, FILTER, TELESCOP, RAWFILE, DATE-OBS (UT), EXPTIME, SITELAT and SITELONG,
    OBJCTRA and OBJCTDEC or RA and DEC.  object, filter, latitude, longitude [deg, east positive], elevation [m]: used
    where neither the header nor the file's name says it.

    Writes OBJECT, FILTER, TELESCOP where blank, and where they come from: OBJSRC, FILTSRC (header, file name,
    option); the target's position OBJCTRA, OBJCTDEC with POSSRC (header, header WCS, name: by the offline catalogue
    of deep-sky objects); the site with SITESRC (header, iTelescope table, option) as SITELAT, SITELONG, SITEELEV; and,
    as far as time, site and position are known: AIRMASS, OBJCTALT, OBJCTAZ, OBJCTHA, PARANG, MOONPHAS, MOONALT,
    MOONSEP, SUNALT, MJD-OBS, MJD-MID, BJD-MID, LST, all for the middle of the exposure.  What cannot be said, and a
    target below the horizon (wrong site, date or position: no AIRMASS then), is said in METAWARN.  What could not be
    computed keeps the value it had, but for an AIRMASS that is none (below 1 or above 40).  An elevation that
    nothing tells counts as 0 (that moves the Moon by arcseconds, nothing else).

    Airmass: Young 1994, Appl. Opt. 33, 1108, a formula of the true altitude, good to the horizon; none below it.
    The numbers are those of apfunc.ephemeris, from packaged tables: no network is ever asked.
    """
    from apfunc import names

    data, header = image
    header = header.copy()
    said = names.parse(text(header, "RAWFILE") or "")
    telescope = text(header, "TELESCOP") or said.get("telescope")
    _fill(header, "OBJECT", "OBJSRC", (("OBJECT", "OBSTARGET", "TARGET"), said.get("object"), object), "target")
    _fill(header, "FILTER", "FILTSRC", (("FILTER", "FILTER1"), said.get("filter"), filter), "filter")
    if telescope and not text(header, "TELESCOP"):
        header["TELESCOP"] = (telescope, "telescope, from the file name")
    target = _target(header)
    place = _site(header, telescope, latitude, longitude, elevation)
    start, exptime = date_obs(header), number(header, "EXPTIME", "EXPOSURE")
    found, problems = {}, []
    if start is None:
        problems.append("no DATE-OBS: no airmass, no time of mid-exposure")
    else:
        found, problems = _computed(start, exptime or 0.0, target, place)
    if exptime is None and start is not None:
        problems.append("no EXPTIME: mid-exposure is taken as the start")
    if "OBJCTALT" in found or not 1 <= (number(header, "AIRMASS") or 0) <= 40:
        header.remove("AIRMASS", ignore_missing=True)
    for key, value in found.items():
        header[key] = (value, COMPUTED[key])
    header.remove("METAWARN", ignore_missing=True)
    if problems:
        header["METAWARN"] = "; ".join(problems)
    history(header, "metadata", target=text(header, "POSSRC"), site=text(header, "SITESRC"))
    return data, header


def _fill(header, key, source_key, sources, what):
    """Set `key` from the first source that says it: keywords, the file's name, the option; and say which (in place)."""
    in_header, in_name, option = sources
    for value, source in ((text(header, *in_header), "header"), (in_name, "file name"), (option, "option")):
        if value:
            header[key] = str(value)
            header[source_key] = (source, f"where the name of the {what} comes from")
            return


def _target(header):
    """(ra, dec) [deg] of the target: header, its WCS, else the object's name; POSSRC, OBJCTRA, OBJCTDEC are set (in
    place)."""
    position, source = pointing(header), "header"
    if position is None:
        from apfunc import wcs

        solution, source = wcs.from_header(header), "header WCS"
        position = solution and solution["crval"]
    if position is None and text(header, "OBJECT"):
        from apfunc.catalog import resolve

        position, source = resolve(text(header, "OBJECT")), "name"
    if position is None:
        return None
    if source != "header":
        header["OBJCTRA"] = (_sexagesimal(position[0] / 15, 2), "[h m s] right ascension, J2000")
        header["OBJCTDEC"] = (_sexagesimal(position[1], 1, "+"), "[d m s] declination, J2000")
    header["POSSRC"] = (source, "where the target's position comes from")
    return position


def _sexagesimal(value, digits, plus=""):
    units = round(abs(value) * 3600 * 10**digits)
    seconds, whole = units % (60 * 10**digits) / 10**digits, units // (60 * 10**digits)
    return f"{'-' if value < 0 else plus}{whole // 60:02d} {whole % 60:02d} {seconds:0{digits + 3}.{digits}f}"


def _site(header, telescope, latitude, longitude, elevation):
    """(latitude, longitude, elevation) of the telescope: header, iTelescope table, options; SITE* are set (in
    place)."""
    found, source = site(header), "header"
    height = number(header, "SITEELEV", "ALT-OBS", "SITEALT", "ELEVATIO", "OBSALT", "OBSGEO-H")
    if found is None:
        number_ = re.search(r"\bT-?0*(\d{1,3})\b", telescope or "", re.IGNORECASE)
        for name, (lat, lon, up, telescopes) in SITES.items():
            if number_ and int(number_[1]) in telescopes:
                found, source, height = (lat, lon), f"iTelescope table: {name}", up
    if found is None and latitude is not None and longitude is not None:
        found, source, height = (float(latitude), (float(longitude) + 180) % 360 - 180), "option", elevation
    if found is None:
        return None
    if height is None:
        height = (
            elevation
            if elevation is not None
            else next(
                (up for lat, lon, up, _ in SITES.values() if abs(lat - found[0]) < 0.05 and abs(lon - found[1]) < 0.05),
                None,
            )
        )
    if source != "header":
        header["SITELAT"], header["SITELONG"] = (
            (found[0], "[deg] latitude"),
            (found[1], "[deg] longitude, east positive"),
        )
    if height is not None:
        header["SITEELEV"] = (float(height), "[m] elevation")
    header["SITESRC"] = (source, "where the site comes from")
    return found[0], found[1], float(height or 0)


def _computed(start, exptime, target, place):
    """The computed keywords as a dict, and what is wrong as a list of texts."""
    from apfunc.ephemeris import ephemeris, julian_date

    middle, problems = start + timedelta(seconds=exptime / 2), []
    found = {key: sum(julian_date(time), -2400000.5) for key, time in (("MJD-OBS", start), ("MJD-MID", middle))}
    found |= ephemeris(middle, *(target or (None, None)), *(place or ()))
    if target is None:
        problems.append("no position of the target (looked for OBJCTRA, RA, a WCS, a known name)")
    if place is None:
        problems.append(
            "no site (looked for SITELAT and SITELONG, an iTelescope number); give --latitude and --longitude"
        )
    altitude = found.get("OBJCTALT", 0)
    if altitude < 0:
        problems.append(f"the target was {-altitude:.1f} deg below the horizon: wrong site, date or position")
    return {key: round(value, 9) if "JD" in key else float(f"{value:.10g}") for key, value in found.items()}, problems
