"""apfunc: from the raw FITS frames of a night to calibrated, solved, stacked and coloured images.

Every stage is a pure function over ``(data, header)`` pairs in the module of its name, for example
``from apfunc.calibrate import calibrate``; every stage is also a command, ``apfunc calibrate``; and
the Makefile runs a whole night of them.
"""

__version__ = "0.1.0"
