"""TAN and TAN-SIP maths against astropy.wcs, and fits against known truth."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from apfunc import wcs

SHAPE = (300, 400)


def truth(dec=40.0, ra=359.9, turn=33.0, parity=-1, cubic=3e-7):
    t = np.radians(turn)
    cd = 1.2 / 3600 * np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]) @ np.diag([parity, 1])
    a, b = np.zeros((2, 4, 4))
    a[3, 0] = a[1, 2] = b[2, 1] = b[0, 3] = cubic
    a[2, 0], b[1, 1] = 1e-5, -2e-5
    return {"crval": (ra, dec), "crpix": (199.5, 149.5), "cd": cd, "a": a, "b": b}


def points(n=200, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, SHAPE[1] - 1, n), rng.uniform(0, SHAPE[0] - 1, n)


def arcsec(solution, other):
    x, y = np.meshgrid([0, 200, 399], [0, 150, 299])
    return wcs.distance(*wcs.sky(solution, x, y), *wcs.sky(other, x, y)).max() * 3600


@pytest.mark.parametrize("dec", [0.0, 40.0, -75.0, 89.95])
def test_pixel_to_sky_and_back_agree_with_astropy(dec):
    solution, (x, y) = truth(dec), points()
    oracle = WCS(wcs.to_header(fits.Header(), solution, SHAPE))
    ra, dec = wcs.sky(solution, x, y)
    assert wcs.distance(ra, dec, *oracle.all_pix2world(x, y, 0)).max() * 3600 < 1e-8
    back = wcs.pixel(solution, ra, dec)
    assert np.hypot(back[0] - x, back[1] - y).max() < 1e-5
    back = oracle.all_world2pix(ra, dec, 0)
    assert np.hypot(back[0] - x, back[1] - y).max() < 1e-3


def test_inverse_terms_undo_the_distortion():
    """What AP, BP give from the undistorted pixels, against the exact inverse, as a viewer without iterations would
    use them."""
    solution, (x, y) = truth(cubic=6e-7), points()
    sip = WCS(wcs.to_header(fits.Header(), solution, SHAPE)).sip
    u, v = x - solution["crpix"][0], y - solution["crpix"][1]
    big_u, big_v = u + wcs.polynomial(solution["a"], u, v), v + wcs.polynomial(solution["b"], u, v)
    assert np.hypot(big_u - u, big_v - v).max() > 5
    back_u, back_v = big_u + wcs.polynomial(sip.ap, big_u, big_v), big_v + wcs.polynomial(sip.bp, big_u, big_v)
    assert np.hypot(back_u - u, back_v - v).max() < 0.005
    assert wcs.inverse(dict(solution, a=None, b=None), SHAPE) == (None, None)


@pytest.mark.parametrize("order", [1, 3, 4])
@pytest.mark.parametrize("dec", [0.0, -89.9])
def test_fit_recovers_the_solution(order, dec):
    solution = truth(dec)
    if order == 1:
        solution["a"] = solution["b"] = None
    x, y = points()
    fitted = wcs.fit(x, y, *wcs.sky(solution, x, y), solution["crpix"], order)
    assert arcsec(fitted, solution) < 1e-5
    again = wcs.fit(x, y, *wcs.sky(solution, x, y), solution["crpix"], order, np.ones(len(x)), start=fitted["crval"])
    assert arcsec(again, solution) < 1e-5


def test_fit_with_a_fixed_distortion_and_noise():
    solution, (x, y) = truth(), points(60)
    rng = np.random.default_rng(3)
    ra, dec = wcs.sky(solution, x, y)
    fitted = wcs.fit(x + rng.normal(0, 0.1, 60), y + rng.normal(0, 0.1, 60), ra, dec, solution["crpix"], 1,
                     a=solution["a"], b=solution["b"])
    assert arcsec(fitted, solution) < 0.1 * 1.2
    with pytest.raises(ValueError, match="needs 10"):
        wcs.fit(x[:9], y[:9], ra[:9], dec[:9], solution["crpix"], 3)


def test_weights_count():
    """Stars of weight zero have no say."""
    solution, (x, y) = truth(cubic=0), points(40)
    solution["a"] = solution["b"] = None
    ra, dec = wcs.sky(solution, x, y)
    x = np.where(np.arange(40) < 10, x + 50, x)
    assert arcsec(wcs.fit(x, y, ra, dec, solution["crpix"], 1, (np.arange(40) >= 10).astype(float)), solution) < 1e-5


def test_scale_angle_and_distance():
    assert wcs.scale(truth()) == pytest.approx(1.2)
    for turn in (0.0, 33.0, 200.0):
        assert wcs.angle(truth(turn=turn)) == pytest.approx(turn)
    assert wcs.distance(0, 90, 77, 89.5) == pytest.approx(0.5)
    assert np.isnan(wcs.project(180.0, 0.0, (0.0, 0.0))).all()


OLD = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 100.5, "CRPIX2": 90.0}


@pytest.mark.parametrize("cards", [{"CD1_1": -3e-4, "CD1_2": 1e-5, "CD2_1": 1.1e-5, "CD2_2": 3e-4}, {
    "CDELT1": -3e-4, "CDELT2": 3.1e-4, "CROTA2": 25.0
}, {"CDELT1": -3e-4, "CDELT2": 3e-4, "PC1_1": 0.9, "PC1_2": -0.4, "PC2_1": 0.4, "PC2_2": 0.9},
                                   {"CDELT1": -3e-4, "CDELT2": 3e-4}, ])
def test_headers_of_others_are_read_as_astropy_reads_them(cards):
    header = fits.Header(OLD | cards)
    x, y = points(20)
    assert (wcs.distance(*wcs.sky(wcs.from_header(header), x, y),
                         *WCS(header).all_pix2world(x, y, 0)).max() * 3600 < 1e-8)


def test_written_keywords_are_read_back_and_old_ones_are_gone():
    header = fits.Header(
        OLD
        | {
            "CDELT1": 1.0, "CROTA2": 3.0, "PC1_1": 1.0, "A_ORDER": 2, "A_2_0": 1.0, "TR1_3": 4.0, "PA": 12.0,
            "PLTSOLVD": True, "EPOCH": 2000.0, "OBJECT": "M 31", "CDFOO": 1
        })
    solution = truth()
    written = wcs.to_header(header, solution, SHAPE)
    assert "CDELT1" in header and not {"CDELT1", "CROTA2", "PC1_1", "A_ORDERS", "TR1_3", "PA", "PLTSOLVD", "EPOCH"
                                       } & set(written)
    assert written["OBJECT"] == "M 31" and written["CDFOO"] == 1
    assert arcsec(wcs.from_header(written), solution) < 1e-9
    plain = wcs.to_header(written, dict(solution, a=None, b=None), SHAPE)
    assert plain["CTYPE1"] == "RA---TAN" and not any(k.startswith(("A_", "B_", "AP_", "BP_")) for k in plain)


@pytest.mark.parametrize("cards",
                         [{}, {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, OLD, OLD | {"CD1_1": 0.0, "CD2_2": 1e-4},
                          OLD | {"CRVAL1": "x", "CD1_1": 1.0, "CD2_2": 1.0}, ])
def test_no_solution_in_the_header(cards):
    assert wcs.from_header(fits.Header(cards)) is None
