"""The distortion of a camera about the centre of its frame, as a few coefficients, and as SIP."""

import numpy as np

from apfunc import wcs

# The distortion models, simplest first, and the stars each needs.  "radial" is r^3 about the frame's centre,
# "centre" is
# that with its centre free, the others are all terms up to that power.
MODELS = {"none": 0, "radial": 5, "centre": 9, "cubic": 30, "quintic": 120}
POWERS = {"cubic": wcs.terms(3), "quintic": wcs.terms(5)}


def basis(model, u, v):
    """The distortion's terms at normalised u, v: an array (2, terms, points), in pixels per coefficient."""
    if model == "none":
        return np.zeros((2, 0, len(u)))
    radial = np.stack([u * (u**2 + v**2), v * (u**2 + v**2)])
    if model == "radial":
        return radial[:, None, :]
    if model == "centre":
        return np.stack([radial, np.stack([3 * u**2 + v**2, 2 * u * v]),
                         np.stack([2 * u * v, u**2 + 3 * v**2])], axis=1)
    most = max(p for p, _ in POWERS[model])
    of_u, of_v = (np.cumprod(np.stack([np.ones_like(w), *[w] * most]), axis=0) for w in (u, v))
    powers = np.stack([of_u[p] * of_v[q] for p, q in POWERS[model]])
    return np.stack([np.concatenate([powers, 0 * powers]), np.concatenate([0 * powers, powers])])


def sip(model, coefficients, size):
    """The SIP arrays (a, b) of a distortion model's coefficients, `size` being the pixels of u, v = 1."""
    if model == "none":
        return None, None
    if model in ("radial", "centre"):
        a, b = np.zeros((2, 4, 4))
        a[3, 0] = a[1, 2] = b[2, 1] = b[0, 3] = coefficients[0] / size**3
        if model == "centre":
            p, q = coefficients[1:] / size**2
            a[2, 0], a[0, 2], b[1, 1] = 3 * p, p, 2 * p
            b[2, 0], b[0, 2], a[1, 1] = q, 3 * q, 2 * q
        return a, b
    order = max(p + q for p, q in POWERS[model])
    a, b = np.zeros((2, order + 1, order + 1))
    half = len(coefficients) // 2
    for k, (p, q) in enumerate(POWERS[model]):
        a[p, q], b[p, q] = coefficients[k] / size**(p + q), coefficients[half + k] / size**(p + q)
    return a, b
