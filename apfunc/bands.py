"""Rows of a plane into an array that is there already: fresh memory costs more than what is done to it."""

import sys

CUT = "the file is cut short; copy it again or leave it out"


def fill(rows, first, out):
    """Put the rows first … first + len(out) - 1 into `out`, float32 or uint8 (contiguous).

    `rows` is an array, or what apfunc.io.read_rows gives; plain files are read without a copy in between.  Raises
    ValueError where a file is cut short.
    """
    where = _file(rows)
    if where is None or not _plain(rows.hdu.header, out.dtype):
        out[:] = rows[first:first + len(out)]
        return
    with open(where["file"].name, "rb", buffering=0) as stream:
        stream.seek(where["datLoc"] + first * out[:1].nbytes)
        if stream.readinto(memoryview(out).cast("B")) != out.nbytes:
            raise ValueError(CUT)
    if out.dtype == "f4" and sys.byteorder == "little":
        out.byteswap(inplace=True)


def whole(rows):
    """All rows of a plane as an array of any number type: of a plain file mapped, so that only what is looked at is read.
    `rows` and the ValueError as in `fill`."""
    import numpy as np
    where, kinds = _file(rows), [np.dtype(">f4"), np.dtype("u1")]
    kinds = [kind for kind in kinds if where is not None and _plain(rows.hdu.header, kind)]
    try:
        return np.asarray(np.memmap(where["file"].name, kinds[0], "r", where["datLoc"], rows.shape) if kinds else rows[:])
    except ValueError:
        raise ValueError(CUT) from None


def _file(rows):
    """Where in its file an uncompressed plane lies; None of an array."""
    where = rows.hdu.fileinfo() if type(rows).__name__ == "Section" else None
    return None if where is None or where["file"] is None or where["file"].compression else where


def _plain(header, kind):
    """Whether the pixels of a file are of this kind as they lie there, but for the order of bytes."""
    return (header["BITPIX"] == {"f4": -32, "u1": 8}[kind.str[1:]] and header["NAXIS"] == 2
            and header.get("BSCALE", 1) == 1 and header.get("BZERO", 0) == 0)
