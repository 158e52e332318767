"""The command line `apfunc`: the commands of cli_frames, cli_stacks and cli_night, and how a command ends."""

import contextlib
import gc
import os
import sys

import click

from apfunc import cli_frames, cli_night, cli_stacks  # noqa: F401  (they add their commands)
from apfunc.command import STEPS, cli  # noqa: F401
from apfunc.driver import complain


def _many_files():
    """Masters and stacks keep a file or three open for each frame: ask for as many as the system lets us have."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def main():
    """The entry point: runs a command and ends cleanly on a broken pipe, Ctrl-C or a full disk."""
    gc.set_threshold(200_000)  # imports make many objects and little garbage: a tenth of a process's start
    for library in ("OMP", "OPENBLAS", "MKL"):  # one thread a process: more only fight each other under make -j
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    _many_files()
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
    finally:
        gc.freeze()  # or Python looks for garbage in all that was imported, several times, before it ends
