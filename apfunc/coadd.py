"""Stack resampled frames: one flux scale, one sky, outliers rejected, weighted by inverse variance.

With s_k the factor of frame k, o_k its sky and W_k its weight plane [1/adu^2],

    d_k = s_k I_k - o_k          w_k = W_k / s_k^2          out = sum w_k d_k / sum w_k          weight = sum w_k

which has the least noise that the accepted frames allow.
"""

import numpy as np

from apfunc import aligned, bands, common, merge, seeing, stacked
from apfunc import header as hdr

MEMORY = 240e6  # [byte] of the frames' rows that are held at once
BAND = 160  # rows of the stack that are made at a time
PANEL = 512  # columns done at a time, to save memory, of frames with a sky mesh, and of mosaics, where some are absent
METHODS = ("auto", "clip", "winsor", "minmax", "median", "none")


def coadd(images, weights=None, masks=None, reject="auto", sigma=4.0, scale="auto", sky=1, factors=None, seeing=0.0):
    """The stack of frames on one grid: ``(data, header), weight``.

    images   list of (rows, header); rows: any 2-D object with .shape and [a:b] (an array, or what apfunc.io.read_rows
             gives), all on the same grid.  Each frame is read whole, one after the other, then all in bands of rows.
    weights  list of rows [1/adu^2], or None: the inverse of the measured sky noise.
    masks    list of rows of uint8 bits, or None.
    reject   "clip": values farther than `sigma` times their noise from the median are left out; "winsor": moved to that
             limit; "minmax": without the smallest and the largest; "median"; "none"; "auto": clip.  Of two frames the
             larger value goes when they differ too much; of one nothing can be said.  The noise is that of sky and star
             by the gain, and near stars as much more as the frames' seeing differs: no star is clipped, neither core
             nor wing.  What is coherent (trails) is found in 3 x 3 pixels, down to two sigma, and goes with its rim.
    scale    "auto": the headers' FLXSCALE when all have it and the common stars agree to 5 %, else the stars, else
             the exposures; or one of "header", "stars", "exposure", "none".
    sky      degree of the polynomial that makes the frames' skies alike (0: an offset); None: sky left as it is.
    factors  further weight of each frame; seeing: power of (best FWHM / FWHM) that multiplies the weights.

    data     float32 [adu of the most transparent frame at the reference exposure], sky removed; NaN where no frame has
             data.  Bad, cosmic and trail pixels count only where no other frame has data; but on a star (3 sigma) of
             frames whose seeing differs mended ones count in full, for without them it has another form in each
             pixel.  A saturated pixel is a lower limit: others replace it where they are above; where all are
             saturated data is at least SATURATE.
    weight   float32 [1/adu^2]; 0 where NaN, where all are saturated, and where nothing is trusted.
    header   see apfunc.stacked.header.

    Raises ValueError when there is no frame, when shapes or WCS differ, or an option makes no sense.
    """
    if reject not in METHODS or scale not in stacked.SCALES:
        raise ValueError(f"no rejection {reject!r} or scale {scale!r}; choose {', '.join(METHODS)}; "
                         f"{', '.join(stacked.SCALES)}")
    shape, count = _checked(images, weights, masks), len(images)
    frames = [((bands.place(rows, "f4"), header), bands.place(weight, "f4"), bands.place(mask, "u1"))
              for (rows, header), weight, mask in zip(images, weights or [None] * count, masks or [None] * count)]
    facts = measure(frames, shape, scale, sky)
    facts["share"] = _shares(factors, seeing, facts["fwhm"])
    method = "clip" if reject == "auto" else reject
    data, weight, sums, lost = np.empty(shape, "f4"), np.empty(shape, "f4"), np.zeros((2, count)), np.zeros(count)
    halo, held = merge.halo(count, facts["wing"]), (0, 0)
    step = int(max(8, min(BAND, MEMORY / (count * shape[1] * 10) - 2 * halo)))
    space = [np.empty((count, step + 2 * halo, shape[1]), kind) for kind in ("f4", "f4", "u1", bool)]
    for top in range(0, shape[0], step):
        bottom = min(top + step, shape[0])
        first, last = max(top - halo, 0), min(bottom + halo, shape[0])
        sums += aligned.load(frames, facts, space, held, first, last)
        held, part = (first, last), (data[top:bottom], weight[top:bottom])
        lost += _band([plane[:, :last - first] for plane in space], facts, first, top, method, sigma, *part)
    facts["fwhm"] = _fwhm(data, facts)
    facts["weight"], facts["rejected"] = sums[0] / np.maximum(sums[1], 1), lost / np.maximum(sums[1], 1)
    if facts["share"] is not None:
        facts["weight"] = facts["weight"] * facts["share"]
    return (data, stacked.header([h for (_, h), _, _ in frames], facts, method)), weight


def measure(frames, shape, scale="auto", order=1):
    """What the bands need to know of the frames (see apfunc.aligned) of a shape: a dict of arrays (frames, …).

    scale, its source and reference exposure; photon, excess, slack and wing (see apfunc.outliers); fwhm [pixel]; level
    and noise in the stack's units; surface: polynomials of the sky; rest: sky meshes less these, or None, at mesh_y,
    mesh_x; saturate: of the stack.  Measured on strips of a large frame, on all where these have too few common stars.
    """
    headers = [header for (_, header), _, _ in frames]
    for at in common.stripes(shape[0]):
        try:
            surveys, flux, error, cores, rings = _stars(frames, at, shape[1])
        except ValueError:  # a panel of a mosaic may lie between the strips
            if len(at) == shape[0]:
                raise
        else:
            if common.shared(flux).min() >= common.SHARED:
                break
    factor, source, reference = stacked.scale(headers, *common.scales(flux, error), scale)
    noise, level = (np.array([s[key] for s in surveys]) for key in ("noise", "level"))
    seen = np.isfinite(cores[:, :, common.CORE, common.CORE]).sum(0)
    cores = cores[:, np.isfinite(flux).sum(0) > 0.5 * seen]  # a cosmic ray is a star in one frame only
    gain = stacked.gains(headers)
    gain = np.where(np.isnan(gain), np.maximum(level, noise) / noise**2, gain)
    cores, noise = cores * factor[:, None, None, None].astype("f4"), noise * factor
    meshes, mesh_y, mesh_x = np.stack([s["sky"] for s in surveys]), surveys[0]["y"], surveys[0]["x"]
    surface, rest = common.skies(meshes * factor[:, None, None], mesh_y, mesh_x, order)
    fwhm = np.array([common.fwhm(c, n) for c, n in zip(cores, noise)])
    slack, wing = seeing.tolerances(cores, rings * factor[:, None, None].astype("f4"), noise, fwhm)
    saturate = [hdr.number(h, "SATURATE") for h in headers]
    saturate = None if None in saturate else float((np.array(saturate) * factor - surface[:, 0, 0]).min())
    return {"scale": factor, "source": source, "reference": reference, "photon": factor / gain, "noise": noise,
            "excess": np.array([_excess(frame, shape, n / s) for frame, n, s in zip(frames, noise, factor)]),
            "surface": surface, "level": surface[:, 0, 0], "saturate": saturate,
            "rest": common.calm(rest, noise), "mesh_y": mesh_y, "mesh_x": mesh_x,
            "across": common.powers(np.arange(shape[1]), mesh_x, surface.shape[1]).T.astype("f4"),
            "slack": slack, "wing": wing, "fwhm": fwhm}


def _stars(frames, at, columns):
    """What the rows `at` of the frames say: surveys, and stars: fluxes, errors, cores, rings (frames, stars, …)."""
    surveys = [common.survey(*aligned.sample(frame, at, columns), at) for frame in frames]
    stars = common.choose(surveys, common.RADIUS)
    found = []
    for frame, survey in zip(frames, surveys):
        sample = aligned.sample(frame, at, columns)
        found.append((*common.apertures(*sample, stars, survey["noise"], common.RADIUS),
                      common.rings(*sample, stars, survey["level"], at)))
    return surveys, *(np.stack(part) for part in zip(*found))


def _excess(frame, shape, noise):
    """Measured variance over that of the weight plane, at least 1: rejection must not believe in too small a noise."""
    weight, lines = frame[1], range(0, shape[0], 1 + shape[0] // 32)
    if weight is None:
        return 1.0
    some = np.empty((len(lines), shape[1]), "f4")
    for line, row in zip(lines, some):
        bands.fill(weight, line, row[None])
    return max(1.0, noise**2 * float(np.median(some[some > 0]))) if (some > 0).any() else 1.0


def _band(planes, facts, first, top, method, sigma, data, weight):
    """Rows from `top` on of the stack into data and weight, of the frames' planes (see `aligned.load`) from row `first`
    on; the numbers of outliers (frames,)."""
    (count, high, columns), lost = planes[0].shape, np.zeros(len(planes[0]), int)
    halo, keep = merge.halo(count, facts["wing"]), slice(top - first, top - first + len(data))
    mesh = facts["mesh_y"], facts["mesh_x"], first, first + high, columns
    rest = None if facts["rest"] is None else common.between(facts["rest"], *mesh)  # a function of columns
    seen = [np.count_nonzero(plane) for plane in planes[3]]
    wide = PANEL if rest is not None or 2 * min(seen) < max(seen) else columns
    for left in range(0, columns, wide):
        right = min(left + wide, columns)
        a, b = max(left - halo, 0), min(right + halo, columns)
        part, use = planes, np.arange(count)
        if wide < columns:
            use = np.flatnonzero([(bits[:, a:b] & np.uint8(hdr.NODATA) == 0).any() for bits in planes[2]])
            part = [plane[use, :, a:b] for plane in planes]
        if not len(use):
            data[:, left:right], weight[:, left:right] = np.nan, 0
            continue
        more = None if rest is None else rest(a, b)[use]
        value, total, lost_here = _tile(*part, more, use, facts, method, sigma, keep)
        data[:, left:right], weight[:, left:right] = (v[:, left - a:right - a] for v in (value, total))
        lost[use] += lost_here
    return lost


def _tile(d, w, bits, good, rest, use, facts, method, sigma, keep):
    """merge.merge of a tile (see `aligned.load`) of the frames `use`, and what it leaves: pixels without a trusted
    value, and saturated ones."""
    share = None if facts["share"] is None else facts["share"][use]
    parts = (facts[key][..., use] for key in ("photon", "excess", "slack", "wing"))
    value, total, lost = merge.merge(d, w, good, rest, *parts, sigma, method, share, keep)
    d, w, bits = d[:, keep], w[:, keep], bits[:, keep]
    bare = np.isnan(value)
    if bare.any():
        bare &= (np.bitwise_and.reduce(bits, axis=0) & np.uint8(hdr.NODATA)) == 0
        y, x = np.divmod(np.flatnonzero(bare), bare.shape[1])
        value[y, x], total[y, x] = _bare(d[:, y, x], w[:, y, x], bits[:, y, x])
    full = (np.bitwise_or.reduce(bits, axis=0) & np.uint8(hdr.SATURATED)) != 0
    if full.any():
        y, x = np.divmod(np.flatnonzero(full), full.shape[1])
        trusted = np.maximum(w[:, y, x], 0)
        value[y, x], total[y, x] = _saturated(d[:, y, x], trusted, bits[:, y, x], share, facts["saturate"])
    return value, total, lost


def _bare(d, w, bits):
    """Mean of pixels (frames, n) that no frame is trusted in, and its weight: of mended ones, else of trails."""
    seen = ((bits & hdr.NODATA) == 0).astype("f4")
    mean, known = merge.mean(d, np.where(bits & hdr.TRAIL, 0, np.abs(w) * seen))
    return np.where(known > 0, mean, merge.mean(d, seen)[0]), known


def _saturated(d, w, bits, share, least):
    """Mean of pixels (frames, n) saturated in some frames, whose values are lower limits there, and its weight."""
    free = (bits & hdr.SATURATED) == 0
    below, weight = merge.mean(d, np.where(free, w, 0), share)
    limit = np.where(free, d, np.fmax(d, below))
    value, _ = merge.mean(limit, w, share)
    everywhere = weight == 0
    return np.where(everywhere & (least is not None), np.fmax(value, least or 0), value), weight


def _fwhm(data, facts):
    """FWHM [pixel] of the stack's own stars, NaN when there are none."""
    for at in common.stripes(len(data)):
        part = data[at]
        bits = None if facts["saturate"] is None else np.uint8(hdr.SATURATED) * (part >= facts["saturate"])
        try:
            found = common.survey(part, bits, at)
        except ValueError:
            continue
        *_, cores = common.apertures(part, bits, common.choose([found], common.RADIUS), found["noise"], common.RADIUS)
        if len(cores) >= common.SHARED:
            break
    return common.fwhm(cores, found["noise"])


def _shares(factors, seeing, fwhm):
    """Further weights (frames,), the largest 1; None when all are alike."""
    share = np.ones(len(fwhm)) if factors is None else np.asarray(factors, float)
    if share.shape != fwhm.shape or not (share >= 0).all() or not share.any():
        raise ValueError("factors must be one number of at least zero a frame, not all zero")
    if seeing and np.isfinite(fwhm).all():
        share = share * (fwhm.min() / fwhm) ** seeing
    return None if (share == share[0]).all() else share / share.max()


def _checked(images, weights, masks):
    """The common shape of all planes; ValueError when frames do not belong together."""
    if not len(images):
        raise ValueError("no frame to stack; the quality table says why")
    shape = tuple(images[0][0].shape)
    for planes in ([rows for rows, _ in images], weights, masks):
        if planes is not None and (len(planes) != len(images) or any(tuple(p.shape) != shape for p in planes)):
            raise ValueError("the frames, weights and masks are not of one number and shape; resample all to one grid")
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        values = [hdr.number(header, key) for _, header in images]
        values = [v for v in values if v is not None]
        close = 1e-7 * max(1, *map(abs, values)) * (1e-4 if key[:2] == "CD" else 1) if values else 0
        if values and max(values) - min(values) > close:
            raise ValueError(f"the frames lie on different grids ({key} differs); resample all to one grid")
    return shape
