"""The stars of a frame without its sky, measured all at once."""

import numpy as np

from apfunc import detect, genuine, nebula, psf, starfit
from apfunc.genuine import FULL, SHAPE
from apfunc.psf import SKY, A, X, Y

CORE = 2.0  # radius [FWHM] of the pixels to which places and shapes are fitted
MANY = 30000  # candidates kept, most significant first: bounds the time spent on a frame that shows no sky


def measure(flat, bad, full, sky, along, width, sigma, gain):
    """The stars of the sky-free frame `flat`, FWHM about `width`: parameters (n, 8), columns and meta (APCOR).

    bad, full: bad and saturated pixels; sky: of `detect.flatten`; along: pixels of trails or None; gain or None.
    A nebula is taken off `flat` in place.
    """
    light = np.empty(flat.shape, "f4")
    y, x = detect.peaks(flat, sky, width, 0.8 * sigma, light)
    groups = detect.saturated(full)
    y, x = _one_each(full, groups, y[:MANY], x[:MANY], width)
    if along is not None:
        y, x, bad = y[~along[y, x]], x[~along[y, x]], bad | along
    order = np.lexsort((x, y))
    y, x = y[order], x[order]  # neighbours on the frame are worked on together
    hidden, offsets = np.flatnonzero(bad | full), psf.disc(max(2.5 * width, 3))
    core = tuple(v[:np.count_nonzero(np.hypot(*offsets) <= CORE * width)] for v in offsets)
    noise = detect.at_pixels(sky[0], sky[3], sky[1], y, x).astype("f8")
    p = np.repeat(psf.star(width), len(y), 0)
    p[:, [A, X, Y]] = np.stack([np.maximum(flat[y, x], noise), x, y], 1)

    # places and heights with a round PSF; then the frame's own PSF from the best
    light[:] = 0  # from now on of all stars found so far; NaN where a pixel says nothing
    light.reshape(-1)[hidden] = np.nan
    inner = tuple(v[:np.count_nonzero(np.hypot(*offsets) <= 1.2 * width)] for v in offsets)
    p = starfit.refit(flat, light, y, x, inner, None, p, noise, passes=3, near=0.05)[0]
    sizes = starfit.paint(light, y, x, p, noise, width)
    factor = _excess(flat, sky, y, x, p, noise, width)
    noise *= factor
    best, values = _clean(flat, light, y, x, offsets, p, noise, width)
    free, errors, chi2 = psf.fit(values, y[best], x[best], offsets, p[best], noise[best], gain, free=psf.ALL)
    regular, usual = _regular(chi2, free, offsets, noise[best], gain)
    model = starfit.field(free[regular], errors[regular], flat.shape, width)
    start = starfit.shaped(p, model, flat.shape) if model else p

    # burnt out stars wider than the PSF go first, then all others with the right PSF
    giants = _giants(flat, bad | full, groups, width, model, float(np.median(sky[3])))
    _shine(light, *giants, width)
    found, chi2 = starfit.refit(flat, light, y, x, core, p, start, noise, gain, passes=6, near=0.003)
    light[:] = 0
    light.reshape(-1)[hidden] = np.nan
    _shine(light, *giants, width)
    p, sizes = found, starfit.paint(light, y, x, found, noise, width)
    cy, cx, new = _companions(flat, light, p, y, x, offsets, noise, gain, chi2, core, usual, width, sigma)
    if len(new):
        more = factor * detect.at_pixels(sky[0], sky[3], sky[1], cy, cx).astype("f8")
        sizes = np.concatenate([sizes, starfit.paint(light, cy, cx, new, more, width)])
        y, x, p, noise = (np.concatenate(both) for both in ((y, cy), (x, cx), (p, new), (noise, more)))

    # a nebula goes, and who lies on it or touches others is fitted again; then who is a star?
    cloud = nebula.find(flat, light, y, x, psf.total(p), full, float(np.median(sky[3])), width)
    if cloud is not None:
        nebula.remove(flat, *cloud)
    moved = nebula.uneven(cloud, y, x, round(width)) > 2 * starfit.CHANGED * noise
    p = starfit.settle(flat, light, y, x, core, p, noise, gain, sizes, width, moved)
    columns, keep = genuine.judged(flat, light, p, y, x, offsets, core, noise, gain, sigma, width, usual,
                                   (bad, full, cloud))
    if model is None:  # nothing here looked like a star: what has a strange shape is none either
        fair = (columns["flags"] & SHAPE) == 0
        columns, keep = {name: values[fair] for name, values in columns.items()}, keep[fair]
    p, y, x = p[keep], y[keep], x[keep]
    columns["sky"] += detect.at_pixels(sky[0], sky[2], sky[1], y, x) + nebula.at(cloud, y, x)
    clean = np.flatnonzero((columns["flags"] == 0) & (columns["snr"] > 20))[:200]
    factor = starfit.aperture(flat, light, y[clean], x[clean], p[clean], width, usual)
    p, columns = _joined(p, columns, *giants[:2], sky, flat.shape)
    columns["flux"], columns["fluxerr"] = columns["flux"] * factor, columns["fluxerr"] * factor
    return p, columns, {"APCOR": round(factor, 5)} if len(p) else {}


def _excess(flat, sky, y, x, p, noise, width):
    """`detect.excess` of the frame without its stars, where a star is what stands far above that very noise."""
    found = detect.excess(flat, sky, width)
    one = psf.star(width)
    area = np.sqrt((psf.profiles(one, np.zeros(1), np.zeros(1), psf.disc(2.5 * width)) ** 2).sum()) / one[0, A]
    for _ in range(3 if found > 1.1 else 0):
        k, light = p[:, A] * area > min(7 * found, 60) * noise, np.zeros(flat.shape, "f4")
        starfit.paint(light, y[k], x[k], p[k], noise[k], width)
        found = detect.excess(flat - light, sky, width)
    return found


def _one_each(full, groups, y, x, width):
    """The peaks, those in and beside saturated pixels replaced by one for each group of them no wider than a star."""
    cy, cx, size = groups
    if not len(size):
        return y, x
    apart = ~(detect.stamps(full, y, x, psf.disc(0.7 * width)) > 0).any(1)
    small = size <= width
    return (np.concatenate([np.rint(c[small]).astype(int), v[apart]]) for c, v in ((cy, y), (cx, x)))


def _clean(flat, light, y, x, offsets, p, noise, width):
    """The brightest stars, up to 200, that nothing disturbs: all their pixels good, hardly any light of others; and
    their pixels without the others."""
    k = np.flatnonzero(p[:, A] > 5 * noise)
    k = k[np.argsort(-p[k, A], kind="stable")][:400]
    own, others = detect.stamps((flat, light), y[k], x[k], offsets)
    others -= psf.profiles(p[k], y[k], x[k], offsets)
    near, own = np.hypot(*offsets) <= 1.5 * width, own - others
    good = np.isfinite(own[:, near]).all(1) & (others[:, near].sum(1) < 0.05 * own[:, near].sum(1))
    k, own = k[good][:200], own[good][:200]
    bright = p[k, A] > 25 * noise[k]
    return (k[bright], own[bright]) if bright.sum() > 5 else (k[:10], own[:10])


def _regular(chi2, p, offsets, noise, gain):
    """Those of the PSF's stars that fit as the best quarter does (cosmic rays do not), and their usual misfit."""
    if not len(p):
        return np.zeros(0, bool), 0.0
    misfit = genuine.misfit(chi2, p, offsets, noise, gain)
    regular = misfit <= max(3 * np.percentile(misfit, 25), 0.1)
    return regular, float(np.median(misfit[regular]))


def _companions(flat, light, p, y, x, offsets, noise, gain, chi2, core, usual, width, sigma):
    """Stars that have no peak of their own on the shoulder of another: where what its fit left looks most like a star.
    Returns pixels y, x and parameters."""
    least, k = max(0.03, 2 * usual), np.flatnonzero(genuine.certain(chi2, core) > 5)
    k = k[genuine.misfit(chi2[k], p[k], core, noise[k], gain) > least]
    k = k[np.argsort(-p[k, A] / noise[k], kind="stable")[:1000]]
    rest = np.subtract(*detect.stamps((flat, light), y[k], x[k], offsets)) - p[k, SKY, None]
    whole = np.isfinite(rest[:, np.hypot(*offsets) <= 1.5 * width]).all(1)
    k, rest = k[whole], rest[whole]
    dy, dx = psf.disc(2 * width)
    dy, dx = (v[np.hypot(dy, dx) >= 0.8 * width] for v in (dy, dx))
    if not len(k) or not len(dy):
        return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 8))
    round_star = np.repeat(psf.star(width), len(dy), 0)
    round_star[:, A], round_star[:, X], round_star[:, Y] = 1, dx, dy
    lean = psf.profiles(round_star, np.zeros(1), np.zeros(1), offsets)
    lean -= lean.mean(1)[:, None]
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


def _giants(flat, hidden, groups, width, model, noise):
    """Stars burnt out wider than the PSF, from their wings: their parameters, errors, and half sizes."""
    p, errors, sizes = np.zeros((0, 8)), np.zeros((0, 8)), np.zeros(0)
    cy, cx, size = groups
    for i in np.argsort(-size, kind="stable")[:200]:
        if size[i] <= width:
            break
        y, x = np.array([round(cy[i])]), np.array([round(cx[i])])
        offsets = psf.disc(1.2 * size[i] + 2.5 * width)
        start = psf.star(width, x=cx[i], y=cy[i])
        start = starfit.shaped(start, model, flat.shape) if model else start
        start[:, A] = 1
        near = np.hypot(p[:, X] - cx[i], p[:, Y] - cy[i]) < 3 * sizes + 1.2 * size[i] + 8.5 * width
        values = detect.stamps(flat, y, x, offsets)
        for other in np.flatnonzero(near):
            values -= psf.profiles(p[other:other + 1], y, x, offsets)
        values[detect.stamps(hidden, y, x, offsets) > 0] = np.nan
        unit = psf.profiles(start, y, x, offsets)
        start[:, A] += starfit.fluxes(start, unit, values - unit, 0, np.array([noise]), None)[3] - 1
        if start[0, A] <= 0 or np.isfinite(values).sum() < 20:
            continue
        found, error, _ = psf.fit(values, y, x, offsets, start, np.array([noise]), None, free=psf.POINT, passes=20)
        p, errors, sizes = np.concatenate([p, found]), np.concatenate([errors, error]), np.append(sizes, size[i])
    return p, errors, sizes


def _shine(light, giants, errors, sizes, width):
    """Add the light of the giants to the frame `light`, in place."""
    for i, size in enumerate(sizes):
        y, x = (np.rint(giants[i:i + 1, k]).astype(int) for k in (Y, X))
        wide = psf.disc(3 * size + 6 * width)
        detect.paint(light, psf.profiles(giants[i:i + 1], y, x, wide), y, x, wide)


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
