"""Reading and writing: FITS images with their planes, tables, and safe file replacement.

An image is ``(data, header)``: a 2-D native float32 array and an ``astropy.io.fits.Header``.  On
disk it is the primary HDU; what belongs to it (MASK, WEIGHT, UNCERT) follows as image extensions.
"""

import contextlib
import gzip
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from apfunc import lean

# Keywords that describe a file's storage, not its image; astropy writes its own.
STORAGE = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "PCOUNT", "GCOUNT", "BZERO",
           "BSCALE", "EXTNAME", "EXTVER", "CHECKSUM", "DATASUM", "BLANK", "ZDITHER0", "DATAMIN", "DATAMAX")
STRIP = 64  # rows that are converted at a time
PLANES = {"MASK": "u1", "WEIGHT": "f4", "UNCERT": "f4"}


@contextlib.contextmanager
def opened(source, memmap=False):
    """The HDU list of a path or ``-`` (stdin); plain, gzipped or tile-compressed.

    Raises ValueError, without the file's name, when it is not FITS or is cut short.
    """
    with _open(source, memmap) as hdus:
        yield hdus


def _open(source, memmap):
    fits = lean.fits()
    from astropy.io.fits.verify import VerifyError
    if str(source) == "-":
        content = sys.stdin.buffer.read()
        source = io.BytesIO(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    elif os.path.getsize(source) == 0:
        raise ValueError("empty file; copy it again or leave it out")
    try:
        return fits.open(source, memmap=memmap, ignore_missing_simple=False, output_verify="silentfix")
    except (OSError, EOFError, VerifyError) as error:
        if getattr(error, "errno", None):
            raise
        raise ValueError("not a FITS file, or cut short in its header; copy it again or leave it out") from None


def _image_hdu(hdus):
    """The first HDU with a 2-D image (axes of length 1 do not count)."""
    for hdu in hdus:
        if hdu.is_image and sum(n > 1 for n in hdu.shape) == 2 and len(hdu.shape) >= 2:
            return hdu
    reason = hdus[0].header.get("REASON")
    shapes = [hdu.shape for hdu in hdus if hdu.is_image and hdu.shape]
    raise ValueError(reason or (f"no 2-D image in it (found {shapes[0]})" if shapes else "no image in it"))


def clean_header(hdu, source=None):
    """A copy of an HDU's header without storage keywords; RAWFILE is set from `source` if absent."""
    fits = lean.fits()
    header = fits.Header()
    for card in hdu.header.cards:
        with contextlib.suppress(Exception):  # one unreadable card must not cost the frame
            if card.keyword not in STORAGE and not card.keyword.startswith("NAXIS"):
                card.value
                header.append(card, end=True)
    if source is not None and str(source) != "-" and "RAWFILE" not in header:
        name = os.path.basename(os.path.realpath(source))
        header["RAWFILE"] = (name.encode("ascii", "backslashreplace").decode(), "file it was read from")
    return header


def _native(hdu, dtype):
    """The pixels of an image in the machine's numbers, a copy: its file is closed."""
    import numpy as np
    from apfunc import bands
    if not (hasattr(hdu, "section") and bands.quick(hdu.section)):
        return hdu.data.reshape([n for n in hdu.shape if n > 1]).astype(dtype)
    out, read, strip = np.empty(hdu.shape, dtype), bands.reader(hdu.section), np.empty(STRIP * hdu.shape[1], "i2")
    for row in range(0, len(out), STRIP):
        out[row:row + STRIP] = read(row, row + STRIP, strip)
    return out


def read(source):
    """The image ``(data, header)`` of a FITS file: 2-D native float32 and a header of its own.

    `source` is a path (``.fit .fits .fts``, gzipped or tile-compressed) or ``-`` for stdin.  Scaling
    (BZERO, BSCALE) is applied and its keywords are dropped.  RAWFILE is set to the file's name unless
    the header has it.  Raises ValueError when there is no 2-D image or the data are cut short.
    """
    image, _ = read_all(source, planes=())
    return image


def read_thin(source, size=None):
    """``(data, header)`` to look at: as `read`, but of the pixels every n-th of every n-th row, at least `size` along
    the longer side; without `size` all, as they lie in the file.  The header has its storage keywords yet.
    """
    import numpy as np
    from apfunc import cards
    with open(source, "rb") as stream:
        header, start = cards.header(stream), stream.tell()
    kind, image = {-32: ">f4", 8: "u1"}.get(header.get("BITPIX")), cards.image_of(header)
    if not image or not kind or header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0:
        pixels, header = read(source)
    elif os.path.getsize(source) < start + image[1]:
        raise ValueError("the file is cut short; copy it again or leave it out")
    else:
        pixels = np.asarray(np.memmap(source, kind, "r", start, image[0]))
    step = max(1, max(pixels.shape) // (size or max(pixels.shape)))
    return pixels[::step, ::step].astype("f4") if size else pixels, header


def read_all(source, planes=tuple(PLANES)):
    """``(image, planes)``: as `read`, and of the named planes those that are there, as a dict of 2-D arrays."""
    with opened(source, memmap=None) as hdus:  # mapped where the pixels need no scaling
        hdu = _image_hdu(hdus)
        try:
            data = _native(hdu, "f4")
            found = {h.name: _native(h, PLANES[h.name]) for h in hdus if h.name in planes
                     and h is not hdu} if planes else {}
        except (OSError, TypeError, ValueError, IndexError):
            raise ValueError("the file is cut short or damaged; copy it again or leave it out") from None
        return (data, clean_header(hdu, source)), found


def unread(source):
    """The image of a file without its pixels: the data are one NaN seen as an array of the right shape."""
    header, shape = read_header(source)
    return _no_pixels(shape), header


def _no_pixels(shape):
    import numpy as np
    return np.broadcast_to(np.float32(np.nan), shape)


def read_header(source):
    """The header of the first 2-D image, without storage keywords, and the image's shape."""
    with opened(source, memmap=str(source) != "-") as hdus:
        hdu = _image_hdu(hdus)
        return clean_header(hdu, source), tuple(n for n in hdu.shape if n > 1)


def any_header(source):
    """The header of a file's image, or of a file without pixels, such as the grid of `apfunc grid`.

    NAXIS1 and NAXIS2 of the image are kept in it, for a grid is a WCS and a size.
    """
    with opened(source) as hdus:
        if hdus[0].header.get("GRIDNAX1"):
            header = clean_header(hdus[0])
            header["NAXIS1"], header["NAXIS2"] = header["GRIDNAX1"], header["GRIDNAX2"]
            return header
        hdu = _image_hdu(hdus)
        header = clean_header(hdu)
        header["NAXIS2"], header["NAXIS1"] = [n for n in hdu.shape if n > 1]
        return header


def read_rows(source, plane=None):
    """``(rows, header)``: as `read`, but `rows[a:b]` reads only those rows, when asked for them.

    `rows` has `shape` and gives big-endian or integer arrays: callers convert each band.  A gzipped
    file cannot be read in part: it is read whole, once.  `plane` names an extension instead.
    The file stays open as long as `rows` is alive.
    """
    with open(source, "rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    hdus = _open(source, memmap=False)
    hdu = hdus[plane] if plane else _image_hdu(hdus)
    header = clean_header(hdu, source)
    return (hdu.data if zipped else hdu.section), header


@contextlib.contextmanager
def replacing(target):
    """A temporary path beside `target` that takes its place when the block ends well, else is removed."""
    target = Path(target)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def hdus_of(image, planes={}):
    """The HDU list of an image and its planes."""
    fits = lean.fits()
    data, header = image
    hdus = [fits.PrimaryHDU(data, header)]
    hdus += [fits.ImageHDU(planes[name].astype(PLANES[name], copy=False), name=name) for name in PLANES
             if planes.get(name) is not None]
    return fits.HDUList(hdus)


def write(target, image, planes=None):
    """Write an image and its planes (a dict, any of MASK, WEIGHT, UNCERT) to a path or ``-`` (stdout).

    A path gets its content at once or not at all.  The same input gives the same bytes.
    """
    hdus = hdus_of(image, planes or {})
    if str(target) == "-":
        pour(hdus, sys.stdout.buffer)
        return sys.stdout.buffer.flush()
    with replacing(target) as temporary, open(temporary, "wb") as out:
        pour(hdus, out)


def pour(hdus, out):
    """The bytes of ``hdus.writeto(out)``; the pixels become big-endian in strips that fit the processor's cache."""
    hdus.update_extend()
    for hdu in hdus:
        out.write(hdu.header.tostring().encode("ascii"))
        if hdu.data is not None:
            high = max(1, (1 << 19) // max(hdu.data[:1].nbytes, 1))
            for top in range(0, len(hdu.data), high):
                out.write(hdu.data[top:top + high].astype(hdu.data.dtype.newbyteorder(">"), order="C").data)
            out.write(bytes(-hdu.data.nbytes % 2880))


def write_like(target, source, header):
    """Write the image and the planes of the file `source` with another header: the bytes of ``write(target, (data, header),
    planes)``.  Where `source` was written by `write`, its pixels are copied unread.
    """
    with opened(source) as hdus:
        main, *planes = hdus
        plain = main.is_image and main.header["BITPIX"] == -32 and len(main.shape) == 2 and "BSCALE" not in main.header
        if str(target) == "-" or not plain or [h.name for h in planes] != [name for name in PLANES if name in hdus]:
            (data, _), found = read_all(source)
            return write(target, (data, header), found)
        new = hdus_of((_no_pixels(main.shape), header), {h.name: h.section[:1, :1] for h in planes})
        new.update_extend()
        head = new[0].header.tostring().encode("ascii")
        start = main.fileinfo()["datLoc"]
    with replacing(target) as temporary, open(temporary, "wb") as out, open(source, "rb") as stream:
        out.write(head)
        stream.seek(start)
        shutil.copyfileobj(stream, out, 1 << 20)


def write_bytes(target, content):
    """Write bytes to a path, at once or not at all, or to ``-`` (stdout)."""
    if str(target) == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_text(target, content)


def write_text(target, content, only_if_changed=False):
    """Write text or bytes; with `only_if_changed` a file that holds it already is left alone.

    Returns True when the file was written.
    """
    content = content.encode() if isinstance(content, str) else content
    if only_if_changed:
        with contextlib.suppress(OSError):
            if Path(target).read_bytes() == content:
                return False
    with replacing(target) as temporary:
        Path(temporary).write_bytes(content)
    return True
