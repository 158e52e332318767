"""Commands over single images: calibrate to resample, stars, preview, arith."""

import click

from apfunc.command import IMAGES, command, step
from apfunc.driver import each, image_of, mask_of, named, output_of, records_of, rows_of
from apfunc.options import choice, flag, given, number
from apfunc.paths import about, expand, filled, pairs_of


@step("bias", "dark", "flat", "gain", "readnoise", "saturate", "table",
      number("temperature", "C", "Most that a dark may be off."),
      number("flatmin", "X", "Pixels with less flat than this are NaN."))
def calibrate(bias, dark, flat, table, **options):
    """Bias, dark and flat correction: (raw - bias - dark) / flat.  Saturated pixels go into the MASK."""
    from apfunc.calibrate import calibrate
    from apfunc.header import SATURATED
    masters = given({"bias": image_of(bias), "dark": image_of(dark), "flat": image_of(flat)})
    measured = records_of(table)

    def work(image, planes):
        row = row_of(image, measured)
        data, header = calibrate(image, **masters, **given(options | noise_of(image, row, options)))
        if table and "EGAIN" not in header:
            estimate_noise(data, header, row)
        saturated = (data >= header["SATURATE"]).view("u1") * SATURATED if "SATURATE" in header else 0
        return (data, header), planes | {"MASK": planes.get("MASK", 0) | saturated}
    return work


def row_of(image, measured):
    """The row of `apfunc readnoise`'s table for an image's camera, or an empty one."""
    from apfunc.header import camera
    return next((row for row in measured if row["camera"] == camera(image[1], image[0].shape)), {})


def noise_of(image, row, options):
    """Gain and read noise as measured, where neither option nor header has them."""
    from apfunc import header
    found = {}
    for name, value in (("gain", header.gain), ("readnoise", header.readnoise)):
        try:
            found[name] = value(image[1], options[name])
        except ValueError:
            measured = float(row.get(name) or "nan")
            found[name] = measured if measured == measured else None
    return found


def estimate_noise(data, header, row):
    """Put into the header the gain that the noise of the sky tells, for a camera that nobody has measured."""
    from apfunc.readnoise import from_sky
    known = float(row.get("readnoise_adu", 0))
    found = from_sky((data, header), known if known == known else 0.0)
    if found:
        header["EGAIN"] = (round(found[0], 5), "[electron/adu] estimated from the noise of the sky")
        header["RDNOISE"] = (round(found[1], 4), "[electron]" if found[1] else "[electron] unknown: within EGAIN")


@step("object", "filter", "latitude", "longitude", "elevation")
def metadata(**options):
    """Add airmass, altitude, moon, mid-exposure times and what the file's name says to the header."""
    from apfunc.metadata import metadata
    return lambda image, planes: (metadata(image, **given(options)), planes)


@step(click.Option(["--channel"], type=click.Choice(["R", "G", "B"]), required=True, help="The colour to take."),
      choice("method", "bilinear", "superpixel", help="Full resolution (default), or a pixel a cell."),
      click.Option(["--pattern"], metavar="RGGB", help="Bayer pattern; wins over BAYERPAT."), "badpix")
def debayer(channel, badpix, **options):
    """Take one colour out of a one-shot-colour frame."""
    from apfunc.debayer import debayer
    from apfunc.header import BAD
    bad = image_of(badpix)

    def work(image, planes):
        result = debayer(image, channel, badpix=bad, **given(options))
        mask = planes.get("MASK")
        if options["method"] == "superpixel" and mask is not None:
            rows, columns = result[0].shape
            mask = mask[:2 * rows, :2 * columns].reshape(rows, 2, columns, 2).max((1, 3))
        elif bad is not None:
            mask = mask_of(None, image, planes) | (bad[0] != 0) * BAD
        return result, planes | given({"MASK": mask})
    return work


@step("badpix", "mask")
def fixpix(badpix, mask):
    """Interpolate over bad pixels (and NaN); what is repaired is flagged, what cannot be stays NaN."""
    import numpy as np
    from apfunc.fixpix import fixpix, flag
    bad = image_of(badpix)

    def work(image, planes):
        here = np.zeros(image[0].shape, "u1") if bad is None else bad
        fixed = fixpix(image, here)
        return fixed, planes | {"MASK": flag(mask_of(mask, image, planes), here, fixed)}
    return work


@step("sigma", "gain", "readnoise", "fwhm", "saturate", "mask",
      number("sigfrac", "X", "Share of --sigma that a neighbour of a hit needs."),
      number("contrast", "X", "Least contrast with the fine structure of a star."),
      number("iterations", "N", "Passes.", int))
def cosmics(mask, **options):
    """Find and correct cosmic rays (L.A.Cosmic, van Dokkum 2001)."""
    from apfunc.cosmics import cosmics

    def work(image, planes):
        clean, found = cosmics(image, mask_of(mask, image, planes), **given(options))
        return clean, planes | {"MASK": found}
    return work


@step("mask", "box", choice("mode", "mesh", "polynomial", help="Mesh (default) or low-order polynomial."),
      number("order", "N", "Degree of the polynomial.", int),
      flag("keep-level", "Leave the mean level of the sky in."), flag("model", "Write the background itself."))
def background(mask, model, keep_level, **options):
    """Subtract the sky background: a mesh or a polynomial with the sources masked."""
    from apfunc.background import background, subtract

    def work(image, planes):
        found = mask_of(mask, image, planes)
        if model:
            return background(image, found, **given(options))[0], planes
        return subtract(image, found, keep_level, **given(options)), planes
    return work


@step("like", "flat", "mask",
      choice("kernel", "auto", "quadratic", "spline", "quintic", "lanczos3", "bilinear", "nearest", help="Interpolation."))
def resample(like, flat, mask, **options):
    """Resample onto the grid of --like; WEIGHT is the inverse variance [1/adu^2] of the sky there."""
    from apfunc import io
    from apfunc.resample import light_of, resample
    if like is None:
        raise click.UsageError("give the grid: --like FILE (an image, or what `apfunc grid` makes)")
    flat = light_of(flat and rows_of(expand([flat]))[0])
    with about(like):
        grid = io.any_header(like)

    def work(image, planes):
        image, weight, found = resample(image, grid, mask_of(mask, image, planes), flat=flat, **given(options))
        return image, {"WEIGHT": weight, "MASK": found}
    return work


@command(IMAGES, "sigma", "fwhm", "gain", "readnoise", "saturate", "mask", "box", "output", "update", "shared",
         "record",
         number("binning", "N", "Search the frame binned N x N: faster, and good enough to register frames.", int),
         click.Option(["--regions"], metavar="FILE", help="Also write a ds9 region file (or a template, as OUT)."),
         click.Option(["--psf"], metavar="FILE", help="Also write the modelled PSF (Moffat) as an image."),
         click.Option(["--epsf"], metavar="FILE", help="Also write the effective PSF (photutils) as an image."))
def stars(images, mask, output, update, shared, record_failure, regions, psf, epsf, **options):
    """Find stars and measure position, flux, FWHM, ellipticity; writes the star table."""
    from apfunc import io
    from apfunc.tables import write_table
    from apfunc.stars import region, stars

    def work(source, image, planes):
        table = stars(image, mask_of(mask, image, planes), **given(options))
        if epsf:
            from apfunc.epsf import epsf as build
            io.write(filled(epsf, source), build(image, table))
        return source, table

    def write(target, source, table):
        write_table(target, table)
        if regions:
            io.write_text(filled(regions, source), region(table))
        if psf:
            from astropy.io.fits import Header
            from apfunc.psf import psf_image
            io.write(filled(psf, source), (psf_image(table.meta), Header({"FWHM": table.meta.get("FWHM"),
                                                                          "BETA": table.meta.get("BETA")})))
    each(pairs_of(images, output, update, shared), named("stars", work), record_failure, write,
         lambda source: (source, *io.read_all(source)))


@command(IMAGES, number("size", "PIXELS", "Largest side; a larger image is binned.", int),
         number("strength", "X", "More than 1 shows more of what is faint."), "output")
def preview(images, output, **options):
    """Make a stretched PNG of any frame, to look at."""
    from apfunc import io
    from apfunc.picture import encode
    from apfunc.preview import preview
    each(pairs_of(images, output), named("preview", lambda image, planes: (preview(image, **given(options)),
                                                                           image[1])), write=lambda target, pixels,
                                                                           header:
         io.write_bytes(target, encode(pixels, header)))


@command(click.Argument(["operation"]), click.Argument(["a"], metavar="IMAGE"),
         click.Argument(["b"], metavar="[IMAGE|NUMBER]", required=False), "output")
def arith(operation, a, b, output):
    """Arithmetic on an image, or on an image and an image or a number: add sub mul div …"""
    from apfunc import io
    from apfunc.arith import arith
    second = None
    if b is not None:
        second = float(b) if is_number(b) else image_of(b)
    output = output_of(output, [x for x in (a, b) if x and x != "-"])
    with about(a):
        io.write(output, arith(operation, io.read(a), second))


def is_number(word):
    """True when a word is a number rather than a file's name."""
    try:
        float(word)
    except ValueError:
        return False
    return True
