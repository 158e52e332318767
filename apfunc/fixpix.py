"""Bad pixels: estimate them from their good neighbours, as a star would continue across them."""

import math

import numpy as np

from apfunc.header import BAD, NODATA, SATURATED, history, number
from apfunc.raw import middle

FWHM = 2.5                  # [pixel] a little sharper than most stars: errs small on either side of it
WINDOWS = ((2, 16), (3, 16), (5, 24))  # (half width, fewest good neighbours): a wider one where there are too few
NUGGET = 5e-4               # noise over signal (variances) that the sharp estimate reckons with
CHUNK = 1 << 15             # bad pixels done at a time: bounds the memory


def fixpix(image, badpix, mask=None, fwhm=None):
    """Replace bad pixels and NaN by an estimate from the good pixels around them.

    image    (data, header): 2-D float32 and its header; NaN pixels are repaired like bad ones
    badpix   2-D uint8, non-zero is bad, of the image's shape; or the pair (array, header); None: only NaN
    mask     2-D uint8: pixels with a bit other than SATURATED are not used as neighbours (nor repaired)
    fwhm     of a star [pixel]; without it 2.5, which serves stars of FWHM 2 to 6

    Returns a new image.  A bad pixel becomes the linear estimate with the least error (kriging) for a picture
    made of stars of that FWHM on a sky: the weights follow from which neighbours are good, so that isolated
    pixels, clusters and columns are one case, and a star's core is rebuilt from its flanks.  Where the
    neighbours differ by no more than their noise the estimate goes over into their plain local mean.  A bad
    pixel with too few good neighbours (fewer than 24 of the 120 nearest) becomes NaN.  A hole in a saturated
    core stays saturated.  Use `flag` for the mask.

    Reads SATURATE.  Writes NBADPIX (pixels repaired), NBADLEFT (left NaN) and a HISTORY line.
    Raises ValueError when the shapes differ.  Method: optimal linear interpolation (Rybicki & Press 1992).

    >>> fixed = fixpix((data, header), badpix)                                          # doctest: +SKIP
    """
    data, header = np.asarray(image[0], "f4"), image[1].copy()
    wrong = ~np.isfinite(data)
    if badpix is not None:
        wrong |= _same_shape(badpix[0] if isinstance(badpix, tuple) else badpix, data, "bad-pixel map") != 0
    unused = None if mask is None else (_same_shape(mask, data, "mask") & ~np.uint8(SATURATED)) != 0
    at = np.flatnonzero(wrong)
    values = estimate(data, at, wrong if unused is None else wrong | unused, fwhm, number(header, "SATURATE"))
    out = data.copy()
    out.ravel()[at] = values
    left = int(np.isnan(values).sum())
    header["NBADPIX"] = (at.size - left, "bad pixels interpolated")
    header["NBADLEFT"] = (left, "bad pixels without good neighbours, NaN")
    history(header, "fixpix", repaired=at.size - left, left=left, fwhm=fwhm)
    return out, header


def flag(mask, badpix, image):
    """The uint8 mask that belongs to a fixed image: `mask` with BAD where `badpix` is non-zero and BAD | NODATA
    where the image is NaN.  `mask` and `badpix` may be None.

    >>> mask = flag(None, badpix, fixed)                                                # doctest: +SKIP
    """
    data = image[0]
    out = np.zeros(data.shape, "u1") if mask is None else _same_shape(mask, data, "mask").astype("u1")
    if badpix is not None:
        out[_same_shape(badpix[0] if isinstance(badpix, tuple) else badpix, data, "bad-pixel map") != 0] |= BAD
    out[np.isnan(data)] |= BAD | NODATA
    return out


def estimate(data, at, wrong, fwhm=None, saturate=None):
    """Estimates (float32) of the pixels with flat indices `at` from the pixels that are not `wrong` (2-D bool).

    NaN where there are too few of these.  `saturate` is the level at and above which a pixel is saturated.
    """
    values = np.full(at.size, np.nan, "f4")
    if at.size == 0:
        return values
    noise2 = _noise(data, wrong) ** 2
    for start in range(0, at.size, CHUNK):
        todo = np.arange(start, min(start + CHUNK, at.size))
        for half, fewest in WINDOWS:
            near, good = _neighbours(data, at[todo], wrong, half)
            enough = good.sum(1) >= min(fewest, good.shape[1])
            sure = todo[enough]
            values[sure] = _blend(near[enough], good[enough], half, fwhm or FWHM, noise2)
            if saturate is not None:
                ring = np.abs(_offsets(half)).max(1) == 1
                full = good & ring & (near >= saturate)
                inside = sure[2 * full.sum(1)[enough] > (good & ring).sum(1)[enough]]
                values[inside] = np.maximum(values[inside], np.float32(saturate))
            todo = todo[~enough]
            if todo.size == 0:
                break
    return values


def _blend(near, good, half, fwhm, noise2):
    """The smooth estimate, a Gaussian-weighted mean, and as far as the neighbours' variance is more than noise, the
    sharp one; `near` (n, m) holds 0 where not `good`."""
    weights = np.exp(-(_offsets(half) ** 2).sum(1) / 4.0).astype("f4") * good
    smooth = (weights * near).sum(1) / weights.sum(1)
    rest = np.where(good, near - smooth[:, None], np.float32(0))
    signal = np.maximum((rest**2).sum(1) / good.sum(1) - 1.5 * noise2, 0)
    some = signal > 0
    if some.any():
        share = signal[some] / (signal[some] + noise2)
        smooth[some] += _krige(rest[some], good[some], half, fwhm) * share
    return smooth


def _krige(near, good, half, fwhm):
    """Sum of w * near with the weights w = K^-1 (k + l), sum w = 1, of each pattern of good neighbours.

    K is the covariance of a field of stars, exp(-d^2 / 4 s^2), with a little noise on its diagonal, k that with the
    centre, and l the same number for all, which follows from the sum.
    """
    patterns, which = _unique_rows(good)
    offsets = _offsets(half)
    spread = 4 * (fwhm / 2.3548) ** 2
    usable = patterns.astype(float)
    distance2 = ((offsets[:, None] - offsets) ** 2).sum(2)
    covariance = np.exp(-distance2 / spread) * (usable[:, :, None] * usable[:, None, :])
    diagonal = np.arange(len(offsets))
    covariance[:, diagonal, diagonal] = 1 + NUGGET
    centre = np.exp(-(offsets**2).sum(1) / spread) * usable
    solved, ones = np.moveaxis(np.linalg.solve(covariance, np.stack([centre, usable], 2)), 2, 0)
    weights = solved + ((1 - solved.sum(1)) / ones.sum(1))[:, None] * ones
    return np.einsum("ij,ij->i", weights.astype("f4")[which], near)


def _unique_rows(good):
    """The different rows of a bool array, and for each row which of them it is."""
    packed = np.packbits(good, axis=1)
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view("u8")
    keys = packed[:, 0] if packed.shape[1] == 1 else packed.view([("a", "u8"), ("b", "u8")])[:, 0]
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return good[first], which


def _neighbours(data, at, wrong, half):
    """Values (0 where not good) and goodness of the neighbours of the pixels `at`, both (n, m)."""
    ny, nx = data.shape
    dy, dx = _offsets(half).T
    y, x = np.divmod(at, nx)
    y, x = y[:, None] + dy, x[:, None] + dx
    inside = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    flat = np.where(inside, y * nx + x, 0)
    good = inside & ~wrong.ravel()[flat]
    return np.where(good, data.ravel()[flat], np.float32(0)), good


def _offsets(half):
    """(dy, dx) of the pixels of a square window without its centre, (m, 2)."""
    square = np.mgrid[-half:half + 1, -half:half + 1].reshape(2, -1).T
    return square[(square != 0).any(1)]


def _noise(data, wrong):
    """Noise of a pixel: robust scatter of the differences of neighbours along about 100 rows."""
    step = max(1, data.shape[0] // 100)
    rows = np.where(wrong[::step], np.float32(np.nan), data[::step])
    scatter = middle(np.abs(np.diff(rows, axis=1)))
    return scatter * 1.0484 if math.isfinite(scatter) else 0.0  # 1.4826 / sqrt(2)


def _same_shape(array, data, what):
    array = np.asarray(array)
    if array.shape != data.shape:
        raise ValueError(f"the {what} is {array.shape[::-1]} pixels and the image {data.shape[::-1]}; "
                         "use one of the same camera and binning")
    return array
