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
    """Offsets (dy, dx), integer arrays, of the pixels within `radius` of a centre pixel."""
    half = int(np.ceil(radius))
    dy, dx = np.mgrid[-half:half + 1, -half:half + 1].reshape(2, -1)
    inside = dx**2 + dy**2 <= radius**2 + 0.25
    return dy[inside], dx[inside]


def stars_model(p, x, y):
    """Profiles without sky, (n, pixels), of the stars `p` at the pixel positions x, y (n, pixels)."""
    beta = 1 / p[:, SLOPE, None]
    dx, dy = x - p[:, X, None], y - p[:, Y, None]
    q = p[:, XX, None] * dx**2 + 2 * p[:, XY, None] * dx * dy + p[:, YY, None] * dy**2
    return p[:, A, None] * np.exp(-beta * np.log1p((2 ** (1 / beta) - 1) * q))


def _model(p, x, y, free):
    """Profiles with sky (n, pixels) and their derivatives (n, free, pixels)."""
    beta = 1 / p[:, SLOPE, None]
    k = 2 ** (1 / beta) - 1
    dx, dy = x - p[:, X, None], y - p[:, Y, None]
    gx, gy = p[:, XX, None] * dx + p[:, XY, None] * dy, p[:, XY, None] * dx + p[:, YY, None] * dy
    kq = np.maximum(k * (gx * dx + gy * dy), -0.5)
    log = np.log1p(kq)
    unit = np.exp(-beta * log)
    steep = p[:, A, None] * unit * (beta * k) / (1 + kq)  # -dI/dq
    jacobian = np.empty((len(p), len(free), x.shape[1]))
    for i, what in enumerate(free):
        jacobian[:, i] = {A: lambda: unit, X: lambda: 2 * steep * gx, Y: lambda: 2 * steep * gy,
                          XX: lambda: -steep * dx**2, XY: lambda: -2 * steep * dx * dy, YY: lambda: -steep * dy**2,
                          SKY: lambda: 1.0,
                          SLOPE: lambda: p[:, A, None] * unit * beta**2 * (
                              log - np.log(2) * (1 + k) / (beta * k) * kq / (1 + kq))}[what]()
    return p[:, A, None] * unit + p[:, SKY, None], jacobian


def fit(values, x, y, start, noise, gain=None, light=None, free=POINT, passes=12, chunk=96):
    """Least squares of all stars at once: Levenberg-Marquardt, each star with its own damping.

    values  (n, pixels), NaN = leave this pixel out; x, y: pixel positions, same shape; start: (n, 8) parameters.
    noise   (n,) noise of a sky pixel; with `gain` [electron/adu] the star's own photons, and those of `light`
            (n, pixels: what else shines there), add to the variance of a pixel, from the model, not from the data.
    free    the parameters fitted: POINT, SHAPE or ALL; the others stay.

    Returns p (n, 8), errors (n, 8; 0 where not free, inf where undetermined), and chi2 per degree of freedom (n,).
    """
    p, errors, chi2 = start.copy(), np.zeros(start.shape), np.full(len(start), np.inf)
    for i in range(0, len(p), chunk):
        part = slice(i, i + chunk)
        p[part], errors[part], chi2[part] = _fit(values[part], x[part], y[part], p[part], noise[part], gain,
                                                 None if light is None else light[part], free, passes)
    return p, errors, chi2


def _fit(values, x, y, start, noise, gain, light, free, passes):
    free, good = list(free), np.isfinite(values)
    values, p = np.where(good, values, 0), start.copy()
    damping, active = np.full(len(p), 1e-3), np.arange(len(p))
    diagonal = np.arange(len(free))
    reach = np.sqrt((x - p[:, X, None]) ** 2 + (y - p[:, Y, None]) ** 2).max(1) / 2

    def state(rows, p):
        model, jacobian = _model(p, x[rows], y[rows], free)
        variance = noise[rows, None] ** 2 + np.zeros_like(model)
        if gain:
            shine = model - p[:, SKY, None] + (0 if light is None else light[rows])
            variance += np.maximum(shine, 0) / gain
        return model, jacobian, good[rows] / np.maximum(variance, 1e-12)

    for _ in range(passes):
        model, jacobian, weight = state(active, p[active])
        rest = values[active] - model
        weighted = jacobian * weight[:, None]
        normal = weighted @ jacobian.transpose(0, 2, 1)
        gradient = (weighted @ rest[:, :, None])
        scale = normal[:, diagonal, diagonal]
        normal[:, diagonal, diagonal] = scale * (1 + damping[active, None]) + 1e-30 + 1e-12 * scale.max(1)[:, None]
        step = np.linalg.solve(normal, gradient)[:, :, 0]
        trial = p[active]
        trial[:, free] += step
        trial[:, SLOPE] = np.clip(trial[:, SLOPE], GAUSSIAN, 0.8)
        away = np.hypot(trial[:, X] - start[active, X], trial[:, Y] - start[active, Y])
        sane = (trial[:, XX] > 0) & (trial[:, XX] * trial[:, YY] > trial[:, XY] ** 2) & (away < reach[active])
        safe = np.where(sane[:, None], trial, p[active])
        model, _ = _model(safe, x[active], y[active], ())
        better = sane & ((weight * (values[active] - model) ** 2).sum(1) <= (weight * rest**2).sum(1) * (1 + 1e-9))
        p[active[better]] = trial[better]
        damping[active] = np.where(better, damping[active] * 0.1, np.maximum(damping[active] * 10, 1e-3))
        small = (np.abs(step[:, [free.index(X), free.index(Y)]]).max(1) < 1e-3) & (np.abs(step[:, free.index(A)]) < 1e-3 * np.abs(trial[:, A]) + 1e-9)
        active = active[~(better & small) & (damping[active] < 1e8)]
        if not len(active):
            break
    rows = np.arange(len(p))
    model, jacobian, weight = state(rows, p)
    normal = (jacobian * weight[:, None]) @ jacobian.transpose(0, 2, 1)
    scale = np.sqrt(np.maximum(normal[:, diagonal, diagonal], 1e-30))
    normal = normal / scale[:, :, None] / scale[:, None]
    normal[:, diagonal, diagonal] += 1e-9
    errors = np.zeros(p.shape)
    errors[:, free] = np.sqrt(np.abs(np.linalg.inv(normal)[:, diagonal, diagonal])) / scale
    errors[:, free] = np.where(scale > 1e-14, errors[:, free], np.inf)
    freedom = good.sum(1) - len(free)
    chi2 = np.where(freedom > 0, (weight * (values - model) ** 2).sum(1) / np.maximum(freedom, 1), np.inf)
    return p, errors, chi2


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
    y, x = np.mgrid[-half:half + 1, -half:half + 1].reshape(2, 1, -1)
    p = star(fwhm, meta.get("ELLIP") or 0, meta.get("THETA") or 0, meta.get("BETA") or 4)
    return stars_model(p, x, y).reshape(2 * half + 1, -1).astype("f4")
