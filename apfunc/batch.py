"""Batches of frames that one process does, and the lists and stamps by which make knows what is left to do."""

import math
import os

from apfunc import io
from apfunc.names import safe


MOST = 10  # lights a process takes by default; its start is then a tenth of its work or less


def size_for(lights, processors):
    """How many lights a process takes by default: up to MOST, and so many that every processor has as much to do.

    >>> [size_for(lights, 2) for lights in (0, 1, 7, 20, 27, 200)]
    [1, 1, 4, 10, 7, 10]
    """
    rounds = max(1, math.ceil(lights / (processors * MOST)))
    return max(1, math.ceil(lights / (processors * rounds)))


def batches(frames, size=5, mixed=False):
    """The lights of the night by batches of at most `size`, {name: frames}: those of a batch are of one target and
    filter and share their masters, so that one process does them all; or `mixed`, of one target only."""
    alike = {}
    for frame in frames:
        if frame["used"] and frame["kind"] in ("light", "unreadable"):
            name = safe(f"{frame['target']}-{'lights' if mixed else frame['filter'] or 'none'}")
            key = () if mixed else (frame["masters"], str(frame["camera"]), bool(frame["bayer"]), frame["kind"])
            alike.setdefault((name, *key), []).append(frame)
    found = {}
    for (name, *_), some in sorted(alike.items()):
        some.sort(key=lambda f: (f["filter"] or "", f["name"]))
        count = -(-len(some) // size)
        before = sum(batch.rpartition("-")[0] == name for batch in found)
        for k in range(count):
            found[f"{name}-{before + k + 1}"] = some[k * len(some) // count:(k + 1) * len(some) // count]
    return found


def write_lists(out, lists):
    """Write who is in each batch and each master, where it has changed; a batch that is no more goes with its stamps."""
    (out / "lists").mkdir(exist_ok=True)
    for path in (out / "lists").glob("*.txt"):
        if path.stem not in lists:
            for stamp in (path, *(out / "done" / f"{stage}-{path.stem}"
                                  for stage in ("calibrate", "stars", "astrometry", "resample"))):
                stamp.unlink(missing_ok=True)
    for name, names in lists.items():
        io.write_text(out / "lists" / f"{name}.txt", "".join(f"{n}\n" for n in names), only_if_changed=True)


def make_again(out):
    """What was deleted by hand is made again: make looks at the stamps in done/; those of lost products must not stand."""
    there = {f"{folder}/{name}" for folder in ("calibrated", "stars", "navigated", "resampled", "fields", "grids")
             for name in (os.listdir(out / folder) if (out / folder).exists() else ())}
    for line in (out / "night.mk").read_text().replace("$(OUT)/", "").splitlines():
        products, _, needs = line.partition(": ")
        if needs.startswith("done/") and (out / needs).exists() and not there.issuperset(products.split()):
            os.utime(out / "lists" / f"{needs.partition('-')[2]}.txt")
    for kind in ("field", "grid"):
        for stamp in (out / "done").glob(f"{kind}-*"):
            if f"{kind}s/{stamp.name.partition('-')[2]}.fits" not in there:
                stamp.unlink()
    if not (out / "quality.csv").exists() or not (out / "accepted").exists():
        (out / "done" / "quality").unlink(missing_ok=True)
