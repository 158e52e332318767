"""Ties by pairs of stars: right places found, chance refused, and the arithmetic against plain loops."""

import numpy as np
import pytest
from astropy.table import Table

from apfunc import pairs, tie, wcs

SHAPE, SCALE = (1000, 1000), 2.0


def field(seed, bright, faint=150, turn=90.4, parity=1, shift=0.5, scale=1.0, reach=1.0):
    """A star list whose `bright` brightest stars a catalogue has, with others outside the frame, and its solution."""
    rng = np.random.default_rng(seed)
    t, unit = np.radians(turn), SCALE * scale / 3600
    cd = unit * np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) @ np.diag([parity, 1])
    truth = {"crval": (150.0, 40.0), "crpix": tie.centre(SHAPE), "cd": cd, "a": None, "b": None}
    x, y = rng.uniform(20, 980, (2, bright + faint))
    mag = np.append(np.sort(rng.uniform(6.5, 9.9, bright)), rng.uniform(10.2, 15, faint))
    ra, dec = wcs.sky(truth, x[:bright], y[:bright])
    xi, eta = rng.uniform(-reach - 0.4, reach + 0.4, (2, int(8 * (2 * reach + 0.8)**2)))
    outside = np.maximum(abs(xi), abs(eta)) > 0.42
    more = wcs.deproject(xi[outside], eta[outside], truth["crval"])
    known = Table({"ra": np.append(ra, more[0]), "dec": np.append(dec, more[1]),
                   "mag": np.append(mag[:bright], rng.uniform(6.5, 10, outside.sum()))})
    light = mag + rng.normal(0, 0.2, len(mag))
    told = wcs.deproject(*(np.array([0.6, -0.8]) * shift / 60), truth["crval"])
    stars = {"x": x + rng.normal(0, 0.2, len(x)), "y": y + rng.normal(0, 0.2, len(y)),
             "flux": 10**(-0.4 * (light - 20)), "shape": SHAPE, "scale": SCALE, "pointing": told, "solutions": []}
    return stars, known, truth


def off(solution, truth):
    x, y = np.meshgrid([0.0, 500, 999], [0.0, 500, 999])
    return wcs.distance(*wcs.sky(solution, x, y), *wcs.sky(truth, x, y)).max() * 3600 / SCALE


@pytest.mark.parametrize("parity", [1, -1])
@pytest.mark.parametrize("seed", range(4))
def test_four_catalogue_stars_tie_a_frame(seed, parity):
    stars, known, truth = field(seed, 4, parity=parity, turn=(0.3, 90.4, 179.5, 270.0)[seed])
    solution, n = pairs.from_pairs(stars, known)
    assert n >= 3 and off(solution, truth) < 6


def test_far_off_with_a_wrong_scale():
    stars, known, truth = field(3, 7, turn=33.0, shift=35.0, scale=1.07)
    solution, n = pairs.from_pairs(stars, known, 60.0, 0.12)
    assert n >= 6 and off(solution, truth) < 6


@pytest.mark.parametrize("reach", [(5.0, 0.02), (60.0, 0.12)])
def test_another_sky_is_refused(reach):
    for seed in range(4):
        stars, known, _ = field(seed, 5)
        _, other, _ = field(seed + 50, 5)
        assert pairs.from_pairs(stars, other, *reach) is None


def test_nothing_to_go_by():
    stars, known, _ = field(1, 4)
    assert pairs.from_pairs(dict(stars, pointing=None), known) is None
    assert pairs.from_pairs(dict(stars, scale=None), known) is None
    assert pairs.from_pairs(stars, known[:1]) is None
    known["mag"] = np.nan
    assert pairs.from_pairs(stars, known) is None


def test_hypotheses_agree_with_plain_loops():
    rng = np.random.default_rng(5)
    w, sky = (rng.uniform(-300, 300, n) + 1j * rng.uniform(-300, 300, n) for n in (7, 6))
    light, mag = rng.uniform(-3, 0, 7), rng.uniform(7, 10, 6)
    slow = []
    for i in range(7):
        for j in range(i + 1, 7):
            for k in range(6):
                for m in range(6):
                    if k != m and abs(w[j] - w[i]) > 30 and abs((mag[m] - mag[k]) - (light[j] - light[i])) < 1.5:
                        a = (sky[m] - sky[k]) / (w[j] - w[i])
                        if abs(np.log(abs(a))) < np.log(1.1) and abs(sky[k] - a * w[i]) < 150:
                            slow.append((a, sky[k] - a * w[i]))
    fast = list(zip(*pairs._hypotheses(w, light, sky, mag, 150.0, 0.1)))
    assert len(slow) == len(fast) > 3
    slow, fast = (sorted(h, key=lambda h: (h[0].real, h[0].imag)) for h in (slow, fast))
    assert np.allclose(slow, fast)


def test_a_double_star_counts_once():
    """Two catalogue stars on one star of the frame: the brighter has it, the other is missing."""
    stars, known, truth = field(2, 4)
    z = stars["x"] - 499.5 + 1j * (stars["y"] - 499.5)
    light, sky = -2.5 * np.log10(stars["flux"]), z[[0, 1, 0]] + np.array([0, 0, 1.0])
    one = np.array([1 + 0j]), np.array([0j])
    _, found = pairs._odds(z, light, sky, np.array([8.0, 8.5, 9.0]), *one, (500, 500), SCALE / 3600, 90.0)
    assert found.tolist() == [[0, 1, -1]]
