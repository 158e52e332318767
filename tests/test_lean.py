"""astropy.io.fits, imported without astropy.units, works, and whoever wants astropy.units gets it."""

import subprocess
import sys

import astropy
import pytest

from apfunc import lean

READ = """
import io, sys, types
import numpy as np
from apfunc import lean
fits = lean.fits()
stream = io.BytesIO()
fits.PrimaryHDU(np.ones((3, 4), "f4"), fits.Header({"EXPTIME": 60.0})).writeto(stream)
assert fits.open(io.BytesIO(stream.getvalue()))[0].data.sum() == 12
"""
SPARED = """
assert "astropy.units" not in sys.modules
held = {name for name, module in list(sys.modules.items()) if name.startswith("astropy") for value in vars(module).values()
        if value is types.SimpleNamespace or getattr(value, "__name__", "") == "astropy.units"}
assert held == {"astropy.utils.data"}, held
"""
LATER = """
from astropy import units
from astropy.table import Table
assert units.Quantity(3, "m").to("km").value == 0.003 and sys.modules["astropy.units"] is units
table = Table({"flux": [1.0, 2.0]})
table["flux"].unit = "adu"
stream = io.BytesIO()
table.write(stream, format="fits")
assert Table.read(io.BytesIO(stream.getvalue()), format="fits")["flux"].unit == units.adu
"""


def complaints(*parts):
    """What a new Python says of a program that asserts what it should find: nothing when all is well."""
    return subprocess.run([sys.executable, "-c", "".join(parts)], capture_output=True, text=True).stderr


def test_units_are_there_for_those_who_come_later():
    assert complaints(READ, LATER) == ""


@pytest.mark.skipif(not astropy.__version__.startswith(lean.KNOWN), reason="a version of astropy that is left alone")
def test_units_are_not_imported_and_the_stand_ins_are_where_they_do_no_harm():
    assert complaints(READ, SPARED, LATER) == ""


def test_units_that_are_there_stay():
    same = "assert sys.modules['astropy.units'] is before\n"
    assert complaints("import astropy.units as before\n", READ, same, LATER) == ""
