"""Between the command line and the files: what is read, what is said, and what becomes of a frame that cannot be done.

A *step* is a function ``(image, planes) -> (image, planes)``.  One driver, `each`, reads, applies and
writes, so that a step alone, a shell pipe of steps and `apfunc run` with several steps give the same bytes.
"""

import contextlib
import os
import sys
from pathlib import Path

import click

from apfunc.paths import about, expand


def _root():
    context = click.get_current_context(silent=True)
    return context.find_root().params if context else {}


def complain(message):
    """One line on stderr: what went wrong."""
    name = next((a for a in sys.argv[1:] if not a.startswith("-")), "")
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    click.echo(clear + (f"apfunc {name}: {message}" if not message.startswith("apfunc ") else message), err=True)


def say(message):
    """One line on stderr about an image that is done; silent with -q."""
    if not _root().get("quiet"):
        click.echo(f"\r\033[K{message}" if sys.stderr.isatty() else message, err=True)  # above the bar of `progress`


def named(name, work):
    """`work`, whose ValueErrors say which stage they come from."""
    def call(*given):
        try:
            return work(*given)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return call


# ---------------------------------------------------------------------------------------------- files

def image_of(path):
    """The image of an option such as --dark, or None without one."""
    if path is None:
        return None
    if not os.path.exists(path):
        raise click.UsageError(f"{path}: no such file")
    from apfunc import io
    with about(path):
        return io.read(path)


def make_folder(target):
    """The folder of an output, made when it is not there."""
    if target != "-":
        Path(target).parent.mkdir(parents=True, exist_ok=True)


def each(pairs, work, record_failure=False, write=None, read=None):
    """Apply `work` to what `read` gives of each source (image, planes) and write what comes back; a frame that fails does
    not stop the others.

    A frame fails with a ValueError, for its own content.  Anything else is an error of the stage or the
    machine and ends the command.  With `record_failure` the reason is written in place of the image.
    """
    from apfunc import io
    write, read = write or io.write, read or io.read_all
    failed = 0
    for source, target in progress(pairs):
        make_folder(target)
        try:
            result = work(*read(source))
        except ValueError as error:
            if _root().get("verbose", 0) > 1:
                raise
            if record_failure:
                record(target, source, str(error))
                if source != "-" and failure(source):
                    continue  # said when it was recorded
            else:
                failed += 1
            complain(with_stage(source, error))
            continue
        write(target, *result)
        del result  # or its memory is not there for the next
        if target != "-":
            say(f"{source} -> {target}")
    if failed:
        if len(pairs) > 1:
            complain(f"{failed} of {len(pairs)} images failed")
        raise click.exceptions.Exit(1)


def progress(pairs):
    """The pairs, one after the other; on a terminal a bar says how far they are."""
    if len(pairs) < 2 or not sys.stderr.isatty() or _root().get("quiet"):
        return (yield from pairs)
    with click.progressbar(pairs, file=sys.stderr, item_show_func=lambda pair: os.path.basename(pair[0]) if pair
                           else "") as bar:
        yield from bar


def with_stage(source, error):
    """'apfunc STAGE: FILE: what is wrong', the stage taken from the error's own words when it is there."""
    stage, colon, rest = str(error).partition(": ")
    return f"apfunc {stage}: {source}: {rest}" if colon and stage.isidentifier() else f"{source}: {error}"


def record(target, source, reason):
    """Write the reason in place of the image that could not be made."""
    from astropy.io import fits
    from apfunc import io
    header = fits.Header()
    with contextlib.suppress(Exception):
        header.update(io.read_header(source)[0])
    with contextlib.suppress(Exception), io.opened(source) as hdus:
        header.update({k: v for k, v in hdus[0].header.items() if k in ("RAWFILE", "OBJECT", "FILTER", "DATE-OBS",
                                                                        "EXPTIME")})
    header["REASON"] = (" ".join(reason.split()).encode("ascii", "replace").decode(), "why there is no image")
    io.write(target, (None, header))


def failure(path):
    """The reason recorded in a file that has no image, or None for one that has."""
    from apfunc import cards, io
    with open(path, "rb") as stream:
        header = cards.header(stream)
    if header:
        return header.get("REASON")
    with contextlib.suppress(ValueError), io.opened(path) as hdus:  # a compressed file
        return hdus[0].header.get("REASON")


# ---------------------------------------------------------------------------------------- many to one

def rows_of(paths, plane=None):
    """Lazily read ``(rows, header)`` of each path; those whose image could not be made are left out."""
    from apfunc import io
    found = []
    for path in paths:
        with about(path):
            found.append(io.read_rows(path, plane))
    return found


def with_image(paths):
    """The paths that hold an image or a table: a recorded failure is left out."""
    return [p for p in expand(paths) if not failure(p)]


def output_of(output, inputs=()):
    """The one output of a many-to-one command: refused when it is an input, its folder made."""
    output = output or "-"
    if output != "-" and os.path.realpath(output) in {os.path.realpath(i) for i in inputs}:
        raise click.UsageError(f"{output}: the output is an input; give another -o")
    make_folder(output)
    return output


def read_table_of(path):
    """The Table of an option, or None without one."""
    from apfunc.tables import read_table
    if path is None:
        return None
    with about(path):
        return read_table(path)


def records_of(path):
    """The rows of an option's table, as dicts; none without one."""
    from apfunc.tables import read_records
    if path is None:
        return []
    with about(path):
        return read_records(path)


def mask_of(path, image, planes):
    """The mask of an option, else the image's own, else one with nothing set; uint8."""
    import numpy as np
    mask = image_of(path)[0] if path else planes.get("MASK")
    mask = np.zeros(image[0].shape, "u1") if mask is None else mask.astype("u1")
    if mask.shape != image[0].shape:
        raise ValueError(f"the mask is {mask.shape}, the image {image[0].shape}")
    return mask


def write_if_changed(target, image):
    """Write a small image only if its bytes change, so that what follows is not done again for nothing."""
    import io as memory
    from apfunc import io
    stream = memory.BytesIO()
    io.pour(io.hdus_of(image), stream)
    io.write_text(target, stream.getvalue(), only_if_changed=True)
