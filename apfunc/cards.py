"""The header of a plain FITS file as a dict, in a tenth of the time and without the 0.2 s that astropy takes to start.

For `apfunc plan`, which reads the headers of a thousand frames and nothing else.  What is not plainly one image
in the fixed words of the standard (Pence et al. 2010, A&A 524, A42) is left to astropy.
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
        text = stream.read(4 * BLOCK)
        while text[:9] == b"SIMPLE  =" and not (end := re.search(rb"END {77}", text)) and len(text) <= LONGEST * BLOCK:
            more = stream.read(4 * BLOCK)
            if not more:
                return None
            text += more
    if text[:9] != b"SIMPLE  =" or not end or end.start() % CARD:
        return None
    header = _values(text[:end.start()])
    start = -(-end.end() // BLOCK) * BLOCK
    size = os.path.getsize(path)
    try:
        axes = [header[f"NAXIS{i}"] for i in range(header["NAXIS"], 0, -1)]
        whole = start + abs(header["BITPIX"]) // 8 * math.prod(axes)
    except (TypeError, KeyError):
        return None
    shape = tuple(n for n in axes if n > 1)
    if len(shape) != 2 or header["SIMPLE"] is not True or size > -(-whole // BLOCK) * BLOCK:
        return None
    return header, shape, whole


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
