"""How long, how large: apfunc against whatever peers are installed, on data it simulates itself.  `make bench`.

    tests/bench.py              the yardstick: a night of 60 raw frames of 3056x3056 (an hour, 10 GB in build/bench)
    tests/bench.py --quick      the same with 1024x1024 (minutes)
    tests/bench.py --parts night,stages --jobs 2

Every figure is of a process of its own, measured by wait4: seconds by the clock, CPU seconds (user + system) of it and
its children, memory of the largest of them.  "ratio" is the peer's figure over ours: above 1 we are better.  What runs
inside one Python process is in bench_inside.py, and its CPU counts from after its imports; of a peer that is a program
the CPU is taken off that it needs for a frame of 64x64.  A peer that is missing, or a stage that fails, is a row that
says so.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bench_peers as peers
from bench_measure import attempt, measure, noted, row, show, show_head, show_notes

HERE = Path(__file__).resolve().parent
NIGHT = "2024-05-01"
FILTERS = ("R", "G", "B", "Ha")
GOALS = "masters calibrate navigate quality resample coadd continuum composite report".split()
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=3056, help="rows and columns of the frames")
    parser.add_argument("--quick", action="store_true", help="frames of 1024x1024, and fewer of them for the memory")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"any of {','.join(PARTS)}")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time of make, threads of Siril")
    parser.add_argument("--many", type=int, help="frames of the memory part (200; 40 with --quick)")
    parser.add_argument("--folder", default=os.environ.get("BENCH_DIR", HERE.parent / "build" / "bench"),
                        help="for data, products and logs (or the environment's BENCH_DIR)")
    a = parser.parse_args()
    if unknown := set(a.parts.split(",")) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    a.size = 1024 if a.quick else a.size
    a.many, a.many_size = a.many or (40 if a.quick else 200), 1024 if a.quick else 4096
    a.folder = Path(a.folder).resolve() / str(a.size)
    a.logs = a.folder / "logs"
    a.logs.mkdir(parents=True, exist_ok=True)
    print(f"frames of {a.size}x{a.size}, make -j{a.jobs}", attempt(lambda: inside(a, "versions")["says"]),
          *peers.versions(), "", sep="\n")
    show_head()
    for part in a.parts.split(","):
        problem = attempt(PARTS[part], a)
        if problem is not None:
            show(part, noted(problem))
    show_notes()


def inside(a, name):
    """A function of bench_inside.py in a process of its own, one thread; its "cpu" is that after the imports."""
    return measure(a.logs / f"{name}.log", [sys.executable, HERE / "bench_inside.py", name, a.folder], ONE_THREAD)


def data(a, name, folder, *words):
    """A function of bench_data.py, which writes what is measured with."""
    measure(a.logs / f"{name}.log", [sys.executable, HERE / "bench_data.py", name, folder, *words], ONE_THREAD)


def raw_night(a, name="raw", **options):
    """The folder of a simulated night: 10 bias, 10 dark, 5 flats and 5 lights a filter unless `options` say other."""
    folder = a.folder / name
    if not (folder / "truth" / "night.json").exists():
        print(f"simulating {folder} …", file=sys.stderr)
        data(a, "simulate", folder, json.dumps({"size": a.size, "lights": 5} | options))
    subprocess.run(["cat", *folder.glob("*.fit")], stdout=subprocess.DEVNULL)  # into the page cache
    return folder


def apfunc():
    """The command apfunc of this Python."""
    beside = Path(sys.executable).with_name("apfunc")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "apfunc"]


def make(a, raw, out, *words, jobs=None, limit=7200):
    """make of the night `raw` into `out`."""
    command = ["make", "--no-print-directory", "-C", HERE.parent, f"-j{jobs or a.jobs}", f"NIGHT={NIGHT}", f"RAW={raw}",
               f"OUT={out}", f"APFUNC={' '.join(apfunc())}", *words]
    return measure(a.logs / f"make-{out.name}.log", command, limit=limit)


def cold(a, raw, out, *words, **options):
    """make into a folder that does not exist."""
    shutil.rmtree(out, ignore_errors=True)
    return make(a, raw, out, *words, **options)


def idle(a, raw, out, *words):
    """make when there should be nothing to do; RuntimeError when it runs a command all the same."""
    found = make(a, raw, out, *words)
    if "apfunc" in (log := a.logs / f"make-{out.name}.log").read_text():
        raise RuntimeError(f"{log.name}: make had something to do")
    return found


def in_turn(times, *functions):
    """The means of what each function gives in several runs; one after the other, for the machine's pace changes."""
    runs = zip(*([attempt(function) for function in functions] for _ in range(times)))
    return [next((found for found in some if isinstance(found, str)), None)
            or {key: sum(found[key] for found in some) / times for key in some[0]} for some in runs]


# ------------------------------------------------------------------------------------------------- the whole night

def night(a):
    """The whole night, against the part of it (masters, calibrate, register, stack) that Siril and seiza do."""
    raw, out = raw_night(a), a.folder / "night"
    ours, *peers = in_turn(3, lambda: cold(a, raw, out), lambda: siril(a, raw), lambda: inside(a, "seiza_night"))
    for name, peer in zip(("Siril", "seiza"), peers):
        row(f"whole night, make -j{a.jobs}; peer: {name}, masters to stacks; means of three", ours, peer, "ratio >= 1", "wall")
        row("    their CPU", ours, peer, key="total")
    row("    memory of the largest process", ours, "", "ours <= 1000", "peak", "MB")
    show("    " + attempt(outcome, out))
    row(f"make -j{a.jobs} again, nothing to do", attempt(idle, a, raw, out), key="wall")


def siril(a, raw):
    work = a.folder / "siril"
    found = measure(a.logs / "siril.log", peers.siril(work, raw, FILTERS, a.jobs), {"HOME": str(work)})
    if len(list(work.glob("stack_*.fit"))) < len(FILTERS):
        raise RuntimeError("siril.log: not all stacks made")
    return found


def outcome(out):
    """What the night gave: its time means nothing without."""
    with open(out / "quality.csv") as stream:
        verdicts = [line["verdict"] for line in csv.DictReader(stream)]
    stacks = [path for path in (out / "coadd").glob("*.fits") if path.stat().st_size > 20000]
    return f"{verdicts.count('accept')} of {len(verdicts)} lights accepted, {len(stacks)} of {len(FILTERS)} stacks made"


def jobs(a):
    """Several processes at a time against one."""
    raw, out = raw_night(a), a.folder / "night-jobs"
    several, single = in_turn(2, lambda: cold(a, raw, out), lambda: cold(a, raw, out, jobs=1))
    row(f"whole night, make -j{a.jobs}; peer: make -j1; means of two", several, single, "ratio >= 1.8", "wall")


def commands(a):
    """What each command takes of the whole night."""
    timings, found = a.logs / "timings", {}
    timings.unlink(missing_ok=True)
    run = f"RUN={sys.executable} -S {HERE / 'bench_measure.py'} {timings}"
    problem = attempt(cold, a, raw_night(a), a.folder / "night-timed", run)
    if isinstance(problem, str):
        show("CPU of the commands, as far as they came", noted(problem))
    for line in timings.read_text().splitlines():
        name, used = json.loads(line)
        found.setdefault(name, []).append(used)
    for name, uses in sorted(found.items(), key=lambda item: -sum(used["cpu"] for used in item[1])):
        largest = max(used["peak"] for used in uses)
        row(f"CPU of {name}, run {len(uses)}x, up to {largest:.0f} MB", sum(used["cpu"] for used in uses))


def scaling(a):
    """Four times the lights."""
    few, many = (cold(a, raw_night(a, f"lights{n}", size=min(a.size, 1024), lights=n), a.folder / f"night{n}")["wall"]
                 for n in (5, 20))
    row(f"80 lights, {many:.0f} s, against 20, {few:.0f} s: times the time", many / few, "", "ours <= 4.2", unit="x")


# -------------------------------------------------------------------------------------------------- piece by piece

def library(a):
    """Functions composed in one Python process, from files to four stacks."""
    raw_night(a)
    ours, seiza = in_turn(3, lambda: inside(a, "apfunc_night"), lambda: inside(a, "seiza_night"))
    row("library: masters, calibrate, register, stack; peer: seiza; means of three", ours, seiza, "ratio >= 1")
    row("    memory", ours, seiza, key="peak", unit="MB")


def stages(a):
    """Each stage on the same frame, one thread."""
    raw_night(a)
    data(a, "prepare", a.folder)
    row("combine of 20 frames; peer: ccdproc, a quarter of the rows, x4",
        attempt(inside, a, "combine"), attempt(inside, a, "ccdproc"), "ratio >= 20")
    row("cosmics; peer: astroscrappy", attempt(inside, a, "cosmics"), attempt(inside, a, "astroscrappy"), "ratio >= 30")
    show("    " + attempt(lambda: inside(a, "masks")["says"]))
    row("stars; peer: Source Extractor",
        attempt(inside, a, "stars"), attempt(program, a, "source-extractor"), "ratio >= 1")
    ours, peer = attempt(inside, a, "astrometry"), attempt(program, a, "solve-field")
    row("field + astrometry of a star list; peer: solve-field, of the image", ours, peer, "ratio >= 10")
    row("    with the search for stars", ours["with_stars"] if isinstance(ours, dict) else "", peer)
    ours, swarp = in_turn(3, lambda: inside(a, "resample"), lambda: program(a, "SWarp"))
    row("resample; peer: SWarp, LANCZOS3; means of three", ours, swarp, "ratio >= 3")
    row("resample; peer: reproject_interp, bilinear", ours, attempt(inside, a, "reproject"), "ratio >= 20")
    row("composite, TIFF of 16 bits; peer: STIFF",
        attempt(inside, a, "composite"), attempt(program, a, "stiff"), "ratio >= 1")


def program(a, name):
    """CPU of a program on the frame, less that for 64x64 pixels (not of solve-field, which starts many programs)."""
    stage = a.folder / "stage"
    known = json.loads((stage / "settings.json").read_text())
    found = measure(a.logs / f"{name}.log", peers.command(name, stage, known), ONE_THREAD, 600)
    if name != "solve-field":
        tiny = measure(a.logs / f"{name}-tiny.log", peers.command(name, stage, known, "tiny"), ONE_THREAD, 600)
        found["cpu"] -= tiny["cpu"]
    elif not (stage / "frame.solved").exists():
        raise RuntimeError("solve-field.log: not solved")
    return found


# ---------------------------------------------------------------------------------------- start-up, no-op, memory

def start(a):
    """What every process pays."""
    raw_night(a)
    data(a, "prepare", a.folder)
    stage = a.folder / "stage"
    raw, bias, out = (stage / f"tiny{name}.fits" for name in ("raw", "bias", "out"))
    calibrate = ["-q", "calibrate", raw, "--bias", bias, "-o", out]
    for what, words, goal in (("--help", ["--help"], 0.15), ("calibrate of a 64x64 frame", calibrate, 0.7)):
        cpu = attempt(lambda: min(measure(a.logs / "start.log", [*apfunc(), *words])["cpu"] for _ in range(5)))
        row(f"start-up: apfunc {what}", cpu, "", f"ours <= {goal}")


def noop(a):
    """make of 1,000 tiny frames: the products are empty files that `make -t` touches in their order."""
    raw, out = raw_night(a, "tiny", size=64, lights=1), a.folder / "thousand"
    data(a, "multiply", raw, "1000")
    row("1,000 new frames: the plan, what to do (make -n)", attempt(cold, a, raw, out, "-n", limit=120), key="wall")
    for goal in ("coadd", "report"):
        row(f"    what to do for {goal} alone (make -n)", attempt(make, a, raw, out, "-n", goal, limit=60), key="wall")
    for folder in set(re.findall(r"\$\(OUT\)/(\w+)/", (out / "night.mk").read_text())):
        (out / folder).mkdir(exist_ok=True)
    make(a, raw, out, "-t", *GOALS, limit=120)
    row("make of 1,000 frames, nothing to do", attempt(idle, a, raw, out, *GOALS), "", "ours <= 3", "wall")
    next(raw.glob("raw-*")).touch()
    row("    one of them has changed: a new plan (make -n)", attempt(make, a, raw, out, "-n", *GOALS), key="wall")


def memory(a):
    """Many frames: links to eight (combine) or four (coadd) files of noise, so that they need not all be on disk."""
    folder = a.folder / "many"
    data(a, "many", folder, str(a.many), str(a.many_size))
    for name, pattern in (("combine", "bias-*.fits"), ("coadd", "frame-*.fits")):
        command = [*apfunc(), "-q", name, folder / pattern, "-o", folder / f"{name}.fits"]
        found = attempt(measure, a.logs / f"many-{name}.log", command, ONE_THREAD)
        row(f"{name} of {a.many} frames of {a.many_size}x{a.many_size}: memory", found, "", "ours <= 600", "peak", "MB")
        row("    its CPU", found)
    shutil.rmtree(folder)


PARTS = {"night": night, "jobs": jobs, "commands": commands, "library": library, "stages": stages, "start": start,
         "noop": noop, "memory": memory, "scaling": scaling}

if __name__ == "__main__":
    main()
