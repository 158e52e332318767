"""Where a frame looks: its stars against the field catalogue of its target (see field.py)."""

import math

import numpy as np

from apfunc import adjust, pattern, register, tie, wcs
from apfunc.header import history, number


def astrometry(image, stars, field, order=None):
    """Solve a frame: match its stars to the field's and write the WCS.

    image: (data, header); only the shape of data is used.  stars: its star table (x, y, flux, … see stars.py).
    field: the field catalogue.  order: force this SIP order (1: plain TAN with the field's distortion).
    Returns (image, stars) with a new header and table: stars gets ra, dec [deg] and id (row of the field, -1 none).

    The solution is TAN with the distortion that the field catalogue found common to the target's frames, or a TAN-SIP
    of the frame's own, when it predicts left-out stars better.  Header: the WCS (TAN, or TAN-SIP with inverse terms;
    every older WCS keyword is removed), WCSSRC (tie), WCSNMATC, WCSRMS [arcsec], WCSRMSPX [pixel], WCSORDER, PIXSCALE,
    FWHM [pixel] and ELLIP (the star table's), FLXSCALE and FLXSCERR (the factor that brings the frame to the flux scale
    of its filter's most transparent frame at the reference exposure FLXEXPT), MAGZP and MAGZPERR (magnitude of 1 adu
    of this frame, where the field has magnitudes; MAGZPSYS says which).
    Raises ValueError, with the reason, when the frame has too few stars or no match is beyond chance.
    """
    data, header = image
    f = register.frame_of(stars)
    f["shape"] = data.shape
    if len(f["x"]) < 3:
        raise ValueError(
            f"only {len(f['x'])} usable stars; a solution needs 3 (cloud, or the wrong threshold of stars?)")
    if len(field) < 3:
        raise ValueError(f"the field catalogue has only {len(field)} stars; look at the target's other frames")
    base = _base(field.meta, f)
    known = _known(field, f["filter"], base)
    solution = _first(f, known, base)
    solution, i, j, used, rms = _best(f, field, solution, base, order)
    header = _written(header, solution, data.shape, field.meta, i, rms, used)
    _photometry(header, f, field, i, j)
    header.update({k: v for k, v in stars.meta.items() if k.startswith("TRAIL")})  # for resample's mask, and its kernel
    for key, comment in (("FWHM", "[pixel] of its stars"), ("ELLIP", "their ellipticity, 1 - minor/major axis")):
        if number(stars.meta, key) is not None:
            header[key] = (round(number(stars.meta, key), 4), comment)
    history(header, "astrometry", tie=field.meta.get("TIE"), matches=len(i), order=used)
    return (data, header), _with_sky(stars, solution, field)


def _base(meta, f):
    """The field's reference solution, with the distortion when it is that of frames like f: of its shape, or of the
    same camera at another binning (the same proportions and field of view)."""
    shape, (rows, columns) = f["shape"], (meta.get("DISTNY"), meta.get("DISTNX"))
    same, zoom = (rows, columns) == tuple(shape), (rows or 0) / shape[0]
    binned = (f["scale"] is not None and abs((columns or 0) / shape[1] - zoom) < 0.01 * zoom
              and abs(zoom * float(meta["SCALE"]) / f["scale"] - 1) < 0.02)
    cd = np.array([[float(meta[f"CD{i}_{j}"]) for j in (1, 2)] for i in (1, 2)])
    order = int(meta.get("A_ORDER", 0)) if same or binned else 0
    a = b = None
    if order:
        a, b = np.zeros((2, order + 1, order + 1))
        for p, q in wcs.terms(order):
            a[p, q], b[p, q] = (meta.get(f"{name}_{p}_{q}", 0) * zoom**(p + q - 1) for name in "AB")
    return {"crval": (float(meta["TANRA"]), float(meta["TANDEC"])), "crpix": tie.centre(shape), "cd": cd, "a": a,
            "b": b, "same": same}


def _known(field, name, base):
    """The field's stars in a plane around its tangent point [reference pixels], those bright in this filter first."""
    unit = math.sqrt(abs(np.linalg.det(base["cd"])))
    xi, eta = wcs.project(field["ra"], field["dec"], base["crval"])
    fluxes = [np.asarray(field[c], float) for c in field.colnames if c.startswith("flux_")]
    mine = np.asarray(field[f"flux_{name}"], float) if f"flux_{name}" in field.colnames else np.full(len(field), np.nan)
    others = np.nanmax(np.where(np.isfinite(fluxes), fluxes, 0), axis=0) if fluxes else np.ones(len(field))
    both = np.isfinite(mine) & (others > 0) & (mine > 0)
    typical = np.median(mine[both] / others[both]) if both.any() else 1.0
    flux = np.where(np.isfinite(mine), mine, typical * others * (0.3 if both.sum() > 20 else 1))
    return {"x": xi / unit, "y": eta / unit, "flux": flux, "unit": unit}


def _first(f, known, base):
    """A TAN solution by the pattern of the stars: the reference's orientation and half a turn of it first, then any."""
    u, v = f["x"] - base["crpix"][0], f["y"] - base["crpix"][1]
    u, v = u + wcs.polynomial(base["a"], u, v), v + wcs.polynomial(base["b"], u, v)
    some = pattern.spread(f["x"], f["y"], f["flux"], 200)
    even = pattern.spread(known["x"], known["y"], known["flux"], 400, cells=10)
    linear = base["cd"] / known["unit"]
    radius = (12.0, 2.5) if base["a"] is not None else (16.0, 5.0)
    guesses = [linear, -linear] if base["same"] else []
    scales = (0.95, 1.05) if base["same"] else (0.2, 5.0)
    found = pattern.match((u[some], v[some]), (known["x"][even], known["y"][even]), guesses, radius, scales,
                          least=4.5 if len(some) < 12 else 6.0, n=(24, 34))
    if found is None and base["same"] and len(some) < 12:  # the few that show are among the brightest of the field
        top = np.argsort(-known["flux"], kind="stable")[:3 * len(some)]
        found = pattern.match((u[some], v[some]), (known["x"][top], known["y"][top]), guesses, radius, scales,
                              least=4.8, blind=False)
    if found is None:
        raise ValueError(f"no match of its {len(u)} stars with the field catalogue is beyond chance "
                         "(cloud, trailing, or another field?)")
    t = found[0]
    crval = tuple(float(c) for c in wcs.deproject(t[0, 2] * known["unit"], t[1, 2] * known["unit"], base["crval"]))
    return _turned({"crpix": base["crpix"], "a": base["a"], "b": base["b"]}, t, known["unit"], base["crval"], crval)


def _turned(solution, t, unit, origin, crval):
    """`solution` with crval and cd of the transformation t into the tangent plane at `origin`."""
    places = t[:, 2:] + t[:, :2] @ np.array([[1, -1, 0, 0], [0, 0, 1, -1.0]])
    xi, eta = wcs.project(*wcs.deproject(*(places * unit), origin), crval)
    return dict(solution, crval=crval,
                cd=np.array([[xi[0] - xi[1], xi[2] - xi[3]], [eta[0] - eta[1], eta[2] - eta[3]]]) / 2)


def _best(f, field, solution, base, order):
    """Match ever closer and fit; then choose the distortion by cross-validation.

    Returns (solution, i, j, what was used, rms of the clean matches [pixel])."""
    ra, dec = np.asarray(field["ra"], float), np.asarray(field["dec"], float)
    for radius in (6.0, 3.0, 2.0, 1.5):
        i, j = _pairs(f, solution, ra, dec, radius)
        if len(i) < 3:
            raise ValueError(f"only {len(i)} of its {len(f['x'])} stars fit the field catalogue; a solution needs 3")
        solution, _ = _fitted(f, i, ra[j], dec[j], solution, 1, base, rounds=2)
    count = len(i)
    rich = max([n for n, least in ((1, 0), (2, 30), (3, 60)) if count >= least])
    rest = _rest(f, i, ra[j], dec[j], _fitted(f, i, ra[j], dec[j], solution, rich, base)[0])
    sigma = f["sigma"].copy()
    sigma[i] = adjust.widened(rest, f["sigma"][i], np.zeros(count, int), 1)
    f = dict(f, sigma=sigma)
    orders = [order] if order else [1] + [n for n, least in ((2, 30), (3, 60), (4, 150), (5, 250)) if count >= least]
    if len(orders) > 1 and _could_gain(f, i, ra[j], dec[j], solution, orders, base):
        scores = {n: _left_out(f, i, ra[j], dec[j], solution, n, base) for n in orders}
        used = orders[0]
        for n in orders[1:]:
            used = n if adjust.clearly_better(scores[used], scores[n]) else used
    else:
        used = orders[0]
    for _ in range(2):
        solution, weight = _fitted(f, i, ra[j], dec[j], solution, used, base)
        i, j = _pairs(f, solution, ra, dec, 1.5)
    x, y = wcs.pixel(solution, ra[j], dec[j])
    gap = np.hypot(x - f["x"][i], y - f["y"][i])
    clean = gap < np.maximum(max(4 * float(np.median(gap)), 0.1), 4 * f["sigma"][i])
    i, j, gap = i[clean], j[clean], gap[clean]
    if len(i) < 3:
        raise ValueError(f"only {len(i)} of its {len(f['x'])} stars fit the field catalogue; a solution needs 3")
    return solution, i, j, used, float(np.sqrt(np.mean(gap**2)))


def _could_gain(f, i, ra, dec, solution, orders, base):
    """Whether the highest order fits so much better than the lowest that it is not just its number of coefficients."""
    fits = [_fitted(f, i, ra, dec, solution, n, base)[0] for n in (orders[0], orders[-1])]
    low, high = (_misfit(f, i, ra, dec, fitted).sum() for fitted in fits)
    return low - high > 6 + 2 * 2 * len(wcs.terms(orders[-1]))


def _misfit(f, i, ra, dec, solution):
    """-2 log-likelihood (Student's t, 4 degrees: outliers count little) of each star about where a solution puts
    them."""
    return 5 * np.log1p((_rest(f, i, ra, dec, solution)**2).sum(axis=0) / f["sigma"][i]**2 / 4)


def _rest(f, i, ra, dec, solution):
    """How far (2, n) [pixel, freed of distortion] stars lie from their catalogue places: that needs no inversion."""
    off = np.stack(wcs.plane(solution, f["x"][i], f["y"][i])) - np.stack(wcs.project(ra, dec, solution["crval"]))
    return np.linalg.solve(solution["cd"], off)


def _pairs(f, solution, ra, dec, radius):
    x, y = wcs.pixel(solution, ra, dec)
    rows, columns = f["shape"]
    inside = np.flatnonzero((x > -20) & (y > -20) & (x < columns + 20) & (y < rows + 20))
    i, j = pattern.nearest(f["x"], f["y"], x[inside], y[inside], radius)
    return i, inside[j]


def _fitted(f, i, ra, dec, solution, order, base, rounds=4):
    """One robust fit (weights by accuracy, outliers fading); order 1 holds the field's distortion."""
    weight = f["sigma"][i]**-2.0
    trust = np.ones(len(i))
    for _ in range(rounds):
        if order == 1 and len(i) < 6:
            solution = _similar(f["x"][i], f["y"][i], ra, dec, solution, weight * trust)
        else:
            solution = wcs.fit(f["x"][i], f["y"][i], ra, dec, base["crpix"], order, weight * trust, solution["crval"],
                               base["a"], base["b"])
        trust = adjust.trust(_rest(f, i, ra, dec, solution), f["sigma"][i])
    return solution, weight * trust


def _similar(x, y, ra, dec, solution, weight):
    """A solution's best shift, turn and scale for very few stars; its squareness and distortion stay."""
    u, v = x - solution["crpix"][0], y - solution["crpix"][1]
    u, v = u + wcs.polynomial(solution["a"], u, v), v + wcs.polynomial(solution["b"], u, v)
    for _ in range(2):
        z = np.array([1, 1j]) @ (solution["cd"] @ np.stack([u, v]))
        big_z = np.array([1, 1j]) @ np.stack(wcs.project(ra, dec, solution["crval"]))
        mean, big_mean = np.average(z, weights=weight), np.average(big_z, weights=weight)
        a = np.sum(weight * (z - mean).conj() * (big_z - big_mean)) / max(np.sum(weight * np.abs(z - mean)**2), 1e-300)
        shift = big_mean - a * mean
        crval = tuple(float(c) for c in wcs.deproject(shift.real, shift.imag, solution["crval"]))
        solution = dict(solution, crval=crval, cd=np.array([[a.real, -a.imag], [a.imag, a.real]]) @ solution["cd"])
    return solution


def _left_out(f, i, ra, dec, solution, order, base, folds=5):
    """Misfit of stars where a fit of the others predicts them."""
    misfit = np.zeros(len(i))
    for left in range(folds):
        out = np.arange(len(i)) % folds == left
        fitted, _ = _fitted(f, i[~out], ra[~out], dec[~out], solution, order, base)
        misfit[out] = _misfit(f, i[out], ra[out], dec[out], fitted)
    return misfit


def _written(header, solution, shape, meta, i, rms, order):
    header = wcs.to_header(header, solution, shape)
    pixel = wcs.scale(solution)
    header["WCSSRC"] = (str(meta.get("TIE", "unknown")), "what the positions rest on")
    header["WCSNMATC"] = (len(i), "stars matched with the field catalogue")
    header["WCSRMS"] = (round(rms * pixel, 5), "[arcsec] rms of the matches")
    header["WCSRMSPX"] = (round(rms, 5), "[pixel] rms of the matches")
    header["WCSORDER"] = (order, "1: TAN with the field's distortion; else own SIP order")
    header["PIXSCALE"] = (round(pixel, 6), "[arcsec/pixel] scale at the reference pixel")
    return header


def _photometry(header, f, field, i, j):
    """FLXSCALE and MAGZP, from the unsaturated common stars (in place, on the stage's own copy)."""
    name, meta = f["filter"], field.meta
    for key in ("FLXSCALE", "FLXSCERR", "FLXEXPT", "MAGZP", "MAGZPERR", "MAGZPSYS"):
        header.remove(key, ignore_missing=True)
    k = next((k for k in range(1, 100) if str(meta.get(f"FILT{k}")) == name), None)
    if k is None or f"flux_{name}" not in field.colnames:
        return
    rate = np.asarray(field[f"flux_{name}"], float)[j]
    good = np.isfinite(rate) & (rate > 0) & ((f["flags"][i] & register.SATURATED) == 0)
    bright = good & (f["snr"][i] > 10)
    good = bright if bright.sum() >= 5 else good
    if not good.any():
        return
    ratio = rate[good] * float(meta[f"EXPR{k}"]) / f["flux"][i][good]
    scale, error = _weighted_median(ratio, f["snr"][i][good])
    header["FLXSCALE"] = (wcs.short(scale), "factor to the group's flux scale and exposure")
    header["FLXSCERR"] = (wcs.short(error), "its error")
    header["FLXEXPT"] = (float(meta[f"EXPR{k}"]), "[s] the group's reference exposure")
    if f"MZPT{k}" in meta:
        header["MAGZP"] = (round(float(meta[f"MZPT{k}"]) - 2.5 * math.log10(scale / float(meta[f"EXPR{k}"])),
                                 6), "magnitude of 1 adu of this frame")
        header["MAGZPERR"] = (round(math.hypot(float(meta[f"MZPE{k}"]), 1.0857 * error / scale), 6), "its error")
        header["MAGZPSYS"] = (str(meta.get("MAGSYS", "")), "magnitude system of MAGZP")


def _weighted_median(values, snr):
    """Median weighted by min(snr, 100), and its error from the scatter (or from the S/N when there are few)."""
    weight = np.minimum(snr, 100.0)
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weight[order])
    middle = float(np.interp(0.5 * total[-1], total - 0.5 * weight[order], values[order]))
    if len(values) < 5:
        return middle, middle / float(np.sqrt(np.sum(np.minimum(snr, 100.0)**2)))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle, max(1.2533 * spread / math.sqrt(len(values)), 1e-4 * middle)


def _with_sky(stars, solution, field):
    """A copy of the star table with ra, dec [deg] and id (row in the field catalogue, -1 none)."""
    stars = stars.copy()
    x, y = np.asarray(stars["x"], float), np.asarray(stars["y"], float)
    ra, dec = wcs.sky(solution, x, y)
    fx, fy = wcs.pixel(solution, np.asarray(field["ra"], float), np.asarray(field["dec"], float))
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    seen = np.flatnonzero(np.isfinite(fx) & np.isfinite(fy))
    i, j = pattern.nearest(x[finite], y[finite], fx[seen], fy[seen], 1.5)
    number_ = np.full(len(stars), -1, np.int32)
    number_[finite[i]] = seen[j]
    for name, values, unit in (("ra", ra, "deg"), ("dec", dec, "deg"), ("id", number_, None)):
        stars[name] = values
        stars[name].unit = unit
    return stars
