"""Solvers of others, stood in for by small programs and a local server: what is asked, what is understood, and how
long it may take."""

import json
import stat
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from astropy.io import fits
from test_field import SHAPE, catalog, frame, sky, solved

from apfunc import solvers, tie, wcs
from apfunc.field import field


def truth():
    return {
        "crval": (100.0, 20.0), "crpix": (99.5, 49.5), "cd": np.array([[-2e-4, 1e-5], [1e-5, 2e-4]]), "a": None,
        "b": None
    }


def stars(n=30):
    rng = np.random.default_rng(1)
    return {
        "x": rng.uniform(0, 200, n), "y": rng.uniform(0, 100, n), "flux": np.ones(n), "shape": (100, 200),
        "scale": 0.72, "pointing": (100.1, 20.0), "solutions": []
    }


def header():
    return wcs.to_header(fits.Header(), truth(), (100, 200))


def off(solution):
    return wcs.distance(*wcs.sky(solution, 150.0, 20.0), *wcs.sky(truth(), 150.0, 20.0)) * 3600


def program(folder, text):
    path = folder / "solve-field"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def test_solve_field_gets_the_list_and_its_answer_is_read(tmp_path):
    header().totextfile(tmp_path / "answer.txt")
    answer = program(
        tmp_path, f"""import sys, json
from astropy.io import fits
x = [float(v) for v in fits.getdata(sys.argv[1], 1)["X"]]
json.dump([sys.argv[1:], x], open({str(tmp_path / "asked.json")!r}, "w"))
header = fits.Header.fromtextfile({str(tmp_path / "answer.txt")!r})
fits.PrimaryHDU(header=header).writeto(sys.argv[1].replace(".xyls", ".wcs"))
""")
    solution, source = solvers.solve_field(stars(), 30.0, answer)
    assert off(solution) < 1e-6 and "solve-field" in source and solution["crpix"] == tie.centre((100, 200))
    asked, x = json.loads((tmp_path / "asked.json").read_text())
    assert asked[asked.index("--ra") + 1] == "100.100000" and 0.6 < float(asked[asked.index("--scale-low") + 1]) < 0.72
    assert x == pytest.approx(stars()["x"] + 1, abs=1e-3)


def test_a_solver_that_hangs_or_fails_costs_its_time_and_nothing_else(tmp_path):
    start = time.monotonic()
    assert solvers.solve_field(stars(), 0.5, program(tmp_path, "import time; time.sleep(60)")) is None
    assert time.monotonic() - start < 5
    assert solvers.solve_field(stars(), 5.0, program(tmp_path, "raise SystemExit(1)")) is None
    assert solvers.solve_field(stars(), 5.0, "no such program") is None


def test_the_package_is_asked_in_a_process_of_its_own(tmp_path, monkeypatch):
    cards = {k: [header()[k], ""] for k in header()}
    (tmp_path / "astrometry.py").write_text(f"""import time
class Any:
    def __init__(self, *a, **k): pass
    def __enter__(self): return self
    def __exit__(self, *a): pass
    def solve(self, stars, **k):
        time.sleep(60 if len(stars) < 10 else 0)
        return self
    def has_match(self): return True
    def best_match(self): return self
    wcs_fields = {cards!r}
Solver = SizeHint = PositionHint = SolutionParameters = Any
""")
    (tmp_path / "index-1.fits").write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    solution, source = solvers.package(stars(), 30.0, [str(tmp_path)])
    assert off(solution) < 1e-6 and "package" in source
    assert solvers.package(stars(5), 1.5, [str(tmp_path)]) is None
    assert solvers.package(stars(), 30.0, [str(tmp_path / "none")]) is None


@pytest.fixture
def nova():
    log = {"status": "success", "asked": []}

    class Handler(BaseHTTPRequestHandler):

        def reply(self, content):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        def do_POST(self):
            content = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            log["asked"].append((self.path, json.loads(content["request-json"][0])))
            self.reply({"/api/login": {"session": "s1"}, "/api/upload": {"subid": 7}}[self.path])

        def do_GET(self):
            log["asked"].append((self.path, None))
            waiting = sum(p == self.path for p, _ in log["asked"]) < 2
            self.reply({
                "/api/submissions/7": {"jobs": [None] if waiting else [9]}, "/api/jobs/9": {"status": log["status"]},
                "/wcs_file/9": header().tostring().encode()
            }[self.path])

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", log
    httpd.shutdown()


def test_nova_is_asked_with_the_key_and_waited_for(nova):
    url, log = nova
    solution, source = solvers.nova(stars(), "secret", 20.0, url, pause=0.05)
    assert off(solution) < 1e-6 and source == "nova.astrometry.net"
    assert log["asked"][0][1] == {"apikey": "secret"} and log["asked"][1][1]["x"] == pytest.approx(stars()["x"] + 1)
    assert log["asked"][1][1]["publicly_visible"] == "n" and log["asked"][1][1]["image_width"] == 200


def test_nova_that_fails_or_never_ends(nova):
    url, log = nova
    log["status"] = "failure"
    assert solvers.nova(stars(), "secret", 20.0, url, pause=0.05) is None
    log["status"] = "solving"
    start = time.monotonic()
    assert solvers.nova(stars(), "secret", 1.0, url, pause=0.1) is None
    assert time.monotonic() - start < 4
    assert sum(path == "/api/upload" for path, _ in log["asked"]) == 2  # one submission a call, never again
    assert solvers.nova(stars(), "secret", 5.0, "http://127.0.0.1:1") is None


def test_the_field_uses_a_solver_when_nothing_else_is_known():
    """No pointing, no scale: the solver's answer, 3 arcsec off, is refined on the catalogue that comes with it."""
    sky_stars = sky()
    made = [frame(sky_stars, (100.0 + 0.003 * k, 20.0), seed=k) for k in range(3)]
    for table, _ in made:
        for key in ("OBJCTRA", "OBJCTDEC", "XPIXSZ", "FOCALLEN"):
            table.meta.pop(key)

    def solver(asked):
        assert asked["pointing"] is None and asked["scale"] is None and len(asked["x"]) > 50
        best = max(made, key=lambda m: -abs(m[0]["x"][0] - asked["x"][0]) - abs(m[0]["y"][0] - asked["y"][0]))
        return (dict(best[1], a=None, b=None,
                     crval=(best[1]["crval"][0] + 3 / 3600, best[1]["crval"][1])), "a friend", catalog(sky_stars))

    found = field([t for t, _ in made], solver=solver)
    assert found.meta["TIE"] == "a friend + test catalogue"
    assert all(solved(t, found, truth_, SHAPE)[0] < 0.05 for t, truth_ in made)
    assert field([t for t, _ in made], solver=lambda asked: None).meta["TIE"] == "relative"


def test_solve_field_itself_on_a_real_sky():
    """With the real program and its Tycho-2 index files, where they are installed."""
    import shutil

    from apfunc import catalog as catalogs

    known = catalogs.tycho2(100.0, 20.0, 1.2)
    if known is None or shutil.which("solve-field") is None:
        pytest.skip("no solve-field with Tycho-2 index files here")
    real = np.asarray(known["ra"]), np.asarray(known["dec"]), np.asarray(known["mag"]) + 2, 0
    table, truth_ = frame(real, (100.0, 20.0), spurious=0.1, warp=1.0, scale=4.5)
    from apfunc import field as module
    from apfunc import register

    listed = module._tie_list(register.register([register.frame_of(table)], []))
    solution, _ = solvers.solve_field(listed, 60.0)
    assert wcs.distance(*wcs.sky(solution, 500.0, 400.0), *wcs.sky(truth_, 500.0, 400.0)) * 3600 < 9
