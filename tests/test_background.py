"""The sky recovered under stars, gradients and nebulae; photutils as the oracle."""

import numpy as np
import pytest
from astropy.io.fits import Header

from apfunc.background import (background, clipped, cubic, cubics, expand, level, median_filter, mesh, separable,
                               spline_matrix, subtract)

SHAPE = 400, 530


def scene(noise=10.0, stars=150, seed=1):
    """A frame with a curved sky and stars, and its true sky."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    sky = 500 + 0.05 * x + 0.1 * y + 30 * np.sin(x / 300)
    data = sky + rng.normal(0, noise, SHAPE)
    where = rng.uniform(0, SHAPE[0], stars), rng.uniform(0, SHAPE[1], stars)
    for a, b, flux in zip(*where, 10 ** rng.uniform(1.5, 3.5, stars)):
        data += flux * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 2 / 1.5**2)
    return (data.astype("f4"), Header()), sky


@pytest.mark.parametrize("options", [{}, {"mode": "polynomial", "order": 4}, {"box": 32}])
def test_sky_and_noise_are_recovered(options):
    image, true = scene()
    (sky, header), rms = background(image, **options)
    assert sky.dtype == rms.dtype == np.float32 and sky.shape == rms.shape == SHAPE
    assert abs(np.mean(sky - true)) < 0.25 and np.std(sky - true) < 0.8 and np.abs(sky - true).max() < 5
    assert abs(np.median(rms) - 10) < 0.1
    assert abs(header["SKY"] - np.median(true)) < 0.5 and abs(header["SKYNOISE"] - 10) < 0.1
    assert "background" in header["HISTORY"][-1] and "SKY" not in image[1]


def test_not_worse_than_photutils():
    oracle = pytest.importorskip("photutils.background")
    image, true = scene()
    (sky, _), rms = background(image)
    other = oracle.Background2D(image[0], 64)
    assert np.std(sky - true) <= np.std(other.background - true)
    assert abs(np.mean(sky - true)) <= abs(np.mean(other.background - true)) + 0.05
    assert abs(np.median(rms) - 10) <= abs(np.median(other.background_rms) - 10) + 0.05
    # without stars the two agree within the noise of a box
    flat, _ = scene(stars=0)
    (sky, _), _ = background(flat)
    other = oracle.Background2D(flat[0], 64).background
    assert np.std((sky - other)[64:-64, 64:-64]) < 0.8


def test_gradient_goes_and_nebula_stays():
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:512, :512]
    gradient = 300 + 0.1 * x + 0.05 * y + 2e-4 * x * y
    nebula = 200 * np.exp(-((y - 230) ** 2 + (x - 280) ** 2) / 2 / 50**2)
    data = (gradient + nebula + rng.normal(0, 10, nebula.shape)).astype("f4")
    left, header = subtract((data, Header()), mode="polynomial", order=2)
    inside = nebula > 50
    assert abs(np.median((left - nebula)[inside])) < 4 and abs(np.median((left - nebula)[nebula < 1])) < 3
    assert abs(header["SKYLEVEL"] - np.median(gradient)) < 5
    # a user's mask round it lets the mesh keep it as well, below it the mesh is bridged
    user = (nebula > 3).astype("u1")
    left, _ = subtract((data, Header()), user, mode="mesh")
    assert abs(np.median((left - nebula)[nebula > 100])) < 15


def test_keep_level():
    image, true = scene()
    flat, header = subtract(image, keep_level=True)
    gone, bare = subtract(image)
    assert np.allclose(flat - gone, header["SKY"], atol=1e-2) and header["SKYLEVEL"] == 0 and bare["SKYLEVEL"] > 500
    assert np.std(np.median(flat, 0)) < np.std(np.median(image[0], 0)) / 5


def test_mask_and_nan_say_nothing():
    image, true = scene(stars=0)
    data, mask = image[0].copy(), np.zeros(SHAPE, "u1")
    data[50:200, 100:300] = np.nan
    data[250:300, :60] = 1e6
    mask[250:300, :60] = 1
    data[0, 0] = np.inf
    (sky, _), rms = background((data, Header()), mask)
    assert np.isfinite(sky).all() and np.isfinite(rms).all()
    assert np.abs(sky - true).max() < 12 and np.abs(sky - true)[:, 320:].max() < 5
    assert np.isnan(data[60, 110]) and mask.sum() == 3000


def test_level_is_that_of_the_mesh_and_ignores_gradient():
    image, true = scene(noise=20)
    sky, noise = level(image[0])
    assert abs(sky - np.median(true)) < 2 and abs(noise - 20) < 0.5
    mask = np.zeros(SHAPE, "u1")
    mask[:, :265] = 1
    assert abs(level(image[0], mask)[0] - np.median(true[:, 265:])) < 2
    assert np.isnan(level(np.full((50, 50), np.nan))).all()
    assert level(np.full((50, 50), 7, "u2")) == (7.0, 0.0)


def test_clipped_against_astropy():
    from astropy.stats import sigma_clip
    rng = np.random.default_rng(3)
    values = rng.normal(100, 5, (20, 900)).astype("f4")
    values[:, :60] += rng.exponential(200, (20, 60))
    values[:, 60:90] = np.nan
    mode, sigma = clipped(values)
    kept = sigma_clip(np.ma.masked_invalid(values), 3, maxiters=20, axis=1, masked=True)
    expected = 2.5 * np.ma.median(kept, axis=1) - 1.5 * kept.mean(axis=1)
    assert np.allclose(mode, expected, atol=0.5) and np.allclose(sigma, kept.std(axis=1) / 0.9866, rtol=0.06)
    many = clipped(rng.normal(0, 1, (50, 4000)))
    assert abs(many[0].mean()) < 0.01 and abs(many[1].mean() - 1) < 0.005
    assert np.isnan(clipped(np.full((2, 9), np.nan))).all()


def test_spline_matrix_against_scipy():
    from scipy.interpolate import CubicSpline
    rng = np.random.default_rng(4)
    for knots in (np.array([10.0]), np.array([5.0, 30.0]), np.array([4.5, 20.0, 41.0]), np.linspace(31.5, 468.5, 8)):
        values = rng.normal(0, 1, len(knots))
        curve = spline_matrix(knots, 500) @ values
        at = np.arange(500)
        inside = (at >= knots[0]) & (at <= knots[-1])
        if len(knots) > 2:
            assert np.allclose(curve[inside], CubicSpline(knots, values, bc_type="natural")(at[inside]), atol=1e-5)
        if len(knots) > 1:  # straight outside
            assert np.abs(np.diff(curve[at < knots[0]], 2)).max(initial=0) < 1e-5
    line = np.linspace(31.5, 468.5, 8)
    assert np.allclose(expand(spline_matrix(line, 500), line[:, None] + line, spline_matrix(line, 500)),
                       np.arange(500)[:, None] + np.arange(500.0), atol=1e-2)


def test_separable_against_a_plain_sum():
    rng = np.random.default_rng(5)
    data, kernel = rng.normal(0, 1, (70, 45)).astype("f4"), np.array([0.5, 0.3, 0.1])
    both = np.concatenate([kernel[:0:-1], kernel])
    wide = np.pad(data, 2)
    slow = sum(both[i] * both[j] * wide[i:i + 70, j:j + 45] for i in range(5) for j in range(5))
    assert np.allclose(separable(data, kernel), slow, atol=1e-5)


def test_median_filter_keeps_planes_and_drops_spikes():
    plane = np.arange(8)[:, None] * 3.0 + np.arange(6)
    assert np.allclose(median_filter(plane), plane)
    spiked = plane.copy()
    spiked[4, 3] = 1e4
    assert np.abs(median_filter(spiked) - plane).max() <= 3
    assert median_filter(plane[:1]).shape == (1, 6)


def test_mesh_boxes_lie_inside():
    y, x, sky, rms = mesh(np.zeros((100, 205), "f4"), box=64)
    assert sky.shape == rms.shape == (len(y), len(x)) == (2, 4)
    assert y.tolist() == [31.5, 67.5] and x[0] == 31.5 and x[-1] == 172.5


@pytest.mark.parametrize("shape", [(5, 5), (1, 30), (64, 64), (65, 3)])
def test_tiny_and_integer_frames(shape):
    data = np.random.default_rng(6).poisson(100, shape).astype("u2")
    (sky, _), rms = background((data, Header()))
    assert sky.shape == shape and np.isfinite(sky).all() and np.isfinite(rms).all() and abs(np.median(sky) - 100) < 15
    assert data.dtype == np.uint16


def test_errors_say_what_to_do():
    image, _ = scene(stars=0)
    with pytest.raises(ValueError, match="no good pixel"):
        background((np.full((50, 50), np.nan, "f4"), Header()))
    with pytest.raises(ValueError, match="mesh or polynomial"):
        background(image, mode="magic")
    with pytest.raises(ValueError, match="box"):
        background(image, box=1)


def test_four_rows_of_each_cubic_tell_the_spline():
    knots, size = np.array([31.5, 95, 158.2, 222, 224.5]), 262
    by = spline_matrix(knots, size)
    values, seen = np.random.default_rng(7).normal(size=5), np.zeros(size, int)
    for rows in cubics(knots, size, 40):
        seen[rows] += 1
        some, mix = cubic(rows.stop - rows.start)
        assert np.allclose(mix @ (by[rows.start + some] @ values), by[rows] @ values, atol=1e-5)
    assert (seen == 1).all()
