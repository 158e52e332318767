"""Commands that make one image of many: masters, bad-pixel map, grid, stack, line image, colour composite."""

from pathlib import Path

import click

from apfunc.command import IMAGES, command
from apfunc.driver import (complain, failure, image_of, output_of, read_table_of, record, rows_of, say, with_image,
                           write_if_changed)
from apfunc.options import choice, flag, given, number
from apfunc.paths import about, expand


@command(IMAGES, choice("kind", "bias", "dark", "flat", help="What the frames are (default: their IMAGETYP)."),
         choice("method", "clip", "median", "mean", help="Clipped mean (default), median or mean."), "sigma", "bias",
         "dark", "saturate",
         flag("all", "Combine every frame, also those that do not seem to belong."), "output")
def combine(images, bias, dark, all, output, **options):
    """Build a master bias, dark or flat; frames that do not belong are left out and listed."""
    from apfunc import io
    from apfunc.combine import combine
    sources = expand(images)
    output = output_of(output, sources)
    if "-" in sources:
        raise click.UsageError("combine reads its frames in bands, which a pipe cannot give; name the files")
    image, planes = combine(rows_of(sources), vet=not all,
                            **given(options | {"bias": image_of(bias), "dark": image_of(dark)}))
    io.write(output, image, planes)
    for key in image[1]["EXC*"]:
        say(f"left out: {image[1][key]}")


@command(IMAGES, "output")
def readnoise(images, output):
    """Measure gain [electron/adu] and read noise [electron] from biases and flats; a row a camera group."""
    from astropy.table import Table, vstack
    from apfunc import header, io
    from apfunc.ingest import describe
    from apfunc.readnoise import readnoise
    from apfunc.tables import write_table
    groups = {}
    for path in expand(images) if images else []:
        with about(path):
            rows, head = io.read_rows(path)
        kind = describe(head, rows.shape, path)["kind"]
        if kind in ("bias", "flat"):
            groups.setdefault(header.camera(head, rows.shape), {"bias": [], "flat": []})[kind].append((rows, head))
    tables = []
    for camera, frames in sorted(groups.items()):
        try:
            tables.append(readnoise(frames["bias"], frames["flat"]))
        except ValueError as error:
            complain(f"{camera}: {error}")
    if not tables:
        tables = [Table(names=("camera", "gain", "gain_err", "readnoise", "readnoise_err"), dtype=("U64", *["f8"] * 4))]
    write_table(output_of(output), vstack(tables, metadata_conflicts="silent"))


@command("bias", "dark", "flats",
         click.Option(["--user"], metavar="YAML",
                      help="Your own bad_columns, bad_rows, bad_rectangles (1-based, inclusive)."),
         "sigma", "gain", number("hot", "E/S", "Least dark current of a hot pixel."),
         number("dead", "X", "Flat below which a pixel is dead."), "output")
def badpix(bias, dark, flats, user, output, **options):
    """Make a bad-pixel map from masters: hot, dead and unstable pixels, bad columns and rows, your own list."""
    from apfunc import io
    from apfunc.badpix import badpix
    own = None
    if user:
        import yaml
        with about(user), open(user) as stream:
            own = yaml.safe_load(stream)
    masters = given({"bias": bias and master_of(bias), "dark": dark and master_of(dark), "user": own})
    io.write(output_of(output), badpix(flats=[master_of(path) for path in flats], **masters, **given(options)))


def master_of(path):
    """``((rows, header), planes)`` of a master, read when asked for."""
    import contextlib
    from apfunc import io
    with about(path):
        image, planes = io.read_rows(path), {}
        for name in ("UNCERT", "MASK"):
            with contextlib.suppress(KeyError):
                planes[name] = io.read_rows(path, name)[0]
    return image, planes


@command(IMAGES, "like", choice("area", "cover", "common", help="Cover all frames (default), or only what all share."),
         number("scale", "ARCSEC", "Pixel scale."),
         choice("orientation", "north", "reference", help="North up (default), or as the middle frame."),
         "output", "record")
def grid(images, like, output, record_failure, **options):
    """The common grid of a target: a north-up TAN over its navigated images, written as an image without pixels."""
    from astropy.io import fits
    from apfunc import io
    from apfunc.grid import grid
    headers = []
    for path in with_image(images):
        header, shape = io.read_header(path)
        header["NAXIS1"], header["NAXIS2"] = shape[1], shape[0]
        headers.append(header)
    output = output_of(output, images)
    try:
        found = grid(headers, **given(options | {"like": like and io.any_header(like)}))
    except ValueError as error:
        if not record_failure:
            raise
        return record(output, output, f"grid: {error}")
    header = fits.Header([card for card in found.cards if not card.keyword.startswith("NAXIS")])
    header["GRIDNAX1"] = (found["NAXIS1"], "columns of the grid")
    header["GRIDNAX2"] = (found["NAXIS2"], "rows of the grid")
    write_if_changed(output, (None, header))


@command(IMAGES, click.Option(["--accepted"], metavar="FILE", help="The list of `apfunc quality`: stack only these."),
         choice("reject", "auto", "clip", "winsor", "minmax", "none", help="Rejection of outliers."), "sigma",
         choice("scale", "auto", "header", "stars", "exposure", "none", help="What brings the frames to one scale."),
         number("sky", "N", "Degree of the surface that makes the skies alike (0: an offset).", int),
         number("seeing", "P", "Power of the seeing in the weights."),
         "output", "record")
def coadd(images, accepted, output, record_failure, **options):
    """Stack resampled images: scaled by common stars, sky matched, weighted, outliers rejected."""
    from apfunc import io
    from apfunc.coadd import coadd
    from apfunc.names import stem
    sources = asked = expand(images)
    output = output_of(output, sources)
    try:
        if accepted:
            names = set(Path(accepted).read_text().split()[1:])
            sources = [s for s in sources if stem(s) in names]
        sources = [s for s in sources if not failure(s)]
        if not sources:
            raise ValueError("no frame accepted; the quality table says why")
        image, weight = coadd(rows_of(sources), [w for w, _ in rows_of(sources, "WEIGHT")],
                              [m for m, _ in rows_of(sources, "MASK")], **given(options))
    except ValueError as error:
        if not record_failure:
            raise
        complain(f"{output}: {error}")
        return record(output, asked[0], f"coadd: {error}")
    io.write(output, image, {"WEIGHT": weight})


@command(click.Argument(["line"]), click.Argument(["cont"], metavar="CONTINUUM"),
         click.Option(["--colour"], metavar="FILE", help="A second broad band, for a colour term where that helps."),
         number("scale", "FACTOR", "Scale of the continuum by hand."), flag("as-is", "Do not match the PSFs."),
         "output", "record")
def continuum(line, cont, colour, as_is, output, record_failure, **options):
    """Subtract the scaled continuum from a narrow-band stack, PSFs matched; the factor and its error go in the header."""
    from apfunc import io
    from apfunc.continuum import continuum
    output = output_of(output, [line, cont, *filter(None, [colour])])
    try:
        narrow, broad = io.read(line), io.read(cont)
        if colour:
            from apfunc.colourterm import colourterm
            broad = colourterm(narrow, broad, io.read(colour))
        io.write(output, continuum(narrow, broad, match=not as_is, **given(options)))
    except ValueError as error:
        if not record_failure:
            raise
        complain(f"{output}: {error}")
        record(output, line, f"continuum: {error}")


def thin_weights(paths, step=8):
    """Every 8th row of the WEIGHT planes of those images that have one."""
    import contextlib
    import numpy as np
    from apfunc import bands, io
    found = []
    for path in paths:
        with contextlib.suppress(KeyError, ValueError):
            rows, _ = io.read_rows(path, "WEIGHT")
            some, place = np.empty((-(-rows.shape[0] // step), rows.shape[1]), "f4"), bands.place(rows, "f4")
            for k in range(len(some)):
                bands.fill(place, k * step, some[k:k + 1])
            found.append(some)
    return found


@command(IMAGES, click.Option(["--palette"], metavar="NAME",
                              help="HaRGB, LRGB, RGB, SHO, HOO, or three filters with commas; default: the best there is."),
         choice("stretch", "auto", "arcsinh", "linear", help="For faint light by itself (default), or by hand."),
         choice("balance", "stars", "signal", "none",
                help="What is white: the mean star (default), the brighter parts alike."),
         number("soft", "ADU", "Where arcsinh turns from linear to logarithmic."),
         number("white", "ADU", "What is shown white."),
         number("strength", "X", "More than 1 shows more of what is faint."),
         number("saturation", "X", "Of the colours."), number("ha", "X", "Share of H-alpha in the red of HaRGB."),
         number("denoise", "X", "Share of the noise that is smoothed away."),
         number("flatten", "N", "Degree of the surface taken off each sky (default: a plane, more where nothing but sky "
                "is seen; 0: none).", int), "catalog",
         click.Option(["-o", "--output"], multiple=True, metavar="OUT",
                      help="A .png, .jpg or .tif (16 bit); may be given several times."), "record")
def composite(images, output, catalog, flatten, record_failure, **options):
    """Make a colour picture of images of different filters on one grid."""
    from apfunc import io
    from apfunc.composite import composite
    from apfunc.picture import encode
    sources = expand(images)
    targets = [output_of(o, sources) for o in output]
    if not targets:
        raise click.UsageError("give -o OUT, a .png, .jpg or .tif")
    try:
        sources = with_image(sources)
        rgb, header = composite([io.read(s) for s in sources], flatten=flatten, coverage=thin_weights(sources),
                                **given(options | {"catalog": read_table_of(catalog)}))
    except ValueError as error:
        if not record_failure:
            raise
        complain(f"{targets[0]}: {error}")
        import numpy as np
        from astropy.io.fits import Header
        rgb, header = np.zeros((1, 1, 3), "u2"), Header({"REASON": str(error)})  # make has its target, the report its reason
    for target in targets:
        io.write_text(target, encode(rgb, header, Path(target).suffix.lstrip(".").lower() or "png"))
    if header.get("NOTE"):
        say(f"{targets[0]}: {header['NOTE']}")
