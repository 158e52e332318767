"""Reading and writing tables: FITS, ECSV and CSV."""

import contextlib
import csv
import io
import re
import sys
from pathlib import Path

from apfunc.io import write_text

# In a FITS table NAXIS1 and NAXIS2 are the table's own: those of the image, in a table's meta, go by these names.
IMAGE_SIZE = {"IMAGEW": "NAXIS1", "IMAGEH": "NAXIS2"}


def read_table(source):
    """An astropy Table from FITS, ECSV or CSV (by its first bytes and its name)."""
    from astropy.table import Table
    if str(source) != "-":
        with open(source, "rb") as stream:
            start = stream.read(6)
    else:
        source = io.BytesIO(sys.stdin.buffer.read())
        start = source.getvalue()[:6]
    format = "fits" if start == b"SIMPLE" else "ascii.ecsv" if start.startswith(b"# %ECS") else "ascii.csv"
    try:
        table = Table.read(source, format=format)
    except Exception as error:
        raise ValueError(f"not a table that can be read ({str(error).splitlines()[0]})") from None
    for fits_name, name in IMAGE_SIZE.items():
        if fits_name in table.meta:
            table.meta[name] = table.meta.pop(fits_name)
    return table


def read_columns(path):
    """``(columns, header)`` of a FITS table of plain numbers and strings, as `write_table` makes it: a structured array
    as it lies in the file.  For a process that reads many, in a fifth of astropy's time.  ValueError: no such table
    (columns that are scaled, or hold arrays), or it is cut short.
    """
    import numpy as np
    from apfunc import cards
    kinds = {"L": "i1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
    with open(path, "rb") as stream:
        _, header = cards.header(stream), cards.header(stream)
        try:
            forms = [(header[f"TTYPE{i}"], header[f"TFORM{i}"]) for i in range(1, header["TFIELDS"] + 1)]
            forms = [(name, f"S{form[:-1] or 1}" if form[-1] == "A" else kinds[form.removeprefix("1")])
                     for name, form in forms]
            rows = header["NAXIS2"]
        except KeyError as error:
            raise ValueError(f"not a table that can be read ({error})") from None
        if any(re.fullmatch(r"(TSCAL|TZERO|TNULL)\d+", key) for key in header):
            raise ValueError("not a table that can be read (its columns are scaled)")
        columns = np.fromfile(stream, forms, rows)
    if len(columns) < rows:
        raise ValueError("the file is cut short; copy it again or leave it out")
    return columns, header


def read_stars(path):
    """A star table as (structured array, meta), or the Table of one that is not a plain FITS file."""
    try:
        if str(path) == "-":
            return read_table(path)
        columns, header = read_columns(path)
    except ValueError:
        return read_table(path)
    return columns, {**header, **{name: header.get(fits_name) for fits_name, name in IMAGE_SIZE.items()}}


def read_records(source):
    """The rows of a table as dicts of plain values, None where there is none.

    ECSV and CSV are read as the text they are: a process that wants no more is spared the 0.4 s of astropy.table.
    """
    content = b"" if str(source) == "-" else Path(source).read_bytes()
    ecsv = content.startswith(b"# %ECSV") and b"\n# delimiter:" not in content
    if not ecsv and (not str(source).endswith(".csv") or content.startswith((b"#", b"SIMPLE"))):
        table = read_table(source)
        return [{k: None if str(row[k]) == "--" else row[k] for k in table.colnames} for row in table]
    lines = content.decode().splitlines()
    rows = list(csv.DictReader((line for line in lines if line and line[0] != "#"), delimiter=" " if ecsv else ","))
    if ecsv:
        kinds = dict(re.findall(r"# - \{name: (\S+),.*?datatype: (string|bool|int|float)", "\n".join(lines)))
        kinds = {name: {"string": str, "bool": "True".__eq__, "int": int, "float": float}[kind] for name, kind in kinds.items()}
    else:
        kinds = {name: _kind([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return [{name: kinds.get(name, str)(value) if value else None for name, value in row.items()} for row in rows]


def _kind(column):
    """What all the values of a column of text are: int, float or str; 0012 is a name, not a number."""
    if any(re.match(r"-?0\d", value) for value in column):
        return str
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            [kind(value) for value in column if value]
            return kind
    return str


def csv_text(rows, columns):
    """Dicts as the text of a CSV table with these columns, None as nothing: as `write_table` would write it."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_table(target, table, only_if_changed=False):
    """Write a Table; the name's ending says how (.ecsv, .csv, else FITS); ``-`` writes ECSV to stdout."""
    if str(target) == "-":
        table.write(sys.stdout, format="ascii.ecsv")
        return
    format = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}.get(Path(target).suffix, "fits")
    stream = io.BytesIO() if format == "fits" else io.StringIO()
    if format == "fits" and any(name in table.meta for name in IMAGE_SIZE.values()):
        table = table.copy(copy_data=False)
        for fits_name, name in IMAGE_SIZE.items():
            if name in table.meta:
                table.meta[fits_name] = table.meta.pop(name)
    table.write(stream, format=format)
    write_text(target, stream.getvalue(), only_if_changed)
