"""Masters: the truth comes back, odd frames are named, and the fast kernel agrees with the slow obvious one."""

import tracemalloc

import numpy as np
import pytest
from astropy.io import fits

from apfunc import belong, clip, io, raw
from apfunc.combine import combine
from apfunc.header import BAD, NODATA, SATURATED

SHAPE = (256, 320)


def frame(values, **keywords):
    """An image of whole numbers, uint16, with a header."""
    header = fits.Header({k.replace("_", "-"): v for k, v in keywords.items()})
    return np.clip(np.rint(values), 0, 65535).astype("u2"), header


def biases(n=5, seed=1, level=1000, noise=10, shape=SHAPE, **keywords):
    rng = np.random.default_rng(seed)
    pattern = level + 3 * np.sin(np.arange(shape[1]) / 5)
    return [frame(pattern + noise * rng.standard_normal(shape), IMAGETYP="Bias Frame", EXPTIME=0.0, CCD_TEMP=-20.0,
                  RAWFILE=f"bias{i}.fit", **keywords) for i in range(n)]


def flats(levels, seed=2, gain=1.5, hot=0, **keywords):
    """Flats of a vignetted, dusty detector over a bias of 1000: images and the true response."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    truth = (1 - 0.4 * ((y - 128)**2 + (x - 160)**2) / 200**2) * (1 + 0.01 * rng.standard_normal(SHAPE))
    truth[100:110, 50:60] *= 0.8
    images = [frame(1000 + rng.poisson(level * gain * truth) / gain + 8 * rng.standard_normal(SHAPE), FILTER="R",
                    IMAGETYP="Flat Field", EXPTIME=3.0 + i, RAWFILE=f"flat{i}.fit", **keywords)
              for i, level in enumerate(levels)]
    return images, truth / raw.good_level(truth)


def left_out(header):
    return [header[k] for k in header if k.startswith("EXC")]


# ------------------------------------------------------------------------------------------------ the kernel

def slow_mean(values, noise, sigma):
    """The clipped mean of one pixel, as its docstring says it."""
    v = np.sort(values[np.isfinite(values)].astype(float))
    n = len(v)
    if n == 0:
        return np.nan, 0
    out = max(1, round(n / 6))
    own = (v[n - 1 - out] - v[out]) / clip.quantile_range(n) * (1 + 4 / n) if n >= 4 else 0
    middle, reach = (np.median(v), sigma * max(noise, own)) if n > 2 else (v[0], sigma * noise * np.sqrt(n))
    kept = v[np.abs(v - middle) <= reach]
    return kept.mean(), len(kept)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 20, 33])
def test_sorted_mean_is_the_slow_one(n):
    rng = np.random.default_rng(n)
    values = rng.normal(100, 5, (n, 300)).astype("f4")
    values[rng.random(values.shape) < 0.05] += 300
    values[rng.random(values.shape) < 0.05] = np.nan
    mean, error, count = clip.sorted_mean(values.T, np.full(300, 5.0), 4.0)
    slow = np.array([slow_mean(v, 5.0, 4.0) for v in values.T])
    assert np.allclose(mean, slow[:, 0], equal_nan=True) and np.array_equal(count, slow[:, 1])
    assert np.array_equal(np.isnan(error), count == 0)


@pytest.mark.parametrize("n", [3, 5, 20, 60])
def test_clipped_mean_is_the_slow_one_and_sees_every_outlier(n):
    rng = np.random.default_rng(n)
    stack = rng.normal(1000, 10, (n, 24, 600)).astype("f4")
    hit = np.argsort(rng.random(stack[0].size))[:300]
    stack.reshape(n, -1)[rng.integers(0, n, 300), hit] += rng.uniform(100, 30000, 300).astype("f4")
    value, _, count = clip.clipped_mean(stack)
    slow = np.array([slow_mean(v, 10.0, 4.0)[0] for v in stack.reshape(n, -1).T])
    assert np.mean(np.abs(value.ravel() - slow) > 1e-3) < 0.003  # a value within a few per cent of 4 sigma
    assert np.all(count.ravel()[hit] < n) and np.abs(value.ravel()[hit] - 1000).max() < 60 / np.sqrt(n)


@pytest.mark.parametrize("sigma", [3.0, 4.0])
@pytest.mark.parametrize("n", [2, 3, 5, 20, 60])
@pytest.mark.parametrize("whole", [False, True])
def test_noise_is_not_biased_by_clipping_or_rounding(n, sigma, whole):
    stack = np.random.default_rng(n).normal(1000, 10, (n, 64, 512)).astype("f4")
    value, error, _ = clip.clipped_mean(np.rint(stack) if whole else stack, sigma, float(whole))
    assert np.median(error) * np.sqrt(n) == pytest.approx(10, rel=0.015)
    assert value.mean() == pytest.approx(1000, abs=0.1)
    if n > 2:
        assert value.std() == pytest.approx(np.median(error), rel=0.02)


def test_quiet_sensor_with_less_noise_than_a_unit():
    stack = np.rint(np.random.default_rng(4).normal(100.3, 0.3, (10, 32, 512))).astype("f4")
    value, _, _ = clip.clipped_mean(stack, 4.0, 1.0)
    assert value.mean() == pytest.approx(stack.mean(), abs=0.002)  # rounding's minority is no outlier


def test_clip_agrees_with_astropy_and_ccdproc():
    astropy_clip = pytest.importorskip("astropy.stats").sigma_clip
    ccdproc = pytest.importorskip("ccdproc")
    from astropy.nddata import CCDData
    rng = np.random.default_rng(8)
    stack = rng.normal(500, 8, (15, 64, 256)).astype("f4")
    hits = rng.random(stack.shape) < 1e-3
    stack[hits] += 2000
    value, _, _ = clip.clipped_mean(stack)
    oracle = astropy_clip(stack, sigma=5, stdfunc="mad_std", axis=0, maxiters=1).mean(axis=0)
    other = ccdproc.combine([CCDData(s, unit="adu") for s in stack], method="average", sigma_clip=True,
                            sigma_clip_low_thresh=5, sigma_clip_high_thresh=5, sigma_clip_func=np.ma.median,
                            sigma_clip_dev_func="mad_std").data
    for theirs in (oracle, other):
        assert np.median(np.abs(value - theirs)) < 1e-3 and np.std(value - theirs) < 0.35  # noise of the mean: 2.1
        assert np.std(value) <= np.std(theirs) + 0.01


def test_median_and_mean():
    stack = np.random.default_rng(1).normal(0, 1, (7, 16, 16)).astype("f4")
    stack[0, 0, 0] = np.nan
    stack[:, 1, 1] = np.nan
    assert np.allclose(clip.median(stack)[0], np.nanmedian(stack, axis=0), equal_nan=True, atol=1e-6)
    assert np.allclose(clip.mean(stack)[0], np.nanmean(stack, axis=0), equal_nan=True, atol=1e-6)
    assert clip.median(stack)[2][1, 1] == 0 and clip.mean(stack)[2][0, 0] == 6


@pytest.mark.parametrize("n", [1, 2, 7, 32, 33])
def test_middle_of_rows_is_the_median(n):
    values = np.random.default_rng(n).normal(1000, 10, (50, n)).astype("f4")
    assert np.array_equal(clip.middle_of_rows(values), np.median(values, axis=1))
    values[3] = values[4, 0] = np.nan
    assert np.array_equal(clip.middle_of_rows(values)[5:], np.median(values[5:], axis=1))
    assert np.isnan(clip.middle_of_rows(values)[3])


# --------------------------------------------------------------------------------------------------- biases

@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 70])
def test_master_bias_of_any_number(n):
    (data, header), planes = combine(biases(n))
    truth = 1000 + 3 * np.sin(np.arange(SHAPE[1]) / 5)
    assert data.dtype == np.float32 and data.shape == SHAPE and header["NCOMBINE"] == n
    assert np.std(data - truth) == pytest.approx(10 / np.sqrt(n), rel=0.02)
    if n > 1:
        assert np.median(planes["UNCERT"]) == pytest.approx(10 / np.sqrt(n), rel=0.03)
    assert header["IMAGETYP"] == "Master Bias" and header["CALSTAT"] == "M" and header["BIASSUB"] is False
    assert len([k for k in header if k.startswith("INP")]) == n and not left_out(header)


@pytest.mark.parametrize("temperatures", [[-20] * 5, [-20, -20, -18, -20, -20], [None] * 5, [-20, None, -20, -20, -18]])
def test_temperatures(temperatures):
    images = biases()
    for (_, header), t in zip(images, temperatures):
        header.remove("CCD-TEMP")
        if t is not None:
            header["CCD-TEMP"] = t
    (_, header), _ = combine(images)
    odd = [f"bias{i}.fit: temperature -18 C, the others -20" for i, t in enumerate(temperatures) if t == -18]
    assert left_out(header) == odd and header["NCOMBINE"] == 5 - len(odd)
    assert header.get("CCD-TEMP") == (-20 if -20 in temperatures else None)


def test_frames_that_do_not_belong_are_named():
    rng = np.random.default_rng(9)
    images = biases(9)
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    leak = images[1][0] + 60 * np.exp(-(y**2 + x**2) / 60**2)
    images[1] = frame(leak, **{k.replace("-", "_"): v for k, v in images[1][1].items()})
    images[2] = frame(images[2][0] + 15.0, IMAGETYP="Bias Frame", RAWFILE="high.fit")
    hot = np.where(rng.random(SHAPE) < 0.01, rng.exponential(500, SHAPE), 0)
    images[3] = frame(images[3][0] + hot, IMAGETYP="Bias Frame", RAWFILE="dark.fit")
    images[4][1]["IMAGETYP"] = "Dark Frame"
    images[5][1]["XBINNING"] = 2
    images[5][1]["YBINNING"] = 2
    images[6] = frame(np.full((64, 64), 1000), IMAGETYP="Bias Frame", RAWFILE="small.fit")
    images.append(frame(20000 + 100 * rng.standard_normal(SHAPE), IMAGETYP="bias", RAWFILE="flat.fit"))
    for _, header in images:
        header.setdefault("XBINNING", 1)
        header.setdefault("YBINNING", 1)
    (data, header), _ = combine(images)
    why = dict(entry.split(": ", 1) for entry in left_out(header))
    assert header["NCOMBINE"] == 3
    assert set(why) == {"bias1.fit", "high.fit", "dark.fit", "bias4.fit", "bias5.fit", "small.fit", "flat.fit"}
    assert "light leak" in why["bias1.fit"] and "level 101" in why["high.fit"] and "8 sigma above" in why["dark.fit"]
    assert why["bias4.fit"] == "IMAGETYP says dark" and "binning 2x2" in why["bias5.fit"]
    assert "size 64x64" in why["small.fit"]
    assert abs(data.mean() - 1000) < 0.5


def test_drift_is_kept():
    rng = np.random.default_rng(1)
    images = [frame(1000 + 2.0 * i + 10 * rng.standard_normal(SHAPE), IMAGETYP="zero") for i in range(20)]
    (_, header), _ = combine(images)
    assert header["NCOMBINE"] == 20


def test_two_that_disagree_keep_the_darker():
    images = biases(1) + [frame(1300 + np.zeros(SHAPE), IMAGETYP="bias", RAWFILE="lit.fit")]
    (_, header), _ = combine(images)
    assert header["NCOMBINE"] == 1 and left_out(header)[0].startswith("lit.fit: level 1300")


def test_pedestal_and_overscan_once():
    ccdproc = pytest.importorskip("ccdproc")
    from astropy.nddata import CCDData
    rng = np.random.default_rng(3)
    level = 900 + 5 * rng.standard_normal((64, 1))  # the level wanders from row to row
    images = []
    for i in range(5):
        data = level + 30 * (np.arange(96) < 80) + 2 * rng.standard_normal((64, 96))
        images.append(frame(data, IMAGETYP="Bias", BIASSEC="[83:96,1:64]", TRIMSEC="[1:80,1:64]"))
    (data, header), _ = combine(images)
    assert data.shape == (64, 80) and header["NCOMBINE"] == 5
    assert data.mean() == pytest.approx(30, abs=0.1) and data.mean(axis=1).std() < 0.5  # of 5
    ours = raw.opened(*images[0])
    theirs = CCDData(images[0][0].astype("f4"), unit="adu")
    theirs = ccdproc.subtract_overscan(theirs, fits_section="[83:96,1:64]", overscan_axis=None, median=True)
    theirs = ccdproc.trim_image(theirs, fits_section="[1:80,1:64]")
    assert np.allclose(ours[1](0, 64) - ours[2](0, 64), theirs.data)
    (data, header), _ = combine([frame(d + 100.0, **dict(h), PEDESTAL=-100) for d, h in
                                 ((d, {"IMAGETYP": "bias"}) for d, _ in biases())])
    assert data.mean() == pytest.approx(1000, abs=0.3) and "PEDESTAL" not in header
    (data, _), _ = combine([frame(d, IMAGETYP="bias", PEDESTAL=-20000) for d, _ in biases()])
    assert data.mean() == pytest.approx(1000, abs=0.3)  # cannot have been added


@pytest.mark.parametrize("section", ["", "[3:90,2:60]"])
@pytest.mark.parametrize("kind", ["u2", "i2", "f4"])
def test_rows_read_into_an_array_are_the_same(tmp_path, kind, section):
    data = np.arange(64 * 96).reshape(64, 96).astype(kind) * 10
    fits.PrimaryHDU(data, fits.Header({"TRIMSEC": section})).writeto(tmp_path / "a.fits")
    _, read, _ = raw.opened(*io.read_rows(tmp_path / "a.fits"))
    trim = raw.section(section, data.shape) or np.s_[:, :]
    for room in (None, np.empty(10, "i2"), np.empty(10 * 96, "i2")):
        np.testing.assert_array_equal(read(5, 15, room), data[trim][5:15])
        np.testing.assert_array_equal(read(55, 80, room), data[trim][55:])


def test_lazy_rows_give_the_same_bytes(tmp_path, monkeypatch):
    images = biases(4)
    paths = []
    for i, (data, header) in enumerate(images):
        compressed = [fits.PrimaryHDU(), fits.CompImageHDU(data, header)]
        hdus = fits.HDUList(compressed if i % 2 else [fits.PrimaryHDU(data, header)])
        paths.append(tmp_path / f"{i}.fits")
        hdus.writeto(paths[-1])
    monkeypatch.setattr("apfunc.combine.STRIP", 1e5)
    expected, planes = combine(images, kind="bias")
    monkeypatch.setattr("apfunc.combine.BAND", 1e5)
    lazy, lazy_planes = combine([io.read_rows(path) for path in paths], kind="bias")
    assert np.array_equal(lazy[0], expected[0])
    assert np.array_equal(lazy_planes["MASK"], planes["MASK"])
    assert [v.split()[1] for k, v in lazy[1].items() if k.startswith("INP")] == \
        [v.split()[1] for k, v in expected[1].items() if k.startswith("INP")]


@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_a_frame_cut_short_is_left_out(tmp_path, kind):
    paths = [tmp_path / f"{i}.fits" for i in range(4)]
    for path, (data, header) in zip(paths, biases(4)):
        fits.PrimaryHDU(data.astype(kind), header).writeto(path)
    paths[1].write_bytes(paths[1].read_bytes()[:-2880])
    rows = [io.read_rows(path) for path in paths]
    (_, header), _ = combine(rows, kind="bias")
    assert header["NCOMBINE"] == 3 and left_out(header) == ["bias1.fit: the file is cut short; copy it again or "
                                                            "leave it out"]
    with pytest.raises(ValueError, match="no frame is left: bias1.fit: the file is cut short"):
        combine(rows[1:2], kind="bias")


@pytest.mark.parametrize("n", [0, 1, 2, 7, 50, 51])
def test_middle_is_the_median(n):
    values = np.random.default_rng(n).normal(1000, 10, n).astype("f4")
    assert raw.middle(values) == pytest.approx(np.median(values) if n else np.nan, rel=1e-7, nan_ok=True)
    assert raw.middle(np.append(values, [np.nan, np.nan])) == pytest.approx(raw.middle(values), nan_ok=True)
    assert raw.middle(np.array([65535, 65533], "u2")) == 65534


def test_memory_is_bounded_by_the_band(monkeypatch):
    monkeypatch.setattr("apfunc.combine.BAND", 1e6)
    monkeypatch.setattr("apfunc.combine.STRIP", 1e6)
    images = biases(4, shape=(512, 512)) * 10
    tracemalloc.start()
    combine(images, vet=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # 40 frames as float32 are 42 MB


def test_arguments_stay_and_bytes_are_the_same():
    images = biases(6)
    before = [(d.copy(), h.copy()) for d, h in images]
    first, second = combine(images), combine(images)
    assert all(np.array_equal(a, b) and repr(h) == repr(g) for (a, h), (b, g) in zip(images, before))
    assert np.array_equal(first[0][0], second[0][0]) and repr(first[0][1]) == repr(second[0][1])


def test_refusals_and_ugly_input():
    with pytest.raises(ValueError, match="no frames"):
        combine([])
    with pytest.raises(ValueError, match="--kind"):
        combine([(np.zeros((4, 4)), fits.Header())])
    with pytest.raises(ValueError, match="no method"):
        combine(biases(2), method="magic")
    with pytest.raises(ValueError, match="no frame is left.*no values"):
        combine([(np.full((8, 8), np.nan), fits.Header())], kind="bias")
    images = [(d.astype("f4"), h) for d, h in biases(5)]
    images[0][0][3, 3] = np.nan
    for data, _ in images:
        data[5, 5] = np.nan
    images[1][0][7, 7] = np.inf
    (data, _), planes = combine(images)
    assert np.isfinite(data[3, 3]) and np.isfinite(data[7, 7]) and np.isnan(data[5, 5])
    assert planes["MASK"][5, 5] == BAD | NODATA and np.count_nonzero(planes["MASK"]) == 1
    (data, header), _ = combine([(np.full((1, 3), 7), fits.Header()), (np.full((1, 3), 7), fits.Header())], kind="bias")
    assert data.tolist() == [[7, 7, 7]] and header["NOISE"] >= 0


# ---------------------------------------------------------------------------------------------------- darks

def darks(n=6, seconds=300.0, current=0.05, seed=5, bias=1000, **keywords):
    rng = np.random.default_rng(seed)
    rate = current + np.where(rng.random(SHAPE) < 0.002, rng.exponential(20, SHAPE), 0)
    rate[10, 10] = 1000
    exposures = seconds + np.array([0, 0.1, 0.2, -0.001, 0, 0.1, 0, 0])[:n]
    images = []
    for i, t in enumerate(exposures):
        data = bias + rng.poisson(rate * t) + 10 * rng.standard_normal(SHAPE)
        data[tuple(rng.integers(0, SHAPE, (40, 2)).T)] += 3000  # cosmic rays
        images.append(frame(data, IMAGETYP="Dark Frame", EXPTIME=t, CCD_TEMP=-20.0, RAWFILE=f"dark{i}.fit", **keywords))
    return images, rate * seconds


def test_master_dark():
    (bias, bias_header), _ = combine(biases(20))
    images, truth = darks()
    (data, header), planes = combine(images, bias=(bias, bias_header))
    assert header["BIASSUB"] is True and header["CALSTAT"] == "BM" and header["NCOMBINE"] == 6
    assert header["EXPTIME"] == pytest.approx(300, abs=0.1) and header["REJFRAC"] > 0
    normal = truth < 40
    pull = (data - truth)[normal] / np.hypot(planes["UNCERT"][normal], 10 / np.sqrt(20))
    assert np.std(pull) == pytest.approx(1, abs=0.1) and np.abs(pull).max() < 8
    hot = (truth > 200) & (truth < 50000)
    assert np.median(np.abs(data - truth)[hot] / np.sqrt(truth[hot] / 6)) < 1.2
    assert planes["MASK"][10, 10] == SATURATED and np.count_nonzero(planes["MASK"]) <= 3
    (raw_dark, raw_header), _ = combine(images)
    assert raw_header["BIASSUB"] is False and np.median(raw_dark) == pytest.approx(1015, abs=2)


def test_bias_state_of_darks_is_measured():
    bias, _ = combine(biases(20))
    images, _ = darks(bias=0, current=0.1)  # bias subtracted before, and nothing says so
    (data, header), _ = combine([(d.astype("f4"), h) for d, h in images], bias=bias)
    assert header["BIASSUB"] is True and np.median(data) == pytest.approx(30, abs=2)
    images, _ = darks(CALSTAT="B")  # the header says so, the data do not
    (data, header), _ = combine(images, bias=bias)
    assert np.median(data) == pytest.approx(15, abs=2)


def test_dark_of_another_exposure_is_left_out():
    images, _ = darks()
    images[2][1]["EXPTIME"] = 120.0
    (_, header), _ = combine(images)
    assert left_out(header) == ["dark2.fit: exposure 120 s, the others 300"]
    images, _ = darks()
    images[1] = (biases(1)[0][0], images[1][1])  # a bias whose header says that it is a dark
    (_, header), _ = combine(images)
    assert [e.split(":")[0] for e in left_out(header)] == ["dark1.fit"]


# ---------------------------------------------------------------------------------------------------- flats

def test_flats_of_all_levels_with_bias():
    bias, _ = combine(biases(20))
    images, truth = flats(np.linspace(18000, 30000, 9))
    (data, header), planes = combine(images, bias=bias)
    residual = data / truth - 1
    assert abs(np.median(residual)) < 3e-3 and raw.spread(residual) == pytest.approx(0.0021, rel=0.3)
    assert np.median(planes["UNCERT"] / data) == pytest.approx(raw.spread(residual), rel=0.2)
    assert header["NCOMBINE"] == 9 and header["BIASSUB"] is True and header["FILTER"] == "R"
    assert header["FLATNORM"] == pytest.approx(9 / np.sum(1 / np.linspace(18000, 30000, 9)), rel=0.25)
    assert data[:, 160].min() > 0.5 and raw.good_level(data) == pytest.approx(1, abs=2e-3)


def test_flat_pattern_against_ccdproc():
    ccdproc = pytest.importorskip("ccdproc")
    from astropy.nddata import CCDData
    bias, _ = combine(biases(20))
    images, _ = flats([18000, 24000, 30000, 21000, 27000])
    (data, _), _ = combine(images, bias=bias)
    ccds = [ccdproc.subtract_bias(CCDData(d.astype("f4"), unit="adu"), CCDData(bias[0], unit="adu")) for d, _ in images]
    theirs = ccdproc.combine(ccds, method="average", scale=lambda a: 1 / np.median(a), sigma_clip=True,
                             sigma_clip_low_thresh=5, sigma_clip_high_thresh=5, sigma_clip_func=np.ma.median,
                             sigma_clip_dev_func="mad_std").data
    ratio = data / theirs
    assert np.std(ratio / np.median(ratio)) < 1e-3


def test_flats_that_do_not_belong():
    bias, _ = combine(biases(20))
    images, truth = flats([20000] * 8)
    x = np.arange(SHAPE[1])
    images[0] = frame(np.minimum(1000 + truth * 90000, 61000), IMAGETYP="Flat Field", FILTER="R", RAWFILE="full.fit")
    images[1] = frame(images[1][0] * (1 + 0.3 * x / 320), IMAGETYP="Flat Field", FILTER="R", RAWFILE="cloud.fit")
    images[2] = frame(biases(1)[0][0], IMAGETYP="Flat Field", FILTER="R", RAWFILE="bias.fit")
    images[3][1]["FILTER"] = "G"
    (data, header), _ = combine(images, bias=bias)
    why = dict(entry.split(": ", 1) for entry in left_out(header))
    assert set(why) == {"full.fit", "cloud.fit", "bias.fit", "flat3.fit"} and header["NCOMBINE"] == 4
    assert "saturated" in why["full.fit"] and "another illumination" in why["cloud.fit"]
    assert "level" in why["bias.fit"] and "filter G" in why["flat3.fit"]
    assert raw.spread(data / truth - 1) < 0.005


def test_flat_with_dark_and_saturated_pixels():
    bias, _ = combine(biases(20))
    images, truth = flats([20000] * 6)
    current = np.zeros(SHAPE, "f4")
    current[40:60, 40:60] = 50
    dark = current * 10, fits.Header({"IMAGETYP": "Master Dark", "EXPTIME": 10.0, "BIASSUB": True, "NOISE": 0.1})
    for i, (data, header) in enumerate(images):
        data[:] = np.rint(data + current * header["EXPTIME"])
        data[5, 5] = 65535
        data[7, 7] = 65535 if i == 2 else data[7, 7]
    (data, header), planes = combine(images, bias=bias, dark=dark)
    assert header["CALSTAT"] == "BDM"
    assert np.median((data / truth)[40:60, 40:60]) == pytest.approx(np.nanmedian(data / truth), abs=1e-3)
    assert np.isnan(data[5, 5]) and planes["MASK"][5, 5] & SATURATED and planes["MASK"][5, 5] & NODATA
    assert data[7, 7] == pytest.approx(truth[7, 7], rel=0.02) and planes["MASK"][7, 7] == 0


def test_a_dark_with_bias_cannot_be_scaled_without_one():
    images, _ = flats([20000] * 3)
    dark = np.full(SHAPE, 1020, "f4"), fits.Header({"EXPTIME": 30.0, "CALSTAT": "M"})
    with pytest.raises(ValueError, match="still holds bias.*--bias"):
        combine(images, dark=dark)


def test_kinds_in_all_spellings():
    for word, kind in (("Light Frame", "light"), ("BIAS", "bias"), ("zero", "bias"), ("Dark Frame", "dark"),
                       ("Flat Field", "flat"), ("FLAT", "flat"), ("Master_Dark", "dark"), ("Sky-Flat", "flat"),
                       ("nonsense", None), ("", None)):
        assert belong.kind_of({"IMAGETYP": word}) == kind
