"""The field catalogue of one target: the stars of its best frames, on one system, tied to the sky.

Every frame is then solved against it (see astrometry.py), so that a frame with few stars is registered as well as
the best ones.  The steps: choose the best frames of each filter; register them to each other by their star patterns;
tie them to the sky by the first source that works; solve for all frames and their common distortion at once
(adjust.py); merge their stars.
"""

import math

import numpy as np

from apfunc import adjust, pairs, pattern, register, tie, wcs
from apfunc.fluxes import fluxes, zero_point


def field(tables, catalog=None, solver=None, per_filter=4, most=12):
    """The field catalogue of one target from the star tables of its frames.

    tables: star tables (columns x, y, flux, and fluxerr, fwhm, snr, flags where there), meta FILTER, EXPTIME, NAXIS1,
    NAXIS2 and what the headers say of pointing, scale and WCS; or what `register.frame_of` makes of them; their order
    does not matter.  catalog: a Table (ra, dec, mag, err) or a list of them (see catalog.cones), tried in order; may
    be None.  solver: a function (stars dict) -> (solution, source, catalogue or None) or None, asked when no catalogue
    fits (see solvers.py).

    Returns a Table, brightest first: ra, dec [deg], mag (catalogue magnitude, NaN unknown), flux_<FILTER> [adu/s, on
    the scale of that filter's most transparent frame; NaN where not seen], n (frames that saw the star).
    Its meta: TIE
    (source of the tie, "relative" when none), NTIE (catalogue stars used), TIERMS [arcsec], TANRA, TANDEC (tangent
    point), CDi_j (of the reference frame), SCALE [arcsec/pixel], DISTNX, DISTNY and A_p_q, B_p_q (distortion common to
    frames of that size), MODEL, NFRAMES, MAGSYS, and for each filter k FILTk, EXPRk (reference exposure [s]), MZPTk,
    MZPEk (magnitude of 1 adu/s and its error, where known), NSELk (frames used).
    Raises ValueError when no table holds
    stars.
    """
    frames = [f for f in (register.frame_of(t) for t in tables) if len(f["x"])]
    if not frames:
        raise ValueError("no stars in any frame of this target; look at the frames, or lower the threshold of stars")
    frames.sort(key=lambda f: (-f["score"], f["key"]))
    registered = register.largest(register.selection(frames, per_filter, most), frames)
    stars = _tie_list(registered)
    solution, source, anchors_from = _tie(stars, catalog, solver)
    for f in registered:
        f["solution"] = register.moved(solution, f["t"], f["shape"])
    model, n_tie, rms = _solve(registered, anchors_from)
    table = _merge(registered, frames, anchors_from)
    table.meta.update(TIE=source, NTIE=n_tie, MODEL=model, NFRAMES=len(registered))
    if n_tie:
        table.meta["TIERMS"] = rms
    _describe(table.meta, registered[0])
    for key, value in table.meta.items():
        table.meta[key] = wcs.short(value) if isinstance(value, float) else value
    return table


def where(tables):
    """What to ask a catalogue for: (ra, dec, radius, epoch) [deg, decimal year] around the target's frames, or None.

    The radius holds the frames, their spread, and a degree of pointing error; the position is the median pointing (a
    WCS in the headers goes first), epoch is that of MJD-MID.
    """
    frames = [register.frame_of(t) for t in tables]
    solutions = [register.own_solution(f) for f in frames]
    places = [tuple(float(c) for c in wcs.sky(s, *tie.centre(f["shape"])))
              for f, s in zip(frames, solutions) if s] or [f["pointing"] for f in frames if f["pointing"]]
    if not places:
        return None
    ra, dec = wcs.mean_position(*np.array(places).T)
    ra, dec = places[int(np.argmin(wcs.distance(*np.array(places).T, ra, dec)))]
    size = max(math.hypot(*f["shape"]) / 2 * (f["scale"] or 3.0) for f in frames) / 3600
    apart = float(np.max(wcs.distance(*np.array(places).T, ra, dec)))
    return ra, dec, 1.3 * size + 1.0 + min(apart, 3.0), register.epoch(frames)


def _tie_list(registered):
    """The stars to tie by, as tie.py wants them: those seen at least twice (with three frames and more), brightest
    and even."""
    first = registered[0]
    x, y, count = register.associate(registered, 6.0, lambda f: pattern.apply(f["t"], f["x"], f["y"]))
    flux = np.zeros(len(x))
    for f in registered:
        np.maximum.at(flux, f["star"], f["flux"] / f["exptime"])
    rows, columns = first["shape"]
    inside = (x > -0.5) & (y > -0.5) & (x < columns) & (y < rows)
    sure = inside & (count >= 2) if len(registered) >= 3 and np.count_nonzero(inside & (count >= 2)) >= 8 else inside
    pick = np.flatnonzero(sure)
    pick = pick[pattern.spread(x[pick], y[pick], flux[pick], 300)]
    own = [(f, register.own_solution(f)) for f in registered]
    hints = [f["pointing"] for f in registered if f["pointing"]]
    return {"x": x[pick], "y": y[pick], "flux": flux[pick], "shape": first["shape"], "scale": first["scale"],
            "pointing": hints[0] if hints else None, "epoch": register.epoch(registered),
            "solutions": [register.moved(s, register.inverse(f["t"]), first["shape"]) for f, s in own if s]}


def _tie(stars, catalog, solver):
    """The first tie that works: (solution of the first frame, its source, the catalogue for the final fit or None).

    A header's WCS that a catalogue speaks against is the last resort."""
    catalogs = [c for c in (catalog if isinstance(catalog, (list, tuple)) else [catalog]) if c is not None and len(c)]
    if stars["pointing"] is None:
        stars = dict(stars, pointing=next(filter(None, map(_middle, catalogs)), None))

    def by_pairs(reach, stretch, least=4.5):
        for table in catalogs:
            found = pairs.from_pairs(stars, table, reach, stretch, least)
            if found is not None:
                return found[0], f"{table.meta.get('SOURCE', 'catalogue')}, {found[1]} stars only", table
        return None

    for windows in (1, 110):  # where the headers point; a few stars there, beyond doubt; farther
        for table in catalogs:
            solution = tie.from_catalog(stars, table, windows)
            if solution is not None:
                return solution, table.meta.get("SOURCE", "catalogue"), table
        if windows == 1 and not stars["solutions"] and (found := by_pairs(3.0, 0.02, 9.0)):
            return found
    told = tie.from_headers(stars)
    if told is not None:
        for table in catalogs:
            shifted = tie.from_few(stars, table, told)
            if shifted is not None:
                return shifted, f"header WCS + {table.meta.get('SOURCE', 'catalogue')}", table
        if not any(tie.contradicted(stars, table, told) for table in catalogs):
            return told, "header WCS", None
    for reach, stretch in ((3.0, 0.02), (5.0, 0.02), (60.0, 0.12)):
        if found := by_pairs(reach, stretch):
            return found
    found = solver(stars) if solver is not None else None
    if found is not None:
        solution, source, table = found
        for table in [*catalogs, *([] if table is None else [table])]:
            refined = tie.from_catalog(dict(stars, solutions=[solution], pointing=None), table)
            if refined is not None:
                return refined, f"{source} + {table.meta.get('SOURCE', 'catalogue')}", table
        return solution, source, None
    return (tie.relative(stars), "relative", None) if told is None else (told, "header WCS only, unconfirmed", None)


def _middle(table, most=5.0):
    """The centre (ra, dec) of a catalogue that covers less than `most` degrees, else None: it says where the target
    is."""
    ra, dec = np.asarray(table["ra"], float), np.asarray(table["dec"], float)
    middle = wcs.mean_position(ra, dec)
    return middle if wcs.distance(ra, dec, *middle).max() < most else None


def _solve(registered, catalog):
    """Solve all frames and their distortion at once (sets f["solution"]), first with wide matches and whatever model
    the stars can carry, then with the one that predicts best.  Returns (model, catalogue stars used, rms [arcsec])."""
    shapes = list(dict.fromkeys(f["shape"] for f in registered))
    groups = [shapes.index(f["shape"]) for f in registered]
    seen, anchors = _matched(registered, catalog, 8.0, 8.0)
    count = adjust.counted(registered, seen, anchors)
    model = adjust.richest(count, ("none", "radial", "centre", "cubic"))
    solutions = adjust.adjust([f["solution"] for f in registered], groups, seen, anchors, model, rounds=6)[0]
    for f, s in zip(registered, solutions):
        f["solution"] = s
    n, rms = _tie_quality(seen, solutions, anchors)
    unit = wcs.scale(solutions[0])
    seen, anchors = _matched(registered, catalog, 2.5, min(2.5, max(1.5, 5 * rms / unit)) if n else 2.5)
    model, solutions = adjust.choose(solutions, groups, seen, anchors)
    for f, s in zip(registered, solutions):
        f["solution"] = s
    return model, *_tie_quality(seen, solutions, anchors)


def _plane(f, first):
    """Places (x, y) of a frame's stars in the tangent plane of the first [its pixels]."""
    xi, eta = wcs.project(*wcs.sky(f["solution"], f["x"], f["y"]), first["solution"]["crval"])
    unit = wcs.scale(first["solution"]) / 3600
    return xi / unit, eta / unit


def _matched(registered, catalog, radius, near):
    """What `adjust` solves from: stars that several frames see (or a catalogue has; at most 250 a frame, spatially
    even), matched within `radius` pixels, and the catalogue's within `near` of them."""
    first = registered[0]
    x, y, count = register.associate(registered, radius if len(registered) > 1 else 0.5, lambda f: _plane(f, first))
    light = np.zeros(len(x))
    for f in registered:
        np.maximum.at(light, f["star"], f["flux"] / f["exptime"])
    anchors = _anchors(first["solution"], x, y, light, catalog, near)
    useful = count > 1
    useful[anchors["star"]] = True
    fixed = np.zeros(len(x), bool)
    fixed[anchors["star"]] = True
    parts = []
    for n, f in enumerate(registered):
        pick = np.flatnonzero(useful[f["star"]])
        even = pick[pattern.spread(f["x"][pick], f["y"][pick], f["snr"][pick], 250, cells=8)]
        keep = np.union1d(even, pick[fixed[f["star"][pick]]])
        parts.append((np.full(len(keep), n), *(f[key][keep] for key in ("star", "x", "y", "sigma"))))
    return dict(zip(("frame", "star", "x", "y", "sigma"), map(np.concatenate, zip(*parts)))), anchors


def _anchors(solution, x, y, light, catalog, radius):
    """Catalogue stars within `radius` of the field's: arrays star, ra, dec, sigma [pixel] (empty without a catalogue).

    Where most pairs agree about the zero point, those off by more than two magnitudes are chance: a catalogue star that
    does not show has faint neighbours enough."""
    if catalog is None:
        return {"star": np.zeros(0, int), "ra": np.zeros(0), "dec": np.zeros(0), "sigma": np.zeros(0)}
    unit = wcs.scale(solution) / 3600
    xi, eta = wcs.project(catalog["ra"], catalog["dec"], solution["crval"])
    near = np.flatnonzero(np.hypot(xi, eta) < 3)
    i, j = pattern.nearest(x, y, xi[near] / unit, eta[near] / unit, radius)
    zero = np.asarray(catalog["mag"], float)[near[j]] + 2.5 * np.log10(light[i])
    off = np.abs(zero[:, None] - zero)  # NaN (no magnitude) is never off
    alike = (off < 0.7).sum(axis=1)
    if len(i) and alike.max() >= 3:
        keep = ~(off[np.argmax(alike)] > 2)
        i, j = i[keep], j[keep]
    ra, dec = (np.asarray(catalog[key], float)[near[j]] for key in ("ra", "dec"))
    err = np.asarray(catalog["err"], float)[near[j]] if "err" in catalog.colnames else np.full(len(j), 0.1)
    return {"star": i, "ra": ra, "dec": dec, "sigma": np.hypot(err / 3600 / unit, 0.05)}


def _tie_quality(seen, solutions, anchors):
    """(number, rms [arcsec]) of the catalogue stars about the median place of their measurements, outliers (3
    arcsec) left out."""
    if not len(anchors["star"]):
        return 0, float("nan")
    rank = np.full(max(seen["star"].max(), anchors["star"].max()) + 1, -1)
    rank[anchors["star"]] = np.arange(len(anchors["star"]))
    which, off = rank[seen["star"]], np.zeros((2, len(seen["star"])))
    for f, s in enumerate(solutions):
        m = np.flatnonzero((seen["frame"] == f) & (which >= 0))
        place = anchors["ra"][which[m]], anchors["dec"][which[m]]
        off[:, m] = wcs.project(*wcs.sky(s, seen["x"][m], seen["y"][m]), place)
    errors = np.hypot(*(_medians(v[which >= 0], which[which >= 0]) for v in off)) * 3600
    good = errors[errors < max(3.0, 4 * float(np.median(errors)))] if len(errors) else errors
    return len(good), float(np.sqrt(np.mean(good**2))) if len(good) else float("nan")


def _medians(values, group):
    """The median of the values of each group there is."""
    order = np.lexsort((values, group))
    _, first, count = np.unique(group[order], return_index=True, return_counts=True)
    return (values[order][first + (count - 1) // 2] + values[order][first + count // 2]) / 2


def _merge(registered, frames, catalog):
    """All stars of the registered frames as one table: weighted mean places, fluxes on a common scale, magnitudes."""
    from astropy.table import Table

    first = registered[0]
    origin, unit = first["solution"]["crval"], wcs.scale(first["solution"]) / 3600
    x, y, count = register.associate(registered, 2.0 if len(registered) > 1 else 0.5, lambda f: _plane(f, first))
    n = len(x)
    weight, sum_x, sum_y = np.zeros((3, n))
    best = np.zeros(n)
    for f in registered:
        fx, fy = _plane(f, first)
        for target, values in ((weight, f["sigma"]**-2.0), (sum_x, fx / f["sigma"]**2), (sum_y, fy / f["sigma"]**2)):
            np.add.at(target, f["star"], values)
        np.maximum.at(best, f["star"], f["snr"])
    ra, dec = wcs.deproject(sum_x / weight * unit, sum_y / weight * unit, origin)
    columns, meta = fluxes(registered, frames, n)
    mag = np.full(n, np.nan)
    if catalog is not None:
        xi, eta = wcs.project(catalog["ra"], catalog["dec"], origin)
        i, j = pattern.nearest(sum_x / weight, sum_y / weight, xi / unit, eta / unit, max(2.0, 2.0 / 3600 / unit))
        mag[i] = np.asarray(catalog["mag"], float)[j]
        meta["MAGSYS"] = catalog.meta.get("MAGSYS", "")
    for k, name in enumerate(columns):
        zero_point(meta, k + 1, mag, columns[name])
    sure = (count >= 2) | (best >= 15) if len(registered) >= 3 else best >= 5
    sure |= np.isfinite(mag)
    flux = np.nanmax(np.where(np.isfinite(list(columns.values())), list(columns.values()), 0), axis=0)
    pick = np.flatnonzero(sure)
    pick = pick[np.lexsort((ra[pick], -flux[pick]))]
    table = Table([ra[pick], dec[pick], mag[pick]], names=("ra", "dec", "mag"), units=("deg", "deg", "mag"))
    for name, values in columns.items():
        table[f"flux_{name}"] = values[pick]
        table[f"flux_{name}"].unit = "adu/s"
    table["n"] = count[pick].astype(np.int32)
    table.meta.update(meta)
    return table


def _describe(meta, reference):
    """The reference frame's solution and distortion in `meta` (in place)."""
    s = reference["solution"]
    meta.update(TANRA=s["crval"][0], TANDEC=s["crval"][1], SCALE=wcs.scale(s), DISTNX=reference["shape"][1],
                DISTNY=reference["shape"][0])
    for i in range(2):
        for j in range(2):
            meta[f"CD{i + 1}_{j + 1}"] = float(s["cd"][i][j])
    if s["a"] is not None:
        meta["A_ORDER"] = meta["B_ORDER"] = len(s["a"]) - 1
        for p, q in wcs.terms(len(s["a"]) - 1):
            meta[f"A_{p}_{q}"], meta[f"B_{p}_{q}"] = float(s["a"][p, q]), float(s["b"][p, q])
