"""Rows of a plane into an array that is there already: fresh memory costs more than what is done to it."""

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
    where, header = rows.hdu.fileinfo(), rows.hdu.header
    plain = (header["BITPIX"] == {"f4": -32, "u1": 8}[kind] and header["NAXIS"] == 2
             and header.get("BSCALE", 1) == 1 and header.get("BZERO", 0) == 0)
    if where["file"] is None or where["file"].compression or not plain:
        return rows
    return where["file"].name, where["datLoc"]


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
        out.byteswap(inplace=True)


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
