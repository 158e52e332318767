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
MANY = 1 << 15  # pixels of stars that are worked on at once, so that a dozen planes of them stay in the cache
GAUSSIAN = 0.01  # 1/beta is kept above this: beta = 100 is a Gaussian for every purpose here


def disc(radius):
    """Offsets (dy, dx), integer arrays, of the pixels within `radius` of a centre pixel, the nearest first."""
    half = int(np.ceil(radius))
    dy, dx = np.mgrid[-half:half + 1, -half:half + 1].reshape(2, -1)
    order = np.argsort(dx**2 + dy**2, kind="stable")[:np.count_nonzero(dx**2 + dy**2 <= radius**2 + 0.25)]
    return dy[order], dx[order]


def parts(count, offsets, many=4 * MANY):
    """Slices of `count` stars whose pixels at the `offsets` are worked on at once: `many` of them, more where there are
    fewer planes than in a fit."""
    step = max(1, many // len(offsets[0]))
    return [slice(i, i + step) for i in range(0, count, step)]


def profiles(p, y, x, offsets):
    """Profiles without sky, (n, pixels) float32, of the stars `p` at the `offsets` (dy, dx) from the pixels (y, x)."""
    part = p.copy()
    part[:, X] -= x
    part[:, Y] -= y
    model = _model(part, _powers(offsets, 6))[0]
    model *= p[:, A, None].astype("f4")
    return model


def fit(values, y, x, offsets, start, noise, gain=None, light=0, free=POINT, passes=12, near=1e-3, sure=True):
    """Least squares of all stars at once: Levenberg-Marquardt, each star with its own damping.

    values  (n, pixels) at the `offsets` (dy, dx) from the pixels (y, x); NaN = leave this pixel out.  start: (n, 8).
    noise   (n,) noise of a sky pixel; with `gain` [electron/adu] the photons of the starting model, and of `light` (n,
            pixels: what else shines there), add to the variance of a pixel: of the model, not of the noisy data.
    free    the parameters fitted: POINT, SHAPE or ALL; the others stay.  A star is done when the next step would take
            less than about `near` off its chi2, that is move it by sqrt(near) of its own error, or after `passes`.

    Returns p (n, 8), errors (n, 8; 0 where not free, inf where undetermined, all 0 without `sure`), and chi2 (n,).
    """
    p, powers, data = start.copy(), _powers(offsets), np.array(values, "f4")
    p[:, X] -= x
    p[:, Y] -= y
    root = np.empty(data.shape, "f4")  # of the weights: 1 / noise
    for at in parts(len(p), offsets, MANY):
        root[at] = (noise[at, None] ** 2).astype("f4")
        if gain:
            shine = _model(p[at], powers[:6])[0]
            shine *= p[at, A, None].astype("f4")
            shine += light if np.isscalar(light) else light[at]
            np.maximum(shine, 0, out=shine)
            shine *= np.float32(1 / gain)
            root[at] += shine
        np.sqrt(root[at], out=root[at])
        np.divide(1, root[at], out=root[at])
        bad = ~np.isfinite(data[at])
        root[at][bad], data[at][bad] = 0, 0
        data[at] *= root[at]
    p, errors, chi2 = _fit(data, root, powers, p, list(free), passes, near, sure)
    p[:, X] += x
    p[:, Y] += y
    return p, errors, chi2


def _fit(data, root, powers, p, free, passes, near, sure):
    start, p, diagonal, reach = p, p.copy(), np.arange(len(free)), max(powers[1].max() / 2, 2)
    damping, active = np.full(len(p), 1e-4), np.arange(len(p))
    chi2, normal, gradient = _normals(data, root, powers, p, active, free)
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
        done = sane & (promise * np.minimum(_bend(p[active], trial), 1) ** 2 < near)  # the last step is taken on trust
        p[active[done]] = trial[done]
        chi2[active[done]] -= promise[done]
        active, trial, sane = active[~done], trial[~done], sane[~done]
        if not len(active):
            break
        trial = np.where(sane[:, None], trial, p[active])
        new = _normals(data, root, powers, trial, active, free)
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


def _bend(p, q):
    """By how much the model bends over a step from p to q, as a part of the step, which is what is left after it."""
    move, form = np.abs(q - p), np.maximum(p[:, XX] + p[:, YY], 1e-12)
    form = (move[:, XX] + 2 * move[:, XY] + move[:, YY]) / form + np.hypot(move[:, X], move[:, Y]) * np.sqrt(form)
    return move[:, A] / np.maximum(np.abs(q[:, A]), 1e-6) + form + move[:, SLOPE] / p[:, SLOPE]


def _normals(data, root, powers, p, rows, free):
    """`_normal` of the stars `rows` of data and root, whose parameters p are, some at a time."""
    n, m = len(rows), len(free)
    chi2, normal, gradient = np.empty(n), np.empty((m, m, n)), np.empty((m, n))
    for at in parts(n, powers, MANY):
        k = rows[at] if n < len(data) else at
        chi2[at], normal[:, :, at], gradient[:, at] = _normal(data[k], root[k], powers, p[at], free)
    return chi2, normal, gradient


def _normal(data, root, powers, p, free):
    """chi2 (n,), and the normal equations, J^T W J (free, free, n) and J^T W (data - model) (free, n), of each star.

    data: times the root of the weights.  All derivatives by place and form are steep = I / (1 + kq) times a polynomial
    in the pixel's offset, so that what is summed over the pixels are moments, one matrix product for all stars; the
    polynomials' coefficients do the rest.
    """
    a, x, y, xx, xy, yy, sky, slope = p.T
    k = 2**slope - 1
    model, base = _model(p, powers)
    model *= root
    planes = np.empty((4 if SLOPE in free else 3, *data.shape), "f4")  # what is left; the derivatives by A, sky, 1/beta
    rest = np.multiply(model, a.astype("f4")[:, None], out=planes[0])
    if SLOPE in free:
        bent = np.multiply(np.log(base), (slope**-2).astype("f4")[:, None], out=planes[3])
        bent += (1 / base - 1) * (0.6931472 * (1 + k) / slope / k).astype("f4")[:, None]
        bent *= rest
    rest += np.multiply(root, sky.astype("f4")[:, None], out=planes[1])
    np.subtract(data, rest, out=rest)
    steep = np.divide(model, base, out=base)
    planes[1], planes[2] = model, root

    size, last = (6, 6) if XX in free else (3, 3)
    gx, gy, scale = xx * x + xy * y, xy * x + yy * y, a * k / slope
    forms = np.zeros((last - 1, size, len(p)))
    forms[0, :3], forms[1, :3] = (-2 * gx, 2 * xx, 2 * xy), (-2 * gy, 2 * xy, 2 * yy)
    if XX in free:
        forms[2, [0, 1, 3]] = -x * x, 2 * x, -1 + 0 * x
        forms[3, [0, 1, 2, 4]] = -2 * x * y, 2 * y, 2 * x, -2 + 0 * x
        forms[4, [0, 2, 5]] = -y * y, 2 * y, -1 + 0 * y
    forms *= scale
    some = np.ascontiguousarray(powers[:size].T)
    sums = ((planes * steep).reshape(-1, data.shape[1]) @ some).reshape(len(planes), len(p), size)
    cross = np.einsum("ian,kan->kin", forms, sums.transpose(0, 2, 1).astype("f8", order="C"))
    steep *= steep
    moments = (steep @ powers[:15 if XX in free else 6].T).T.astype("f8")[PRODUCT[:size, :size]]

    normal, gradient = np.empty((len(free), len(free), len(p))), np.empty((len(free), len(p)))
    normal[1:last, 1:last] = np.einsum("ibn,jbn->ijn", np.einsum("ian,abn->ibn", forms, moments), forms)
    gradient[1:last] = cross[0]
    others = (0, *range(last, len(free)))
    for i, one, mixed in zip(others, planes[1:], cross[1:]):
        normal[i, 1:last] = normal[1:last, i] = mixed
        gradient[i] = np.vecdot(rest, one)
        for j, other in zip(others, planes[1:]):
            if j <= i:
                normal[i, j] = normal[j, i] = np.vecdot(one, other)
    return np.vecdot(rest, rest), normal, gradient


def _model(p, powers):
    """Profiles of height 1 without sky (n, pixels) float32, and 1 + kq; p's places are in pixels from where the
    offsets of `powers` (see `_powers`) are counted."""
    _, x, y, xx, xy, yy, _, slope = p.T
    gx, gy, k = xx * x + xy * y, xy * x + yy * y, 2**slope - 1
    q = np.empty((len(p), 6))
    q.T[:] = gx * x + gy * y, -2 * gx, -2 * gy, xx, 2 * xy, yy
    q *= k[:, None]
    q[:, 0] += 1
    base = q.astype("f4") @ powers[:6]
    np.maximum(base, 1, out=base)
    model = np.log(base)
    if len(slope) and (slope == slope[0]).all():
        slope = slope[:1]  # one number is taken faster than one for each row
    model *= (-1 / slope).astype("f4")[:, None]
    np.exp(model, out=model)
    return model, base


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
