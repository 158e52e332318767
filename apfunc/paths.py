"""What IMAGES name, and where the result of each goes: globs, lists, templates, and what is older than its image."""

import contextlib
import os
import sys
from glob import glob

import click


@contextlib.contextmanager
def about(path):
    """ValueErrors inside the block name `path` and end the command."""
    try:
        yield
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from error


def expand(images):
    """The paths that IMAGES name: globs and @FILE expanded; standard input when there are none.  A star table beside its image
    (NAME.stars.fits, which navigated/*.fits fits too) is passed over."""
    found = []
    for image in listed(images) if images else ["-"]:
        matches = sorted(glob(image, recursive=True)) if any(c in image for c in "*?[") and not os.path.exists(image) else [image]
        if not matches:
            raise click.UsageError(f"no file matches {image}")
        found += matches
    named = set(found)
    found = [path for path in found if path.removesuffix(".stars.fits") + ".fits" not in named
             or not path.endswith(".stars.fits")]
    for path in found:
        if path != "-" and not os.path.exists(path):
            raise click.UsageError(f"{path}: no such file")
    if "-" in found and sys.stdin.isatty():
        raise click.UsageError("no images given, and standard input is a terminal")
    return found


def listed(images):
    """The words of IMAGES, @FILE replaced by the lines of that file (none is no image): a command's line has its limits."""
    out = []
    for image in images:
        if image.startswith("@") and os.path.exists(image[1:]):
            with open(image[1:]) as stream:
                out += stream.read().splitlines()
        else:
            out.append(image)
    return out


def targets(sources, output):
    """The output of each source, by the template; refuses collisions before any work is done."""
    from apfunc.names import stem
    output = output or "-"
    if output == "-":
        if len(sources) > 1:
            raise click.UsageError("several images need -o with a template, for example -o 'out/{stem}.fits'")
        if sys.stdout.isatty():
            raise click.UsageError("standard output is a terminal; give -o OUT, or pipe on")
        return ["-"]
    outputs = []
    for source in sources:
        fields = {"stem": stem(source), "dir": os.path.dirname(source) or "."}
        if any("{%s}" % name in output for name in ("object", "filter", "night")):
            fields |= _header_fields(source)
        try:
            outputs.append(output.format(**fields))
        except (KeyError, IndexError, ValueError):
            raise click.UsageError(f"{output}: the fields of a template are {{stem}} {{dir}} {{object}} {{filter}} {{night}}") from None
    same = {os.path.realpath(o) for o in outputs}
    if len(same) < len(outputs):
        raise click.UsageError(f"{output}: several images would have the same output; use {{stem}} in the template")
    if overlap := same & {os.path.realpath(s) for s in sources if s != "-"}:
        raise click.UsageError(f"{sorted(overlap)[0]}: the output is an input; give another -o")
    return outputs


def _header_fields(source):
    from apfunc import ingest, io
    from apfunc.names import safe
    if source == "-":
        raise click.UsageError("standard input has no {object}, {filter} or {night} for an output's name")
    with about(source):
        record = ingest.describe(*io.read_header(source), source)
    return {name: safe(record[name] or "none") for name in ("object", "filter", "night")}


def pairs_of(images, output, update=False, shared="", beside=None):
    """``[(source, target), …]`` of a command, checked before any work.

    update: leave out those whose target is not older than its source, nor than any file of `shared` (spaces between), nor
    than what `beside` (a template, such as that of --stars) names for it.
    """
    sources = expand(images)
    pairs = list(zip(sources, targets(sources, output)))
    if not update:
        return pairs
    others = max(map(upto, shared.split()), default=0)
    needs = {s: max(upto(s), others, upto(filled(beside, s)) if beside else 0) for s in sources}
    return [(s, t) for s, t in pairs if s == "-" or upto(t) < needs[s]]


def upto(path):
    """When a file, and the link that may lead to it, was written, in ns; 0 when it is not there."""
    with contextlib.suppress(OSError):
        return max(os.stat(path).st_mtime_ns, os.lstat(path).st_mtime_ns)
    return 0


def filled(template, source):
    """The file that a template with {stem} and {dir} names for a source; None without one."""
    from apfunc.names import stem
    return template and template.replace("{stem}", stem(source)).replace("{dir}", os.path.dirname(source) or ".")
