"""What the report needs, read from a night's folder: tables, headers, small pictures (an edge of `apfunc report`)."""

import contextlib
import io as memory
import os
from pathlib import Path

import numpy as np

from apfunc import raw
from apfunc.header import BADPIX_BITS, text

SMALL, MEDIUM, LARGE = 240, 900, 1400  # pixels of the longer side, about: lights and masters, stacks, composites


def gather(folder, previews=True):
    """The arguments of `report.report` as a dict, from the contracted names below `folder`, as far as they are there.

    With `previews`, a full-size JPEG of every stack and line image is written to ``folder/previews`` and linked.
    """
    folder = Path(folder)
    inventory, quality = _table(folder / "frames.ecsv"), _table(folder / "quality.csv")
    names = [str(row["name"]) for row in quality or []]
    if inventory is not None:
        names += [str(r["name"]) for r in inventory if r["kind"] == "light" and str(r["name"]) not in names]
    found = {"inventory": inventory, "quality": quality, "readnoise": _table(folder / "masters/readnoise.ecsv"),
             "night": folder.resolve().name}
    found["frames"] = {n: frame for n in names if (frame := _light(folder, n))}
    found["residuals"] = _residuals(folder, list(found["frames"]))
    found["pictures"] = _composites(folder) + [_stack(folder, path, kind, previews) for kind in ("continuum", "coadd")
                                               for path in sorted((folder / kind).glob("*.fits"))]
    masters = sorted((folder / "masters").glob("*.fits"))
    found["masters"] = [m for path in masters if not path.name.startswith("badpix") and (m := _master(folder, path))]
    found["badpix"] = [m for path in masters if path.name.startswith("badpix") and (m := _map(folder, path))]
    if inventory and "night" in inventory[0]:
        nights = {str(r["night"]) for r in inventory if r["kind"] == "light" and str(r["name"]) in names}
        nights = sorted(nights - {"", "None", "--"})
        found["night"] = ", ".join(nights) if 0 < len(nights) < 4 else found["night"]
    return found


def _table(path):
    from apfunc.tables import read_records
    return read_records(path) if path.exists() else None


def _read(path, size=None):
    """(data, header) of a product; data is None, and REASON in the header, where there is no image.

    For a thumbnail of `size` pixels only every n-th pixel is taken, several to each of its own; NaN stays NaN.
    """
    from apfunc.io import read_thin
    try:
        return read_thin(path, size and 3 * size)
    except ValueError as error:
        from astropy.io import fits
        header = fits.Header()
        with contextlib.suppress(OSError):
            header = fits.getheader(path)
        header["REASON"] = header.get("REASON") or str(error)[:60]
        return None, header


def _light(folder, name):
    for stage in ("navigated", "calibrated"):
        path = folder / stage / f"{name}.fits"
        if path.exists():
            data, header = _read(path, SMALL)
            if data is not None:
                return {"thumb": thumbnail((data, header), SMALL), "header": header, "href": f"{stage}/{name}.fits"}
    return None


def _residuals(folder, names, most=24):
    """Where stars of the lights (at most so many, spread over the night) lie off their places in the field catalogue.

    A dict of arrays: x, y [share of the frame, 0 to 1], east, north [arcsec]; None without any.
    """
    from apfunc.names import safe
    from apfunc.tables import read_columns
    fields, parts = {}, []
    for name in names[::-(-len(names) // most) or 1]:
        with contextlib.suppress(OSError, KeyError, ValueError, IndexError):
            stars, header = read_columns(folder / "navigated" / f"{name}.stars.fits")
            target = safe(text(header, "OBJECT") or "")
            if target not in fields:
                known, _ = read_columns(folder / "fields" / f"{target}.fits")
                fields[target] = known["ra"].astype("f8"), known["dec"].astype("f8")
            stars = stars[(stars["id"] >= 0) & (stars["flags"] == 0)]
            ra, dec = (v[stars["id"]] for v in fields[target])
            east = ((stars["ra"] - ra + 180) % 360 - 180) * np.cos(np.radians(dec)) * 3600
            parts.append(np.stack([stars["x"] / header["IMAGEW"], stars["y"] / header["IMAGEH"], east,
                                   (stars["dec"] - dec) * 3600]).astype("f8"))
    if not parts or not sum(p.shape[1] for p in parts):
        return None
    return dict(zip(("x", "y", "east", "north"), np.concatenate(parts, axis=1)))


def _composites(folder):
    """Every composite PNG, with its other formats beside it."""
    found = []
    for path in sorted((folder / "composite").glob("*.png")):
        files = [(p.suffix[1:].upper(), f"composite/{p.name}") for p in sorted(path.parent.glob(path.stem + ".*"))
                 if p.suffix in (".png", ".jpg", ".tif", ".fits") and p.stem == path.stem]
        try:
            thumb, said = _opened(path, LARGE)
        except (OSError, ValueError) as error:
            reason = str(error) if isinstance(error, ValueError) else "its file cannot be read"
            found.append({"kind": "composite", "name": path.stem, "reason": reason})
            continue
        found.append({"kind": "composite", "name": path.stem, "thumb": thumb, "full": f"composite/{path.name}",
                      "files": files, "said": said})
    return found


def _stack(folder, path, kind, previews):
    data, header = _read(path)
    picture = {"kind": kind, "name": path.stem, "header": header, "files": [("FITS", f"{kind}/{path.name}")]}
    if data is None:
        return picture | {"reason": text(header, "REASON")}
    from apfunc.picture import encode
    from apfunc.preview import preview
    shown = preview((data, header))
    full = f"previews/{kind}-{path.stem}.jpg"
    if previews:
        from apfunc.io import write_text
        os.makedirs(folder / "previews", exist_ok=True)
        write_text(folder / full, encode(shown, header, "jpg"), only_if_changed=True)
    return picture | {"thumb": shrunk(shown[::-1], MEDIUM), "full": full if previews else f"{kind}/{path.name}"}


def _master(folder, path):
    data, header = _read(path, SMALL)
    if data is None:
        return None
    some = data[::max(1, data.shape[0] // 500), ::max(1, data.shape[1] // 500)]
    some = some[np.isfinite(some)]
    middle, scatter = (raw.middle(some), raw.spread(some)) if some.size else (None, None)
    shown = (middle - 3.5 * scatter, middle + 3.5 * scatter) if some.size else None
    return {"name": path.stem, "header": header, "thumb": thumbnail((data, header), SMALL, shown),
            "href": f"masters/{path.name}", "median": middle, "std": scatter}


def _map(folder, path):
    """A bad-pixel map: its counts (a pixel of a bad column counts there only) and a picture of it, a colour a kind."""
    from apfunc.picture import encode
    data, header = _read(path)
    if data is None:
        return None
    kinds = np.asarray(data, np.uint8)
    at = np.flatnonzero(kinds != 0)
    bad = kinds.ravel()[at]
    column = bad & BADPIX_BITS["COLUMN"] > 0
    counts = {name: int(np.count_nonzero((bad & bit > 0) & ~(column & (name != "COLUMN")))) for name,
              bit in BADPIX_BITS.items()}
    step = max(1, -(-max(kinds.shape) // (2 * SMALL)))
    small = np.zeros([-(-n // step) for n in kinds.shape], np.uint8)
    np.bitwise_or.at(small, tuple(index // step for index in np.divmod(at, kinds.shape[1])), bad)
    colour = np.full((*small.shape, 3), (13, 16, 21), np.uint8)
    for name, rgb in (("HOT", (255, 190, 70)), ("UNSTABLE", (255, 120, 60)), ("DEAD", (90, 150, 255)),
                      ("USER", (200, 120, 255)), ("COLUMN", (255, 80, 90))):
        colour[small & BADPIX_BITS[name] > 0] = rgb
    return {"name": path.stem, "href": f"masters/{path.name}", "thumb": encode(colour), "counts": counts,
            "pixels": kinds.size, "bad": at.size}


# -------------------------------------------------------------------------------------------------------- pictures

def thumbnail(image, size, shown=None):
    """A JPEG (bytes) of an image (data, header), its longer side about `size` pixels; None when it has no values.
    `shown` is (black, white) of a linear scale; else the stretch of `preview`."""
    from apfunc.picture import encode
    from apfunc.preview import preview
    if not np.isfinite(image[0]).any():
        return None
    return encode(preview(image, size=size, stretch_to=shown), None, "jpg", 86)


def shrunk(picture, size):
    """A JPEG (bytes) of a picture (Pillow's, or an array with its top row first) in blocks of whole pixels, its longer
    side as near to `size` as these allow."""
    from PIL import Image
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture = picture.reduce(max(1, int(max(picture.size) / size + 0.5)))
    stream = memory.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _opened(path, size):
    """`shrunk` of a PNG, and the description in it; ValueError for the black dot that stands for no picture."""
    import re
    from html import unescape
    from PIL import Image
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as picture:
        if picture.size == (1, 1):
            raise ValueError("the stacks allow none (make's output says why)")
        said = re.search(r"<dc:description>.*?<rdf:li[^>]*>([^<]*)", str(picture.info.get("XML:com.adobe.xmp", "")))
        plain = picture if picture.mode in ("RGB", "L") else picture.convert("RGB")
        thumb = shrunk(_unpacked(path, picture) or plain, size)
        return thumb, unescape(said[1]) if said else ""


def _unpacked(path, picture):
    """The picture of a PNG from the 16 bits of the TIFF beside it, in a fifth of the time; None without a plain one."""
    from PIL import Image
    import tifffile
    with contextlib.suppress(OSError, ValueError, KeyError):
        pixels = tifffile.memmap(path.with_suffix(".tif"), mode="r")
        if pixels.dtype == "u2" and pixels.shape[1::-1] == picture.size:
            return Image.fromarray(pixels.astype("<u2", copy=False).view("u1")[..., 1::2])  # the upper bytes
    return None
