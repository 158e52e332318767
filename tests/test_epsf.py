"""The effective PSF has the width of the stars it is made of."""

import numpy as np
import pytest
from astropy.io.fits import Header

from apfunc.epsf import epsf
from apfunc.stars import stars

pytest.importorskip("photutils")


def sky_of_stars(fwhm, count=60, size=400):
    rng = np.random.default_rng(3)
    yy, xx = np.mgrid[:size, :size]
    places = [(x + rng.uniform(-2, 2), y + rng.uniform(-2, 2)) for x in range(30, size - 20, 45) for y in range(30, size - 20, 45)][:count]
    data = rng.normal(200, 5, (size, size))
    for x, y in places:
        data += rng.uniform(2000, 9000) * np.exp(-4 * np.log(2) * ((xx - x) ** 2 + (yy - y) ** 2) / fwhm**2)
    return data.astype("f4"), Header({"EGAIN": 1.5, "RDNOISE": 8.0})


def test_width_and_sum():
    image = sky_of_stars(3.4)
    model, header = epsf(image, stars(image))
    yy, xx = np.indices(model.shape) - (np.array(model.shape)[:, None, None] - 1) / 2
    half = model.max() / 2
    fwhm = 2 * np.sqrt((model > half).sum() / np.pi) / header["OVERSAMP"]
    assert abs(model.sum() - 1) < 1e-4 and header["NSTARS"] > 20
    assert abs(fwhm / 3.4 - 1) < 0.06 and abs((model * xx).sum()) < 0.2 and abs((model * yy).sum()) < 0.2


def test_too_few_stars_say_so():
    image = sky_of_stars(3.4, count=2)
    with pytest.raises(ValueError, match="clean stars"):
        epsf(image, stars(image))
