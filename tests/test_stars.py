"""Stars of known place, flux and shape recovered; and what is no star not found."""

import numpy as np
import pytest
from astropy.io.fits import Header

from apfunc import detect, nebula, psf, starfit, trails
from apfunc import header as hdr
from apfunc.genuine import DEFECT, EDGE, FULL
from apfunc.stars import region, stars

GAIN, RDNOISE, SKY = 1.5, 8.0, 300.0
NOISE = np.hypot(np.sqrt(SKY / GAIN), RDNOISE / GAIN)


def places(n, shape, apart, seed, margin=20):
    rng, found = np.random.default_rng(seed), np.zeros((0, 2))
    while len(found) < n:
        new = rng.uniform(margin, [shape[1] - margin, shape[0] - margin])
        if not len(found) or np.hypot(*(found - new).T).min() > apart:
            found = np.vstack([found, new])
    return found.T


def paint(shape, x, y, flux, fwhm=3.0, beta=3.5, ellipticity=0.0, theta=0.0):
    """Moffat (beta) or Gaussian (None) stars of total flux, sampled at the pixels, written out plainly."""
    major, minor = fwhm / np.sqrt(1 - ellipticity), fwhm * np.sqrt(1 - ellipticity)
    out = np.zeros(shape)
    for x0, y0, f in zip(x, y, np.broadcast_to(flux, len(x))):
        reach = int(8 * fwhm * (3 if f > 1e6 else 1))
        rows = slice(max(0, round(y0) - reach), max(0, round(y0) + reach + 1))
        columns = slice(max(0, round(x0) - reach), max(0, round(x0) + reach + 1))
        dy, dx = np.mgrid[:shape[0], :shape[1]][:, rows, columns] - np.array([y0, x0])[:, None, None]
        c, s = np.cos(np.radians(theta)), np.sin(np.radians(theta))
        q = ((dx * c + dy * s) / (major / 2)) ** 2 + ((dy * c - dx * s) / (minor / 2)) ** 2
        if beta is None:
            out[rows, columns] += f * 4 * np.log(2) / np.pi / fwhm**2 * 2.0**-q
        else:
            k = 2 ** (1 / beta) - 1
            out[rows, columns] += f * k * (beta - 1) * 4 / np.pi / fwhm**2 * (1 + k * q) ** -beta
    return out


def frame(light, seed=0, saturate=60000.0, sky=SKY, **keywords):
    rng = np.random.default_rng(seed)
    data = rng.poisson((light + sky) * GAIN) / GAIN + rng.normal(0, RDNOISE / GAIN, np.shape(light))
    cards = {"EGAIN": GAIN, "RDNOISE": RDNOISE, "SATURATE": saturate, "EXPTIME": 60.0, "FILTER": "R", "OBJECT": "M 1"}
    header = Header(cards | keywords)
    return np.minimum(data, saturate).astype("f4"), header


def flux_of(snr, fwhm=3.0):
    """Flux with which a star has that signal-to-noise, by the matched filter over the sky and its own photons."""
    area = 4 * np.pi * (fwhm / 2.3548) ** 2
    return snr**2 / 2 / GAIN + np.sqrt((snr**2 / 2 / GAIN) ** 2 + snr**2 * area * NOISE**2)


def matched(table, x, y, radius=1.5):
    """(rows of the table, their true stars), each used once."""
    pairs = [(i, int(np.hypot(x - r["x"], y - r["y"]).argmin())) for i, r in enumerate(table)]
    pairs = [(i, j) for i, j in pairs if np.hypot(x[j] - table["x"][i], y[j] - table["y"][i]) < radius]
    first = {j: i for i, j in reversed(pairs)}
    return np.array(list(first.values()), int), np.array(list(first), int)


@pytest.mark.parametrize("fwhm, beta", [(3.0, 3.5), (2.0, 3.0), (5.0, 2.5), (3.0, None)])
def test_place_flux_and_width(fwhm, beta):
    shape = 700, 800
    x, y = places(250, shape, 7 * fwhm, seed=1, margin=25)
    snr = 10 ** np.random.default_rng(2).uniform(0.8, 2.7, 250)
    flux = flux_of(snr, fwhm)
    table = stars(frame(paint(shape, x, y, flux, fwhm, beta)))
    i, j = matched(table, x, y, fwhm / 2)
    assert len(table) - len(i) <= 2
    assert np.isin(np.flatnonzero(snr > 10), j).mean() >= 0.97
    good = snr[j] > 50
    i, j = i[good], j[good]
    off = np.r_[table["x"][i] - x[j], table["y"][i] - y[j]]
    assert np.sqrt(np.mean(off**2)) < (0.02 if fwhm <= 3 else 0.045) and abs(off.mean()) < 0.005
    assert abs(np.median(table["fwhm"][i]) / fwhm - 1) < 0.01 and abs(table.meta["FWHM"] / fwhm - 1) < 0.01
    ratio = table["flux"][i] / flux[j]
    assert abs(np.median(ratio) - 1) < 0.012 and np.std(ratio) < 0.02
    pull = (table["flux"][i] - flux[j]) / table["fluxerr"][i]
    assert 0.8 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.3
    assert abs(table.meta["SKY"] - SKY) < 3 and abs(table.meta["SKYNOISE"] / NOISE - 1) < 0.03
    assert table.meta["BETA"] > 20 if beta is None else abs(table.meta["BETA"] / beta - 1) < 0.1
    assert (np.diff(table["flux"]) <= 0).all()


@pytest.mark.parametrize("fwhm, binning", [(4.0, 2), (7.0, 3)])
def test_binned_frames_have_the_stars_of_the_frame(fwhm, binning):
    shape = 702, 801
    x, y = places(120, shape, 20 + 3 * fwhm, seed=1, margin=40)
    snr = 10 ** np.random.default_rng(2).uniform(1.3, 2.7, 120)
    rows, columns = np.mgrid[:702, :801]
    away = (columns - 340) * np.sin(0.4) - (rows - 310) * np.cos(0.4)
    image = frame(paint(shape, x, y, flux_of(snr, fwhm), fwhm) + 100 * np.exp(-(away**2) / 2 / 1.5**2))
    image[0][500:502, 400:440] = np.nan
    whole, table = stars(image), stars(image, binning=binning)
    for name, within in {"FWHM": 0.02, "SKY": 0.01, "SKYNOISE": 0.05, "SATFRAC": 1e-9, "BETA": 0.3}.items():
        assert table.meta[name] == pytest.approx(whole.meta[name], rel=within), name
    assert [table.meta[f"NAXIS{k}"] for k in (1, 2)] == [801, 702] and table.meta["TRAIL"] == 1
    ends = np.reshape([float(v) for v in table.meta["TRAIL1"].split()[:4]], (2, 2)) - [340, 310]
    assert np.abs(ends @ [np.sin(0.4), -np.cos(0.4)]).max() < 2 and np.hypot(*(ends[1] - ends[0])) > 550
    i, j = matched(table, x, y, fwhm / 2)
    assert len(table) - len(i) <= 1 and len(i) > 0.97 * len(matched(whole, x, y, fwhm / 2)[0])
    good = snr[j] > 50
    off = np.r_[table["x"][i] - x[j], table["y"][i] - y[j]][np.r_[good, good]]
    assert np.sqrt(np.mean(off**2)) < 0.012 * fwhm and abs(off.mean()) < 0.01
    ratio = (table["flux"][i] / flux_of(snr, fwhm)[j])[good]
    assert abs(np.median(ratio) - 1) < 0.02 and np.std(ratio) < 0.02
    pull = (table["flux"][i] - flux_of(snr, fwhm)[j]) / table["fluxerr"][i]
    assert 0.8 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.3
    assert stars(image, binning=binning, fwhm=fwhm).meta["FWHM"] == pytest.approx(whole.meta["FWHM"], rel=0.02)
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="binned"):
            stars(image, binning=wrong)


def test_trailed_stars_have_axes_and_angle():
    shape = 600, 600
    x, y = places(120, shape, 30, seed=3)
    fwhm, ellipticity = np.sqrt(5.2 * 3.1), 1 - 3.1 / 5.2
    table = stars(frame(paint(shape, x, y, flux_of(200, 4), fwhm, 4.0, ellipticity, 35.0)))
    assert len(table) == 120
    major = table["fwhm"] / np.sqrt(1 - table["ellipticity"])
    minor = table["fwhm"] * np.sqrt(1 - table["ellipticity"])
    assert abs(np.median(major) - 5.2) < 0.05 and abs(np.median(minor) - 3.1) < 0.03
    assert abs(np.median(table["theta"]) - 35) < 1 and abs(table.meta["THETA"] - 35) < 1
    assert abs(table.meta["ELLIP"] - ellipticity) < 0.01


def test_flux_does_not_depend_on_seeing():
    shape = 500, 500
    x, y = places(25, shape, 75, seed=4, margin=40)
    scale = []
    for fwhm, beta in ((2.2, 3.0), (3.0, 3.0), (4.0, 3.0), (5.5, 3.0), (3.0, 5.0), (10.0, 3.0)):
        table = stars(frame(paint(shape, x, y, 40000.0, fwhm, beta)))
        scale.append(np.median(table["flux"]) / 40000)
    assert np.ptp(scale[:5]) < 0.016 and abs(np.mean(scale[:5]) - 1) < 0.008 and abs(scale[5] - 1) < 0.03


def test_halo_beyond_the_psf_is_counted():
    """A tenth of the light in a halo of three times the width: the flux is still that of the whole star."""
    shape = 500, 500
    x, y = places(60, shape, 45, seed=5)
    light = paint(shape, x, y, 45000.0, 3.0, 4.0) + paint(shape, x, y, 5000.0, 7.0, 4.0)
    table = stars(frame(light))
    assert abs(np.median(table["flux"]) / 50000 - 1) < 0.015


def test_psf_over_the_field():
    shape = 700, 700
    x, y = places(250, shape, 22, seed=6)
    wide = np.digitize(x, [233, 467])
    light = sum(paint(shape, x[wide == k], y[wide == k], 30000.0, w, 3.5) for k, w in enumerate((2.7, 3.0, 3.3)))
    table = stars(frame(light))
    grid = np.array(table.meta["GRIDFWHM"].split(), float).reshape(3, 3)
    assert np.allclose(grid, [[2.7, 3.0, 3.3]] * 3, atol=0.1)
    i, j = matched(table, x, y)
    assert len(i) == len(table) == 250
    for k in range(3):
        assert abs(np.median(table["flux"][i][wide[j] == k]) / 30000 - 1) < 0.035  # steps that no polynomial follows
    assert len(table.meta["GRIDELL"].split()) == 9


def test_blends_are_taken_apart():
    shape = 500, 500
    x, y = places(60, shape, 40, seed=7, margin=30)
    angle = np.random.default_rng(1).uniform(0, 2 * np.pi, 30)
    for apart, loose in ((5.5, 0.02), (4.0, 0.1)):  # 1.8 and 1.3 FWHM: a peak each, and a shoulder
        x2, y2 = x[:30] + apart * np.cos(angle), y[:30] + apart * np.sin(angle)
        truth = np.r_[np.full(60, 40000.0), np.full(30, 15000.0)]
        table = stars(frame(paint(shape, np.r_[x, x2], np.r_[y, y2], truth)))
        i, j = matched(table, np.r_[x, x2], np.r_[y, y2])
        assert len(table) - len(i) <= 1 and len(i) >= 88
        for kind in (j < 30, j >= 60):
            assert abs(np.median(table["flux"][i][kind] / truth[j][kind]) - 1) < loose
        off = np.hypot(table["x"][i] - np.r_[x, x2][j], table["y"][i] - np.r_[y, y2][j])
        assert np.median(off[j < 30]) < 0.06 and np.median(off[j >= 60]) < 0.2


def test_cosmic_rays_and_hot_pixels_are_no_stars():
    shape = 500, 500
    x, y = places(60, shape, 25, seed=8)
    data, header = frame(paint(shape, x, y, flux_of(10 ** np.random.default_rng(1).uniform(1.2, 2.5, 60))))
    rng, away = np.random.default_rng(9), 0
    while away < 150:
        a, b, angle = *rng.uniform(10, 490, 2), rng.uniform(0, np.pi)
        if np.hypot(x - a, y - b).min() < 15:
            continue
        away += 1
        size = 10 ** rng.uniform(2, 4)
        for k in range(rng.integers(1, 8)):
            data[round(b + k * np.sin(angle)), round(a + k * np.cos(angle))] += size * rng.uniform(0.5, 1.5)
    table = stars((data, header))
    i, j = matched(table, x, y)
    assert len(table) - len(i) <= 2 and len(j) >= 58
    assert abs(table.meta["FWHM"] - 3) < 0.06


def test_hot_pixels_alone_are_an_empty_frame():
    data, header = frame(np.zeros((300, 300)))
    rng = np.random.default_rng(10)
    data[rng.integers(0, 300, 150), rng.integers(0, 300, 150)] += 10 ** rng.uniform(2, 4, 150)
    assert len(stars((data, header))) == 0


def test_nebula_hides_no_star_and_makes_none():
    shape = 600, 600
    x, y = places(100, shape, 25, seed=11)
    rng, ky = np.random.default_rng(12), np.fft.fftfreq(600)
    k = np.hypot(ky[:, None], ky)
    power = np.exp(-((k * 90) ** 2)) / np.maximum(k, 1e-3) ** 1.5
    cloud = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * power).real
    cloud = 400 * np.exp(cloud / cloud.std()) / np.e
    table = stars(frame(paint(shape, x, y, flux_of(60)) + cloud))
    i, j = matched(table, x, y)
    assert len(j) >= 98 and len(table) - len(i) <= 1
    knots = paint(shape, *places(40, shape, 40, seed=13), 20000.0, 9.0, None)
    table = stars(frame(paint(shape, x, y, flux_of(60)) + knots))
    i, j = matched(table, x, y)
    assert len(table) - len(i) <= 2 and len(j) >= 85


def test_stars_on_filaments_are_placed_as_on_plain_sky():
    shape, rng = (600, 600), np.random.default_rng(35)
    x, y = places(120, shape, 25, seed=36)
    light = paint(shape, x, y, flux_of(70))
    ky = np.fft.fftfreq(600)
    k = np.hypot(ky[:, None], ky)
    cloud = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * np.exp(-((k * 100) ** 2))).real
    cloud = 60 * np.exp(cloud / cloud.std() * 0.7)
    off, tables = [], [stars(frame(light + more)) for more in (0, cloud)]
    for table in tables:
        i, j = matched(table, x, y)
        assert len(j) >= 118 and len(table) - len(i) <= 2
        off.append(np.sqrt(np.mean(np.r_[table["x"][i] - x[j], table["y"][i] - y[j]] ** 2)))
    assert off[0] < 0.035 and off[1] < 1.25 * off[0]
    local = SKY + cloud[np.rint(y[j]).astype(int), np.rint(x[j]).astype(int)]
    assert abs(np.median(table["sky"][i] - local)) < 5 and np.median(np.abs(table["sky"][i] - local)) < 8


def test_nebula_is_what_is_wider_than_stars():
    rows, columns = np.mgrid[:400, :403]
    truth = 40 * np.exp(-((columns - 200) ** 2 + (rows - 150) ** 2) / 2 / 15.0**2)
    noise, none = np.random.default_rng(37).normal(0, 10, (400, 403)).astype("f4"), np.zeros((400, 403), "f4")
    full, no = np.zeros((400, 403), bool), (np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    assert nebula.find(noise, none, *no, full, 10.0, 3.0) is None
    flat = (truth + noise).astype("f4")
    seen = flat.copy()
    nebula.remove(flat, *nebula.find(flat, none, *no, full, 10.0, 3.0))
    seen -= flat
    assert np.abs(seen - truth)[truth > 10].max() < 8 and np.abs(seen)[truth < 0.1].max() < 5
    full[150, 200] = True  # nothing is said beside a burnt out star
    assert nebula.find(flat + seen, none, *no, full, 10.0, 3.0)[0][50, 67] == 0


def test_remove_against_interp():
    rng = np.random.default_rng(38)
    flat, cells = rng.normal(size=(71, 95)).astype("f4"), rng.normal(size=(23, 31)).astype("f4")
    cells[5:12] = 0
    middles = [3 * np.arange(n) + 1 for n in cells.shape]
    slow = np.array([np.interp(np.arange(95), middles[1], row) for row in cells])
    slow = np.array([np.interp(np.arange(71), middles[0], column) for column in slow.T]).T
    calm = flat.copy()
    nebula.remove(calm, cells, 3)
    assert np.allclose(flat - calm, slow, atol=1e-5)


def test_steep_gradient():
    shape = 400, 400
    x, y = places(60, shape, 25, seed=14)
    table = stars(frame(paint(shape, x, y, flux_of(100)) + np.arange(400.0) * 2))
    i, j = matched(table, x, y)
    assert len(i) == len(table) == 60


def test_burnt_out_stars():
    shape = 700, 700
    x, y = places(20, shape, 120, seed=15, margin=60)
    flux = 10 ** np.linspace(5, 7.3, 20)
    data, header = frame(paint(shape, x, y, flux), saturate=40000.0)
    for k in (17, 18, 19):  # the charge of the brightest bleeds along the column
        data[round(y[k]) - 50:round(y[k]) + 50, round(x[k]) - 1:round(x[k]) + 2] = 40000
    table = stars((data, header))
    i, j = matched(table, x, y)
    assert len(i) == len(table) == 20
    burnt = flux[j] * 0.08 > 40000
    assert ((table["flags"][i][burnt] & FULL) > 0).all() and (table["flags"][i][~burnt & (flux[j] < 3e5)] == 0).all()
    assert np.hypot(table["x"][i] - x[j], table["y"][i] - y[j]).max() < 0.1
    assert np.abs(table["flux"][i] / flux[j] - 1).max() < 0.1
    assert 0 < table.meta["SATFRAC"] < 0.01


def test_defocused_rings_are_one_star_each():
    shape = 500, 500
    x, y = places(30, shape, 60, seed=16, margin=40)
    rows, columns = np.mgrid[:500, :500]
    light = np.zeros(shape)
    for a, b in zip(x, y):
        r = np.hypot(columns - a, rows - b)
        light += 150 * np.clip(12.5 - r, 0, 1) * np.clip(r - 4.5, 0, 1)
    table = stars(frame(light))
    i, j = matched(table, x, y, 3)
    assert len(i) == len(table) == 30
    assert 15 < table.meta["FWHM"] < 28
    assert np.std(table["x"][i] - x[j]) < 0.5 and np.std(table["y"][i] - y[j]) < 0.5


def test_few_stars_among_brighter_knots_of_a_nebula_set_the_width():
    shape, rng = (500, 500), np.random.default_rng(5)
    x, y = places(12, shape, 60, seed=17, margin=30)
    light = paint(shape, x, y, 6000.0, fwhm=3.2)
    for width, height in zip(rng.uniform(12, 26, 60), rng.uniform(100, 600, 60)):
        flux = height * np.pi * width**2 / 4 / np.log(2)
        light += paint(shape, rng.uniform(20, 480, 1), rng.uniform(20, 480, 1), flux, width, None)
    table = stars(frame(light))
    assert table.meta["FWHM"] == pytest.approx(3.2, rel=0.1)
    assert len(matched(table, x, y)[0]) >= 10


def test_edges():
    x, y = np.array([2.0, 150.4, 297.6, 80.0, 297.0]), np.array([100.0, 1.6, 200.0, 297.5, 298.0])
    table = stars(frame(paint((300, 300), x, y, 30000.0)), fwhm=3.0)
    i, j = matched(table, x, y)
    assert sorted(j) == [0, 1, 2, 3, 4] and ((table["flags"] & EDGE) > 0).all()


def test_masked_pixels_are_left_out():
    shape = 400, 400
    x, y = places(40, shape, 40, seed=17)
    image = frame(paint(shape, x, y, 30000.0))
    mask = np.zeros(shape, "u1")
    spoilt = image[0].copy()
    for k in range(10):
        mask[round(y[k]), round(x[k]) + 1] = (hdr.BAD, hdr.COSMIC)[k % 2]
        spoilt[round(y[k]), round(x[k]) + 1] = (np.nan, 3e4)[k % 2]
    for k in range(10, 14):
        spoilt[round(y[k]) - 1, round(x[k]) - 2:round(x[k])] = np.nan
    mask[200:220] |= hdr.TRAIL
    spoilt[200:220] = 5000
    table = stars((spoilt, image[1]), mask)
    i, j = matched(table, x, y)
    assert len(i) == len(table)
    assert set(range(14)) - set(np.flatnonzero(np.abs(y - 210) < 13)) <= set(j)
    touched = j < 14
    assert ((table["flags"][i][touched] & DEFECT) > 0).all()
    assert abs(np.median(table["flux"][i][touched]) / 30000 - 1) < 0.03
    assert np.hypot(table["x"][i] - x[j], table["y"][i] - y[j]).max() < 0.2


def test_one_star():
    table = stars(frame(paint((256, 256), [100.3], [60.7], 20000.0)))
    assert len(table) == 1 and abs(table["x"][0] - 100.3) < 0.05 and abs(table["y"][0] - 60.7) < 0.05
    assert abs(table["flux"][0] / 20000 - 1) < 0.05 and abs(table.meta["FWHM"] - 3) < 0.2


@pytest.mark.parametrize("data", [
    np.random.default_rng(18).normal(100, 10, (300, 300)).astype("f4"), np.full((64, 64), np.nan, "f4"),
    np.full((64, 64), 5, "f4"),
    np.zeros((3, 3), "f4"), np.zeros((1, 1), "f4"), np.random.default_rng(19).poisson(100, (90, 40)).astype("u2"),
    np.random.default_rng(20).normal(0, 1, (16, 200)).astype("f4")])
def test_no_stars_is_an_empty_table(data):
    table = stars((data, Header()))
    assert len(table) == table.meta["NSTARS"] == 0 and "x" in table.colnames and "FWHM" not in table.meta
    assert table.meta["NAXIS1"] == data.shape[1] and table["x"].unit == "pixel"


def test_all_saturated_and_half_empty():
    table = stars((np.full((100, 100), 65535.0, "f4"), Header({"SATURATE": 60000.0})))
    assert len(table) == 0 and table.meta["SATFRAC"] == 1
    data, header = frame(paint((300, 300), [80.0], [150.0], 20000.0))
    data[:, 150:] = np.nan
    assert len(stars((data, header))) == 1


def test_trail_is_found_and_makes_no_stars():
    shape = 600, 700
    x, y = places(100, shape, 25, seed=21)
    rows, columns = np.mgrid[:600, :700]
    for peak, angle in ((25, 0.4), (100, 1.2), (5000, 2.5)):
        away = (columns - 340) * np.sin(angle) - (rows - 310) * np.cos(angle)
        table = stars(frame(paint(shape, x, y, flux_of(60)) + peak * np.exp(-(away**2) / 2 / 1.5**2)))
        assert table.meta["TRAIL"] == 1
        x0, y0, x1, y1, width = map(float, table.meta["TRAIL1"].split())
        for a, b in ((x0, y0), (x1, y1)):
            assert abs((a - 340) * np.sin(angle) - (b - 310) * np.cos(angle)) < 1.5
        assert np.hypot(x1 - x0, y1 - y0) > 550 and 5 <= width <= 16
        i, j = matched(table, x, y)
        assert len(table) - len(i) <= 1 and len(j) >= 90
        mask = trails.trail_mask(shape, table.meta)
        assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, hdr.TRAIL}
        assert (mask[np.abs(away) < 2] > 0).mean() > 0.99 and (mask[np.abs(away) > 9] == 0).all()


def test_no_trail_where_there_is_none():
    shape = 600, 700
    rng = np.random.default_rng(22)
    assert stars(frame(paint(shape, *places(300, shape, 5, seed=23), 10000.0))).meta["TRAIL"] == 0
    data, header = frame(np.zeros(shape))
    data[200:203] += 40  # bands and bad columns
    data[:, 300] += 500
    data += rng.normal(0, 5, (600, 1)).astype("f4")
    assert stars((data, header)).meta["TRAIL"] == 0
    rows, columns = np.mgrid[:600, :700]  # a very bright star with its spikes, turned a little
    along, across = (columns - 350) + 0.03 * (rows - 310), (rows - 310) - 0.03 * (columns - 350)
    spikes = np.exp(-(across**2) / 4) / (1 + (along / 5) ** 2) + np.exp(-(along**2) / 4) / (1 + (across / 5) ** 2)
    assert stars(frame(4e4 * spikes + paint(shape, [350], [310], 3e7))).meta["TRAIL"] == 0
    assert (trails.trail_mask((50, 60), {}) == 0).all()


def test_radon_against_a_plain_sum():
    cells = np.zeros((16, 20))
    cells[:, 7] = 1
    sums = trails.radon(cells)
    assert sums[0, 16 + 7] == 16 and sums[0].sum() == 16
    slanted = np.zeros((16, 40))
    slanted[np.arange(16), 5 + np.arange(16)] = 1
    assert trails.radon(slanted)[15, 16 + 5] == 16
    rng = np.random.default_rng(24)
    cells = rng.normal(size=(8, 10))
    sums = trails.radon(cells)
    assert np.allclose(sums[0, 8:], cells.sum(0), atol=1e-5) and np.allclose(sums.sum(1)[0], cells.sum(), atol=1e-4)


def test_fit_against_scipy():
    from scipy.optimize import least_squares
    rng, offsets = np.random.default_rng(25), psf.disc(7)
    truth = np.concatenate([psf.star(3.2, 0.3, 40, 3, 8000, 20.3, 30.6), psf.star(2.5, 0.1, -70, 5, 2000, 50.2, 9.9)])
    truth[:, psf.SKY] = 5, -3
    y, x = np.array([31, 10]), np.array([20, 50])
    values = psf.profiles(truth, y, x, offsets) + truth[:, psf.SKY, None] + rng.normal(0, 8, (2, len(offsets[0])))
    values[0, 5] = np.nan
    start = np.repeat(psf.star(3.0), 2, 0)
    start[:, [psf.A, psf.X, psf.Y]] = np.stack([np.nanmax(values, 1), x, y], 1)
    p, errors, chi2 = psf.fit(values, y, x, offsets, start, np.full(2, 8.0), free=psf.ALL, passes=40, near=1e-4)
    for k in range(2):
        good = np.isfinite(values[k])

        def rest(q):
            model = psf.profiles(q[None], y[k:k + 1], x[k:k + 1], offsets)[0].astype(float) + q[psf.SKY]
            return (model - values[k])[good] / 8
        found = least_squares(rest, truth[k], x_scale=np.abs(truth[k]) + 0.1, diff_step=1e-3)
        assert np.allclose(p[k, :7], found.x[:7], rtol=0.01, atol=0.02) and abs(chi2[k] / (2 * found.cost) - 1) < 0.01
        assert np.all(np.abs(p[k] - truth[k]) < 5 * errors[k] + 1e-3)


@pytest.mark.parametrize("free", [psf.POINT, psf.SHAPE, psf.ALL])
def test_normal_equations_against_numeric_derivatives(free):
    rng, offsets = np.random.default_rng(32), psf.disc(7)
    p = np.concatenate([psf.star(3.5, 0.3, 30, 4, 1000, 0.2, 0.3), psf.star(2.5, 0.1, -70, 3, 300, -0.4, 0.1)])
    p[:, psf.SKY] = 3, -2
    zero = np.zeros(2, int)

    def model(q):
        return psf.profiles(q, zero, zero, offsets) + q[:, psf.SKY, None]
    data = (model(p) + rng.normal(0, 5, (2, len(offsets[0])))).astype("f4")
    weight = rng.uniform(0, 1, data.shape).astype("f4")
    chi2, normal, gradient = psf._normal(np.sqrt(weight) * data, np.sqrt(weight), psf._powers(offsets), p, list(free))
    slopes = []
    for k in free:
        up, down, step = p.copy(), p.copy(), 2e-3 * np.maximum(1, np.abs(p[:, k]))
        up[:, k], down[:, k] = p[:, k] + step, p[:, k] - step
        slopes.append((model(up) - model(down)) / 2 / step[:, None])
    slopes, rest = np.array(slopes), data - model(p)
    slow = np.einsum("inp,jnp,np->ijn", slopes, slopes, weight)
    size = np.sqrt(np.einsum("iin->in", slow))
    assert np.abs((normal - slow) / size[:, None] / size).max() < 2e-3
    assert np.abs((gradient - np.einsum("inp,np->in", slopes, weight * rest)) / size).max() < 2e-3 * np.sqrt(chi2.max())
    assert np.allclose(chi2, (weight * rest**2).sum(1), rtol=1e-4)


def test_solve_against_linalg():
    matrix = np.random.default_rng(33).normal(size=(6, 5, 9))
    matrix, right = matrix @ matrix.transpose(0, 2, 1) + np.eye(5), matrix[:, :, 0]
    slow = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
    assert np.allclose(psf._solve(matrix.transpose(1, 2, 0).copy(), right.T.copy()).T, slow)


def test_stamps_and_paint_against_a_loop():
    data, offsets = np.random.default_rng(34).normal(size=(30, 40)).astype("f4"), psf.disc(3)
    for y, x in (np.array([[5, 9, 20], [7, 30, 10]]), np.array([[0, 29, 12], [39, 3, 20]])):
        slow = [[data[r + i, c + j] if 0 <= r + i < 30 and 0 <= c + j < 40 else np.nan for i, j in zip(*offsets)]
                for r, c in zip(y, x)]
        assert np.array_equal(detect.stamps(data, y, x, offsets), np.array(slow, "f4"), equal_nan=True)
        frame = np.zeros((30, 40), "f4")
        detect.paint(frame, np.ones((3, len(offsets[0])), "f4"), y, x, offsets)
        assert frame.sum() == np.isfinite(slow).sum()


def test_quantile_against_a_loop():
    values = np.random.default_rng(39).normal(size=(6, 11))
    values[2, :4] = values[3] = np.nan
    values[3, 5] = 7
    low, middle = detect.quantile(values, [0.2, 0.5])
    for row, a, b in zip(values, low, middle):
        good = np.sort(row[np.isfinite(row)])
        assert a == good[len(good) // 5] and b == good[len(good) // 2]


def test_light_follows_the_stars():
    p = np.concatenate([psf.star(3.0, flux=f, x=x, y=y) for f, x, y in ((100, 20, 20), (2e3, 24, 21), (5e5, 50, 40))])
    y, x, noise = p[:, psf.Y].astype(int), p[:, psf.X].astype(int), np.full(3, 5.0)
    light, new = np.zeros((80, 90), "f4"), p * [1.1, 1.01, 1, 1, 1, 1, 1, 1]
    sizes = starfit.paint(light, y, x, p, noise, 3.0)
    assert sizes.tolist() == [0, 1, 2] and np.abs(light.sum() / psf.total(p).sum() - 1) < 0.02
    starfit.paint(light, y, x, new, noise, 3.0, p, sizes)
    again = np.zeros((80, 90), "f4")
    starfit.paint(again, y, x, new, noise, 3.0, sizes=sizes)
    assert np.allclose(light, again, atol=0.02)
    flat = light + 3  # fitted from the old places, each without the others, the stars come back to the new ones
    back = starfit.settle(flat, again, y, x, psf.disc(6), new, noise, None, sizes, 3.0, np.ones(3, bool))
    assert np.allclose(back[:, :3], new[:, :3], rtol=0.01)


def test_settle_against_looking_at_all_stars_in_each_round():
    rng, width = np.random.default_rng(5), 2.5
    centre = rng.uniform(10, 290, (60, 2))  # groups of stars that touch each other, far apart
    place = np.concatenate([centre + rng.normal(0, 4, centre.shape) for _ in range(4)])
    p = np.repeat(psf.star(width), len(place), 0)
    p[:, psf.A], p[:, [psf.X, psf.Y]] = rng.uniform(50, 3000, len(p)), place
    y, x = np.rint(place[:, 1]).astype(int), np.rint(place[:, 0]).astype(int)
    noise, flat, light = np.full(len(p), 5.0), rng.normal(0, 5, (300, 300)).astype("f4"), np.zeros((300, 300), "f4")
    sizes = starfit.paint(flat, y, x, p, noise, width)
    start = p.copy()
    start[:, psf.A] *= rng.uniform(0.8, 1.2, len(p))
    starfit.paint(light, y, x, start, noise, width, sizes=sizes)
    offsets, moved = psf.disc(5), rng.random(len(p)) < 0.1
    some, slow, shine = tuple(v[::8] for v in offsets), start.copy(), light.copy()
    seen, again = np.zeros((len(p), len(some[0])), "f4"), moved
    for _ in range(5):
        others = detect.stamps(shine, y, x, some) - psf.profiles(slow, y, x, some)
        k = np.flatnonzero((np.abs(others - seen) > starfit.CHANGED * noise[:, None]).any(1) | again)
        found, _ = starfit.refit(flat, shine, y[k], x[k], offsets, slow[k], slow[k], noise[k], passes=4, near=0.003)
        starfit.paint(shine, y[k], x[k], found, noise[k], width, slow[k], sizes[k])
        seen[k], slow[k], again = others[k], found, False
    fast = starfit.settle(flat, light, y, x, offsets, start, noise, None, sizes, width, moved)
    assert np.array_equal(fast, slow) and np.array_equal(light, shine)


def test_rough_is_the_scatter_round_a_place():
    from scipy.ndimage import gaussian_filter
    rng, none = np.random.default_rng(40), np.zeros((300, 300), "f4")
    plain = rng.normal(0, 10, (300, 300)).astype("f4")
    cloud = gaussian_filter(rng.normal(0, 1, (300, 300)), 4)
    y, x = (v.ravel() for v in np.mgrid[40:260:44, 40:260:44])
    noise = np.full(len(y), 10.0)
    assert np.median(nebula.rough(plain, none, None, y, x, noise, 3.0)) < 1.1
    cloudy = plain + (12 * cloud / cloud.std()).astype("f4")
    assert np.median(nebula.rough(cloudy, none, None, y, x, noise, 3.0)) > 2
    assert np.median(nebula.rough(cloudy, cloudy - plain, None, y, x, noise, 3.0)) < 1.1


def test_shape_and_total_invert_star():
    p = psf.star(3.7, 0.25, 33, 2.8, 1234.0)
    fwhm, ellipticity, theta = psf.shape(p)
    assert np.allclose([fwhm[0], ellipticity[0], theta[0], psf.total(p)[0]], [3.7, 0.25, 33, 1234])
    image = psf.psf_image({"FWHM": 3.0, "ELLIP": 0.2, "THETA": 20.0, "BETA": 4.0}, 61)
    assert image.shape == (61, 61) and image.dtype == np.float32
    assert 0.99 < image.sum() < 1.001 and image.argmax() == 61 * 30 + 30
    with pytest.raises(ValueError, match="no FWHM"):
        psf.psf_image({})


def test_not_worse_than_daofind():
    finder = pytest.importorskip("photutils.detection")
    shape = 500, 500
    x, y = places(120, shape, 25, seed=26)
    snr = np.linspace(5, 60, 120)
    image = frame(paint(shape, x, y, flux_of(snr)))
    table = stars(image)
    i, j = matched(table, x, y)
    other = finder.DAOStarFinder(5 * NOISE * 0.9, 3.0)(image[0] - SKY)
    px, py = (np.asarray(other[[c for c in other.colnames if c in (f"{k}_centroid", f"{k}centroid")][0]]) for k in "xy")
    theirs = [np.hypot(px - a, py - b).min() for a, b in zip(x, y)]
    assert len(j) >= np.count_nonzero(np.array(theirs) < 1.5) - 1
    mine = np.hypot(table["x"][i] - x[j], table["y"][i] - y[j])
    assert np.median(mine) < np.median(np.array(theirs)[j])


def test_correlated_noise_makes_no_stars():
    from scipy.ndimage import gaussian_filter
    data = gaussian_filter(np.random.default_rng(27).normal(0, 50, (600, 600)), 1.0).astype("f4")
    assert len(stars((data, Header()))) <= 1


def test_options_win_over_the_header():
    shape = 300, 300
    x, y = places(20, shape, 40, seed=28)
    data, header = frame(paint(shape, x, y, 40000.0))
    bare = Header()
    with_gain, without = stars((data, header)), stars((data, bare))
    assert np.median(with_gain["fluxerr"]) > 1.2 * np.median(without["fluxerr"]) and "EGAIN" not in without.meta
    given = stars((data, bare), gain=GAIN, readnoise=RDNOISE, saturate=2000.0)
    assert given.meta["EGAIN"] == GAIN and given.meta["RDNOISE"] == RDNOISE and ((given["flags"] & FULL) > 0).all()
    assert len(stars((data, header), sigma=1e4)) == 0
    assert len(stars((data, header), fwhm=3.0)) == 20


def test_table_survives_a_fits_file_and_nothing_is_changed(tmp_path):
    from apfunc.tables import read_table, write_table
    shape = 300, 300
    x, y = places(20, shape, 40, seed=29)
    data, header = frame(paint(shape, x, y, 40000.0), AIRMASS=1.3, CRVAL1=83.6, XPIXSZ=9.0)
    header["RA"] = ""
    before, cards = data.copy(), header.copy()
    mask = np.zeros(shape, "u1")
    table = stars((data, header), mask)
    assert (data == before).all() and header == cards and not mask.any()
    again = stars((data, header), mask)
    assert all((table[c] == again[c]).all() for c in table.colnames) and table.meta == again.meta
    write_table(tmp_path / "s.fits", table)
    back = read_table(tmp_path / "s.fits")
    assert back.meta["FWHM"] == table.meta["FWHM"] and back.meta["GRIDFWHM"] == table.meta["GRIDFWHM"]
    assert back.meta["AIRMASS"] == 1.3 and back.meta["CRVAL1"] == 83.6 and back.meta["OBJECT"] == "M 1"
    assert "RA" not in back.meta
    assert np.allclose(back["x"], table["x"]) and all(len(k) <= 8 for k in table.meta)


def test_region():
    table = stars(frame(paint((200, 200), [50.0, 150.0], [60.0, 100.0], [40000.0, 20000.0])))
    lines = region(table).splitlines()
    assert lines[2] == "image" and len(lines) == 5 and lines[3].startswith("ellipse(5")


def test_saturated_groups_against_scipy():
    from scipy.ndimage import label
    full = np.random.default_rng(30).random((60, 70)) > 0.8
    full[10:50, 30] = True
    y, x, size = detect.saturated(full)
    assert len(y) == label(full, np.ones((3, 3)))[1] and size.max() >= 1
    assert detect.saturated(np.zeros((5, 5), bool))[0].size == 0


def test_maxima_against_a_loop():
    data = np.random.default_rng(31).normal(size=(30, 40)).astype("f4")
    slow = [(r, c) for r in range(1, 29) for c in range(1, 39)
            if data[r, c] > 1 and data[r, c] == data[r - 1:r + 2, c - 1:c + 2].max()]
    assert list(zip(*(v.tolist() for v in detect.maxima(data, 1.0)))) == slow


def test_a_colour_of_a_mosaic_has_noise_and_stars():
    from apfunc.debayer import debayer
    rng = np.random.default_rng(21)
    yy, xx = np.mgrid[:200, :200]
    data = rng.normal(300, 8, (200, 200))
    places = [(x, y) for x in range(25, 190, 40) for y in range(25, 190, 40)]
    for x, y in places:
        data += 2500 * np.exp(-4 * np.log(2) * ((xx - x) ** 2 + (yy - y) ** 2) / 4.0**2)
    mosaic = (data.astype("f4"), Header({"BAYERPAT": "RGGB", "EGAIN": 1.5, "RDNOISE": 8.0}))
    for colour in "RGB":
        found = stars(debayer(mosaic, colour))
        near = [np.hypot(found["x"] - x, found["y"] - y).min() for x, y in places]
        assert max(near) < 0.3 and len(found) == len(places)


def test_bands_of_a_large_frame_tell_the_width(monkeypatch):
    x, y = places(260, (768, 768), 30, 47)
    light = paint((768, 768), x, y, flux_of(200), fwhm=3.3)
    flat, none = frame(light, 47)[0] - np.float32(SKY), np.zeros(light.shape, bool)
    whole = detect.seeing(flat, none, NOISE)
    monkeypatch.setattr(detect, "LARGE", 1e5)
    monkeypatch.setattr(detect, "BAND", 64)
    bands = detect.seeing(flat, none, NOISE)
    assert bands != whole and abs(bands / whole - 1) < 0.02 and abs(bands / 3.3 - 1) < 0.05
    few = np.where(np.hypot(*(np.mgrid[:768, :768] - 384)) < 60, flat, np.float32(0))  # too few in the bands
    assert detect.seeing(few, none, NOISE) == detect._seeing(few, none, NOISE)[0]
