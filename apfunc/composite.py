"""Colour composites: images of one field through several filters as one picture.

    colour = mix @ (images - sky)         sky neutral, stars grey in the mean
    I      = mean of the colours, or the luminance
    shown  = SKY + (I + colour - mean) * scale * asinh(I / soft) / I

as Lupton et al. (2004, PASP 116, 133): one factor for the three colours keeps the hue.  Where the light is faint the
difference of a colour from the mean is smoothed, for the eye sees noise in colour worse than noise in brightness;
what is brighter than white goes to white, and so do the saturated cores of stars, whose colour nobody knows.  The
palette SHO is mixed a little, for H-alpha, which outshines the rest, would make it green; "SII,Ha,OIII" is not.
"""

import numpy as np

from apfunc import level, stretch
from apfunc.balance import balanced, narrow
from apfunc.crop import common
from apfunc.header import history, number, text
from apfunc.names import band
from apfunc.paint import render
from apfunc.palette import palette_for

STRETCHES = ("auto", "arcsinh", "linear")
HBETA = 0.2  # the blue light that comes with that of H-alpha
HUBBLE = np.array([[0.45, 0.55, 0], [0.25, 0.4, 0.35], [0, 0.1, 0.9]])  # of S, H, O: orange, gold, teal; grey stays grey


def composite(images, palette=None, stretch="auto", balance="stars", weights=None, ha=None, soft=None, white=None,
              strength=1.0, saturation=1.0, denoise=0.6, crop=True, catalog=None, flatten=None, coverage=()):
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
    ha       share of H-alpha in red for HaRGB, 0 to 1; default by the noise of both.  Stars keep their colour anyway.
    strength, saturation: 1 is the default; more shows more.
    denoise  the share, 0 to 1, of the noise in the brightness of sky and smooth nebula that is smoothed away.
    crop     to the largest rectangle that all images fill; False: the whole grid.
    coverage  WEIGHT planes of the images, or every n-th row of them: the crop leaves out what has little weight.
    flatten  degree of the surface that is taken off each sky (0: a constant); None: see apfunc.level.

    Row 0 is the row 0 of the images (the bottom of the sky); `apfunc.picture.encode` turns it for display.  The header
    is a copy of the first image's without what belongs to one filter, its WCS shifted with the crop; it has PALETTE,
    NOTE (what was missing), COLOR1… ("role filter factor"), BALANCE, NBALANCE (stars), STRETCH, SOFTEN, WHITE, HASHARE,
    CROPX0 and CROPY0 (columns and rows cut off at the left and the bottom).  Raises ValueError when shapes differ,
    nothing overlaps, or the palette says nothing.

    >>> rgb, header = composite({"R": red, "G": green, "B": blue})
    >>> open("m51.png", "wb").write(encode(rgb, header, "png"))
    """
    if stretch not in STRETCHES:
        raise ValueError(f"unknown stretch {stretch}; choose {', '.join(STRETCHES)}")
    images = _named(images)
    name, roles, note = palette_for(list(images), palette)
    used = list(dict.fromkeys(roles.values()))
    window = common([images[f][0] for f in used], crop, coverage)
    data = [images[f][0][window] for f in used]
    surfaces, noises = level.skies(data, flatten)
    if not np.isfinite(noises).all():
        raise ValueError("no sky to be seen in the common area; check the stacks")
    noises, coarse = np.array(noises), np.s_[::64]
    skies = [float(np.median(level.at(c, data[0].shape, coarse, coarse))) for c in surfaces]
    saturates = [number(images[f][1], "SATURATE") for f in used]
    step = max(1, int(np.sqrt(data[0].size / 4e5)))
    sample = [d[::step, ::step] - level.at(c, d.shape, np.s_[::step], np.s_[::step]) for d, c in zip(data, surfaces)]
    weight, how, count = balanced(data, sample, skies, noises, saturates, used, roles, balance, weights, catalog,
                                  images[used[0]][1], window)
    mix, light, ha = _mixture(name, used, roles, weight, noises, ha)
    full = [None if s is None else s - sky for s, sky in zip(saturates, skies)]
    noise = float(np.sqrt(((light * noises)**2).sum()))
    curve = _curve(stretch, sample, light, noise * (1 - 0.9 * denoise), soft, white, strength)
    rgb = render(data, surfaces, full, mix, light, noise, curve, saturation, denoise, narrow(roles))
    return rgb, _header(images, used, roles, window, name, note, stretch, weight, how, count, ha, curve)


def _named(images):
    if not isinstance(images, dict):
        images = {text(h, "FILTER") or f"image{i + 1}": (d, h) for i, (d, h) in enumerate(images)}
    if not images:
        raise ValueError("no images; a composite needs at least one")
    shapes = {np.shape(d) for d, _ in images.values()}
    if len(shapes) > 1:
        raise ValueError(f"the images are of different sizes ({', '.join(f'{s[1]}x{s[0]}' for s in sorted(shapes))}); "
                         "resample all to one grid")
    return {name: (np.asarray(d).astype("f4", copy=False), h) for name, (d, h) in images.items()}


def _mixture(palette, used, roles, weight, noises, ha):
    """The matrix (3, images) of the colours, the row (images) of the brightness, and the share of H-alpha used."""
    unit = dict(zip(used, np.diag(weight)))
    colour = {role: unit[f] for role, f in roles.items()}
    if "R" not in colour:
        return np.stack([colour["L"]] * 3), colour["L"], None
    share = 2 / 3 if band(roles.get("B", "")) == "g" else 1 / 2  # g reaches far into the green
    colour.setdefault("G", (1 - share) * colour["R"] + share * colour["B"])
    line = np.zeros(len(used))
    if "Ha" in colour:
        broad = "G" if band(roles.get("G", "")) == "r" else "R"  # the band that holds the line
        sigma = {role: np.sqrt(((colour[role] * noises)**2).sum()) for role in ("R", "Ha")}
        ha = float(np.clip(sigma["R"] / (sigma["R"] + sigma["Ha"]), 0.1, 0.6)) if ha is None else float(ha)
        line = ha * (colour["Ha"] - colour[broad])
    mix = np.stack([colour[c] for c in "RGB"])
    mix += np.array([1, 0, HBETA])[:, None] * line
    if palette == "SHO":
        mix = HUBBLE @ mix
    return mix, colour["L"] + (1 + HBETA) / 3 * line if "L" in colour else mix.mean(0), ha


def _curve(kind, sample, light, noise, soft, white, strength):
    """(soft, scale, white) of the stretch, from every few pixels of the brightness."""
    sample = sum(np.float32(w) * d for w, d in zip(light, sample) if w)
    if kind == "linear":
        white = white or float(np.nanquantile(sample, 0.998))
        return 1e6 * white, (1 - stretch.SKY) * 1e6, white
    if kind == "arcsinh" and soft is None:
        soft = 3 * noise
    return stretch.curve(sample, noise, soft, white, strength)


def _header(images, used, roles, window, name, note, kind, weight, how, count, ha, curve):
    header = images[used[0]][1].copy()
    for key in ("FILTER", "EXPTIME", "EXPOSURE", "NCOMBINE", "EGAIN", "RDNOISE", "SATURATE", "MAGZP", "MAGZPERR",
                "BUNIT", "FWHM", "SKYLEVEL"):
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
    header["CROPX0"] = (int(x0), "columns cropped on the left")
    header["CROPY0"] = (int(y0), "rows cropped at the bottom")
    history(header, "composite", palette=name, stretch=kind, balance=how)
    return header
