"""The stars of a frame without its sky, measured all at once, and which of the peaks are stars.

A peak is no star when it is too faint, sharper than the PSF (cosmic rays, hot pixels), wider (knots of a nebula), of
another form altogether, or a ripple on the light of a bright neighbour.
"""

import numpy as np

from apfunc import detect, psf, starfit
from apfunc.psf import SKY, A, X, Y

# The bits of a star's flags.
FULL, EDGE, BLEND, DEFECT, SHAPE = 1, 2, 4, 8, 16
CORE = 2.0  # radius [FWHM] of the pixels to which places and shapes are fitted
MANY = 30000  # candidates kept, most significant first: bounds the time spent on a frame that shows no sky


def measure(flat, bad, full, sky, along, width, sigma, gain):
    """The stars of the sky-free frame `flat`, FWHM about `width`: parameters (n, 8), columns and meta (APCOR).

    bad, full: bad and saturated pixels; sky: of `detect.flatten`; along: pixels of trails or None; gain or None.
    """
    y, x = detect.peaks(flat, sky, width, 0.8 * sigma)
    groups = detect.saturated(full)
    y, x = _one_each(full, groups, y[:MANY], x[:MANY], width)
    if along is not None:
        y, x, bad = y[~along[y, x]], x[~along[y, x]], bad | along
    p = np.repeat(psf.star(width), len(y), 0)
    noise = detect.at_pixels(sky[0], sky[3], sky[1], y, x).astype("f8")
    p[:, [A, X, Y]] = np.stack([np.maximum(flat[y, x], noise), x, y], 1)
    hidden = bad | full
    flat = np.where(hidden, np.float32(np.nan), flat) if hidden.any() else flat
    offsets = psf.disc(max(2.5 * width, 3))
    at, pixels = (y, x, offsets), detect.stamps(flat, y, x, offsets)
    core = np.count_nonzero(np.hypot(*offsets) <= CORE * width)  # pixels that places and shapes are fitted to
    inner = tuple(v[:core] for v in offsets)

    # places and heights with a round PSF; then the frame's own PSF from the best
    p = psf.fit(pixels[:, :core], y, x, inner, p, noise, free=psf.POINT, passes=3, near=0.1)[0]
    frame = starfit.light(np.empty(flat.shape, "f4"), *at, p, noise)
    more = starfit.others(frame, *at, p)
    factor = _excess(flat, sky, y, x, offsets, p, noise, width)
    noise *= factor
    best = _clean(pixels, more, p, noise, offsets, width)
    free, errors, chi2 = psf.fit(pixels[best], y[best], x[best], offsets, p[best], noise[best], gain, free=psf.ALL)
    regular, usual = _regular(chi2, free, offsets, noise[best], gain)
    model = starfit.field(free[regular], errors[regular], flat.shape, width)
    p = starfit.shaped(p, model, flat.shape) if model else p

    # burnt out stars wider than the PSF go first, then all others with the right PSF, those that touch again
    giants, halo = _giants(flat, groups, width, model, float(np.median(sky[3])))
    flat = flat if halo is None else flat - halo
    pixels = pixels if halo is None else detect.stamps(flat, *at)
    glow = np.zeros_like(more) if halo is None else np.nan_to_num(detect.stamps(halo, *at))
    p, _, chi2 = psf.fit((pixels - more)[:, :core], y, x, inner, p, noise, gain, (more + glow)[:, :core], psf.POINT, 6)
    cy, cx, new = _companions(pixels - more, p, *at, noise, _misfit(chi2, p, inner, noise, gain), usual, width, sigma)
    if len(new):
        y, x, p = np.concatenate([y, cy]), np.concatenate([x, cx]), np.concatenate([p, new])
        noise = factor * detect.at_pixels(sky[0], sky[3], sky[1], y, x).astype("f8")
        at, pixels = (y, x, offsets), detect.stamps(flat, y, x, offsets)
        more = starfit.others(starfit.light(frame, *at, p, noise), *at, p)
        glow = np.zeros_like(more) if halo is None else np.nan_to_num(detect.stamps(halo, *at))
    touch = (more > 1e-3 * noise[:, None]).any(1)
    near, touch = np.flatnonzero(touch | (p[:, A] > 100 * noise)), np.flatnonzero(touch)
    for _ in range(4 if len(touch) > 0.3 * len(p) else 3 if len(new) else 2):
        starfit.light(frame, y[near], x[near], offsets, p[near], noise[near])
        if len(touch):
            more[touch] = starfit.others(frame, y[touch], x[touch], offsets, p[touch])
            own, others = pixels[touch, :core] - more[touch, :core], more[touch, :core] + glow[touch, :core]
            p[touch] = psf.fit(own, y[touch], x[touch], inner, p[touch], noise[touch], gain, others, psf.POINT, 4)[0]
    columns, keep = _judged(pixels - more, more + glow, p, *at, noise, gain, sigma, width, usual,
                            (bad, full, flat, frame))
    if model is None:  # nothing here looked like a star: what has a strange shape is none either
        fair = (columns["flags"] & SHAPE) == 0
        columns, keep = {name: values[fair] for name, values in columns.items()}, keep[fair]
    p, y, x = p[keep], y[keep], x[keep]
    columns["sky"] += detect.at_pixels(sky[0], sky[2], sky[1], y, x)
    clean = np.flatnonzero((columns["flags"] == 0) & (columns["snr"] > 20))[:200]
    clean = clean[np.isin(keep[clean], near)]
    factor = starfit.aperture(flat, frame, y[clean], x[clean], p[clean], width, usual)
    p, columns = _joined(p, columns, *giants, sky, flat.shape)
    columns["flux"], columns["fluxerr"] = columns["flux"] * factor, columns["fluxerr"] * factor
    return p, columns, {"APCOR": round(factor, 5)} if len(p) else {}


def _excess(flat, sky, y, x, offsets, p, noise, width):
    """`detect.excess` of the frame without its stars, where a star is what stands far above that very noise."""
    found = detect.excess(flat, sky, width)
    one = psf.star(width)
    area = np.sqrt((psf.profiles(one, np.zeros(1), np.zeros(1), offsets) ** 2).sum()) / one[0, A]
    for _ in range(3 if found > 1.1 else 0):
        k = p[:, A] * area > min(7 * found, 60) * noise
        frame = starfit.light(np.empty(flat.shape, "f4"), y[k], x[k], offsets, p[k], noise[k])
        found = detect.excess(flat - frame, sky, width)
    return found


def _one_each(full, groups, y, x, width):
    """The peaks, those in and beside saturated pixels replaced by one for each group of them no wider than a star."""
    cy, cx, size = groups
    if not len(size):
        return y, x
    apart = ~(detect.stamps(full, y, x, psf.disc(0.7 * width)) > 0).any(1)
    small = size <= width
    return (np.concatenate([np.rint(c[small]).astype(int), v[apart]]) for c, v in ((cy, y), (cx, x)))


def _clean(pixels, more, p, noise, offsets, width):
    """The brightest stars, up to 200, that nothing disturbs: all their pixels good, hardly any light of others."""
    near = np.hypot(*offsets) <= 1.5 * width
    whole = np.isfinite(pixels[:, near]).all(1) & (more[:, near].sum(1) < 0.05 * pixels[:, near].sum(1))
    good = np.flatnonzero(whole & (p[:, A] > 5 * noise))
    best = good[np.argsort(-p[good, A], kind="stable")[:200]]
    bright = p[best, A] > 25 * noise[best]
    return best[bright] if bright.sum() > 5 else best[:10]


def _misfit(chi2, p, offsets, noise, gain):
    """Share of a star's light, in units of what its fit weighs, that has not the form of the model; and its sigma."""
    profile = psf.profiles(p, np.rint(p[:, Y]).astype(int), np.rint(p[:, X]).astype(int), offsets)
    weight = 1 / (noise[:, None] ** 2 + (np.maximum(profile, 0) / gain if gain else 0))
    light, freedom = np.maximum((weight * profile**2).sum(1), 1e-9), max(len(offsets[0]) - 7, 1)
    return np.sqrt(np.maximum(chi2 - freedom, 0) / light), (chi2 - freedom) / np.sqrt(2 * freedom)


def _regular(chi2, p, offsets, noise, gain):
    """Those of the PSF's stars that fit as the best quarter does (cosmic rays do not), and their usual misfit."""
    if not len(p):
        return np.zeros(0, bool), 0.0
    misfit, _ = _misfit(chi2, p, offsets, noise, gain)
    regular = misfit <= max(3 * np.percentile(misfit, 25), 0.1)
    return regular, float(np.median(misfit[regular]))


def _companions(own, p, y, x, offsets, noise, misfit, usual, width, sigma):
    """Stars that have no peak of their own on the shoulder of another: where what its fit left looks most like a star.
    Returns pixels y, x and parameters."""
    share, certain = misfit
    least = max(0.03, 2 * usual)
    whole = np.isfinite(own[:, np.hypot(*offsets) <= 1.5 * width]).all(1)
    k = np.flatnonzero((certain > 5) & (share > least) & whole)[:1000]
    dy, dx = psf.disc(2 * width)
    dy, dx = (v[np.hypot(dy, dx) >= 0.8 * width] for v in (dy, dx))
    if not len(k) or not len(dy):
        return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 8))
    round_star = np.repeat(psf.star(width), len(dy), 0)
    round_star[:, A], round_star[:, X], round_star[:, Y] = 1, dx, dy
    lean = psf.profiles(round_star, np.zeros(1), np.zeros(1), offsets)
    lean -= lean.mean(1)[:, None]
    rest = own[k] - psf.profiles(p[k], y[k], x[k], offsets) - p[k, SKY, None]
    power = (lean**2).sum(1)
    height = np.nan_to_num(rest) @ lean.T / power
    i = (height * np.sqrt(power)).argmax(1)
    height, clear = height[np.arange(len(k)), i], sigma * noise[k] / np.sqrt(power[i])
    left = np.nansum(rest**2, 1) - noise[k] ** 2 * np.isfinite(rest).sum(1)
    good = (height > clear) & (height > least * p[k, A]) & (height**2 * power[i] > 0.5 * left)  # nearly all of it
    k, i, height = k[good], i[good], height[good]
    new = p[k].copy()
    new[:, A], new[:, X], new[:, Y] = height, x[k] + dx[i], y[k] + dy[i]
    near = np.array([np.hypot(p[:, X] - a, p[:, Y] - b).min() for a, b in new[:, [X, Y]]] or [0.0])
    new = new[near > 0.7 * width] if len(new) else new
    return np.rint(new[:, Y]).astype(int), np.rint(new[:, X]).astype(int), new


def _giants(flat, groups, width, model, noise):
    """Stars burnt out wider than the PSF, from their wings: (parameters, errors), and a frame of their light."""
    p, errors, glow = np.zeros((0, 8)), np.zeros((0, 8)), None
    cy, cx, size = groups
    for i in np.argsort(-size, kind="stable")[:200]:
        if size[i] <= width:
            break
        glow = np.zeros(flat.shape, "f4") if glow is None else glow
        y, x = np.array([round(cy[i])]), np.array([round(cx[i])])
        offsets = psf.disc(1.2 * size[i] + 2.5 * width)
        start = psf.star(width, x=cx[i], y=cy[i])
        start = starfit.shaped(start, model, flat.shape) if model else start
        values = detect.stamps(flat, y, x, offsets) - detect.stamps(glow, y, x, offsets)
        start[:, A] = starfit.fluxes(start, values, 0, y, x, offsets, np.array([noise]), None)[3]
        if start[0, A] <= 0 or np.isfinite(values).sum() < 20:
            continue
        found, error, _ = psf.fit(values, y, x, offsets, start, np.array([noise]), None, free=psf.POINT, passes=20)
        wide = psf.disc(3 * size[i] + 6 * width)
        detect.paint(glow, psf.profiles(found, y, x, wide), y, x, wide)
        p, errors = np.concatenate([p, found]), np.concatenate([errors, error])
    return (p, errors), glow


def _joined(p, columns, giants, errors, sky, shape):
    """Stars and giants in one, brightest first."""
    if len(giants):
        fwhm, ellipticity, theta = psf.shape(giants)
        y, x = (np.clip(np.rint(giants[:, k]).astype(int), 0, n - 1) for k, n in ((Y, shape[0]), (X, shape[1])))
        flux = psf.total(giants)
        more = {"flux": flux, "fluxerr": flux * errors[:, A] / giants[:, A], "fwhm": fwhm, "ellipticity": ellipticity,
                "theta": theta, "peak": giants[:, A], "snr": giants[:, A] / errors[:, A],
                "flags": np.full(len(giants), FULL),
                "sky": giants[:, SKY] + detect.at_pixels(sky[0], sky[2], sky[1], y, x)}
        p, columns = np.concatenate([p, giants]), {k: np.concatenate([v, more[k]]) for k, v in columns.items()}
    order = np.argsort(-columns["flux"], kind="stable")
    return p[order], {name: values[order] for name, values in columns.items()}


def _judged(own, more, p, y, x, offsets, noise, gain, sigma, width, usual, planes):
    """Columns of the peaks that are stars, and which they are, brightest first."""
    bad, full, flat, frame = planes
    measured = starfit.fluxes(p, own, more, y, x, offsets, noise, gain)
    inside = np.abs((p[:, [Y, X]] + 0.5) / full.shape - 0.5).max(1) <= 0.5
    may = np.flatnonzero(inside & (measured[2] >= sigma) & (np.hypot(p[:, X] - x, p[:, Y] - y) < max(width, 2)))
    own, more, p, y, x, noise = (v[may] for v in (own, more, p, y, x, noise))
    flux, error, sure, height, local = (v[may] for v in measured)
    at, distance = (y, x, offsets), np.hypot(*offsets)
    core = np.count_nonzero(distance <= CORE * width)
    inner = own[:, :core], y, x, tuple(v[:core] for v in offsets), p, noise, gain, more[:, :core]
    free, _, least2 = psf.fit(*inner, psf.SHAPE, 8, 0.03)
    point2 = psf.fit(*inner, psf.POINT, 0)[2]
    fwhm, ellipticity, theta = psf.shape(free)
    minor, major = fwhm * np.sqrt(1 - ellipticity), fwhm / np.sqrt(1 - ellipticity)
    point, flatness, _ = psf.shape(p)
    least, most = point * np.sqrt(1 - flatness), point / np.sqrt(1 - flatness)
    gained = point2 - least2  # of chi2, by a shape of its own
    misfit, certain = _misfit(least2, free, inner[3], noise, gain)

    middle = distance <= 1.5 * width
    burnt, broken = (detect.stamps(plane, *at) for plane in (full, bad))
    edge, burnt = np.isnan(burnt[:, middle]).any(1), (burnt[:, middle] > 0).any(1)
    broken = (broken[:, distance <= 1.2 * width] > 0).any(1)
    model = psf.profiles(p, *at)
    share = (more * model).sum(1) / np.maximum((model**2).sum(1), 1e-12)
    strange = (gained > 25) & ((fwhm > 1.3 * point) | (major > 1.5 * most) | (minor < 0.75 * least)) & ~burnt
    flags = FULL * burnt + EDGE * edge + BLEND * (share > 0.1) + DEFECT * broken + SHAPE * strange

    sharp = (gained > 16) & (minor < 0.65 * least)
    formless = (certain > 5) & (misfit > max(0.3, 4 * usual)) & (share < 0.1)
    wide = (gained > 9) & (minor > 1.6 * point)
    doubt = np.flatnonzero((gained > 9) & (minor > 1.25 * point) & ~wide & ~burnt)
    args = (v[doubt] for v in (own, free, noise, point, y, x))
    wide[doubt] = _wide(flat, frame, *args, offsets, width)
    ripple = height < 0.15 * more[:, distance <= 0.5].mean(1)
    odd = strange & (sure < 20) & (share < 0.1)  # so faint, and alone, a star has the PSF's shape within the noise
    keep = ~ripple & (burnt | ~(sharp | wide | formless | odd))
    order = np.argsort(-flux, kind="stable")
    keep = order[keep[order]]

    odd = ~np.isfinite(fwhm) | (fwhm > 4 * width) | (fwhm < 0.2)
    fwhm, ellipticity, theta = (np.where(odd, np.nan, v) for v in (fwhm, ellipticity, theta))
    peak = np.where(np.isfinite(own), own + more, -np.inf)[:, distance <= 1.5].max(1)
    columns = {"flux": flux, "fluxerr": error, "fwhm": fwhm, "ellipticity": ellipticity, "theta": theta, "peak": peak,
               "snr": flux / np.maximum(error, 1e-12), "flags": flags, "sky": local}
    return {name: values[keep] for name, values in columns.items()}, may[keep]


def _wide(flat, frame, own, free, noise, point, y, x, offsets, width):
    """Whether peaks that look wider than the PSF are much wider when their surroundings are seen as well."""
    wide = psf.disc(4.5 * width)
    values = detect.stamps(flat, y, x, wide) - detect.stamps(frame, y, x, wide)
    inner = {place: i for i, place in enumerate(zip(*offsets))}
    columns = np.array([inner.get(place, -1) for place in zip(*wide)])
    values[:, columns >= 0] = own[:, columns[columns >= 0]]
    found = psf.fit(values, y, x, wide, free, noise, free=psf.SHAPE, passes=15)[0]
    fwhm, ellipticity, _ = psf.shape(found)
    return fwhm * np.sqrt(1 - ellipticity) > 1.7 * point
