"""The headers of plain FITS files as dicts, in a tenth of the time and without the 0.2 s that astropy takes to start.

For commands that read many headers and little else (plan, report).  What is not in the fixed words of the standard
(Pence et al. 2010, A&A 524, A42) is left to astropy.
"""

import math
import os
import re

BLOCK, CARD, LONGEST = 2880, 80, 200  # bytes, bytes, blocks
REAL = r"[+-]?(?:\d+\.\d*|\.\d+|\d+(?=[ED]))(?:[ED][+-]?\d+)?"
VALUE = re.compile(rf" *(?:'((?:[^']|'')*)'|([TF])|([+-]?\d+)|({REAL}))? *(?:/.*)?")


def plain(path):
    """``(header, shape, bytes)`` of a file of one 2-D image: its keywords and their values (None: undefined), the
    image's shape, and how many bytes the file should have at least.  None of any other file: ask astropy.
    """
    with open(path, "rb") as stream:
        header, start = _values(_text(stream)), stream.tell()
    found = image_of(header)
    whole = start + found[1] if found else 0
    return (header, found[0], whole) if found and os.path.getsize(path) <= -(-whole // BLOCK) * BLOCK else None


def image_of(header):
    """The shape of the 2-D image that a header is of (axes of length 1 do not count), and its bytes; else None."""
    try:
        axes = [header[f"NAXIS{i}"] for i in range(header["NAXIS"], 0, -1)]
        size = abs(header["BITPIX"]) // 8 * math.prod(axes)
    except (TypeError, KeyError):
        return None
    shape = tuple(n for n in axes if n > 1)
    return (shape, size) if len(shape) == 2 and header.get("SIMPLE") is True else None


def header(stream):
    """The header that begins at the place of a stream, which is left where its data begin: a dict, or astropy's Header
    of one that is not plain.  Empty when there is none."""
    text = _text(stream)
    found = _values(text)
    if text and not found:
        from astropy.io import fits
        return fits.Header.fromstring(text)
    return found


def _text(stream):
    """The cards before END, as bytes; b"" when there are none, or END does not come."""
    text = b""
    while len(text) <= LONGEST * BLOCK and (more := stream.read(BLOCK)):
        text += more
        if text[:9] not in (b"SIMPLE  =", b"XTENSION="):
            break
        for at in range(len(text) - len(more), len(text), CARD):
            if text[at:at + CARD].rstrip() == b"END":
                return text[:at]
    return b""


def _values(text):
    """The keywords and values of the cards of a header; none of them when there is one that is not plain."""
    if not (text.isascii() and (text := text.decode()).isprintable()):
        return {}
    header = {}
    for at in range(0, len(text), CARD):
        word, value = text[at:at + 8].rstrip(), text[at + 8:at + CARD]
        if word == "CONTINUE":
            return {}
        if value[:2] != "= " or word in ("COMMENT", "HISTORY", ""):
            continue
        found = VALUE.fullmatch(value, 2)
        if not found or not re.fullmatch("[A-Z0-9_-]+", word):
            return {}
        string, logical, integer, real = found.groups()
        header.setdefault(word, string.rstrip().replace("''", "'") if string is not None else logical == "T" if logical
                          else int(integer) if integer else float(real.replace("D", "E")) if real else None)
    return header
