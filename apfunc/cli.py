"""The command line: each command resolves its options, calls one pure function, and writes what comes back.

Commands over images are made by `@step`: from its options each makes a step, ``(image, planes) -> (image,
planes)``, which `driver.each` applies to the images, or which `run` composes with others.
"""

import contextlib
import os
import sys
from pathlib import Path

import click

from apfunc import __version__
from apfunc.driver import (about, complain, each, expand, failure, image_of, make_folder, mask_of, named, output_of, pairs_of, planes_of,
                           read_table_of, record, rows_of, say, with_image, write_if_changed)
from apfunc.options import OPTIONS, choice, flag, given, number

IMAGES = click.Argument(["images"], nargs=-1)
STEPS = {}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-v", "--verbose", count=True, help="Say more; -vv shows tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")
@click.version_option(__version__)
def cli(verbose, quiet):
    """From the raw FITS frames of a night to calibrated, solved, stacked and coloured images.

    IMAGES are paths, quoted globs, or - (standard input).  Results go to -o, or to standard output.
    """
    if verbose < 2:
        import warnings
        warnings.simplefilter("ignore")


def main():
    """The entry point: runs a command and ends cleanly on a broken pipe, Ctrl-C or a full disk."""
    try:
        code = cli(prog_name="apfunc", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
        else:
            complain(error.format_message())
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if "-vv" in sys.argv:
            raise
        expected = isinstance(error, (OSError, ValueError))
        complain(str(error) if expected else f"{type(error).__name__}: {error} (a mistake in apfunc: -vv shows where)")
        sys.exit(1)


def command(*options, **attributes):
    """A decorator: the function is a command with these options (names of the registry, or options)."""
    def decorate(function):
        params = [OPTIONS[o] if isinstance(o, str) else o for o in options]
        cli.add_command(click.Command(function.__name__.rstrip("_"), params=params, callback=function,
                                      help=function.__doc__, **attributes))
        return function
    return decorate


def step(*options):
    """A decorator: the function makes a step from these options, and a command that applies it to IMAGES."""
    def decorate(function):
        name = function.__name__
        params = [OPTIONS[o] if isinstance(o, str) else o for o in options]
        STEPS[name] = click.Command(name, params=params, callback=function, help=function.__doc__)

        def run_step(images, output, record_failure, **values):
            pairs = pairs_of(images, output)
            each(pairs, named(name, function(**values)), record_failure)

        cli.add_command(click.Command(name, params=[IMAGES, *params, OPTIONS["output"], OPTIONS["record"]],
                                      callback=run_step, help=function.__doc__))
        return function
    return decorate


# ------------------------------------------------------------------------------------ steps over images

@step("bias", "dark", "flat", "gain", "readnoise", "saturate", "table")
def calibrate(bias, dark, flat, table, **options):
    """Bias, dark and flat correction: (raw - bias - dark) / flat.  Saturated pixels go into the MASK."""
    from apfunc.calibrate import calibrate
    from apfunc.header import SATURATED
    masters = given({"bias": image_of(bias), "dark": image_of(dark), "flat": image_of(flat)})
    measured = read_table_of(table)

    def work(image, planes):
        data, header = calibrate(image, **masters, **given(options | noise_of(image, measured, options)))
        saturated = (data >= header["SATURATE"]) * SATURATED if "SATURATE" in header else 0
        return (data, header), planes | {"MASK": planes.get("MASK", 0) | saturated}
    return work


def noise_of(image, measured, options):
    """Gain and read noise from the measured table, where neither option nor header has them."""
    from apfunc import header
    data, head = image
    rows = [] if measured is None else [r for r in measured if r["camera"] == header.camera(head, data.shape)]
    found = {}
    for name, value in (("gain", header.gain), ("readnoise", header.readnoise)):
        try:
            found[name] = value(head, options[name])
        except ValueError:
            found[name] = float(rows[0][name]) if rows and rows[0][name] == rows[0][name] else None
    return found


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


@step("sigma", "gain", "readnoise", "fwhm", "saturate", "mask")
def cosmics(mask, **options):
    """Find and correct cosmic rays (L.A.Cosmic, van Dokkum 2001)."""
    from apfunc.cosmics import cosmics

    def work(image, planes):
        clean, found = cosmics(image, mask_of(mask, image, planes), **given(options))
        return clean, planes | {"MASK": found}
    return work


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx, words):
    """Several steps on each image in one process, equal to the shell pipe bit by bit:

    \b
    apfunc run IMAGES... -o OUT : STEP [OPTIONS] : STEP [OPTIONS] ...
    apfunc run raw.fit -o clean.fits : calibrate --dark d.fits : fixpix --badpix b.fits : cosmics
    """
    parts = [[]]
    for word in words:
        parts.append([]) if word == ":" else parts[-1].append(word)
    first = click.Command("run", params=[IMAGES, OPTIONS["output"], OPTIONS["record"]], help=run.help, callback=lambda **v: v)
    values = first.invoke(first.make_context("run", parts[0], parent=ctx.parent))
    if len(parts) == 1:
        raise click.UsageError("no steps; for example: apfunc run raw.fit -o out.fits : calibrate --dark d.fits : cosmics")
    pairs = pairs_of(values["images"], values["output"])
    steps = []
    for part in parts[1:]:
        if not part or part[0] not in STEPS:
            raise click.UsageError(f"no step {' '.join(part[:1]) or '(empty)'}; the steps are {', '.join(STEPS)}")
        one = STEPS[part[0]]
        steps.append(named(part[0], one.invoke(one.make_context(part[0], part[1:], parent=ctx.parent))))

    def work(image, planes):
        for one in steps:
            image, planes = one(image, planes)
        return image, planes
    each(pairs, work, values["record_failure"])


@step("mask", "box", choice("mode", "mesh", "polynomial", help="Mesh (default) or low-order polynomial."), flag("model", "Write the background itself."))
def background(mask, model, **options):
    """Subtract the sky background: a mesh or a polynomial with the sources masked."""
    from apfunc.background import background, subtract

    def work(image, planes):
        found = mask_of(mask, image, planes)
        if model:
            return background(image, found, **given(options))[0], planes
        return subtract(image, found, **given(options)), planes
    return work


@step("like", "flat", "mask", choice("kernel", "spline", "lanczos3", "bilinear", "nearest", help="Interpolation."))
def resample(like, flat, mask, **options):
    """Resample onto the grid of --like; WEIGHT is the inverse variance [1/adu^2] of the sky there."""
    from apfunc import io
    from apfunc.resample import resample
    if like is None:
        raise click.UsageError("give the grid: --like FILE (an image, or what `apfunc grid` makes)")
    flat = image_of(flat)

    def work(image, planes):
        image, weight, found = resample(image, io.any_header(like), mask_of(mask, image, planes), flat=flat, **given(options))
        return image, {"WEIGHT": weight, "MASK": found}
    return work


@command(IMAGES, choice("kind", "bias", "dark", "flat", help="What the frames are (default: their IMAGETYP)."),
         choice("method", "clip", "median", "mean", help="Clipped mean (default), median or mean."), "sigma", "bias", "dark", "output")
def combine(images, bias, dark, output, **options):
    """Build a master bias, dark or flat; frames that do not belong are left out and listed."""
    from apfunc import io
    from apfunc.combine import combine
    sources = expand(images)
    output = output_of(output, sources)
    if "-" in sources:
        raise click.UsageError("combine reads its frames in bands, which a pipe cannot give; name the files")
    image, planes = combine(rows_of(sources), **given(options | {"bias": image_of(bias), "dark": image_of(dark)}))
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
    io.write_table(output_of(output), vstack(tables, metadata_conflicts="silent"))


@command("bias", "dark", "flats", click.Option(["--user"], metavar="YAML", help="Your own bad_columns, bad_rows, bad_rectangles (1-based, inclusive)."), "output")
def badpix(bias, dark, flats, user, output):
    """Make a bad-pixel map from masters: hot, dead and unstable pixels, bad columns and rows, your own list."""
    from apfunc import io
    from apfunc.badpix import badpix
    own = None
    if user:
        import yaml
        with about(user), open(user) as stream:
            own = yaml.safe_load(stream)
    masters = given({"bias": bias and planes_of(bias), "dark": dark and planes_of(dark), "user": own})
    io.write(output_of(output), badpix(flats=[planes_of(f) for f in flats], **masters))


@command(IMAGES, "sigma", "fwhm", "gain", "readnoise", "saturate", "mask", "output", "record",
         click.Option(["--regions"], metavar="FILE", help="Also write a ds9 region file."))
def stars(images, mask, output, record_failure, regions, **options):
    """Find stars and measure position, flux, FWHM, ellipticity; writes the star table."""
    from apfunc import io
    from apfunc.stars import region, stars

    def work(image, planes):
        return stars(image, mask_of(mask, image, planes), **given(options)),

    def write(target, table):
        io.write_table(target, table)
        if regions:
            io.write_text(regions, region(table))
    each(pairs_of(images, output), work, record_failure, write)


SKY = ("catalog", click.Option(["--cache"], metavar="FOLDER", help="Folder of Gaia DR3 queries, read when they are there."),
       flag("network", "Ask Gaia DR3 for what the cache lacks, in bounded time."))


def sky_around(tables, catalog, cache, network):
    """The star catalogues around some star tables, first choice first."""
    from apfunc.catalog import around
    with about(catalog or cache or "catalogue"):
        return around(tables, catalog, cache=cache, network=network)


@command(IMAGES, *SKY, "output", "record")
def field(images, catalog, cache, network, output, record_failure):
    """Build the field catalogue of a target from the star tables of its frames, tied to the sky."""
    from apfunc import io
    from apfunc.field import field
    output = output_of(output, images)
    tables = [io.read_table(p) for p in with_image(images)]
    try:
        found = field(tables, sky_around(tables, catalog, cache, network))
    except ValueError as error:
        if not record_failure:
            raise
        complain(f"{output}: {error}")
        return record(output, output, f"field: {error}")
    io.write_table(output, found, only_if_changed=True)


@command(IMAGES, click.Option(["--stars"], metavar="FILE", help="The frame's star table (default: measured now)."),
         click.Option(["--field"], metavar="FILE", help="The target's field catalogue (default: made from this frame alone)."), *SKY, "output",
         click.Option(["--stars-out"], metavar="FILE", help="Also write the star table with ra and dec."), "record")
def astrometry(images, stars, field, catalog, cache, network, output, stars_out, record_failure):
    """Solve a frame: a celestial WCS (TAN or TAN-SIP), zero point and flux scale in the header."""
    from apfunc import io
    from apfunc.astrometry import astrometry

    def work(image, planes):
        table = read_table_of(stars)
        if table is None:
            from apfunc.stars import stars as measure
            table = measure(image, mask_of(None, image, planes))
        known = read_table_of(field)
        if known is None:
            from apfunc.field import field as build
            known = build([table], sky_around([table], catalog, cache, network))
        image, table = astrometry(image, table, known)
        return image, planes, table

    def write(target, image, planes, table):
        if stars_out:
            make_folder(stars_out)
            io.write_table(stars_out, table)
        io.write(target, image, planes)
    each(pairs_of(images, output), named("astrometry", work), record_failure, write)


@command(IMAGES, "inventory", "keep", "drop", number("min-transparency", "T", "Least transparency, the group's best being 1."),
         number("max-ellipticity", "E", "Largest ellipticity of the stars."), number("max-fwhm", "ARCSEC", "Largest FWHM."),
         number("max-sky", "ADU/S", "Brightest sky."), number("min-stars", "N", "Fewest stars.", int), number("max-rms", "ARCSEC", "Largest residual of the solution."),
         "output", click.Option(["--accepted"], metavar="FOLDER", help="Write a list of accepted frames for each stack."))
def quality(images, inventory, keep, drop, output, accepted, **limits):
    """Judge each light from its navigated image (and star table beside it): a row and a verdict each."""
    from apfunc import io
    from apfunc.quality import quality, quality_row
    rows = []
    for path in expand(images):
        rows.append(row_of(path, quality_row))
    for frame in read_table_of(inventory) if inventory else []:
        if frame["used"] and frame["kind"] == "unreadable" and frame["name"] not in {r["name"] for r in rows}:
            rows.append({k: str(frame[k]) for k in ("name", "object", "filter", "reason")})
    table = quality(rows, keep=keep.split(), drop=drop.split(), **given(limits))
    io.write_table(output_of(output), table, only_if_changed=True)
    if accepted:
        for stack, names in stacks_of(table, read_table_of(inventory)).items():
            Path(accepted).mkdir(parents=True, exist_ok=True)
            io.write_text(Path(accepted, f"{stack}.csv"), "".join(f"{n}\n" for n in ["name", *names]), only_if_changed=True)


def row_of(path, quality_row):
    """The measurements of one light, or the reason why there are none."""
    from astropy.io import fits
    from apfunc import io
    from apfunc.names import stem
    header = fits.getheader(path)
    if header.get("REASON"):
        return {"name": stem(path), "object": header.get("OBJECT", ""), "filter": header.get("FILTER", ""), "reason": header["REASON"]}
    return quality_row(header, io.read_table(Path(path).with_suffix(".stars.fits"))) | {"name": stem(path)}


def stacks_of(table, inventory):
    """The accepted frames' names by stack (OBJECT-FILTER); a stack with none has an empty list."""
    from apfunc.names import safe
    known = {} if inventory is None else {r["name"]: (r["target"], r["filter"]) for r in inventory}
    stacks = {}
    for row in table:
        target, filter = known.get(row["name"], (row["object"], row["filter"]))
        names = stacks.setdefault(f"{safe(target or 'unnamed')}-{safe(filter or 'none')}", [])
        if row["verdict"] == "accept":
            names.append(row["name"])
    return stacks


@command(IMAGES, "like", choice("area", "cover", "common", help="Cover all frames (default), or only what all share."),
         number("scale", "ARCSEC", "Pixel scale."), "output", "record")
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
         choice("reject", "auto", "clip", "winsor", "minmax", "none", help="Rejection of outliers."), "sigma", "output", "record")
def coadd(images, accepted, output, record_failure, **options):
    """Stack resampled images: scaled by common stars, sky matched, weighted, outliers rejected."""
    from apfunc import io
    from apfunc.coadd import coadd
    from apfunc.names import stem
    sources = expand(images)
    output = output_of(output, sources)
    try:
        if accepted:
            names = set(Path(accepted).read_text().split()[1:])
            sources = [s for s in sources if stem(s) in names]
        sources = [s for s in sources if not failure(s)]
        if not sources:
            raise ValueError("no frame accepted; the quality table says why")
        image, weight = coadd(rows_of(sources), [w for w, _ in rows_of(sources, "WEIGHT")], [m for m, _ in rows_of(sources, "MASK")], **given(options))
    except ValueError as error:
        if not record_failure:
            raise
        complain(f"{output}: {error}")
        return record(output, images[0] if images else output, f"coadd: {error}")
    io.write(output, image, {"WEIGHT": weight})


@command(click.Argument(["line"]), click.Argument(["cont"], metavar="CONTINUUM"), number("scale", "FACTOR", "Scale of the continuum by hand."), "output", "record")
def continuum(line, cont, output, record_failure, **options):
    """Subtract the scaled continuum from a narrow-band stack, PSFs matched; the factor and its error go in the header."""
    from apfunc import io
    from apfunc.continuum import continuum
    output = output_of(output, [line, cont])
    try:
        io.write(output, continuum(io.read(line), io.read(cont), **given(options)))
    except ValueError as error:
        if not record_failure:
            raise
        complain(f"{output}: {error}")
        record(output, line, f"continuum: {error}")


@command(IMAGES, click.Option(["--palette"], metavar="NAME", help="HaRGB, LRGB, RGB, SHO, HOO, or three filters with commas; default: the best there is."),
         choice("stretch", "auto", "arcsinh", "linear", help="For faint light by itself (default), or by hand."),
         choice("balance", "stars", "signal", "none", help="What is white: the mean star (default), the brighter parts alike."),
         number("soft", "ADU", "Where arcsinh turns from linear to logarithmic."), number("white", "ADU", "What is shown white."),
         number("strength", "X", "More than 1 shows more of what is faint."), number("saturation", "X", "Of the colours."), "catalog",
         click.Option(["-o", "--output"], multiple=True, metavar="OUT", help="A .png, .jpg or .tif (16 bit); may be given several times."), "record")
def composite(images, output, catalog, record_failure, **options):
    """Make a colour picture of images of different filters on one grid."""
    from apfunc import io
    from apfunc.composite import composite
    from apfunc.picture import encode
    sources = expand(images)
    targets = [output_of(o, sources) for o in output]
    if not targets:
        raise click.UsageError("give -o OUT, a .png, .jpg or .tif")
    try:
        rgb, header = composite([io.read(s) for s in with_image(sources)], **given(options | {"catalog": read_table_of(catalog)}))
    except ValueError as error:
        if not record_failure:
            raise
        complain(f"{targets[0]}: {error}")
        import numpy as np
        from astropy.io.fits import Header
        rgb, header = np.zeros((1, 1, 3), "u2"), Header({"REASON": str(error)})  # a black dot: make has its target, the report its reason
    for target in targets:
        io.write_text(target, encode(rgb, header, Path(target).suffix.lstrip(".").lower() or "png"))
    if header.get("NOTE"):
        say(f"{targets[0]}: {header['NOTE']}")


@command(IMAGES, number("size", "PIXELS", "Largest side; a larger image is binned.", int), number("strength", "X", "More than 1 shows more of what is faint."), "output")
def preview(images, output, **options):
    """Make a stretched PNG of any frame, to look at."""
    from apfunc import io
    from apfunc.picture import encode
    from apfunc.preview import preview
    each(pairs_of(images, output), named("preview", lambda image, planes: (preview(image, **given(options)), image[1])), write=lambda target, pixels, header:
         io.write_bytes(target, encode(pixels, header)))


@command(click.Argument(["operation"]), click.Argument(["a"], metavar="IMAGE"), click.Argument(["b"], metavar="[IMAGE|NUMBER]", required=False), "output")
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


# ------------------------------------------------------------------------------------------- the night

@command(click.Argument(["folders"], nargs=-1, required=True), click.Option(["--night"], required=True, metavar="DATE", help="Local noon-to-noon night, "
         "for example 2024-05-01."), click.Option(["--cal"], multiple=True, metavar="FOLDER", help="More calibration frames or a library of masters."),
         click.Option(["-o", "--output"], required=True, metavar="FOLDER", help="Where the night's products go."))
def plan(folders, night, cal, output):
    """Read every header once; write the inventory frames.ecsv and make's prerequisites night.mk."""
    import json
    from apfunc import ingest
    for folder in (*folders, *cal):
        if not os.path.isdir(folder):
            raise click.UsageError(f"{folder}: no such folder; give the folder of the raw frames")
    files, ignored = ingest.find([*folders, *cal])
    out, cache_file = Path(output), Path(output, ".plan.json")
    state = json.loads(json.dumps([__version__, ingest.VERSION, night, files]))
    known = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache_file.read_text())
    if known.get("state") == state and (out / "night.mk").exists() and (out / "frames.ecsv").exists():
        return
    cache = known.get("records", {}) if known.get("state", [0, 0])[:2] == state[:2] else {}
    from apfunc import io
    from apfunc import plan as planning
    out.mkdir(parents=True, exist_ok=True)
    records = ingest.ingest(files, out / "raw", cache)
    frames, groups = planning.plan(records, night)
    for frame in frames:
        if not os.path.lexists(link := out / "raw" / f"{frame['name']}.fits"):  # a colour of a one-shot-colour frame
            os.symlink(f"{Path(frame['name']).stem}.fits", link)
    (out / "lists").mkdir(exist_ok=True)
    for name, group in groups.items():
        io.write_text(out / "lists" / f"{name}.txt", "".join(f"{f['name']}\n" for f in group["frames"]), only_if_changed=True)
    io.write_text(out / "lists" / "readnoise.txt", "".join(f"{n}\n" for n in sorted(groups)), only_if_changed=True)
    inventory(out / "frames.ecsv", frames)
    io.write_text(out / "night.mk", planning.night_mk(frames, groups), only_if_changed=True)
    io.write_text(cache_file, json.dumps({"state": state, "records": cache}))
    lights = [f for f in frames if f["used"] and f["kind"] == "light"]
    say(f"plan: {len(lights)} lights of {len({f['target'] for f in lights})} targets, {len(groups)} masters to make or use"
        + (f"; {ignored} files ignored (not FITS)" if ignored else ""))
    for frame in frames:
        if frame["kind"] in ("unreadable", "unknown"):
            complain(f"{frame['raw']}: {frame['reason']}")


INVENTORY = "name raw kind object target filter exptime temp binning camera night date_obs state used origin masters reason".split()


def inventory(path, frames):
    """Write the inventory, a row a frame, only if it changed."""
    import io as memory
    import numpy as np
    from astropy.table import Column, MaskedColumn, Table
    from apfunc import io
    units = {"exptime": "s", "temp": "deg_C"}
    table = Table()
    for key in INVENTORY:
        values = [f[key] for f in frames]
        if key in units:
            table[key] = MaskedColumn(np.array([v if v is not None else 0 for v in values], float), mask=[v is None for v in values], unit=units[key])
        elif key == "used":
            table[key] = Column(np.array(values, bool))
        else:
            table[key] = Column(np.array([str(v or "") for v in values], dtype=str))
    stream = memory.StringIO()
    table.write(stream, format="ascii.ecsv")
    io.write_text(path, stream.getvalue(), only_if_changed=True)


@command(click.Argument(["folder"]), "output")
def report(folder, output):
    """Write the night's report: one self-contained HTML page, and warnings.txt with what a person should know."""
    from apfunc import io
    from apfunc.gather import gather
    from apfunc.report import report, warnings
    if not os.path.isdir(folder):
        raise click.UsageError(f"{folder}: no such folder; give the folder of a night's products")
    found = gather(folder)
    io.write_text(output or Path(folder, "report.html"), report(**found))
    told = warnings(**{k: v for k, v in found.items() if k not in ("badpix", "night")})
    io.write_text(Path(folder, "warnings.txt"), "".join(f"warning: {line}\n" for line in told))


@command(number("size", "PIXELS", "Side of the frames (default 1024).", int), number("lights", "N", "Lights a filter.", int),
         number("biases", "N", "Bias frames.", int), number("darks", "N", "Dark frames.", int), number("flats", "N", "Flats a filter.", int),
         number("exptime", "S", "Exposure of a light."), number("seed", "N", "Another seed is another night.", int),
         click.Option(["--filters"], metavar="R,G,B,Ha", help="Filters, with commas between."), click.Option(["--date"], metavar="DATE", help="The night."),
         number("clouded", "N", "Clouded lights.", int), number("defocused", "N", "Defocused lights.", int), number("trails", "N", "Satellite trails.", int),
         click.Option(["-o", "--output"], required=True, metavar="FOLDER", help="Where the raw frames go; the truth goes below it."))
def simulate(output, filters, **options):
    """Simulate a raw night of known truth, as an iTelescope camera delivers it."""
    from apfunc.simulate import write_night
    if filters:
        options["filters"] = tuple(filters.split(","))
    write_night(output, progress=say, **given(options))


@command(click.Argument(["frame"]), OPTIONS["inventory"])
def explain(frame, inventory):
    """Print what serves a frame, and why."""
    from apfunc import plan as planning
    rows = [dict(zip(r.colnames, r)) for r in read_table_of(inventory or "frames.ecsv")]
    found = [r for r in rows if frame in (r["name"], os.path.basename(r["raw"]), r["raw"])] or [r for r in rows if frame in r["name"]]
    if not found:
        raise click.UsageError(f"no frame {frame} in the inventory; it has {', '.join(r['name'] for r in rows[:5])}, …")
    for row in found:
        click.echo(planning.explain(row))
