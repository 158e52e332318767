"""Blind solvers of others, asked when no catalogue at hand fits: solve-field, the astrometry package,
nova.astrometry.net.

This is an edge: programs are started, files are written and, with a key, the network is asked; each in bounded
time, and a failure of any kind is no error.  All get the star list, not the image.  A solver takes the dict that
tie.py describes (x, y 0-based, best first; shape, scale, pointing) and gives (solution, source) or None.
"""

import os

import numpy as np

from apfunc import tie, wcs
from apfunc.catalog import INDEX_FOLDERS, index_files, installed

NOVA = "https://nova.astrometry.net"
MOST = 200  # stars handed over


def solver(timeout=60.0, key=None, url=NOVA, indexes=INDEX_FOLDERS):
    """A function for `field(…, solver=…)`: solve-field, then the astrometry package, then (with a `key`)
    nova.astrometry.net.

    timeout [s] bounds each of them (nova: five times that, for it queues).  The function returns (solution, source,
    catalogue of the place found) or None.
    """

    def solve(stars):
        if len(stars["x"]) < 5:
            return None
        steps = [lambda: solve_field(stars, timeout), lambda: package(stars, timeout, indexes)]
        steps += [lambda: nova(stars, key, 5 * timeout, url)] if key else []
        found = next((found for step in steps if (found := step()) is not None), None)
        if found is None:
            return None
        solution, source = found
        radius = 0.7 * float(np.hypot(*stars["shape"])) * wcs.scale(solution) / 3600
        return solution, source, installed(*solution["crval"], radius, stars.get("epoch"), indexes)

    return solve


def _limits(stars):
    """The scale to look for [arcsec/pixel]: 15 % about the nominal one, else from 0.1 to 60."""
    scale = stars["scale"]
    return (scale / 1.15, scale * 1.15) if scale else (0.1, 60.0)


def _solution(header, shape, source):
    """(solution, source) with the reference pixel moved to the centre of the frame; None when the header has no TAN."""
    found = wcs.from_header(header)
    if found is None:
        return None
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, 5), np.linspace(0, shape[0] - 1, 5))
    ra, dec = wcs.sky(dict(found, a=None, b=None), x.ravel(), y.ravel())
    return wcs.fit(x.ravel(), y.ravel(), ra, dec, tie.centre(shape)), source


def solve_field(stars, timeout=60.0, program="solve-field"):
    """By the installed solve-field of astrometry.net; at most `timeout` seconds, its children ended with it."""
    import shutil
    import signal
    import subprocess
    import tempfile

    from astropy.io import fits
    from astropy.table import Table

    if shutil.which(program) is None:
        return None
    rows, columns = stars["shape"]
    low, high = _limits(stars)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "stars.xyls")
        Table({
            "X": stars["x"][:MOST] + 1, "Y": stars["y"][:MOST] + 1,
            "FLUX": np.arange(min(len(stars["x"]), MOST), 0, -1.0)
        }).write(path, format="fits")
        command = [
            program, path, "--dir", folder, "--temp-dir", folder, "--overwrite", "--no-plots", "--width", columns,
            "--height", rows, "--x-column", "X", "--y-column", "Y", "--sort-column", "FLUX", "--scale-units",
            "arcsecperpix", "--scale-low", f"{low:.5g}", "--scale-high", f"{high:.5g}", "--cpulimit",
            max(1, int(timeout)), "--no-tweak", "--crpix-center", "--new-fits", "none", "--rdls", "none", "--corr",
            "none", "--match", "none", "--solved", "none", "--index-xyls", "none"
        ]
        if stars["pointing"]:
            command += ["--ra", f"{stars['pointing'][0]:.6f}", "--dec", f"{stars['pointing'][1]:.6f}", "--radius", "3"]
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
        result = os.path.join(folder, "stars.wcs")
        if not os.path.exists(result):
            return None
        with fits.open(result) as hdus:
            return _solution(hdus[0].header, stars["shape"], "astrometry.net solve-field")


def package(stars, timeout=60.0, indexes=INDEX_FOLDERS):
    """By the optional `astrometry` package with the installed index files, in a process of its own, ended after
    `timeout` seconds."""
    import importlib.util
    import json
    import subprocess
    import sys

    files = index_files("index-*.fits", indexes)
    if not files or importlib.util.find_spec("astrometry") is None:
        return None
    some = np.stack([stars["x"][:MOST], stars["y"][:MOST]], axis=1) + 1.0
    task = json.dumps({"files": files, "stars": some.tolist(), "limits": _limits(stars), "pointing": stars["pointing"]})
    try:
        done = subprocess.run([sys.executable, "-c", "from apfunc.solvers import _engine; _engine()"],
                              input=task.encode(), capture_output=True, timeout=timeout)
        return _solution(json.loads(done.stdout), stars["shape"], "astrometry.net (astrometry package)")
    except (OSError, ValueError, TypeError, AttributeError, subprocess.TimeoutExpired):
        return None


def _engine():
    """The process of `package`: a task on stdin, the header of the best match on stdout (null: none)."""
    import json
    import pathlib
    import sys

    import astrometry

    task = json.load(sys.stdin)
    low, high = task["limits"]
    with astrometry.Solver([pathlib.Path(p) for p in task["files"]]) as engine:
        size = astrometry.SizeHint(lower_arcsec_per_pixel=low, upper_arcsec_per_pixel=high)
        place = astrometry.PositionHint(*task["pointing"], 3.0) if task["pointing"] else None
        how = astrometry.SolutionParameters(sip_order=0, tune_up_logodds_threshold=None,
                                            logodds_callback=lambda odds: astrometry.Action.STOP)
        found = engine.solve(stars=task["stars"], size_hint=size, position_hint=place, solution_parameters=how)
    json.dump({k: v[0] for k, v in found.best_match().wcs_fields.items()} if found.has_match() else None, sys.stdout)


def nova(stars, key, timeout=300.0, url=NOVA, pause=3.0):
    """By nova.astrometry.net with the user's API key: the star list goes up, one submission, asked after until
    `timeout` seconds."""
    import json
    import time
    import urllib.parse
    import urllib.request

    deadline = time.monotonic() + timeout

    def ask(path, content=None):
        data = content and urllib.parse.urlencode({"request-json": json.dumps(content)}).encode()
        with urllib.request.urlopen(f"{url}/{path}", data,
                                    timeout=max(1.0, min(30.0, deadline - time.monotonic()))) as answer:
            return answer.read(2_000_000)

    rows, columns = stars["shape"]
    low, high = _limits(stars)
    try:
        session = json.loads(ask("api/login", {"apikey": key}))
        task = {
            "session": session["session"], "publicly_visible": "n", "allow_modifications": "n",
            "allow_commercial_use": "n", "x": (stars["x"][:MOST] + 1).tolist(), "y": (stars["y"][:MOST] + 1).tolist(),
            "image_width": columns, "image_height": rows, "scale_units": "arcsecperpix", "scale_type": "ul",
            "scale_lower": low, "scale_upper": high, "crpix_center": True, "tweak_order": 0
        }
        if stars["pointing"]:
            task |= {"center_ra": stars["pointing"][0], "center_dec": stars["pointing"][1], "radius": 3.0}
        number = json.loads(ask("api/upload", task))["subid"]
        while time.monotonic() < deadline:
            jobs = [job for job in json.loads(ask(f"api/submissions/{number}")).get("jobs", ()) if job]
            status = json.loads(ask(f"api/jobs/{jobs[0]}"))["status"] if jobs else "queued"
            if status == "success":
                from astropy.io import fits

                return _solution(fits.Header.fromstring(ask(f"wcs_file/{jobs[0]}")), stars["shape"],
                                 "nova.astrometry.net")
            if status == "failure":
                return None
            time.sleep(pause)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None
