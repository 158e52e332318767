"""Colour composites: images of one field through several filters as one picture.

    colour = mix @ (images - sky)         sky neutral, stars grey in the mean
    I      = mean of the colours, or the luminance
    shown  = SKY + (I + colour - mean) * scale * asinh(I / soft) / I

as Lupton et al. (2004, PASP 116, 133): one factor for the three colours keeps the hue.  Where the light is faint the
difference of a colour from the mean is smoothed, for the eye sees noise in colour worse than noise in brightness;
what is brighter than white goes to white, and so do the saturated cores of stars, whose colour nobody knows.
"""

import numpy as np

from apfunc import starflux, stretch
from apfunc.header import history, number, text
from apfunc.palette import NARROW, palette_for, palettes_for  # noqa: F401

STRIP = 128     # rows worked on at a time
HALO = 16      # rows more on either side, for the smoothing of colour
WIDTH = 2.0    # standard deviation of that smoothing where light is faint, in blocks of 2 x 2 pixels
CLOSE = 1.0    # and where it is bright
SUN = {"bp_rp": 0.82, "bv": 0.65}  # the Sun's colour
STRETCHES = ("auto", "arcsinh", "linear")


def composite(images, palette=None, stretch="auto", balance="stars", weights=None, ha=None, soft=None, white=None,
              strength=1.0, saturation=1.0, denoise=0.6, crop=True, catalog=None):
    """A colour picture ``(rgb, header)`` of images on one grid: uint16 (rows, columns, 3), sRGB-like display values.

    images   dict from filter name (or role: R, G, B, L, Ha) to image (data, header), or a list of images whose FILTER
             says it.  NaN = no value: black where it is the border, filled from around where it is a small hole.
    palette  see apfunc.palette: "RGB", "LRGB", "HaRGB", "SHO", "HOO", three filters "SII,OIII,Ha"; None: the best.
    stretch  "auto" suits itself to noise and nebula (apfunc.stretch.curve); "arcsinh" and "linear" run from the sky to
             `white`, softened at `soft` (linear: not at all), both in adu of the filter whose factor is 1.
    balance  "stars": the mean unsaturated star is white, or with `catalog` (Table ra, dec and a colour bp_rp or bv) a
             star of the Sun's colour is; "signal": the brighter parts of all channels alike (what narrow bands get,
             where the colour of stars means nothing); "none".  Fewer than three stars: "signal".
    weights  by hand: dict from role or filter to a factor on that image, after its sky; replaces balance.
    ha       share of H-alpha in red for HaRGB, 0 to 1; default by the noise of both.  Stars keep their colour whatever it is.
    strength, saturation: 1 is the default; more shows more.  denoise: the share, 0 to 1, of the noise in the
             brightness of sky and smooth nebula that is smoothed away.  crop: to the largest rectangle that all images fill.

    Row 0 is the row 0 of the images (the bottom of the sky); `apfunc.picture.encode` turns it for display.  The header
    is a copy of the first image's without what belongs to one filter, its WCS shifted with the crop; it has PALETTE, NOTE
    (what was missing), COLOR1… ("role filter factor"), BALANCE, NBALANCE (stars), STRETCH, SOFTEN, WHITE, HASHARE, CROPX0
    and CROPY0 (columns and rows cut off at the left and the bottom).  Raises ValueError when shapes differ, nothing overlaps, or the palette says nothing.
    """
    if stretch not in STRETCHES:
        raise ValueError(f"unknown stretch {stretch}; choose {', '.join(STRETCHES)}")
    images = _named(images)
    name, roles, note = palette_for(list(images), palette)
    used = list(dict.fromkeys(roles.values()))
    window = _common([images[f][0] for f in used], crop)
    data = [images[f][0][window] for f in used]
    skies, noises = starflux.sky(data[0], also=data[1:]) if len(data) > 1 else ([v] for v in starflux.sky(data[0]))
    if not np.isfinite(skies).all():
        raise ValueError("no sky to be seen in the common area; check the stacks")
    saturates = [number(images[f][1], "SATURATE") for f in used]
    weight, how, count = _balance(data, skies, noises, saturates, used, roles, balance, weights, catalog, images[used[0]][1], window)
    mix, light, ha = _mixture(used, roles, weight, noises, ha)
    full = [None if s is None else s - sky for s, sky in zip(saturates, skies)]
    noise = float(np.sqrt(((light * noises)**2).sum()))
    curve = _curve(stretch, data, skies, light, noise * (1 - 0.9 * denoise), soft, white, strength)
    rgb = _render(data, skies, full, mix, light, noise, curve, saturation, denoise, _narrow(roles))
    return rgb, _header(images, used, roles, window, name, note, stretch, weight, how, count, ha, curve)


def _named(images):
    if not isinstance(images, dict):
        images = {text(h, "FILTER") or f"image{i + 1}": (d, h) for i, (d, h) in enumerate(images)}
    if not images:
        raise ValueError("no images; a composite needs at least one")
    shapes = {np.shape(d) for d, _ in images.values()}
    if len(shapes) > 1:
        raise ValueError(f"the images are of different sizes ({', '.join(f'{s[1]}x{s[0]}' for s in sorted(shapes))}); resample all to one grid")
    return {name: (np.asarray(d).astype("f4", copy=False), h) for name, (d, h) in images.items()}


def _common(data, crop):
    """Slices of the part to show: the largest rectangle that all images fill, or that holds any of them."""
    good = np.ones(data[0].shape, bool)
    for d in data:
        good &= np.isfinite(d)
    if not good.any():
        raise ValueError("the images have no pixel in common; check that they are of one field and on one grid")
    if not crop:
        return slice(None), slice(None)
    every = max(1, min(good.shape) // 500)  # small holes do not count, so a part of the pixels will do
    thin = good[::every, ::every]
    step = min(max(8, max(thin.shape) // 200), *thin.shape)
    rows, columns = (n // step for n in thin.shape)
    share = thin[:rows * step, :columns * step].reshape(rows, step, columns, step).mean((1, 3))
    edges = np.array(_rectangle(share > 0.7)) * step * every + np.array([-1, 1, -1, 1]) * 2 * step * every
    window = _trimmed(good, *(int(v) for v in np.clip(edges, 0, np.repeat(good.shape, 2))))
    if good[window].sum() < 0.5 * good.sum():  # an odd shape, a mosaic: show it all
        y, x = np.flatnonzero(good.any(1)), np.flatnonzero(good.any(0))
        window = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
    return window


def _trimmed(good, top, bottom, left, right):
    """The window without the rows and columns at its edges that are empty for more than a tenth."""
    for _ in range(sum(good.shape)):
        edges = good[top, left:right], good[bottom - 1, left:right], good[top:bottom, left], good[top:bottom, right - 1]
        bad = [e.mean() < 0.9 for e in edges]
        if not any(bad) or bottom - top < 3 or right - left < 3:
            break
        top, bottom, left, right = top + bad[0], bottom - bad[1], left + bad[2], right - bad[3]
    return slice(top, bottom), slice(left, right)


def _rectangle(good):
    """(top, bottom, left, right) of the largest rectangle of True, by the histogram of heights (one pass a row)."""
    best, found, height = 0, (0, good.shape[0], 0, good.shape[1]), np.zeros(good.shape[1] + 1, int)
    for row, line in enumerate(good):
        height[:-1] = np.where(line, height[:-1] + 1, 0)
        stack = []
        for column, high in enumerate(height):
            left = column
            while stack and stack[-1][1] >= high:
                left, tall = stack.pop()
                if tall * (column - left) > best:
                    best, found = tall * (column - left), (row + 1 - tall, row + 1, left, column)
            stack.append((left, high))
    return found


def _balance(data, skies, noises, saturates, used, roles, balance, weights, catalog, header, window):
    """Factors on the images, how they were found, and the number of stars."""
    if weights is not None:
        named = {roles.get(k, k): v for k, v in weights.items()}
        return np.array([float(named.get(f, 1.0)) for f in used]), "hand", 0
    if balance not in ("stars", "signal", "none"):
        raise ValueError(f"unknown balance {balance}; choose stars, signal or none")
    if balance == "none" or len(data) == 1:
        return np.ones(len(data)), "none", 0
    if balance == "stars" and not _narrow(roles):
        clearest = used.index(roles.get("L", roles.get("G", roles["R"])))
        factors, count = _by_stars(data, clearest, skies, noises, saturates, catalog, header, window)
        if factors is not None:
            return factors, "stars", count
    return _by_signal(data, skies, noises), "signal", 0


def _narrow(roles):
    from apfunc.names import band
    return all(band(f) in NARROW for f in roles.values())


def _by_stars(data, clearest, skies, noises, saturates, catalog, header, window):
    """(factors, stars used): those that make the stars grey in the mean; (None, n) with fewer than three."""
    x, y = starflux.peaks(data[clearest], noises[clearest], skies[clearest])
    for d, s in zip(data, saturates):
        if s is not None and len(x):
            bright = np.nan_to_num(starflux.cutouts(d, x, y, 3)[0], nan=np.inf).max(1)
            x, y = x[bright < 0.9 * s], y[bright < 0.9 * s]
    if len(x) < 3:
        return None, len(x)
    flux, error, half = np.array([starflux.fluxes(d, x, y, 6.0) for d in data]).transpose(1, 0, 2)
    good = starflux.good_stars(flux, error, half, 5.0)
    if good.sum() < 3:
        return None, int(good.sum())
    flux, error = flux[:, good], error[:, good]
    first = int(np.argmax(np.median(flux / error, axis=1)))
    trust = np.minimum((flux / error).min(0), 30)
    ratios = np.log(flux / flux[first])
    colour = None if catalog is None else _colours(x[good] + (window[1].start or 0), y[good] + (window[0].start or 0), catalog, header)
    grey = [_middle(r, trust) if colour is None else _at_sun(colour, r, trust) for r in ratios]
    return np.exp(-np.array(grey)), int(good.sum())


def _middle(values, weights):
    """Weighted mean of what is left when values more than 2.5 robust sigmas off are left out: no star decides alone."""
    good = np.ones(len(values), bool)
    for _ in range(5):
        middle = np.median(values[good])
        good = np.abs(values - middle) <= 2.5 * 1.4826 * np.median(np.abs(values[good] - middle)) + 1e-9
    return np.average(values[good], weights=weights[good])


def _colours(x, y, catalog, header):
    """Catalogue colour less the Sun's of the stars at (x, y), NaN where unknown; None when it is of no use."""
    from astropy.wcs import WCS
    column, sun = next(((c, v) for c, v in SUN.items() if c in catalog.colnames), (None, 0))
    if column is None or "CTYPE1" not in header or len(catalog) == 0:
        return None
    cx, cy = WCS(header).all_world2pix(np.asarray(catalog["ra"], "f8"), np.asarray(catalog["dec"], "f8"), 0, quiet=True)
    distance = np.hypot(x[:, None] - cx, y[:, None] - cy)
    near = distance.argmin(1)
    colour = np.where(distance[np.arange(len(x)), near] < 3, np.asarray(catalog[column], "f8")[near] - sun, np.nan)
    known = np.isfinite(colour)
    return colour if known.sum() >= 5 and np.ptp(colour[known]) > 0.3 else None


def _at_sun(colour, values, weights):
    """Where the straight line of values over colour is at the Sun's colour; robust."""
    good = np.isfinite(colour)
    for _ in range(4):
        line = np.polyfit(colour[good], values[good], 1, w=weights[good])
        rest = np.abs(values - np.polyval(line, colour))
        good = np.isfinite(colour) & (rest <= 3 * 1.4826 * np.median(rest[good]) + 1e-6)
    return line[1]


def _by_signal(data, skies, noises):
    """Factors that bring the brighter parts of the images to one level, none by so much that its noise takes over."""
    levels = []
    for d, sky, noise in zip(data, skies, noises):
        small = d[:d.shape[0] // 8 * 8, :d.shape[1] // 8 * 8].reshape(d.shape[0] // 8, 8, -1, 8) if min(d.shape) >= 16 else d[:, None, :, None]
        blocks = np.median(small.transpose(0, 2, 1, 3).reshape(-1, small.shape[1] * small.shape[3]), axis=1)
        blocks = blocks[np.isfinite(blocks)]
        levels.append(max(np.quantile(blocks, 0.98) - sky if blocks.size else 0, 0.5 * noise, 1e-30))
    factors = min(levels) / np.array(levels)
    noisy = factors * noises
    factors *= np.minimum(1, 8 * noisy.min() / np.maximum(noisy, 1e-30))
    return factors / factors.max() if factors.max() > 0 else np.ones(len(data))


def _mixture(used, roles, weight, noises, ha):
    """The matrix (3, images) of the colours, the row (images) of the brightness, and the share of H-alpha used."""
    unit = dict(zip(used, np.diag(weight)))
    colour = {role: unit[f] for role, f in roles.items()}
    if "R" not in colour:
        return np.stack([colour["L"]] * 3), colour["L"], None
    colour.setdefault("G", (colour["R"] + colour["B"]) / 2)
    if "Ha" in colour:
        broad = "G" if _is(roles["G"], "r") else "R"  # the band that holds the line
        sigma = {role: np.sqrt(((colour[role] * noises)**2).sum()) for role in ("R", "Ha")}
        ha = float(np.clip(sigma["R"] / (sigma["R"] + sigma["Ha"]), 0.1, 0.6)) if ha is None else float(ha)
        line = ha * (colour["Ha"] - colour[broad])
        colour["R"] = colour["R"] + line
        colour["B"] = colour["B"] + 0.12 * line  # the H-beta that comes with it
    mix = np.stack([colour[c] for c in "RGB"])
    return mix, colour.get("L", mix.mean(0)), ha


def _is(name, wanted):
    from apfunc.names import band
    return band(name) == wanted


def _curve(kind, data, skies, light, noise, soft, white, strength):
    """(soft, scale, white) of the stretch, from every few pixels of the brightness."""
    step = max(1, int(np.sqrt(data[0].size / 4e5)))
    sample = sum(np.float32(w) * (d[::step, ::step] - np.float32(s)) for w, d, s in zip(light, data, skies))
    if kind == "linear":
        white = white or float(np.nanquantile(sample, 0.998))
        return 1e6 * white, (1 - stretch.SKY) * 1e6, white
    if kind == "arcsinh" and soft is None:
        soft = 3 * noise
    return stretch.curve(sample, noise, soft, white, strength)


def _render(data, skies, full, mix, light, noise, curve, saturation, denoise, narrow):
    """The picture, in strips of rows so that little memory is used."""
    rows, columns = data[0].shape
    rgb = np.zeros((rows, columns, 3), np.uint16)
    grey = np.allclose(mix, mix[0])
    for top in range(0, rows, STRIP):
        low, high = max(0, (top - HALO) // 2 * 2), min(rows, top + STRIP + HALO)
        part = slice(top - low, min(top + STRIP, rows) - low)
        planes = [d[low:high] - np.float32(s) for d, s in zip(data, skies)]
        missing, blown = _repair(planes, full)
        bright = _combine(light, planes)
        bright = _quiet(bright, noise, denoise, part)
        if grey:
            shown = np.float32(stretch.SKY) + bright * stretch.factor(bright, *curve[:2])
            shown = np.clip(shown, 0, 1)
            shown[missing[part]] = 0
            rgb[top:top + len(shown)] = (shown * np.float32(65535) + np.float32(0.5)).astype(np.uint16)[:, :, None]
            continue
        mean = _combine(mix.mean(0), planes)
        red, blue = (_combine(mix[c], planes) - mean for c in (0, 2))
        red, blue = _calm(red, blue, mean, blown, noise, narrow, part)
        scale = stretch.factor(bright, *curve[:2])
        level = np.float32(stretch.SKY) + bright * scale
        paint = scale * np.float32(saturation)
        paint *= _fade(level, blown[part])
        red, blue = red * paint, blue * paint
        shown = np.stack([level + red, level - red - blue, level + blue])
        _tame(shown, level)
        shown[:, missing[part]] = 0
        for c in range(3):
            rgb[top:top + level.shape[0], :, c] = shown[c] * np.float32(65535) + np.float32(0.5)
    return rgb


def _combine(row, planes):
    out = None
    for factor, plane in zip(row, planes):
        if factor:
            out = plane * np.float32(factor) if out is None else out + plane * np.float32(factor)
    return np.zeros_like(planes[0]) if out is None else out


def _repair(planes, full):
    """Fill small holes of `planes` in place from around them; what stays empty, and the saturated pixels, as masks."""
    missing = np.zeros(planes[0].shape, bool)
    blown = np.zeros(planes[0].shape, bool)
    for plane, limit in zip(planes, full):
        if limit is not None:
            blown |= plane >= np.float32(0.98 * limit)
        hole = ~np.isfinite(plane)
        if not hole.any():
            continue
        plane[hole] = np.nan
        for reach in (1, 1, 2, 2, 2, 2, 3, 3):  # from the rim of a hole inwards; a border, seen from one side only, stays
            y, x = np.nonzero(np.isnan(plane))
            if len(y) == 0 or len(y) > 0.2 * plane.size:
                break
            near, _ = starflux.cutouts(plane, x, y, reach)
            count = np.isfinite(near).sum(1)
            enough = count > 0.5 * near.shape[1]
            plane[y[enough], x[enough]] = np.nansum(near[enough], axis=1) / count[enough]
        hole = np.isnan(plane)
        missing |= hole
        plane[hole] = 0
    if blown.any():
        grown = blown.copy()
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            for sign in (1, -1):
                grown |= _shifted(blown, sign * dy, sign * dx)
        blown = grown
    return missing, blown


def _shifted(mask, dy, dx):
    out = np.zeros_like(mask)
    a, b = mask.shape
    out[max(dy, 0):a + min(dy, 0), max(dx, 0):b + min(dx, 0)] = mask[max(-dy, 0):a + min(-dy, 0), max(-dx, 0):b + min(-dx, 0)]
    return out


def _quiet(bright, noise, share, part):
    """Brightness of the rows `part`, the noise of smooth light lessened by `share`; stars and edges stay as they are.

    A pixel is drawn to the mean round it the more, the less its surroundings vary beyond the noise (a Wiener filter:
    Lee 1980, IEEE PAMI 2, 165).
    """
    from apfunc.background import separable
    rows, columns = (n // 2 * 2 for n in bright.shape)
    if rows < 4 or columns < 4 or not noise > 0 or not share:
        return bright[part]
    small = _halved(bright, rows, columns) * np.float32(0.25)
    kernel = np.array([1, 0.5])  # of blocks of 2 x 2 pixels
    weight = 1 / (1 + np.maximum(small * np.float32(1 / (6 * noise)), 0)**2)
    soft = _doubled(separable(weight * small, kernel) / separable(weight, kernel), bright.shape)
    rest = bright - soft
    varies = separable(_halved(rest**2, rows, columns), np.ones(2) / 3) / 4
    noisy = np.minimum(np.float32(1.7 * noise**2) / np.maximum(varies, np.float32(1e-30)), 1)
    rest = rest[part] * (1 - np.float32(share) * _doubled(noisy, bright.shape, part))
    return soft[part] + rest


def _calm(red, blue, mean, blown, noise, narrow, part):
    """The colour differences of the rows `part` without the noise and the rings that the eye minds.

    Where light is faint: their mean round a pixel, weighted against what is bright, so that no star stains the sky.  Where
    it is bright: the brightness times the mean colour round the pixel, weighted by light, so that stars whose size
    differs from filter to filter have no rings; saturated pixels have no say in it.  With `narrow` bands stars have no colour that
    means anything: they take that of the nebula round them.
    """
    from apfunc.background import separable
    rows, columns = (n // 2 * 2 for n in mean.shape)
    if rows < 4 or columns < 4 or not noise > 0:
        return red[part], blue[part]
    wide, close = (np.exp(-np.arange(int(3 * w) + 1)**2 / (2 * w**2)) for w in (WIDTH, CLOSE))
    small = [_halved(v, rows, columns) for v in (mean, red, blue)]
    weight = 1 / (1 + (small[0] * np.float32(1 / (8 * noise)))**2)
    total = separable(weight, wide) + np.float32(1e-6)
    soft = [separable(weight * v, wide) / total for v in small]
    true = 1 - np.minimum(_halved(blown.astype("f4"), rows, columns), 1)
    light = np.maximum(separable(true * small[0], close), np.float32(4 * noise))
    hue = [separable(true * v, close) / light for v in small[1:]]
    clear = np.maximum(small[0], 0)**2
    clear /= clear + np.float32((32 * noise)**2)
    point = np.clip(2 * (small[0] - soft[0]) / np.maximum(small[0], np.float32(noise)) - 0.2, 0, 1)  # is it a star?
    if narrow:
        clear *= 1 - point
    else:  # no star is green: what makes it look so is a filter with wider wings
        green = -hue[0] - hue[1]
        excess = np.maximum(green - np.maximum(hue[0], hue[1]), 0) * point * np.float32(1 / 3)
        hue = [h + excess for h in hue]
    faint = [_doubled(np.float32(0.25) * (1 - clear) * s, mean.shape, part) for s in soft[1:]]
    bright = [_doubled(clear * h, mean.shape, part) * mean[part] for h in hue]
    return [f + b for f, b in zip(faint, bright)]


def _halved(plane, rows, columns):
    plane = plane[:rows, :columns]
    down = plane[::2] + plane[1::2]
    return down[:, ::2] + down[:, 1::2]


def _doubled(plane, shape, part=slice(None)):
    """The plane of blocks back at full size, bilinear; edges repeated up to `shape`; only the rows `part` of it."""
    first, last, _ = part.indices(shape[0])
    low, high = max(first // 2 - 1, 0), min(last // 2 + 2, len(plane))
    plane = plane[low:high]
    tall = _between(plane.T).T[first - 2 * low:last - 2 * low]
    if len(tall) < last - first:
        tall = np.pad(tall, [(0, last - first - len(tall)), (0, 0)], mode="edge")
    out = _between(tall)
    return np.pad(out, [(0, 0), (0, shape[1] - out.shape[1])], mode="edge") if out.shape[1] < shape[1] else out


def _between(plane):
    """Twice as many columns, each three quarters of its own and a quarter of the next one's value."""
    near, far = plane * np.float32(0.75), plane * np.float32(0.25)
    out = np.empty((2 * plane.shape[1], len(plane)), "f4").T if plane.flags.f_contiguous else np.empty((len(plane), 2 * plane.shape[1]), "f4")
    np.add(near[:, 1:], far[:, :-1], out=out[:, 2::2])
    np.add(near[:, :-1], far[:, 1:], out=out[:, 1:-1:2])
    out[:, 0], out[:, -1] = plane[:, 0], plane[:, -1]
    return out


def _fade(level, blown):
    """How much colour to keep: all of it up to 0.8 of white, none from 1.05 on and where a filter is saturated."""
    keep = np.clip((np.float32(1.05) - level) * np.float32(4), 0, 1)
    if blown.any():
        keep[blown] = 0
    return keep


def _tame(shown, level):
    """Bring colours above white back into range (in place): towards grey of the same brightness, which keeps the hue."""
    np.minimum(level, 1, out=level)
    top = shown.max(0)
    over = top > 1
    if over.any():
        grey = level[over]
        keep = (1 - grey) / np.maximum(top[over] - grey, 1e-6)
        shown[:, over] = grey + (shown[:, over] - grey) * np.clip(keep, 0, 1)
    np.clip(shown, 0, 1, out=shown)


def _header(images, used, roles, window, name, note, kind, weight, how, count, ha, curve):
    header = images[used[0]][1].copy()
    for key in ("FILTER", "EXPTIME", "EXPOSURE", "NCOMBINE", "EGAIN", "RDNOISE", "SATURATE", "MAGZP", "MAGZPERR", "BUNIT", "FWHM", "SKYLEVEL"):
        header.remove(key, ignore_missing=True)
    x0, y0 = (window[i].indices(images[used[0]][0].shape[1 - i])[0] for i in (1, 0))
    for key, shift in (("CRPIX1", x0), ("CRPIX2", y0)):
        if number(header, key) is not None:
            header[key] = number(header, key) - shift
    header["PALETTE"] = (name, "colour palette")
    if note:
        header["NOTE"] = note
    for i, (role, f) in enumerate(roles.items()):
        header[f"COLOR{i + 1}"] = (f"{role} {f} {weight[used.index(f)]:.5g}", "role, filter, factor")
    header["BALANCE"] = (how, "what the colours were balanced by")
    header["NBALANCE"] = (count, "stars used for it")
    header["STRETCH"] = (kind, "display stretch")
    header["SOFTEN"] = (float(f"{curve[0]:.6g}"), "intensity where the curve bends")
    header["WHITE"] = (float(f"{curve[2]:.6g}"), "intensity shown white")
    if ha is not None:
        header["HASHARE"] = (round(ha, 4), "share of H-alpha in red")
    header["CROPX0"], header["CROPY0"] = (int(x0), "columns cropped on the left"), (int(y0), "rows cropped at the bottom")
    history(header, "composite", palette=name, stretch=kind, balance=how)
    return header
