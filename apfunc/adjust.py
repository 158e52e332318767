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


def adjust(solutions, groups, seen, anchors, model="none", start=None, rounds=4, reference=0):
    """The best solutions of all frames and the shared distortion.

    solutions: a TAN solution (see wcs.py) a frame, rough; groups: the camera group a frame is of (distortion is
    shared within); seen: dict of arrays frame, star, x, y, sigma [pixel], one entry a measured star; anchors: dict of
    arrays star, ra, dec [deg], sigma [pixel] (may be empty); model: a key of MODELS.
    Returns (solutions, coefficients {group: array}, residuals (2, n) of `seen` in pixels of the reference).
    """
    n, frame, star = len(solutions), seen["frame"], seen["star"]
    groups = np.asarray(groups)
    kinds = sorted(set(groups.tolist()))
    size = {g: max(max(s["crpix"]) for s, k in zip(solutions, groups) if k == g) + 0.5 for g in kinds}
    h = np.array([size[g] for g in groups])
    u = (seen["x"] - np.array([s["crpix"][0] for s in solutions])[frame]) / h[frame]
    v = (seen["y"] - np.array([s["crpix"][1] for s in solutions])[frame]) / h[frame]
    solutions = [dict(s, cd=np.array(s["cd"], float)) for s in solutions]
    origin, unit = solutions[reference]["crval"], wcs.scale(solutions[reference]) / 3600
    phi = basis(model, u, v)
    k = phi.shape[1]
    coefficients = {g: np.zeros(k) if start is None else start[g].copy() for g in kinds}
    stars = int(max(star.max(initial=-1), anchors["star"].max(initial=-1))) + 1
    anchor = np.stack(wcs.project(anchors["ra"], anchors["dec"], origin)) / unit
    robust, robust_anchor = np.ones(len(star)), np.ones(len(anchors["star"]))
    first = 6 * n + k * np.array([kinds.index(g) for g in groups])
    for _ in range(rounds):
        place, jacobian = _predict(solutions, coefficients, groups, frame, u, v, h, phi, origin, unit)
        weight, weight_a = robust / seen["sigma"]**2, robust_anchor / anchors["sigma"]**2
        mean, total = _means(star, place, weight, anchors["star"], anchor, weight_a, stars)
        rest, rest_a = place - mean[:, star], anchor - mean[:, anchors["star"]]
        robust, robust_anchor = _trust(rest, seen["sigma"]), _trust(rest_a, anchors["sigma"])
        # derivatives at the stars' mean places: at the measured ones, a smaller scale would seem to lower the noise
        back_u, back_v = np.array([u, v]) - np.einsum("nij,jn->in", np.linalg.inv(jacobian)[frame], rest) / h[frame]
        rows = _rows(frame, back_u, back_v, basis(model, back_u, back_v), jacobian, first, n, 6 * n + k * len(kinds))
        normal, right = _normal(rows, rest, weight, total, star)
        _priors(normal, right, jacobian, h, coefficients, kinds, reference, len(anchors["star"]))
        step = np.linalg.solve(normal, right)
        for f in range(n):
            _move(solutions[f], step[6 * f:6 * f + 6], origin, unit, h[f])
        for g, kind in enumerate(kinds):
            coefficients[kind] = coefficients[kind] + step[6 * n + g * k:6 * n + (g + 1) * k]
    place, _ = _predict(solutions, coefficients, groups, frame, u, v, h, phi, origin, unit)
    weight = robust / seen["sigma"]**2
    mean, _ = _means(star, place, weight, anchors["star"], anchor, weight_a, stars)
    for s, g, half in zip(solutions, groups, h):
        s["a"], s["b"] = sip(model, coefficients[g], half)
    return solutions, coefficients, place - mean[:, star]


def _means(star, place, weight, star_a, anchor, weight_a, stars):
    """The weighted mean place of each star, its catalogue place included, and the sum of the weights."""
    total = np.bincount(star, weight, stars) + np.bincount(star_a, weight_a, stars)
    sums = [
        np.bincount(star, weight * p, stars) + np.bincount(star_a, weight_a * a, stars) for p, a in zip(place, anchor)
    ]
    return np.stack(sums) / np.maximum(total, 1e-30), total


def _trust(rest, sigma):
    """Weights that fall off for outliers (Cauchy's); a fit that is still bad everywhere (median) distrusts nobody."""
    ratio = np.hypot(*rest) / sigma
    return 1 / (1 + (ratio / (3 * max(1.0, float(np.median(ratio)) if len(ratio) else 1.0)))**2)


def _local(solution, origin, unit):
    """The frame centre in the common plane [reference pixels], and d(common plane) / d(frame's own plane)."""
    e = 1e-3
    ra, dec = wcs.deproject(np.array([0, e, -e, 0, 0]), np.array([0, 0, 0, e, -e]), solution["crval"])
    at = np.stack(wcs.project(ra, dec, origin))
    return at[:, 0] / unit, np.stack([at[:, 1] - at[:, 2], at[:, 3] - at[:, 4]], axis=1) / (2 * e)


def _predict(solutions, coefficients, groups, frame, u, v, h, phi, origin, unit):
    """Places in the common plane [reference pixels] of all measurements, and the matrix d(place) / d(pixel) a frame."""
    c = np.stack([coefficients[g] for g in groups])[frame]
    d = np.einsum("ikn,nk->in", phi, c)
    place, jacobian = np.empty((2, len(u))), []
    for f, s in enumerate(solutions):
        m = np.flatnonzero(frame == f)
        pixels = np.stack([u[m] * h[f] + d[0, m], v[m] * h[f] + d[1, m]])
        place[:, m] = np.stack(wcs.project(*wcs.deproject(*(s["cd"] @ pixels), s["crval"]), origin)) / unit
        jacobian.append(_local(s, origin, unit)[1] @ s["cd"] / unit)
    return place, np.array(jacobian)


def _rows(frame, u, v, phi, jacobian, first, n, unknowns):
    """d(place) / d(unknowns), for both axes: 6 a frame (place of its centre, its matrix times half a frame), and the
    distortion's, which begin at the column first[frame]."""
    rows, index = np.zeros((2, len(u), unknowns)), np.arange(len(u))
    for axis in range(2):
        for j, value in enumerate((1.0, u, v)):
            rows[axis, index, 6 * frame + 3 * axis + j] = value
        warp = np.einsum("ni,ikn->nk", jacobian[frame][:, axis, :], phi)
        for j in range(warp.shape[1]):
            rows[axis, index, first[frame] + j] = warp[:, j]
    return rows


def _normal(rows, rest, weight, total, star):
    """The normal equations, star places eliminated: sum w r r' - (sum w r)(sum w r)' / sum w, star by star."""
    order = np.argsort(star, kind="stable")
    starts = np.flatnonzero(np.diff(star[order], prepend=-1))
    per_star = total[star[order][starts]][:, None]
    normal, right = np.zeros((rows.shape[2],) * 2), np.zeros(rows.shape[2])
    for row, r in zip(rows, rest):
        weighted = row * weight[:, None]
        sums = np.add.reduceat(weighted[order], starts, axis=0)
        normal += row.T @ weighted - (sums / per_star).T @ sums
        right -= weighted.T @ r
    return normal, right


def _priors(normal, right, jacobian, h, coefficients, kinds, reference, anchored):
    """What is known beforehand: pixels are nearly square (to 1e-3), distortion is below some ten pixels, and the
    reference frame stays where it was in the directions that nothing else fixes (in place)."""
    n, k = len(jacobian), len(coefficients[kinds[0]])

    def add(columns, values, target, sigma):
        for i, a in zip(columns, values):
            right[i] += a * target / sigma**2
            for j, b in zip(columns, values):
                normal[i, j] += a * b / sigma**2

    for f in range(n):
        (l11, l12), (l21, l22) = jacobian[f] * h[f]
        sign = np.sign(np.linalg.det(jacobian[f]))
        tight = 1e-3 * h[f]
        add((6 * f + 1, 6 * f + 5), (1, -sign), -(l11 - sign * l22), tight)
        add((6 * f + 2, 6 * f + 4), (1, sign), -(l12 + sign * l21), tight)
        fixed = f == reference
        add((6 * f,), (1,), 0, 1e-3 if fixed and not anchored else 1e4)
        add((6 * f + 3,), (1,), 0, 1e-3 if fixed and not anchored else 1e4)
        loose = h[f] * (1.0 if not fixed or anchored > 3 else 1e-3 if anchored > 1 else 1e-6)
        add((6 * f + 1, 6 * f + 5), (0.5, 0.5 * sign), 0, loose)
        add((6 * f + 2, 6 * f + 4), (0.5, -0.5 * sign), 0, loose)
    for g, kind in enumerate(kinds):
        for j in range(k):
            add((6 * n + g * k + j,), (1,), -coefficients[kind][j], 10.0)


def _move(solution, step, origin, unit, h):
    """Take one frame's step (in place, on the copy that `adjust` made)."""
    centre, turn = _local(solution, origin, unit)
    delta = np.array([[step[1], step[2]], [step[4], step[5]]]) / h
    common = turn @ solution["cd"] + delta * unit
    place = (centre + [step[0], step[3]]) * unit
    solution["crval"] = tuple(float(c) for c in wcs.deproject(*place, origin))
    solution["cd"] = np.linalg.solve(_local(solution, origin, unit)[1], common)


def choose(solutions, groups, seen, anchors, reference=0, models=tuple(MODELS), folds=4):
    """The distortion model that predicts stars best that took no part in the fit, and its solution as from `adjust`.

    The misfit of the left-out stars (their distance from their own mean, which includes the catalogue's position, as a
    sum of heavy-tailed log-likelihoods) decides; a more complex model must lower it by 10 and by twice the error of the
    gain (from the gains of the single stars).  Models with too few stars are not tried.  The errors are first widened
    frame by frame to the scatter that even the richest model leaves.
    Returns (model, what `adjust` returns, misfit of each model tried).
    """
    count, best, each = len(set(seen["star"].tolist())), None, {}
    if len(solutions) == 1:
        count = len(anchors["star"])
    solutions, _, _ = adjust(solutions, groups, seen, anchors, "none", reference=reference)
    richest = [model for model in models if count >= 2 * MODELS[model]][-1:] or ["none"]
    rest = adjust(solutions, groups, seen, anchors, richest[0], reference=reference)[2]
    seen = dict(seen, sigma=widened(rest, seen["sigma"], seen["frame"], len(solutions)))
    fold, fold_a = (seen["star"] * 7919) % folds, (anchors["star"] * 7919) % folds
    for model in models:
        if count < MODELS[model]:
            continue
        each[model] = np.zeros(int(max(seen["star"].max(initial=0), anchors["star"].max(initial=0))) + 1)
        for left in range(folds if model != "none" or count >= MODELS["radial"] else 0):
            part = {key: value[fold != left] for key, value in seen.items()}
            part_a = {key: value[fold_a != left] for key, value in anchors.items()}
            fitted, _, _ = adjust(solutions, groups, part, part_a, model, reference=reference)
            each[model] += _misfit(fitted, seen, anchors, fold == left, fold_a == left, reference, len(each[model]))
        if best is None or clearly_better(each[best], each[model]):
            best = model
    return (best, adjust(solutions, groups, seen, anchors, best, reference=reference,
                         rounds=6), {k: float(v.sum()) for k, v in each.items()})


def clearly_better(old, new):
    """Whether the misfits `new` of the stars are below `old` by more than chance: by 10 and twice the error of the
    sum, or by much."""
    gain = old - new
    return gain.sum() > max(25, 0.2 * old.sum()) or gain.sum() > 10 + 2 * float(np.sqrt(np.sum(
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
    star, frame, sigma = seen["star"][part], seen["frame"][part], seen["sigma"][part]
    place = np.empty((2, len(star)))
    for f, s in enumerate(solutions):
        m = frame == f
        place[:, m] = np.stack(wcs.project(*wcs.sky(s, seen["x"][part][m], seen["y"][part][m]), origin)) / unit
    anchor = np.stack(wcs.project(anchors["ra"][part_a], anchors["dec"][part_a], origin)) / unit
    star, sigma = np.concatenate([star, anchors["star"][part_a]]), np.concatenate([sigma, anchors["sigma"][part_a]])
    place, weight = np.concatenate([place, anchor], axis=1), sigma**-2.0
    for _ in range(3):
        total = np.maximum(np.bincount(star, weight), 1e-30)
        mean = np.stack([np.bincount(star, weight * p) for p in place]) / total
        weight = sigma**-2.0 * _trust(place - mean[:, star], sigma)
    ratio = ((place - mean[:, star])**2).sum(axis=0) / sigma**2
    return np.bincount(star, 5 * np.log1p(ratio / 4), stars)
