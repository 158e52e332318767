"""The same stars in several aligned images: where they are, what they shine in each, and the ratio of two.

    flux = sum over a disc (value - median of a ring round it)
    ratio s of y = s x, errors in both:  s = sum(w x^ y) / sum(w x^ x),  1/w = ey^2 + s^2 ex^2 + (tau s x)^2

x^ is the best estimate of the true x given s, so that noise in x does not bias s (York 1966, Can. J. Phys. 44, 1079);
tau is the real scatter of the ratios (stars have colours), found from the residuals.
"""

import numpy as np

TILE = 24  # at most one star is taken from a tile of this many pixels
MOST = 400  # stars, the brightest ones
BOX = 32  # pixels of the side of a box that the sky is measured in


def peaks(data, noise, sky=0.0, sigma=10.0, tile=TILE, reach=12):
    """(x, y) of the star-like peaks of `data` as integer arrays, brightest first; spread over the field.

    data    2-D; NaN is no star.  noise: of a sky pixel; sky: its level.
    Tiles are larger in a large image: at most some 4000 of them, and the brightest are searched.  A peak is the
    highest pixel of its tile and of those within 5 pixels, rises `sigma` noises above the ring round it (3 x 3 mean
    against the ring's median, so that nebulae do not count), is wider than one pixel, and is not within `reach`
    pixels of the border.
    """
    tile = max(tile, int(np.sqrt(data.size / 4000)))
    rows, columns = (n // tile for n in data.shape)
    if rows == 0 or columns == 0 or not noise > 0:
        return np.zeros(0, int), np.zeros(0, int)
    tops = np.fmax.reduce(data[:rows * tile, :columns * tile].reshape(rows, tile, -1), axis=1)
    tops = np.fmax.reduce(tops.reshape(rows, columns, tile), axis=2)
    i, j = np.nonzero(tops > sky + 3 * noise)
    most = np.argsort(-tops[i, j], kind="stable")[:4 * MOST]
    i, j = i[most], j[most]
    tiles = np.stack([data[a * tile:(a + 1) * tile, b * tile:(b + 1) * tile].ravel() for a, b in zip(i, j)]
                     or [np.zeros(tile * tile)])
    dy, dx = np.divmod(np.where(np.isnan(tiles), -np.inf, tiles).argmax(1)[:len(i)], tile)
    y, x = i * tile + dy, j * tile + dx
    inside = (np.minimum(y, x) >= reach) & (y < data.shape[0] - reach) & (x < data.shape[1] - reach)
    y, x = y[inside], x[inside]
    cut, distance = cutouts(data, x, y, reach)
    ring = median(cut[:, distance >= 0.7 * reach])
    spread = 1.4826 * median(np.abs(cut[:, distance >= 0.7 * reach] - ring[:, None]))
    core = cut[:, distance < 1.5].mean(1) - ring
    near = cut[:, (distance > 0) & (distance <= 1)].mean(1) - ring
    highest = cut[:, distance < 5].max(1) <= cut[:, distance == 0][:, 0]
    star = highest & (core > sigma / 3 * np.maximum(noise, spread))
    star &= near > 0.2 * (cut[:, distance == 0][:, 0] - ring)
    order = np.argsort(-core[star], kind="stable")[:MOST]
    return x[star][order], y[star][order]


def cutouts(data, x, y, reach):
    """Square cut-outs round (x, y) as (n, pixels), NaN outside the image; and each pixel's distance from the middle."""
    dy, dx = np.mgrid[-reach:reach + 1, -reach:reach + 1].reshape(2, -1)
    y, x, side = np.asarray(y), np.asarray(x), 2 * reach + 1
    whole = (np.minimum(y, x) >= reach) & (y < data.shape[0] - reach) & (x < data.shape[1] - reach)
    cut = np.empty((len(y), side * side), "f4")
    if whole.any():  # rows of pixels are copied faster than pixels
        windows = np.lib.stride_tricks.sliding_window_view(data, (side, side))
        cut.reshape(len(y), side, side)[whole] = windows[y[whole] - reach, x[whole] - reach]
    if not whole.all():
        row, column = y[~whole, None] + dy, x[~whole, None] + dx
        outside = (row < 0) | (row >= data.shape[0]) | (column < 0) | (column >= data.shape[1])
        cut[~whole] = np.where(outside, np.nan, data[np.where(outside, 0, row), np.where(outside, 0, column)])
    return cut, np.hypot(dy, dx)


def median(values):
    """Median along axis 1 of what is not NaN; NaN where all are."""
    values = np.sort(values, axis=1)  # NaN last
    row, count = np.arange(len(values)), np.isfinite(values).sum(1)
    last = values.shape[1] - 1
    middle = (values[row, np.maximum((count - 1) // 2, 0)] + values[row, np.minimum(count // 2, last)]) / 2
    return np.where(count > 0, middle, np.float32(np.nan)) if values.size else np.full(len(values), np.nan, "f4")


def fluxes(data, x, y, radius, gain=None, clear=None):
    """(flux, error, half) at each integer (x, y): a soft-edged disc of `radius` pixels less the ring from 2 to 3 radii,
    its error, and the flux within half the radius.  The ring's level is its median, or its mean over the pixels
    `clear` (see `clear_rings`).

    NaN in the disc makes the flux NaN.  The error is measured where there is nothing: the scatter of the same
    measurement over a lattice of empty places, so that noise which is correlated by resampling or smoothing counts
    in full; with `gain` [electron/adu] the star's own photons are added.
    """
    reach = int(np.ceil(3 * radius))
    flux, ring, half = _disc(data, x, y, radius, reach, clear)
    step = max(2 * reach, int(np.sqrt(data.size / 400)))
    ey, ex = (a.ravel() for a in np.mgrid[reach:data.shape[0] - reach:step, reach:data.shape[1] - reach:step])
    empty, wave, _ = _disc(data, ex, ey, radius, reach)
    empty = empty[np.isfinite(empty) & (wave <= 2 * np.nanmedian(wave) if len(wave) else True)]
    noise = 1.4826 * np.median(np.abs(empty - np.median(empty))) if len(empty) > 8 else np.nan
    local = ring * radius * np.sqrt(np.pi)
    error = np.fmax(noise, local) if noise == noise else local
    return flux, np.sqrt(error**2 + (np.maximum(flux, 0) / gain if gain else 0)), half


def clear_rings(images, x, y, radius, clip=2.5):
    """The pixels (n, pixels of a ring) of the rings of `fluxes` where no image shows a neighbour.

    A median sees a faint neighbour in the one image and not in the noise of the other; the mean over the same pixels
    takes the same share of its light from both, so that the ratio of two fluxes is not shifted.
    """
    clear = True
    for data in images:
        cut, distance = cutouts(data, x, y, int(np.ceil(3 * radius)))
        ring = cut[:, distance >= 2 * radius]
        rest = ring - median(ring)[:, None]
        clear = clear & (np.abs(rest) <= clip * 1.4826 * median(np.abs(rest))[:, None])
    return clear


def _disc(data, x, y, radius, reach, clear=None):
    cut, distance = cutouts(data, x, y, reach)
    ring = cut[:, distance >= 2 * radius]
    level = median(ring)
    scatter = 1.4826 * median(np.abs(ring - level[:, None]))
    if clear is not None:
        count = clear.sum(1)
        level = np.where(count > 0, np.where(clear, ring, 0).sum(1) / np.maximum(count, 1), level)
    sums = []
    for r in (radius, radius / 2):
        weight = np.clip(r + 0.5 - distance, 0, 1).astype("f4")
        used = weight > 0
        sums.append((cut[:, used] - level[:, None]) @ weight[used])
    return sums[0], scatter, sums[1]


def good_stars(flux, error, half, least=5.0):
    """True for the stars to use: seen in all images at `least` sigma (a number, or one for each image), and shaped
    like most of them in each.

    flux, error, half: (images, n); half is the flux within half the radius, whose share tells stars from galaxies,
    knots of nebulae and saturated cores.
    """
    with np.errstate(all="ignore"):
        good = (np.isfinite(flux) & (flux > np.reshape(least, (-1, 1)) * error)).all(0)
        for share, blur in zip(half / flux, error / flux):
            if good.sum() < 5:
                break
            middle = np.median(share[good])
            width = np.maximum(1.4826 * np.median(np.abs(share[good] - middle)), 0.01)
            good &= np.abs(share - middle) < 4 * np.hypot(width, 0.5 * np.abs(blur))
    return good


def slope(x, ex, y, ey, clip=4.0, start=0.5, most=2.0, least=0.0):
    """(s, error, used): y = s x through the origin, robust, with errors in both and real scatter; NaN without points.

    x, ex, y, ey: 1-D.  Points more than `clip` sigma off are left out.  The search starts from this quantile of the
    ratios: below 0.5 where outliers are above the line (line emission).  `least`, `most`: of tau.  The error
    is the larger of the formal one (scatter included) and the jackknife's, so that it holds for few points too.
    """
    good = np.isfinite(x) & np.isfinite(y) & (ex > 0) & (ey > 0) & (x > 0)
    if not good.any():
        return np.nan, np.nan, good
    x, ex, y, ey = (np.where(good, v, 1.0).astype("f8") for v in (x, ex, y, ey))
    s = _quantile(y[good] / x[good], (x / np.hypot(ex, ey))[good], start)
    used = good
    if start < 0.5:
        used = good & (np.abs(y - s * x) < clip * np.sqrt(ey**2 + (s * ex)**2 + (0.1 * s * x)**2))
    for _ in range(30):
        before = s
        plain = ey**2 + (s * ex)**2
        tau = max(least, _scatter((y - s * x)[used], plain[used], (s * x)[used], most))
        pull = np.abs(y - s * x) / np.sqrt(plain + (tau * s * x)**2)
        used = good & (pull < max(clip, pull[good].min()))
        s, error = _line(x[used], ex[used], y[used], ey[used], s, tau)
        if abs(s - before) < 1e-7 * abs(s):
            break
    n = used.sum()
    if n >= 3:
        parts = min(n, 50)
        most = [v[used] for v in (x, ex, y, ey)]
        left = [_line(*most, s, tau, np.s_[i::parts])[0] for i in range(parts)]
        error = max(error, np.sqrt((parts - 1) / parts * np.sum((left - np.mean(left))**2)))
    return float(s), float(error), used


def _line(x, ex, y, ey, s, tau, without=np.s_[:0]):
    """The slope from where it is nearly s, and its error, without some of the points (a slice)."""
    own, other = ey**2, ex**2
    steep = other + (tau * x)**2
    for _ in range(3):
        weight = 1 / (own + s * s * steep)
        weight[without] = 0
        best = weight * (x + weight * s * other * (y - s * x))
        s = (best * y).sum() / (best * x).sum()
    return s, 1 / np.sqrt((best**2 / np.maximum(weight, 1e-300)).sum())


def _scatter(rest, plain, model, most):
    """tau for which the robust scatter of rest / sqrt(plain + (tau model)^2) is one, so that half of the points are
    within 1/1.4826 of that; 0 when noise explains it."""
    square = np.median(((1.4826 * rest)**2 - plain) / np.maximum(model**2, 1e-300))
    return float(np.sqrt(np.clip(square, 0, most**2)))


def _quantile(values, weights, share):
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return values[order][min(np.searchsorted(total, total[-1] * share), len(values) - 1)]


def sky(data, also=()):
    """(sky, noise) of `data`, from the boxes of a mesh that hold sky and no nebula; with `also`, lists of both.

    The level that most boxes are near to is sky wherever at least some of it is seen; how far boxes below it are
    from it says how far boxes above it may be.  `also`: further images of the same field; then the boxes are chosen in
    the sum of all (each over its noise), and every image is measured in the same ones.
    """
    levels, noises, _, _ = boxes([data, *also])
    good = np.isfinite(levels).all(0)
    if good.any():
        total = sum(level / max(np.median(noise[good]), 1e-30) for level, noise in zip(levels, noises))
    else:
        return ([np.nan] * len(levels),) * 2 if len(also) else (np.nan, np.nan)
    middle = _mode(total[good])
    for _ in range(30):
        below = total[good & (total <= middle)]
        width = 1.4826 * np.median(middle - below) if len(below) > 2 else np.inf
        keep = good & (np.abs(total - middle) <= 2.5 * width + 1e-6 * abs(middle) + 0.02)
        before, middle = middle, np.median(total[keep]) if keep.any() else middle
        if abs(middle - before) < 1e-4:
            break
    keep = keep if keep.sum() > 2 else good
    found = [float(np.median(v[keep])) for v in levels], [float(np.median(v[keep])) for v in noises]
    return found if len(also) else (found[0][0], found[1][0])


def _mode(values):
    """The half-sample mode (Robertson & Cryer 1974, JASA 69, 1012), stopped at a tenth of the sample: its median."""
    values = np.sort(values)
    least = max(5, len(values) // 10)
    while len(values) > least:
        half = max(len(values) // 2, least)
        first = np.argmin(values[half - 1:] - values[:len(values) - half + 1])
        values = values[first:first + half]
    return np.median(values)


def boxes(images, box=BOX, most=24):
    """Level and noise of up to most x most boxes spread over the field, for each image, as lists of flat arrays; and
    the boxes' middles y and x, from -1 to 1 over the image.

    The level is the mean within 3.5 sigma of the median: photon noise is skewed, and it is the mean that makes
    the sum over an aperture of nothing zero.  Boxes less than half of which hold values are NaN.
    """
    height, width = images[0].shape
    box = min(box, height, width)
    tops, lefts = (np.unique(np.linspace(0, n - box, min(most, -(-n // box))).astype(int)) for n in (height, width))
    levels, noises = [], []
    for data in images:
        cut = np.stack([data[t:t + box, c:c + box].ravel() for t in tops for c in lefts]).astype("f4", copy=False)
        cut[np.isinf(cut)] = np.nan
        level = median(cut)
        noise = 1.4826 * median(np.abs(cut - level[:, None]))
        inside = np.abs(cut - level[:, None]) <= 3.5 * noise[:, None]
        count = inside.sum(1)
        mean = level + np.where(inside, cut - level[:, None], 0).sum(1) / np.maximum(count, 1)
        full = np.isfinite(cut).sum(1) >= 0.5 * cut.shape[1]
        levels.append(np.where(full, mean, np.nan).astype("f8"))
        noises.append(np.where(full, noise, np.nan).astype("f8"))
    y, x = (2 * (first + (box - 1) / 2) / max(n - 1, 1) - 1 for first, n in ((tops, height), (lefts, width)))
    return levels, noises, np.repeat(y, len(x)), np.tile(x, len(y))
