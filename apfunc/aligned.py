"""The frames of a stack: read band by band and brought to one scale and sky, into arrays that are there already.

A frame is ((place, header), place of the weights or None, place of the mask or None); see `apfunc.bands.place`.
"""

import numpy as np

from apfunc import bands, common
from apfunc import header as hdr

STRIP = 32  # rows that are read and scaled at a time
UNEVEN = 1.15  # ratio of the widest stars to the sharpest from which on a star must not lack a frame in some pixels
HARM = hdr.BAD | hdr.COSMIC | hdr.TRAIL | hdr.NODATA


def read(frame, first, data, weight, bits):
    """The rows of a frame from `first` on, into data and bits (with NODATA and SATURATED of the data), and into weight
    where both the frame and the caller have one."""
    (source, header), plane, mask = frame
    bands.fill(source, first, data)
    bits[:] = 0
    if mask is not None:
        bands.fill(mask, first, bits)
    if not np.isfinite(data @ np.ones(data.shape[1], "f4")).all() and not (known := np.isfinite(data)).all():
        bits |= np.uint8(hdr.NODATA) * ~known
    if mask is None and (saturate := hdr.number(header, "SATURATE")) is not None:
        bits |= np.uint8(hdr.SATURATED) * (data >= saturate)
    if plane is not None and weight is not None:
        bands.fill(plane, first, weight)


def sample(frame, at, columns):
    """(data, bits) of the rows `at` of a frame, read strip by strip."""
    data, bits = np.empty((len(at), columns), "f4"), np.empty((len(at), columns), "u1")
    ends = [0, *(np.flatnonzero(np.diff(at) != 1) + 1), len(at)]
    for a, b in zip(ends, ends[1:]):
        read(frame, at[a], data[a:b], None, bits[a:b])
    return data, bits


def load(frames, facts, space, held, first, last):
    """Rows first … last - 1 of all frames into `space`, four arrays (frames, rows, columns) that hold the rows `held`;
    gives (2, frames): sums of weight and numbers of trusted pixels of the rows that are read.

    facts: see apfunc.coadd.measure.
    """
    kept, sums = max(held[1] - first, 0), np.zeros((2, len(frames)))
    for plane in space if kept else ():
        plane[:, :kept] = plane[:, first - held[0]:held[1] - held[0]]
    for k, frame in enumerate(frames):
        for a in range(kept, last - first, STRIP):
            b = min(a + STRIP, last - first)
            sums[:, k] += scaled(frame, facts, k, first + a, *(plane[k, a:b] for plane in space))
    return sums


def scaled(frame, facts, k, first, value, weight, flags, good):
    """Rows of frame k, from `first` on, into value and weight in the stack's units, flags (its mask) and good (what is
    trusted); gives the sum of the trusted weights and their number.

    Pixels that are not trusted get the weight they have with its sign changed, those without a value 0 and weight 0.
    """
    square, columns = facts["noise"][k] ** 2, value.shape[1]
    read(frame, first, value, weight, flags)
    value *= np.float32(facts["scale"][k])
    value -= common.evaluate(facts["surface"][k], facts["mesh_y"], first, first + len(value), facts["across"])
    if frame[1] is None:
        weight[:] = 1 / square
    else:
        weight *= np.float32(1 / facts["scale"][k] ** 2)
    kinds = int(np.bitwise_or.reduce(flags, axis=None))
    if kinds & hdr.NODATA:
        none = (flags & np.uint8(hdr.NODATA)) != 0
        np.copyto(value, 0, where=none)
        np.copyto(weight, 0, where=none)
    if kinds & HARM & ~hdr.NODATA:
        y, x = np.divmod(np.flatnonzero((flags & np.uint8(HARM & ~hdr.NODATA)) != 0), columns)
        weight[y, x] *= -1
        if facts["fwhm"].max() > UNEVEN * facts["fwhm"].min():
            star = (value[y, x] > 3 * facts["noise"][k]) & (flags[y, x] & np.uint8(hdr.TRAIL | hdr.NODATA) == 0)
            weight[y[star], x[star]] = 1 / square
    np.greater(weight, 0, out=good)
    trusted = np.maximum(weight, 0) if kinds & HARM & ~hdr.NODATA else weight
    return (trusted @ np.ones(columns, "f4")).sum(dtype="f8"), np.count_nonzero(good)
