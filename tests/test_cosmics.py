"""Cosmic rays: found as L.A.Cosmic finds them, with stars, holes and saturated cores left alone."""

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from apfunc.cosmics import cosmics
from apfunc.header import COSMIC, NODATA, SATURATED
from apfunc.lacosmic import star_contrast

GAIN, READNOISE, SKY = 1.5, 8.0, 200.0
NOISE = np.sqrt(SKY / GAIN + (READNOISE / GAIN) ** 2)  # [adu]


def header(**cards):
    return fits.Header({"EGAIN": GAIN, "RDNOISE": READNOISE} | cards)


def star(y, x, flux, fwhm, shape):
    """Electrons of a Gaussian star, averaged over 5x5 points a pixel, in its window; and the window's slices."""
    reach = int(4 * fwhm + 4)
    fine = (np.arange(5) - 2) / 5
    rows = np.arange(max(int(y) - reach, 0), min(int(y) + reach + 1, shape[0]))
    columns = np.arange(max(int(x) - reach, 0), min(int(x) + reach + 1, shape[1]))
    lines = ((rows, y), (columns, x))
    fy, fx = (np.exp(-2.7726 * (line[:, None] + fine - at) ** 2 / fwhm**2).mean(1) for line, at in lines)
    return flux * np.outer(fy, fx) / (1.1331 * fwhm**2), np.ix_(rows, columns)


def sky_with_stars(rng, shape=(300, 300), count=60, fwhm=3.0, brightest=6.0, saturate=None):
    """A frame in ADU, and the stars as (y, x, electrons)."""
    electrons = np.full(shape, SKY * GAIN)
    stars = []
    for _ in range(count):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        stars.append((y, x, 10 ** rng.uniform(3.2, brightest)))
        light, where = star(*stars[-1], fwhm, shape)
        electrons[where] += light
    data = (rng.poisson(electrons) + rng.normal(0, READNOISE, shape)) / GAIN
    return (data if saturate is None else np.minimum(data, saturate)).astype("f4"), stars


def hits(rng, shape, count):
    """ADU of cosmic rays: pixels along short straight lines."""
    rays = np.zeros(shape)
    for _ in range(count):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        long, angle = rng.exponential(4), rng.uniform(0, np.pi)
        steps = np.linspace(0, long, int(4 * long) + 1)
        i, j = (y + steps * np.sin(angle)).astype(int), (x + steps * np.cos(angle)).astype(int)
        inside = (i >= 0) & (i < shape[0]) & (j >= 0) & (j < shape[1])
        np.add.at(rays, (i[inside], j[inside]), 10 ** rng.uniform(2.3, 4.3) * max(1, long / 4) / steps.size)
    return rays


def flagged(mask):
    return (mask & COSMIC) != 0


def slow_twin(data, gain, readnoise, sigma=4.5, sigfrac=0.3, contrast=5.0, iterations=4, saturate=None):
    """L.A.Cosmic on whole frames, with the fine structure and the mended holes of `apfunc.cosmics`."""
    def median(a, size, rank=None):
        return ndimage.rank_filter(a, size**2 // 2 if rank is None else rank, size=size, mode="mirror")

    frame = data * np.float32(gain)
    usable = np.isfinite(frame)
    spread = np.where(usable, frame, np.nan)
    for y, x in np.argwhere(~usable):
        window = np.sort(spread[max(y - 2, 0):y + 3, max(x - 2, 0):x + 3], axis=None)
        window = window[np.isfinite(window)]
        frame[y, x] = window[(window.size - 1) // 2] if window.size else np.median(spread[usable])

    def noise(a):
        return np.sqrt(np.maximum(median(a, 5), np.float32(1e-5)) + np.float32(readnoise**2))
    pad = np.pad(frame, 1, mode="reflect")
    lowest = np.min([pad[:-2, 1:-1], pad[2:, 1:-1], pad[1:-1, :-2], pad[1:-1, 2:]], axis=0)
    least = ndimage.minimum_filter(frame, 5, mode="mirror")
    deep = (lowest > frame) & ((lowest - frame) ** 2 > 9 * (np.maximum(least, 1e-5) + readnoise**2))
    deep &= frame < median(frame, 5) - 5 * noise(frame)
    frame = np.where(deep, median(frame, 5), frame)
    if saturate is not None:
        full = usable & (data >= saturate)
        core = full & (median(frame, 3) > frame[full].min(initial=np.inf) / 10)
        core = ndimage.binary_propagation(core, np.ones((3, 3)), mask=full)
        usable = usable & ~ndimage.binary_dilation(core, np.ones((9, 9)))
    hit = np.zeros(frame.shape, bool)
    for _ in range(iterations):
        double = np.pad(frame, 1, mode="reflect").repeat(2, axis=0).repeat(2, axis=1)
        laplacian = np.maximum(ndimage.convolve(double, np.float32([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])), 0)
        laplacian = laplacian[2:-2, 2:-2].reshape(frame.shape[0], 2, frame.shape[1], 2).mean(axis=(1, 3))
        significance = laplacian / (2 * noise(frame))
        excess = significance - median(significance, 5)
        smooth = median(frame, 3)
        fine = [(smooth - median(smooth, 7)) / noise(frame), (smooth - median(smooth, 7, 12)) / noise(frame) - 0.5]
        new = usable & (excess > sigma) & (excess > contrast * np.maximum(np.max(fine, axis=0), 0.01))
        for limit in (sigma, sigma * sigfrac):
            new = ndimage.binary_dilation(new, np.ones((3, 3))) & usable & (excess > limit)
        if not (new & ~hit).any():
            break
        hit |= new
        good = np.pad(usable & ~hit, 2)
        values = np.pad(frame, 2)
        for y, x in np.argwhere(hit):
            window = good[y:y + 5, x:x + 5]
            frame[y, x] = values[y:y + 5, x:x + 5][window].mean() if window.any() else np.median(frame[usable])
    return hit


@pytest.mark.parametrize("seed, fwhm, shape", [(1, 3.0, (200, 150)), (2, 1.7, (120, 200)), (3, 5.0, (131, 77)),
                                               (4, 3.0, (70, 64))])
def test_the_same_mask_as_the_slow_twin(seed, fwhm, shape):
    rng = np.random.default_rng(seed)
    data, _ = sky_with_stars(rng, shape, shape[0] * shape[1] // 1500, fwhm, brightest=6.5, saturate=40000)
    data += hits(rng, shape, shape[0] * shape[1] // 300).astype("f4")
    data[rng.random(shape) < 0.002] = np.nan
    data[rng.random(shape) < 0.001] = 0
    (_, head), mask = cosmics((data, header(SATURATE=40000.0)), contrast=4.0)
    twin = slow_twin(data, GAIN, READNOISE, contrast=4.0, saturate=40000.0)
    assert np.array_equal(flagged(mask), twin)
    assert head["NCOSMIC"] == twin.sum() > 0.5 * shape[0] * shape[1] / 300


@pytest.mark.parametrize("fwhm, contrast", [(2.0, 5.0), (3.0, 2.0), (3.0, 5.0)])
def test_the_same_hits_as_astroscrappy(fwhm, contrast):
    astroscrappy = pytest.importorskip("astroscrappy")
    rng = np.random.default_rng(11)
    data, _ = sky_with_stars(rng, (512, 512), 60, fwhm, brightest=5.0)
    data += hits(rng, data.shape, 250).astype("f4")
    theirs, _ = astroscrappy.detect_cosmics(data, gain=GAIN, readnoise=READNOISE, satlevel=np.inf, sepmed=False,
                                             objlim=contrast)
    _, mask = cosmics((data, header()), contrast=contrast)
    inside = np.s_[3:-3, 3:-3]  # astroscrappy does not filter the border
    differ = (flagged(mask) != theirs)[inside].sum()
    assert theirs.sum() > 1000 and differ <= 0.01 * theirs.sum()


def test_the_same_hits_as_ccdproc():
    ccdproc = pytest.importorskip("ccdproc")
    rng = np.random.default_rng(12)
    data, _ = sky_with_stars(rng, (256, 256), 20, brightest=5.0)
    data += hits(rng, data.shape, 60).astype("f4")
    _, theirs = ccdproc.cosmicray_lacosmic(data, gain=GAIN, readnoise=READNOISE, satlevel=np.inf, sepmed=False,
                                           gain_apply=False, objlim=3.0)
    _, mask = cosmics((data, header()), contrast=3.0)
    assert (flagged(mask) != theirs)[3:-3, 3:-3].sum() <= 0.01 * theirs.sum() + 1


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 5.0])
def test_recall_and_false_alarms(fwhm):
    rng = np.random.default_rng(21)
    data, _ = sky_with_stars(rng, (512, 512), 80, fwhm)
    rays = hits(rng, data.shape, 200)
    (clean, head), mask = cosmics(((data + rays).astype("f4"), header()))
    bright = rays > 10 * NOISE
    assert flagged(mask)[bright].mean() >= 0.97
    assert flagged(mask)[rays == 0].mean() < 1 / 2000
    change = (clean - data)[bright & flagged(mask)]
    assert np.median(np.abs(change)) < 1.5 * NOISE


def test_nothing_to_find():
    data, _ = sky_with_stars(np.random.default_rng(31), count=0, shape=(64, 64))
    data = np.minimum(data, SKY + 2 * NOISE).astype("f4")
    (clean, head), mask = cosmics((data, header()))
    assert head["NCOSMIC"] == 0 and not mask.any() and np.array_equal(clean, data)


@pytest.mark.parametrize("fwhm", [1.5, 1.7, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("given", [False, True])
def test_star_fluxes_stay(fwhm, given):
    rng = np.random.default_rng(41)
    changed, total = 0, 0
    for _ in range(3):
        data, stars = sky_with_stars(rng, count=100, fwhm=fwhm, brightest=6.5)
        (clean, _), _ = cosmics((data, header()), fwhm=fwhm if given else None)
        reach = int(fwhm) + 1
        for y, x, flux in stars:
            core = np.s_[max(round(y) - reach, 0):round(y) + reach + 1, max(round(x) - reach, 0):round(x) + reach + 1]
            changed += abs((clean[core] - data[core]).sum(dtype=float)) * GAIN > 1e-3 * flux and flux > 2000
            total += 1
    assert changed <= 0.007 * total  # noise peaks of 4.5 sigma beside a faint star


def test_saturated_stars_stay_and_saturated_hits_go():
    rng = np.random.default_rng(51)
    for fwhm in (1.5, 3.0, 6.0):
        data, stars = sky_with_stars(rng, (200, 200), 8, fwhm, brightest=3.5)
        for y, x in ((50, 50), (100, 140), (150.4, 80.6)):
            light, where = star(y, x, 3e6, fwhm, data.shape)
            data[where] += (light / GAIN).astype("f4")
        data[60:140, 140] = 60000  # the trail of a full well
        data = np.minimum(data, 60000)
        data[20, 180] = data[21, 181] = 60000
        full = data >= 60000
        (clean, head), mask = cosmics((data, header(SATURATE=60000.0)))
        assert flagged(mask)[20, 180] and flagged(mask)[21, 181] and clean[20, 180] < 400
        assert flagged(mask)[full].sum() == 2
        assert np.array_equal((mask & SATURATED) != 0, clean >= 60000)
        near = ndimage.binary_dilation(full, np.ones((5, 5))) & ~ndimage.binary_dilation(flagged(mask), np.ones((5, 5)))
        assert np.array_equal(clean[near], data[near])


def test_between_two_bright_stars_nothing_is_a_hit():
    rng = np.random.default_rng(61)
    for _ in range(20):
        electrons = np.full((40, 50), SKY * GAIN)
        y, x = 20 + rng.uniform(-0.5, 0.5), 20 + rng.uniform(-0.5, 0.5)
        for dy, dx in ((0, 0), rng.uniform(3, 7, 2)):
            light, where = star(y + dy, x + dx, 10 ** rng.uniform(5.5, 6), 3.0, electrons.shape)
            electrons[where] += light
        data = ((rng.poisson(electrons) + rng.normal(0, READNOISE, electrons.shape)) / GAIN).astype("f4")
        _, mask = cosmics((data, header()))
        assert flagged(mask)[12:35, 12:35].sum() == 0


def test_neighbours_of_a_hole_are_no_hits():
    data, _ = sky_with_stars(np.random.default_rng(71), (100, 100), 0)
    data = np.clip(data, SKY - 2 * NOISE, SKY + 2 * NOISE)
    data[30, 30] = data[60, 61] = -3000
    (clean, _), mask = cosmics((data, header()))
    assert not flagged(mask).any() and clean[30, 30] == -3000


def test_hit_on_a_star_is_mended_like_a_star():
    light, where = star(20.2, 20.3, 60000, 4.0, (41, 41))
    truth = np.full((41, 41), SKY)
    truth[where] += light / GAIN
    data = np.random.default_rng(81).normal(truth, NOISE).astype("f4")
    data[18, 23] += 8000
    (clean, _), mask = cosmics((data, header()), fwhm=4.0)
    assert flagged(mask)[18, 23]
    assert abs(clean[18, 23] - truth[18, 23]) < 0.05 * truth.max()


def test_missing_pixels():
    rng = np.random.default_rng(91)
    data, _ = sky_with_stars(rng, (120, 120), 10, brightest=5)
    rays = hits(rng, data.shape, 15)
    data = (data + rays).astype("f4")
    _, before = cosmics((data, header()), contrast=3)
    data[40:60, 40:60], data[100, :], data[5, 5] = np.nan, np.inf, -np.inf
    (clean, _), mask = cosmics((data, header()), contrast=3)
    assert not flagged(mask)[~np.isfinite(data)].any()
    assert np.array_equal((mask & NODATA) != 0, np.isnan(clean))
    far = ndimage.binary_erosion(np.isfinite(data), np.ones((13, 13)), border_value=1)
    assert np.array_equal(flagged(mask)[far], flagged(before)[far])


def test_the_mask_is_added_to_and_takes_no_part():
    rng = np.random.default_rng(101)
    data, _ = sky_with_stars(rng, (100, 100), 10)
    data += hits(rng, data.shape, 10).astype("f4")
    given = rng.integers(0, 2, data.shape).astype("u1")
    (one, first), mask = cosmics((data, header()), given)
    (two, second), plain = cosmics((data, header()))
    assert np.array_equal(one, two) and np.array_equal(mask, given | plain) and first.tostring() == second.tostring()


def test_gain_and_read_noise_are_asked_for():
    image = (np.ones((9, 9), "f4"), fits.Header())
    with pytest.raises(ValueError, match="no gain .* --gain"):
        cosmics(image)
    with pytest.raises(ValueError, match="no read noise .* --readnoise"):
        cosmics(image, gain=1.0)
    with pytest.raises(ValueError, match="noise model"):
        cosmics(image, gain=0.0, readnoise=1.0)
    (_, head), _ = cosmics(image, gain=1.2, readnoise=5)
    assert "gain=1.2 readnoise=5" in str(head["HISTORY"])


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (2, 3), (4, 4), (5, 6), (9, 130)])
def test_tiny_constant_and_empty_frames(shape):
    for value in (0, 500, np.nan):
        (clean, head), mask = cosmics((np.full(shape, value, "f4"), header(SATURATE=60000.0)))
        assert head["NCOSMIC"] == 0 and clean.shape == shape and clean.dtype == np.float32
        assert (mask == (NODATA if value != value else 0)).all()
    (clean, _), _ = cosmics((np.full(shape, 700, "u2"), header()))
    assert (clean == 700).all()


def test_hits_on_edges_and_corners():
    data = np.random.default_rng(111).normal(SKY, NOISE, (60, 60)).clip(SKY - 2 * NOISE, SKY + 2 * NOISE).astype("f4")
    for y, x in ((0, 0), (0, 30), (59, 59), (30, 59), (20, 0)):
        data[y, x] += 2000
    (clean, head), mask = cosmics((data, header()))
    assert all(flagged(mask)[y, x] for y, x in ((0, 0), (0, 30), (59, 59), (30, 59), (20, 0)))
    assert np.abs(clean - SKY).max() < 5 * NOISE


def test_arguments_stay_as_they_were():
    rng = np.random.default_rng(121)
    data, _ = sky_with_stars(rng, (80, 80), 5)
    data += hits(rng, data.shape, 10).astype("f4")
    mask, head = np.zeros(data.shape, "u1"), header()
    before = data.copy(), mask.copy(), head.copy()
    (_, after), _ = cosmics((data, head), mask)
    assert np.array_equal(data, before[0]) and np.array_equal(mask, before[1])
    assert head.tostring() == before[2].tostring()
    assert len(after["HISTORY"]) == 1 and after["NCOSMIC"] > 0


def test_star_contrast_falls_with_the_width_of_the_star():
    values = [star_contrast(fwhm) for fwhm in (1.2, 1.5, 2.0, 3.0, 6.0)]
    assert values == sorted(values, reverse=True) and values[0] > 5 and values[-1] == 1.5
