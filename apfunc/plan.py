"""Which frames make up the night, which masters serve each, and why: the inventory (night.mk is made from it by `apfunc.rules`).

`plan` is pure: records in (see `apfunc.ingest`), frames and groups out.  The hard keys of a
match must agree (size, binning, instrument, readout mode, gain setting; the filter of a flat).  The soft
keys (temperature, exposure, date, number of frames) make a cost, and the cheapest group serves.
"""

from datetime import date

from apfunc.names import band, safe

SAME_EXPTIME = 0.02  # darks within 2 % (or half a second) of an exposure count as of that exposure
FLAT_DARK = 10  # a dark so many times as long as a flat is not scaled down to it
SAME_TEMP = 1.5  # Celsius: frames further apart are different groups


def plan(records, *wanted):
    """``(frames, groups)`` of the nights `wanted` (ISO dates), from all the records.

    `frames` are the records with masters, reason, target and `used` added; `groups` are the groups of
    calibration frames that are needed, by product name.  Lights of one night only are the night, whatever
    its label.  Raises ValueError when no light is of a night that is wanted.
    """
    frames = [dict(r, masters="", target=None, used=False, flat_filter=r["filter"], reason=r["reason"] or "")
              for r in records]
    drop_copies(frames)
    frames = [colour for frame in frames for colour in colours_of(frame)]
    lights = [f for f in frames if f["kind"] == "light" and (usable(f) or f["damaged"])
              or f["kind"] == "unreadable" and f["guess"] == "light"]
    nights = sorted({f["night"] for f in lights if f["night"]})
    if len(nights) > 1 and not set(wanted) <= set(nights):
        raise ValueError(f"no light of the night {', '.join(sorted(set(wanted) - set(nights)))}; there are lights of {', '.join(nights)}: give one as NIGHT=")
    if not any(f["kind"] == "light" for f in lights):
        raise ValueError("no light frame found; give the folder of the raw frames as RAW=")
    for frame in lights:
        if len(nights) > 1 and frame["night"] not in wanted:
            frame["reason"] = f"of another night ({frame['night']})"
        else:
            frame["used"] = True
            frame["target"] = safe(frame["object"] or "unnamed")
    groups = calibration_groups(frames)
    needed = {}
    for frame in frames:
        if frame["used"] and not frame["damaged"]:
            serve(frame, groups, needed)
    for name in list(needed):
        serve_group(needed[name], groups, needed)
    for frame in frames:
        group = next((g for g in needed.values() if frame in g["frames"]), None)
        if group:
            frame.update(used=True, masters=group["name"])
        elif not frame["used"] and not frame["reason"]:
            frame["reason"] = "not needed: no light of the night uses it"
    return frames, needed


def colours_of(frame):
    """A one-shot-colour light is three frames from here on, NAME.cfaR, NAME.cfaG and NAME.cfaB."""
    if frame["kind"] != "light" or not frame["bayer"] or frame["state"] == "calibrated" or not usable(frame):
        return [frame]
    return [dict(frame, name=f"{frame['name']}.cfa{c}", filter=c,
                 origin=f"{frame['origin']} filter:BAYERPAT".strip()) for c in "RGB"]


def usable(frame):
    """Nothing speaks against the frame so far."""
    return not frame["reason"] and frame["kind"] not in ("unreadable", "unknown")


def drop_copies(frames):
    """Of the same exposure keep one frame: raw before calibrated; the others get a reason."""
    seen = {}
    rank = {"raw": 0, "calibrated": 1, "master": 2}
    for frame in sorted((f for f in frames if usable(f) and f["date_obs"]),
                        key=lambda f: (rank[f["state"]], f["name"])):
        exact = "." in frame["date_obs"] or frame["kind"] == "light"
        key = (frame["date_obs"], frame["exptime"], frame["kind"], frame["filter"], *map(str, frame["keys"][:3]),
               frame["state"] == "master", None if exact else frame["name"])
        first = seen.setdefault(key, frame)
        if first is not frame:
            frame["reason"] = f"same exposure as {first['name']}, which is used"


# ------------------------------------------------------------------------------------ groups of calibration frames

def calibration_groups(frames):
    """Groups of calibration frames that make one master each; a library master is a group of its own."""
    found = {}
    given = [f for f in frames if usable(f) and f["kind"] != "light"]
    for frame in sorted(given, key=lambda f: (f["temp"] or 0, f["exptime"] or 0)):
        master = frame["state"] == "master"
        alike = found.setdefault((frame["kind"], str(frame["keys"]), frame["night"], frame["filter"],
                                  master and frame["name"]), [])
        for group in alike:
            exposed = frame["kind"] != "dark" or same_exptime(frame["exptime"], group["exptime"])
            if exposed and near(frame["temp"], group["temp"], 2 * SAME_TEMP):
                group["frames"].append(frame)
                break
        else:
            same = "kind temp exptime night keys filter calstat camera".split()
            alike.append({key: frame[key] for key in same} | {"master": master, "frames": [frame]})
    groups = [g for some in found.values() for g in some]
    for group in groups:
        group["temp"] = median([f["temp"] for f in group["frames"]])
        group["exptime"] = median([f["exptime"] for f in group["frames"]])
        group["name"] = group_name(group)
        group["bias"] = group["dark"] = None
    names = [g["name"] for g in groups]
    for group in groups:
        if names.count(group["name"]) > 1:
            group["name"] += "-" + min(f["name"] for f in group["frames"])[-24:]
    return groups


def group_name(group):
    """The name of a group's master: kind, filter, camera, exposure, temperature, night."""
    if group["master"]:
        return safe(f"{group['kind']}-library-{group['frames'][0]['name']}")
    parts = [group["kind"], group["filter"], group["camera"]]
    parts += [f"{group['exptime']:.4g}s"] if group["kind"] == "dark" and group["exptime"] is not None else []
    parts += [f"{group['temp']:.0f}C"] if group["temp"] is not None else []
    return safe("-".join(str(p) for p in [*parts, group["night"]] if p))


def median(values):
    """The (upper) median of the values that are known, or None."""
    values = sorted(v for v in values if v is not None)
    return values[len(values) // 2] if values else None


def near(a, b, tolerance):
    """Both are known and close, or one is not known."""
    return a is None or b is None or abs(a - b) <= tolerance


def same_exptime(a, b):
    """The same exposure, to 2 % or half a second; an unknown one is the same as any."""
    return a is None or b is None or abs(a - b) <= max(0.5, SAME_EXPTIME * max(a, b))


# ---------------------------------------------------------------------------------------------- matching

def compatible(frame, group):
    """The hard keys agree; a key that one of the two does not state is no obstacle."""
    return all(a == b or a is None or b is None for a, b in zip(frame["keys"], group["keys"]))


def cost(frame, group):
    """The soft keys: temperature, date and number of frames, in arbitrary but stated units."""
    degrees = abs((frame["temp"] or 0) - (group["temp"] or 0)) if None not in (frame["temp"], group["temp"]) else 3
    known = frame["night"] and group["night"]
    days = abs((date.fromisoformat(frame["night"]) - date.fromisoformat(group["night"])).days) if known else 60
    count = 9 if group["master"] else len(group["frames"])
    return degrees / 2 + days / 30 + 1 / count


def choose(frame, groups, kind, rank=lambda group: 0, accept=lambda group: True):
    """The compatible group of a kind with the lowest rank, then the lowest cost; None without one."""
    fitting = [g for g in groups if g["kind"] == kind and compatible(frame, g) and accept(g)]
    return min(fitting, key=lambda g: (rank(g), cost(frame, g), g["name"]), default=None)


def choose_dark(frame, groups, bias):
    """A dark of the exposure; else, when its bias can be taken off, the nearest longer one; else a shorter one."""
    def rank(group):
        if same_exptime(frame["exptime"], group["exptime"]):
            return 0, 0
        ratio = (group["exptime"] or 1) / (frame["exptime"] or 1)
        return (1, ratio) if ratio > 1 else (2, 1 / max(ratio, 1e-9))

    def accept(group):
        free = "B" in group["calstat"] if group["master"] else bias is not None
        scales = free and frame["exptime"] and group["exptime"]
        return near(frame["temp"], group["temp"], 6) and (rank(group)[0] == 0 or scales)
    return choose(frame, groups, "dark", rank, accept)


def serve(frame, groups, needed):
    """Choose the masters of a light; say which and why in its `masters` and `reason`."""
    if frame["state"] == "calibrated":
        frame["reason"] = "calibrated already: enters after calibration"
        return
    bias = choose(frame, groups, "bias")
    dark = choose_dark(frame, groups, bias)
    name = frame["flat_filter"]
    flat = choose(frame, groups, "flat", rank=lambda g: g["filter"] != name,
                  accept=lambda g: g["filter"] == name or name and g["filter"] and band(g["filter"]) == band(name))
    chosen = [g for g in (bias, dark, flat) if g]
    for group in chosen:
        needed[group["name"]] = group
    frame["masters"] = " ".join(g["name"] for g in chosen)
    missing = {"bias": f"no bias found: {'the dark holds it' if dark else 'none subtracted'}",
               "dark": f"no dark found: {'bias only' if bias else 'none subtracted'}",
               "flat": f"no flat of {name or 'this filter'} found: not flat-fielded"}
    served = {"bias": bias, "dark": dark, "flat": flat}
    frame["reason"] = "; ".join(why(frame, group, kind) if group else missing[kind] for kind, group in served.items())


def serve_group(group, groups, needed):
    """The bias and dark that go into a master of darks or flats.

    A dark more than FLAT_DARK times as long as a flat is left out where there is a bias: it would take a ten-thousandth
    off the flat, its hot pixels are in the bad-pixel map, and make need not wait for it.
    """
    if group["master"] or group["kind"] == "bias":
        return
    like = dict(group["frames"][0], temp=group["temp"], exptime=group["exptime"], night=group["night"])
    bias = group["bias"] = choose(like, groups, "bias")
    if bias:
        needed[bias["name"]] = bias
    if group["kind"] == "flat":
        dark = group["dark"] = choose_dark(like, groups, bias)
        if dark and bias and (dark["exptime"] or 0) > FLAT_DARK * (group["exptime"] or float("inf")):
            group["dark"] = None
        elif dark:
            needed[dark["name"]] = dark
            serve_group(dark, groups, needed)


def why(frame, group, kind):
    """In words: how well a group fits a frame."""
    said = ["library master" if group["master"] else f"{len(group['frames'])} frames"]
    if kind == "dark":
        ratio = (frame["exptime"] or 0) / (group["exptime"] or 1)
        said += [f"{group['exptime']:g} s"] if group["exptime"] is not None else []
        said += [] if same_exptime(frame["exptime"], group["exptime"]) else [f"scaled by {ratio:.3g} (none of {frame['exptime']:g} s)"]
    if kind == "flat":
        said += [str(group["filter"])]
    if kind != "flat" and None not in (frame["temp"], group["temp"]):
        said += [f"{abs(frame['temp'] - group['temp']):.1f} C off"]
    if frame["night"] and group["night"]:
        days = (date.fromisoformat(group["night"]) - date.fromisoformat(frame["night"])).days
        said += ["same night" if days == 0 else f"{abs(days)} days {'later' if days > 0 else 'earlier'}"]
    return f"{kind}: {', '.join(said)}"


def explain(frame):
    """What serves a frame and why, as lines of text."""
    lines = [f"{frame['name']}  ({frame['raw']})", f"  kind      {frame['kind']}"]
    for key in ("object", "filter", "exptime", "temp", "binning", "camera", "night", "origin"):
        if frame[key] not in (None, ""):
            lines.append(f"  {key:9s} {frame[key]}")
    lines += [f"  master    {m}" for m in str(frame["masters"] or "").split()]
    return "\n".join(lines + [f"  why       {w}" for w in str(frame["reason"] or "").split("; ") if w])
