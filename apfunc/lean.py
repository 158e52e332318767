"""astropy.io.fits in two thirds of the time: a process for a target pays for its start again and again."""

import sys
import types

KNOWN = "8.0."  # versions of astropy whose sources say what is said below; all others are imported as they are


def fits():
    """astropy.io.fits.

    Of the 0.3 s that it takes to import, 0.1 s are for astropy.units, which astropy.utils.data imports for nothing but
    two names in annotations.  Unless somebody has them already, stand-ins serve there; whoever imports astropy.units
    later gets astropy.units.
    """
    if not {"astropy.io.fits", "astropy.units"} & set(sys.modules):
        import astropy
        if astropy.__version__.startswith(KNOWN):
            stand_in = types.ModuleType("astropy.units")
            stand_in.Quantity = stand_in.UnitBase = types.SimpleNamespace
            sys.modules["astropy.units"] = stand_in
            try:
                import astropy.io.fits
            finally:
                del sys.modules["astropy.units"]
    from astropy.io import fits
    return fits
