"""Rows of a plane, read from plain files into arrays that are there already: fresh memory costs more than what is done
to it."""

import os
import sys

import numpy as np

CUT = "the file is cut short; copy it again or leave it out"


def place(rows, kind):
    """What `fill` takes for `rows` (an array, what apfunc.io.read_rows gives, or None) whose values are to be of a
    kind, "f4" or "u1": (path, first byte) in a plain file that has them so, else `rows`.  Looked up once for all bands.
    """
    if type(rows).__name__ != "Section":
        return rows
    path, header = _file(rows), rows.hdu.header
    plain = (header["BITPIX"] == {"f4": -32, "u1": 8}[kind] and header["NAXIS"] == 2
             and header.get("BSCALE", 1) == 1 and header.get("BZERO", 0) == 0)
    return (path, rows.hdu.fileinfo()["datLoc"]) if path and plain else rows


def fill(rows, first, out):
    """Put the rows first … first + len(out) - 1 of a `place` into `out`, float32 or uint8 (contiguous), from a plain
    file without a copy in between.  Raises ValueError where it is cut short.
    """
    if not isinstance(rows, tuple):
        out[:] = rows[first:first + len(out)]
        return
    path, start = rows
    stream = os.open(path, os.O_RDONLY)
    try:
        if os.preadv(stream, [out], start + first * out[:1].nbytes) != out.nbytes:
            raise ValueError(CUT)
    finally:
        os.close(stream)
    if out.dtype == "f4" and sys.byteorder == "little":
        out[:] = out.view(">f4")  # several times as fast as byteswap


def quick(rows):
    """Whether `reader` reads these rows itself: whole numbers of 16 bits, shifted to uint16, in a plain file."""
    return _file(rows) is not None and rows.dtype == "u2" and len(rows.shape) == 2


def _file(rows):
    """The path of the plain file these rows lie in, or None."""
    file = rows.hdu.fileinfo()["file"] if type(rows).__name__ == "Section" else None
    return file.name if file is not None and not file.compression and os.path.isfile(file.name or "") else None


def reader(rows):
    """A function (a, b) -> rows a to b as an array; it raises ValueError where the file is cut short.

    What is `quick` is read here: astropy takes five times as long to shift it.  A third argument is a flat int16 array
    with the room for it, for fresh memory costs as much as the reading.
    """
    name, direct, columns = _file(rows), quick(rows), rows.shape[-1]
    if name is None:
        return lambda a, b, into=None: np.asarray(rows[a:b])
    start = rows.hdu.fileinfo()["datLoc"]
    whole_file = start + rows.hdu.size

    def fetch(a, b, into=None):
        if os.path.getsize(name) < whole_file:
            raise ValueError(CUT)
        if not direct:
            return np.asarray(rows[a:b])
        a, b, _ = slice(a, b).indices(rows.shape[0])
        size = (b - a) * columns
        values = np.empty(size, "i2") if into is None or into.size < size else into[:size]
        with open(name, "rb", buffering=0) as stream:
            stream.seek(start + 2 * a * columns)
            stream.readinto(memoryview(values).cast("B"))
        values[:] = values.view(">i2")
        values ^= np.int16(-32768)
        return values.view("u2").reshape(b - a, columns)
    return fetch


def whole(rows):
    """All rows of a plane (an array, or what apfunc.io.read_rows gives) as an array of any number type: of a plain file
    mapped, so that only what is looked at is read.  ValueError as in `fill`.
    """
    for kind, on_disk in (("f4", ">f4"), ("u1", "u1")):
        if isinstance(found := place(rows, kind), tuple):
            try:
                return np.asarray(np.memmap(found[0], on_disk, "r", found[1], rows.shape))
            except ValueError:
                raise ValueError(CUT) from None
    return np.asarray(rows[:])
