"""The sky comes back from raw frames; masters that do not fit are refused or corrected; saturation is exact."""

import numpy as np
import pytest
from astropy.io import fits

from apfunc import masters, raw
from apfunc.calibrate import calibrate

SHAPE = (200, 240)


def image(data, **keywords):
    return np.asarray(data), fits.Header({k.replace("_", "-"): v for k, v in keywords.items()})


def night(seed=1, gain=1.5, seconds=300.0, dark_seconds=300.0, sky=400.0):
    """A dictionary: a raw light, its masters (free of noise), and the truth (electrons over gain, flat-fielded)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    bias = 1000 + 4 * np.sin(x / 3) + 2 * np.cos(y / 7)
    rate = 0.02 + np.where(rng.random(SHAPE) < 0.004, rng.exponential(5, SHAPE) + 1, 0)
    flat = (1 - 0.3 * ((y - 100)**2 + (x - 120)**2) / 150**2) * (1 + 0.02 * rng.standard_normal(SHAPE))
    flat /= raw.good_level(flat)
    truth = sky + 3000 * np.exp(-((y - 60)**2 + (x - 70)**2) / 8) + 90000 * np.exp(-((y - 140)**2 + (x - 150)**2) / 8)
    light = bias + rng.poisson((truth * flat + rate * seconds) * gain) / gain + 6 * rng.standard_normal(SHAPE)
    light = np.clip(np.rint(light), 0, 60000).astype("u2")
    common = {"XBINNING": 1, "YBINNING": 1, "ROWORDER": "TOP-DOWN", "CCD_TEMP": -20.0}
    return {"light": image(light, IMAGETYP="Light Frame", EXPTIME=seconds, FILTER="R", RAWFILE="m31.fit", **common),
            "bias": image(bias.astype("f4"), IMAGETYP="Master Bias", BIASSUB=False, RAWFILE="bias.fits", **common),
            "dark": image((rate * dark_seconds).astype("f4"), IMAGETYP="Master Dark", BIASSUB=True,
                          EXPTIME=dark_seconds, RAWFILE="dark.fits", **common),
            "flat": image(flat.astype("f4"), IMAGETYP="Master Flat", BIASSUB=True, FLATNORM=20000.0, FILTER="Red",
                          RAWFILE="flat.fits", **common), "truth": truth, "rate": rate}


def full(frames, **options):
    return calibrate(frames["light"], frames["bias"], frames["dark"], frames["flat"], **options)


def test_sky_comes_back():
    frames = night()
    data, header = full(frames, gain=1.5, readnoise=9)
    good = frames["truth"] < 2000
    flat = frames["flat"][0]
    noise = np.sqrt(frames["truth"] / 1.5 / flat + (frames["rate"] * 300 / 1.5 + 36) / flat**2)
    pull = ((data - frames["truth"]) / noise)[good]
    assert data.dtype == np.float32 and abs(pull.mean()) < 0.01 and pull.std() == pytest.approx(1, abs=0.02)
    assert header["CALSTAT"] == "BDF" and header["BUNIT"] == "adu" and header["DARKSCL"] == 1
    assert header["EGAIN"] == 1.5 and header["RDNOISE"] == 9
    assert [header[k] for k in ("BIASFILE", "DARKFILE", "FLATFILE")] == ["bias.fits", "dark.fits", "flat.fits"]
    assert header["DARKID"] == raw.sample(frames["dark"][0])[1]
    assert str(header["HISTORY"]).count("apfunc calibrate") == 1


def test_against_ccdproc():
    ccdproc = pytest.importorskip("ccdproc")
    from astropy import units as u
    from astropy.nddata import CCDData
    frames = night(dark_seconds=600.0)
    ccd = {k: CCDData(frames[k][0].astype("f8"), unit="adu", header=frames[k][1])
           for k in ("light", "bias", "dark", "flat")}
    theirs = ccdproc.subtract_bias(ccd["light"], ccd["bias"])
    theirs = ccdproc.subtract_dark(theirs, ccd["dark"], exposure_time="EXPTIME", exposure_unit=u.s, scale=True)
    theirs = ccdproc.flat_correct(theirs, ccd["flat"], norm_value=1.0)
    ours, header = full(frames)
    unsaturated = ours < header["SATURATE"]
    assert header["DARKSCL"] == 0.5 and np.allclose(ours[unsaturated], theirs.data[unsaturated], rtol=1e-5, atol=0.01)


def test_saturation_is_exact():
    frames = night()
    frames["light"][0][5, 5] = 59999  # a hot pixel just below, where the flat is low
    data, header = full(frames)
    saturated = frames["light"][0] >= 60000
    assert saturated.sum() > 5 and np.array_equal(data >= header["SATURATE"], saturated)
    restored = fits.Header.fromstring(header.tostring())
    assert np.array_equal(data >= restored["SATURATE"], saturated)  # and through a file's header
    again, after = calibrate((data, header))
    assert np.array_equal(again, data) and after["SATURATE"] == header["SATURATE"]


@pytest.mark.parametrize("saturate, keyword, expected", [
    (None, None, 60000), (50000, None, 50000), (None, 55000, 55000), (None, 64000, 60000)])
def test_full_scale(saturate, keyword, expected):
    data, header = night()["light"]
    if keyword:
        header["SATURATE"] = keyword
    assert raw.full_scale(data, header, saturate) == expected


def test_full_wells_over_the_pattern_of_the_bias():
    rng = np.random.default_rng(2)
    pattern = 1000 + 4 * rng.standard_normal((300, 300))
    y, x = np.mgrid[:300, :300]
    for peak, few in ((90000, 8), (200000, 20)):
        electrons = 500 + sum(peak * np.exp(-((y - a)**2 + (x - b)**2) / 9) for a, b in ((50, 60), (200, 120)))
        data = np.rint(np.minimum(rng.poisson(electrons), 50000) + pattern).astype("u2")
        saturated = data > 50980
        assert saturated.sum() >= few and np.array_equal(data >= raw.full_scale(data, {}), saturated)
    faint = np.rint(rng.poisson(electrons / 5) + pattern).astype("u2")  # not one saturated
    assert raw.full_scale(faint, {}) == 65535


def test_full_scale_of_frames_that_do_not_saturate():
    rng = np.random.default_rng(1)
    assert raw.full_scale(rng.poisson(1000, (100, 100)).astype("u2"), {}) == 65535
    assert raw.full_scale(rng.poisson(30000, (300, 300)).astype("f4"), {}) == 65535
    assert raw.full_scale(rng.normal(0, 1, (100, 100)), {}) is None
    assert raw.full_scale(np.full((50, 50), 20000, "u2"), {}) == 65535
    assert raw.full_scale(np.full((50, 50), np.nan, "f4"), {}) == 65535
    _, header = calibrate(image(rng.normal(0, 1, (20, 20))))
    assert "SATURATE" not in header


@pytest.mark.parametrize("value", [-100, 100, -100.0])
def test_pedestal_exactly_once(value):
    frames = night()
    plain, _ = full(frames)
    frames["light"] = frames["light"][0] + np.uint16(100), frames["light"][1]
    frames["light"][1]["PEDESTAL"] = value
    data, header = full(frames)
    assert np.array_equal(data[data < 1000], plain[data < 1000]) and "PEDESTAL" not in header
    again, _ = calibrate((data, header))
    assert np.array_equal(again, data)


def test_pedestal_that_cannot_be_is_not_believed():
    frames = night()
    plain, _ = full(frames)
    for value in (-30000, 1e9, float("inf"), True, "much"):
        with np.errstate(all="ignore"):
            try:
                frames["light"][1]["PEDESTAL"] = value
            except ValueError:
                continue
        data, header = full(frames)
        assert np.array_equal(data, plain) and "PEDESTAL" not in header


def test_masters_with_pedestal():
    frames = night()
    plain, _ = full(frames)
    frames["dark"] = image(frames["dark"][0] + 100, PEDESTAL=-100, CALSTAT="BM", EXPTIME=300.0, IMAGETYP="Dark Frame")
    assert np.allclose(full(frames)[0], plain, atol=0.01)


def test_what_was_done_is_not_done_again():
    frames = night()
    once = full(frames)
    for kind in ("bias", "dark", "flat"):
        with pytest.raises(ValueError, match=f"the {kind} correction was done before"):
            calibrate(once, **{kind: frames[kind]})
    frames["light"][1]["CALSTAT"] = "BDF"
    with pytest.raises(ValueError, match="CALSTAT BDF"):
        full(frames)
    partly = calibrate(night()["light"], bias=frames["bias"], dark=frames["dark"])
    data, header = calibrate(partly, flat=frames["flat"])
    unsaturated = once[0] < once[1]["SATURATE"]
    assert np.allclose(data[unsaturated], once[0][unsaturated], rtol=1e-6) and header["CALSTAT"] == "BDF"


def test_a_light_below_the_bias_is_refused():
    frames = night()
    frames["light"] = frames["light"][0].astype("f4") - 1000, frames["light"][1]
    with pytest.raises(ValueError, match="far below the bias"):
        calibrate(frames["light"], bias=frames["bias"])


@pytest.mark.parametrize("seconds", [300.0, 600.0, 120.0])
@pytest.mark.parametrize("keyword", [{"CALSTAT": "M"}, {"BIASSUB": False}, {}, {"CALSTAT": "BM"}])
def test_dark_that_holds_the_bias_is_corrected(seconds, keyword):
    frames = night(dark_seconds=seconds)
    plain, _ = full(frames)
    dark = frames["dark"][0] + frames["bias"][0]
    frames["dark"] = image(dark, EXPTIME=seconds, IMAGETYP="Dark Frame", CCD_TEMP=-20.0, **keyword)
    assert np.allclose(full(frames)[0], plain, atol=0.05)  # even with BM: the data overrule it
    if keyword == {"CALSTAT": "BM"}:
        return  # without a bias only the keyword is there
    if seconds == 300:
        data, header = calibrate(frames["light"], dark=frames["dark"], flat=frames["flat"])
        assert np.allclose(data, plain, atol=0.05) and header["CALSTAT"] == "BDF"
    else:
        with pytest.raises(ValueError, match="still holds bias.*--bias"):
            calibrate(frames["light"], dark=frames["dark"], flat=frames["flat"])


def test_dark_without_bias_needs_one():
    frames = night()
    with pytest.raises(ValueError, match="holds no bias.*--bias"):
        calibrate(frames["light"], dark=frames["dark"])
    del frames["dark"][1]["BIASSUB"]  # nothing says it: the data do
    assert np.median(full(frames)[0]) == pytest.approx(400, abs=2)


def test_short_dark_scaled_up_adds_no_noise():
    frames = night(dark_seconds=30.0)
    clean, _ = full(frames)
    rng = np.random.default_rng(5)
    dark = frames["dark"][0] + rng.normal(0, 3, SHAPE).astype("f4")
    frames["dark"] = image(dark, IMAGETYP="Master Dark", BIASSUB=True, EXPTIME=30.0, NOISE=3.0)
    data, header = full(frames)
    calm = frames["rate"] < 0.1
    assert header["DARKSCL"] == 10 and np.std((data - clean)[calm]) < 3
    hot = frames["rate"] > 3
    assert np.median(np.abs(data - clean)[hot]) < 50


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("keyword", [{"CALSTAT": "M"}, {"BIASSUB": False}])
def test_flat_that_holds_the_bias_is_corrected(norm, keyword):
    frames = night()
    plain, _ = full(frames)
    flat = frames["flat"][0] * 20000 + frames["bias"][0]
    more = dict(keyword, FLATNORM=20000.0) if norm else keyword
    frames["flat"] = image(flat / np.float32(20000 if norm else 1), IMAGETYP="Flat Field", **more)
    data, _ = full(frames)
    assert np.allclose(data[data < 50000], plain[data < 50000], rtol=3e-3)
    with pytest.raises(ValueError, match="flat still holds the bias"):
        calibrate(frames["light"], flat=frames["flat"])


def test_library_flat_in_adu_without_bias():
    frames = night()
    plain, _ = full(frames)
    frames["flat"] = image(frames["flat"][0] * 23456, CALSTAT="BM", IMAGETYP="Master Flat")
    data, _ = full(frames)
    assert np.allclose(data[data < 50000], plain[data < 50000], rtol=3e-3)


def test_low_and_missing_flat_pixels_become_nan():
    frames = night()
    frames["flat"][0][3, 3:6] = [0.05, -1, np.nan]
    data, header = full(frames)
    assert np.isnan(data[3, 3:6]).all() and np.isnan(data).sum() == 3 and header["FLATMIN"] == 0.1


@pytest.mark.parametrize("turn", list(masters.TURNS))
def test_hot_pixels_tell_the_turn(turn):
    frames = night()
    plain, _ = full(frames)
    sy, sx = masters.TURNS[turn]
    for kind in ("bias", "dark", "flat"):
        frames[kind] = frames[kind][0][::sy, ::sx].copy(), frames[kind][1]
    data, header = full(frames)
    assert np.array_equal(data, plain) and header.get("MASTTURN") == (turn or None)


def test_roworder():
    frames = night()
    plain, _ = full(frames)
    for kind in ("bias", "flat"):
        frames[kind] = frames[kind][0][::-1].copy(), frames[kind][1]
        frames[kind][1]["ROWORDER"] = "BOTTOM-UP"
    data, _ = full(frames)  # the dark lies right, the others say that they do not
    assert np.array_equal(data, plain)
    data, _ = calibrate(frames["light"], bias=frames["bias"], flat=frames["flat"])
    assert np.median(data) == pytest.approx(406, abs=4)
    frames["dark"][1]["ROWORDER"] = "BOTTOM-UP"  # it says so, its hot pixels do not: then the others' word is no better
    frames["bias"] = frames["bias"][0][::-1].copy(), frames["bias"][1]
    frames["flat"] = frames["flat"][0][::-1].copy(), frames["flat"][1]
    assert np.array_equal(full(frames)[0], plain)


def test_subframe_of_full_masters():
    frames = night()
    plain, _ = full(frames)
    light, header = frames["light"]
    header["XORGSUBF"], header["YORGSUBF"] = 30, 50
    part = light[50:150, 30:130], header
    data, head = calibrate(part, frames["bias"], frames["dark"], frames["flat"])
    same = data < head["SATURATE"]
    assert data.shape == (100, 100) and np.array_equal(data[same], plain[50:150, 30:130][same])
    header["XORGSUBF"] = 200
    with pytest.raises(ValueError, match="240x200, the frame 100x100 at 200,50"):
        calibrate(part, bias=frames["bias"])
    del header["XORGSUBF"]
    with pytest.raises(ValueError, match="size and place"):
        calibrate(part, bias=frames["bias"])


@pytest.mark.parametrize("kind, key, value, message", [
    ("bias", "IMAGETYP", "Master Dark", "is a dark"), ("dark", "XBINNING", 2, "binning 2x1, the frame 1x1"),
    ("flat", "FILTER", "Ha", "filter Ha, the frame R"), ("dark", "CCD-TEMP", -10.0, "taken at -10 C"),
    ("dark", "GAIN", 100, "gain setting"), ("bias", "READOUTM", "Fast", "readout mode"),
    ("dark", "EXPTIME", 0.0, "no exposure time")])
def test_masters_that_do_not_fit(kind, key, value, message):
    frames = night()
    frames["light"][1].update({"GAIN": 2750, "READOUTM": "Slow"})
    frames[kind][1][key] = value
    with pytest.raises(ValueError, match=message):
        full(frames)


def test_overscan_and_trim():
    frames = night()
    plain, _ = full(frames)
    offset = np.arange(SHAPE[0])[:, None] % 7
    wide = np.concatenate([frames["light"][0] + offset, np.repeat(500 + offset, 20, axis=1)], axis=1).astype("u2")
    header = frames["light"][1].copy()
    header["TRIMSEC"], header["BIASSEC"] = "[1:240,1:200]", "[243:260,1:200]"
    frames["light"] = wide, header
    frames["bias"] = frames["bias"][0] - 500, frames["bias"][1]
    data, head = full(frames, saturate=60000)
    same = (data < 30000) & (plain < 30000)
    assert data.shape == SHAPE and np.allclose(data[same], plain[same], atol=1e-2)
    assert "BIASSEC" not in head and head["OVSCAN"] == "[243:260,1:200]"
    frames["bias"][1]["OVSCAN"] = "[243:260,1:200]"
    with pytest.raises(ValueError, match="overscan was subtracted from the bias"):
        full(frames | {"light": night()["light"]})


def test_nothing_is_invented_and_arguments_stay():
    frames = night()
    before = {k: (v[0].copy(), v[1].copy()) for k, v in frames.items() if isinstance(v, tuple)}
    data, header = full(frames)
    assert "EGAIN" not in header and "RDNOISE" not in header
    for k, (d, h) in before.items():
        assert np.array_equal(d, frames[k][0]) and repr(h) == repr(frames[k][1])
    second, head = full(frames)
    assert np.array_equal(data, second) and repr(head) == repr(header)
    frames["light"][1].update({"EGAIN": 1.4, "READNOIS": 8.8})
    _, header = full(frames)
    assert header["EGAIN"] == 1.4 and header["RDNOISE"] == 8.8


def test_ugly_frames():
    data, header = calibrate(image(np.full((30, 30), np.nan, "f4")), bias=image(np.full((30, 30), 1000.0)))
    assert np.isnan(data).all() and header["CALSTAT"] == "B"
    data, _ = calibrate((np.array([[1, 2]], "u2"), fits.Header()), bias=(np.array([[2, 1]], "u2"), fits.Header()))
    assert data.tolist() == [[-1, 1]]
    data, _ = calibrate((np.full((5, 5), 65535, "u2"), fits.Header()))
    assert data.tolist() == np.full((5, 5), 65535.0).tolist()
