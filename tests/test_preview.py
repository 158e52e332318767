import io
import struct

import numpy as np
import pytest
from astropy.io.fits import Header

from apfunc import picture, stretch
from apfunc.picture import encode
from apfunc.preview import binned, preview


def frame(size=200):
    rng = np.random.default_rng(1)
    data = rng.normal(1000, 8, (size, size)).astype("f4")
    data[3 * size // 4, 20:25] = 30000
    yy, xx = np.mgrid[:size, :size]
    data += 60 * np.exp(-((xx - 140)**2 + (yy - 60)**2) / 2 / 12**2)
    return data


def test_sky_is_dark_grey_and_faint_light_is_seen():
    shown = preview((frame(), Header()))
    assert shown.dtype == np.uint8 and shown.shape == (200, 200)
    sky = np.median(shown[:40, :60])
    assert sky == pytest.approx(255 * stretch.SKY, abs=3)
    assert np.median(shown[55:65, 135:145]) > sky + 20
    assert shown[150, 22] == 255


def test_nan_is_black_and_odd_frames_do_no_harm():
    data = frame()
    data[:20] = np.nan
    assert (preview((data, Header()))[:20] == 0).all()
    assert (preview((np.full((30, 20), np.nan), Header())) == 0).all()
    assert np.ptp(preview((np.full((30, 20), 7.0), Header()))) == 0
    assert preview((np.zeros((1, 1), "u2"), Header())).shape == (1, 1)
    assert preview((np.arange(12, dtype="u2").reshape(3, 4), Header())).shape == (3, 4)


def test_size_and_levels_by_hand():
    data = frame()
    before = data.copy()
    assert preview((data, Header()), size=64).shape == (50, 50)
    np.testing.assert_array_equal(before, data)
    ramp = np.linspace(100, 200, 256, dtype="f4")[None]
    np.testing.assert_array_equal(preview((ramp, Header()), stretch_to=(100, 200))[0], np.arange(256))


def test_binned_is_its_slow_twin():
    data = frame(40)[:23, :17].copy()
    data[0:4, 0:4] = np.nan
    data[5, 6] = np.nan
    got = binned(data, 4)
    assert got.shape == (5, 4) and np.isnan(got[0, 0])
    for i in range(5):
        for j in range(4):
            if (i, j) != (0, 0):
                assert got[i, j] == pytest.approx(np.nanmean(data[4 * i:4 * i + 4, 4 * j:4 * j + 4]), rel=1e-6)


def test_curve_has_the_slope_and_level_it_is_asked_for():
    rng = np.random.default_rng(2)
    sample = rng.normal(0, 1, (400, 400)).astype("f4")
    sample[100:180, 100:180] += 8
    soft, scale, white = stretch.curve(sample, 1.0)

    def shown(light):
        return stretch.SKY + light * stretch.factor(np.float32(light), soft, scale)

    assert shown(white) == pytest.approx(1, abs=1e-5)
    grain = shown(1.0) - shown(0.0)
    assert stretch.GRAIN[0] * 0.9 < grain < stretch.GRAIN[1] * 1.1
    deep = stretch.curve(sample, 0.01)  # much less noise: the nebula decides
    assert stretch.SKY + 8 * stretch.factor(np.float32(8), *deep[:2]) > 0.3
    assert stretch.curve(np.full((4, 4), np.nan), 1.0)[2] == 1.0
    light = np.float32([0, 1e-6, 0.5, 20, -3])
    np.testing.assert_allclose(light * stretch.factor(light, 2.0, 0.3), 0.3 * np.arcsinh(light / 2), rtol=1e-5,
                               atol=1e-9)


WCS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 269.6, "CRVAL2": 66.6, "CRPIX1": 15.5, "CRPIX2": 10.5,
       "CD1_1": -2e-4, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 2e-4, "RADESYS": "ICRS", "EQUINOX": 2000.0,
       "OBJECT": "Cat's <Eye> & co"}


def colours(dtype="u2"):
    rgb = np.random.default_rng(3).integers(0, np.iinfo(dtype).max, (20, 30, 3)).astype(dtype)
    rgb[-1] = [np.iinfo(dtype).max, 0, 0]  # the top of the sky is red
    return rgb


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_files_can_be_read_and_are_the_right_way_up(format, dtype):
    Image = pytest.importorskip("PIL.Image")
    tifffile = pytest.importorskip("tifffile")
    for pixels in (colours(dtype), colours(dtype)[..., 0]):
        content = encode(pixels, Header(WCS), format)
        assert content == encode(pixels, Header(WCS), format)
        read = tifffile.imread(io.BytesIO(content)) if format == "tiff" else np.asarray(Image.open(io.BytesIO(content)))
        expected = pixels[::-1] if format == "tiff" or dtype == "u1" else (pixels[::-1] >> 8).astype("u1")
        if format == "jpeg":
            assert read.shape == expected.shape
            assert np.abs(read[0].astype(int) - expected[0]).mean() < 40
        else:
            assert read.dtype == expected.dtype
            np.testing.assert_array_equal(read, expected)


def test_even_pictures_are_small():
    pixels = np.zeros((300, 400, 3), "u1")
    pixels[100:110] = np.random.default_rng(3).integers(0, 255, (10, 400, 3))
    assert len(encode(pixels)) < 0.06 * pixels.size
    assert len(encode(np.random.default_rng(3).normal(100, 3, (300, 400)).astype("u1"))) < 0.6 * 300 * 400


def test_png_of_one_column_and_of_many_strips():
    Image = pytest.importorskip("PIL.Image")
    for shape in ((1, 1, 3), (300, 1), (1, 300, 3), (257, 5, 3)):
        pixels = np.random.default_rng(4).integers(0, 255, shape).astype("u1")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode(pixels)))), pixels[::-1])


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_avm_is_read_back_by_pyavm(format, tmp_path):
    pyavm = pytest.importorskip("pyavm")
    from astropy.wcs import WCS as World

    path = tmp_path / f"picture.{format}"
    path.write_bytes(encode(colours(), Header(WCS), format))
    tags = pyavm.AVM.from_image(str(path))
    assert tags.Title == WCS["OBJECT"] and tags.Subject.Name == [WCS["OBJECT"]]
    wcs = tags.to_wcs(target_shape=(30, 20))
    truth = World(Header(WCS))
    for x, y in ((0, 0), (29, 0), (10, 19)):
        np.testing.assert_allclose(wcs.wcs_pix2world([[x, y]], 0), truth.wcs_pix2world([[x, y]], 0), atol=1e-8)


def test_tags_say_which_filter_is_which_colour():
    colours = {"COLOR1": "R Ha 1", "COLOR2": "G O III 1.5"}
    assert b">R = Ha, G = O III<" in picture.avm(Header(colours), (20, 30))
    assert b"G = O III; no SII for SHO: HOO instead<" in picture.avm(
        Header(colours | {"NOTE": "no SII for SHO: HOO instead"}), (20, 30))
    assert b">grey picture of z<" in picture.avm(Header({"COLOR1": "L z 1", "NOTE": "grey picture of z"}), (20, 30))


def test_tiff_holds_the_packet_and_headers_without_wcs_do_no_harm():
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffFile(io.BytesIO(encode(colours(), Header(WCS), "tiff"))) as file:
        assert b"Spatial.ReferenceValue" in bytes(file.pages[0].tags[700].value)
        assert file.pages[0].tags["Software"].value == "apfunc" and file.pages[0].is_contiguous
    assert picture.avm(Header(), (20, 30)) == b""
    assert b"Spatial" not in picture.avm(Header({"OBJECT": "M 1", "CTYPE1": "LINEAR"}), (20, 30))
    rotated = {k: v
               for k, v in WCS.items() if not k.startswith("CD")} | {"CDELT1": -2e-4, "CDELT2": 2e-4, "CROTA2": 30.0}
    from astropy.wcs import WCS as World

    np.testing.assert_allclose(picture._matrix(Header(rotated)), World(Header(rotated)).pixel_scale_matrix, atol=1e-12)


def test_clear_errors():
    with pytest.raises(ValueError, match="unknown picture format gif"):
        encode(colours(), format="gif")
    for wrong in (np.zeros((3, 3)), np.zeros((3, 3, 4), "u1"), np.zeros((0, 3), "u1"), np.zeros(3, "u1")):
        with pytest.raises(ValueError, match="a picture is"):
            encode(wrong)
    assert struct.unpack(">II", encode(colours("u1"))[16:24]) == (30, 20)
