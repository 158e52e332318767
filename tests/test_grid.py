"""The common grid: it covers, it is robust, and it is what was asked for."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from apfunc import wcs
from apfunc.grid import STEP, grid


def frame(ra=150.0, dec=40.0, angle=0.0, shape=(200, 300), scale=1.096, parity=-1, sip=0.0):
    """The header of a solved frame whose centre lies at (ra, dec)."""
    turn = np.radians(angle)
    cd = scale / 3600 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ np.diag([parity, 1])
    a, b = np.zeros((2, 4, 4))
    a[2, 0], b[1, 1], a[3, 0] = sip, -sip, sip / 100
    solution = {
        "crval": (ra, dec),
        "crpix": ((shape[1] - 1) / 2, (shape[0] - 1) / 2),
        "cd": cd,
        "a": a if sip else None,
        "b": b if sip else None,
    }
    header = wcs.to_header(fits.Header(), solution, shape)
    header["NAXIS1"], header["NAXIS2"] = shape[1], shape[0]
    return header


def edges(headers, g):
    """Pixel positions in the grid of the frames' corners, by astropy."""
    found = []
    for h in headers:
        x, y = np.array([-0.5, h["NAXIS1"] - 0.5] * 2), np.repeat([-0.5, h["NAXIS2"] - 0.5], 2)
        found.append(WCS(g).all_world2pix(*WCS(h).all_pix2world(x, y, 0), 0))
    return np.array(found)


FRAMES = [frame(), frame(150.004, 40.003, 180), frame(149.99, 39.995, 12, sip=1e-5), frame(150.0, 40.01, -77)]


def test_the_grid_covers_all_frames_with_little_to_spare():
    g = grid(FRAMES)
    x, y = edges(FRAMES, g)[:, 0], edges(FRAMES, g)[:, 1]
    assert -0.6 <= x.min() < STEP + 1 and g["NAXIS1"] - STEP - 2 < x.max() <= g["NAXIS1"] - 0.4
    assert -0.6 <= y.min() < STEP + 1 and g["NAXIS2"] - STEP - 2 < y.max() <= g["NAXIS2"] - 0.4
    assert g["CD1_1"] < 0 < g["CD2_2"] and g["CD1_2"] == 0 == g["CD2_1"]
    assert g["CD2_2"] * 3600 == pytest.approx(1.10)
    assert g["CTYPE1"] == "RA---TAN" and "A_ORDER" not in g


def test_the_common_area_lies_in_every_frame_and_is_nearly_the_largest():
    frames = [frame(), frame(150.01, 40.003, 180.2), frame(149.99, 39.995, 0.3, sip=1e-5)]
    g = grid(frames, area="common")
    x, y = np.meshgrid(np.arange(g["NAXIS1"]), np.arange(g["NAXIS2"]))
    for h in frames:
        px, py = wcs.pixel(wcs.from_header(h), *wcs.sky(wcs.from_header(g), x, y))
        assert px.min() > -0.5 and px.max() < h["NAXIS1"] - 0.5 and py.min() > -0.5 and py.max() < h["NAXIS2"] - 0.5
    x, y = edges(frames, g)[:, 0], edges(frames, g)[:, 1]
    wide = np.sort(x, axis=1)[:, 2].min() - np.sort(x, axis=1)[:, 1].max()
    high = np.sort(y, axis=1)[:, 2].min() - np.sort(y, axis=1)[:, 1].max()
    assert wide - 2 * STEP <= g["NAXIS1"] <= wide + 3 and high - 2 * STEP <= g["NAXIS2"] <= high + 3


def test_common_area_of_frames_apart_is_an_error():
    with pytest.raises(ValueError, match="cover"):
        grid([frame(), frame(151)], area="common")


def test_solving_a_frame_anew_or_another_order_leaves_the_grid_as_it_was():
    first, rng, same = grid(FRAMES), np.random.default_rng(1), 0
    for k in range(20):
        again = [h.copy() for h in FRAMES[::-1]]
        h = again[k % 4]
        h["CRVAL1"] += rng.normal(0, 0.02) / 3600
        h["CRVAL2"] += rng.normal(0, 0.02) / 3600
        h["CD1_1"] *= 1 + rng.normal(0, 1e-5)
        same += grid(again).tostring() == first.tostring()
    assert same == 20


def test_reference_orientation_follows_the_frames():
    g = grid([frame(angle=33.2), frame(angle=213.1), frame(angle=33.3)], orientation="reference")
    assert wcs.angle(wcs.from_header(g)) % 180 == pytest.approx(33)
    mirrored = grid([frame(parity=1)], orientation="reference")
    assert np.linalg.det(wcs.from_header(mirrored)["cd"]) > 0
    assert grid([frame()], orientation="reference").tostring() == grid([frame()]).tostring()


def test_like_and_scale():
    like = frame(10, 20, 5, sip=1e-5)
    g = grid(FRAMES, like=like)
    assert (g["NAXIS1"], g["NAXIS2"]) == (300, 200)
    x, y = np.array([3.0, 250]), np.array([7.0, 150])
    assert np.allclose(WCS(g).all_pix2world(x, y, 0), WCS(like).all_pix2world(x, y, 0), atol=1e-9)
    assert grid(FRAMES, scale=2.2)["CD2_2"] * 3600 == pytest.approx(2.2)


@pytest.mark.parametrize("ra,dec", [(0.0, 0.0), (359.999, 10.0), (123.0, 89.999), (10.0, -90.0)])
def test_anywhere_on_the_sky(ra, dec):
    frames = [frame(ra, dec), frame((ra + 0.003) % 360, dec)]
    g = grid(frames)
    inside = edges(frames, g)
    assert inside.min() > -0.6 and (inside.max(axis=(0, 2)) < [g["NAXIS1"] - 0.4, g["NAXIS2"] - 0.4]).all()
    assert g["NAXIS1"] < 800 and g["NAXIS2"] < 800


def test_a_mosaic_of_panels():
    frames = [frame(150 + 0.09 * i, 40 + 0.05 * j) for i in range(3) for j in range(2)]
    g = grid(frames)
    assert edges(frames, g).min() > -0.6 and 700 < g["NAXIS1"] < 1000 and 330 < g["NAXIS2"] < 480


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="no solved frame"):
        grid([])
    with pytest.raises(ValueError, match="apfunc astrometry"):
        grid([fits.Header({"NAXIS1": 10, "NAXIS2": 10})])
    without = frame()
    del without["NAXIS1"]
    with pytest.raises(ValueError, match="size"):
        grid([without])
    with pytest.raises(ValueError, match="apart"):
        grid([frame(10, 20), frame(10, 75)])
    with pytest.raises(ValueError, match="apart"):
        grid([frame(10, 20), frame(190, -20)])
    with pytest.raises(ValueError, match="area"):
        grid([frame()], area="all")
    with pytest.raises(ValueError, match="scale"):
        grid([frame()], scale=-1)
