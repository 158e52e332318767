"""What frames on one grid have in common: the flux scale of their stars and the sky under them.

With I_k the frame k, s_k its factor and o_k(x, y) its sky, the frames

    s_k * I_k - o_k

are alike but for noise, seeing and outliers.  s_k follows from the same stars in all frames; o_k is the sky's level
plus a low polynomial of the *difference* between the frame and the mean of all, so that no nebula is taken for sky.
"""

import numpy as np

from apfunc import background

BOX, BOXES = 32, 16  # [pixel] boxes in which the sky is measured, and how many of them an axis has at most
CANDIDATES, STARS = 1000, 150  # brightest peaks of a frame that are looked at, stars that are measured
RADIUS, HALF = 8, 13  # [pixel] of the aperture of a star, and of the square in which star and sky are measured
CORE = 7  # [pixel] half width of the cut-outs in which frames of different seeing are compared
PROFILED, PROFILE = 60, 20  # brightest stars whose wings are measured, and how far [pixel]
STRIPES, STRIPE = 8, 64  # strips of rows, and their height [pixel], that are looked at first: a sixth of a large frame
SHARED = 25  # stars of a frame that others have too: with fewer the whole of the frames is looked at


def stripes(rows):
    """The rows of a frame that are looked at first, and all: a list of index arrays, of whole boxes of the mesh."""
    whole = np.arange(rows)
    if rows < 2 * STRIPES * STRIPE:
        return [whole]
    tops = np.round(np.linspace(0, rows - STRIPE, STRIPES)).astype(int)
    return [(tops[:, None] + np.arange(STRIPE)).ravel(), whole]


def survey(data, bits, at=None):
    """Sky mesh and bright peaks of a frame: a dict of y, x, sky, rms (mesh), level, noise [adu], peaks (y, x, height).

    data: float32, NaN where there is none; bits: uint8 mask or None; at: the rows of the frame that data holds, or None
    for all.  The mesh has its place in the frame, peaks have theirs in data.  Raises ValueError when nothing is there.
    """
    bad = ~np.isfinite(data) if bits is None else ~np.isfinite(data) | (bits != 0)
    if bad.all():
        bad = ~np.isfinite(data)
    y, x, sky, rms = background.mesh(data, bad, BOX, most=BOXES, fill=False)
    if not np.isfinite(sky).any():
        raise ValueError("no pixel with a value; leave the frame out")
    level, noise = float(np.nanmedian(sky)), max(float(np.nanmedian(rms)), 1e-6)
    y = y if at is None else np.interp(y, np.arange(len(at)), at)
    return {"y": y, "x": x, "sky": sky, "rms": rms, "level": level, "noise": noise,
            "peaks": peaks(data, bad, level, noise, at)}


def peaks(data, bad, level, noise, at=None):
    """The brightest local maxima more than 10 noise above the level, not flagged: array (n, 3) of y, x, height.

    With the rows `at` none whose aperture would reach over a strip's edge.
    """
    inner = data[1:-1, 1:-1]
    with np.errstate(invalid="ignore"):
        bright = inner > np.float32(level + 10 * noise)
    if at is not None:
        edges = np.flatnonzero(np.diff(at) != 1)
        for edge in edges:
            bright[max(edge - HALF, 0):edge + HALF] = False
    at = np.flatnonzero(bright)
    y, x = np.divmod(at, max(inner.shape[1], 1))
    y, x = y + 1, x + 1
    use = ~bad[y, x]
    y, x = y[use], x[use]
    height = data[y, x]
    if len(height) > 300000:
        use = np.argpartition(height, -300000)[-300000:]
        y, x, height = y[use], x[use], height[use]
    top = np.ones(len(y), bool)
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        near = data[y + dy, x + dx]
        top &= height > near if (dy, dx) < (0, 0) else height >= near
    found = np.stack([y, x, height - level], 1)[top]
    return found[np.argsort(-found[:, 2], kind="stable")][:CANDIDATES]


def choose(surveys, radius):
    """Positions (y, x) of isolated bright stars, from the frame with most peaks, and from those that share too few."""
    chosen = np.empty((0, 2))
    for survey in sorted(surveys, key=lambda s: -len(s["peaks"])):
        found = survey["peaks"]
        rival = apart(found, found) < (1.5 * radius) ** 2
        rival &= (found[:, 2] > 0.03 * found[:, None, 2]) & ~np.eye(len(found), dtype=bool)
        alone = found[~rival.any(1), :2][:STARS]
        if len(chosen) and len(found):
            if (apart(found, chosen) < 2**2).any(0).sum() >= 5:
                continue
            alone = alone[(apart(alone, chosen) > (3 * radius) ** 2).all(1)]
        chosen = np.concatenate([chosen, alone])[: 3 * STARS]
    return chosen.astype(int)


def apart(one, two):
    """Squared distances (len(one), len(two)) of the positions in the first two columns."""
    return (one[:, 0, None] - two[:, 0]) ** 2 + (one[:, 1, None] - two[:, 1]) ** 2


def apertures(data, bits, stars, noise, radius):
    """Fluxes, their errors and the cores (n, 2 CORE + 1, 2 CORE + 1) of the stars in a frame; NaN where not measurable.

    The sky of a star is the median of the ring round its aperture.
    """
    half = HALF
    if not len(stars):
        return np.empty(0), np.empty(0), np.empty((0, 2 * CORE + 1, 2 * CORE + 1), "f4")
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1]
    distance = np.hypot(dy, dx)
    inside, ring = distance <= radius, (distance > radius + 1) & (distance <= half)
    y, x = stars[:, 0, None, None] + dy, stars[:, 1, None, None] + dx
    out = (y < 0) | (x < 0) | (y >= data.shape[0]) | (x >= data.shape[1])
    y, x = np.clip(y, 0, data.shape[0] - 1), np.clip(x, 0, data.shape[1] - 1)
    window = np.where(out, np.nan, data[y, x])
    if bits is not None:
        window = np.where(bits[y, x] != 0, np.nan, window)
    with np.errstate(invalid="ignore", all="ignore"):
        sky = nanmedian(window[:, ring])
        flux = (window[:, inside] - sky[:, None]).sum(1)
        error = noise * np.sqrt(inside.sum() * (1 + inside.sum() / ring.sum()))
    core = window[:, half - CORE : half + CORE + 1, half - CORE : half + CORE + 1] - sky[:, None, None]
    return np.where(flux > 5 * error, flux, np.nan), np.full(len(flux), error), core.astype("f4")


def rings(data, bits, stars, level, at=None):
    """Mean brightness above the level of the first PROFILED stars at 0, 1, … PROFILE pixels from each: float32
    (n, PROFILE + 1); NaN where nothing is known.  `at`: the rows of the frame that data holds, or None for all."""
    at, offsets = np.arange(len(data)) if at is None else at, np.arange(-PROFILE, PROFILE + 1)
    y, x = stars[:PROFILED, 0, None] + offsets, stars[:PROFILED, 1, None] + offsets
    ny, nx = np.clip(y, 0, len(data) - 1), np.clip(x, 0, data.shape[1] - 1)
    known = (at[ny] - at[stars[:PROFILED, 0, None]] == offsets)[:, :, None] & (nx == x)[:, None]
    window = data[ny[:, :, None], nx[:, None]] - np.float32(level)
    known &= np.isfinite(window)
    if bits is not None:
        known &= bits[ny[:, :, None], nx[:, None]] == 0
    distance = np.round(np.hypot(offsets[:, None], offsets)).ravel()
    member = (distance[:, None] == np.arange(PROFILE + 1)).astype("f4")
    total, count = (v.reshape(len(window), member.shape[0]) @ member
                    for v in (np.where(known, window, np.float32(0)), known.astype("f4")))
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan))


def scales(flux, error):
    """Factors s (frames,) that bring the star fluxes (frames, stars) to one scale, and their errors; NaN when unknown.

    log s is the weighted mean over the stars of their brightness less that in the frame, outliers clipped; stars and
    frames are solved for in turn.  The scale of the first frame with stars is 1.
    """
    log, spread = np.log(flux), np.hypot(error / flux, 0.003)
    shift = np.zeros(len(flux))
    for _ in range(20):
        bright = nanmedian((log + shift[:, None]).T)
        difference = np.where(np.isfinite(log), bright[None] - log - shift[:, None], np.nan)
        middle = nanmedian(difference)
        wide = 1.4826 * nanmedian(np.abs(difference - middle[:, None]))
        keep = np.abs(difference - middle[:, None]) <= 3 * np.fmax(wide[:, None], spread) + 1e-9
        weight = np.where(keep, 1 / (spread**2 + np.nan_to_num(wide[:, None]) ** 2), 0)
        total = weight.sum(1)
        step = np.where(total > 0, np.where(keep, difference * weight, 0).sum(1) / np.maximum(total, 1e-30), np.nan)
        shift = shift + np.nan_to_num(step)
        if np.nanmax(np.abs(step), initial=0) < 1e-6:
            break
    known = (total > 0) & (shared(flux) > 0)
    shift -= shift[known][0] if known.any() else 0
    return np.where(known, np.exp(shift), np.nan), np.where(known, 1 / np.sqrt(np.maximum(total, 1e-30)), np.nan)


def shared(flux):
    """How many of a frame's stars are measured in another too (in itself, of one frame): (frames,)."""
    found = np.isfinite(flux)
    return (found & (found.sum(0) > min(len(flux) - 1, 1))).sum(1)


def skies(meshes, mesh_y, mesh_x, order=1):
    """Sky surfaces of scaled meshes (frames, ny, nx): coefficients (frames, order + 1, order + 1), and rest meshes.

    coefficients[k, i, j] goes with Y^i X^j, i + j <= order, Y and X from -1 to 1 over the mesh (see `unit`); with
    `order` None they are zero.  `rest` is what a mesh has beyond its surface and the mean mesh.  NaN boxes say nothing.
    """
    if order is None:
        return np.zeros((len(meshes), 1, 1)), meshes - nanmedian(meshes.transpose(1, 2, 0))
    v, u = unit(mesh_y, mesh_y), unit(mesh_x, mesh_x)
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)
              if i < max(len(v), 2) and j < max(len(u), 2)]
    design = np.stack([np.outer(v**i, u**j).ravel() for i, j in powers], 1)
    flat = meshes.reshape(len(meshes), -1).astype(float)
    terms = np.zeros((len(meshes), len(powers)))
    terms[:, 0] = nanmedian(flat)
    for _ in range(8):
        before, mean = terms.copy(), nanmedian((flat - terms @ design.T).T)
        mean -= nanmedian(mean[None])[0]
        for k, values in enumerate(flat):
            terms[k] = robust(design, values - mean, terms[k])
        if np.abs(terms - before).max() < 1e-4 * (1e-9 + nanmedian(np.abs(flat - terms @ design.T - mean).ravel())):
            break
    rest = flat - terms @ design.T - mean
    coefficients = np.zeros((len(meshes), order + 1, order + 1))
    for (i, j), column in zip(powers, terms.T):
        coefficients[:, i, j] = column
    return coefficients, rest.reshape(meshes.shape)


def unit(at, ends):
    """Positions as -1 to 1 between the first and the last of `ends`; 0 where there is only one."""
    return (2 * (np.asarray(at) - ends[0]) / (ends[-1] - ends[0]) - 1) if len(ends) > 1 else 0.0 * np.asarray(at)


def calm(rest, noise):
    """The rest meshes of `skies`, smoothed, 0 where unknown; None when all are far below the noise (frames,)."""
    rest = np.stack([background.median_filter(r, 3) for r in np.nan_to_num(rest)]).astype("f4")
    return rest if (np.abs(rest) > 0.15 * noise[:, None, None]).any() else None


def powers(at, ends, count):
    """The powers 0 … count - 1 of positions (see `unit`): (len(at), count)."""
    return np.vander(unit(at, ends), count, increasing=True)


def evaluate(coefficients, mesh_y, first, last, across):
    """A surface of `skies` on the rows first … last - 1 of an image: float32 (rows, columns).  across: `powers` of the
    columns, float32 (count, columns)."""
    return (powers(np.arange(first, last), mesh_y, len(coefficients)) @ coefficients).astype("f4") @ across


def between(meshes, mesh_y, mesh_x, first, last, columns):
    """Meshes (frames, ny, nx), linear between their points, on the rows first … last - 1.

    Returns a function of two columns a, b that gives float32 (frames, rows, b - a).
    """
    down, across = hat(np.arange(first, last), mesh_y) @ meshes, hat(np.arange(columns), mesh_x).T
    return lambda a, b: down @ across[:, a:b]


def hat(at, knots):
    """Matrix (len(at), len(knots)) of linear interpolation, constant beyond the ends; float32."""
    place = np.interp(at, knots, np.arange(len(knots)))
    return np.maximum(1 - np.abs(place[:, None] - np.arange(len(knots))), 0).astype("f4")


def fwhm(cores, noise):
    """Median FWHM [pixel] of star cut-outs (stars, rows, columns) without sky; NaN when none can be measured.

    A parabola through log(value) at the pixels above a quarter of the peak, of stars that peak above 40 noise.
    """
    centre = cores[:, CORE - 1:CORE + 2, CORE - 1:CORE + 2].reshape(len(cores), 9)
    peak = centre.max(1, initial=-np.inf)  # NaN where one is
    cores, peak = (v[peak > 40 * noise] for v in (cores, peak))
    use = cores > 0.25 * peak[:, None, None]
    some = (use.sum((1, 2)) >= 5) & (use.sum((1, 2)) <= 100)
    use, cores = (v[some].reshape(-1, (2 * CORE + 1) ** 2) for v in (use, cores))
    dy, dx = np.mgrid[-CORE : CORE + 1, -CORE : CORE + 1].reshape(2, -1)
    design = np.stack([np.ones(len(dx)), dx, dy, -(dx**2.0 + dy**2)], 1)
    values = np.where(use, cores, 1).astype("f8")
    weight = np.where(use, values**2, 0)
    normal = (weight @ (design[:, :, None] * design[:, None]).reshape(-1, 16)).reshape(-1, 4, 4)
    right = (weight * np.log(values)) @ design
    normal[:, range(4), range(4)] *= 1 + 1e-10  # few pixels in a row do not tell all
    width = np.linalg.solve(normal, right[:, :, None])[:, 3, 0]
    width = width[width > 0]
    return float(np.median(np.sqrt(4 * np.log(2) / width))) if len(width) else np.nan


def robust(design, values, start):
    """Coefficients of the clipped least-squares fit of values; the median alone when few are known."""
    good = np.isfinite(values)
    if good.sum() < 6 * design.shape[1]:
        return np.concatenate([[np.median(values[good])], np.zeros(design.shape[1] - 1)]) if good.any() else start
    for _ in range(6):
        terms = np.linalg.lstsq(design[good], values[good], rcond=None)[0]
        off = np.abs(values - design @ terms)
        limit = 3 * 1.4826 * np.median(off[good]) + 1e-9
        with np.errstate(invalid="ignore"):
            now = np.isfinite(values) & (off <= limit)
        if (now == good).all() or now.sum() < 3 * design.shape[1]:
            break
        good = now
    return terms


def nanmedian(values):
    """Median along the last axis of what is not NaN; NaN where all are.  (np.nanmedian takes ten times as long.)"""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], np.nan)
    values = np.sort(values, axis=-1)  # NaN last
    count = np.count_nonzero(~np.isnan(values), axis=-1)
    low, high = (np.take_along_axis(values, np.asarray(at)[..., None], -1)[..., 0]
                 for at in (np.maximum(count - 1, 0) // 2, count // 2))
    return (low + high) / 2  # of nothing it is that of two NaN
