"""The common grid of a target: one TAN projection, with a size, that all its frames are resampled to.

Centre, scale and edges are rounded, so that a frame which is solved anew, and lies a hundredth of a pixel elsewhere,
leaves the grid as it was.  A grid is a header: the WCS keywords and NAXIS1, NAXIS2.
"""

import numpy as np

from apfunc import header as hdr
from apfunc import wcs

STEP = 16  # [pixel] the edges of a grid lie at multiples of this from its tangent point
ROUND = 0.01  # [deg] rounding of the tangent point
LARGEST, EMPTIEST = 1e9, 10  # a grid with more pixels, or so many times those of all frames, is taken for an error


def grid(images, like=None, area="cover", scale=None, orientation="north"):
    """The TAN grid, as a header with NAXIS1 and NAXIS2, that suits the navigated frames of one target.

    images       list of images (data, header) with a celestial WCS (TAN or TAN-SIP), of whose data only the shape counts;
                 or of headers that have NAXIS1 and NAXIS2.
    like         an image, or a header with NAXIS1 and NAXIS2: its WCS and size are the grid, whatever the frames.
    area         "cover": every pixel of every frame; "common": the largest rectangle that all frames cover.
    scale        [arcsec/pixel], else the median of the frames', rounded to three digits.
    orientation  "north": north up, east left; "reference": position angle (median of the frames', modulo a half turn,
                 rounded to a degree) and handedness of the frames.

    The result does not depend on the order of the frames.  Raises ValueError when a frame has no WCS or no size, when
    there is no frame, when the frames have no area in common, or lie too far apart for one tangent plane.

    >>> from astropy.io.fits import Header
    >>> h = Header(dict(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=10.004, CRVAL2=41.2, CRPIX1=500.5, CRPIX2=400.5,
    ...                 CD1_1=-3e-4, CD1_2=0.0, CD2_1=0.0, CD2_2=3e-4, NAXIS1=1000, NAXIS2=800))
    >>> g = grid([h])
    >>> g["CRVAL1"], g["NAXIS1"], round(g["CD2_2"] * 3600, 6)
    (10.0, 1008, 1.08)
    """
    if area not in ("cover", "common") or orientation not in ("north", "reference"):
        raise ValueError("area is 'cover' or 'common', orientation is 'north' or 'reference'")
    if like is not None:
        return _header(*_frame(like), "like")
    if not len(images):
        raise ValueError("no solved frame to lay a grid over; the quality table says why")
    frames = [_frame(image) for image in images]
    size = scale or float(f"{np.median([wcs.scale(s) for s, _ in frames]):.3g}")
    if not size > 0:
        raise ValueError("the scale of a grid must be above zero arcsec/pixel")
    solution = {"crval": _centre(frames), "crpix": (0.0, 0.0), "cd": size / 3600 * _turn(frames, orientation),
                "a": None, "b": None}
    edges = [wcs.pixel(solution, *wcs.sky(s, *rim(shape))) for s, shape in frames]
    if not np.isfinite(edges).all():
        raise ValueError("the frames lie more than a quarter of the sky apart; give the frames of one target only")
    low = [np.floor(min(e[axis].min() for e in edges) / STEP) for axis in (0, 1)]
    high = [np.ceil(max(e[axis].max() for e in edges) / STEP) for axis in (0, 1)]
    sky = sum(shape[0] * shape[1] * (wcs.scale(s) / size) ** 2 for s, shape in frames)
    if (high[0] - low[0]) * (high[1] - low[1]) * STEP**2 > min(LARGEST, EMPTIEST * (sky + 64 * STEP**2)):
        raise ValueError("the frames lie too far apart for one grid; leave out those solved wrongly, or give --scale")
    if area == "common":
        low, high = _common(solution, frames, low, high)
    solution["crpix"] = (-low[0] * STEP, -low[1] * STEP)
    return _header(solution, (int(high[1] - low[1]) * STEP, int(high[0] - low[0]) * STEP), area)


def _frame(image):
    data, header = image if isinstance(image, tuple) else (None, image)
    return solution_of(header), shape_of(header) if data is None else np.shape(data)


def solution_of(header):
    """The solution (see apfunc.wcs) in a header, else ValueError."""
    solution = wcs.from_header(header)
    if solution is None:
        raise ValueError("no celestial TAN solution in the header; run apfunc astrometry first")
    return solution


def shape_of(header):
    """(rows, columns) from NAXIS2, NAXIS1 of a header, else ValueError."""
    columns, rows = hdr.number(header, "NAXIS1"), hdr.number(header, "NAXIS2")
    if not columns or not rows or columns < 1 or rows < 1:
        raise ValueError("no image size with the WCS (looked for NAXIS1, NAXIS2); give an image or a grid of apfunc "
                         "grid")
    return int(rows), int(columns)


def rim(shape, count=17):
    """0-based pixel positions (x, y) along the outer edges of a frame."""
    rows, columns = shape
    along, zero = np.linspace(0, 1, count), np.zeros(count)
    x, y = np.concatenate([along, along, zero, zero + 1]), np.concatenate([zero, zero + 1, along, along])
    return x * columns - 0.5, y * rows - 0.5


def _centre(frames):
    """Median position of the frames' centres, rounded: (ra, dec) [deg]."""
    ra, dec = np.radians([wcs.sky(s, (shape[1] - 1) / 2, (shape[0] - 1) / 2) for s, shape in frames]).T
    x, y, z = np.median([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    dec = round(float(np.degrees(np.arctan2(z, np.hypot(x, y)))) / ROUND) * ROUND
    step = ROUND * min(int(1 / max(np.cos(np.radians(dec)), 1e-4)), 1000)
    ra = round(float(np.degrees(np.arctan2(y, x)) % 360) / step) * step
    return round(ra % 360, 6), round(dec, 6)


def _turn(frames, orientation):
    """The matrix that turns pixels to (east, north): diag(-1, 1), or as the frames lie."""
    if orientation == "north":
        return np.diag([-1.0, 1.0])
    parity = 1 if np.median([np.sign(np.linalg.det(s["cd"])) for s, _ in frames]) > 0 else -1
    twice = np.radians([2 * wcs.angle(s) for s, _ in frames])
    angle = np.radians(round(float(np.degrees(np.arctan2(np.median(np.sin(twice)), np.median(np.cos(twice))))) / 2))
    return np.array([[parity * np.cos(angle), np.sin(angle)], [-parity * np.sin(angle), np.cos(angle)]])


def _common(solution, frames, low, high):
    """The largest rectangle of cells whose corners lie in every frame, in units of STEP: (low, high)."""
    every = max(1, int(max(np.subtract(high, low))) // 128)
    x, y = (np.arange(a, b + 1, every) for a, b in zip(low, high))
    ra, dec = wcs.sky(solution, *np.meshgrid(x * STEP - 0.5, y * STEP - 0.5))
    inside = np.ones(ra.shape, bool)
    for frame, (rows, columns) in frames:
        px, py = wcs.pixel(frame, ra, dec)
        inside &= (px >= -0.5) & (px <= columns - 0.5) & (py >= -0.5) & (py <= rows - 0.5)
    cells = inside[1:, 1:] & inside[:-1, 1:] & inside[1:, :-1] & inside[:-1, :-1]
    left, bottom, width, height = _largest_rectangle(cells)
    if width * height == 0:
        raise ValueError("the frames have no area in common; use --area cover")
    return (x[left], y[bottom]), (x[left + width], y[bottom + height])


def _largest_rectangle(cells):
    """(left, bottom, width, height) of the largest all-True rectangle of a 2-D boolean array."""
    best, heights = (0, 0, 0, 0), np.zeros(cells.shape[1], int)
    for row, line in enumerate(cells):
        heights = np.where(line, heights + 1, 0)
        for height in np.unique(heights[heights > 0]):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], heights >= height, [0]])))
            starts, widths = edges[::2], edges[1::2] - edges[::2]
            i = widths.argmax()
            if widths[i] * height > best[2] * best[3]:
                best = int(starts[i]), int(row - height + 1), int(widths[i]), int(height)
    return best


def _header(solution, shape, area):
    from astropy.io.fits import Header

    header = Header()
    header["NAXIS"] = 2
    header["NAXIS1"], header["NAXIS2"] = (shape[1], "columns of the grid"), (shape[0], "rows of the grid")
    header = wcs.to_header(header, solution, shape)
    header["PIXSCALE"] = (round(wcs.scale(solution), 6), "[arcsec/pixel] scale of the grid")
    hdr.history(header, "grid", area=area)
    return header
