import numpy as np
import pytest
from astropy.io.fits import Header
from astropy.table import Table

from apfunc import psfmatch, sky, starflux
from apfunc.colourterm import colourterm
from apfunc.continuum import continuum

SCALE = 0.08


def moffat(size, x, y, fwhm, beta=3.0):
    """A star of flux 1, integrated over each pixel."""
    a2 = (fwhm / 2)**2 / (2**(1 / beta) - 1)
    fine = (np.arange(3 * size) - 1) / 3
    r2 = (fine - x)**2 + ((fine - y)**2)[:, None]
    values = (1 + r2 / a2)**-beta * (beta - 1) / np.pi / a2
    return values.reshape(size, 3, size, 3).mean((1, 3))


def scene(seed=1, size=384, stars=70, narrow=3.3, broad=2.6, blob=3e5, colours=0.02, faintest=1500, noise=(2.0, 6.0)):
    """A narrow- and a broad-band image of one field, the H-alpha in it, and the stars."""
    rng = np.random.default_rng(seed)
    line, cont = np.zeros((2, size, size))
    x, y = rng.uniform(4, size - 5, (2, stars))
    flux = np.minimum(faintest * (1 + rng.pareto(0.9, stars)), 1e5)
    scales = SCALE * np.exp(colours * rng.normal(size=stars))
    for star in zip(x, y, flux, scales):
        top, left = (int(np.clip(round(v) - 30, 0, size - 61)) for v in (star[1], star[0]))
        box = slice(top, top + 61), slice(left, left + 61)
        line[box] += star[2] * star[3] * moffat(61, star[0] - left, star[1] - top, narrow)
        cont[box] += star[2] * moffat(61, star[0] - left, star[1] - top, broad)
    yy, xx = np.mgrid[:size, :size]
    halpha = np.exp(-((xx - 0.55 * size)**2 + (yy - 0.45 * size)**2) / 2 / 14**2)
    halpha *= blob / halpha.sum()
    line += halpha
    images = []
    for data, level, sigma, name in ((line, 20, noise[0], "Ha"), (cont, 300, noise[1], "R")):
        data = rng.poisson(2 * (data + level)) / 2 + rng.normal(0, sigma, data.shape)
        images.append((data.astype("f4"), Header({"EGAIN": 2.0, "FILTER": name, "RAWFILE": f"{name}.fits"})))
    return *images, halpha, Table({"x": x, "y": y, "flux": flux})


@pytest.mark.parametrize("seed, narrow, broad", [(1, 3.3, 2.6), (2, 2.7, 3.3), (3, 3.0, 3.0)])
def test_truth_is_recovered(seed, narrow, broad):
    line, cont, halpha, stars = scene(seed, narrow=narrow, broad=broad)
    out, header = continuum(line, cont)
    assert out.dtype == np.float32 and header["CONTSRC"] in ("both", "stars")
    assert abs(header["CONTSCAL"] - SCALE) < 3 * header["CONTSERR"]
    assert header["CONTSERR"] < 0.03 * SCALE
    assert abs(header["CONTPIX"] - SCALE) < 3 * header["CONTPXER"] and header["CONTAGRE"]
    inside = halpha > 1e-3 * halpha.max()
    assert out[inside].sum() / halpha[inside].sum() == pytest.approx(1, abs=0.02)
    assert abs(out[:60, :60].mean()) < 0.5
    wanted = "none" if narrow == broad else "continuum" if narrow > broad else "line"
    assert header["CONTCONV"] == wanted or narrow == broad
    assert abs(header["CONTRESI"]) < 0.01


def test_stars_vanish_when_they_have_one_colour():
    line, cont, _, stars = scene(5, stars=25, blob=0, colours=0, faintest=2e4)
    out, header = continuum(line, cont)
    bright = stars[(stars["x"] > 20) & (stars["y"] > 20) & (stars["x"] < 363) & (stars["y"] < 363)]
    x, y = (np.rint(bright[c]).astype(int) for c in ("x", "y"))
    left, _, _ = starflux.fluxes(out, x, y, 6.0)
    share = left / (SCALE * bright["flux"])
    assert abs(np.average(share, weights=bright["flux"])) < 0.01
    assert np.median(np.abs(share)) < 0.02
    without, _ = continuum(line, cont, match=False, scale=SCALE)
    core = [np.abs(starflux.cutouts(d, x, y, 1)[0]).sum() for d in (out, without)]
    assert core[0] < 0.35 * core[1]  # the halos that matching takes away


def test_a_tilted_sky_is_levelled_and_a_nebula_over_the_field_is_not():
    line, cont, halpha, _ = scene(9, blob=3e5)
    plain, _ = continuum(line, cont)
    y, x = np.mgrid[:384, :384] / 384
    sloping, _ = continuum((line[0] + (20 * x - 12 * y).astype("f4"), line[1]), cont)
    assert np.quantile(np.abs(sloping - plain), 0.99) < 0.3  # [adu]; the noise is 4
    for wide in (60 * np.exp(-((x - 0.2)**2 + (y - 0.3)**2) / 0.3), 60 / (1 + np.exp((x - 0.5) / 0.05))):
        veiled, _ = continuum((line[0] + wide.astype("f4"), line[1]), cont)
        change = starflux.boxes([veiled - plain - wide])[0][0]
        assert np.ptp(change) < 1.0


def test_few_stars_and_by_hand_and_table():
    line, cont, halpha, stars = scene(7, stars=7, faintest=8000, colours=0)
    _, header = continuum(line, cont)
    assert 3 <= header["CONTNST"] <= 7
    assert abs(header["CONTSCAL"] - SCALE) < 3 * header["CONTSERR"] < 0.3 * SCALE
    _, by_hand = continuum(line, cont, scale=0.05)
    assert by_hand["CONTSCAL"] == 0.05 and by_hand["CONTSRC"] == "given" and "CONTSERR" not in by_hand
    assert by_hand["CONTSTAR"] == header["CONTSTAR"]
    _, given = continuum(line, cont, stars=stars)
    assert abs(given["CONTSCAL"] - SCALE) < 3 * given["CONTSERR"]


def test_arguments_stay_and_saturated_and_nan_have_no_value():
    line, cont, _, _ = scene(8)
    line[0][10, 20] = np.nan
    cont[0][30, 40] = np.nan
    cont[1]["SATURATE"] = float(np.nanmax(cont[0])) - 1
    before = line[0].copy(), cont[0].copy(), line[1].copy(), cont[1].copy()
    out, header = continuum(line, cont)
    np.testing.assert_array_equal(before[0], line[0])
    np.testing.assert_array_equal(before[1], cont[0])
    assert repr(before[2]) == repr(line[1]) and repr(before[3]) == repr(cont[1])
    assert np.isnan(out[10, 20]) and np.isnan(out[30, 40]) and np.isnan(out[cont[0] >= cont[1]["SATURATE"]]).all()
    assert np.isnan(out).sum() == 2 + (cont[0] >= cont[1]["SATURATE"]).sum()
    assert "SATURATE" not in header and "EGAIN" not in header and header["CONTFILE"] == "R.fits"
    again, _ = continuum(line, cont)
    np.testing.assert_array_equal(out, again)


def test_clear_errors():
    empty = np.full((64, 64), np.nan, "f4"), Header()
    flat = np.zeros((64, 64), "f4"), Header()
    with pytest.raises(ValueError, match="64x64 and 32x64"):
        continuum(flat, (np.zeros((64, 32), "f4"), Header()))
    with pytest.raises(ValueError, match="no value at all"):
        continuum(flat, empty)
    with pytest.raises(ValueError, match="too few stars"):
        continuum(flat, flat)
    with pytest.raises(ValueError, match="different grids"):
        continuum((flat[0], Header({"CRVAL1": 10.0})), (flat[0], Header({"CRVAL1": 10.1})))
    with pytest.raises(ValueError, match="finite"):
        continuum(flat, flat, scale=float("nan"))
    rng = np.random.default_rng(1)
    noise = [(rng.normal(100, 5, (64, 64)).astype("f4"), Header()) for _ in range(2)]
    with pytest.raises(ValueError, match="give --scale"):
        continuum(*noise)
    assert np.isfinite(continuum(*noise, scale=0.5)[0]).all()


def test_convolution_is_its_slow_twin():
    rng = np.random.default_rng(2)
    data = rng.normal(size=(70, 41)).astype("f4")
    data[5, 6] = data[69, 0] = np.nan
    kernel = rng.uniform(0.1, 1, (5, 5)).astype("f4")
    kernel /= kernel.sum()
    expected = np.full(data.shape, np.nan)
    for y, x in zip(*np.nonzero(np.isfinite(data))):
        total = weight = 0.0
        for j in range(-2, 3):
            for i in range(-2, 3):
                if 0 <= y - j < 70 and 0 <= x - i < 41 and np.isfinite(data[y - j, x - i]):
                    total += kernel[j + 2, i + 2] * data[y - j, x - i]
                    weight += kernel[j + 2, i + 2]
        expected[y, x] = total / weight
    for tile in (16, 256):
        np.testing.assert_allclose(psfmatch.convolve(data, kernel, tile), expected, atol=2e-5)


def test_cutouts_at_the_border_and_inside():
    data = np.random.default_rng(4).normal(size=(12, 15)).astype("f4")
    y, x = np.array([0, 5, 11, 6, 3]), np.array([0, 7, 14, 2, 9])
    found, distance = starflux.cutouts(data, x, y, 3)
    for k, (row, column) in enumerate(zip(y, x)):
        for n, (j, i) in enumerate((j, i) for j in range(-3, 4) for i in range(-3, 4)):
            inside = 0 <= row + j < 12 and 0 <= column + i < 15
            assert distance[n] == np.hypot(j, i)
            assert found[k, n] == data[row + j, column + i] if inside else np.isnan(found[k, n])
    assert starflux.cutouts(data, x[:0], y[:0], 3)[0].shape == (0, 49)


def test_the_real_scatter_of_ratios_is_found():
    rng = np.random.default_rng(9)
    x, noise = rng.uniform(10, 100, 2001), 0.5
    for tau in (0.0, 0.05, 0.3):
        y = 2 * x * rng.normal(1, tau, x.size) + rng.normal(0, noise, x.size)
        rest, plain, model = y - 2 * x, np.full(x.size, noise**2), 2 * x
        found = starflux._scatter(rest, plain, model, 2.0)
        assert found == pytest.approx(tau, rel=0.1, abs=0.006)
        if found:
            assert 1.4826 * np.median(np.abs(rest) / np.sqrt(plain + (found * model)**2)) == pytest.approx(1, abs=1e-9)


def test_kernel_matches_moffat_wings():
    sharp, blurred = moffat(129, 64.2, 63.9, 2.6), moffat(129, 64.2, 63.9, 3.4)
    pair = [(1e5 * d).astype("f4") for d in (sharp, blurred)]
    x = y = np.array([64])
    profiles = psfmatch.alike([psfmatch.profile(d, x, y, 0.5) for d in pair])
    assert psfmatch.fwhm(profiles[0]) == pytest.approx(2.7, abs=0.1)
    kernel = psfmatch.kernel(*pair, x, y, profiles, np.full((2, 1), 1e5), (0.5, 0.5))
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    soft = psfmatch.convolve(pair[0], kernel)
    assert np.abs(soft - pair[1]).max() < 0.01 * pair[1].max()
    assert soft[54:75, 54:75].sum() == pytest.approx(pair[1][54:75, 54:75].sum(), rel=3e-3)


@pytest.mark.parametrize("widths", [(3.0, 3.2), (2.6, 3.6), (2.2, 4.8)])
def test_kernel_does_not_blur_to_smooth_noise_away(widths):
    """The sharp image is the noisy one (a narrow band): the kernel from it must match stars without noise."""
    rng = np.random.default_rng(6)
    size, n = 400, 49
    x, y = 60 + 48 * np.arange(n) % 336 + rng.integers(-6, 7, n), 30 + 48 * (np.arange(n) // 7) + rng.integers(-6, 7, n)
    flux = 1000 * (1 + rng.pareto(1.0, n))
    pair = np.zeros((2, size, size))
    for a, b, f in zip(x, y, flux):
        for image, fwhm, share in zip(pair, widths, (1, 15)):
            image[b - 20:b + 21, a - 20:a + 21] += share * f * moffat(41, 20, 20, fwhm)
    pair = [(d + rng.normal(0, 8, d.shape)).astype("f4") for d in pair]
    brightest = np.argsort(-flux)
    x, y, fluxes = x[brightest], y[brightest], np.stack([flux, 15 * flux])[:, brightest]
    profiles = psfmatch.alike([psfmatch.profile(d, x, y, 8.0) for d in pair])
    kernel = psfmatch.kernel(*pair, x, y, profiles, fluxes, (8.0, 8.0))
    one, two = (moffat(81, 40, 40, fwhm) for fwhm in widths)
    assert psfmatch.convolve(one.astype("f4"), kernel) == pytest.approx(two, abs=0.025 * two.max())


def test_slope_is_unbiased_with_noise_in_both():
    rng = np.random.default_rng(3)
    pulls, found = [], []
    for _ in range(60):
        x = rng.uniform(50, 300, 25)
        y = 0.4 * x * np.exp(0.05 * rng.normal(size=25)) + rng.normal(0, 5, 25)
        y[:2] *= 3  # emission-line stars
        s, error, used = starflux.slope(x + rng.normal(0, 10, 25), np.full(25, 10.0), y, np.full(25, 5.0))
        assert not used[:2].all()
        pulls.append((s - 0.4) / error)
        found.append(s)
    assert np.mean(found) == pytest.approx(0.4, abs=0.004)
    assert 0.6 < np.std(pulls) < 1.5
    assert np.isnan(starflux.slope(*np.zeros((4, 0)))[0])


def test_sky_is_blind_to_a_nebula_and_to_skewed_noise():
    rng = np.random.default_rng(4)
    yy, xx = np.mgrid[:512, :512]
    nebula = 60 * np.exp(-((xx - 300)**2 + (yy - 250)**2) / 2 / 90**2)
    data = (rng.poisson(8 + nebula) + rng.normal(0, 1, nebula.shape)).astype("f4")
    level, noise = starflux.sky(data)
    assert level == pytest.approx(8, abs=0.3) and noise == pytest.approx(3, abs=0.15)
    flat = rng.poisson(8.0, (512, 512)).astype("f4")
    assert starflux.sky(flat)[0] == pytest.approx(8, abs=0.05)
    assert np.isnan(starflux.sky(np.full((40, 40), np.nan, "f4"))[0])


def test_colour_term_is_found_and_used_where_it_helps():
    rng = np.random.default_rng(11)
    size, term = 384, 0.35
    x, y = rng.uniform(15, size - 16, (2, 60))
    flux, colour = np.minimum(6000 * (1 + rng.pareto(1.0, 60)), 1e5), rng.uniform(-0.4, 0.4, 60)
    images = []
    for light, fwhm, level, name in ((flux * SCALE * (1 + term * colour), 3.0, 20, "Ha"), (flux, 2.6, 300, "r"),
                                   (0.6 * flux * (1 + colour), 3.2, 200, "g")):
        data = np.zeros((size, size))
        for a, b, f in zip(x, y, light):
            top, left = (int(np.clip(round(v) - 30, 0, size - 61)) for v in (b, a))
            data[top:top + 61, left:left + 61] += f * moffat(61, a - left, b - top, fwhm)
        data = rng.poisson(2 * (data + level)) / 2 + rng.normal(0, 2, data.shape)
        images.append((data.astype("f4"), Header({"EGAIN": 2.0, "FILTER": name})))
    narrow, broad, other = images
    mixed = colourterm(narrow, broad, other)
    assert mixed[1]["CONTCOLU"] and mixed[1]["CONTCOLF"] == "g"
    middle = np.median(colour)
    assert abs(mixed[1]["CONTCOLK"] - term * (1 + middle) / (1 + term * middle)) < 4 * mixed[1]["CONTCOLE"]
    left = []
    for cont in (broad, mixed):
        out, header = continuum(narrow, cont)
        share = starflux.fluxes(out, np.rint(x).astype(int), np.rint(y).astype(int), 5.0)[0] / (SCALE * flux)
        left.append(np.median(np.abs(share - np.median(share))))
    assert header["CONTCOLU"] and left[1] < 0.4 * left[0]
    alike = (0.7 * broad[0] + rng.normal(0, 5, broad[0].shape).astype("f4"), Header({"EGAIN": 2.0}))
    assert colourterm(narrow, broad, alike)[1].get("CONTCOLU", False) is False


def simulated(seed, narrow, broad, size=512, wide=1.0, galaxy=True, frames=4, exptime=120.0, gain=1.4):
    """H-alpha and R of the simulator's sky (crowded, a nebula over most of it) and the true ratio of its stars."""
    rng = np.random.default_rng(seed)
    ra, dec, scale, area = 303.03, 38.36, 2.4, 83.0
    view = dict(ra=ra, dec=dec, x0=size / 2, y0=size / 2, scale=scale, angle=0.0, mirror=1, distortion=0.0, corner=size)
    stars = sky.stars(ra, dec, size * scale / 3600, seed)
    maps = sky.extended(1.35 * size * scale / 3600 / wide, seed, 400, galaxy)
    x, y = sky.to_pixel(view, stars["ra"], stars["dec"])
    images, rates = [], []
    for name, fwhm in (("Ha", narrow), ("R", broad)):
        rates.append(sky.rate(stars["mag"], stars["colour"], name, area))
        light = np.zeros((size, size), "f4")
        same = np.ones(len(stars))
        sky.add_stars(light, x, y, rates[-1] * exptime, fwhm * same, 0.04 * same, 20 * same)
        sky.add_extended(light, view, maps, (ra, dec), name, 2500 * 8.4e-7 * area, area, exptime)
        facts = sky.facts(name)
        light += facts["zero"] * area * scale**2 * exptime * 10**(-0.4 * facts["sky"])
        data = rng.poisson(light * frames) / frames + rng.normal(0, 8 / frames**0.5, light.shape)
        images.append(((data / gain).astype("f4"), Header({"EGAIN": gain * frames, "FILTER": name})))
    bright = rates[1] > np.quantile(rates[1], 0.7)
    return *images, float(np.median((rates[0] / rates[1])[bright]))


@pytest.mark.parametrize("seed, narrow, broad, wide", [(1, 3.0, 3.0, 1.0), (2, 3.0, 4.5, 1.0), (3, 4.6, 2.9, 0.6)])
def test_scale_and_injected_light_on_the_simulators_sky(seed, narrow, broad, wide):
    line, cont, truth = simulated(seed, narrow, broad, wide=wide)
    out, header = continuum(line, cont)
    assert abs(header["CONTSCAL"] - truth) < 2 * header["CONTSERR"] < 0.03 * truth
    assert abs(header["CONTRESI"]) < 0.01 and header["CONTAGRE"]
    y, x = np.mgrid[:512, :512]
    more = 300 * np.exp(-((x - 200)**2 + (y - 330)**2) / 2 / 9**2)
    injected, after = continuum((line[0] + more.astype("f4"), line[1]), cont)
    near = more > 0.3
    assert (injected - out)[near].sum() / more[near].sum() == pytest.approx(1, abs=0.02)
    assert after["CONTSCAL"] == pytest.approx(header["CONTSCAL"], rel=0.005)
