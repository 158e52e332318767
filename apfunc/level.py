"""The sky under the images of a picture: for each a smooth surface through the darkest parts of the field.

    sky(y, x) = sum of c[i, j] y^i x^j,   i + j <= degree,   y and x from -1 to 1 over the image

It is the surface that a tenth of the field lies below (quantile regression: Koenker & Bassett 1978, Econometrica 46,
33): a nebula that covers most of the field stays above it, and where all images are darkest the picture is neutral.
"""

import numpy as np

from apfunc import starflux

BELOW = 0.1  # the share of the field that is darker than the surface
HIGHEST = 3  # degree that a sky without nebula may get
TILTED = 0.4  # share of the range (10 to 90 %) of the levels that a tilted sky may leave
PLAIN = 0.8  # share of the field that such a surface must explain to the noise


def skies(images, degree=None):
    """(surfaces, noises) of 2-D images of one shape; NaN = no value.

    surfaces  a square array of coefficients c for each image, to be drawn with `at`; noises: of a sky pixel, of each.
    degree    of the surfaces; None: 1, a plane, or where the sky is curved and hardly anything else is seen, 3: a
              nebula is never that smooth, so that none is taken for a gradient.

    Measured in the boxes of `starflux.boxes`.  A constant where they are few.  NaN where nothing can be measured.
    """
    levels, noises, y, x = starflux.boxes(images)
    good = np.isfinite(levels).all(0)
    if not good.any():
        return [np.full((1, 1), np.nan)] * len(images), [np.nan] * len(images)
    levels, noises, y, x = np.stack(levels)[:, good], np.stack(noises)[:, good], y[good], x[good]
    most = 0 if good.sum() < 12 or min(np.ptp(y), np.ptp(x)) < 0.6 else HIGHEST if good.sum() >= 60 else 1
    chosen = min(most, 1 if degree is None else degree)
    if degree is None and most == HIGHEST:
        total = (levels / np.maximum(np.median(noises, 1), 1e-30)[:, None]).sum(0)
        width = 3 * np.sqrt(len(images)) * max(3 / starflux.BOX, 0.06)  # a box of correlated noise, and a little more
        plane, curved = (_explained(total, y, x, n, width) for n in (1, HIGHEST))
        chosen = HIGHEST if curved > PLAIN > plane else chosen
    terms = _terms(y, x, chosen)
    found = [_envelope(level, terms) for level in levels]
    dark = [level <= terms @ c + 3 * noise / starflux.BOX for level, noise, c in zip(levels, noises, found)]
    return [_square(c, chosen) for c in found], [float(np.median(n[d])) for n, d in zip(noises, dark)]


def darkest(data):
    """The coefficients, for `at`, of the level of the darkest tenth of an image, what the noise of its boxes makes of
    it set right; tilted where a plane takes away most of what the levels range over: no nebula is that even.
    """
    (levels,), (noises,), y, x = starflux.boxes([data])
    good = np.isfinite(levels)
    if not good.any():
        return np.zeros((1, 1))
    levels, noise, y, x = levels[good], np.median(noises[good]), y[good], x[good]
    terms, tilt = _terms(y, x, 1), np.zeros(3)
    if good.sum() >= 60:
        tilt[1:] = _envelope(levels, terms, 0.5)[1:]
    flat = levels - terms @ tilt
    sky = TILTED * np.subtract(*np.quantile(levels, [0.9, 0.1])) > np.subtract(*np.quantile(flat, [0.9, 0.1]))
    levels, tilt = (flat, tilt) if sky else (levels, np.zeros(3))
    error = 1.5 * noise / starflux.BOX  # of a box; neighbouring pixels are not independent
    low = np.quantile(levels, BELOW) + 1.28 * error
    near = levels[np.abs(levels - low) <= 2 * error]
    tilt[0] = np.median(near) if near.size else low
    return _square(tilt, 1)


def at(surface, shape, rows=slice(None), columns=slice(None)):
    """The surface of an image of `shape` at its `rows` and `columns` (slices), float32; a number when constant."""
    if surface.size == 1:
        return np.float32(surface[0, 0])
    y, x = (2 * np.arange(n)[part] / max(n - 1, 1) - 1 for n, part in zip(shape, (rows, columns)))
    powers = np.arange(len(surface))
    return (y[:, None]**powers).astype("f4") @ (surface @ x**powers[:, None]).astype("f4")


def _terms(y, x, degree):
    return np.stack([y**i * x**j for i in range(degree + 1) for j in range(degree + 1 - i)], 1)


def _square(found, degree):
    """The coefficients of `_terms` as an array c[i, j]."""
    out, k = np.zeros((degree + 1, degree + 1)), 0
    for i in range(degree + 1):
        out[i, :degree + 1 - i] = found[k:k + degree + 1 - i]
        k += degree + 1 - i
    return out


def _envelope(values, terms, below=BELOW):
    """Coefficients of the surface that the share `below` of the values lies below, by reweighted least squares."""
    found = np.zeros(terms.shape[1])
    found[0] = np.quantile(values, below)
    least = 1e-3 * np.ptp(values) + 1e-9
    for _ in range(50 if len(found) > 1 else 0):
        rest = values - terms @ found
        weight = np.sqrt(np.where(rest > 0, below, 1 - below) / np.maximum(np.abs(rest), least))
        found = np.linalg.lstsq(terms * weight[:, None], values * weight, rcond=None)[0]
    return found


def _explained(values, y, x, degree, width):
    """The share of the boxes that a surface through the middle of their values leaves less than `width` off."""
    terms = _terms(y, x, degree)
    return np.mean(np.abs(values - terms @ _envelope(values, terms, 0.5)) < width)
