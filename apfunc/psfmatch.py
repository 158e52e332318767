"""The kernel that makes the stars of a sharp image look like those of a blurred one, and the convolution with it.

    K = M + sum of c_k B_k      FT(M) = FT(blurred Moffat) / FT(sharp Moffat)

M is the quotient of the two Moffat profiles that fit the stars of the two images; its wings reach as far as theirs.
The B_k (narrow Gaussians times low polynomials, each of zero sum) mend what a Moffat profile cannot, by least
squares over the cut-outs of the stars, sharp * K = blurred (Alard & Lupton 1998, ApJ 503, 325), with a prior that keeps
the c_k at zero where the stars are too few or too faint to tell.  The noise of the sharp cut-outs is in the model too:
what it adds to the normal equations, known from the sky, is taken off, or the fit would blur to smooth it away
(errors in variables; Fuller 1987, Measurement Error Models).  The sum of K is one: fluxes stay.
"""

import numpy as np

from apfunc import psf
from apfunc.starflux import cutouts, median

PRIOR = 0.06  # expected size of the coefficients, relative to the sum of the kernel
SLOPE = (0.28, 0.1)  # 1/beta of stars under a usual sky, and how much it varies
ALIKE = 0.05  # and how much between two images of one telescope


def profile(data, x, y, noise, gain=None, width=3.5):
    """The Moffat profile of the stars at integer (x, y), as a row (1, 8) of apfunc.psf with unit flux, and the
    error of its 1/beta; (None, nan) without stars.

    noise: of a sky pixel [adu]; gain [electron/adu] or None; width: a guess of the FWHM [pixel].  The mean over
    the stars, each weighted by its errors.
    """
    radius = float(np.clip(3 * width, 6, 16))
    dy, dx = psf.disc(radius)
    cut, _ = cutouts(data, x, y, int(np.ceil(radius)))
    side = 2 * int(np.ceil(radius)) + 1
    values = cut.reshape(-1, side, side)[:, dy + side // 2, dx + side // 2].astype("f8")
    start = np.repeat(psf.star(width), len(x), 0)
    start[:, [psf.A, psf.X, psf.Y]] = np.stack([np.nanmax(np.nan_to_num(values), 1), x, y], 1)
    p, errors, chi2 = psf.fit(values, y, x, (dy, dx), start, np.full(len(x), noise), gain, free=psf.ALL, passes=25)
    chi2 = np.maximum(chi2 / (np.isfinite(values).sum(1) - 8).clip(1), 1)
    fitted, ellipticity, _ = psf.shape(p)
    good = (p[:, psf.A] > 5 * errors[:, psf.A]) & (fitted > 0.8) & (fitted < 4 * width) & (ellipticity < 0.7)
    if not good.any():
        return None, np.nan
    middle = np.median(fitted[good])
    good &= np.abs(fitted - middle) < np.maximum(4 * 1.4826 * np.median(np.abs(fitted[good] - middle)), 0.15 * middle)
    p, errors, chi2 = p[good], errors[good], chi2[good]
    weight = (p[:, psf.A] / errors[:, psf.A])**2 / chi2
    weight = np.minimum(weight, np.sort(weight)[::-1][:5].mean())
    mean = (weight[:, None] * p).sum(0, keepdims=True) / weight.sum()
    error = np.sqrt(1 / np.sum(1 / (errors[:, psf.SLOPE]**2 * chi2 + 1e-4)))
    mean[0, psf.SLOPE] = np.average([mean[0, psf.SLOPE], SLOPE[0]], weights=[1 / error**2, 1 / SLOPE[1]**2])
    mean[0, [psf.X, psf.Y, psf.SKY]] = 0
    mean[0, psf.A] /= psf.total(mean)[0]
    found = fwhm(mean)
    if 0.6 < found / width < 1.5 or width != 3.5:
        return mean, float(error)
    return profile(data, x, y, noise, gain, found)


def alike(profiles):
    """Two results of `profile` as two rows whose 1/beta differ no more than their errors justify."""
    (one, error), (two, other) = profiles
    one, two = one.copy(), two.copy()
    noise = error**2 + other**2
    pull = (one[0, psf.SLOPE] - two[0, psf.SLOPE]) * noise / (noise + ALIKE**2)
    one[0, psf.SLOPE] -= pull * error**2 / noise
    two[0, psf.SLOPE] += pull * other**2 / noise
    return one, two


def fwhm(profile):
    """FWHM [pixel] of a profile."""
    return float(psf.shape(profile)[0][0])


def quotient(sharp, blurred, half):
    """The kernel (2 half + 1 squared, sum 1) that takes one profile of `profile` to the other; it never sharpens."""
    size = 4 * half
    y, x = (np.mgrid[:size, :size] + size // 2) % size - size // 2
    one, two = (np.fft.rfft2(_moffat(p[0], x, y)).real for p in (sharp, blurred))
    ratio = np.clip(two * one / (one**2 + 1e-12 * one[0, 0]**2), 0, None)
    ratio = np.minimum(ratio / ratio[0, 0], 1)
    full = np.fft.irfft2(ratio, (size, size))
    kernel = np.roll(full, (half, half), (0, 1))[:2 * half + 1, :2 * half + 1]
    return kernel / kernel.sum()


def _moffat(p, x, y):
    q = p[psf.XX] * x**2 + 2 * p[psf.XY] * x * y + p[psf.YY] * y**2
    return (1 + (2**p[psf.SLOPE] - 1) * q)**(-1 / p[psf.SLOPE])


def kernel(sharp, blurred, x, y, profiles, fluxes, noises, gain=None):
    """The kernel (odd square float32, sum 1) that matches the stars at integer (x, y) of `sharp` to `blurred`.

    profiles: of `profile`, of sharp and blurred; fluxes: (2, n) of the stars, to bring each pair of cut-outs to one
    scale; noises: of a sky pixel, of the two images; gain: [electron/adu] of the sharp one, None: no photon noise.
    """
    narrow, wide = fwhm(profiles[0]), fwhm(profiles[1])
    half = int(np.ceil(np.clip(6 * wide, 10, 32)))
    base = quotient(*profiles, half)
    blur = np.sqrt(max(wide**2 - narrow**2, 0.5)) / 2.3548
    parts = [gaussian(width, half, i, j) for width, top in ((0.5 * blur, 0), (blur, 2))
             for i in range(top + 1) for j in range(top + 1 - i)]
    core = gaussian(1.5 * blur, half)  # all are narrow: the wings are the profiles' business
    parts = [p - p.sum() * core for p in parts]
    # base itself is fitted too: it takes up that the two apertures do not hold the same share of the light
    coefficients = _fit(sharp, blurred, x, y, fluxes, noises, base, [*parts, base], int(np.ceil(2.5 * wide)), gain)
    out = (1 + coefficients[-1]) * base + sum(c * p for c, p in zip(coefficients, parts))
    return (out / out.sum()).astype("f4")


def gaussian(width, half, i=0, j=0):
    """Gaussian of a standard deviation [pixel] times (x/s)^i (y/s)^j on (2 half + 1)^2 pixels; plain, its sum is 1.

    It is integrated over each pixel (5 points a side), for it can be narrower than one.
    """
    fine = (np.arange(5 * (2 * half + 1)) - 5 * half - 2) / 5 / width
    bell = np.exp(-(fine**2) / 2)
    v, u = ((bell * fine**n / bell.sum()).reshape(-1, 5).sum(1) for n in (j, i))
    return np.outer(v, u)


def _fit(sharp, blurred, x, y, fluxes, noises, base, parts, reach, gain):
    """Coefficients of `parts`: ridge least squares over all pixels within `reach` of the stars."""
    half = len(base) // 2
    size, whole = 2 * reach + 1, 2 * (reach + half) + 1
    inside = (x >= reach) & (y >= reach) & (x < sharp.shape[1] - reach) & (y < sharp.shape[0] - reach)
    x, y, fluxes = x[inside][:60], y[inside][:60], fluxes[:, inside][:, :60]
    one, _ = cutouts(sharp, x, y, reach + half)
    two, distance = cutouts(blurred, x, y, reach)
    good = np.isfinite(one).mean(1) > 0.5
    good &= np.isfinite(cutouts(sharp, x, y, reach)[0]).all(1) & np.isfinite(two).all(1)
    one, two, fluxes = one[good], two[good], fluxes[:, good]
    if len(one) == 0:
        return np.zeros(len(parts))
    rim = distance > reach - 2
    rims = cutouts(sharp, x[good], y[good], reach)[0][:, rim], two[:, rim]
    local = [np.maximum(n, 1.4826 * median(np.abs(cut - median(cut)[:, None])))  # a nebula's knots count as noise
             for n, cut in zip(noises, rims)]
    one = np.nan_to_num(one - median(one)[:, None]) / fluxes[0][:, None]
    shape, known = [_fast(whole)] * 2, np.s_[:, 2 * half:whole, 2 * half:whole]
    spectrum = np.fft.rfft2(one.reshape(-1, whole, whole), shape)

    def through(k):
        out = np.fft.irfft2(spectrum * np.fft.rfft2(k, shape), shape)[known].reshape(-1, size**2)
        return (out - out[:, rim].mean(1)[:, None]).reshape(-1)

    two = (two - two[:, rim].mean(1)[:, None]) / fluxes[1][:, None]
    spread = np.sqrt((base**2).sum())
    error = np.hypot(local[0] * spread / fluxes[0], local[1] / fluxes[1]) + 2e-4
    weight = np.repeat(1 / error, size**2)
    rest = (two.reshape(-1) - through(base)) * weight
    design = np.stack([through(p) * weight for p in parts], 1)
    flat = np.stack([p.ravel() for p in parts])
    photons = np.maximum(fluxes[0], 0) / gain if gain else 0
    noise = (size**2 * noises[0]**2 + photons) / (fluxes[0] * error)**2  # of the sharp image, in the design
    for _ in range(3):  # what does not fit (a neighbour, a cosmic ray) is left out
        share = np.sum(noise * (rest != 0).reshape(-1, size**2).mean(1))
        value, vector = np.linalg.eigh(design.T @ design - share * flat @ flat.T)
        normal = vector * np.maximum(value, 0) @ vector.T + np.eye(len(parts)) / PRIOR**2
        coefficients = np.linalg.solve(normal, design.T @ rest + share * flat @ base.ravel())
        left = rest - design @ coefficients
        keep = np.abs(left) < 6 * max(1.0, 1.4826 * np.median(np.abs(left)))
        rest, design = rest * keep, design * keep[:, None]
    return coefficients


def convolve(data, kernel, tile=560, small=100):
    """`data` convolved with a small odd kernel, in square tiles by FFT.  NaN stays NaN and does not spread.

    Each pixel is the mean of what is there, weighted by the kernel: next to NaN and to the border too.  The sum of the
    weights is one elsewhere, and worked out in small tiles only where it is not.
    """
    half, good, out = kernel.shape[0] // 2, np.isfinite(data), np.empty(data.shape, "f4")
    through, share = _filter(kernel, data.shape, tile), _filter(kernel, data.shape, small)
    for part, around, inner in _tiles(data.shape, tile, half):
        values, there = data[around], good[around]
        out[part] = through(values if there.all() else np.where(there, values, np.float32(0)), inner)
    for part, around, inner in _tiles(data.shape, small, half):
        there = good[around]
        whole = there.shape == tuple(v.stop - v.start + 2 * half for v in part)
        if not (whole and there.all()) and good[part].any():
            with np.errstate(all="ignore"):
                out[part] /= share(there.astype("f4"), inner)
    out[~good] = np.nan
    return out


def _filter(kernel, shape, tile):
    """The function that gives the part `inner` of what is convolved, for tiles of so many pixels."""
    shape = [_fast(min(-(-n // -(-n // tile)), n) + len(kernel) - 1) for n in shape]
    transfer = np.fft.rfft2(kernel.astype("f4"), shape)
    return lambda values, inner: np.fft.irfft2(np.fft.rfft2(values, shape) * transfer, shape)[inner]


def _tiles(shape, tile, half):
    """Slices of the tiles of an image, of them with `half` pixels around, and of a tile in their convolution."""
    for top, bottom in _cuts(shape[0], tile):
        for left, right in _cuts(shape[1], tile):
            low, first = max(top - half, 0), max(left - half, 0)
            y, x = top - low + half, left - first + half
            yield (np.s_[top:bottom, left:right], np.s_[low:bottom + half, first:right + half],
                   np.s_[y:y + bottom - top, x:x + right - left])


def _cuts(size, tile):
    """Ends of the fewest nearly equal pieces of an axis that are no longer than `tile`."""
    ends = np.linspace(0, size, -(-size // tile) + 1).astype(int)
    return zip(ends, ends[1:])


def _fast(n):
    """The next size of the form 2^a 3^b 5^c."""
    while True:
        m = n
        for p in (2, 3, 5):
            while m % p == 0:
                m //= p
        if m == 1:
            return n
        n += 1
