"""The star's image as an elliptical Moffat function, fitted to all stars at once (Moffat 1969, A&A 3, 455).

    I(x, y) = A (1 + k q)^-beta + sky,   q = a dx^2 + 2 b dx dy + c dy^2,   k = 2^(1/beta) - 1

so that q = 1 at half the peak: a, b, c give the full widths at half maximum whatever beta is, and beta -> infinity is
a Gaussian.  A star's parameters are the row (A, x, y, a, b, c, sky, 1/beta); a set of stars is an (n, 8) float64 array.
The width is that of the sampled profile, pixel included, as every star finder reports it.
"""

import numpy as np

A, X, Y, XX, XY, YY, SKY, SLOPE = range(8)
POINT, SHAPE, ALL = (A, X, Y, SKY), (A, X, Y, XX, XY, YY, SKY), (A, X, Y, XX, XY, YY, SKY, SLOPE)
POWERS = [(i, k - i) for k in range(5) for i in range(k, -1, -1)]  # of dx^i dy^j, to the fourth degree
PRODUCT = np.array([[POWERS.index((i + k, j + m)) for k, m in POWERS[:6]] for i, j in POWERS[:6]])
CHUNK = 256  # stars whose pixels are worked on at once, so that they stay in the cache
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
    return _model(part, _powers(offsets, 6))[0]


def fit(values, y, x, offsets, start, noise, gain=None, light=0, free=POINT, passes=12, near=0.01, sure=True):
    """Least squares of all stars at once: Levenberg-Marquardt, each star with its own damping.

    values  (n, pixels) at the `offsets` (dy, dx) from the pixels (y, x); NaN = leave this pixel out.  start: (n, 8).
    noise   (n,) noise of a sky pixel; with `gain` [electron/adu] the photons of the starting model, and of `light` (n,
            pixels: what else shines there), add to the variance of a pixel: of the model, not of the noisy data.
    free    the parameters fitted: POINT, SHAPE or ALL; the others stay.  A star is done when a step takes less than
            `near` off its chi2, that is when it moves by less than sqrt(near) of its own error, or after `passes`.

    Returns p (n, 8), errors (n, 8; 0 where not free, inf where undetermined, all 0 without `sure`), and chi2 (n,).
    """
    p, powers, data = start.copy(), _powers(offsets), np.array(values, "f4")
    p[:, X] -= x
    p[:, Y] -= y
    weight = np.empty(data.shape, "f4")
    for i in range(0, len(p), CHUNK):
        at = slice(i, i + CHUNK)
        weight[at] = (noise[at, None] ** 2).astype("f4")
        if gain:
            shine = _model(p[at], powers)[0] + (light if np.isscalar(light) else light[at])
            weight[at] += np.maximum(shine, 0) / np.float32(gain)
        bad = ~np.isfinite(data[at])
        np.divide(1, weight[at], out=weight[at])
        weight[at][bad], data[at][bad] = 0, 0
    p, errors, chi2 = _fit(data, weight, powers, p, list(free), passes, near, sure)
    p[:, X] += x
    p[:, Y] += y
    return p, errors, chi2


def _fit(data, weight, powers, p, free, passes, near, sure):
    start, p, diagonal, reach = p, p.copy(), np.arange(len(free)), max(powers[1].max() / 2, 2)
    damping, active = np.full(len(p), 1e-4), np.arange(len(p))
    chi2, normal, gradient = _normals(data, weight, powers, p, active, free)
    for _ in range(passes):
        size = np.sqrt(np.maximum(normal[diagonal, diagonal][:, active], 1e-30))
        matrix = normal[:, :, active] / size[:, None] / size
        matrix[diagonal, diagonal] = 1 + damping[active]
        step = _solve(matrix, gradient[:, active] / size) / size
        promise = (step * gradient[:, active]).sum(0)  # what the step should take off chi2
        trial = p[active]
        trial[:, free] += step.T
        trial[:, SLOPE] = np.clip(trial[:, SLOPE], GAUSSIAN, 0.8)
        away = np.hypot(trial[:, X] - start[active, X], trial[:, Y] - start[active, Y])
        sane = (trial[:, XX] > 0) & (trial[:, XX] * trial[:, YY] > trial[:, XY] ** 2) & (away < reach)
        done = sane & (promise < near)  # the last step is taken on trust
        p[active[done]] = trial[done]
        chi2[active[done]] -= promise[done]
        active, trial, sane = active[~done], trial[~done], sane[~done]
        if not len(active):
            break
        trial = np.where(sane[:, None], trial, p[active])
        new = _normals(data, weight, powers, trial, active, free)
        better = sane & (new[0] <= chi2[active] * (1 + 1e-5))
        good = active[better]
        p[good], chi2[good] = trial[better], new[0][better]
        normal[:, :, good], gradient[:, good] = new[1][:, :, better], new[2][:, better]
        lighter, heavier = np.maximum(damping[active] * 0.1, 1e-6), np.maximum(damping[active] * 10, 1e-2)
        damping[active] = np.where(better, lighter, heavier)
        active = active[damping[active] < 1e6]
    errors = np.zeros(p.shape)
    if not sure:
        return p, errors, chi2
    size = np.sqrt(np.maximum(normal[diagonal, diagonal], 1e-30))
    matrix = normal / size[:, None] / size
    matrix[diagonal, diagonal] += 1e-7
    errors[:, free] = np.sqrt(np.abs(np.linalg.inv(matrix.transpose(2, 0, 1))[:, diagonal, diagonal])) / size.T
    errors[:, free] = np.where(size.T > 1e-14, errors[:, free], np.inf)
    return p, errors, chi2


def _normals(data, weight, powers, p, rows, free):
    """`_normal` of the stars `rows` of data and weight, whose parameters p are, some at a time."""
    n, m = len(rows), len(free)
    chi2, normal, gradient = np.empty(n), np.empty((m, m, n)), np.empty((m, n))
    for i in range(0, n, CHUNK):
        at = slice(i, i + CHUNK)
        k = rows[at] if n < len(data) else at
        chi2[at], normal[:, :, at], gradient[:, at] = _normal(data[k], weight[k], powers, p[at], free)
    return chi2, normal, gradient


def _normal(data, weight, powers, p, free):
    """chi2 (n,), and the normal equations, J^T W J (free, free, n) and J^T W (data - model) (free, n), of each star.

    All derivatives by place and form are steep = I / (1 + kq) times a polynomial in the pixel's offset, so that what is
    summed over the pixels are moments, one matrix product for all stars; the polynomials' coefficients do the rest.
    """
    model, base, log = _model(p, powers)
    a, x, y, xx, xy, yy, sky, slope = p.T
    k, steep, rest = 2**slope - 1, model / base, data - model
    rest -= sky.astype("f4")[:, None]
    forms = [[-2 * (xx * x + xy * y), 2 * xx, 2 * xy], [-2 * (xy * x + yy * y), 2 * xy, 2 * yy]]
    if XX in free:
        zero, one = 0 * x, 0 * x + 1
        forms = [row + [zero] * 3 for row in forms] + [
            [-x * x, 2 * x, zero, -one, zero, zero], [-2 * x * y, 2 * y, 2 * x, zero, -2 * one, zero],
            [-y * y, zero, 2 * y, zero, zero, -one]]
    forms = np.array(forms) * (k / slope)
    size, normal, gradient = forms.shape[1], np.empty((len(free), len(free), len(p))), np.empty((len(free), len(p)))
    heavy, places = weight * steep, [free.index(v) for v in (X, Y, XX, XY, YY) if v in free]
    squares, some = powers[:15 if XX in free else 6].T, powers[:size].T
    moments = ((heavy * steep) @ squares).T.astype("f8")[PRODUCT[:size, :size]]
    normal[np.ix_(places, places)] = np.einsum("ibn,jbn->ijn", np.einsum("ian,abn->ibn", forms, moments), forms)
    gradient[places] = (forms * ((heavy * rest) @ some).T).sum(1)
    by = {A: model, SKY: powers[0]}  # the derivatives by A (times A), sky and 1/beta
    if SLOPE in free:
        by[SLOPE] = model * (slope**-2).astype("f4")[:, None] * log
        by[SLOPE] -= (model - steep) * (0.6931472 * (1 + k) / slope / k).astype("f4")[:, None]  # steep k q
    pull = weight * rest
    for name, one in by.items():
        i, lean = free.index(name), heavy if name == SKY else heavy * one
        normal[i, places] = normal[places, i] = (forms * (lean @ some).T).sum(1)
        gradient[i] = np.vecdot(pull, one)
        lean = weight if name == SKY else weight * one
        for other in by:
            normal[i, free.index(other)] = np.vecdot(lean, by[other])
    a, i = np.where(np.abs(a) < 1e-6, 1e-6, a), free.index(A)
    gradient[i] /= a
    normal[i] /= a
    normal[:, i] /= a
    return np.vecdot(pull, rest), normal, gradient


def _model(p, powers):
    """Profiles without sky (n, pixels) float32, 1 + kq and its logarithm; p's places are in pixels from where the
    offsets of `powers` (see `_powers`) are counted."""
    a, x, y, xx, xy, yy, _, slope = p.T
    gx, gy, k = xx * x + xy * y, xy * x + yy * y, 2**slope - 1
    q = np.stack([gx * x + gy * y, -2 * gx, -2 * gy, xx, 2 * xy, yy], 1) * k[:, None]
    q[:, 0] += 1
    base = q.astype("f4") @ powers[:6]
    np.maximum(base, 1, out=base)
    if len(slope) and (slope == slope[0]).all():
        slope = slope[:1]  # one number is taken faster than one for each row
    log = np.log(base)
    model = log * (-1 / slope).astype("f4")[:, None]
    np.exp(model, out=model)
    model *= a.astype("f4")[:, None]
    return model, base, log


def _powers(offsets, most=15):
    """The first products dx^i dy^j of POWERS at the offsets (dy, dx), (most, pixels) float32."""
    dy, dx = (np.asarray(v, "f4") for v in offsets)
    out = np.ones((most, len(dx)), "f4")
    for n, (i, j) in enumerate(POWERS[1:most], 1):
        np.multiply(out[POWERS.index((i - 1, j) if i else (i, j - 1))], dx if i else dy, out=out[n])
    return out


def _solve(matrix, right):
    """Solutions (k, n) of n positive definite systems (k, k, n) by elimination, all at once; its arguments are lost."""
    for i in range(len(right)):
        share = matrix[i + 1:, i] / matrix[i, i]
        matrix[i + 1:, i + 1:] -= share[:, None] * matrix[i, i + 1:]
        right[i + 1:] -= share * right[i]
    for i in reversed(range(len(right))):
        right[i] = (right[i] - (matrix[i, i + 1:] * right[i + 1:]).sum(0)) / matrix[i, i]
    return right


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
