"""From linear images to the pixels of a picture, in strips of rows: mended, calmed, stretched and kept in range."""

import numpy as np

from apfunc import level as ground
from apfunc import starflux, stretch
from apfunc.background import separable

STRIP = 128  # rows worked on at a time
HALO = 16  # rows more on either side, for the smoothing of colour
WIDTH = 2.0  # standard deviation of that smoothing where light is faint, in blocks of 2 x 2 pixels
CLOSE = 1.0  # and where it is bright
DARK = 0.3  # brightness, in noises of a pixel, up to which smooth light loses its colour


def render(data, surfaces, full, mix, light, noise, curve, saturation, denoise, narrow):
    """The picture, in strips of rows so that little memory is used."""
    rows, columns = data[0].shape
    rgb, space = np.zeros((rows, columns, 3), np.uint16), np.empty((len(data), STRIP + 2 * HALO, columns), "f4")
    grey = np.allclose(mix, mix[0])
    colours = np.stack([light, mix.mean(0), *(mix[[0, 2]] - mix.mean(0))])
    for top in range(0, rows, STRIP):
        low, high = max(0, (top - HALO) // 2 * 2), min(rows, top + STRIP + HALO)
        part = slice(top - low, min(top + STRIP, rows) - low)
        planes = space[:, :high - low]
        for plane, d, s in zip(planes, data, surfaces):
            np.subtract(d[low:high], ground.at(s, d.shape, slice(low, high)), out=plane)
        missing, blown = _repair(planes, full)
        bright, mean, red, blue = _combine(colours, planes)
        bright = _quiet(bright, noise, denoise, part)
        if grey:
            shown = np.float32(stretch.SKY) + bright * stretch.factor(bright, *curve[:2])
            shown = np.clip(shown, 0, 1)
            shown[missing[part]] = 0
            rgb[top:top + len(shown)] = (shown * np.float32(65535) + np.float32(0.5)).astype(np.uint16)[:, :, None]
            continue
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


def _combine(rows, planes):
    """The sums of the planes with the factors of each row of a matrix: (rows of the matrix, rows, columns)."""
    return (rows.astype("f4") @ planes.reshape(len(planes), -1)).reshape(-1, *planes.shape[1:])


def _repair(planes, full):
    """Fill small holes of `planes` from around them; what stays empty as a mask, and the share of saturation."""
    missing = np.zeros(planes[0].shape, bool)
    blown = np.zeros(planes[0].shape, bool)
    for plane, limit in zip(planes, full):
        if limit is not None:
            blown |= plane >= np.float32(0.98 * limit)
        hole = ~np.isfinite(plane)
        if not hole.any():
            continue
        plane[hole] = np.nan
        for reach in (1, 1, 2, 2, 2, 2, 3, 3):  # from the rim of a hole inwards; a border, seen from one side, stays
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
    return missing, _feathered(blown)


def _feathered(blown):
    """1 on saturated pixels and beside them, falling to 0 over three more; float32."""
    out, kernel = np.zeros(blown.shape, "f4"), np.float32([0.1, 0.3, 0.8, 1, 0.8, 0.3, 0.1])
    y, x = np.divmod(np.flatnonzero(blown), blown.shape[1])
    for dy, dx in np.ndindex(7, 7) if len(y) else ():  # few pixels are
        j, i = y + dy - 3, x + dx - 3
        inside = (j >= 0) & (j < out.shape[0]) & (i >= 0) & (i < out.shape[1])
        out[j[inside], i[inside]] += kernel[dy] * kernel[dx]
    return np.minimum(out, 1, out=out)


def _quiet(bright, noise, share, part):
    """Brightness of the rows `part`, the noise of smooth light lessened by `share`; stars and edges stay as they are.

    A pixel is drawn to the mean round it the more, the less its surroundings vary beyond the noise (a Wiener filter:
    Lee 1980, IEEE PAMI 2, 165).
    """
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

    Where light is faint: their mean round a pixel, weighted against what is bright, so that no star stains the sky;
    what is as dark as the sky has no colour.
    Where it is bright: the brightness times the mean colour round the pixel, weighted by light, so that stars whose
    size differs from filter to filter have no rings; saturated pixels have no say in it.  With `narrow` bands stars
    have no colour that means anything: they take that of the nebula round them.
    """
    rows, columns = (n // 2 * 2 for n in mean.shape)
    if rows < 4 or columns < 4 or not noise > 0:
        return red[part], blue[part]
    wide, close = (np.exp(-(np.arange(int(3 * w) + 1)**2) / (2 * w**2)) for w in (WIDTH, CLOSE))
    small = [_halved(v, rows, columns) for v in (mean, red, blue)]
    weight = 1 / (1 + (small[0] * np.float32(1 / (8 * noise)))**2)
    total = separable(weight, wide) + np.float32(1e-6)
    soft = [separable(weight * v, wide) / total for v in small]
    seen = np.clip(soft[0] * np.float32(1 / (4 * DARK * noise)), 0, 1)
    true = 1 - np.minimum(_halved(blown, rows, columns), 1)
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
    faint = [_doubled(np.float32(0.25) * (1 - clear) * seen * s, mean.shape, part) for s in soft[1:]]
    bright = [_doubled(clear * h, mean.shape, part) * mean[part] for h in hue]
    return [f + b for f, b in zip(faint, bright)]


def _halved(plane, rows, columns):
    plane = plane[:rows, :columns]
    down = plane[::2] + plane[1::2]
    return down[:, ::2] + down[:, 1::2]


def _doubled(plane, shape, part=slice(None)):
    """The plane of blocks back at full size, bilinear; edges repeated up to `shape`; only the rows `part` of it."""
    first, last, _ = part.indices(shape[0])
    low, high = max(min(first // 2, len(plane)) - 1, 0), min(last // 2 + 2, len(plane))
    plane = plane[low:high]
    tall = _between(plane.T).T
    rows = np.minimum(np.arange(first - 2 * low, last - 2 * low), len(tall) - 1)  # an odd last row is repeated
    tall = tall[rows[0]:rows[-1] + 1] if rows[-1] - rows[0] + 1 == len(rows) else tall[rows]
    return _between(tall, shape[1])


def _between(plane, columns=None):
    """Twice as many columns, each three quarters of its own and a quarter of the next one's value; the last is repeated
    up to `columns`."""
    near, far, wide = plane * np.float32(0.75), plane * np.float32(0.25), 2 * plane.shape[1]
    shape, turned = (len(plane), columns or wide), plane.flags.f_contiguous
    out = np.empty(shape[::-1], "f4").T if turned else np.empty(shape, "f4")
    np.add(near[:, 1:], far[:, :-1], out=out[:, 2:wide:2])
    np.add(near[:, :-1], far[:, 1:], out=out[:, 1:wide - 1:2])
    out[:, 0], out[:, wide - 1:] = plane[:, 0], plane[:, -1:]
    return out


def _fade(level, blown):
    """How much colour to keep: all of it up to 0.8 of white, none from 1.05 on and where a filter is saturated."""
    keep = np.clip((np.float32(1.05) - level) * np.float32(4), 0, 1)
    return keep * (1 - blown)


def _tame(shown, level):
    """Bring colours above white and below black into range (in place): towards grey, keeping hue and brightness."""
    np.minimum(level, 1, out=level)
    top, bottom = shown.max(0), shown.min(0)
    over = (top > 1) | (bottom < 0)
    if over.any():
        grey, top, bottom = np.maximum(level[over], 0), top[over], bottom[over]
        keep = (1 - grey) / np.maximum(np.maximum(top - grey, 1 - grey), 1e-6)
        keep = np.minimum(keep, grey / np.maximum(np.maximum(grey - bottom, grey), 1e-6))
        shown[:, over] = grey + (shown[:, over] - grey) * keep
    np.clip(shown, 0, 1, out=shown)
