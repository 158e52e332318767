"""make's prerequisites of a night: who is made of what, in which batches; the recipes are in the Makefile."""

from apfunc.names import band, safe

NARROW = {"Ha": ("R", "r", "L", "I", "i", "z"), "NII": ("R", "r", "L"), "SII": ("R", "r", "I", "i", "L"),
          "OIII": ("G", "g", "V", "B", "L"), "Hb": ("B", "g", "G", "V", "L")}  # and the continua for it, best first


def night_mk(frames, groups, batches, mixed):
    """The text of night.mk: ``target: prerequisites`` lines only; every name in it is safe for make.

    `batches`, `mixed`: of one filter, which stages with masters take, and of any filters (see apfunc.batch).
    """
    lights = [f for f in frames if f["used"] and f["kind"] in ("light", "unreadable")]
    out, lines, goals = "$(OUT)", [], {}

    def rule(goal, target, *prerequisites):
        goals.setdefault(goal, []).append(target)
        lines.append(f"{target}: {' '.join(prerequisites)}")

    def master(name):
        return f"{out}/masters/{name}.fits"

    for name, group in sorted(groups.items()):
        inputs = [f"{out}/raw/{f['name']}.fits" for f in group["frames"]]
        rule("masters", master(name), f"{out}/lists/{name}.txt", *inputs,
             *[master(group[k]["name"]) for k in ("bias", "dark") if group[k]])
    measured = [f for g in groups.values() if g["kind"] in ("bias", "flat") and not g["master"] for f in g["frames"]]
    rule("masters", f"{out}/masters/readnoise.ecsv", f"{out}/lists/readnoise.txt",
         *sorted(f"{out}/raw/{f['name']}.fits" for f in measured))
    badpix = {}
    for frame in lights:
        served = [groups[n] for n in frame["masters"].split()]
        badpix.setdefault(frame["camera"], {}).update({g["name"]: g for g in served})
    for camera, served in sorted(badpix.items(), key=str):
        if served:
            rule("masters", f"{out}/masters/badpix-{camera}.fits", *map(master, sorted(served)))
    targets, stacks = {}, {}

    def stage(goal, command, batch, some, folder, needs, *shared, endings=(".fits",)):
        names = [f["name"] for f in some]
        rule(goal, " ".join(f"{out}/{folder}/{n}{e}" for n in names for e in endings), f"{out}/done/{command}-{batch}")
        needed = " ".join(f"{out}/{need}/{n}.fits" for need in needs for n in names)
        lines.append(f"{out}/done/{command}-{batch}: {out}/lists/{batch}.txt {needed} {' '.join(shared)}")

    for batch, some in batches.items():
        names, served, target = [f["name"] for f in some], some[0]["masters"].split(), some[0]["target"]
        own = [f"{out}/masters/badpix-{some[0]['camera']}.fits"] if badpix[some[0]["camera"]] else []
        flat = [master(n) for n in served if groups[n]["kind"] == "flat"]
        stage("calibrate", "calibrate", batch, some, "calibrated", ["raw"], *map(master, served), *own,
              f"{out}/masters/readnoise.ecsv")
        stage("resample", "resample", batch, some, "resampled", ["navigated"], f"{out}/grids/{target}.fits", *flat)
        lines += [f"{out}/raw/{n}.fits:" for n in names]
        targets.setdefault(target, []).extend(names)
        if some[0]["kind"] == "light":
            stacks.setdefault((target, safe(some[0]["filter"] or "none")), []).extend(names)
    for batch, some in mixed.items():
        stage("stars", "stars", batch, some, "stars", ["calibrated"])
        stage("navigate", "astrometry", batch, some, "navigated", ["calibrated", "stars"],
              f"{out}/fields/{some[0]['target']}.fits", endings=(".fits", ".stars.fits"))
    for target, names in sorted(targets.items()):
        lines.append(f"{out}/done/field-{target}: {' '.join(f'{out}/stars/{n}.fits' for n in sorted(names))}")
        lines.append(f"{out}/done/grid-{target}: {' '.join(f'{out}/navigated/{n}.fits' for n in sorted(names))}")
    every = sorted(f["name"] for f in lights)
    lines.append(f"{out}/done/quality: {out}/frames.ecsv {' '.join(f'{out}/navigated/{n}.fits {out}/navigated/{n}.stars.fits' for n in every)}")
    for (target, filter), names in sorted(stacks.items()):
        rule("coadd", f"{out}/coadd/{target}-{filter}.fits", f"{out}/accepted/{target}-{filter}.csv",
             *[f"{out}/resampled/{n}.fits" for n in sorted(names)])
    pictures(stacks, rule, out)
    products = [t for goal in ("masters", "coadd", "continuum", "composite") for t in goals.get(goal, [])
                if t.endswith((".fits", ".png", ".ecsv"))]
    lines.append(f"{out}/report.html: {out}/quality.csv {out}/frames.ecsv {' '.join(products)}")
    for goal in ("masters", "calibrate", "navigate", "resample", "coadd", "continuum", "composite"):
        lines.append(f"{goal}: {' '.join(goals.get(goal, []))}")
    return "# Made by apfunc plan from the headers: prerequisites only, the recipes are in the Makefile.\n" + "\n".join(lines) + "\n"


def pictures(stacks, rule, out):
    """The line images and composites that the filters of each target allow."""
    from apfunc.palette import palettes_for
    for target in sorted({t for t, _ in stacks}):
        filters = {f: band(f) for t, f in stacks if t == target}
        for filter, line in sorted(filters.items()):
            continuum = next((f for b in NARROW.get(line, ()) for f in sorted(filters) if filters[f] == b), None)
            if continuum:
                rule("continuum", f"{out}/continuum/{target}-{filter}.fits", f"{out}/coadd/{target}-{filter}.fits",
                     f"{out}/coadd/{target}-{continuum}.fits")
        for palette, used in palettes_for(sorted(filters)).items():
            rule("composite", f"{out}/composite/{target}-{safe(palette)}.png",
                 *[f"{out}/coadd/{target}-{f}.fits" for f in used])
