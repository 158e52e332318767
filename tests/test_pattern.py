"""Patterns of points against slow twins and known transformations."""

import numpy as np
import pytest

from apfunc import pattern


def sky(seed, n=120, size=1000.0):
    rng = np.random.default_rng(seed)
    return rng, rng.uniform(0, size, (2, n)), 10**rng.exponential(0.6, n)


def seen(rng, points, flux, turn, parity, scale, keep=0.6, spurious=0.5, noise=0.1, warp=0.0):
    """The points as a camera sees them, brightest and even first; the true transformation back is known by its scale
    and parity."""
    c = points - 500
    c = c * (1 + warp / 500 * (np.hypot(*c) / 500)**2)
    z = scale * np.exp(1j * turn) * (c[0] + 1j * parity * c[1])
    x, y = z.real + rng.normal(0, noise, z.size) + 400, z.imag + rng.normal(0, noise, z.size) + 300
    some = rng.random(len(x)) < keep
    false = int(some.sum() * spurious / (1 - spurious))
    x = np.append(x[some], rng.uniform(x.min(), x.max(), false))
    y = np.append(y[some], rng.uniform(y.min(), y.max(), false))
    light = np.append(flux[some] * 10**rng.normal(0, 0.1, some.sum()), 10**rng.exponential(0.6, false))
    order = pattern.spread(x, y, light, 200)
    return x[order], y[order]


def right(found, scale, parity):
    t = found[0]
    size = np.linalg.det(t[:, :2])
    return np.sqrt(abs(size)) == pytest.approx(1 / scale, rel=0.01) and np.sign(size) == parity


@pytest.mark.parametrize("seed", range(6))
def test_any_turn_both_parities_half_spurious_and_distorted(seed):
    rng, points, flux = sky(seed)
    scale, parity, turn = np.exp(rng.uniform(-0.09, 0.09)), rng.choice([1, -1]), rng.uniform(0, 6.3)
    one = seen(rng, points, flux, turn, parity, scale, warp=4.0)
    order = pattern.spread(*points, flux, 300)
    found = pattern.match(one, tuple(points[:, order]), radius=(16.0, 4.0))
    assert found is not None and right(found, scale, parity) and found[3] > 8


def test_points_of_another_sky_do_not_match():
    for seed in range(8):
        rng, points, flux = sky(seed, 60)
        _, others, light = sky(seed + 100, 60)
        assert (pattern.match(tuple(points[:, np.argsort(-flux)]), tuple(others[:, np.argsort(-light)]), [np.eye(2)],
                              radius=(12.0, 3.0)) is None)


def test_four_stars_are_enough_when_the_turn_is_known():
    rng, points, flux = sky(7, 18)
    four = points[:, :4] + np.array([[12.0], [-7.0]])
    found = pattern.match(tuple(four), tuple(points), [np.eye(2)], radius=(12.0, 2.0), least=3.0)
    assert found is not None and found[0][:, 2] == pytest.approx([-12, 7], abs=0.01) and len(found[1]) == 4


def test_nearest_agrees_with_all_pairs():
    rng = np.random.default_rng(2)
    x1, y1, x2, y2 = rng.uniform(0, 50, (4, 60))
    gap = np.hypot(x1[:, None] - x2, y1[:, None] - y2)
    slow = {(i, j) for i in range(60) for j in range(60)
            if gap[i, j] <= 3 and gap[i, j] == gap[i].min() == gap[:, j].min()}
    assert set(zip(*map(list, pattern.nearest(x1, y1, x2, y2, 3.0)))) == slow
    i, j, d = pattern.pairs_within(x1, y1, x2, y2, 5.0)
    assert set(zip(i.tolist(), j.tolist())) == {(a, b) for a in range(60) for b in range(60) if gap[a, b] <= 5}
    assert np.allclose(d, gap[i, j])
    empty = np.zeros(0)
    assert (len(pattern.nearest(empty, empty, x2, y2, 3.0)[0]) == 0
            and len(pattern.nearest(x1, y1, empty, empty, 3.0)[0]) == 0)


def test_spread_takes_a_cluster_only_after_the_rest():
    rng = np.random.default_rng(4)
    x, y = (np.append(rng.uniform(0, 1000, 60),
                      rng.normal(500, 5, 200)), np.append(rng.uniform(0, 1000, 60), rng.normal(500, 5, 200)))
    flux = np.append(np.ones(60), np.full(200, 100.0)) * rng.uniform(1, 2, 260)
    assert np.count_nonzero(pattern.spread(x, y, flux, 30) >= 60) <= 4
    order = np.random.default_rng(5).permutation(260)
    again = order[pattern.spread(x[order], y[order], flux[order], 30)]
    assert (again == pattern.spread(x, y, flux, 30)).all()
    assert len(pattern.spread(np.zeros(0), np.zeros(0), np.zeros(0), 5)) == 0


def test_affine_recovers_the_transformation():
    rng = np.random.default_rng(6)
    x, y = rng.uniform(0, 100, (2, 12))
    t = np.array([[0.5, -1.2, 3.0], [0.9, 0.4, -8.0]])
    assert np.allclose(pattern.affine(x, y, *pattern.apply(t, x, y)), t)
    mirror = np.array([[0.6, 0.8, 5.0], [0.8, -0.6, 2.0]])
    assert np.allclose(
        pattern.affine(x[:2], y[:2], *pattern.apply(mirror, x[:2], y[:2]), similar=True)[:, :2]
        @ np.array([x[1] - x[0], y[1] - y[0]]), mirror[:, :2] @ np.array([x[1] - x[0], y[1] - y[0]]))
    assert np.allclose(pattern.affine(x, y, *pattern.apply(mirror, x, y), similar=True), mirror)


def test_significance_bounds_the_true_probability():
    """Chernoff's bound lies above the binomial tail, and not far above."""
    from math import comb, log10

    for n, m, p in ((10, 5, 0.05), (40, 9, 0.02), (5, 5, 0.1)):
        tail = sum(comb(n, k) * p**k * (1 - p)**(n - k) for k in range(m, n + 1))
        assert -log10(tail) - 1.5 < pattern.significance(m, n, p) < -log10(tail) + 1e-9
    assert pattern.significance(0, 10, 0.1) == 0 == pattern.significance(1, 10, 0.5)


def test_too_few_points():
    two = (np.array([1.0, 5.0]), np.array([2.0, 9.0]))
    assert pattern.match(two, two) is None
    assert pattern.triangles(two, two) == []
