"""Bad-pixel maps: every defect put into a frame is found, and glow, vignetting and dust are not taken for defects."""

import gzip
import os

import numpy as np
import pytest
from astropy.io import fits

from apfunc import io
from apfunc.badpix import badpix, user_map
from apfunc.header import BAD, COLUMN, DEAD, HOT, SATURATED, UNSTABLE, USER
from apfunc.standout import least_around, level_at, residual, spread

N = 512


def header(**cards):
    return fits.Header({"EXPTIME": 60.0, "EGAIN": 1.5, "BIASSUB": True, "NCOMBINE": 9} | cards)


def dark_frame(rng, noise=3.0, glow=2000.0):
    y, x = np.mgrid[:N, :N]
    light = glow * np.exp(-((x - N) ** 2 + (y - N) ** 2) / (2 * (N / 6) ** 2))
    return rng.normal(5 + light, np.sqrt(noise**2 + light / 10)).astype("f4")


def flat_frame(rng, noise=0.005):
    """Vignetting and dust rings."""
    y, x = np.mgrid[:N, :N]
    flat = 1 - 0.3 * ((x - N / 2) ** 2 + (y - N / 2) ** 2) / (N / 2) ** 2
    for _ in range(10):
        radius = rng.uniform(8, 30)
        distance = np.hypot(*(np.array([x, y]) - rng.uniform(0, N, 2)[:, None, None])) - radius
        flat *= 1 - rng.uniform(0.03, 0.12) * np.clip(1 - np.abs(distance) / (radius / 2.5), 0, 1) ** 0.5
    return (flat * rng.normal(1, noise / np.sqrt(flat))).astype("f4")


def scattered(rng, count):
    some = np.zeros((N, N), bool)
    some.ravel()[rng.choice(N * N, count, replace=False)] = True
    return some


def test_hot_pixels_under_amplifier_glow():
    rng = np.random.default_rng(1)
    data, truth = dark_frame(rng), scattered(rng, 500)
    data[truth] += rng.uniform(150, 5000, 500)
    found, head = badpix((data, header()))
    assert found.dtype == np.uint8 and head["IMAGETYP"] == "Bad Pixel Map"
    assert (found[truth] & HOT).all()
    assert ((found != 0) & ~truth).sum() <= 3
    assert head["NHOT"] == np.count_nonzero(found & HOT) and head["NBAD"] == np.count_nonzero(found)


@pytest.mark.parametrize("exposure, noise, recall", [(60, 3.0, 0.98), (300, 6.0, 0.98), (10, 2.0, 0.98), (5, 8.0, 0.0)])
def test_two_electrons_per_second_are_hot_and_noise_is_not(exposure, noise, recall):
    """Rates from 2 to 100 e-/s; the last dark is too noisy for that, and good pixels must stay good all the same."""
    rng = np.random.default_rng(2)
    data, truth = dark_frame(rng, noise, glow=exposure), scattered(rng, 1000)
    data[truth] += np.geomspace(2, 100, 1000) * exposure / 1.5
    found, _ = badpix((data, header(EXPTIME=float(exposure))))
    assert (found[truth] != 0).mean() >= recall
    assert ((found != 0) & ~truth).sum() < 2e-4 * N * N


def test_warm_pixels_are_left_alone_where_the_gain_says_so():
    rng = np.random.default_rng(3)
    data = dark_frame(rng, 1.0, glow=0)
    data[::16, ::16] += 0.5 * 60 / 1.5
    assert badpix((data, header()))[1]["NBAD"] <= 2
    assert badpix((data, header(EGAIN="")))[1]["NHOT"] >= 1000
    assert badpix((data, header(EGAIN="")), gain=1.5)[1]["NBAD"] <= 2


def test_without_a_gain_the_noise_of_the_flats_gives_it():
    rng = np.random.default_rng(3)
    data = dark_frame(rng, 1.0, glow=0)
    data[::16, ::16] += 0.5 * 60 / 1.5
    frames = rng.poisson(20000 * 1.5, (7, N, N)) / 1.5 / 20000
    flat = (frames.mean(axis=0).astype("f4"), fits.Header({"NCOMBINE": 7, "FLATNORM": 20000.0}))
    error = np.full((N, N), frames.std(axis=0, ddof=1).mean() / np.sqrt(7), "f4")
    assert badpix((data, header(EGAIN="")), flats=[(flat, {"UNCERT": error})])[1]["NBAD"] <= 2


@pytest.mark.parametrize("columns", [(50, 51), (50, 51, 52), (50, 51, 52, 53), (0,), (0, 1), (N - 1,), (20, 22, 200)])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("height", [12.0, 60.0, -30.0])
def test_whole_columns_and_rows(columns, turned, height):
    rng = np.random.default_rng(4)
    data = dark_frame(rng, glow=100)
    truth = np.zeros((N, N), bool)
    truth[:, columns] = True
    data[truth] += height
    data, truth = (data.T, truth.T) if turned else (data, truth)
    found, head = badpix((data, header()))
    assert ((found & COLUMN) != 0)[truth].mean() > 0.99
    assert ((found != 0) & ~truth).sum() <= 8


@pytest.mark.parametrize("first, last, near", [(0, 200, 4), (300, N, 4), (150, 250, 4), (64, 128, 4)])
def test_part_columns_from_end_to_end(first, last, near):
    rng = np.random.default_rng(5)
    data = dark_frame(rng, glow=100)
    data[first:last, 100] += 15  # five sigma
    found, _ = badpix((data, header()))
    rows = np.flatnonzero(found[:, 100] & COLUMN)
    assert abs(rows[0] - first) <= near and abs(rows[-1] + 1 - last) <= near and rows.size >= last - first - 2 * near
    assert ((found[:, :100] & COLUMN) != 0).sum() == 0 and ((found[:, 101:] & COLUMN) != 0).sum() == 0


def test_two_part_columns_in_one_column():
    data = dark_frame(np.random.default_rng(6))
    truth = np.zeros(N, bool)
    truth[40:140] = truth[300:460] = True
    data[truth, 77] += 40
    found = (badpix((data, header()))[0][:, 77] & COLUMN) != 0
    assert (found != truth).sum() <= 8


def test_flats_dead_pixels_and_columns_but_not_dust_or_vignetting():
    rng = np.random.default_rng(7)
    truth, response = scattered(rng, 300), rng.uniform(0, 0.6, (N, N)).astype("f4")
    columns = np.zeros((N, N), bool)
    columns[:, [60, 61, 62]] = columns[200:400, 300] = columns[:, 0] = True
    flats = []
    for _ in range(3):
        data = flat_frame(rng)
        data[columns] *= 0.8
        data[truth] *= response[truth]
        flats.append((data, header()))
    found, _ = badpix(flats=flats)
    assert (found[truth] & (DEAD | COLUMN)).astype(bool).mean() >= 0.99
    assert ((found & COLUMN) != 0)[columns].mean() >= 0.99
    assert ((found != 0) & ~truth & ~columns).sum() < 2e-4 * N * N
    alone, _ = badpix(flats=flats[:1])
    assert ((alone != 0) & ~truth & ~columns).sum() < 2e-4 * N * N


def test_flats_as_rows_give_the_same_map():
    rng = np.random.default_rng(16)
    flats = [flat_frame(rng) for _ in range(2)]
    flats[0][300, 20:25] = flats[1][300, 20:25] = 0.3
    error = np.sqrt(flats[0] / (1.4 * 20000 * 5)).astype(">f4")
    dark = dark_frame(rng)
    dark[100, 100] += 500
    cards = {"FLATNORM": 20000.0, "NCOMBINE": 5}
    dark = dark, fits.Header({"EXPTIME": 60.0, "BIASSUB": True})
    whole, first = badpix(dark, [((flat, fits.Header(cards)), {"UNCERT": error}) for flat in flats])
    big = [flat.astype(">f4") for flat in flats]
    banded, second = badpix(dark, [((Rows(flat), fits.Header(cards)), {"UNCERT": Rows(error)}) for flat in big])
    assert np.array_equal(whole, banded) and first.tostring() == second.tostring()
    assert whole[100, 100] & HOT and (whole[300, 20:25] & DEAD).all()


def test_masters_in_files_give_the_same_map(tmp_path):
    rng = np.random.default_rng(17)
    data, error = dark_frame(rng), rng.uniform(0.9, 1.1, (N, N)).astype("f4")
    data[100, 100], error[200, 201], data[:, 50] = 900, 30, 500
    planes = {"UNCERT": error, "MASK": np.uint8(SATURATED) * scattered(rng, 9)}
    for name in ("a.fits", "b.fits.gz"):
        io.write(tmp_path / "a.fits", (data, header()), planes)
        if name.endswith("gz"):
            (tmp_path / name).write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
        read = {plane: io.read_rows(tmp_path / name, plane)[0] for plane in planes}
        found, _ = badpix((io.read_rows(tmp_path / name), read))
        assert np.array_equal(found, badpix(((data, header()), planes))[0])
    assert found[100, 100] & HOT and found[200, 201] & UNSTABLE and (found[:, 50] & COLUMN).all()
    rows = io.read_rows(tmp_path / "a.fits")
    os.truncate(tmp_path / "a.fits", 100_000)
    with pytest.raises(ValueError, match="cut short"):
        badpix(rows)


class Rows:
    """Rows-like: a shape, and rows when asked for."""

    def __init__(self, data):
        self.shape, self.data = data.shape, data

    def __getitem__(self, some):
        assert isinstance(some, slice)
        return self.data[some]


def test_a_speck_in_one_flat_of_three_is_not_dead():
    rng = np.random.default_rng(8)
    flats = [(flat_frame(rng), header()) for _ in range(3)]
    flats[0][0][100, 100] = 0.3
    assert badpix(flats=flats)[0][100, 100] == 0
    for data, _ in flats:
        data[200, 200] = np.nan
    assert badpix(flats=flats)[0][200, 200] == DEAD


def test_unstable_pixels_from_the_scatter_of_the_frames():
    rng = np.random.default_rng(9)
    for frames in (3, 5, 20):
        stack = rng.normal(0, 5, (frames, 256, 256))
        truth = np.zeros((256, 256), bool)
        truth[5::50, 7::50] = True
        stack[:, truth] *= 25
        error = (stack.std(axis=0, ddof=1) / np.sqrt(frames)).astype("f4")
        master = (np.zeros((256, 256), "f4") + rng.normal(0, 1, (256, 256)), header(NCOMBINE=frames))
        found, head = badpix((master, {"UNCERT": error}))
        assert ((found & UNSTABLE) != 0)[truth].mean() > 0.8
        assert ((found & UNSTABLE) != 0)[~truth].mean() < 1e-4
    clipped = np.zeros((256, 256), "u1")
    clipped[3, 4] = BAD
    assert badpix((master, {"MASK": clipped}))[0][3, 4] & UNSTABLE


def test_shot_noise_of_a_warm_pixel_is_not_instability():
    error = np.ones((64, 64), "f4")
    data = np.random.default_rng(0).normal(0, 1, (64, 64)).astype("f4")
    data[30, 30], error[30, 30] = 150, 3.2  # 150 ADU at 1.5 e-/ADU over 9 frames: sqrt(1 + 150 / 1.5 / 9) = 3.5
    assert badpix(((data, header(EXPTIME=900.0)), {"UNCERT": error}))[0][30, 30] == 0


def test_dark_that_still_holds_the_bias():
    rng = np.random.default_rng(10)
    bias = 1000 + np.tile(rng.normal(0, 30, N), (N, 1)).astype("f4")  # column pattern
    dark = bias + dark_frame(rng)
    dark[100, 100] += 400
    found, head = badpix((dark, header(BIASSUB=False)), bias=(bias + rng.normal(0, 1, (N, N)), header()))
    assert found[100, 100] & HOT and ((found & HOT) != 0).sum() < 10
    assert (found & COLUMN).sum() == 0  # a pattern of all columns has no bad ones


def test_user_list():
    user = {"bad_columns": [1, 12, 13], "bad_rows": [10], "bad_rectangles": [[1, 2, 3, 5], [9, 11, 12, 12]]}
    found, head = badpix(user=user, shape=(20, 30))
    truth = np.zeros((20, 30), bool)
    truth[:, [0, 11, 12]] = truth[9] = truth[0:2, 2:5] = truth[8:11, 11] = True
    assert np.array_equal(found, truth * np.uint8(USER))
    assert head["NUSER"] == head["NBAD"] == truth.sum()
    assert user_map({"bad_rows": None}, (5, 5)).sum() == 0 == user_map({}, (5, 5)).sum()
    assert (user_map({"bad_columns": [3]}, (5, 5)) == USER).sum() == 5


def test_user_list_adds_to_what_is_found():
    data = dark_frame(np.random.default_rng(11), glow=0)
    data[9, 11] += 5000
    found, _ = badpix((data, header()), user={"bad_columns": [12]})
    assert found[9, 11] == HOT | USER and found[10, 11] == USER


@pytest.mark.parametrize("user", [{"bad_columns": [0]}, {"bad_rows": [21]}, {"bad_rectangles": [[1, 2, 3]]},
                                  {"bad_columns": ["a"]}, {"bad_rectangles": [[2, 1, 1, 1]]}, {"columns": [1]}, [1, 2],
                                  {"bad_columns": [True]},
                                  {"bad_columns": 7}, {"bad_rectangles": [3]}])
def test_user_list_that_is_wrong(user):
    with pytest.raises(ValueError, match="bad"):
        user_map(user, (20, 30))


def test_errors():
    image = (np.ones((8, 8), "f4"), header())
    with pytest.raises(ValueError, match="nothing to make"):
        badpix()
    with pytest.raises(ValueError, match="different shapes"):
        badpix(image, flats=[(np.ones((8, 9), "f4"), header())])


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 5), (33, 7), (1, 40)])
def test_tiny_constant_and_empty_frames(shape):
    for value in (0.0, 7.0):
        image = (np.full(shape, value, "f4"), header())
        assert badpix(image, flats=[image] if value else [], bias=image)[0].sum() == 0
    assert (badpix((np.full(shape, np.nan, "f4"), header()))[0] == HOT).all()
    assert (badpix((np.full(shape, 3, "u2"), header()))[0] == 0).all()


def test_arguments_stay_as_they_were_and_the_map_repeats():
    rng = np.random.default_rng(12)
    data, error, head = dark_frame(rng), np.ones((N, N), "f4"), header(INSTRUME="cam")
    before = data.copy(), error.copy(), head.copy()
    one, first = badpix(((data, head), {"UNCERT": error}), flats=[(data, head)])
    two, second = badpix(((data, head), {"UNCERT": error}), flats=[(data, head)])
    assert np.array_equal(one, two) and first.tostring() == second.tostring() and first["INSTRUME"] == "cam"
    assert np.array_equal(data, before[0]) and np.array_equal(error, before[1])
    assert head.tostring() == before[2].tostring()
    assert len(first["HISTORY"]) == 1


def slow_residual(data):
    """Medians of 9 pixels, written out."""
    def run(a):
        pad = np.pad(a, ((0, 0), (4, 4)), mode="reflect")
        return np.array([[np.median(pad[y, x:x + 9]) for x in range(a.shape[1])] for y in range(a.shape[0])])
    return data - run(run(data).T).T


def test_residual_agrees_with_its_slow_twin():
    data = np.random.default_rng(13).normal(100, 5, (40, 27)).astype("f4")
    rest = residual(data)
    np.testing.assert_allclose(rest, slow_residual(data), atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 27), (3, 33), (32, 4), (2, 2), (48, 64)])
def test_level_at_some_pixels_is_that_of_all_and_above_its_bound(shape):
    data = np.random.default_rng(15).normal(100, 5, shape).astype("f4")
    data[1, 1] = np.nan
    level = np.where(np.isnan(data), np.nanmedian(data[::7, ::7]), data) - residual(data)
    at = np.arange(data.size)
    np.testing.assert_allclose(level_at(data, at), level.ravel(), rtol=1e-6)
    bound = np.repeat(least_around(data), 8, axis=0)[:shape[0]]
    assert bound.shape == shape and (bound <= level + 1e-4).all()


def test_spread_follows_the_noise_over_the_frame():
    rng = np.random.default_rng(14)
    truth = np.linspace(2, 10, N) * np.ones((N, 1))
    data = rng.normal(0, truth)
    data[rng.random((N, N)) < 0.01] += 1000
    found = spread(data.astype("f4"))
    assert np.abs(found / truth - 1).mean() < 0.04 and np.abs(found / truth - 1).max() < 0.25


def test_colours_of_a_mosaic_are_judged_apart():
    from astropy.io.fits import Header
    rng = np.random.default_rng(8)
    flat = rng.normal(1, 0.004, (256, 256))
    flat[::2, ::2] *= 0.4  # red is dim in the lamp
    flat[1::2, 1::2] *= 0.6
    truth = np.zeros(flat.shape, bool)
    truth[rng.integers(10, 246, 30), rng.integers(10, 246, 30)] = True
    flat[truth] *= 0.3
    found, _ = badpix(flats=[(flat.astype("f4"), Header({"BAYERPAT": "RGGB"}))])
    assert np.array_equal(found != 0, truth)
