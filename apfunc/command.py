"""How a function becomes a command: the group of commands, and the decorators that add one to it.

A command over images is made by `@step`: from its options it makes a step, ``(image, planes) -> (image,
planes)``, which `driver.each` applies to the images, or which `run` composes with others.
"""

import click

from apfunc import __version__
from apfunc.driver import each, named
from apfunc.options import OPTIONS
from apfunc.paths import pairs_of

IMAGES = click.Argument(["images"], nargs=-1)
STEPS = {}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-v", "--verbose", count=True, help="Say more; -vv shows tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")
@click.version_option(__version__)
def cli(verbose, quiet):
    """From the raw FITS frames of a night to calibrated, solved, stacked and coloured images.

    IMAGES are paths, quoted globs, @FILE (a list of paths), or - (standard input).  Results go to -o, or to standard output.
    """
    if verbose < 2:
        import warnings
        warnings.simplefilter("ignore")


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

        def run_step(images, output, update, shared, record_failure, **values):
            if pairs := pairs_of(images, output, update, shared):
                each(pairs, named(name, function(**values)), record_failure)

        cli.add_command(click.Command(name, params=[IMAGES, *params, OPTIONS["output"], OPTIONS["update"],
                                                    OPTIONS["shared"], OPTIONS["record"]],
                                      callback=run_step, help=function.__doc__))
        return function
    return decorate


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False,
                               "help_option_names": []})
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
    first = click.Command("run", params=[IMAGES, OPTIONS["output"], OPTIONS["update"], OPTIONS["shared"],
                                         OPTIONS["record"]], help=run.help, callback=lambda **v: v)
    values = first.invoke(first.make_context("run", parts[0], parent=ctx.parent))
    if len(parts) == 1:
        raise click.UsageError("no steps; for example: apfunc run raw.fit -o out.fits : calibrate --dark d.fits : cosmics")
    pairs = pairs_of(values["images"], values["output"], values["update"], values["shared"])
    steps = []
    for part in parts[1:]:
        if not part or part[0] not in STEPS:
            raise click.UsageError(f"no step {' '.join(part[:1]) or '(empty)'}; the steps are {', '.join(STEPS)}")
        one = STEPS[part[0]]
        context = one.make_context(part[0], part[1:], parent=ctx.parent)
        if pairs:
            steps.append(named(part[0], one.invoke(context)))

    def work(image, planes):
        for one in steps:
            image, planes = one(image, planes)
        return image, planes
    each(pairs, work, values["record_failure"])
