"""The gnomonic (TAN) projection and its SIP distortion in plain NumPy: pixel to sky and back, fits, keywords.

A solution is a dict: ``crval`` (ra, dec) [deg], ``crpix`` (x, y) 0-based pixel of the reference point,
``cd`` 2x2 [deg/pixel], and ``a``, ``b``: SIP coefficients as square arrays (a[p, q] times u^p v^q) or None.
With u, v = x - crpix[0], y - crpix[1] the equation is

    (xi, eta) = cd @ (u + A(u, v), v + B(u, v)),      (ra, dec) = deproject(xi, eta)

Sources: Calabretta & Greisen 2002 (A&A 395, 1077); SIP: Shupe et al. 2005 (ADASS XIV, 491).
"""

import copy
import re

import numpy as np

from apfunc.header import number, text

WCS_KEY = re.compile(
    r"^(WCSAXES|WCSNAME|(CTYPE|CRVAL|CRPIX|CUNIT|CDELT|CROTA)\d[A-Z]?|(CD|PC|PV|TR)\d+_\d+[A-Z]?|LONPOLE|LATPOLE"
    r"|RADE(CSY)?SYS|RADECSYS|EQUINOX|EPOCH|PA|PLTSOLVD|(A|B|AP|BP)_(ORDER|DMAX|\d+_\d+))$")


def terms(order, low=2):
    """The exponents (p, q) of a polynomial in u, v with low <= p + q <= order."""
    return [(n - q, q) for n in range(low, order + 1) for q in range(n + 1)]


def project(ra, dec, crval):
    """Gnomonic tangent-plane coordinates (xi, eta) [deg] of sky positions [deg]; NaN behind the tangent plane."""
    d_ra = np.radians(np.asarray(ra, float) - crval[0])
    dec, dec0 = np.radians(np.asarray(dec, float)), np.radians(crval[1])
    depth = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(d_ra)
    depth = np.where(depth > 1e-6, depth, np.nan)
    xi = np.cos(dec) * np.sin(d_ra) / depth
    eta = (np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(d_ra)) / depth
    return np.degrees(xi), np.degrees(eta)


def deproject(xi, eta, crval):
    """Sky positions (ra, dec) [deg], ra in [0, 360), of tangent-plane coordinates [deg]."""
    xi, eta, dec0 = np.radians(xi), np.radians(eta), np.radians(crval[1])
    depth = np.cos(dec0) - eta * np.sin(dec0)
    ra = crval[0] + np.degrees(np.arctan2(xi, depth))
    dec = np.degrees(np.arctan2(np.sin(dec0) + eta * np.cos(dec0), np.hypot(xi, depth)))
    return np.mod(ra, 360.0), dec


def distance(ra1, dec1, ra2, dec2):
    """Great-circle distance [deg] of positions [deg] (haversine: exact for small angles too)."""
    d1, d2 = np.radians(dec1), np.radians(dec2)
    half = np.sin((d2 - d1) / 2)**2 + np.cos(d1) * np.cos(d2) * np.sin(np.radians(np.subtract(ra2, ra1)) / 2)**2
    return np.degrees(2 * np.arcsin(np.sqrt(np.minimum(half, 1))))


def polynomial(coefficients, u, v):
    """Sum of coefficients[p, q] u^p v^q; zero for None."""
    total = np.zeros(np.broadcast(u, v).shape)
    for row in [] if coefficients is None else coefficients[::-1]:  # Horner's rule in u, and in v within
        inner, row = 0.0, row.tolist()
        while row and row[-1] == 0:
            row.pop()
        for c in row[::-1]:
            inner = inner * v + c
        total = total * u + inner
    return total


def powers(u, v, exponents):
    """The terms u^p v^q as columns (n, terms)."""
    top = max(p + q for p, q in exponents) + 1
    u, v = (np.vander(c, top, increasing=True) for c in (u, v))
    return np.stack([u[:, p] * v[:, q] for p, q in exponents], axis=1)


def plane(solution, x, y):
    """Tangent-plane coordinates (xi, eta) [deg] of 0-based pixels."""
    u, v = np.asarray(x, float) - solution["crpix"][0], np.asarray(y, float) - solution["crpix"][1]
    u, v = u + polynomial(solution["a"], u, v), v + polynomial(solution["b"], u, v)
    (c11, c12), (c21, c22) = solution["cd"]
    return c11 * u + c12 * v, c21 * u + c22 * v


def sky(solution, x, y):
    """Sky positions (ra, dec) [deg] of 0-based pixels."""
    return deproject(*plane(solution, x, y), solution["crval"])


def pixel(solution, ra, dec, rounds=8):
    """0-based pixels (x, y) of sky positions [deg]; the distortion is inverted by fixed-point steps."""
    xi, eta = project(ra, dec, solution["crval"])
    (i11, i12), (i21, i22) = np.linalg.inv(solution["cd"])
    big_u, big_v = i11 * xi + i12 * eta, i21 * xi + i22 * eta
    u, v = big_u, big_v
    if solution["a"] is not None:
        for _ in range(rounds):
            old, (u, v) = u, (big_u - polynomial(solution["a"], u, v), big_v - polynomial(solution["b"], u, v))
            if np.nanmax(np.abs(u - old), initial=0) < 1e-9:
                break
    return u + solution["crpix"][0], v + solution["crpix"][1]


def scale(solution):
    """Pixel scale [arcsec/pixel]: the square root of a pixel's area."""
    return 3600 * float(np.sqrt(abs(np.linalg.det(solution["cd"]))))


def angle(solution):
    """Position angle [deg] of the +y axis, from north through east, in [0, 360)."""
    cd = np.asarray(solution["cd"])
    return float(np.degrees(np.arctan2(cd[0, 1], cd[1, 1])) % 360)


def fit(x, y, ra, dec, crpix, order=1, weight=None, start=None, a=None, b=None):
    """Least-squares solution of matched 0-based pixels and sky positions [deg].

    `order` 1 is TAN (with the distortion `a`, `b` held fixed when given), 2 and more TAN-SIP of that order.
    At fixed tangent point the problem is linear in all coefficients; the tangent point moves to the sky
    position of `crpix` and the fit is repeated.  `start`: a first guess of crval, else the mean position.
    Needs 3 stars for TAN and (order + 1)(order + 2) / 2 for SIP, else ValueError.
    """
    exponents = terms(order, low=0)
    if len(x) < len(exponents):
        raise ValueError(f"{len(x)} matched stars, and order {order} needs {len(exponents)}")
    u, v = np.asarray(x, float) - crpix[0], np.asarray(y, float) - crpix[1]
    u, v = (u + polynomial(a, u, v), v + polynomial(b, u, v)) if order == 1 else (u, v)
    size = max(np.abs(u).max(), np.abs(v).max(), 1.0)
    design = powers(u / size, v / size, exponents)
    weighted = (design if weight is None else design * np.asarray(weight)[:, None]).T
    crval = mean_position(ra, dec) if start is None else tuple(start)
    for _ in range(4 if start is None else 2):
        target = np.stack(project(ra, dec, crval), axis=1)
        coefficients = np.linalg.lstsq(weighted @ design, weighted @ target, rcond=1e-15)[0]  # the normal equations
        crval = tuple(float(c) for c in deproject(*coefficients[0], crval))
    coefficients /= np.array([size**(p + q) for p, q in exponents])[:, None]
    cd = coefficients[1:3].T.copy()
    if order > 1:
        a, b = np.zeros((2, order + 1, order + 1))
        for (p, q), higher in zip(exponents[3:], coefficients[3:]):
            a[p, q], b[p, q] = np.linalg.solve(cd, higher)
    return {"crval": crval, "crpix": tuple(crpix), "cd": cd, "a": a, "b": b}


def mean_position(ra, dec):
    """The mean direction (ra, dec) [deg] of positions [deg]."""
    ra, dec = np.radians(ra), np.radians(dec)
    mean = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)]).mean(axis=1)
    return float(np.degrees(np.arctan2(mean[1], mean[0])) % 360), float(
        np.degrees(np.arctan2(mean[2], np.hypot(*mean[:2]))))


def inverse(solution, shape):
    """The SIP inverse terms (ap, bp) over a frame of `shape` (rows, columns), or (None, None) without distortion.

    They are fitted on a grid over the frame, with the lowest order that is good to 0.002 pixel, at most 7.
    """
    if solution["a"] is None:
        return None, None
    u, v = np.meshgrid(
        np.linspace(-1, shape[1], 25) - solution["crpix"][0],
        np.linspace(-1, shape[0], 25) - solution["crpix"][1])
    u, v = u.ravel(), v.ravel()
    big_u, big_v = u + polynomial(solution["a"], u, v), v + polynomial(solution["b"], u, v)
    size = max(np.abs(big_u).max(), np.abs(big_v).max())
    for order in range(len(solution["a"]) - 1, 8):
        exponents = terms(order, low=1)
        design = powers(big_u / size, big_v / size, exponents)
        target = np.stack([u - big_u, v - big_v], axis=1)
        coefficients = np.linalg.lstsq(design.T @ design, design.T @ target, rcond=1e-15)[0]
        worst = np.abs(design @ coefficients - target).max()
        if worst < 0.002:
            break
    ap, bp = np.zeros((2, order + 1, order + 1))
    for (p, q), (c_a, c_b) in zip(exponents, coefficients):
        ap[p, q], bp[p, q] = c_a / size**(p + q), c_b / size**(p + q)
    return ap, bp


def short(value):
    """A float with the 13 digits that a FITS card holds in every case: the same in memory and read back."""
    return float(f"{value:.13g}")


def strip(header):
    """A copy of `header` without any celestial WCS, SIP, and PinPoint solution keywords."""
    return type(header)(copy.copy(card) for card in header.cards if not WCS_KEY.match(card.keyword))


def to_header(header, solution, shape):
    """A copy of `header` with `solution` as its only celestial WCS (TAN, or TAN-SIP with inverse terms)."""
    header = strip(header)
    sip = solution["a"] is not None
    header["WCSAXES"] = (2, "number of WCS axes")
    for i, kind in enumerate(("RA---TAN", "DEC--TAN")):
        header[f"CTYPE{i + 1}"] = (kind + "-SIP" * sip, "gnomonic projection" + " with SIP distortion" * sip)
        header[f"CUNIT{i + 1}"] = "deg"
        header[f"CRVAL{i + 1}"] = (short(solution["crval"][i]), "[deg] sky at the reference pixel")
        header[f"CRPIX{i + 1}"] = (short(solution["crpix"][i] + 1), "[pixel] reference pixel, 1-based")
    for i in range(2):
        for j in range(2):
            header[f"CD{i + 1}_{j + 1}"] = (short(solution["cd"][i][j]), "[deg/pixel]")
    header["RADESYS"] = ("ICRS", "reference system")
    if sip:
        ap, bp = inverse(solution, shape)
        for name, array in (("A", solution["a"]), ("B", solution["b"]), ("AP", ap), ("BP", bp)):
            order = len(array) - 1
            header[f"{name}_ORDER"] = (order, "SIP polynomial order")
            for p, q in terms(order, low=1 if len(name) == 2 else 2):
                header[f"{name}_{p}_{q}"] = short(array[p, q])
    return header


def from_header(header):
    """The solution a header (or a dict of its cards) holds, or None: TAN and TAN-SIP, CD or PC/CDELT or CROTA."""
    ctype = [text(header, "CTYPE1") or "", text(header, "CTYPE2") or ""]
    if not re.match(r"RA---TAN", ctype[0]) or not re.match(r"DEC--TAN", ctype[1]) or number(header, "PV2_1"):
        return None
    crval, crpix = [[number(header, f"{k}{i}") for i in (1, 2)] for k in ("CRVAL", "CRPIX")]
    cd = np.array([[number(header, f"CD{i}_{j}") or 0 for j in (1, 2)] for i in (1, 2)])
    if not cd.any():
        cdelt = [number(header, "CDELT1"), number(header, "CDELT2")]
        rotation = np.radians(number(header, "CROTA2") or 0)
        turn = np.array([[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]])
        pc = [[number(header, f"PC{i}_{j}") for j in (1, 2)] for i in (1, 2)]
        if any(value is not None for row in pc for value in row):
            turn = np.array([[float(i == j) if pc[i][j] is None else pc[i][j] for j in range(2)] for i in range(2)])
            cd = np.array(cdelt, float)[:, None] * turn if None not in cdelt else turn
        elif None not in cdelt:
            cd = turn * np.array(cdelt, float)[None, :]
    if None in crval or None in crpix or abs(crval[1]) > 90 or not abs(np.linalg.det(cd)) > 0:
        return None
    a, b = (_sip(header, name) if "SIP" in ctype[0] else None for name in "AB")
    a, b = (np.zeros_like(b) if a is None and b is not None else a,
            np.zeros_like(a) if b is None and a is not None else b)
    return {"crval": tuple(crval), "crpix": (crpix[0] - 1, crpix[1] - 1), "cd": cd, "a": a, "b": b}


def _sip(header, name):
    order = int(number(header, f"{name}_ORDER") or 0)
    if order < 2:
        return None
    return np.array([[(number(header, f"{name}_{p}_{q}") or 0) if 2 <= p + q <= order else 0.0
                      for q in range(order + 1)] for p in range(order + 1)])
