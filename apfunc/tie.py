"""Tying a list of stars in pixels to the sky: where the header says, or where a catalogue's pattern fits.

Every function takes the list as a dict: x, y (0-based pixels, best stars first), shape (rows, columns), and what is
known: scale [arcsec/pixel] or None, pointing (ra, dec) [deg] or None, solutions (WCS found in headers, moved to this
list's pixels; may be empty).  It returns a TAN solution (see wcs.py) and what it rests on, or None.
"""

import math

import numpy as np

from apfunc import pattern, wcs


def centre(shape):
    """The 0-based pixel in the middle of a frame of `shape` (rows, columns), as (x, y)."""
    return (shape[1] - 1) / 2, (shape[0] - 1) / 2


def from_catalog(stars, catalog, windows=110):
    """The solution whose catalogue pattern fits, or None: around the headers' solutions, the pointing, then farther.

    Without any pointing there is nothing to search around: None (that is the work of a blind solver).
    The catalogue's circle is searched in windows of the frame's size, from the pointing outwards, at most `windows` (a
    third of it for each of four scales where none is known).
    """
    for solution in stars["solutions"]:
        found = _window(stars, catalog, solution["crval"], wcs.scale(solution), [np.array(solution["cd"])], blind=False)
        if found is not None:
            return found
    if stars["pointing"] is None:
        return None
    known = stars["scale"] is not None
    guesses = [(stars["scale"], (0.87, 1.15))] if known else [(s, (0.66, 1.52)) for s in (1.0, 2.2, 0.45, 4.8)]
    for scale, range_ in guesses:
        for k, place in enumerate(_places(stars, catalog, scale, windows if known else 1 + windows // 3)):
            found = _window(stars, catalog, place, scale, (), blind=True, scales=range_, trials=k + 1)
            if found is not None:
                return found
    return None


def _places(stars, catalog, scale, windows):
    """Centres to look at: the pointing first, then a grid of half a frame's spacing over the catalogue, nearest
    first."""
    rows, columns = stars["shape"]
    step = 0.5 * min(rows, columns) * scale / 3600
    xi, eta = wcs.project(catalog["ra"], catalog["dec"], stars["pointing"])
    reach = np.nanmax(np.hypot(xi, eta)) if len(catalog) else 0
    n = min(int(reach / step), 12)
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1))
    order = np.lexsort((i.ravel(), j.ravel(), np.hypot(i, j).ravel()))
    order = order[np.hypot(i, j).ravel()[order] * step <= max(reach - step, 0)][:windows]
    ra, dec = wcs.deproject(i.ravel()[order] * step, j.ravel()[order] * step, stars["pointing"])
    return list(zip(ra.tolist(), dec.tolist()))


def _window(stars, catalog, place, scale, guesses, blind, scales=(0.9, 1.1), trials=1):
    """Match the stars against the catalogue within 0.75 diagonals of `place`, in a plane whose unit is about a
    pixel."""
    rows, columns = stars["shape"]
    unit, half = scale / 3600, 0.5 * math.hypot(rows, columns)
    xi, eta = wcs.project(catalog["ra"], catalog["dec"], place)
    near = np.flatnonzero(np.hypot(xi, eta) < 1.3 * half * unit)
    if len(near) < 4 or len(stars["x"]) < 4:
        return None
    x, y, mag = xi[near] / unit, eta[near] / unit, np.nan_to_num(np.asarray(catalog["mag"][near], float), nan=30)
    even = near[pattern.spread(x, y, -mag, 400)]
    two = xi[even] / unit, eta[even] / unit
    one = stars["x"], stars["y"]
    radius = max(12.0, 0.012 * half), max(2.5, 0.004 * half)
    found = pattern.match(one, two, [g / unit for g in guesses], radius, scales, blind=blind,
                          least=4.5 + math.log10(trials), n=(25, 40))
    if found is None or len(found[1]) < 4:
        return None
    t, i, j, _ = found
    crpix = centre(stars["shape"])
    crval = tuple(float(c) for c in wcs.deproject(*(unit * np.array(pattern.apply(t, *crpix))), place))
    if len(i) >= 6:
        return wcs.fit(one[0][i], one[1][i], catalog["ra"][even[j]], catalog["dec"][even[j]], crpix, start=crval)
    return {"crval": crval, "crpix": crpix, "cd": t[:, :2] * unit, "a": None, "b": None}


def from_headers(stars, tolerance=30.0):
    """The consensus of the solutions in the headers, or None: the one whose centre, scale and angle are the median.

    `tolerance` [arcsec]: solutions farther than that from the median at the frame's centre and corners have no
    vote; when fewer than half agree there is no consensus.
    """
    solutions = stars["solutions"]
    if not solutions:
        return None
    rows, columns = stars["shape"]
    middle_x, middle_y = centre(stars["shape"])
    x, y = np.array([0, columns - 1, 0, columns - 1, middle_x]), np.array([0, 0, rows - 1, rows - 1, middle_y])
    origin = solutions[len(solutions) // 2]["crval"]
    places = np.array([np.stack(wcs.project(*wcs.sky(s, x, y), origin)) for s in solutions]) * 3600
    middle = np.nanmedian(places, axis=0)
    agree = np.nanmax(np.hypot(*np.moveaxis(places - middle, 1, 0)), axis=-1) < tolerance
    if agree.sum() * 2 < len(solutions) or not agree.any():
        return None
    mean = np.median(places[agree], axis=0) / 3600
    ra, dec = wcs.deproject(*mean, origin)
    return wcs.fit(x, y, ra, dec, centre(stars["shape"]), start=origin)


def from_few(stars, catalog, solution, tolerance=20.0):
    """A header's solution shifted onto the few catalogue stars in the frame (1 to 5): shift that brings most of them
    within 2 arcsec of bright stars of the list; at most `tolerance` arcsec.  Returns the shifted solution, or None."""
    x, y = wcs.pixel(solution, catalog["ra"], catalog["dec"])
    inside, scale = _inside(x, y, stars["shape"]), wcs.scale(solution)
    if len(inside) < 1:
        return None
    bright = np.argsort(-stars["flux"], kind="stable")[:max(10, 4 * len(inside))]
    one = stars["x"][bright], stars["y"][bright]
    i, j, _ = pattern.pairs_within(x[inside], y[inside], *one, tolerance / scale)
    best = None
    for d_x, d_y in zip(one[0][j] - x[inside][i], one[1][j] - y[inside][i]):
        k, m = pattern.nearest(x[inside] + d_x, y[inside] + d_y, *one, 2.0 / scale)
        key = (len(k), -math.hypot(d_x, d_y))
        if best is None or key > best[0]:
            best = key, np.mean(one[0][m] - x[inside][k]), np.mean(one[1][m] - y[inside][k])
    if best is None or best[0][0] < max(2, 0.6 * len(inside)):
        return None
    shifted = dict(solution, crpix=(solution["crpix"][0] + best[1], solution["crpix"][1] + best[2]))
    ra, dec = wcs.sky(shifted, *centre(stars["shape"]))
    return dict(solution, crval=(float(ra), float(dec)), crpix=centre(stars["shape"]))


def contradicted(stars, catalog, solution):
    """Whether a catalogue that `from_few` does not find under a header's solution has three stars and more there."""
    return len(_inside(*wcs.pixel(solution, catalog["ra"], catalog["dec"]), stars["shape"])) >= 3


def _inside(x, y, shape):
    return np.flatnonzero((x > 0) & (y > 0) & (x < shape[1] - 1) & (y < shape[0] - 1))


def relative(stars):
    """No tie: the pointing (or 0, 0) at the frame's centre, north up as in a mirror-free picture, the nominal scale
    (or 1)."""
    unit = (stars["scale"] or 1.0) / 3600
    return {"crval": stars["pointing"] or (0.0, 0.0), "crpix": centre(stars["shape"]), "cd": np.diag([-unit, unit]),
            "a": None, "b": None}
