"""The factors that make the colours of a composite true: from the stars, from the nebula, or by hand."""

import numpy as np

from apfunc import starflux, stretch
from apfunc.names import band
from apfunc.palette import NARROW

SUN = {"bp_rp": 0.82, "bv": 0.65}  # the Sun's colour


def balanced(data, sample, skies, noises, saturates, used, roles, balance, weights, catalog, header, window):
    """Factors on the images, how they were found, and the number of stars; sample: every few pixels, without sky."""
    if weights is not None:
        named = {roles.get(k, k): v for k, v in weights.items()}
        return np.array([float(named.get(f, 1.0)) for f in used]), "hand", 0
    if balance not in ("stars", "signal", "none"):
        raise ValueError(f"unknown balance {balance}; choose stars, signal or none")
    if balance == "none" or len(data) == 1:
        return np.ones(len(data)), "none", 0
    if balance == "stars" and not narrow(roles):
        clearest = used.index(roles.get("L", roles.get("G", roles["R"])))
        factors, count = _by_stars(data, clearest, skies, noises, saturates, catalog, header, window)
        if factors is not None:
            return factors, "stars", count
    return _by_signal(sample, noises), "signal", 0


def narrow(roles):
    """All filters of the roles are narrow bands, where the colours of stars mean nothing."""
    return all(band(f) in NARROW for f in roles.values())


def _by_stars(data, clearest, skies, noises, saturates, catalog, header, window):
    """(factors, stars used): those that make the stars grey in the mean; (None, n) with fewer than three."""
    x, y = starflux.peaks(data[clearest], noises[clearest], skies[clearest])
    for d, s in zip(data, saturates):
        if s is not None and len(x):
            bright = np.nan_to_num(starflux.cutouts(d, x, y, 3)[0], nan=np.inf).max(1)
            x, y = x[bright < 0.9 * s], y[bright < 0.9 * s]
    if len(x) < 3:
        return None, len(x)
    flux, error, half = np.array([starflux.fluxes(d, x, y, 6.0) for d in data]).transpose(1, 0, 2)
    good = starflux.good_stars(flux, error, half, 5.0)
    if good.sum() < 3:
        return None, int(good.sum())
    flux, error = flux[:, good], error[:, good]
    first = int(np.argmax(np.median(flux / error, axis=1)))
    trust = np.minimum((flux / error).min(0), 30)
    ratios = np.log(flux / flux[first])
    if catalog is not None:
        catalog = _colours(x[good] + (window[1].start or 0), y[good] + (window[0].start or 0), catalog, header)
    grey = [_middle(r, trust) if catalog is None else _at_sun(catalog, r, trust) for r in ratios]
    return np.exp(-np.array(grey)), int(good.sum())


def _middle(values, weights):
    """Weighted mean of what is left when values more than 2.5 robust sigmas off are left out: no star decides alone."""
    good = np.ones(len(values), bool)
    for _ in range(5):
        middle = np.median(values[good])
        good = np.abs(values - middle) <= 2.5 * 1.4826 * np.median(np.abs(values[good] - middle)) + 1e-9
    return np.average(values[good], weights=weights[good])


def _colours(x, y, catalog, header):
    """Catalogue colour less the Sun's of the stars at (x, y), NaN where unknown; None when it is of no use."""
    from astropy.wcs import WCS

    column, sun = next(((c, v) for c, v in SUN.items() if c in catalog.colnames), (None, 0))
    if column is None or "CTYPE1" not in header or len(catalog) == 0:
        return None
    cx, cy = WCS(header).all_world2pix(np.asarray(catalog["ra"], "f8"), np.asarray(catalog["dec"], "f8"), 0, quiet=True)
    distance = np.hypot(x[:, None] - cx, y[:, None] - cy)
    near = distance.argmin(1)
    colour = np.where(distance[np.arange(len(x)), near] < 3, np.asarray(catalog[column], "f8")[near] - sun, np.nan)
    known = np.isfinite(colour)
    return colour if known.sum() >= 5 and np.ptp(colour[known]) > 0.3 else None


def _at_sun(colour, values, weights):
    """Where the straight line of values over colour is at the Sun's colour; robust."""
    good = np.isfinite(colour)
    for _ in range(4):
        line = np.polyfit(colour[good], values[good], 1, w=weights[good])
        rest = np.abs(values - np.polyval(line, colour))
        good = np.isfinite(colour) & (rest <= 3 * 1.4826 * np.median(rest[good]) + 1e-6)
    return line[1]


def _by_signal(sample, noises):
    """Factors that bring the brighter parts of the images to one level, none by so much that its noise takes over."""
    levels = []
    for d, noise in zip(sample, noises):
        blocks = stretch.blocks(d)
        levels.append(max(np.quantile(blocks, 0.98) if blocks.size else 0, 0.5 * noise, 1e-30))
    factors = min(levels) / np.array(levels)
    noisy = factors * noises
    factors *= np.minimum(1, 8 * noisy.min() / np.maximum(noisy, 1e-30))
    return factors / factors.max() if factors.max() > 0 else np.ones(len(sample))
