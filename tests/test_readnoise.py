"""Gain and read noise come back within their errors, whatever the frames suffer from."""

import numpy as np
import pytest
from astropy.io import fits

from apfunc import readnoise as module
from apfunc.readnoise import readnoise


def camera(gain, noise, levels=(18000, 20000, 30000, 25000), n=4, shape=(512, 512), seed=1, whole=True, **header):
    """Biases and flats of a camera with hot pixels, pixel response and vignetting; cosmic rays in every frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:shape[0], :shape[1]]
    truth = 1 - 0.4 * ((y / shape[0] - 0.5)**2 + (x / shape[1] - 0.5)**2) / 0.5
    truth *= 1 + 0.02 * rng.standard_normal(shape)
    truth[:, shape[1] // 5] *= 0.3
    hot = np.where(rng.random(shape) < 1e-3, 20000, 0)

    def image(electrons, kind, **keys):
        data = 1000 + (electrons + noise * rng.standard_normal(shape)) / gain
        data[tuple(rng.integers(0, shape, (30, 2)).T)] += 5000
        data = np.clip(np.rint(data), 0, 65535).astype("u2") if whole else data
        return data, fits.Header({"IMAGETYP": kind, **header, **keys})
    biases = [image(np.zeros(shape), "Bias Frame") for _ in range(n)]
    flats = [image(rng.poisson(level * gain * truth) + hot * gain, "Flat Field", FILTER="R") for level in levels]
    return biases, flats


@pytest.mark.parametrize("kind", ["f8", "u2"])
def test_two_biases_of_ten_adu(kind):
    rng = np.random.default_rng(7)
    half = 0.5 if kind == "u2" else 0
    pair = [((rng.normal(1000, 10, (1000, 1000)) + half).astype(kind), fits.Header()) for _ in range(2)]
    row = readnoise(pair)[0]
    assert row["readnoise_adu"] == pytest.approx(10, abs=0.02)
    assert 0.005 < row["readnoise_adu_err"] < 0.01 and row["nbias"] == 2
    assert np.isnan(row["gain"]) and np.isnan(row["readnoise"]) and row["nflat"] == 0


@pytest.mark.parametrize("gain, noise", [(1.3, 9.0), (0.4, 3.0), (4.0, 4.0), (2.5, 2.0), (1.0, 16.0)])
def test_gain_and_read_noise_within_a_per_cent(gain, noise):
    row = readnoise(*camera(gain, noise))[0]
    assert row["gain"] == pytest.approx(gain, rel=0.008) and row["readnoise"] == pytest.approx(noise, rel=0.008)
    assert abs(row["gain"] - gain) < 4 * row["gain_err"] < 0.02 * gain
    assert abs(row["readnoise"] - noise) < 4 * row["readnoise_err"] < 0.02 * noise
    assert row["nbias"] == 4 and row["nflat"] == 4 and 10000 < row["level"] < 30000


def test_errors_are_honest():
    pulls = []
    for seed in range(12):
        row = readnoise(*camera(1.5, 8.0, shape=(192, 192), seed=seed))[0]
        pulls.append([(row["gain"] - 1.5) / row["gain_err"],
                      (row["readnoise_adu"] - 8 / 1.5) / row["readnoise_adu_err"]])
    assert 0.5 < np.std(pulls) < 1.6 and np.abs(np.mean(pulls, axis=0)).max() < 1


@pytest.mark.parametrize("sigma", [2.5, 3.0, 4.0, 6.0])
def test_truncation_is_corrected(sigma):
    values = np.random.default_rng(3).normal(5, 7, (200, 1024))
    variance, _ = module.truncated_variance(values, sigma)
    assert np.mean(variance) == pytest.approx(49, rel=0.01)
    slow = np.mean([np.var(v, ddof=1) for v in values])
    assert np.mean(variance) == pytest.approx(slow, rel=0.01)


def test_plain_variance_is_the_limit_without_outliers():
    biases, _ = camera(1.5, 8.0, shape=(256, 256), whole=False)
    clean = [(1000 + np.random.default_rng(i).normal(0, 8, (256, 256)), h) for i, (_, h) in enumerate(biases)]
    naive = np.sqrt(np.mean([np.var(a[0] - b[0]) / 2 for a, b in zip(clean[:-1], clean[1:])]))
    assert readnoise(clean)["readnoise_adu"][0] == pytest.approx(naive, rel=0.003)


def test_flats_of_several_filters_and_drifting_light():
    biases, red = camera(1.5, 8.0, levels=(10000, 20000, 40000))
    _, green = camera(1.5, 8.0, levels=(30000, 15000), seed=1)
    for _, header in green:
        header["FILTER"] = "G"
    tilt = np.linspace(0.95, 1.05, 512)[None, :]
    tilted = ((green[1][0] - 1000.0) * tilt + 1000).astype("u2"), green[1][1]
    row = readnoise(biases, red + [green[0], tilted])[0]
    assert row["gain"] == pytest.approx(1.5, rel=0.01) and row["nflat"] == 5


def test_saturated_flats_and_odd_frames_do_not_count():
    biases, flats = camera(1.5, 8.0, levels=(20000, 22000, 64000, 66000))
    lit = (biases[0][0] + 300).astype("u2"), biases[0][1]
    warm = biases[1][0], fits.Header({"IMAGETYP": "Bias Frame", "CCD-TEMP": -5.0})
    for _, header in biases:
        header["CCD-TEMP"] = -20.0
    row = readnoise([*biases, lit, warm], flats)[0]
    assert row["nbias"] == 4 and row["gain"] == pytest.approx(1.5, rel=0.01)


def test_low_light_and_pedestal():
    biases, flats = camera(1.5, 8.0, levels=(300, 400, 500), PEDESTAL=-100)
    row = readnoise(biases, flats)[0]
    assert row["gain"] == pytest.approx(1.5, rel=0.03) and row["bias"] == pytest.approx(900, abs=1)


def test_refusals():
    with pytest.raises(ValueError, match="two biases"):
        readnoise([])
    with pytest.raises(ValueError, match="found 1"):
        readnoise([(np.zeros((8, 8)), fits.Header()), (np.zeros((9, 9)), fits.Header())])
    with pytest.raises(ValueError, match="no noise"):
        readnoise([(np.full((64, 64), 7), fits.Header())] * 2)
    biases, flats = camera(1.5, 8.0, shape=(64, 64))
    row = readnoise(biases, [(np.zeros((32, 32)), fits.Header()), flats[0]])[0]  # another size; no pair left
    assert np.isnan(row["gain"]) and row["readnoise_adu"] > 0


def test_units_and_purity():
    biases, flats = camera(1.5, 8.0, shape=(64, 64))
    before = [d.copy() for d, _ in biases + flats]
    table = readnoise(biases, flats)
    assert all(np.array_equal(a, b) for a, (b, _) in zip(before, biases + flats))
    assert str(table["gain"].unit) == "electron / adu" and str(table["readnoise_err"].unit) == "electron"
    assert table.colnames[:5] == ["camera", "gain", "gain_err", "readnoise", "readnoise_err"]
    assert [list(r) for r in readnoise(biases, flats)] == [list(r) for r in table]


def test_the_sky_tells_the_gain_when_nothing_else_does(rng=np.random.default_rng(5)):
    from apfunc.readnoise import from_sky
    electrons = rng.poisson(900.0, (300, 300)) + rng.normal(0, 8, (300, 300))
    image = ((electrons / 1.5).astype("f4"), fits.Header())
    gain, noise = from_sky(image, readnoise_adu=8 / 1.5)
    assert abs(gain - 1.5) < 0.05 and abs(noise - 8) < 0.3
    alone, none = from_sky(image)
    assert none == 0 and abs((900 / 1.5) / alone - np.var(image[0])) < 0.05 * np.var(image[0])
    assert from_sky((image[0] - 900, fits.Header())) is None
