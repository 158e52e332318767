"""Bad pixels are rebuilt from their neighbours: on sky, on slopes, on star cores, across columns; or stay NaN."""

import numpy as np
import pytest
from astropy.io import fits

from apfunc.fixpix import FWHM, NUGGET, WINDOWS, estimate, fixpix, flag
from apfunc.header import BAD, COSMIC, NODATA, SATURATED

HEADER = fits.Header({"EGAIN": 1.5})


def star(shape, y, x, peak, fwhm, sky=300.0):
    """A Gaussian star, averaged over 7x7 points a pixel, with that value in its highest pixel."""
    fine = (np.arange(7) - 3) / 7
    lines = ((np.arange(shape[0]), y), (np.arange(shape[1]), x))
    fy, fx = (np.exp(-2.7726 * (line[:, None] + fine - at) ** 2 / fwhm**2).mean(1) for line, at in lines)
    light = np.outer(fy, fx)
    return (sky + (peak - sky) * light / light.max()).astype("f4")


def on(shape, *pixels):
    bad = np.zeros(shape, "u1")
    for pixel in pixels:
        bad[pixel] = 1
    return bad


@pytest.mark.parametrize("fwhm, within", [(2.0, 0.10), (2.5, 0.04), (3.06, 0.02), (4.0, 0.01), (6.0, 0.01)])
def test_a_bad_pixel_on_a_star_core(fwhm, within):
    """FWHM 3.06, peak 5000 on 300: 2 % of the peak; a 5x5 median gives 1635."""
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(30):
        y, x = 12 + rng.uniform(-0.5, 0.5, 2)
        truth = star((25, 25), y, x, 5000, fwhm)
        data = truth + rng.normal(0, 15, truth.shape).astype("f4")
        core = np.unravel_index(truth.argmax(), truth.shape)
        data[core] = 60000
        fixed, head = fixpix((data, HEADER), on(data.shape, core))
        errors.append((fixed[core] - truth[core]) / 4700)
        assert head["NBADPIX"] == 1 and head["NBADLEFT"] == 0
    assert np.sqrt(np.mean(np.square(errors))) < within


def test_better_than_what_else_there_is_on_a_star_core():
    from astropy.convolution import Gaussian2DKernel, interpolate_replace_nans
    ours, theirs, median = [], [], []
    rng = np.random.default_rng(2)
    for _ in range(10):
        truth = star((25, 25), 12 + rng.uniform(-0.5, 0.5), 12 + rng.uniform(-0.5, 0.5), 5000, 3.06)
        data = truth + rng.normal(0, 15, truth.shape).astype("f4")
        core = np.unravel_index(truth.argmax(), truth.shape)
        data[core] = np.nan
        ours.append(abs(fixpix((data, HEADER), None)[0][core] - truth[core]))
        theirs.append(abs(interpolate_replace_nans(data, Gaussian2DKernel(1))[core] - truth[core]))
        median.append(abs(np.nanmedian(data[core[0] - 2:core[0] + 3, core[1] - 2:core[1] + 3]) - truth[core]))
    assert np.mean(ours) < 0.1 * np.mean(theirs) and np.mean(ours) < 0.05 * np.mean(median)


@pytest.mark.parametrize("width, within", [(1, 0.05), (2, 0.22), (3, 0.35)])
@pytest.mark.parametrize("turned", [False, True])
def test_bad_columns_through_a_star(width, within, turned):
    """Largest error, as a fraction of the peak, and the error of the star's flux."""
    rng = np.random.default_rng(3)
    worst, lost = [], []
    for _ in range(20):
        truth = star((41, 41), 20 + rng.uniform(-0.5, 0.5), 20 + rng.uniform(-0.5, 0.5), 5000, 3.06)
        data = truth + rng.normal(0, 5, truth.shape).astype("f4")
        bad = on(data.shape, np.s_[:, 20:20 + width])
        data[bad != 0] = -500
        data, bad, truth = (data.T, bad.T, truth.T) if turned else (data, bad, truth)
        fixed, _ = fixpix((data, HEADER), bad)
        worst.append(np.abs(fixed - truth)[bad != 0].max() / 4700)
        lost.append((fixed - truth)[bad != 0].sum() / (truth - 300).sum())
    assert np.mean(worst) < within and abs(np.mean(lost)) < within / 2


def test_a_known_fwhm_serves_undersampled_stars():
    truth = star((25, 25), 12.1, 11.8, 5000, 1.8)
    data, core = truth.copy(), (12, 12)
    data[core] = 0
    bad = on(data.shape, core)
    plain, known = (abs(fixpix((data, HEADER), bad, fwhm=w)[0][core] - truth[core]) for w in (None, 1.8))
    assert known < plain and known < 0.12 * 4700


def test_sky_keeps_its_level_and_gets_no_extra_noise():
    rng = np.random.default_rng(4)
    data = rng.normal(300, 17, (300, 300)).astype("f4")
    bad = (rng.random(data.shape) < 0.02).astype("u1")
    data[bad != 0] = 65535
    fixed, head = fixpix((data, HEADER), bad)
    filled = fixed[bad != 0]
    assert head["NBADPIX"] == bad.sum()
    assert abs(filled.mean() - 300) < 1 and filled.std() < 12
    assert np.array_equal(fixed[bad == 0], data[bad == 0])


def test_slopes_are_followed():
    y, x = np.mgrid[:60, :60]
    truth = (1000 + 12 * x - 7 * y + 0.2 * x * x).astype("f4")
    bad = on(truth.shape, (20, 20), np.s_[40:42, 30:32], np.s_[:, 50])
    data = np.where(bad, np.float32(0), truth)
    fixed, _ = fixpix((data, HEADER), bad)
    assert np.abs(fixed - truth).max() < 12


def slow_twin(data, bad, y, x, fwhm, half):
    """The sharp estimate of one pixel, with the equations of ordinary kriging written out."""
    near = [(i, j) for i in range(y - half, y + half + 1) for j in range(x - half, x + half + 1)
            if 0 <= i < data.shape[0] and 0 <= j < data.shape[1] and not bad[i, j]]

    def covariance(a, b):
        return np.exp(-((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (4 * (fwhm / 2.3548) ** 2)) + NUGGET * (a == b)
    n = len(near)
    system = np.ones((n + 1, n + 1))
    system[n, n] = 0
    system[:n, :n] = [[covariance(a, b) for a in near] for b in near]
    weights = np.linalg.solve(system, [covariance(a, (y, x)) for a in near] + [1])[:n]
    return sum(w * data[p] for w, p in zip(weights, near))


def test_the_estimate_agrees_with_its_slow_twin():
    """Without noise the sharp estimate stands alone."""
    truth = star((31, 33), 15.2, 16.4, 9000, 3.0)
    bad = on(truth.shape, (15, 16), (16, 17), (14, 17), (0, 0), (15, 13)).astype(bool)
    data = np.where(bad, np.nan, truth)
    at = np.flatnonzero(bad)
    found = estimate(data, at, bad)
    for place, value in zip(at, found):
        y, x = divmod(place, truth.shape[1])
        half = WINDOWS[0][0]
        if y > 2:  # (a corner has too few neighbours for the first window)
            assert abs(value - slow_twin(data, bad, y, x, FWHM, half)) < 0.5


def test_what_cannot_be_repaired_stays_nan_with_its_bit():
    data = np.random.default_rng(5).normal(300, 10, (80, 80)).astype("f4")
    bad = on(data.shape, np.s_[20:45, 20:45], (60, 60))
    data[70, 70] = np.nan
    fixed, head = fixpix((data, HEADER), bad)
    assert np.isnan(fixed[25:40, 25:40]).all() and np.isfinite(fixed[20, 30]) and np.isfinite(fixed[70, 70])
    assert head["NBADLEFT"] == np.isnan(fixed).sum() and head["NBADPIX"] + head["NBADLEFT"] == 25 * 25 + 2
    mask = flag(None, bad, (fixed, head))
    assert np.array_equal((mask & NODATA) != 0, np.isnan(fixed)) and np.array_equal((mask & BAD) != 0, bad != 0)


def test_flag_adds_to_a_mask():
    data = np.ones((5, 5), "f4")
    data[4, 4] = np.nan
    given = np.full((5, 5), COSMIC, "u1")
    mask = flag(given, (on((5, 5), (1, 1)), HEADER), (data, HEADER))
    assert mask[1, 1] == COSMIC | BAD and mask[4, 4] == COSMIC | BAD | NODATA and mask[0, 0] == COSMIC
    assert (given == COSMIC).all() and mask.dtype == np.uint8
    assert not flag(None, None, (np.ones((3, 3), "f4"), HEADER)).any()


def test_masked_pixels_are_no_neighbours():
    data = np.random.default_rng(6).normal(300, 5, (30, 30)).astype("f4")
    data[15, 16] = data[14, 15] = 9000
    mask = np.zeros(data.shape, "u1")
    mask[15, 16] = mask[14, 15] = COSMIC
    bad = on(data.shape, (15, 15))
    assert abs(fixpix((data, HEADER), bad, mask)[0][15, 15] - 300) < 20
    assert fixpix((data, HEADER), bad, mask)[0][15, 16] == 9000
    assert fixpix((data, HEADER), bad, np.where(mask, SATURATED, 0).astype("u1"))[0][15, 15] > 1000


def test_a_hole_in_a_saturated_core_stays_saturated():
    data = np.minimum(star((31, 31), 15, 15, 200000, 6), 60000)
    data[15, 15] = 0
    head = fits.Header({"SATURATE": 60000.0})
    assert fixpix((data, head), on(data.shape, (15, 15)))[0][15, 15] >= 60000
    data = np.minimum(star((31, 31), 15, 15, 30000, 6), 60000)
    assert fixpix((data, head), on(data.shape, (15, 15)))[0][15, 15] < 60000


@pytest.mark.parametrize("columns", [[0], [0, 1], [99], [50, 51, 52, 53]])
def test_columns_at_the_edges_and_wide_ones(columns):
    data = np.random.default_rng(7).normal(300, 10, (100, 100)).astype("f4")
    bad = on(data.shape, np.s_[:, columns])
    data[bad != 0] = 5000
    fixed, _ = fixpix((data, HEADER), bad)
    assert np.isfinite(fixed).all() and np.abs(fixed - 300).max() < 60


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 3), (2, 40), (7, 7)])
def test_tiny_and_hopeless_frames(shape):
    everything = np.ones(shape, "u1")
    fixed, head = fixpix((np.ones(shape, "f4"), HEADER), everything)
    assert np.isnan(fixed).all() and head["NBADLEFT"] == everything.size
    fixed, head = fixpix((np.full(shape, 7, "u2"), HEADER), np.zeros(shape, "u1"))
    assert (fixed == 7).all() and fixed.dtype == np.float32 and head["NBADPIX"] == 0
    assert np.isnan(fixpix((np.full(shape, np.nan, "f4"), HEADER), None)[0]).all()
    one = np.zeros(shape, "u1")
    one[0, 0] = 1
    fixed = fixpix((np.full(shape, 5, "f4"), HEADER), one)[0]
    assert np.isnan(fixed[0, 0]) or fixed[0, 0] == 5


def test_infinite_pixels_are_repaired():
    data = np.full((20, 20), 9, "f4")
    data[4, 4], data[10, 10] = np.inf, -np.inf
    assert np.array_equal(fixpix((data, HEADER), None)[0], np.full((20, 20), 9, "f4"))


def test_shapes_that_differ():
    image = (np.ones((4, 5), "f4"), HEADER)
    with pytest.raises(ValueError, match="bad-pixel map is .* same camera"):
        fixpix(image, np.ones((5, 4), "u1"))
    with pytest.raises(ValueError, match="the mask is"):
        fixpix(image, None, np.ones((5, 5), "u1"))


def test_arguments_stay_as_they_were_and_the_result_repeats():
    rng = np.random.default_rng(8)
    data, bad = rng.normal(300, 10, (50, 60)).astype("f4"), (rng.random((50, 60)) < 0.1).astype("u1")
    before = data.copy(), bad.copy(), HEADER.tostring()
    one, first = fixpix((data, HEADER), (bad, HEADER))
    two, second = fixpix((data, HEADER), bad)
    assert np.array_equal(one, two) and first.tostring() == second.tostring() and len(first["HISTORY"]) == 1
    assert np.array_equal(data, before[0]) and np.array_equal(bad, before[1]) and HEADER.tostring() == before[2]
