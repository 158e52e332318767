"""Find the stars of a frame and measure them all at once: place, flux, width, shape, and what is wrong with them.

    sky off -> width of the brightest -> matched filter -> peaks -> fit with the frame's own PSF -> nebula off, fit again
    -> what is no star goes

Each star is fitted on the frame without its neighbours (Stetson 1987, PASP 99, 191, all stars in one batch) with a PSF
that may change over the field.  Its flux is linear in the pixels (all of the same weight), so that a wrong PSF changes
the scale of all fluxes alike; that scale is then set by the bright stars' light within four FWHM.
"""

import numpy as np

from apfunc import background, detect, trails
from apfunc import header as hdr
from apfunc.genuine import BLEND, DEFECT, EDGE, FULL, SHAPE
from apfunc.measure import measure
from apfunc.psf import SLOPE, X, Y

FLAG_BITS = {"SATURATED": FULL, "EDGE": EDGE, "BLENDED": BLEND, "DEFECT": DEFECT, "SHAPE": SHAPE}

COPIED = ("OBJECT", "FILTER", "EXPTIME", "AIRMASS", "MJD-MID", "MJD-OBS", "DATE-OBS", "RAWFILE", "OBJCTRA", "OBJCTDEC",
          "RA", "DEC", "XPIXSZ", "YPIXSZ", "FOCALLEN", "XBINNING", "YBINNING", "SITELAT", "SITELONG", "EQUINOX",
          "RADESYS", "CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2",
          "CDELT1", "CDELT2", "CROTA1", "CROTA2", "PC1_1", "PC1_2", "PC2_1", "PC2_2")
SMOOTH = 2.5  # FWHM [pixel of the binned frame] of what defocused stars are smoothed with
COLUMNS = {"x": "pixel", "y": "pixel", "flux": "adu", "fluxerr": "adu", "fwhm": "pixel", "ellipticity": "",
           "theta": "deg", "peak": "adu", "snr": "", "flags": "", "sky": "adu"}


def stars(image, mask=None, sigma=5.0, gain=None, readnoise=None, fwhm=None, saturate=None, box=64, trail=True,
          binning=1):
    """Table of the stars of `image`, brightest first; an empty one, with its meta, when there are none.

    image   (data, header), data in adu.  NaN and pixels with a non-zero `mask` (bits of apfunc.header) say nothing
            about a star: they are bridged for the search and left out of the fit.  Saturated ones make a star, but are
            left out of its fit.
    sigma   least significance of a star's flux against the noise of the sky.
    gain    [electron/adu], else EGAIN or GAIN of the header; without it the errors hold the noise of the sky alone.
    fwhm    [pixel] of the stars, for the search, else measured.  saturate: [adu], else SATURATE.  readnoise:
            [electron], noted only (the noise of the sky is measured).  trail=False: no search for satellite trails.
    binning 2: half the time, on the frame binned 2 x 2 (all is given in pixels of the frame), to register frames: at
            FWHM 3.9 pixels they lie within 0.003 pixel of where all stars put them.  Faint and close stars suffer.

    Columns: x, y (0-based), flux, fluxerr (total, to infinity) [adu], fwhm [pixel] (geometric mean of the axes: the
    major one is fwhm / sqrt(1 - ellipticity)), ellipticity (1 - minor/major), theta [deg, from +x towards +y], peak
    (highest pixel above the sky, of the binned frame) [adu], snr (flux/fluxerr), flags (FLAG_BITS), sky [adu].
    meta: FWHM, ELLIP, THETA, BETA (Moffat), NSTARS, SKY, SKYNOISE, SATFRAC, EGAIN, RDNOISE, NAXIS1, NAXIS2, APCOR (by
    which the PSF's fluxes were multiplied), GRIDFWHM and GRIDELL (medians over 3x3 fields, rows upwards, "nan" where
    there are no stars), TRAIL (how many) and TRAIL1… (apfunc.trails), and the header's keywords of COPIED.  What is not
    known is absent.  Raises ValueError when binning is no whole number.
    """
    if binning < 1 or binning != int(binning):
        raise ValueError(f"a frame cannot be binned {binning} times; give a whole number from 1 on")
    data, header = np.asarray(image[0], "f4"), image[1]
    gain, readnoise = _known(hdr.gain, header, gain), _known(hdr.readnoise, header, readnoise)
    saturate = saturate if saturate is not None else hdr.number(header, "SATURATE")
    full, lost = np.flatnonzero(data >= saturate) if saturate is not None else np.zeros(0, int), np.zeros(0, int)
    if mask is not None:
        said = np.flatnonzero(mask != 0)
        bits = np.asarray(mask).reshape(-1)[said]
        full, lost = np.union1d(full, said[(bits & hdr.SATURATED) != 0]), said[(bits & (255 - hdr.SATURATED)) != 0]
    meta = {k: header[k] for k in COPIED if header.get(k) not in (None, "") and header[k] == header[k]}
    meta |= {"NAXIS1": data.shape[1], "NAXIS2": data.shape[0], "TRAIL": 0,
             "SATFRAC": round(len(full) / data.size, 8)}
    meta |= {k: float(v) for k, v in (("EGAIN", gain), ("RDNOISE", readnoise)) if v is not None}
    full, lost = (_blocks(spots, data.shape, binning) for spots in (full, lost))
    data, box, gain = detect.shrink(data, binning), max(box // binning, min(box, 8)), gain and gain * binning**2
    bad = ~np.isfinite(data)
    bad |= lost
    if np.count_nonzero(bad) > 0.98 * bad.size or min(data.shape) < 8:
        return _table(np.zeros((0, 8)), {}, meta)
    flat, sky = detect.flatten(data, bad, box)
    noise = round(float(np.median(sky[3])), 4)
    meta |= {"SKY": round(float(np.median(sky[2])), 4), "SKYNOISE": round(noise * binning, 4)}
    if not noise > 0:
        return _table(np.zeros((0, 8)), {}, meta)
    found = trails.find(flat, noise) if trail else []
    meta |= trails.keywords([_scaled(line, 1 / binning) for line in found])
    calm = np.where(trails.cover(flat.shape, found), np.float32(0), flat) if found else flat
    width = fwhm and fwhm / binning or detect.seeing(calm, full, noise) or 3.0
    for _ in range(3):
        p, columns, about = _binned(flat, data, bad, full, sky, box, width, sigma, gain, found)
        about |= _psf(p, columns)
        if fwhm or not len(p) or abs(np.log(about.get("FWHM", width) / width)) < 0.25:
            break
        width, (flat, sky) = about["FWHM"], detect.flatten(data, bad, box)  # the brightest were no stars: once more
    if binning > 1:
        p, columns = _enlarged(p, columns, binning)
        about |= _psf(p, columns)
    return _table(p, columns, meta | about)


def region(table):
    """The stars of a table as the text of a ds9 region file: an ellipse of twice the FWHM each, red when flagged."""
    lines = ["# Region file format: DS9", "global color=green", "image"]
    for s in table:
        major, minor = s["fwhm"] / (1 - s["ellipticity"]) ** 0.5, s["fwhm"] * (1 - s["ellipticity"]) ** 0.5
        lines.append(f"ellipse({s['x'] + 1:.2f},{s['y'] + 1:.2f},{2 * major:.2f},{2 * minor:.2f},{s['theta']:.1f})"
                     + (" # color=red" if s["flags"] else ""))
    return "\n".join(lines) + "\n"


def _blocks(spots, shape, factor):
    """Which of the blocks of pixels that detect.shrink averages hold one of the `spots`, flat indices."""
    out = np.zeros([n // factor for n in shape], bool)
    y, x = (v // factor for v in np.divmod(spots, shape[1]))
    inside = (y < out.shape[0]) & (x < out.shape[1])
    out[y[inside], x[inside]] = True
    return out


def _binned(flat, data, bad, full, sky, box, width, sigma, gain, found):
    """`measure`, wide stars (8 pixels and more) on a frame binned so that they are 3 to 4 pixels wide; from 12 pixels,
    when they are out of focus, smoothed besides, which closes their holes.  The result is in pixels of the frame."""
    scale, smooth = int(width // 3) if width >= 8 else 1, SMOOTH if width >= 12 else 0
    if scale > 1:
        flat, sky = detect.flatten(data, bad, box * scale)
        bad, full, flat = (detect.shrink(plane, scale) for plane in (bad, full, flat))
        bad, full, rows, columns = bad > 0.5, full > 0, *(np.arange(n) * scale + scale // 2 for n in flat.shape)
        sky = sky[0][rows], sky[1][columns], sky[2], sky[3] / scale
    if smooth:
        kernel = detect.gaussian(smooth)
        flat, left = background.separable(flat, kernel), 2 * (kernel**2).sum() - kernel[0] ** 2
        sky = *sky[:3], sky[3] * left
    along = trails.cover(flat.shape, [_scaled(line, scale) for line in found]) if found else None
    wide = np.hypot(width / scale, smooth)
    p, columns, about = measure(flat, bad, full, sky, along, wide, sigma, gain and gain * scale**2)
    return *_enlarged(p, columns, scale, smooth), about


def _scaled(line, scale):
    """A trail (see apfunc.trails) in pixels `scale` times as large."""
    return *((v + 0.5) / scale - 0.5 for v in line[:4]), line[4] / scale


def _enlarged(p, columns, scale, smooth=0):
    """Stars of a frame binned `scale` times, in its own pixels; widths less what smoothing and wider pixels added."""
    p[:, [X, Y]] = (p[:, [X, Y]] + 0.5) * scale - 0.5
    columns["flux"], columns["fluxerr"] = columns["flux"] * scale**2, columns["fluxerr"] * scale**2
    if scale > 1:
        added = smooth**2 + 8 * np.log(2) * (1 - scale**-2) / 12
        columns["fwhm"] = scale * np.sqrt(np.maximum(columns["fwhm"] ** 2 - added, 0.5))
    return p, columns


def _psf(p, columns):
    """FWHM, ELLIP, THETA and BETA of the frame from its 200 brightest clean stars, else from all."""
    known = np.isfinite(columns["fwhm"])
    clean = np.flatnonzero(known & (columns["flags"] == 0) & (columns["snr"] > 20))[:200]
    good = clean if len(clean) else np.flatnonzero(known)
    if not len(good):
        return {}
    turn = 2j * np.radians(columns["theta"][good])
    mean = (columns["ellipticity"][good] * np.exp(turn)).mean()
    return {"FWHM": round(float(np.median(columns["fwhm"][good])), 4),
            "ELLIP": round(float(np.median(columns["ellipticity"][good])), 4),
            "THETA": round(float(np.degrees(np.angle(mean)) / 2), 2), "BETA": round(float(1 / p[good[0], SLOPE]), 3)}


def _grid(columns, p, shape):
    """Medians of fwhm and ellipticity over 3x3 parts of the frame, as two lines of nine numbers."""
    use = np.flatnonzero((columns["flags"] == 0) & (columns["snr"] > 20))
    row, column = (np.clip(3 * p[use, k] / n, 0, 2).astype(int) for k, n in ((Y, shape[0]), (X, shape[1])))
    cell = 3 * row + column
    said = []
    for name in ("fwhm", "ellipticity"):
        parts = [columns[name][use[cell == i]] for i in range(9)]
        said.append(" ".join(f"{np.median(v):.3g}" if len(v) else "nan" for v in parts))
    return said


def _table(p, columns, meta):
    from astropy.table import Table
    table = Table()
    place = {"x": p[:, X], "y": p[:, Y]}
    for name, unit in COLUMNS.items():
        values = place.get(name, columns.get(name, np.zeros(0)))
        table[name] = values.astype("i2" if name == "flags" else "f8" if name in "xy" else "f4")
        if unit:
            table[name].unit = unit
    meta = meta | {"NSTARS": len(table)}
    if len(table):
        meta["GRIDFWHM"], meta["GRIDELL"] = _grid(columns, p, (meta["NAXIS2"], meta["NAXIS1"]))
    table.meta.update(meta)
    return table


def _known(read, header, option):
    try:
        return read(header, option)
    except ValueError:
        return None
