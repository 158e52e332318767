"""The star's image as an elliptical Moffat function, fitted to all stars at once (Moffat 1969, A&A 3, 455).

    I(x, y) = A (1 + k q)^-beta + sky,   q = a dx^2 + 2 b dx dy + c dy^2,   k = 2^(1/beta) - 1

so that q = 1 at half the peak: a, b, c give the full widths at half maximum whatever beta is, and beta -> infinity is
a Gaussian.  A star's parameters are the row (A, x, y, a, b, c, sky, 1/beta); a set of stars is an (n, 8) float64 array.
The width is that of the sampled profile, pixel included, as every star finder reports it.
"""

import numpy as np

A, X, Y, XX, XY, YY, SKY, SLOPE = range(8)
POINT, SHAPE, ALL = (A, X, Y, SKY), (A, X, Y, XX, XY, YY, SKY), (A, X, Y, XX, XY, YY, SKY, SLOPE)
GAUSSIAN = 0.01  # 1/beta is kept above this: beta = 100 is a Gaussian for every purpose here


def disc(radius):
    """Offsets (dy, dx), integer arrays, of the pixels within `radius` of a centre pixel, the nearest first."""
    half = int(np.ceil(radius))
    dy, dx = np.mgrid[-half:half + 1, -half:half + 1].reshape(2, -1)
    order = np.argsort(dx**2 + dy**2, kind="stable")[:np.count_nonzero(dx**2 + dy**2 <= radius**2 + 0.25)]
    return dy[order], dx[order]


def profiles(p, y, x, offsets):
    """Profiles without sky, (n, pixels) float32, of the stars `p` at the `offsets` (dy, dx) from the pixels (y, x)."""
    part = p.copy()
    part[:, X] -= x
    part[:, Y] -= y
    return _model(part, *(np.asarray(v, "f4") for v in offsets), ())[0] - part[:, SKY, None].astype("f4")


def fit(values, y, x, offsets, start, noise, gain=None, light=0, free=POINT, passes=12, near=0.01, chunk=128):
    """Least squares of all stars at once: Levenberg-Marquardt, each star with its own damping.

    values  (n, pixels) at the `offsets` (dy, dx) from the pixels (y, x); NaN = leave this pixel out.  start: (n, 8).
    noise   (n,) noise of a sky pixel; with `gain` [electron/adu] the photons of the starting model, and of `light` (n,
            pixels: what else shines there), add to the variance of a pixel: of the model, not of the noisy data.
    free    the parameters fitted: POINT, SHAPE or ALL; the others stay.  A star is done when a step takes less than
            `near` off its chi2, that is when it moves by less than sqrt(near) of its own error, or after `passes`.

    Returns p (n, 8), errors (n, 8; 0 where not free, inf where undetermined), and chi2 (n,).
    """
    p, errors, chi2 = start.copy(), np.zeros(start.shape), np.zeros(len(start))
    offsets = [np.asarray(v, "f4") for v in offsets]
    p[:, X] -= x
    p[:, Y] -= y
    for i in range(0, len(p), chunk):
        at = slice(i, i + chunk)
        data = np.asarray(values[at], "f4")
        weight = np.broadcast_to((noise[at, None] ** 2).astype("f4"), data.shape)
        if gain:
            shine = _model(p[at], *offsets, ())[0] - p[at, SKY, None].astype("f4")
            shine = shine + (light if np.isscalar(light) else light[at])
            weight = weight + np.maximum(shine, 0) / np.float32(gain)
        weight = np.where(np.isfinite(data), 1 / weight, 0)
        p[at], errors[at], chi2[at] = _fit(np.nan_to_num(data), weight, *offsets, p[at], list(free), passes, near)
    p[:, X] += x
    p[:, Y] += y
    return p, errors, chi2


def _fit(data, weight, dy, dx, p, free, passes, near):
    def state(p, rows):
        model, jacobian = _model(p, dy, dx, free)
        rest = data[rows] - model
        weighted = jacobian * weight[rows, None]
        return ((weight[rows] * rest**2).sum(1), (weighted @ jacobian.transpose(0, 2, 1)).astype("f8"),
                (weighted @ rest[:, :, None])[:, :, 0].astype("f8"))

    start, diagonal, reach = p, np.arange(len(free)), max(dx.max() / 2, 2)
    damping, active = np.full(len(p), 1e-4), np.arange(len(p))
    chi2, normal, gradient = state(p, active)
    for _ in range(passes):
        size = np.sqrt(np.maximum(normal[active][:, diagonal, diagonal], 1e-30))
        matrix = normal[active] / size[:, :, None] / size[:, None]
        matrix[:, diagonal, diagonal] = 1 + damping[active, None]
        step = np.linalg.solve(matrix, (gradient[active] / size)[:, :, None])[:, :, 0] / size
        promise = (step * gradient[active]).sum(1)  # what the step should take off chi2
        trial = p[active]
        trial[:, free] += step
        trial[:, SLOPE] = np.clip(trial[:, SLOPE], GAUSSIAN, 0.8)
        away = np.hypot(trial[:, X] - start[active, X], trial[:, Y] - start[active, Y])
        sane = (trial[:, XX] > 0) & (trial[:, XX] * trial[:, YY] > trial[:, XY] ** 2) & (away < reach)
        trial = np.where(sane[:, None], trial, p[active])
        new = state(trial, active)
        better = sane & (new[0] <= chi2[active] * (1 + 1e-5))
        good = active[better]
        p = p.copy()
        p[good], chi2[good], normal[good], gradient[good] = trial[better], *(v[better] for v in new)
        lighter, heavier = np.maximum(damping[active] * 0.1, 1e-6), np.maximum(damping[active] * 10, 1e-2)
        damping[active] = np.where(better, lighter, heavier)
        active = active[~(better & (promise < near)) & (damping[active] < 1e6)]
        if not len(active):
            break
    size = np.sqrt(np.maximum(normal[:, diagonal, diagonal], 1e-30))
    normal = normal / size[:, :, None] / size[:, None]
    normal[:, diagonal, diagonal] += 1e-7
    errors = np.zeros(p.shape)
    errors[:, free] = np.sqrt(np.abs(np.linalg.inv(normal)[:, diagonal, diagonal])) / size
    errors[:, free] = np.where(size > 1e-14, errors[:, free], np.inf)
    return p, errors, chi2


def _model(p, dy, dx, free):
    """Profiles with sky (n, pixels) and their derivatives (n, free, pixels), float32; p's places are in pixels from
    where dy and dx are counted."""
    a, x, y, xx, xy, yy, sky, slope = (v[:, None] for v in p.astype("f4").T)
    a = np.where(np.abs(a) < 1e-6, np.float32(1e-6), a)
    beta = 1 / slope
    k = 2**slope - 1
    dx, dy = dx - x, dy - y
    gx, gy = xx * dx + xy * dy, xy * dx + yy * dy
    q = np.maximum(gx * dx + gy * dy, 0)
    log = np.log(1 + k * q)
    model = a * np.exp(-beta * log)
    jacobian = np.empty((len(p), len(free), q.shape[1]), "f4")
    if len(free):
        steep = model * (beta * k) / (1 + k * q)  # -dI/dq
        jacobian[:, A], jacobian[:, X], jacobian[:, Y] = model / a, 2 * steep * gx, 2 * steep * gy
        jacobian[:, 3 if len(free) == 4 else SKY] = 1
    if len(free) > 4:
        jacobian[:, XX], jacobian[:, XY], jacobian[:, YY] = -steep * dx**2, -2 * steep * dx * dy, -steep * dy**2
    if len(free) > 7:
        jacobian[:, SLOPE] = model * beta**2 * log - steep * q * (0.6931472 * (1 + k) / k)
    return model + sky, jacobian


def total(p):
    """Flux (n,) of each star to infinity: pi A / (k (beta - 1) sqrt(ac - b^2)); beta is taken as at least 1.3."""
    beta = 1 / np.minimum(p[:, SLOPE], 1 / 1.3)
    return np.pi * p[:, A] / ((2 ** (1 / beta) - 1) * (beta - 1) * np.sqrt(p[:, XX] * p[:, YY] - p[:, XY] ** 2))


def shape(p):
    """FWHM (geometric mean of the axes, pixel), ellipticity (1 - minor/major) and angle of the major axis [degree,
    from +x towards +y, -90 to 90] of each star."""
    half, root = (p[:, XX] + p[:, YY]) / 2, np.hypot((p[:, XX] - p[:, YY]) / 2, p[:, XY])
    narrow, wide = half + root, np.maximum(half - root, 1e-12)  # inverse squares of the half axes
    theta = np.degrees(0.5 * np.arctan2(-2 * p[:, XY], p[:, YY] - p[:, XX]))
    return 2 * (narrow * wide) ** -0.25, 1 - np.sqrt(wide / narrow), theta


def star(fwhm, ellipticity=0.0, theta=0.0, beta=4.0, flux=1.0, x=0.0, y=0.0):
    """The (1, 8) parameters of one star of a given total flux and shape; the inverse of `shape` and `total`."""
    major, minor = 4 * (1 - ellipticity) / fwhm**2, 4 / (1 - ellipticity) / fwhm**2
    c, s = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    p = np.array([[1.0, x, y, major * c * c + minor * s * s, (major - minor) * s * c, major * s * s + minor * c * c,
                   0.0, max(1 / beta, GAUSSIAN)]])
    p[:, A] = flux / total(p)
    return p


def psf_image(meta, size=None):
    """A picture of the frame's PSF, its sum 1 over an infinite plane: float32, `size` x `size` pixels, centred.

    meta: of a star table (FWHM, ELLIP, THETA, BETA); size: odd, by default 8 FWHM.  ValueError without a FWHM.
    """
    fwhm = meta.get("FWHM")
    if fwhm is None:
        raise ValueError("the star table has no FWHM (too few stars), so there is no PSF to draw")
    half = int(size) // 2 if size else int(np.ceil(4 * fwhm))
    offsets = np.mgrid[-half:half + 1, -half:half + 1].reshape(2, -1)
    zero = np.zeros(1)
    p = star(fwhm, meta.get("ELLIP") or 0, meta.get("THETA") or 0, meta.get("BETA") or 4)
    return profiles(p, zero, zero, offsets).reshape(2 * half + 1, -1)
