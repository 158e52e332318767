"""Continuum subtraction: what a narrow band shows beyond the stars and the starlight.

    line = (narrow - sky) - s * (broad - sky),   the sharper of the two convolved to the other's PSF first

The scale s is measured twice: from the fluxes of the stars, and from the pixels, as the s that leaves least of the
fine structure of the broad band in the difference.  Both go into the header with their errors, and how they agree.
"""

import numpy as np

from apfunc import level, psfmatch, starflux
from apfunc.header import history, number, text

AGREE = 3.0  # sigmas between the two scales above which they disagree
FEWEST = 3  # stars for a scale from stars
BEST = 0.005  # error of a ratio of fluxes, relative, that flat fields, neighbours and apertures leave at best
COLOURS = 0.01  # least scatter of the ratios of stars, which differ in colour: a few bright ones must not decide
STRIP = 32  # rows done at a time, so that they stay in the processor's cache
APERTURE = 1.3  # radius of the discs that stars are measured in, in FWHM of the softer image
LEFT = 0.15  # share of the PSF's effect on the scale that matching may leave; goes into the error
GRID = {"CRVAL1": 1e-5, "CRVAL2": 1e-5, "CRPIX1": 0.05, "CRPIX2": 0.05, "CD1_1": 1e-8, "CD2_2": 1e-8}  # may differ by


def continuum(line, cont, scale=None, stars=None, match=True):
    """The image of a narrow band without its continuum: ``(data, header)``.

    line, cont  images (data, header) of the narrow and the broad band on one grid [adu]; NaN = no value, and none in
            the result.  Values at or above the header's SATURATE are no measurement: NaN in the result.
    scale   broad band to narrow band factor by hand; the two estimates are still made and reported.
    stars   Table of stars (x, y, flags; see apfunc.stars) to use instead of those found here.
    match   False: leave the PSFs as they are.

    Returns float32 data in the units of `line`, zero where the field is darkest: light that is the same all over it
    cannot be told from sky.  A tilted sky is levelled where little but the tilt is seen (`level.darkest`).
    Header: a copy of the line's, with
    CONTSCAL and CONTSERR (the factor used and its error), CONTSRC (both, stars, pixels or given), CONTSTAR and CONTSTER
    (factor from stars, error), CONTNST (stars), CONTPIX and CONTPXER (factor from pixels, error), CONTDIFF (their
    difference in sigmas), CONTAGRE (do they agree), CONTRESI (mean flux left in the stars, as a share of their continuum
    flux), CONTSKYL and CONTSKYC (skies removed), CONTCONV (which was convolved: line, continuum or none), CONTFWL and
    CONTFWC (FWHM before), CONTFILE and CONTFILT (the broad band's RAWFILE and FILTER).  A value that could not be had is absent.
    EGAIN, RDNOISE and SATURATE, which no longer describe the pixels, are dropped.  CONTSRC "both" is the weighted
    mean of two that agree; "stars" that they do not; "pixels" that there were fewer than three stars.

    Where the stars' colours matter, `apfunc.colourterm` makes `cont` from two broad bands.  A broad band that lets the
    line through takes its share of it away: s times the exposures' ratio, if both filters are as clear there.

    Raises ValueError when the grids differ, or when no scale can be measured and none is given.

    Star ratios as in e.g. Waller (1990, PASP 102, 1217); on checking such scales by the pixels, Hong et al. (2014, PASP
    126, 79); PSF matching as in apfunc.psfmatch.
    """
    same_grid(line, cont)
    header = line[1].copy()
    (one, skyl, noisel), (two, skyc, noisec) = (sky_free(image) for image in (line, cont))
    gains = [number(image[1], "EGAIN") for image in (line, cont)]
    x, y = places(two, noisec, stars)
    shapes = [psfmatch.profile(d, x[:100], y[:100], n, g) for d, n, g in zip((one, two), (noisel, noisec), gains)]
    widths = [np.nan if p is None else psfmatch.fwhm(p) for p, _ in shapes]
    radius = float(np.clip(APERTURE * np.nanmax([3.0 if np.isnan(widths).all() else 0.0, *widths]), 2.5, 15))
    light = measured((one, two), x, y, radius, gains)
    by_stars, used = before, _ = _from_stars(*light)
    convolved = "none"
    if match and np.isfinite(widths).all():
        one, two, convolved = matched(one, two, x, y, light, psfmatch.alike(shapes), widths, (noisel, noisec), gains)
        by_stars, used = _from_stars(*measured((one, two), x, y, radius, gains))
    by_pixels = _from_pixels(one, two, radius)
    unmatched = LEFT * np.nan_to_num(by_stars[0] - before[0])
    by_stars, by_pixels = ((s, np.hypot(np.hypot(error, unmatched), BEST * s)) for s, error in (by_stars, by_pixels))
    s, error, source = _choice(scale, by_stars, by_pixels, len(used[0]))
    out = np.multiply(two, np.float32(-s), out=two)
    out += one
    out -= level.at(level.darkest(out), out.shape)  # without stars in it, the sky shows more truly

    _describe(header, cont[1], s, error, source, by_stars, by_pixels, used)
    for key, value, comment in (("CONTSKYL", skyl, "[adu] sky removed from the narrow band"),
                                ("CONTSKYC", skyc, "[adu] sky removed from the broad band"),
                                ("CONTFWL", widths[0], "[pixel] FWHM of the narrow band"),
                                ("CONTFWC", widths[1], "[pixel] FWHM of the broad band")):
        _put(header, key, value, comment)
    header["CONTCONV"] = (convolved, "image convolved to match the PSFs")
    for key in ("EGAIN", "RDNOISE", "SATURATE"):
        header.remove(key, ignore_missing=True)
    history(header, "continuum", scale=float(s), source=source, convolved=convolved)
    return out, header


def same_grid(line, cont):
    """Raise ValueError, with what differs, unless the two images have one size and one WCS and hold values."""
    (a, one), (b, two) = line, cont
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"the images are {a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]} pixels; resample both to one grid")
    if not all(np.isfinite(v[::16]).any() or np.isfinite(v).any() for v in (a, b)):
        raise ValueError("one of the images holds no value at all; check its stack")
    for key, tolerance in GRID.items():
        p, q = number(one, key), number(two, key)
        if p is not None and q is not None and abs(p - q) > tolerance:
            raise ValueError(f"the images are on different grids ({key} is {p:g} and {q:g}); resample both to one grid")


def sky_free(image):
    """Data without sky and saturated pixels, the sky, and the noise of a sky pixel."""
    data, header = np.asarray(image[0], "f4"), image[1]
    sky, noise = starflux.sky(data)
    saturate, out = number(header, "SATURATE"), np.empty_like(data)
    for top in range(0, len(data), STRIP):
        part, rows = out[top:top + STRIP], data[top:top + STRIP]
        np.subtract(rows, np.float32(sky), out=part)
        part[np.isinf(part)] = np.nan
        if saturate is not None:
            part[rows >= saturate] = np.nan
    return out, sky, noise


def places(two, noise, stars=None):
    """Integer positions of the stars, those of the table or those in the broad band, brightest first."""
    if stars is not None:
        good = np.asarray(stars["flags"] == 0) if "flags" in stars.colnames else np.ones(len(stars), bool)
        x, y = (np.rint(np.asarray(stars[c], "f8")[good]).astype(int) for c in ("x", "y"))
        inside = (x >= 12) & (y >= 12) & (x < two.shape[1] - 12) & (y < two.shape[0] - 12)
        return x[inside][:starflux.MOST], y[inside][:starflux.MOST]
    return starflux.peaks(two, noise)


def measured(images, x, y, radius, gains):
    """flux, error and half of `starflux.fluxes` in the images, each (images, n)."""
    clear = starflux.clear_rings(images, x, y, radius)
    return np.stack([starflux.fluxes(d, x, y, radius, g, clear) for d, g in zip(images, gains)], axis=1)


def matched(one, two, x, y, light, shapes, widths, noises, gains):
    """Both images with one PSF, and which of them was convolved for it."""
    flux, error, half = light
    good = starflux.good_stars(flux, error, half)
    _, _, plain = starflux.slope(flux[1, good], error[1, good], flux[0, good], error[0, good])
    good[good] = plain  # not those with a nebula on them
    a, b = (0, 1) if widths[0] <= widths[1] else (1, 0)
    kernel = psfmatch.kernel((one, two)[a], (one, two)[b], x[good], y[good], (shapes[a], shapes[b]),
                             flux[[a, b]][:, good], (noises[a], noises[b]), gains[a])
    soft = psfmatch.convolve((one, two)[a], kernel)
    return (soft, two, "line") if a == 0 else (one, soft, "continuum")


def _from_stars(flux, error, half):
    """(scale, error) from the stars, and (line flux, continuum flux, error) of those used."""
    if flux.shape[1] == 0:
        return (np.nan, np.nan), (np.zeros(0),) * 3
    (fl, fc), (el, ec) = flux, error
    good = starflux.good_stars(flux, error, half, (2, 5))
    s, _, _ = starflux.slope(fc[good], ec[good], fl[good], el[good])
    # the faint ones are chosen by what they should show in the line band, not by what noise made of it
    good = starflux.good_stars(flux, error, half, (-np.inf, 5)) & (s * fc > 4 * el)
    s, error, used = starflux.slope(fc[good], ec[good], fl[good], el[good], least=COLOURS)
    return (s, error), tuple(v[good][used] for v in (fl, fc, el))


def _from_pixels(one, two, radius):
    """(scale, error): regression of the fine structure of the line image on that of the continuum image.

    Fine structure is what rises above a box of 4 radii, in blocks of 2 x 2 pixels; it is taken where the continuum
    has much of it, in stars, galaxies or dust alike.  Line emission is an outlier there, and left out.  The
    error is the jackknife's over nine parts of the field, or the formal one when it is larger.
    """
    from apfunc.background import separable

    half = int(np.ceil(radius))
    small = [_blocks(data) for data in (one, two)]
    bad = ~(np.isfinite(small[0]) & np.isfinite(small[1]))
    box = np.ones(half + 1)
    share = separable((~bad).astype("f4"), box)
    for data in small:
        np.copyto(data, 0, where=bad)
    level = 1 / np.maximum(share, 1)
    a, b = (data - separable(data, box) * level for data in small)
    some = [f[::2, ::2].ravel()[::max(1, f.size // 600000)] for f in (a, b)]
    noises = [1.4826 * np.median(np.abs(v - np.median(v))) for v in some]
    if not min(noises) > 0:
        return np.nan, np.nan
    chosen = (b > 8 * noises[1]) & (share > 0.9 * share.max())  # not beside NaN or at the border
    y, x = np.nonzero(chosen)
    if len(y) < 15:
        return np.nan, np.nan
    brightest = np.argsort(-b[y, x], kind="stable")[:20000]
    y, x = y[brightest], x[brightest]
    a, b = a[y, x].astype("f8"), b[y, x].astype("f8")
    errors = [np.full(len(a), noise) for noise in noises]
    s, formal, used = starflux.slope(b, errors[1], a, errors[0], clip=3.0, start=0.3, most=0.2)
    part = 3 * (3 * y // bad.shape[0]) + 3 * x // bad.shape[1]
    without = [used & (part != k) for k in np.unique(part[used])]
    left = np.array([(a[w] * b[w]).sum() / (b[w]**2).sum() for w in without if w.any()])
    spread = np.sqrt((len(left) - 1) * np.mean((left - left.mean())**2)) if len(left) > 2 else 3 * formal
    return s, float(max(formal, spread))


def _blocks(data):
    """Means of blocks of 2 x 2 pixels; NaN where one of them is."""
    rows, columns = (n // 2 for n in data.shape)
    out = np.empty((rows, columns), "f4")
    for top in range(0, rows, STRIP):
        part = data[2 * top:2 * min(top + STRIP, rows), :2 * columns]
        down = part[::2] + part[1::2]
        np.add(down[:, ::2], down[:, 1::2], out=out[top:top + STRIP])
    out *= np.float32(0.25)
    return out


def _choice(scale, by_stars, by_pixels, count):
    if scale is not None:
        if not np.isfinite(scale):
            raise ValueError("the scale must be a finite number")
        return float(scale), None, "given"
    if count >= FEWEST and np.isfinite(by_stars[0]):
        (a, ea), (b, eb) = by_stars, by_pixels
        if not np.isfinite(b + eb) or min(ea, eb) <= 0 or abs(a - b) > AGREE * np.hypot(ea, eb):
            return *by_stars, "stars"
        weights = [ea**-2, eb**-2]  # the two share their photons and their stars' colours: no mean has a smaller error
        mean, error = (np.average(v, weights=weights) for v in ([a, b], [ea, eb]))
        return float(mean), float(np.hypot(error, (a - b) / 2)), "both"
    if np.isfinite(by_pixels[0]):  # too few stars to be sure: where they differ from the pixels, the error says so
        return by_pixels[0], float(np.hypot(by_pixels[1], np.nan_to_num(by_stars[0] - by_pixels[0]))), "pixels"
    if np.isfinite(by_stars[0]):
        return *by_stars, "stars"
    raise ValueError("too few stars common to both images to measure the scale of the continuum; give --scale")


def _describe(header, cont, s, error, source, by_stars, by_pixels, measured):
    fl, fc, el = measured
    _put(header, "CONTSCAL", s, "continuum scale factor used")
    _put(header, "CONTSERR", error, "its error")
    header["CONTSRC"] = (source, "where the factor comes from")
    _put(header, "CONTSTAR", by_stars[0], "factor from the stars")
    _put(header, "CONTSTER", by_stars[1], "its error")
    header["CONTNST"] = (len(fl), "stars used")
    _put(header, "CONTPIX", by_pixels[0], "factor from the pixels")
    _put(header, "CONTPXER", by_pixels[1], "its error")
    difference = (by_stars[0] - by_pixels[0]) / np.hypot(by_stars[1], by_pixels[1])
    if np.isfinite(difference):
        _put(header, "CONTDIFF", difference, "[sigma] stars - pixels")
        header["CONTAGRE"] = (bool(abs(difference) <= AGREE), "do the two factors agree")
    if len(fl):
        weight = (s * fc / el)**2
        left = np.average((fl - s * fc) / (s * fc), weights=weight) if s else None
        _put(header, "CONTRESI", left, "mean flux left in stars, of continuum flux")
    for key in ("CONTCOLK", "CONTCOLE", "CONTCOLS", "CONTCOLU", "CONTCOLF"):
        if key in cont:
            header[key] = (cont[key], cont.comments[key])
    for key, name, comment in (("CONTFILE", "RAWFILE", "the broad band"),
                               ("CONTFILT", "FILTER", "filter of the broad band")):
        if text(cont, name):
            header[key] = (text(cont, name), comment)


def _put(header, key, value, comment):
    if value is not None and np.isfinite(value):
        header[key] = (float(f"{value:.7g}"), comment)
