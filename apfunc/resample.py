"""Resample a solved frame onto another grid, with the weight and the mask that belong to the result.

With (x, y) the input position of an output pixel and J the number of input pixels that it covers,

    out = J * image(x, y)                       (flux conserved: adu per output pixel)
    1 / weight = J * (sky / (gain flat) + (read noise / (gain flat))^2)
"""

import re

import numpy as np

from apfunc import header as hdr
from apfunc import interpolate, mapping, trails, wcs
from apfunc.background import level
from apfunc.grid import shape_of, solution_of

REPAIRED = 0.1  # weight of a pixel that was repaired (bad, cosmic), relative to a measured one
RING = 7  # [pixel] reach of the kernel's side lobes round saturated and missing pixels (a power of two less one)
PART = 0.1  # share of a pixel from which on a mask bit counts


def resample(image, grid, mask=None, flat=None, kernel="spline", conserve="flux", gain=None, readnoise=None, sky=None):
    """`image` on the pixels of `grid`: ``(data, header), weight, mask``.

    image     (data, header) with a TAN or TAN-SIP solution; NaN pixels hold no value.
    grid      header with a WCS and NAXIS1, NAXIS2: the output's (apfunc grid, or any solved image's with its size).
    mask      uint8 bits of apfunc.header, of the image's shape, or None.  Saturated and missing pixels are known from
              the data, trails from the header as well (TRAIL, TRAIL1 …, see apfunc.trails).
    flat      the master flat (array or image) the frame was divided by: less light, less weight.
    kernel    "spline" (cubic B-spline interpolation), "lanczos3", "bilinear", "nearest".
    conserve  "flux": star fluxes are kept, pixels scale with their area; "surface": adu per *input* pixel area.
    gain [electron/adu], readnoise [electron], sky [adu/pixel]: else the header's, and the sky is measured.

    data      float32, NaN outside the frame and where more than half of a pixel comes from NaN.  Smaller holes are
              interpolated.  Within RING pixels of saturated and missing ones, and beside repaired ones, the value may
              not leave the range of the four pixels around: no dark rings.
    weight    float32 [1/adu^2], inverse variance of the sky's noise from gain, read noise, sky and flat, and what is
              measured beyond these (the measured noise alone when gain or read noise are unknown); 0 where data is NaN
              or a trail; a tenth (REPAIRED) on bad and cosmic pixels.  Interpolated neighbours are correlated; the
              weight is that of large areas.
    mask      uint8: a bit is set where it holds for more than a tenth of the (bilinear) pixel, NODATA where NaN.

    A grid coarser than the frame is sampled several times a pixel.  The mapping is computed at nodes 32 pixels apart
    and interpolated by cubics: within 0.001 pixel.  The header is the image's with the grid's WCS; SATURATE, RDNOISE,
    FWHM, SKY, SKYNOISE and PIXSCALE (with "surface" EGAIN and MAGZP too) go with the pixel area.  Raises ValueError
    when a WCS is missing, the shapes differ, no pixel has a value, or the frame does not touch the grid.
    """
    data, bits, flat = _checked(image, mask, flat, kernel, conserve)
    source, target, shape = solution_of(image[1]), solution_of(grid), shape_of(grid)
    box = mapping.overlap(source, data.shape, target, shape)
    area = (wcs.scale(target) / wcs.scale(source)) ** 2
    photons, fixed = _noise(image[1], data, bits, flat, gain, readnoise, sky)

    filled = interpolate.fill(data, (bits & hdr.NODATA) != 0)
    padded = interpolate.coefficients(filled, kernel)
    near = _near(bits, padded.shape) if bits.any() else None
    light = None if flat is None else np.pad(flat, (1, 2 * interpolate.PAD - 1), mode="edge")  # at [i + 1, j + 1]
    out, weight, out_mask = np.empty(shape, "f4"), np.zeros(shape, "f4"), np.zeros(shape, "u1")
    for plane, nothing in ((out, np.nan), (out_mask, hdr.NODATA)):
        plane[: box[0]] = plane[box[1] :] = plane[:, : box[2]] = plane[:, box[3] :] = nothing
    fine = max(1, round(np.sqrt(area)))
    for rows, columns, jacobian, positions in mapping.bands(source, target, box, fine):
        value, known, trust, found = 0, 0, 0, np.uint8(0)
        for position in positions:
            part = _sampled(*position, padded, kernel, filled, bits, near, light, photons, fixed)
            value, known, trust, found = value + part[0], known + part[1], trust + part[2], found | part[3]
        scale = jacobian if conserve == "flux" else 1
        value *= scale / np.float32(fine**2)
        trust *= jacobian / (scale * scale * np.float32(fine**2))
        none = known < 0.5 * fine**2
        if none.any():
            value[none], trust[none], found = np.nan, 0, np.where(none, np.uint8(hdr.NODATA), found)
        out[rows, columns], weight[rows, columns], out_mask[rows, columns] = value, trust, found
    if not weight.any() and not np.isfinite(out).any():
        raise ValueError(
            "the frame does not touch the grid; check its solution, or take a grid of this target's frames"
        )
    return (out, _header(image[1], target, shape, area, kernel, conserve)), weight, out_mask


def _sampled(y, x, base_y, base_x, padded, kernel, filled, bits, near, light, photons, fixed):
    """At the input positions: value, known part of the pixel (0 to 1), inverse variance, and mask bits."""
    rows, columns = filled.shape
    low_y, high_y, low_x, high_x = (
        (edge - b).astype("f4") for b, n in ((base_y, rows), (base_x, columns)) for edge in (-0.5, n - 0.51)
    )
    near_y, near_x = np.clip(y, low_y, high_y), np.clip(x, low_x, high_x)
    known = ((np.abs(near_y - y) < 0.01) & (np.abs(near_x - x) < 0.01)).astype("f4")
    value, start, s, t = interpolate.sample(padded, near_y, near_x, kernel, base_y, base_x)
    if light is None:
        trust = known * np.float32(1 / (photons + fixed))
    else:
        seen = light.ravel().take(start)
        trust = known * seen * seen / (photons * seen + fixed)
    if near is None:
        return value, known, trust, np.uint8(0)
    found = np.zeros(value.shape, "u1")
    at = np.flatnonzero(near.ravel().take(start))
    corner = divmod(start.ravel()[at], near.shape[1])
    held = _blemished(value.ravel()[at], filled, bits, corner, s.ravel()[at], t.ravel()[at])
    value.ravel()[at], found.ravel()[at] = held[0], held[3]
    known.ravel()[at] *= 1 - held[1]
    trust.ravel()[at] *= held[2]
    return value, known, trust, found


def _checked(image, mask, flat, kernel, conserve):
    """Data as float32, mask bits (NODATA and SATURATED from the data themselves), flat as float32 or None."""
    if kernel not in interpolate.KERNELS or conserve not in ("flux", "surface"):
        raise ValueError(
            f"no kernel {kernel!r} or conserve {conserve!r}; choose {', '.join(interpolate.KERNELS)}; flux, surface"
        )
    data = np.asarray(image[0], "f4")
    flat = flat[0] if isinstance(flat, tuple) else flat
    if data.ndim != 2 or any(p is not None and np.shape(p) != data.shape for p in (mask, flat)):
        raise ValueError("image, mask and flat are not 2-D arrays of one shape; give those that belong together")
    bits = np.zeros(data.shape, "u1") if mask is None else np.array(mask, "u1")
    bits[~np.isfinite(data)] |= hdr.NODATA
    if (bits & hdr.NODATA).all():
        raise ValueError("no pixel of the frame has a value; leave it out")
    saturate = hdr.number(image[1], "SATURATE")
    if saturate is not None:
        bits[data >= saturate] |= hdr.SATURATED
    if hdr.number(image[1], "TRAIL"):
        bits |= trails.trail_mask(data.shape, image[1])
    if flat is not None:
        flat = np.asarray(flat, "f4")
        flat = np.where(flat > 0, flat, 0).astype("f4")
    return data, bits, flat


def _noise(header, data, bits, flat, gain, readnoise, sky):
    """Photon and fixed noise variance [adu^2] of a sky pixel where the flat is 1.

    What is measured beyond photons and read noise (dark current) is added to the fixed part; where gain or read noise
    are unknown the measured noise is all.
    """
    measured, noise = level(data, bits if bits.any() else None)
    usual = 1.0 if flat is None else float(np.median(flat[::9, ::9]))
    try:
        gain, readnoise = hdr.gain(header, gain), hdr.readnoise(header, readnoise)
    except ValueError:
        return np.float32(max(noise, 1e-6) ** 2 * usual), np.float32(0)
    photons, fixed = max(measured if sky is None else sky, 0) / gain, max(readnoise / gain, 1e-6) ** 2
    if sky is None:
        fixed += max(0, noise**2 - photons / usual - fixed / usual**2) * usual**2
    return np.float32(photons), np.float32(fixed)


def _near(bits, shape):
    """Boolean array of `shape`: at [i + 1, j + 1] whether samples between pixels (i, j) and (i + 1, j + 1) need care.

    That is where one of the four is flagged, or within RING of a saturated or missing pixel.
    """
    near = np.zeros(shape, bool)
    for flagged, reach in ((bits != 0, 0), ((bits & (hdr.SATURATED | hdr.NODATA)) != 0, RING)):
        flagged, step = np.pad(flagged, reach + 1), 1
        while step <= reach + 1:  # the union of 2 reach + 2 rows, then columns, by doubling
            flagged = flagged[step:] | flagged[:-step]
            flagged = flagged[:, step:] | flagged[:, :-step]
            step *= 2
        near[: len(bits) + 1, : bits.shape[1] + 1] |= flagged
    return near


def _blemished(value, filled, bits, at, s, t):
    """For samples near flagged pixels: value held within its four pixels, share of NODATA, weight factor, mask bits."""
    rows, columns = (
        [np.clip(at[0] - 1 + k, 0, bits.shape[0] - 1) for k in (0, 1)],
        [np.clip(at[1] - 1 + k, 0, bits.shape[1] - 1) for k in (0, 1)],
    )
    corners = [(i, j) for i in rows for j in columns]
    part = ((1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t)
    pixels, flags = [filled[c] for c in corners], [bits[c] for c in corners]
    value = np.clip(value, np.minimum.reduce(pixels), np.maximum.reduce(pixels))
    share = {bit: sum(p * ((f & bit) != 0) for p, f in zip(part, flags)) for bit in hdr.MASK_BITS.values()}
    found = sum((np.uint8(bit) * (share[bit] > PART) for bit in share if bit != hdr.NODATA), np.zeros(len(s), "u1"))
    mended = sum(p * ((f & (hdr.BAD | hdr.COSMIC)) != 0) for p, f in zip(part, flags))
    factor = (1 - (1 - REPAIRED) * mended) * (share[hdr.TRAIL] <= PART) * (1 - share[hdr.NODATA])
    return value, share[hdr.NODATA], factor, found


def _header(header, target, shape, area, kernel, conserve):
    """The image's header with the target's WCS, and what goes with the area of a pixel."""
    header = wcs.to_header(header, target, shape)
    for key in [k for k in header if re.fullmatch(r"TRAIL\d*", k)]:
        del header[key]  # they are positions in the frame; the mask has them
    flux = area if conserve == "flux" else 1.0
    for key, factor in (
        ("SATURATE", flux),
        ("SKY", flux),
        ("SKYNOISE", flux / np.sqrt(area)),
        ("FWHM", 1 / np.sqrt(area)),
        ("RDNOISE", np.sqrt(area)),
        ("EGAIN", area / flux),
    ):
        value = hdr.number(header, key)
        if value is not None:
            header[key] = float(f"{value * factor:.7g}")
    if conserve == "surface" and hdr.number(header, "MAGZP") is not None:
        header["MAGZP"] = round(hdr.number(header, "MAGZP") - 2.5 * np.log10(area), 5)
    header["PIXSCALE"] = (round(wcs.scale(target), 6), "[arcsec/pixel] scale of the grid")
    hdr.history(header, "resample", kernel=kernel, conserve=conserve)
    return header
