"""A made-up sky whose truth is known: stars, a nebula, a galaxy, and how a camera sees them (`apfunc simulate`).

Everything here is a pure function of its arguments and a seed.  Sky positions are degrees (ICRS), pixels are
0-based, rates are electrons per second above the atmosphere.
"""

import numpy as np

from apfunc import wcs
from apfunc.names import band

# Per filter: electrons/s/cm2 of a star of magnitude 0 (optics and sensor included), colour term c in
# m_filter = G + c * (BP - RP), extinction [mag/airmass], sky brightness [mag/arcsec2], and how bright a nebula and a
# galaxy are in it, relative to H-alpha and to a star of the same magnitude.
FILTERS = {"L": (1.25e6, 0.00, 0.20, 20.6, 1.30, 1.0), "R": (4.5e5, -0.30, 0.12, 20.7, 0.90, 1.0),
           "G": (4.8e5, 0.25, 0.18, 21.2, 0.22, 1.0), "B": (4.4e5, 0.90, 0.28, 21.9, 0.20, 1.0),
           "Ha": (2.4e4, -0.32, 0.11, 20.6, 1.00, 1.0), "OIII": (2.2e4, 0.30, 0.19, 21.4, 0.30, 1.0),
           "SII": (2.2e4, -0.35, 0.10, 20.5, 0.15, 1.0), "V": (4.8e5, 0.20, 0.17, 21.2, 0.22, 1.0),
           "g": (6.5e5, 0.35, 0.20, 21.6, 0.30, 1.0), "r": (5.5e5, -0.20, 0.12, 20.9, 0.90, 1.0),
           "i": (3.8e5, -0.45, 0.08, 20.0, 0.05, 1.0), "z": (2.0e5, -0.55, 0.06, 19.0, 0.03, 1.0)}
OXYGEN = {"G": 0.22, "B": 0.15, "OIII": 0.30, "L": 0.30, "V": 0.22, "g": 0.30}  # the part of it that [O III] makes


def facts(name):
    """The row of FILTERS of a filter by any of its names, as a dict; ValueError for one that is not there."""
    if band(name) not in FILTERS:
        raise ValueError(f"the simulated sky knows no filter {name}; it knows {', '.join(FILTERS)}")
    return dict(zip(("zero", "colour", "extinction", "sky", "nebula", "galaxy"), FILTERS[band(name)]))


# ------------------------------------------------------------------------------------------------------ stars

def stars(ra, dec, radius, seed=0, anchors=None, limit=17.5, slope=0.27, density=1.0, cluster=0):
    """A Table of the stars within `radius` [deg] of a position: id, ra, dec, mag (G), colour (BP - RP).

    `anchors` is a table with ra, dec and mag of real stars (all kept); the fainter ones follow
    N(< m) ~ 10^(slope m) from magnitude 10 to `limit`, as many as the anchors suggest times `density`.
    `cluster` more of them crowd within a tenth of the radius.  Without anchors bright ones are made up as well.
    """
    from astropy.table import Table
    rng = np.random.default_rng([seed, 1])
    bright = 10.0
    if anchors is None:
        n, lowest = int(np.ceil(30 * np.pi * radius**2)), 10 - 1.6 / slope
        base = lowest + np.log10(1 + rng.random(n) * (10**(slope * (bright - lowest)) - 1)) / slope
        x, y = _disc(rng, n, radius)
        anchor_ra, anchor_dec = wcs.deproject(x, y, (ra, dec))
    else:
        anchor_ra, anchor_dec, base = (np.asarray(anchors[k], float) for k in ("ra", "dec", "mag"))
        near = wcs.distance(anchor_ra, anchor_dec, ra, dec) <= radius
        anchor_ra, anchor_dec, base = anchor_ra[near], anchor_dec[near], base[near]
    growth = 10**(slope * (limit - bright)) - 1
    n = int(max(len(base), 8 * np.pi * radius**2) * growth * density)
    x, y = _disc(rng, n + cluster, radius)
    x[n:], y[n:] = rng.normal(0, radius / 20, (2, cluster))
    mag = np.concatenate([base, bright + np.log10(1 + rng.random(n + cluster) * growth) / slope])
    mag[len(base) + n:] -= 1.5
    faint_ra, faint_dec = wcs.deproject(x, y, (ra, dec))
    colour = np.clip(0.9 + 0.35 * rng.standard_normal(len(mag)), -0.2, 2.8)
    table = Table([np.arange(len(mag)), np.concatenate([anchor_ra, faint_ra]), np.concatenate([anchor_dec, faint_dec]),
                   mag, colour],
                  names=("id", "ra", "dec", "mag", "colour"), units=(None, "deg", "deg", "mag", "mag"))
    return table


def _disc(rng, n, radius):
    r, angle = radius * np.sqrt(rng.random(n)), 2 * np.pi * rng.random(n)
    return r * np.cos(angle), r * np.sin(angle)


def rate(mag, colour, name, area):
    """Electrons per second above the atmosphere of stars in a filter, for a collecting `area` [cm2]."""
    f = facts(name)
    return f["zero"] * area * 10**(-0.4 * (np.asarray(mag) + f["colour"] * np.asarray(colour)))


# ---------------------------------------------------------------------------------------------------- extended

def extended(width, seed=0, cells=900, galaxy=False):
    """Maps on the tangent plane of the field, `width` [deg] wide: a dict line, oxygen, galaxy (or None), width.

    line and oxygen: brightness of a shell of filaments and a faint veil around it, 1 at the brightest; galaxy: the
    share of its light in each cell.  Row 0 is south, column 0 is east (eta and -xi grow with the indices).
    """
    axis = (np.arange(cells) + 0.5) / cells * 2 - 1
    x, y = np.meshgrid(axis, axis)
    noise = [_noise(np.random.default_rng([seed, 2, i]), cells, slope) for i, slope in enumerate((3.0, 3.4, 2.6))]
    angle = np.radians(35)
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / 0.46, (y * np.cos(angle) - x * np.sin(angle)) / 0.32
    r = np.hypot(u, v) + 0.10 * noise[1]
    ridges = np.exp(-np.abs(noise[0]) / 0.18) * 0.9 + np.exp(-np.abs(noise[2] - 0.4) / 0.15) * 0.5
    shell = np.exp(-0.5 * ((r - 0.92) / 0.10)**2) + 0.45 / (1 + np.exp((r - 0.95) / 0.04)) * np.exp(0.4 * noise[1])
    lit = 0.55 + 0.45 * np.cos(np.arctan2(v, u) - 2.4)
    veil = 0.05 * np.exp(0.7 * noise[1])
    line = _smooth(shell * lit * (0.12 + ridges) + veil)
    oxygen = _smooth(np.exp(-0.5 * ((r - 1.02) / 0.07)**2) * (0.3 + 0.6 * ridges) * lit)
    maps = {"line": line / line.max(), "oxygen": oxygen / oxygen.max(), "galaxy": None, "width": width}
    if galaxy:
        gx, gy = (x - 0.45) / 0.10, (y + 0.40) / 0.045
        r, turn = np.hypot(gx, gy), np.arctan2(gy, gx)
        disc = np.exp(-2.2 * r) * (1 + 0.45 * np.cos(2 * turn - 5 * np.log(r + 0.05))) + 2.5 * np.exp(-9 * r)
        disc = _smooth(np.where(r < 3, disc, 0))
        maps["galaxy"] = disc / disc.sum()
    return {k: m.astype(np.float32) if isinstance(m, np.ndarray) else m for k, m in maps.items()}


def _noise(rng, cells, slope):
    """Gaussian noise of unit variance with a power-law spectrum, without structure finer than four cells."""
    size = 512
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")) * size
    k[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size,
                                                            size))) * k**(-slope / 2) * np.exp(-(k / (size / 5))**2))
    field = (field - field.mean()) / field.std()
    if cells == size:
        return field
    at = (np.arange(cells) + 0.5) / cells * size - 0.5
    return _bicubic(field, *np.meshgrid(at, at))


def _smooth(image):
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    for axis in (0, 1):
        padded = np.pad(image, [(2, 2) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        image = sum(w * np.take(padded, range(i, i + image.shape[axis]), axis) for i, w in enumerate(kernel))
    return image


def _bicubic(image, x, y):
    """Cubic B-spline blending of `image` at 0-based positions (smooth, positive; it blurs by about a cell)."""
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    out = np.zeros(np.shape(x), np.float32)
    wx, wy = _bspline(fx), _bspline(fy)
    rows, columns = image.shape
    image = image.astype(np.float32).ravel()
    column = [np.clip(x0 + i - 1, 0, columns - 1) for i in range(4)]
    for j in range(4):
        row = np.clip(y0 + j - 1, 0, rows - 1) * columns
        out += wy[j] * sum(wx[i] * image[row + column[i]] for i in range(4))
    return out


def _bspline(f):
    return (1 - f)**3 / 6, (3 * f**3 - 6 * f**2 + 4) / 6, (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6, f**3 / 6


def brightness(maps, xi, eta, name, nebula, area):
    """Surface brightness [electron/s/arcsec2] of nebula and galaxy in a filter at tangent-plane positions [deg].

    `nebula` is the peak of the line in H-alpha in the same unit.  The galaxy is of magnitude 9.5.
    """
    f, cells = facts(name), len(maps["line"])
    scale = cells / maps["width"]
    x, y = cells / 2 - 0.5 - xi * scale, cells / 2 - 0.5 + eta * scale
    inside = (np.abs(x - cells / 2) < cells / 2) & (np.abs(y - cells / 2) < cells / 2)
    oxygen = OXYGEN.get(band(name), 0.0)
    image = nebula * ((f["nebula"] - oxygen) * maps["line"] + oxygen * maps["oxygen"])
    if maps["galaxy"] is not None:
        image = image + f["galaxy"] * rate(9.5, 0.75, name, area) * maps["galaxy"] * (scale / 3600)**2
    return np.where(inside, _bicubic(image, x, y), 0).astype(np.float32)


# ------------------------------------------------------------------------------------------------------ camera

def to_pixel(view, ra, dec):
    """0-based pixels (x, y) of sky positions: TAN, then r' = r (1 + distortion (r / corner)^2).

    `view`: ra, dec [deg] of the optical centre, its pixel x0, y0, scale [arcsec/pixel], angle [deg] (of +y, from
    north through east), mirror (+1 east to the left of north, -1 to the right), distortion, corner [pixel].
    """
    xi, eta = wcs.project(ra, dec, (view["ra"], view["dec"]))
    turn, step = np.radians(view["angle"]), view["scale"] / 3600
    u = view["mirror"] * (eta * np.sin(turn) - xi * np.cos(turn)) / step
    v = (xi * np.sin(turn) + eta * np.cos(turn)) / step
    stretch = 1 + view["distortion"] * (u**2 + v**2) / view["corner"]**2
    return view["x0"] + u * stretch, view["y0"] + v * stretch


def to_sky(view, x, y):
    """Sky positions [deg] of 0-based pixels: the inverse of `to_pixel`, by Newton steps in the radius."""
    u, v = np.asarray(x, float) - view["x0"], np.asarray(y, float) - view["y0"]
    k = view["distortion"] / view["corner"]**2
    r2, stretch = u**2 + v**2, np.ones(np.shape(u))
    for _ in range(8):  # stretch s solves s (1 + k r2 / s^2)  = 1 for the ideal radius r s
        stretch = stretch - (stretch * (1 + k * r2 * stretch**2) - 1) / (1 + 3 * k * r2 * stretch**2)
    u, v = view["mirror"] * u * stretch, v * stretch
    turn, step = np.radians(view["angle"]), view["scale"] / 3600
    return wcs.deproject((v * np.sin(turn) - u * np.cos(turn)) * step, (v * np.cos(turn) + u * np.sin(turn)) * step,
                         (view["ra"], view["dec"]))


def shape_at(view, x, y):
    """FWHM [pixel], ellipticity and angle [deg, from +x to +y] of the PSF at pixels: seeing, guiding, curvature, tilt."""
    u, v = (x - view["x0"]) / view["corner"], (y - view["y0"]) / view["corner"]
    fwhm = view["fwhm"] * (1 + 0.08 * (u**2 + v**2) + 0.03 * u)
    guiding = view["ellipticity"] * np.exp(2j * np.radians(view["theta"]))
    coma = 0.06 * (u + 1j * v)**2
    total = guiding + coma
    return fwhm, np.abs(total), np.degrees(np.angle(total)) / 2


def sampled(fwhm, beta=3.5):
    """FWHM [pixel] of a Moffat star as square pixels sample it (fitted to integrals: 0.2 % from 2 pixels up)."""
    return np.sqrt(np.square(fwhm) + 0.46 + 0.8 / beta)


def add_stars(image, x, y, flux, fwhm, ellipticity, theta, beta=3.5, faintest=0.05):
    """Add Moffat stars to a float32 `image` in place; each pixel holds the profile's integral (3x3 Gauss points).

    flux in the image's unit; fwhm is the geometric mean of major and minor [pixel].  A star's stamp ends where its
    profile falls below `faintest` of the unit a pixel, so a little of its `flux` lies beyond.
    """
    alpha = fwhm / (2 * np.sqrt(2**(1 / beta) - 1))
    peak = flux * (beta - 1) / (np.pi * alpha**2)
    reach = alpha * np.sqrt(np.maximum((np.maximum(peak, 1e-9) / faintest)**(1 / beta) - 1, 4))
    axes = np.sqrt(1 - np.clip(ellipticity, 0, 0.9))  # sqrt of minor / major
    cos, sin = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    xx, yy = cos**2 * axes + sin**2 / axes, sin**2 * axes + cos**2 / axes  # r2 = xx dx^2 + yy dy^2 + xy dx dy
    xy = 2 * cos * sin * (axes - 1 / axes)
    low = 0
    for radius in (8, 12, 18, 27, 40, 60, 90, 140):
        some = np.flatnonzero((reach > low) & ((reach <= radius) | (radius == 140)) & (flux > 0)
                              & (x > -radius) & (x < image.shape[1] + radius) & (y > -radius) & (y < image.shape[0] + radius))
        low = radius
        for part in np.array_split(some, max(1, len(some) * radius**2 // 250000)):
            _stamps(image, radius, *(a[part] for a in (x, y, peak, alpha, xx, yy, xy)), beta)


def _stamps(image, radius, x, y, peak, alpha, xx, yy, xy, beta):
    x0, y0 = np.rint(x).astype(int), np.rint(y).astype(int)
    offsets = np.arange(-radius, radius + 1)
    total = np.zeros((len(x), 2 * radius + 1, 2 * radius + 1), np.float32)
    column = lambda a: (np.asarray(a, np.float32) / alpha**2).astype(np.float32)[:, None, None]
    a, b, c = column(xx), column(yy), column(xy)
    for node_y, weight_y in ((-0.3872983, 5 / 18), (0, 8 / 18), (0.3872983, 5 / 18)):
        dy = (offsets - (y - y0)[:, None] + node_y).astype(np.float32)[:, :, None]
        for node_x, weight_x in ((-0.3872983, 5 / 18), (0, 8 / 18), (0.3872983, 5 / 18)):
            dx = (offsets - (x - x0)[:, None] + node_x).astype(np.float32)[:, None, :]
            total += np.float32(weight_x * weight_y) * (1 + a * dx * dx + b * dy * dy + c * dx * dy)**np.float32(-beta)
    total *= peak.astype(np.float32)[:, None, None]
    rows, columns = y0[:, None] + offsets, x0[:, None] + offsets
    inside = ((rows >= 0) & (rows < image.shape[0]))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < image.shape[1]))[:, None, :]
    where = rows[:, :, None] * image.shape[1] + columns[:, None, :]
    np.add.at(image.reshape(-1), where[inside], total[inside])


def add_extended(image, view, maps, centre, name, nebula, area, factor):
    """Add the nebula and galaxy, `factor` seconds of it, to `image` in place (worked out at every other pixel)."""
    step, (rows, columns) = 2, image.shape
    y, x = np.mgrid[-step:rows + 2 * step:step, -step:columns + 2 * step:step].astype(float)
    coarse = brightness(maps, *wcs.project(*to_sky(view, x, y), centre), name, nebula, area)
    coarse *= np.float32(factor * view["scale"]**2)
    for axis, length in ((0, rows), (1, columns)):  # linear along one axis, then the other; sample i is at step (i - 1)
        at = np.arange(length) / step + 1
        low = at.astype(int)
        part = (at - low).astype(np.float32)[(slice(None), None) if axis == 0 else (None, slice(None))]
        coarse = np.take(coarse, low, axis) * (1 - part) + np.take(coarse, low + 1, axis) * part
    image += coarse
