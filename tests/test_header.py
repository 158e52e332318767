"""Values are read, never invented."""

from datetime import datetime

import pytest
from astropy.io.fits import Header

from apfunc import header as h


def test_gain_is_egain_then_a_believable_gain_then_an_error():
    assert h.gain(Header({"EGAIN": 1.5, "GAIN": 100})) == 1.5
    assert h.gain(Header({"GAIN": 0.8})) == 0.8
    assert h.gain(Header([("GAIN", 2, "[e-/ADU] gain")])) == 2
    assert h.gain(Header({"EGAIN": 1.5}), option=3) == 3
    for lacking in (Header(), Header({"GAIN": 100}), Header({"EGAIN": ""}), Header({"EGAIN": 0.0})):
        with pytest.raises(ValueError, match="looked for EGAIN, GAIN.*--gain"):
            h.gain(lacking)


def test_numbers_and_texts_that_say_nothing_are_missing():
    header = Header({"A": "", "B": "nan", "C": True, "D": " 12.5 ", "E": "  "})
    assert [h.number(header, k) for k in "ABCD"] == [None, None, None, 12.5]
    assert h.number(header, "X", "A", "D") == 12.5 and h.text(header, "E", "A") is None


@pytest.mark.parametrize("value, hours, degrees", [("-31 16 24", False, -31.273333), ("-00:30:00", False, -0.5), ("17 58 33.24", True, 269.6385),
                                                   (269.6385, True, 269.6385), ("garbage", False, None), ("", False, None), ("12 99x", False, None)])
def test_angles(value, hours, degrees):
    assert h.angle(value, hours) == (None if degrees is None else pytest.approx(degrees, abs=1e-5))


def test_site_pointing_and_dates():
    assert h.site(Header({"SITELAT": "32 46 49", "SITELONG": "-105 49 13"})) == pytest.approx((32.78028, -105.82028), abs=1e-4)
    assert h.pointing(Header({"OBJCTRA": "17 58 33.24", "OBJCTDEC": "+66 37 58.8"})) == pytest.approx((269.6385, 66.633), abs=1e-4)
    assert h.date_obs(Header({"DATE-OBS": "2025-06-01T06:59:10.57"})) == datetime(2025, 6, 1, 6, 59, 10, 570000)
    assert h.date_obs(Header({"DATE-OBS": "2025-06-01", "TIME-OBS": "06:59:10"})) == datetime(2025, 6, 1, 6, 59, 10)
    assert h.date_obs(Header({"DATE-OBS": "", "JD": 2451545.0})) == datetime(2000, 1, 1, 12)
    assert h.site(Header()) is None and h.pointing(Header({"OBJCTRA": " "})) is None and h.date_obs(Header({"DATE-OBS": "01/06/25"})) is None


def test_camera_tells_groups_apart():
    one = Header({"INSTRUME": "cam", "XBINNING": 2, "YBINNING": 2, "GAIN": 100, "READOUTM": "Fast mode"})
    assert h.camera(one, (10, 20)) == "cam-20x10-bin2x2-Fast_mode-g100"
    assert h.camera(Header(), (10, 20)) == "camera-20x10-bin1x1"
