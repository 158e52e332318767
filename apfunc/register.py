"""The frames of a target, from their star tables, registered to each other by the patterns of their stars."""

import hashlib
import math

import numpy as np

from apfunc import pattern, tie, wcs
from apfunc.header import pixel_scale, pointing

SATURATED, EDGE, BLENDED, DIRTY, ODD = 1, 2, 4, 8, 16  # bits of a star's flags


def frame_of(table):
    """A frame as a dict: good stars best first, and what its meta says.  The key depends on the content only.

    table: a Table, or (structured array, meta), or such a frame, of which a copy comes back."""
    if isinstance(table, dict):
        return dict(table)
    columns, meta = table if isinstance(table, tuple) else (table, table.meta)
    meta = {str(k).upper(): v for k, v in meta.items()}
    column = {name: np.array(np.ma.filled(np.ma.asarray(columns[name], float), np.nan))
              for name in ("x", "y", "flux", "fluxerr", "fwhm", "snr", "flags") if name in columns.dtype.names}
    x, y, flux = (column.get(name, np.zeros(0)) for name in ("x", "y", "flux"))
    flags = np.nan_to_num(column.get("flags", np.zeros(len(x)))).astype(int)
    snr = column.get("snr", flux / column["fluxerr"] if "fluxerr" in column else np.full(len(x), 20.0))
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(flux) & (flux > 0) & ((flags & (EDGE | ODD)) == 0)
    clean = good & ((flags & DIRTY) == 0)
    good = clean if clean.sum() >= 8 else good
    rank = np.flatnonzero(good)[np.lexsort((y[good], x[good], -flux[good]))]
    x, y, flux, flags = x[rank], y[rank], flux[rank], flags[rank]
    snr = np.clip(np.nan_to_num(snr[rank], nan=5.0), 1, None)
    wide = column.get("fwhm", np.zeros(0))
    measured = np.median(wide[np.isfinite(wide)]) if np.isfinite(wide).any() else 3.0
    fwhm = float(meta["FWHM"] if is_number(meta.get("FWHM")) else measured)
    sigma = (np.hypot(0.03, 0.6 * fwhm / snr) * np.where(flags & SATURATED, 5, 1)
             * np.where(flags & (BLENDED | DIRTY), 3, 1))
    shape = tuple(int(meta[k] if is_number(meta.get(k)) else c.max(initial=0) + 2)
                  for k, c in (("NAXIS2", y), ("NAXIS1", x)))
    exptime = float(meta["EXPTIME"]) if is_number(meta.get("EXPTIME")) and meta["EXPTIME"] > 0 else 1.0
    digest = hashlib.sha1(np.ascontiguousarray(np.stack([x, y, flux])).tobytes()).hexdigest()
    mjd = float(meta["MJD-MID"]) if is_number(meta.get("MJD-MID")) else 0.0
    return {"meta": meta, "x": x, "y": y, "flux": flux, "flags": flags, "snr": snr, "sigma": sigma, "shape": shape,
            "exptime": exptime, "filter": str(meta.get("FILTER") or "none").strip(), "key": (mjd, digest),
            "scale": pixel_scale(meta), "pointing": pointing(meta),
            "score": float(np.count_nonzero(snr >= 10)) + 0.2 * min(len(x), 500) / (1 + fwhm)}


def is_number(value):
    """A finite number, not a text."""
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def epoch(frames):
    """The decimal year of the frames' median MJD-MID, or None."""
    mjd = sorted(float(f["meta"]["MJD-MID"]) for f in frames if is_number(f["meta"].get("MJD-MID")))
    return 2000 + (mjd[len(mjd) // 2] - 51544.5) / 365.25 if mjd else None


def own_solution(f):
    """The WCS of a frame's raw header, or None."""
    return wcs.from_header(f["meta"])


def selection(frames, per_filter, most):
    """The best frames: at most `per_filter` of a filter and about `most` in all, those of each filter in turn."""
    rank, seen = [], {}
    for f in frames:
        seen[f["filter"]] = seen.get(f["filter"], -1) + 1
        rank.append(seen[f["filter"]])
    order = sorted(range(len(frames)), key=lambda i: (rank[i], i))
    return [frames[i] for i in order if rank[i] < per_filter][:max(most, len(seen))]


def register(selected, frames):
    """The selected frames that could be registered, each with t: its pixels to those of the first; and, for frames
    far off (drift), those needed to cover them.  The list of known stars grows as frames are added, so frames may
    chain."""
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


def largest(selected, frames, tries=3):
    """`register` with the best frame as the first; where fewer than half of the selected fit it (a frame of another
    target, taken for one of this), with the best of those left out, and the largest group of `tries` stays."""
    best, left = [], selected
    for _ in range(tries):
        first = left[0]
        found = register([first] + [f for f in selected if f is not first], frames)
        found = [(f, f["t"]) for f in found]
        best = found if len(found) > len(best) else best
        left = [f for f in left if not any(f is g for g, _ in found)]
        if 2 * len(best) >= len(selected) or not left:
            break
    for f, t in best:
        f["t"] = t
    return [f for f, _ in best]


def _place(f, first, known, linears):
    """Find f["t"] against the known stars; True when the match is beyond chance."""
    ratio = f["scale"] / first["scale"] if f["scale"] and first["scale"] else 1.0
    same = f["shape"] == first["shape"] and abs(ratio - 1) < 0.02
    guesses = linears[:4] + [s * ratio * np.eye(2) for s in (1, -1)]
    order = pattern.spread(*known, 400, cells=10)
    some = pattern.spread(f["x"], f["y"], f["flux"], 200)
    scales = (0.95, 1.05) if same else (0.85 * ratio, 1.18 * ratio) if f["scale"] and first["scale"] else (0.3, 3.0)
    found = pattern.match((f["x"][some], f["y"][some]), (known[0][order], known[1][order]), guesses, radius=(16.0, 4.0),
                          scales=scales, least=4.0 if same else 6.0, n=(24, 32))
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
    """Frames outside the selection whose area is covered badly: those that do not match, or lie over an edge by a
    fifth."""
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
        if (min(x) < x0 - 0.2 * columns or max(x) > x1 + 0.2 * columns or min(y) < y0 - 0.2 * rows
                or max(y) > y1 + 0.2 * rows):
            _extend(known, f)
            x0, x1, y0, y1 = known[0].min(), known[0].max(), known[1].min(), known[1].max()
            added.append(f)
    return added


def associate(registered, radius, place):
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


def moved(solution, t, shape):
    """The TAN solution of a frame whose pixels t brings to those of `solution`."""
    x, y = tie.centre(shape)
    there = pattern.apply(t, np.array([x, x + 1, x, x - 1, x]), np.array([y, y, y + 1, y, y - 1]))
    ra, dec = wcs.sky(solution, *there)
    crval = float(ra[0]), float(dec[0])
    xi, eta = wcs.project(ra, dec, crval)
    cd = np.array([[xi[1] - xi[3], xi[2] - xi[4]], [eta[1] - eta[3], eta[2] - eta[4]]]) / 2
    return {"crval": crval, "crpix": (x, y), "cd": cd, "a": None, "b": None}


def inverse(t):
    """The inverse of an affine transformation (2, 3)."""
    linear = np.linalg.inv(t[:, :2])
    return np.column_stack([linear, -linear @ t[:, 2]])
