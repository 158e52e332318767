"""Compose stages as functions: stack the lights of one filter without make or files in between.

Usage: python examples/compose.py BADPIX BIAS DARK FLAT LIGHT LIGHT … (masters as `apfunc combine` makes them)
"""

import sys

from apfunc.astrometry import astrometry
from apfunc.calibrate import calibrate
from apfunc.catalog import around
from apfunc.coadd import coadd
from apfunc.cosmics import cosmics
from apfunc.field import field
from apfunc.fixpix import fixpix
from apfunc.grid import grid
from apfunc.io import read, write
from apfunc.resample import resample
from apfunc.stars import stars

badpix, bias, dark, flat, *lights = map(read, sys.argv[1:])
clean = [cosmics(fixpix(calibrate(light, bias=bias, dark=dark, flat=flat), badpix)) for light in lights]
tables = [stars(image, mask) for image, mask in clean]
sky = field(tables, around(tables))
solved = [astrometry(image, table, sky)[0] for (image, _), table in zip(clean, tables)]
common = grid(solved)
images, weights, masks = zip(*[resample(image, common, mask, flat=flat) for image, (_, mask) in zip(solved, clean)])
stack, weight = coadd(images, weights, masks)
write("stack.fits", stack, {"WEIGHT": weight})
