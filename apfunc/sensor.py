"""A made-up CCD whose truth is known: fixed patterns, defects, cosmic rays and readout (`apfunc simulate`)."""

import numpy as np

from apfunc.header import COLUMN, DEAD, HOT, UNSTABLE


def sensor(shape, filters, seed=1, level=1000.0, prnu=0.006, vignetting=0.22, hot=4e-4, dead=8e-5):
    """The fixed patterns of a camera, as a dict.

    bias [adu], dark [electron/s] and response {filter: relative sensitivity, vignetting and dust included, median 1}:
    float32 arrays of `shape`; unstable: flat indices of pixels whose dark current jumps; pixels: Table of the defects:
    x, y, kind (the bits of a bad-pixel map), dark [electron/s], response.  `hot` and `dead` are fractions of all pixels.
    """
    rng = np.random.default_rng([seed, 11])
    rows, columns = shape
    y, x = np.ogrid[-1:1:rows * 1j, -1:1:columns * 1j]
    bias = level + 4 * y + 2 * x * x + rng.normal(0, 1.2, columns) + rng.normal(0, 0.5, rows)[:, None]
    bias = bias.astype(np.float32) + rng.standard_normal(shape, np.float32)
    dark = (0.01 + 0.35 * np.exp(-((x - 1.02)**2 + (y - 1.05)**2) / 0.06)).astype(np.float32)  # amplifier glow
    dark *= 1 + 0.1 * rng.standard_normal(shape, np.float32)
    pixel = 1 + np.float32(prnu) * rng.standard_normal(shape, np.float32)
    kind = np.zeros(shape, np.uint8)
    n_hot, n_dead = int(hot * rows * columns), int(dead * rows * columns)
    spots = rng.choice(rows * columns, n_hot + n_dead, replace=False)
    dark.flat[spots[:n_hot]] += np.minimum(0.5 * (1 - rng.random(n_hot))**(-1 / 0.9), 400)
    pixel.flat[spots[n_hot:]] *= 0.05 + 0.5 * rng.random(n_dead)
    kind.flat[spots[:n_hot]], kind.flat[spots[n_hot:]] = HOT, DEAD
    unstable = spots[:n_hot // 20]
    kind.flat[unstable] |= UNSTABLE
    c = np.sort(rng.choice(np.arange(5, columns - 5, 4), 4,
                           replace=False)) if columns > 40 else np.arange(4) * 3 % columns
    start = rows // 3 + int(rng.integers(rows // 3))
    for place, response, current in (((slice(None), c[0]), 0.4, 0), ((slice(start, None), c[1]), 1, 2.5),
                                     ((slice(None), slice(c[2], c[2] + 2)), 1, 1.5), ((slice(0, start), c[3]), 0.6, 0)):
        pixel[place] *= response
        dark[place] += current
        kind[place] |= COLUMN
    response = {f: pixel * _optics(shape, [[seed, 12], [seed, 13, i]], vignetting) for i, f in enumerate(filters)}
    return {"bias": bias, "dark": dark, "response": response, "unstable": unstable,
            "pixels": _pixels(kind, dark, pixel)}


def _pixels(kind, dark, pixel):
    from astropy.table import Table
    y, x = np.nonzero(kind)
    return Table([x, y, kind[y, x], dark[y, x], pixel[y, x]], names=("x", "y", "kind", "dark", "response"),
                 units=("pix", "pix", None, "electron/s", None))


def _optics(shape, seeds, vignetting):
    """Vignetting, and the shadows of dust as rings: small ones of the sensor's window, large ones of the filter."""
    rows, columns = shape
    y, x = np.ogrid[-1:1:rows * 1j, -1:1:columns * 1j]
    r2 = ((x - 0.03)**2 + (y + 0.02)**2) / 2
    light = (1 - vignetting * r2 * (1 + 0.25 * r2)).astype(np.float32)
    for seed, count, size in zip(seeds, (5, 4), (0.012, 0.03)):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            cx, cy, depth = rng.uniform(0, columns), rng.uniform(0, rows), rng.uniform(0.02, 0.06)
            r = size * max(shape) * rng.uniform(0.7, 1.6)
            top, bottom, left, right = (max(int(cy - 2 * r), 0), min(int(cy + 2 * r) + 2, rows),
                                        max(int(cx - 2 * r), 0), min(int(cx + 2 * r) + 2, columns))
            yy, xx = np.ogrid[top:bottom, left:right]
            distance = np.hypot(xx - cx, yy - cy) / r
            ring = 1 / (1 + np.exp((distance - 1) / 0.06)) - 0.6 / (1 + np.exp((distance - 0.35) / 0.06))
            light[top:bottom, left:right] *= 1 - depth * ring
    return light / np.median(light)


def cosmics(shape, exptime, rng, rate=0.35):
    """Cosmic-ray hits of an exposure: arrays x, y, electrons, a row a pixel.  `rate`: hits per second and Mpixel.

    A hit is a straight track, mostly of a few pixels; its charge is log-normal about 1,500 electrons a pixel.
    """
    rows, columns = shape
    n = rng.poisson(rate * exptime * rows * columns / 1e6)
    x, y, angle = rng.uniform(0, columns, n), rng.uniform(0, rows, n), rng.uniform(0, np.pi, n)
    length, charge = np.minimum(rng.exponential(2.5, n) + 40 * (rng.random(n) < 0.03) * rng.random(n),
                                60), rng.lognormal(7.3, 0.8, n)
    steps = 4 * np.ceil(length + 1).astype(int)
    which = np.repeat(np.arange(n), steps)
    along = (np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps) + 0.5) / steps[which] * length[which]
    px = np.floor(x[which] + along * np.cos(angle[which])).astype(int)
    py = np.floor(y[which] + along * np.sin(angle[which])).astype(int)
    inside = (px >= 0) & (px < columns) & (py >= 0) & (py < rows)
    where, back = np.unique(py[inside] * columns + px[inside], return_inverse=True)
    electrons = np.bincount(back, (charge * (length + 1) / steps)[which][inside], len(where))
    return where % columns, where // columns, electrons.astype(np.float32)


def expose(camera, exptime, rng, light=None, name=None, gain=1.4, readnoise=8.0, hits=None, full_well=None, offset=0.0):
    """The raw uint16 image [adu] of an exposure:

        adu = bias + offset + (light * response + dark * t + hits + noise) / gain

    `light` [electron] falls on the sensor through filter `name` (None: shutter closed); the noise of photons and
    readout is Gaussian, variance (electrons + readnoise^2); clipped at `full_well` [electron] and at 65535.
    """
    electrons = camera["dark"] * np.float32(exptime)
    jumping = camera["unstable"]
    electrons.flat[jumping] *= rng.choice([0.1, 1.0, 2.0], len(jumping)).astype(np.float32)
    if light is not None:
        electrons += light * camera["response"][name]
    if hits is not None:
        electrons[hits[1], hits[0]] += hits[2]
    noise = rng.standard_normal(electrons.shape, np.float32)
    noise *= np.sqrt(np.maximum(electrons, 0) + np.float32(readnoise**2))
    electrons += noise
    if full_well is not None:
        np.minimum(electrons, np.float32(full_well), out=electrons)
    electrons *= np.float32(1 / gain)
    electrons += camera["bias"]
    electrons += np.float32(offset)
    return np.clip(np.rint(electrons, out=electrons), 0, 65535).astype(np.uint16)
