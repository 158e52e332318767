"""Gaia DR3 around a position: from a folder of earlier queries, or by one query of bounded time.

The query speaks TAP, the protocol of the Virtual Observatory, so that nothing needs to be installed for it.
"""

import glob
import os
import re

import numpy as np

from apfunc import wcs
from apfunc.catalog import GAIA_EPOCH, moved, table_of

TAP = "https://gea.esac.esa.int/tap-server/tap/sync"


def cone(ra, dec, radius, epoch=None, cache=None, network=False, timeout=30.0, limit=18.0, most=20000, url=TAP):
    """Gaia DR3 stars of a circle from the cache folder, or by one query when `network` is True; None when neither
    works.

    A cached query serves any smaller circle within it.  The query (TAP, synchronous, ADQL) takes at most `timeout`
    seconds and brings the brightest `most` stars; a failure of any kind is no error, it gives None.
    """
    stars = _cached(ra, dec, radius, cache) if cache else None
    if stars is None and network:
        content = _query(ra, dec, radius, limit, most, timeout, url)
        if content is None:
            return None
        if cache:
            from apfunc.io import write_text

            os.makedirs(cache, exist_ok=True)
            write_text(os.path.join(cache, f"gaia_{ra:.5f}_{dec:+.5f}_{radius:.4f}.csv"), content)
        stars = _csv(content)
    if stars is None:
        return None
    keep = wcs.distance(stars[:, 0], stars[:, 1], ra, dec) <= radius
    stars = stars[keep]
    position = moved(stars[:, 0], stars[:, 1], stars[:, 3], stars[:, 4], (epoch or GAIA_EPOCH) - GAIA_EPOCH)
    return table_of(*position, stars[:, 2], np.full(len(stars), 0.02), "Gaia DR3", "G")


def _cached(ra, dec, radius, cache):
    for path in sorted(glob.glob(os.path.join(cache, "gaia_*.csv"))):
        m = re.fullmatch(r"gaia_([\d.]+)_([+-][\d.]+)_([\d.]+)\.csv", os.path.basename(path))
        if m and wcs.distance(float(m[1]), float(m[2]), ra, dec) + radius <= float(m[3]) + 1e-4:
            with open(path, "rb") as stream:
                return _csv(stream.read())
    return None


def _csv(content):
    """Rows ra, dec, mag, pmra, pmdec of a CSV answer; None when it is none."""
    lines = content.decode("ascii", "replace").splitlines()
    if not lines or not lines[0].lower().startswith("ra,dec"):
        return None
    rows = [[float(v) if v not in ("", "null") else np.nan for v in line.split(",")] for line in lines[1:]
            if line.count(",") == 4]
    return np.array(rows, float).reshape(-1, 5)


def _query(ra, dec, radius, limit, most, timeout, url):
    import time
    import urllib.parse
    import urllib.request

    adql = (f"SELECT TOP {most} ra, dec, phot_g_mean_mag, pmra, pmdec FROM gaiadr3.gaia_source "
            f"WHERE phot_g_mean_mag < {limit} AND 1 = CONTAINS(POINT('ICRS', ra, dec), "
            f"CIRCLE('ICRS', {ra:.6f}, {dec:.6f}, {radius:.5f})) ORDER BY phot_g_mean_mag")
    form = urllib.parse.urlencode({"REQUEST": "doQuery", "LANG": "ADQL", "FORMAT": "csv", "QUERY": adql}).encode()
    deadline, content = time.monotonic() + timeout, b""
    try:
        with urllib.request.urlopen(url, form, timeout=timeout) as answer:
            while chunk := answer.read(65536):
                content += chunk
                if time.monotonic() > deadline:
                    return None
    except (OSError, ValueError):
        return None
    return content if _csv(content) is not None else None
