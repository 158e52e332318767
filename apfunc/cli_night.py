"""Commands about a whole night: the plan, field catalogues and solutions, verdicts, the report, and a simulated night."""

import contextlib
import os
from pathlib import Path

import click

from apfunc import __version__
from apfunc.command import IMAGES, command
from apfunc.driver import (complain, each, make_folder, mask_of, named, output_of, read_table_of, record, records_of, say,
                           with_image)
from apfunc.options import OPTIONS, flag, given, number
from apfunc.paths import about, expand, filled, pairs_of


@command(click.Argument(["folders"], nargs=-1, required=True),
         click.Option(["--night"], required=True, multiple=True, metavar="DATE",
                      help="Local noon-to-noon night, for example 2024-05-01; may be given several times."),
         click.Option(["--cal"], multiple=True, metavar="FOLDER",
                      help="More calibration frames or a library of masters."),
         number("batch", "N", "Lights that one process does, at most (default: 10, or fewer that there is work for each "
                "processor).", int),
         click.Option(["-o", "--output"], required=True, metavar="FOLDER", help="Where the night's products go."))
def plan(folders, night, cal, batch, output):
    """Read every header once; write the inventory frames.ecsv and make's prerequisites night.mk."""
    import json
    from apfunc import batch as planned
    from apfunc import ingest
    for folder in (*folders, *cal):
        if not os.path.isdir(folder):
            raise click.UsageError(f"{folder}: no such folder; give the folder of the raw frames")
    files, ignored = ingest.find([*folders, *cal])
    out, cache_file = Path(output), Path(output, ".plan.json")
    processors = os.cpu_count() or 1
    state = json.loads(json.dumps([__version__, ingest.VERSION, night, [batch, processors], files]))
    known = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache_file.read_text())
    if known.get("state") == state and (out / "night.mk").exists() and (out / "frames.ecsv").exists():
        return planned.make_again(out)
    cache = known.get("records", {}) if known.get("state", [0, 0])[:2] == state[:2] else {}
    from apfunc import io
    from apfunc import plan as planning
    from apfunc import rules
    out.mkdir(parents=True, exist_ok=True)
    records = ingest.ingest(files, out / "raw", cache)
    frames, groups = planning.plan(records, *night)
    for frame in frames:
        if not os.path.lexists(link := out / "raw" / f"{frame['name']}.fits"):  # a colour of a one-shot-colour frame
            os.symlink(f"{Path(frame['name']).stem}.fits", link)
    lights = [f for f in frames if f["used"] and f["kind"] == "light"]
    size = batch or planned.size_for(len(lights), processors)
    batches, mixed = planned.batches(frames, size), planned.batches(frames, size, mixed=True)
    members = batches | mixed | {name: group["frames"] for name, group in groups.items()}
    lists = {name: [f["name"] for f in some] for name, some in members.items()}
    planned.write_lists(out, lists | {"readnoise": sorted(groups)})
    inventory(out / "frames.ecsv", frames)
    io.write_text(out / "night.mk", rules.night_mk(frames, groups, batches, mixed), only_if_changed=True)
    io.write_text(cache_file, json.dumps({"state": state, "records": cache}))
    planned.make_again(out)
    say(f"plan: {len(lights)} lights of {len({f['target'] for f in lights})} targets, {len(groups)} masters to make or use"
        + (f"; {ignored} files ignored (not FITS)" if ignored else ""))
    for frame in frames:
        if frame["kind"] in ("unreadable", "unknown"):
            complain(f"{frame['raw']}: {frame['reason']}")


INVENTORY = dict.fromkeys("name raw kind object target filter exptime temp binning camera night date_obs state used "
                          "origin masters reason".split(), "datatype: string") | {
    "exptime": "unit: s, datatype: float64", "temp": "unit: deg_C, datatype: float64", "used": "datatype: bool"}


def inventory(path, frames):
    """Write the inventory, a row a frame, only if it changed: ECSV, as astropy.table (and its 0.2 s) would."""
    from apfunc import io
    lines = ["# %ECSV 1.0", "# ---", "# datatype:"]
    lines += [f"# - {{name: {name}, {kind}}}" for name, kind in INVENTORY.items()]
    lines += ["# schema: astropy-2.0", " ".join(INVENTORY)]
    for frame in frames:
        cells = ["" if frame[name] is None else str(frame[name]) for name in INVENTORY]
        lines.append(" ".join('"' + cell.replace('"', '""') + '"' if not cell or set(cell) & set(' "\n') else cell
                              for cell in cells))
    io.write_text(path, "\n".join(lines) + "\n", only_if_changed=True)


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
    told = warnings(**{k: v for k, v in found.items() if k not in ("badpix", "night", "residuals")})
    io.write_text(Path(folder, "warnings.txt"), "".join(f"warning: {line}\n" for line in told))


@command(number("size", "PIXELS", "Side of the frames (default 1024).", int),
         number("lights", "N", "Lights a filter.", int),
         number("biases", "N", "Bias frames.", int), number("darks", "N", "Dark frames.", int),
         number("flats", "N", "Flats a filter.", int),
         number("exptime", "S", "Exposure of a light."), number("seed", "N", "Another seed is another night.", int),
         click.Option(["--filters"], metavar="R,G,B,Ha", help="Filters, with commas between."),
         click.Option(["--date"], metavar="DATE", help="The night."),
         number("clouded", "N", "Clouded lights.", int), number("defocused", "N", "Defocused lights.", int),
         number("trails", "N", "Satellite trails.", int),
         click.Option(["--object"], metavar="NAME", help="Name of the target (NGC 6888)."),
         number("ra", "DEG", "Right ascension of the field."),
         number("dec", "DEG", "Declination."),
         number("scale", "ARCSEC", "Pixel scale (default: a field of 0.7 degree or more)."),
         number("fwhm", "PIXELS", "Seeing."), flag("galaxy", "A galaxy in the field."),
         click.Option(["-o", "--output"], required=True, metavar="FOLDER",
                      help="Where the raw frames go; the truth goes below it."))
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
    rows = records_of(inventory or "frames.ecsv")
    found = [r for r in rows if frame in (r["name"], os.path.basename(r["raw"]), r["raw"])]
    found = found or [r for r in rows if frame in r["name"]]
    if not found:
        raise click.UsageError(f"no frame {frame} in the inventory; it has {', '.join(r['name'] for r in rows[:5])}, …")
    for row in found:
        click.echo(planning.explain(row))


SKY = ("catalog", click.Option(["--cache"], metavar="FOLDER",
                               help="Folder of Gaia DR3 queries, read when they are there."),
       flag("network", "Ask Gaia DR3 for what the cache lacks, in bounded time."))


def sky_around(tables, catalog, cache, network):
    """The star catalogues around some star tables, first choice first."""
    from apfunc.catalog import around
    with about(catalog or cache or "catalogue"):
        return around(tables, catalog, cache=cache, network=network)


@command(IMAGES, *SKY, number("timeout", "S", "Longest that solve-field may take when no catalogue fits (default 30; 0: never)."),
         click.Option(["--key"], envvar="NOVA_API_KEY", help="Key for nova.astrometry.net, the last resort."),
         "output", "record")
def field(images, catalog, cache, network, timeout, key, output, record_failure):
    """Build the field catalogue of a target from the star tables of its frames, tied to the sky."""
    from apfunc.tables import read_stars, write_table
    from apfunc.field import field
    from apfunc.register import frame_of
    from apfunc.solvers import solver
    output = output_of(output, images)
    frames = [frame_of(read_stars(p)) for p in with_image(images)]
    try:
        found = field(frames, sky_around(frames, catalog, cache, network),
                      solver(30 if timeout is None else timeout, key) if timeout != 0 else None)
    except ValueError as error:
        if not record_failure:
            raise
        complain(f"{output}: {error}")
        return record(output, output, f"field: {error}")
    write_table(output, found, only_if_changed=True)


@command(IMAGES, click.Option(["--stars"], metavar="FILE",
                              help="The frame's star table, or a template as OUT (default: measured now)."),
         click.Option(["--field"], metavar="FILE",
                      help="The target's field catalogue (default: made from this frame alone)."), *SKY, "output",
         click.Option(["--stars-out"], metavar="FILE",
                      help="Also write the star table with ra and dec (or a template)."), "update", "shared", "record")
def astrometry(images, stars, field, catalog, cache, network, output, stars_out, update, shared, record_failure):
    """Solve a frame: a celestial WCS (TAN or TAN-SIP), zero point and flux scale in the header."""
    from apfunc import io
    from apfunc.tables import write_table
    from apfunc.astrometry import astrometry
    pairs = pairs_of(images, output, update, shared, stars)
    if not pairs:
        return
    target_field = read_table_of(field)

    def read(source):  # with a star table the pixels need not be looked at
        return source, *(io.read_all(source) if stars is None or source == "-" else (io.unread(source), None))

    def work(source, image, planes):
        table = read_table_of(filled(stars, source))
        if table is None:
            from apfunc.stars import stars as measure
            table = measure(image, mask_of(None, image, planes))
        known = target_field
        if known is None:
            from apfunc.field import field as build
            known = build([table], sky_around([table], catalog, cache, network))
        return source, *astrometry(image, table, known), planes

    def write(target, source, image, table, planes):
        if stars_out:
            make_folder(beside := filled(stars_out, source))
            write_table(beside, table)
        io.write(target, image, planes) if planes is not None else io.write_like(target, source, image[1])
    each(pairs, named("astrometry", work), record_failure, write, read)


@command(IMAGES, "inventory", "keep", "drop",
         number("min-transparency", "T", "Least transparency, the group's best being 1."),
         number("max-ellipticity", "E", "Largest ellipticity of the stars."),
         number("max-fwhm", "ARCSEC", "Largest FWHM."),
         number("max-sky", "ADU/S", "Brightest sky."), number("min-stars", "N", "Fewest stars.", int),
         number("max-rms", "ARCSEC", "Largest residual of the solution."),
         "output", click.Option(["--accepted"], metavar="FOLDER",
                                help="Write a list of accepted frames for each stack."))
def quality(images, inventory, keep, drop, output, accepted, **limits):
    """Judge each light from its navigated image (and star table beside it): a row and a verdict each."""
    from apfunc import io
    from apfunc.tables import csv_text, write_table
    from apfunc.quality import COLUMNS, as_table, judged, quality_row
    rows = []
    for path in expand(images):
        rows.append(row_of(path, quality_row))
    stock = records_of(inventory)
    for frame in stock:
        if frame["used"] and frame["kind"] == "unreadable" and frame["name"] not in {r["name"] for r in rows}:
            rows.append({k: frame[k] or "" for k in ("name", "object", "filter", "reason")})
    rows, output = judged(rows, keep=keep.split(), drop=drop.split(), **given(limits)), output_of(output)
    if output.endswith(".csv"):  # astropy's tables would take longer to load than all of this
        io.write_text(output, csv_text(rows, COLUMNS), only_if_changed=True)
    else:
        write_table(output, as_table(rows), only_if_changed=True)
    for line in summary(rows):
        say(line)
    if accepted:
        for stack, names in stacks_of(rows, stock).items():
            Path(accepted).mkdir(parents=True, exist_ok=True)
            io.write_text(Path(accepted, f"{stack}.csv"), "".join(f"{n}\n" for n in ["name", *names]),
                          only_if_changed=True)


def summary(judged):
    """The verdicts as lines for a terminal, the rejected frames with their reason."""
    head = ("frame", "filter", "FWHM", "ell", "stars", "transp", "verdict")
    rows = [(r["name"][-48:], r["filter"], *(("" if r[c] is None else form % r[c]) for c, form in
             (("fwhm_px", "%.2f"), ("ellipticity", "%.2f"), ("nstars", "%d"), ("transparency", "%.2f"))),
             f"{r['verdict']} {r['reason']}".rstrip()) for r in judged]
    wide = [max(map(len, column)) for column in zip(head, *rows)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, wide)).rstrip() for row in (head, *rows)]


def row_of(path, quality_row):
    """The measurements of one light, or the reason why there are none."""
    from apfunc import cards
    from apfunc.tables import read_columns
    from apfunc.names import stem
    with open(path, "rb") as stream:
        header = cards.header(stream)
    if header.get("REASON"):
        return {"name": stem(path), "object": header.get("OBJECT", ""), "filter": header.get("FILTER", ""),
                "reason": header["REASON"]}
    return quality_row(header, *read_columns(Path(path).with_suffix(".stars.fits"))) | {"name": stem(path)}


def stacks_of(judged, inventory):
    """The accepted frames' names by stack (OBJECT-FILTER); a stack with none has an empty list."""
    from apfunc.names import safe
    known = {r["name"]: (r["target"], r["filter"]) for r in inventory}
    stacks = {}
    for row in judged:
        target, filter = known.get(row["name"], (row["object"], row["filter"]))
        names = stacks.setdefault(f"{safe(target or 'unnamed')}-{safe(filter or 'none')}", [])
        if row["verdict"] == "accept":
            names.append(row["name"])
    return stacks
