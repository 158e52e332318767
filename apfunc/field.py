"""The field catalogue of one target: the stars of its best frames, on one system, tied to the sky.

Every frame is then solved against it (see astrometry.py), so that a frame with few stars is registered as well as
the best ones.  The steps: choose the best frames of each filter; register them to each other by their star patterns;
tie them to the sky by the first source that works; solve for all frames and their common distortion at once
(adjust.py); merge their stars.
"""

import hashlib
import math

import numpy as np

from apfunc import adjust, pattern, tie, wcs
from apfunc.header import pixel_scale, pointing

SATURATED, EDGE, BLENDED, DIRTY, ODD = 1, 2, 4, 8, 16   # bits of a star's flags


def field(tables, catalog=None, solver=None, per_filter=4, most=12):
    """The field catalogue of one target from the star tables of its frames.

    tables: star tables (columns x, y, flux, and fluxerr, fwhm, snr, flags where there), meta FILTER, EXPTIME, NAXIS1,
    NAXIS2 and what the headers say of pointing, scale and WCS; their order does not matter.  catalog: a Table (ra,
    dec, mag, err) or a list of them (see catalog.cones), tried in order; may be None.  solver: a function
    (stars dict) -> (solution, source, catalogue or None) or None, asked when no catalogue fits (see solvers.py).

    Returns a Table, brightest first: ra, dec [deg], mag (catalogue magnitude, NaN unknown), flux_<FILTER> [adu/s, on the
    scale of that filter's most transparent frame; NaN where not seen], n (frames that saw the star).
    Its meta: TIE (source of the tie, "relative" when none), NTIE (catalogue stars used), TIERMS [arcsec], TANRA, TANDEC
    (tangent point), CDi_j (of the reference frame), SCALE [arcsec/pixel], DISTNX, DISTNY and A_p_q, B_p_q (distortion
    common to frames of that size), MODEL, NFRAMES, MAGSYS, and for each filter k FILTk, EXPRk (reference exposure [s]),
    MZPTk, MZPEk (magnitude of 1 adu/s and its error, where known), NSELk (frames used).
    Raises ValueError when no table holds stars.
    """
    frames = [f for f in (_frame(t) for t in tables) if len(f["x"])]
    if not frames:
        raise ValueError("no stars in any frame of this target; look at the frames, or lower the threshold of stars")
    frames.sort(key=lambda f: (-f["score"], f["key"]))
    reference = frames[0]
    registered = _register(_selection(frames, per_filter, most), frames)
    stars = _tie_list(registered)
    solution, source, anchors_from = _tie(stars, catalog, solver)
    for f in registered:
        f["solution"] = _moved(solution, f["t"], f["shape"])
    model, misfit, n_tie, rms = _solve(registered, anchors_from)
    table = _merge(registered, frames, anchors_from)
    table.meta.update(TIE=source, NTIE=n_tie, MODEL=model, NFRAMES=len(registered))
    if n_tie:
        table.meta["TIERMS"] = rms
    _describe(table.meta, reference)
    return table


def where(tables):
    """What to ask a catalogue for: (ra, dec, radius, epoch) [deg, decimal year] around the target's frames, or None.

    The radius holds the frames, their spread, and a degree of pointing error; the position is the median pointing (a WCS in
    the headers goes first), epoch is that of MJD-MID.
    """
    frames = [_frame(t) for t in tables]
    solutions = [_own_solution(f) for f in frames]
    places = [tuple(float(c) for c in wcs.sky(s, *tie.centre(f["shape"]))) for f, s in zip(frames, solutions) if s] or [
        f["pointing"] for f in frames if f["pointing"]]
    if not places:
        return None
    ra, dec = wcs._mean_position(*np.array(places).T)
    ra, dec = places[int(np.argmin(wcs.distance(*np.array(places).T, ra, dec)))]
    size = max(math.hypot(*f["shape"]) / 2 * (f["scale"] or 3.0) for f in frames) / 3600
    apart = float(np.max(wcs.distance(*np.array(places).T, ra, dec)))
    return ra, dec, 1.3 * size + 1.0 + min(apart, 3.0), _epoch(frames)


def _epoch(frames):
    """The decimal year of the frames' median MJD-MID, or None."""
    mjd = sorted(float(f["meta"]["MJD-MID"]) for f in frames if _is_number(f["meta"].get("MJD-MID")))
    return 2000 + (mjd[len(mjd) // 2] - 51544.5) / 365.25 if mjd else None


def _is_number(value):
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def _frame(table):
    """A frame as a dict: good stars best first, and what its meta says.  The key depends on the content only."""
    meta = {str(k).upper(): v for k, v in table.meta.items()}
    column = {name: np.array(np.ma.filled(np.ma.asarray(table[name], float), np.nan)) for name in ("x", "y", "flux", "fluxerr", "fwhm", "snr", "flags")
              if name in table.colnames}
    x, y, flux = (column.get(name, np.zeros(0)) for name in ("x", "y", "flux"))
    flags = np.nan_to_num(column.get("flags", np.zeros(len(x)))).astype(int)
    snr = column.get("snr", flux / column["fluxerr"] if "fluxerr" in column else np.full(len(x), 20.0))
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(flux) & (flux > 0) & ((flags & (EDGE | ODD)) == 0)
    clean = good & ((flags & DIRTY) == 0)
    good = clean if clean.sum() >= 8 else good
    rank = np.flatnonzero(good)[np.lexsort((y[good], x[good], -flux[good]))]
    x, y, flux, flags, snr = x[rank], y[rank], flux[rank], flags[rank], np.clip(np.nan_to_num(snr[rank], nan=5.0), 1, None)
    fwhm = meta.get("FWHM") if _is_number(meta.get("FWHM")) else np.nanmedian(column["fwhm"]) if len(column.get("fwhm", ())) else 3.0
    fwhm = float(fwhm) if np.isfinite(fwhm) else 3.0
    sigma = np.hypot(0.03, 0.6 * fwhm / snr) * np.where(flags & SATURATED, 5, 1) * np.where(flags & (BLENDED | DIRTY), 3, 1)
    shape = [int(meta[k]) if _is_number(meta.get(k)) else int((c.max() if len(c) else 0) + 2) for k, c in (("NAXIS2", y), ("NAXIS1", x))]
    exptime = float(meta["EXPTIME"]) if _is_number(meta.get("EXPTIME")) and meta["EXPTIME"] > 0 else 1.0
    digest = hashlib.sha1(np.ascontiguousarray(np.stack([x, y, flux])).tobytes()).hexdigest()
    mjd = float(meta["MJD-MID"]) if _is_number(meta.get("MJD-MID")) else 0.0
    return {"meta": meta, "x": x, "y": y, "flux": flux, "flags": flags, "snr": snr, "sigma": sigma, "shape": tuple(shape), "exptime": exptime,
            "filter": str(meta.get("FILTER") or "none").strip(), "key": (mjd, digest), "scale": pixel_scale(meta), "pointing": pointing(meta),
            "score": float(np.count_nonzero(snr >= 10)) + 0.2 * min(len(x), 500) / (1 + fwhm)}


def _selection(frames, per_filter, most):
    """The best frames: at most `per_filter` of a filter and about `most` in all, those of each filter in turn."""
    rank, seen = [], {}
    for f in frames:
        seen[f["filter"]] = seen.get(f["filter"], -1) + 1
        rank.append(seen[f["filter"]])
    order = sorted(range(len(frames)), key=lambda i: (rank[i], i))
    return [frames[i] for i in order if rank[i] < per_filter][:max(most, len(seen))]


def _register(selected, frames):
    """The selected frames that could be registered, each with t: its pixels to those of the first; and, for frames far off
    (drift), those needed to cover them.  The list of known stars grows as frames are added, so frames may chain."""
    first = selected[0]
    first["t"] = np.array([[1.0, 0, 0], [0, 1, 0]])
    done, waiting = [first], selected[1:]
    known = [first["x"], first["y"], first["flux"] / first["exptime"]]
    linears = []
    rest = [f for f in frames if not any(f is s for s in selected)]
    for round_ in range(3):
        still = []
        for f in waiting:
            if _place(f, first, known, linears):
                done.append(f)
                _extend(known, f)
            else:
                still.append(f)
        if round_ == 0:
            waiting = still + _outliers(rest, first, known, linears)
        elif len(still) == len(waiting):
            break
        else:
            waiting = still
    return done


def _place(f, first, known, linears):
    """Find f["t"] against the known stars; True when the match is beyond chance."""
    ratio = f["scale"] / first["scale"] if f["scale"] and first["scale"] else 1.0
    same = f["shape"] == first["shape"] and abs(ratio - 1) < 0.02
    guesses = linears[:4] + [s * ratio * np.eye(2) for s in (1, -1)]
    order = pattern.spread(*known, 400, cells=10)
    some = pattern.spread(f["x"], f["y"], f["flux"], 200)
    scales = (0.95, 1.05) if same else (0.85 * ratio, 1.18 * ratio) if f["scale"] and first["scale"] else (0.3, 3.0)
    found = pattern.match((f["x"][some], f["y"][some]), (known[0][order], known[1][order]), guesses, radius=(16.0, 4.0), scales=scales,
                          least=4.0 if same else 6.0, n=(24, 32))
    if found is None:
        return False
    f["t"] = found[0]
    if not any(np.abs(found[0][:, :2] - g).max() < 0.003 for g in linears):
        linears.insert(0, found[0][:, :2].copy())
    return True


def _extend(known, f):
    """Add the stars of f that are not known yet (in place)."""
    x, y = pattern.apply(f["t"], f["x"], f["y"])
    i, _, _ = pattern.pairs_within(x, y, known[0], known[1], 8.0)
    new = ~np.isin(np.arange(len(x)), i)
    for k, values in enumerate((x, y, f["flux"] / f["exptime"])):
        known[k] = np.concatenate([known[k], values[new]])


def _outliers(rest, first, known, linears):
    """Frames outside the selection whose area is covered badly: those that do not match, or lie over an edge by a fifth."""
    x0, x1, y0, y1 = known[0].min(), known[0].max(), known[1].min(), known[1].max()
    added = []
    for f in sorted(rest, key=lambda f: f["key"]):
        if len(added) >= 6:
            break
        if not _place(f, first, known, linears):
            added.append(f)
            continue
        rows, columns = f["shape"]
        x, y = pattern.apply(f["t"], np.array([0, columns, 0, columns]), np.array([0, 0, rows, rows]))
        if min(x) < x0 - 0.2 * columns or max(x) > x1 + 0.2 * columns or min(y) < y0 - 0.2 * rows or max(y) > y1 + 0.2 * rows:
            _extend(known, f)
            x0, x1, y0, y1 = known[0].min(), known[0].max(), known[1].min(), known[1].max()
            added.append(f)
    return added


def _own_solution(f):
    """The WCS of a frame's raw header, or None."""
    return wcs.from_header(f["meta"])


def _moved(solution, t, shape):
    """The TAN solution of a frame whose pixels t brings to those of `solution`."""
    x, y = tie.centre(shape)
    there = pattern.apply(t, np.array([x, x + 1, x, x - 1, x]), np.array([y, y, y + 1, y, y - 1]))
    ra, dec = wcs.sky(solution, *there)
    crval = float(ra[0]), float(dec[0])
    xi, eta = wcs.project(ra, dec, crval)
    cd = np.array([[xi[1] - xi[3], xi[2] - xi[4]], [eta[1] - eta[3], eta[2] - eta[4]]]) / 2
    return {"crval": crval, "crpix": (x, y), "cd": cd, "a": None, "b": None}


def _associate(registered, radius, place):
    """Give every star of every frame the number of a star of the field: frame["star"], by position in a common plane.

    place(f) -> (x, y) in that plane; stars closer than `radius` to the running mean of an earlier frame's are the same.
    Returns the mean places and the number of frames that saw each.
    """
    x, y = np.zeros(0), np.zeros(0)
    count = np.zeros(0, int)
    for f in registered:
        fx, fy = place(f)
        i, j = pattern.nearest(fx, fy, x, y, radius)
        star = np.full(len(fx), -1)
        star[i] = j
        new = np.flatnonzero(star < 0)
        star[new] = len(x) + np.arange(len(new))
        x[j] += (fx[i] - x[j]) / (count[j] + 1)
        y[j] += (fy[i] - y[j]) / (count[j] + 1)
        count[j] += 1
        x, y, count = np.append(x, fx[new]), np.append(y, fy[new]), np.append(count, np.ones(len(new), int))
        f["star"] = star
    return x, y, count


def _tie_list(registered):
    """The stars to tie by, as tie.py wants them: those seen at least twice (with three frames and more), brightest and even."""
    first = registered[0]
    x, y, count = _associate(registered, 6.0, lambda f: pattern.apply(f["t"], f["x"], f["y"]))
    flux = np.zeros(len(x))
    for f in registered:
        np.maximum.at(flux, f["star"], f["flux"] / f["exptime"])
    rows, columns = first["shape"]
    inside = (x > -0.5) & (y > -0.5) & (x < columns) & (y < rows)
    sure = inside & (count >= 2) if len(registered) >= 3 and np.count_nonzero(inside & (count >= 2)) >= 8 else inside
    pick = np.flatnonzero(sure)
    pick = pick[pattern.spread(x[pick], y[pick], flux[pick], 300)]
    solutions = [_moved(s, _inverse(f["t"]), first["shape"]) for f, s in ((f, _own_solution(f)) for f in registered) if s]
    hints = [f["pointing"] for f in registered if f["pointing"]]
    return {"x": x[pick], "y": y[pick], "flux": flux[pick], "shape": first["shape"], "scale": first["scale"],
            "pointing": first["pointing"] or (hints[0] if hints else None), "solutions": solutions, "epoch": _epoch(registered)}


def _inverse(t):
    linear = np.linalg.inv(t[:, :2])
    return np.column_stack([linear, -linear @ t[:, 2]])


def _tie(stars, catalog, solver):
    """The first tie that works: (solution of the first frame, its source, the catalogue for the final fit or None)."""
    catalogs = [c for c in (catalog if isinstance(catalog, (list, tuple)) else [catalog]) if c is not None and len(c)]
    for table in catalogs:
        solution = tie.from_catalog(stars, table)
        if solution is not None:
            return solution, table.meta.get("SOURCE", "catalogue"), table
    solution = tie.from_headers(stars)
    if solution is not None:
        for table in catalogs:
            shifted = tie.from_few(stars, table, solution)
            if shifted is not None:
                return shifted, f"header WCS + {table.meta.get('SOURCE', 'catalogue')}", table
        return solution, "header WCS", None
    for table in catalogs:
        found = tie.from_bright(stars, table)
        if found is not None:
            return found[0], f"{table.meta.get('SOURCE', 'catalogue')}, {found[1]} stars only", table
    found = solver(stars) if solver is not None else None
    if found is not None:
        solution, source, table = found
        for table in [*catalogs, *([] if table is None else [table])]:
            refined = tie.from_catalog(dict(stars, solutions=[solution], pointing=None), table)
            if refined is not None:
                return refined, f"{source} + {table.meta.get('SOURCE', 'catalogue')}", table
        return solution, source, None
    return tie.relative(stars), "relative", None


def _solve(registered, catalog):
    """Solve all frames and their distortion at once; sets f["solution"].  Returns (model, misfits, catalogue stars used, rms)."""
    first = registered[0]
    groups = [0 if f["shape"] == first["shape"] else 1 + sorted({g["shape"] for g in registered}).index(f["shape"]) for f in registered]
    n_tie, rms, model, scores = 0, float("nan"), "none", {}
    for radius in (8.0, 2.5):
        origin, unit = first["solution"]["crval"], wcs.scale(first["solution"]) / 3600

        def place(f):
            xi, eta = wcs.project(*wcs.sky(f["solution"], f["x"], f["y"]), origin)
            return xi / unit, eta / unit
        x, y, count = _associate(registered, radius if len(registered) > 1 else 0.5, place)
        anchors = _anchors(registered, x, y, catalog, origin, unit, radius if n_tie == 0 else min(radius, max(1.5, 5 * rms / unit / 3600)))
        useful = np.union1d(np.flatnonzero(count > 1), anchors["star"])
        seen = {"frame": [], "star": [], "x": [], "y": [], "sigma": []}
        for n, f in enumerate(registered):
            pick = np.flatnonzero(np.isin(f["star"], useful))
            even = pattern.spread(f["x"][pick], f["y"][pick], f["snr"][pick], 250, cells=8)
            keep = np.union1d(pick[even], pick[np.isin(f["star"][pick], anchors["star"])])
            for key, values in (("frame", np.full(len(keep), n)), ("star", f["star"][keep]), ("x", f["x"][keep]), ("y", f["y"][keep]),
                                ("sigma", f["sigma"][keep])):
                seen[key].append(values)
        seen = {key: np.concatenate(values) for key, values in seen.items()}
        model, (solutions, _, _), scores = adjust.choose([f["solution"] for f in registered], groups, seen, anchors)
        for f, s in zip(registered, solutions):
            f["solution"] = s
        n_tie, rms = _tie_quality(seen, solutions, anchors)
    return model, scores, n_tie, rms


def _anchors(registered, x, y, catalog, origin, unit, radius):
    """Catalogue stars within `radius` of the field's: arrays star, ra, dec, sigma [pixel] (empty without a catalogue)."""
    empty = {"star": np.zeros(0, int), "ra": np.zeros(0), "dec": np.zeros(0), "sigma": np.zeros(0)}
    if catalog is None:
        return empty
    xi, eta = wcs.project(catalog["ra"], catalog["dec"], origin)
    near = np.flatnonzero(np.hypot(xi, eta) < 3)
    i, j = pattern.nearest(x, y, xi[near] / unit, eta[near] / unit, radius)
    near = near[j]
    err = np.asarray(catalog["err"][near], float) if "err" in catalog.colnames else np.full(len(near), 0.1)
    return {"star": i, "ra": np.asarray(catalog["ra"][near], float), "dec": np.asarray(catalog["dec"][near], float),
            "sigma": np.hypot(err / 3600 / unit, 0.05)}


def _tie_quality(seen, solutions, anchors):
    """(number, rms [arcsec]) of the catalogue stars about the mean place of their measurements, outliers (3 arcsec) left out."""
    if not len(anchors["star"]):
        return 0, float("nan")
    errors = []
    for star, ra, dec in zip(anchors["star"], anchors["ra"], anchors["dec"]):
        m = np.flatnonzero(seen["star"] == star)
        if len(m):
            places = np.array([np.array(wcs.project(*wcs.sky(solutions[seen["frame"][k]], seen["x"][k], seen["y"][k]), (ra, dec))) for k in m])
            errors.append(float(np.hypot(*np.median(places, axis=0))) * 3600)
    good = np.array([e for e in errors if e < max(3.0, 4 * float(np.median(errors)))])
    return len(good), float(np.sqrt(np.mean(good**2))) if len(good) else float("nan")


def _merge(registered, frames, catalog):
    """All stars of the registered frames as one table: weighted mean places, fluxes on a common scale, magnitudes."""
    from astropy.table import Table
    first = registered[0]
    origin, unit = first["solution"]["crval"], wcs.scale(first["solution"]) / 3600

    def place(f):
        xi, eta = wcs.project(*wcs.sky(f["solution"], f["x"], f["y"]), origin)
        return xi / unit, eta / unit
    x, y, count = _associate(registered, 2.0 if len(registered) > 1 else 0.5, place)
    n = len(x)
    weight, sum_x, sum_y = np.zeros((3, n))
    best = np.zeros(n)
    for f in registered:
        fx, fy = place(f)
        for target, values in ((weight, f["sigma"]**-2.0), (sum_x, fx / f["sigma"]**2), (sum_y, fy / f["sigma"]**2)):
            np.add.at(target, f["star"], values)
        np.maximum.at(best, f["star"], f["snr"])
    ra, dec = wcs.deproject(sum_x / weight * unit, sum_y / weight * unit, origin)
    columns, meta = _fluxes(registered, frames, n)
    mag = np.full(n, np.nan)
    if catalog is not None:
        anchors = _anchors(registered, sum_x / weight, sum_y / weight, catalog, origin, unit, max(2.0, 2.0 / 3600 / unit))
        xi, eta = wcs.project(catalog["ra"], catalog["dec"], origin)
        i, j = pattern.nearest(sum_x / weight, sum_y / weight, xi / unit, eta / unit, max(2.0, 2.0 / 3600 / unit))
        mag[i] = np.asarray(catalog["mag"], float)[j]
        meta["MAGSYS"] = catalog.meta.get("MAGSYS", "")
        del anchors
    for k, name in enumerate(columns):
        _zero_point(meta, k + 1, mag, columns[name])
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


def _fluxes(registered, frames, n):
    """Median flux [adu/s] of each star in each filter, on the scale of the filter's most transparent frame; and their meta."""
    columns, meta = {}, {}
    for k, name in enumerate(sorted({f["filter"] for f in registered})):
        mine = [f for f in registered if f["filter"] == name]
        rates = np.full((len(mine), n), np.nan)
        for row, f in zip(rates, mine):
            clean = (f["flags"] & (SATURATED | DIRTY)) == 0
            row[f["star"][clean]] = f["flux"][clean] / f["exptime"]
        ratio = np.ones(len(mine))
        for r, row in enumerate(rates[1:], 1):
            both = np.isfinite(row) & np.isfinite(rates[0])
            brightest = np.flatnonzero(both)[np.argsort(-rates[0][both], kind="stable")][:100]
            ratio[r] = np.median(row[brightest] / rates[0][brightest]) if len(brightest) else 1.0
        rates *= (ratio.max() / ratio)[:, None]
        some = np.isfinite(rates).any(axis=0)
        columns[name] = np.full(n, np.nan)
        columns[name][some] = np.nanmedian(rates[:, some], axis=0)
        exposures = sorted(round(f["exptime"], 3) for f in frames if f["filter"] == name)
        meta[f"FILT{k + 1}"] = name
        meta[f"EXPR{k + 1}"] = max(set(exposures), key=lambda e: (exposures.count(e), e))
        meta[f"NSEL{k + 1}"] = len(mine)
    return columns, meta


def _zero_point(meta, k, mag, flux):
    """MZPTk, MZPEk: magnitude of 1 adu/s from the stars with a magnitude and an unsaturated flux (3 at least), clipped."""
    both = np.isfinite(mag) & np.isfinite(flux) & (flux > 0)
    if both.sum() < 3:
        return
    zero = mag[both] + 2.5 * np.log10(flux[both])
    middle = np.median(zero)
    spread = max(1.4826 * np.median(np.abs(zero - middle)), 0.02)
    zero = zero[np.abs(zero - middle) < 3 * spread]
    meta[f"MZPT{k}"] = float(np.mean(zero)) if len(zero) < 5 else float(np.median(zero))
    meta[f"MZPE{k}"] = float(max(np.std(zero), 0.01) / math.sqrt(len(zero)))


def _describe(meta, reference):
    """The reference frame's solution and distortion in `meta` (in place)."""
    s = reference["solution"]
    meta.update(TANRA=s["crval"][0], TANDEC=s["crval"][1], SCALE=wcs.scale(s), DISTNX=reference["shape"][1], DISTNY=reference["shape"][0])
    for i in range(2):
        for j in range(2):
            meta[f"CD{i + 1}_{j + 1}"] = float(s["cd"][i][j])
    if s["a"] is not None:
        meta["A_ORDER"] = meta["B_ORDER"] = len(s["a"]) - 1
        for p, q in wcs.terms(len(s["a"]) - 1):
            meta[f"A_{p}_{q}"], meta[f"B_{p}_{q}"] = float(s["a"][p, q]), float(s["b"][p, q])
