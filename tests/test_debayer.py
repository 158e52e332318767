"""A colour mosaic gives its colours back."""

import numpy as np
import pytest
from astropy.io.fits import Header

from apfunc.debayer import debayer, pattern_of

COLOURS = {"R": 100.0, "G": 250.0, "B": 400.0}


def mosaic(pattern, shape=(20, 24), slope=0.0):
    rows, columns = np.indices(shape)
    base = {c: v + slope * (rows + 2 * columns) for c, v in COLOURS.items()}
    data = np.zeros(shape, "f4")
    for i, colour in enumerate(pattern):
        r, c = divmod(i, 2)
        data[r::2, c::2] = base[colour][r::2, c::2]
    return (data, Header({"BAYERPAT": pattern, "XPIXSZ": 3.8, "XBINNING": 1})), base


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
@pytest.mark.parametrize("channel", "RGB")
def test_flat_colours_and_ramps_come_back(pattern, channel):
    image, base = mosaic(pattern, slope=1.5)
    full, header = debayer(image, channel)
    assert np.allclose(full[2:-2, 2:-2], base[channel][2:-2, 2:-2], atol=1e-3)
    assert header["FILTER"] == channel and "BAYERPAT" not in header
    half, header = debayer(mosaic(pattern)[0], channel, method="superpixel")
    assert half.shape == (10, 12) and np.all(half == COLOURS[channel]) and header["XPIXSZ"] == 7.6


def test_bad_pixels_are_filled_from_their_own_colour():
    (data, header), base = mosaic("RGGB")
    bad = np.zeros(data.shape, "u1")
    data[4, 4], bad[4, 4] = 60000, 1
    data[5, 5] = np.nan
    for colour, own in (("R", (4, 4)), ("B", (5, 5))):  # the pixel itself is left to fixpix
        full = debayer((data, header), colour, badpix=bad)[0]
        assert np.isnan(full[own]) and np.isnan(full).sum() == 1 and np.nanmax(abs(full - COLOURS[colour])) == 0


def test_against_the_obvious_mean_of_neighbours(rng=np.random.default_rng(1)):
    (data, header), _ = mosaic("GBRG", (70, 24))  # (three strips)
    data = rng.normal(100, 10, data.shape).astype("f4")
    full = debayer((data, header), "R")[0]
    for r in range(1, 69):
        for c in range(1, 23):
            near = [(data[y, x], (2 - abs(y - r)) * (2 - abs(x - c))) for y in range(r - 1, r + 2)
                    for x in range(c - 1, c + 2) if (y % 2, x % 2) == (1, 0)]
            expected = data[r, c] if (r % 2, c % 2) == (1, 0) else sum(v * w for v, w in near) / sum(w for _, w in near)
            assert full[r, c] == pytest.approx(expected, rel=1e-5)


def test_offsets_turn_the_pattern_and_nonsense_is_refused():
    assert pattern_of(Header({"BAYERPAT": "RGGB", "XBAYROFF": 1, "YBAYROFF": 0})) == "GRBG"
    assert pattern_of(Header({"BAYERPAT": "RGGB", "ROWORDER": "BOTTOM-UP"})) == "GBRG"
    assert pattern_of(Header({"BAYERPAT": "RGGB"}), "bggr") == "BGGR"
    for header in (Header(), Header({"BAYERPAT": "CMYG"}), Header({"BAYERPAT": "TRUE"})):
        with pytest.raises(ValueError, match="Bayer"):
            pattern_of(header)
    with pytest.raises(ValueError, match="channel"):
        debayer(mosaic("RGGB")[0], "L")
