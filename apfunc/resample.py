"""Resample a solved frame onto another grid, with the weight and the mask that belong to the result.

With (x, y) the input position of an output pixel and J the number of input pixels that it covers,

    out = J * image(x, y)                       (flux conserved: adu per output pixel)
    1 / weight = J * (sky / (gain flat) + (read noise / (gain flat))^2)
"""

import functools
import re

import numpy as np

from apfunc import header as hdr
from apfunc import interpolate, mapping, trails, wcs
from apfunc.background import level
from apfunc.grid import shape_of, solution_of

REPAIRED = 0.1  # weight of a pixel that was repaired (bad, cosmic), relative to a measured one
RING = 7  # [pixel] reach of the kernel's side lobes round saturated and missing pixels (a power of two less one)
MARGIN = RING + 1  # [pixel] of the frame that are looked at round the positions of a tile
PART = 0.1  # share of a pixel from which on a mask bit counts
WIDE = 3.5  # [pixel] FWHM from which on the quadratic spline errs less than the cubic one at 3.0
NARROW, TURNED = 2.3, 20.0  # [pixel, degree] from where on the cubic spline does not keep the flux to 0.1 %
CELL = 8  # [pixel] over which the flat is averaged for the weights


def resample(image, grid, mask=None, flat=None, kernel="auto", conserve="flux", gain=None, readnoise=None, sky=None):
    """`image` on the pixels of `grid`: ``(data, header), weight, mask``.

    image     (data, header) with a TAN or TAN-SIP solution; NaN pixels hold no value.
    grid      header with a WCS and NAXIS1, NAXIS2: the output's (apfunc grid, or any solved image's with its size).
    mask      uint8 bits of apfunc.header, of the image's shape, or None.  Saturated and missing pixels are known from
              the data, trails from the header as well (TRAIL, TRAIL1 …, see apfunc.trails).
    flat      the master flat the frame was divided by: less light, less weight.  An image, an array, rows as
              apfunc.io.read_rows gives them, or what `light_of` makes of one (for many frames with one flat).
    kernel    "quadratic", "spline" (cubic), "quintic": interpolation by B-splines of degree 2, 3, 5; "lanczos3",
              "bilinear", "nearest"; "auto": the cubic spline; the quadratic one, which takes a fifth less time, where
              stars are as wide (FWHM) as WIDE pixels; the quintic one where they are narrower than NARROW and the frame
              is turned by more than TURNED degrees out of rows and columns.
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
    light = light_of(flat)
    data, bits = _checked(image, mask, light, kernel, conserve)
    source, target, shape = solution_of(image[1]), solution_of(grid), shape_of(grid)
    kernel = _suited(image[1], source, target) if kernel == "auto" else kernel
    box = mapping.overlap(source, data.shape, target, shape)
    area = (wcs.scale(target) / wcs.scale(source)) ** 2
    trust = _trust(image[1], data, bits, light, gain, readnoise, sky)
    missing = None if bits is None else (bits & np.uint8(hdr.NODATA)) != 0
    patches = interpolate.holes(data, missing) if bits is not None and missing.any() else None

    out, weight, out_mask = np.empty(shape, "f4"), np.empty(shape, "f4"), np.empty(shape, "u1")
    planes = (out, np.float32(np.nan)), (weight, np.float32(0)), (out_mask, np.uint8(hdr.NODATA))
    for plane, nothing in planes:
        plane[:box[0]] = plane[box[1]:] = plane[:, :box[2]] = plane[:, box[3]:] = nothing
    fine, met = max(1, round(np.sqrt(area))), False
    for rows, columns, jacobian, positions in mapping.tiles(source, target, box, fine):
        here = [(plane[rows, columns], nothing) for plane, nothing in planes]
        value, known, sure, found = _sampled(positions, data, patches, bits, trust, kernel)
        cells = jacobian if fine == 1 else jacobian / np.float32(fine**2)
        np.multiply(value, cells if conserve == "flux" else np.float32(1 / fine**2), out=here[0][0])
        if conserve == "flux":
            np.divide(sure, cells if fine == 1 else cells * np.float32(fine**4), out=here[1][0])
        else:
            np.multiply(sure, cells, out=here[1][0])
        here[2][0][:] = found
        none = np.asarray(known < 0.5 * fine**2)
        if none.any():
            for plane, nothing in here:
                np.copyto(plane, nothing, where=none)
        met |= not none.all()
    if not met:
        raise ValueError(mapping.UNTOUCHED)
    return (out, _header(image[1], target, shape, area, kernel, conserve)), weight, out_mask


def _suited(header, source, target):
    """The kernel "auto" stands for, by the FWHM of the stars along their minor axis (FWHM, ELLIP of the header).

    The largest error at a star, of its peak, is 1.0 % by the cubic spline at FWHM 3.0, as by the quadratic one at 3.5;
    0.2 % and 0.5 % at 4.2.  Where the scales differ by 3 % the quadratic one is off by 0.009 pixel and 0.05 % of the
    flux at most (FWHM 3.5), the cubic one by 0.002 and 0.02 % (FWHM 3.0).  A sum over a turned grid catches what the
    cubic spline lets through of frequencies that the pixels do not resolve: 0.3 % of the flux of stars of FWHM 1.6,
    0.03 % with the quintic one; neither where rows remain rows.
    """
    fwhm = (hdr.number(header, "FWHM") or NARROW) * max(0.0, 1 - (hdr.number(header, "ELLIP") or 0.0)) ** 0.5
    turned = abs((wcs.angle(source) - wcs.angle(target) + 45) % 90 - 45)
    return "quadratic" if fwhm >= WIDE else "quintic" if turned > TURNED and fwhm < NARROW else "spline"


def _sampled(positions, data, patches, bits, trust, kernel):
    """Sums over the positions (see mapping.tiles) of value, known part of a pixel (0 to 1) and inverse variance; and
    mask bits.  Each is an array of the positions' shape, or one number where all are alike.
    """
    spots = []
    for y, x, base_y, base_x in positions:
        y, known_y, rows = _inside(y, base_y, data.shape[0])
        x, known_x, columns = _inside(x, base_x, data.shape[1])
        if (known_y & known_x).any():
            spots.append((y, x, base_y, base_x, known_y & known_x, (*rows, *columns)))
    if not spots:
        return np.float32(0), np.float32(0), np.float32(0), np.uint8(0)
    ends = np.array([spot[-1] for spot in spots])
    (top, _, left, _), (_, bottom, _, right) = ends.min(0) - MARGIN, ends.max(0) + MARGIN
    box = top, bottom, left, right
    *_, reach = interpolate.KERNELS[kernel]
    pixels = interpolate.window(data, (top - reach, bottom + reach, left - reach, right + reach), "reflect", patches)
    coefficients = interpolate.coefficients(pixels, kernel)
    flags = None if bits is None else interpolate.window(bits, box)
    near = _near(flags) if bits is not None and flags.any() else None
    about = None if near is None else _about(near)
    parts = []
    for y, x, base_y, base_x, held, _ in spots:
        part, (spot, i, j, s, t) = interpolate.sample(coefficients, y, x, kernel, base_y - box[0], base_x - box[2],
                                                      about)
        held, safe, bit = held.astype("f4"), _at(trust, y, x, base_y, base_x), np.uint8(0)
        if len(spot):
            held, safe = (plane.copy() if plane.ndim else np.full(part.shape, plane) for plane in (held, safe))
            bit = np.zeros(part.shape, "u1")
            i, j, s, t = i - (s < 0), j - (t < 0), s + (s < 0), t + (t < 0)  # of the nearest pixel, the one below
            spot, i, j, s, t = (v[near[i, j]] for v in (spot, i, j, s, t))
            corners = i + np.array([[0], [0], [1], [1]]), j + np.array([[0], [1], [0], [1]])
            around = pixels[corners[0] + reach, corners[1] + reach], flags[corners]
            part.ravel()[spot], lost, factor, bit.ravel()[spot] = _blemished(part.ravel()[spot], *around, s, t)
            held.ravel()[spot] *= 1 - lost
            safe.ravel()[spot] *= factor
        parts.append((part, held, safe, bit))
    *sums, bits = zip(*parts)
    return *(functools.reduce(np.add, planes) for planes in sums), functools.reduce(np.bitwise_or, bits)


def _inside(place, base, count):
    """Positions (less their columns' base) moved into a frame of so many pixels, whether they lay there, and the first
    pixel and the end of what they touch.

    Whether is an array, or one boolean where all are alike.  The outermost positions of a tile lie along its edges,
    for one further in would need a mapping without area.
    """
    edge = np.concatenate([(place[[0, -1]] + base).ravel(), (place[:, [0, -1]] + base[[0, -1]]).ravel()])
    least, most = edge.min(), edge.max()
    ends = max(int(least // 1), -1), min(int(most // 1) + 2, count + 1)
    if least >= -0.5 and most <= count - 0.51:
        return place, np.True_, ends
    if most < -0.52 or least > count - 0.49:
        return place, np.False_, ends
    moved = np.clip(place, (-0.5 - base).astype("f4"), (count - 0.51 - base).astype("f4"))
    return moved, np.abs(moved - place) < 0.01, ends


def _checked(image, mask, light, kernel, conserve):
    """Data as float32, and mask bits, NODATA and SATURATED from the data themselves; None where there is none."""
    if kernel not in ("auto", *interpolate.KERNELS) or conserve not in ("flux", "surface"):
        raise ValueError(f"no kernel {kernel!r} or conserve {conserve!r}; choose auto, "
                         f"{', '.join(interpolate.KERNELS)}; flux, surface")
    data = np.asarray(image[0], "f4")
    shapes = data.shape if mask is None else np.shape(mask), data.shape if light is None else light[1]
    if data.ndim != 2 or any(shape != data.shape for shape in shapes):
        raise ValueError("image, mask and flat are not 2-D arrays of one shape; give those that belong together")
    bits = np.zeros(data.shape, "u1") if mask is None else np.array(mask, "u1", order="C")
    rows = np.flatnonzero(~np.isfinite(data @ np.ones(data.shape[1], "f4")))
    bits[rows] |= np.uint8(hdr.NODATA) * ~np.isfinite(data[rows])
    saturate = hdr.number(image[1], "SATURATE")
    if saturate is not None:
        bits.ravel()[np.flatnonzero(data >= saturate)] |= np.uint8(hdr.SATURATED)
    if hdr.number(image[1], "TRAIL"):
        bits |= trails.trail_mask(data.shape, image[1])
    if (bits & hdr.NODATA).all():
        raise ValueError("no pixel of the frame has a value; leave it out")
    return data, bits if bits.any() else None


def light_of(flat):
    """A flat (image, array or rows) averaged over CELL x CELL pixels, what is not above zero as zero: ``(mean, shape)``
    with the shape of the flat.  None without one; what is such a pair already comes back as it is.
    """
    if flat is None or isinstance(flat, tuple) and isinstance(flat[1], tuple):
        return flat
    flat = flat[0] if isinstance(flat, tuple) else flat
    edges, means = [np.arange(0, n, CELL) for n in flat.shape], []
    for top in range(0, flat.shape[0], 16 * CELL):
        part = np.fmax(np.asarray(flat[top:top + 16 * CELL], "f4"), np.float32(0))
        means.append(np.add.reduceat(np.add.reduceat(part, np.arange(0, len(part), CELL), axis=0), edges[1], axis=1))
    sizes = [np.minimum(e + CELL, n) - e for e, n in zip(edges, flat.shape)]
    return np.concatenate(means) / np.multiply.outer(*sizes).astype("f4"), tuple(flat.shape)


def _trust(header, data, bits, light, gain, readnoise, sky):
    """Inverse variance [1/adu^2] of a sky pixel: a number, or with `light` (see `light_of`) an array of its means.

    1 / (photons / light + fixed / light^2) from sky, gain and read noise.  What is measured beyond these (dark current)
    is added to the fixed part; where gain or read noise are unknown the measured noise is all.
    """
    measured, noise = level(data, bits)
    light = None if light is None else light[0]
    usual = 1.0 if light is None else float(np.median(light)) or 1.0
    try:
        gain, readnoise = hdr.gain(header, gain), hdr.readnoise(header, readnoise)
    except ValueError:
        photons, fixed = max(noise, 1e-6) ** 2 * usual, 0.0
    else:
        photons, fixed = max(measured if sky is None else sky, 0) / gain, max(readnoise / gain, 1e-6) ** 2
        if sky is None:
            fixed += max(0, noise**2 - photons / usual - fixed / usual**2) * usual**2
    light = np.float32(1) if light is None else light
    return light * light / np.maximum(np.float32(photons) * light + np.float32(fixed), np.float32(1e-12))


def _at(trust, y, x, base_y, base_x):
    """`trust` at the positions, constant over CELL x CELL of them; float32."""
    if not np.ndim(trust):
        return trust
    at = [np.minimum(np.arange(CELL // 2, n + CELL // 2, CELL), n - 1) for n in y.shape]
    cells = [np.clip((place[at[0][:, None], at[1]] + base[at[1]]) * (1 / CELL), 0, n - 1).astype(np.intp)
             for place, base, n in ((y, base_y, trust.shape[0]), (x, base_x, trust.shape[1]))]
    return trust[tuple(cells)].repeat(CELL, 1)[:, :y.shape[1]].repeat(CELL, 0)[:y.shape[0]]


def _near(flags):
    """Whether samples between pixels (i, j) and (i + 1, j + 1) need care, at [i, j]; False within MARGIN of the edges.

    That is where one of the four is flagged, or within RING of a saturated or missing pixel.
    """
    near = np.zeros(flags.shape, bool)
    for flagged, reach in ((flags != 0, 0), ((flags & (hdr.SATURATED | hdr.NODATA)) != 0, RING)):
        step = 1
        while step <= reach + 1 and flagged.any():  # the union of 2 reach + 2 rows, then columns, by doubling
            flagged = flagged[step:] | flagged[:-step]
            flagged = flagged[:, step:] | flagged[:, :-step]
            step *= 2
        if step > reach + 1:
            near[reach:reach + len(flagged), reach:reach + flagged.shape[1]] |= flagged
    return near


def _about(near):
    """Where [i, j] is near, or [i - 1, j], [i, j - 1], [i - 1, j - 1] is."""
    about = near.copy()
    about[1:] |= near[:-1]
    about[:, 1:] |= about[:, :-1].copy()
    return about


def _blemished(value, pixels, flags, s, t):
    """For samples near flagged pixels, of their four pixels (4, n) and fractions: value held within the four, share of
    NODATA, weight factor, mask bits."""
    part = (np.stack([1 - s, s])[:, None] * np.stack([1 - t, t])).reshape(4, -1)
    share = {bit: (part * ((flags & bit) != 0)).sum(0) for bit in (*hdr.MASK_BITS.values(), hdr.BAD | hdr.COSMIC)}
    lost = share[hdr.NODATA]
    found = sum((np.uint8(bit) * (share[bit] > PART) for bit in hdr.MASK_BITS.values() if bit != hdr.NODATA),
                np.uint8(0))
    factor = (1 - (1 - REPAIRED) * share[hdr.BAD | hdr.COSMIC]) * (share[hdr.TRAIL] <= PART) * (1 - lost)
    return np.clip(value, pixels.min(0), pixels.max(0)), lost, factor, found


def _header(header, target, shape, area, kernel, conserve):
    """The image's header with the target's WCS, and what goes with the area of a pixel."""
    header = wcs.to_header(header, target, shape)
    for key in [k for k in header if re.fullmatch(r"TRAIL\d*", k)]:
        del header[key]  # they are positions in the frame; the mask has them
    flux = area if conserve == "flux" else 1.0
    factors = {"SATURATE": flux, "SKY": flux, "SKYNOISE": flux / np.sqrt(area), "FWHM": 1 / np.sqrt(area),
               "RDNOISE": np.sqrt(area), "EGAIN": area / flux}
    for key, factor in factors.items():
        value = hdr.number(header, key)
        if value is not None:
            header[key] = float(f"{value * factor:.7g}")
    if conserve == "surface" and hdr.number(header, "MAGZP") is not None:
        header["MAGZP"] = round(hdr.number(header, "MAGZP") - 2.5 * np.log10(area), 5)
    header["PIXSCALE"] = (round(wcs.scale(target), 6), "[arcsec/pixel] scale of the grid")
    hdr.history(header, "resample", kernel=kernel, conserve=conserve)
    return header
