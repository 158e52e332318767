"""The effective PSF of a frame, built from its own stars with photutils (Anderson & King 2000, PASP 112, 1360)."""

import warnings

import numpy as np

from apfunc.header import history


def epsf(image, stars, size=25, oversampling=2, most=100):
    """The effective PSF ``(data, header)``: float32, `oversampling` samples a pixel, centred, sum 1 over the samples.

    image: (data, header), sky left in or not; stars: its star table (columns x, y, snr, flags, sky).  Up to `most` of
    the best stars count: unflagged, S/N above 30, not within size / 2 of the edge or of another star as bright.  NaN
    pixels have no weight.  Header: NSTARS, OVERSAMP.  Raises ValueError with fewer than five such stars.
    """
    from astropy.io.fits import Header
    from astropy.nddata import NDData
    from astropy.table import Table
    from photutils.psf import EPSFBuilder, extract_stars
    data = np.asarray(image[0], "f4")
    x, y, snr = (np.asarray(stars[name], float) for name in ("x", "y", "snr"))
    edge = np.minimum(np.minimum(x, data.shape[1] - 1 - x), np.minimum(y, data.shape[0] - 1 - y))
    good = np.flatnonzero((np.asarray(stars["flags"]) == 0) & (snr > 30) & (edge > size / 2 + 1))
    alone = [i for i in good if np.count_nonzero((np.hypot(x - x[i], y - y[i]) < size / 2) & (snr > 0.1 * snr[i])) == 1]
    if len(alone) < 5:
        raise ValueError(f"only {len(alone)} clean stars with S/N above 30; an effective PSF needs 5")
    alone = alone[:most]
    bad = ~np.isfinite(data)
    flat = np.where(bad, 0, data - np.float32(np.median(np.asarray(stars["sky"], float)[alone])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cut = extract_stars(NDData(flat, mask=bad), Table({"x": x[alone], "y": y[alone]}), size=size)
        built = EPSFBuilder(oversampling=oversampling, maxiters=5, progress_bar=False)(cut)
    model = np.asarray(built[0].data, "f4")
    header = Header({"NSTARS": len(alone), "OVERSAMP": oversampling})
    history(header, "epsf", stars=len(alone), oversampling=oversampling)
    return model / model.sum(), header
