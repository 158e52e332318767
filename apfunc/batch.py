"""Batches of frames that one process does, and the lists and stamps by which make knows what is left to do."""

import os

from apfunc import io
from apfunc.names import safe


def batches(frames, size=5):
    """The lights of the night by batches of at most `size`, {name: frames}: those of a batch are of one target and
    filter and share their masters, so that one process does them all."""
    alike = {}
    for frame in frames:
        if frame["used"] and frame["kind"] in ("light", "unreadable"):
            key = frame["masters"], str(frame["camera"]), bool(frame["bayer"]), frame["kind"]
            alike.setdefault((frame["target"], frame["filter"] or "none", *key), []).append(frame)
    found = {}
    for (target, filter, *_), some in sorted(alike.items()):
        some.sort(key=lambda f: f["name"])
        count, name = -(-len(some) // size), safe(f"{target}-{filter}")
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
