"""Measuring processes, and showing what comes out as a table; for bench.py."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

NOTES = []  # what is said below the table
WIDTHS = 66, 9, 9, 6, 20


def measure(log, command, env=None, limit=7200):
    """Run a command for at most `limit` seconds; what it says goes to the file `log`.

    Gives {"wall", "cpu", "total" [s], "peak" [MB]}, updated with the last line said if that is JSON: the "cpu" of a
    part of it, say, while "total" stays the CPU of all.  RuntimeError when it fails.
    """
    with open(log, "w") as out:
        start = time.perf_counter()
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, env=os.environ | (env or {}), start_new_session=True)
        timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
        finally:
            timer.cancel()
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    lines = log.read_text(errors="replace").strip().splitlines() or [""]
    if process.returncode:
        why = [line for line in lines if not line.startswith("make: ")] or lines
        raise RuntimeError(f"stopped after {limit} s" if wall >= limit else f"{log.name}: {why[-1]}")
    found = {"wall": wall, **figures(usage)}
    return found | {"total": found["cpu"]} | (json.loads(lines[-1]) if lines[-1].startswith("{") else {})


def figures(usage):
    """CPU [s] of a process and its children, and the memory [MB] of the largest of them."""
    unit = 1024 if sys.platform == "linux" else 2**20
    return {"cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss / unit}


def run_and_note(timings, command):
    """For make's RUN=: run a command of apfunc, and add a line with its name, CPU and memory to the file `timings`."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    words = command[command.index("-q") + 1:] if "-q" in command else command
    name = words[0] if words[0] != "run" else " ".join(words[i + 1] for i, word in enumerate(words) if word == ":")
    with open(timings, "a") as stream:
        stream.write(json.dumps([name, figures(usage)]) + "\n")
    return os.waitstatus_to_exitcode(status)


def attempt(function, *args, **options):
    """What the function gives, or in a few words why it gives nothing."""
    try:
        return function(*args, **options)
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def row(what, ours, peer="", goal="", key="cpu", unit="s"):
    """Show a row.

    `ours` and `peer` are what `measure` gave, numbers, or words that say why there is none.  `goal` is like
    "ratio >= 3" or "ours <= 1000", where ratio is peer / ours; the row says whether it is met.
    """
    ours, peer = (v[key] if isinstance(v, dict) else v for v in (ours, peer))
    ratio = peer / ours if all(isinstance(v, (int, float)) and v > 0 for v in (ours, peer)) else None
    value = {"ratio": ratio, "ours": ours}.get(goal.partition(" ")[0])
    if isinstance(value, (int, float)):
        wanted = float(goal.split()[2])
        goal += ": met" if (value >= wanted if ">=" in goal else value <= wanted) else ": MISSED"
    show(what, figure(ours, unit), figure(peer, unit), "" if ratio is None else f"{ratio:.3g}", goal)


def figure(value, unit):
    """A number with its unit, or words."""
    if isinstance(value, str):
        return noted(value)
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def noted(words):
    """Words for a cell of the table; long ones go below it and leave their number."""
    if len(words) > 20 and words not in NOTES:
        NOTES.append(words)
    return f"none ({NOTES.index(words) + 1})" if words in NOTES else words


def show(*cells):
    """A line of the table."""
    print("| " + " | ".join(f"{c:<{w}}" for c, w in zip([*cells, *[""] * 5], WIDTHS)) + " |", flush=True)


def show_head():
    show("what", "ours", "peer", "ratio", "goal")
    show(*("-" * width for width in WIDTHS))


def show_notes():
    """The notes, below the table."""
    print("", *(f"({i}) {note}" for i, note in enumerate(NOTES, 1)), sep="\n")


if __name__ == "__main__":
    sys.exit(run_and_note(sys.argv[1], sys.argv[2:]))
