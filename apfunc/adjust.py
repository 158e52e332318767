"""One least-squares solution for all frames of a field: where each looks, and the distortion they share.

A frame f maps its pixels to the sky by its own TAN solution (crval_f, cd_f) after the distortion D of the
camera, which all frames of one size share:

    position_s = deproject(cd_f @ (u + D_u(u, v), v + D_v(u, v)), crval_f)      for each star s seen by f

The positions of the stars are unknown too, except for those with a catalogue position; they are eliminated (each
equation minus the mean of its star), and what is left is linear in small steps of the frames and of D.  This is
the plate-overlap method (Eichhorn 1960, AN 285, 233): dithered and turned frames fix the distortion even where the
catalogue has few stars.
"""

import numpy as np

from apfunc import wcs
from apfunc.distortion import MODELS, basis, sip


MANY = 2 * max(MODELS.values())  # stars: half of them are enough for every model


def adjust(solutions, groups, seen, anchors, model="none", start=None, rounds=4, reference=0):
    """The best solutions of all frames and the shared distortion.

    solutions: a TAN solution (see wcs.py) a frame, rough; groups: the camera group a frame is of (distortion is shared
    within); seen: dict of arrays frame, star, x, y, sigma [pixel], one entry a measured star (a frame sees a star
    once); anchors: dict of arrays star, ra, dec [deg], sigma [pixel] (may be empty); model: a key of MODELS; start:
    coefficients to start from.
    Returns (solutions, coefficients {group: array}, residuals (2, n) of `seen` in pixels of
    the reference).
    """
    n, frame = len(solutions), seen["frame"]
    names, star = np.unique(np.concatenate([seen["star"], anchors["star"]]), return_inverse=True)
    star, star_a, stars = star[:len(frame)], star[len(frame):], len(names)
    kinds = sorted(set(groups))
    kind = np.array([kinds.index(g) for g in groups])
    crpix, cd = np.array([s["crpix"] for s in solutions], float), np.array([s["cd"] for s in solutions], float)
    crval = np.array([s["crval"] for s in solutions], float).T
    size = np.array([crpix[kind == g].max() + 0.5 for g in range(len(kinds))])
    h = size[kind]
    u, v = ((seen[axis] - crpix[frame, k]) / h[frame] for k, axis in enumerate("xy"))
    origin, unit = solutions[reference]["crval"], wcs.scale(solutions[reference]) / 3600
    phi = basis(model, u, v)
    k = phi.shape[1]
    warp = np.zeros((len(kinds), k)) if start is None else np.stack([start[g] for g in kinds])
    anchor = np.stack(wcs.project(anchors["ra"], anchors["dec"], origin)) / unit
    robust, robust_anchor = np.ones(len(star)), np.ones(len(star_a))
    members = [np.flatnonzero(frame == f) for f in range(n)]

    def means():
        pixels = np.stack([u, v]) * h[frame] + np.einsum("ikn,nk->in", phi, warp[kind[frame]])
        plane = np.einsum("nij,jn->in", cd[frame], pixels)
        place = np.stack(wcs.project(*wcs.deproject(*plane, crval[:, frame]), origin)) / unit
        weight, weight_a = robust / seen["sigma"]**2, robust_anchor / anchors["sigma"]**2
        total = np.bincount(star, weight, stars) + np.bincount(star_a, weight_a, stars)
        mean = np.stack([np.bincount(star, weight * p, stars) + np.bincount(star_a, weight_a * a, stars)
                         for p, a in zip(place, anchor)]) / total
        return place - mean[:, star], anchor - mean[:, star_a], weight, total

    for _ in range(rounds):
        rest, rest_a, weight, total = means()
        robust, robust_anchor = trust(rest, seen["sigma"]), trust(rest_a, anchors["sigma"])
        centre, turn = _local(crval, origin, unit)
        jacobian = turn @ cd / unit  # d(place) / d(pixel) of each frame
        # derivatives at the stars' mean places: at the measured ones, a smaller scale would seem to lower the noise
        back = np.array([u, v]) - np.einsum("nij,jn->in", np.linalg.inv(jacobian)[frame], rest) / h[frame]
        bent = np.einsum("nij,jkn->ink", jacobian[frame], basis(model, *back))
        normal, right = _normal(members, star, back, bent, 6 * n + k * kind, rest, weight, total,
                                6 * n + k * len(kinds))
        _priors(normal, right, jacobian, h, warp, reference, len(star_a))
        step = np.linalg.solve(normal, right)
        moves = step[:6 * n].reshape(n, 2, 3)
        crval, delta = wcs.deproject(*((centre + moves[:, :, 0].T) * unit), origin), moves[:, :, 1:] / h[:, None, None]
        crval = np.array(crval)
        cd = np.linalg.solve(_local(crval, origin, unit)[1], turn @ cd + delta * unit)
        warp = warp + step[6 * n:].reshape(len(kinds), k)
    rest = means()[0]
    solutions = [dict(s, crval=tuple(map(float, crval[:, f])), cd=cd[f]) for f, s in enumerate(solutions)]
    for s, g in zip(solutions, kind):
        s["a"], s["b"] = sip(model, warp[g], size[g])
    return solutions, dict(zip(kinds, warp)), rest


def trust(rest, sigma):
    """Weights that fall off for outliers (Cauchy's); a fit that is still bad everywhere (median) distrusts nobody."""
    ratio = np.hypot(*rest) / sigma
    return 1 / (1 + (ratio / (3 * max(1.0, float(np.median(ratio)) if len(ratio) else 1.0)))**2)


def _local(crval, origin, unit):
    """The frames' centres in the common plane (2, n) [reference pixels], and d(common plane) / d(frame's own plane)."""
    e = 1e-3
    ra, dec = wcs.deproject(np.array([0, e, -e, 0, 0]), np.array([0, 0, 0, e, -e]), crval[:, :, None])
    at = np.stack(wcs.project(ra, dec, origin), axis=1)
    return at[:, :, 0].T / unit, np.stack([at[:, :, 1] - at[:, :, 2], at[:, :, 3] - at[:, :, 4]], axis=2) / (2 * e)


def _normal(members, star, at, bent, first, rest, weight, total, unknowns):
    """The normal equations, star places eliminated: sum w r r' - (sum w r)(sum w r)' / sum w, star by star.

    The unknowns are 6 a frame (place of its centre, its matrix times half a frame: what multiplies 1, u, v), and those
    of the distortion, `bent` (2, n, terms), which begin at the column first[frame].
    """
    normal, right = np.zeros((unknowns, unknowns)), np.zeros(unknowns)
    lines, terms = np.stack([np.ones(len(star)), *at], axis=1), bent.shape[2]
    for axis in range(2):
        row, sums = np.concatenate([lines, bent[axis]], axis=1), np.zeros((len(total), unknowns))
        for f, m in enumerate(members):
            weighted = row[m] * weight[m, None]
            square, pull = row[m].T @ weighted, weighted.T @ rest[axis, m]
            blocks = [(slice(6 * f + 3 * axis, 6 * f + 3 * axis + 3), slice(0, 3)),
                      (slice(first[f], first[f] + terms), slice(3, 3 + terms))]
            for to, part in blocks:
                right[to] -= pull[part]
                sums[star[m], to] += weighted[:, part]
                for down, rows in blocks:
                    normal[down, to] += square[rows, part]
        used = np.flatnonzero(sums.any(axis=0))
        sums = sums[:, used]
        normal[np.ix_(used, used)] -= (sums / total[:, None]).T @ sums
    return normal, right


def _priors(normal, right, jacobian, h, warp, reference, anchored):
    """What is known beforehand: pixels are nearly square (to 1e-3), distortion is below some ten pixels, and the
    reference frame stays where it was in the directions that nothing else fixes (in place)."""
    n, signs = len(jacobian), np.sign(np.linalg.det(jacobian)).tolist()

    def add(columns, values, target, sigma):
        for i, a in zip(columns, values):
            right[i] += a * target / sigma**2
            for j, b in zip(columns, values):
                normal[i, j] += a * b / sigma**2

    for f in range(n):
        (l11, l12), (l21, l22) = jacobian[f] * h[f]
        sign = signs[f]
        tight = 1e-3 * h[f]
        add((6 * f + 1, 6 * f + 5), (1, -sign), -(l11 - sign * l22), tight)
        add((6 * f + 2, 6 * f + 4), (1, sign), -(l12 + sign * l21), tight)
        fixed = f == reference
        add((6 * f,), (1,), 0, 1e-3 if fixed and not anchored else 1e4)
        add((6 * f + 3,), (1,), 0, 1e-3 if fixed and not anchored else 1e4)
        loose = h[f] * (1.0 if not fixed or anchored > 3 else 1e-3 if anchored > 1 else 1e-6)
        add((6 * f + 1, 6 * f + 5), (0.5, 0.5 * sign), 0, loose)
        add((6 * f + 2, 6 * f + 4), (0.5, -0.5 * sign), 0, loose)
    for j, value in enumerate(warp.ravel()):
        add((6 * n + j,), (1,), -value, 10.0)


def choose(solutions, groups, seen, anchors, reference=0, models=tuple(MODELS)):
    """The distortion model that predicts stars best that took no part in the fit, and its solution as from `adjust`.

    The misfit of the left-out stars (their distance from their own mean, which includes the catalogue's position, as a
    sum of heavy-tailed log-likelihoods) decides; a more complex model must lower it by 2 and by twice the error of the
    gain (from the gains of the single stars).  A quarter of the stars is left out at a time, of MANY a half.  Models
    with too few stars are not tried.  The errors are first widened frame by frame to the scatter that even the richest
    model leaves.
    Returns (model, solutions).
    """
    count, best, each = counted(solutions, seen, anchors), None, {}
    solutions, _, rest = adjust(solutions, groups, seen, anchors, richest(count, models), reference=reference)
    seen = dict(seen, sigma=widened(rest, seen["sigma"], seen["frame"], len(solutions)))
    folds = 2 if count >= MANY else 4
    fold, fold_a = (seen["star"] * 7919) % folds, (anchors["star"] * 7919) % folds
    for model in models:
        if count < MODELS[model]:
            continue
        each[model] = np.zeros(int(max(seen["star"].max(initial=0), anchors["star"].max(initial=0))) + 1)
        for left in range(folds if model != "none" or count >= MODELS["radial"] else 0):
            part = {key: value[fold != left] for key, value in seen.items()}
            part_a = {key: value[fold_a != left] for key, value in anchors.items()}
            fitted, _, _ = adjust(solutions, groups, part, part_a, model, reference=reference, rounds=3)
            each[model] += _misfit(fitted, seen, anchors, fold == left, fold_a == left, reference, len(each[model]))
        if best is None or clearly_better(each[best], each[model]):
            best = model
    return best, adjust(solutions, groups, seen, anchors, best, reference=reference, rounds=6)[0]


def counted(solutions, seen, anchors):
    """The stars that say something about distortion: all that several frames see; of a single frame the catalogue's."""
    return len(anchors["star"]) if len(solutions) == 1 else len(set(seen["star"].tolist()))


def richest(count, models=tuple(MODELS)):
    """The richest model for which there are twice the stars it needs."""
    return [model for model in models if count >= 2 * MODELS[model]][-1]


def clearly_better(old, new):
    """Whether the misfits `new` of the stars are below `old` by more than chance: by 2 and twice the error of the
    sum, or by much."""
    gain = old - new
    return gain.sum() > max(25, 0.2 * old.sum()) or gain.sum() > 2 + 2 * float(np.sqrt(np.sum(
        (gain - gain.mean())**2)))


def widened(rest, sigma, frame, n):
    """The errors sigma [pixel], for each frame with that scatter added that the residuals of its best-measured half
    show."""
    sigma = sigma.copy()
    for f in range(n):
        m = np.flatnonzero(frame == f)
        best = m[sigma[m] <= np.median(sigma[m])] if len(m) else m
        moved = best[np.hypot(*rest[:, best]) > 0]
        if len(moved) >= 4:  # the median of r^2 is 1.39 sigma^2 in two dimensions
            extra = np.median((rest[:, moved]**2).sum(axis=0)) / 1.39 - np.median(sigma[moved]**2)
            sigma[m] = np.sqrt(sigma[m]**2 + max(extra, 0))
    return sigma


def _misfit(solutions, seen, anchors, part, part_a, reference, stars):
    """For each of `stars` stars, -2 log-likelihood (Student's t, 4 degrees) of its left-out places about their own
    mean."""
    origin, unit = solutions[reference]["crval"], wcs.scale(solutions[reference]) / 3600
    star, frame, sigma, x, y = (seen[key][part] for key in ("star", "frame", "sigma", "x", "y"))
    place = np.empty((2, len(star)))
    for f, s in enumerate(solutions):
        m = np.flatnonzero(frame == f)
        place[:, m] = np.stack(wcs.project(*wcs.sky(s, x[m], y[m]), origin)) / unit
    anchor = np.stack(wcs.project(anchors["ra"][part_a], anchors["dec"][part_a], origin)) / unit
    star, sigma = np.concatenate([star, anchors["star"][part_a]]), np.concatenate([sigma, anchors["sigma"][part_a]])
    place, weight = np.concatenate([place, anchor], axis=1), sigma**-2.0
    for _ in range(3):
        total = np.maximum(np.bincount(star, weight), 1e-30)
        mean = np.stack([np.bincount(star, weight * p) for p in place]) / total
        weight = sigma**-2.0 * trust(place - mean[:, star], sigma)
    ratio = ((place - mean[:, star])**2).sum(axis=0) / sigma**2
    return np.bincount(star, 5 * np.log1p(ratio / 4), stars)
