"""Stacking against truth: noise, fluxes, outliers, skies, headers; fast kernels against slow obvious ones."""

import functools

import numpy as np
import pytest
from astropy.io import fits

from apfunc import bands, common, io, merge, outliers, seeing
from apfunc import header as hdr
from apfunc.coadd import coadd

SHAPE = (240, 300)
GAIN, READNOISE = 1.4, 8.0


def positions(count=40, seed=3):
    """(x, y, flux): stars at least 14 pixels apart."""
    rng = np.random.default_rng(seed)
    spots = [(x, y) for x in range(14, SHAPE[1] - 12, 28) for y in range(14, SHAPE[0] - 12, 28)]
    chosen = np.array(spots)[rng.permutation(len(spots))[:count]] + rng.uniform(-3, 3, (count, 2))
    return chosen[:, 0], chosen[:, 1], 10 ** rng.uniform(3.7, 5.2, count)


STARS = positions()


@functools.cache
def sky_picture(fwhm):
    """Gaussian stars without sky [adu of a clear frame]."""
    sigma, (yy, xx) = fwhm / 2.3548, np.indices(SHAPE)
    out = np.zeros(SHAPE)
    for x, y, flux in zip(*STARS):
        out += flux / (2 * np.pi * sigma**2) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 2 / sigma**2)
    return out


def frame(seed, transparency=1.0, fwhm=3.0, sky=300.0, extra=0.0, exptime=60.0, signal=None, saturate=60000.0):
    """((data, header), weight, mask) of a frame with its noise; `extra` is light added before the noise."""
    rng = np.random.default_rng(seed)
    light = transparency * (sky_picture(fwhm) if signal is None else signal) * exptime / 60 + sky + extra
    data = rng.poisson(light * GAIN) / GAIN + rng.normal(0, READNOISE / GAIN, SHAPE)
    data = np.minimum(data, saturate).astype("f4")
    header = fits.Header(
        {
            "EGAIN": GAIN,
            "RDNOISE": READNOISE,
            "SATURATE": saturate,
            "EXPTIME": exptime,
            "RAWFILE": f"raw{seed}.fit",
            "DATE-OBS": f"2024-05-01T03:{seed % 60:02d}:00",
            "OBJECT": "M 1",
            "CRVAL1": 10.0,
            "AIRMASS": 1 + seed / 100,
        }
    )
    mask = np.where(data >= saturate, hdr.SATURATED, 0).astype("u1")
    return (data, header), np.full(SHAPE, 1 / (sky / GAIN + (READNOISE / GAIN) ** 2), "f4"), mask


def stack(frames, **options):
    """coadd of frames as `frame` makes them."""
    images, weights, masks = zip(*frames)
    return coadd(list(images), list(weights), list(masks), **options)


def fluxes(data, radius=7):
    """Aperture fluxes of the STARS, the local sky removed."""
    yy, xx = np.indices(SHAPE)
    out = []
    for x, y, _ in zip(*STARS):
        distance = np.hypot(xx - x, yy - y)
        ring = (distance > 9) & (distance < 12)
        out.append((data[distance <= radius] - np.median(data[ring])).sum())
    return np.array(out)


@pytest.mark.parametrize("reject", ["auto", "winsor", "none"])
def test_noise_is_the_optimum_and_fluxes_are_the_truth(reject):
    conditions = [(1.0, 2.8, 300), (0.6, 3.4, 500), (0.9, 3.0, 250), (0.8, 3.6, 800), (0.95, 2.6, 350), (0.7, 3.2, 280)]
    frames = [frame(k, t, f, s) for k, (t, f, s) in enumerate(conditions)]
    (data, header), weight = stack(frames, reject=reject)
    optimum = sum(t**2 / (s / GAIN + (READNOISE / GAIN) ** 2) for t, _, s in conditions) ** -0.5
    blank = sky_picture(3.0) < 0.5
    assert data[blank].std() == pytest.approx(optimum, rel=0.03)
    assert np.median(weight) ** -0.5 == pytest.approx(optimum, rel=0.02)
    assert abs(np.median(data[blank])) < 0.1 * optimum
    bright = STARS[2] > 2e4
    ratio = fluxes(data)[bright] / STARS[2][bright]
    assert ratio.std() < 0.01 and ratio.mean() == pytest.approx(1, abs=0.01)
    assert np.isfinite(data).all() and header["SCALSRC"] == "stars"
    assert header["NCOMBINE"] == 6 and header["EXPTIME"] == 360 and header["EXPREF"] == 60
    assert header["EXPEFF"] == pytest.approx(60 * optimum**-2 * (300 / GAIN + (READNOISE / GAIN) ** 2), rel=0.05)


def test_egain_rdnoise_and_skylevel_give_the_noise_of_the_stack():
    conditions = [(1.0, 300), (0.6, 500), (0.9, 250)]
    frames = [frame(k, t, 3.0, s) for k, (t, s) in enumerate(conditions)]
    (data, header), weight = stack(frames)
    noise = np.sqrt(header["SKYLEVEL"] / header["EGAIN"] + (header["RDNOISE"] / header["EGAIN"]) ** 2)
    assert noise == pytest.approx(np.median(weight) ** -0.5, rel=0.06)


@pytest.mark.parametrize("count,limit", [(2, 1.5), (3, 1.0), (5, 1.0), (10, 1.0)])
@pytest.mark.parametrize("height", [2.0, 4.0, 8.0, 60.0])
def test_trails_leave_less_than_a_sigma(count, limit, height):
    yy, xx = np.indices(SHAPE)
    noise = (300 / GAIN + (READNOISE / GAIN) ** 2) ** 0.5
    trail = height * noise * np.exp(-(((yy - 0.4 * xx - 50) / 1.077) ** 2) / 2 / 1.3**2)
    frames = [frame(k, extra=trail if k == 0 else 0, signal=np.zeros(SHAPE)) for k in range(count)]
    (data, header), weight = stack(frames, scale="none")
    on = np.abs(yy - 0.4 * xx - 50) < 6
    along = [data[np.abs(yy - 0.4 * xx - 50 - step) < 0.5].mean() for step in range(-6, 7)]
    sigma = noise / np.sqrt(count)
    assert max(np.abs(along)) < limit * sigma
    assert data[on].std() < 1.35 * sigma if height > 3 else True


@pytest.mark.parametrize("count", [1, 2, 3])
def test_masked_trails_go_whatever_the_number(count):
    frames = [frame(k, signal=np.zeros(SHAPE)) for k in range(count)]
    (data, header), weight, mask = frames[0]
    data[100:104] += 3000
    mask[100:104] = hdr.TRAIL
    (out, _), found = stack(frames)
    assert np.isfinite(out).all()
    if count > 1:
        assert abs(out[100:104].mean()) < 3 and found[102, 50] > 0
    else:
        assert (found[100:104] == 0).all() and (found[:100] > 0).all()


def test_star_cores_are_not_clipped_by_seeing_or_shifts():
    frames = [frame(k, fwhm=f) for k, f in enumerate([2.2, 2.6, 3.0, 3.4, 4.2])]
    (clipped, _), _ = stack(frames)
    (plain, _), _ = stack(frames, reject="none")
    x, y = np.round(STARS[0]).astype(int), np.round(STARS[1]).astype(int)
    bright = STARS[2] > 2e4
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            ratio = clipped[y + dy, x + dx][bright] / plain[y + dy, x + dx][bright]
            assert np.abs(ratio - 1).max() < 0.01
    assert (fluxes(clipped)[bright] / fluxes(plain)[bright]).std() < 0.003


@functools.cache
def wide_wings(fwhm, beta=3.5):
    """Moffat stars without sky [adu of a clear frame]: their wings differ by far more than their cores."""
    (yy, xx), core = np.indices(SHAPE), fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return sum(flux * (beta - 1) / np.pi / core**2 * (1 + ((xx - x) ** 2 + (yy - y) ** 2) / core**2) ** -beta
               for x, y, flux in zip(*STARS))


@pytest.mark.parametrize("widths", [(2.5, 4.5), (4.5, 2.5), (3.0, 3.3), (2.5, 2.6, 4.5), (2.5, 3.0, 3.5, 4.5),
                                    (2.5, 3, 3, 3.5, 4.5, 4.5, 2.8)])
def test_wings_are_not_clipped_by_seeing(widths):
    frames = [frame(k, signal=wide_wings(w)) for k, w in enumerate(widths)]
    (clipped, _), _ = stack(frames)
    (plain, _), _ = stack(frames, reject="none")
    bright = STARS[2] > 2e4
    assert np.abs(fluxes(clipped)[bright] / fluxes(plain)[bright] - 1).max() < 0.002


def test_faint_stars_stay_in_stacks_of_two():
    frames = [frame(k, signal=wide_wings(w) / 30) for k, w in enumerate((2.6, 3.4))]
    (clipped, _), _ = stack(frames, scale="none")
    (plain, _), _ = stack(frames, reject="none", scale="none")
    assert fluxes(clipped).sum() == pytest.approx(fluxes(plain).sum(), rel=0.003)


@pytest.mark.parametrize("widths", [(2.5, 4.5), (2.5, 2.6, 4.5), (3.2, 2.5, 4.5)])
def test_a_bad_column_over_stars_costs_no_flux(widths):
    """A mended pixel is better than none where the others have another seeing."""
    frames = [frame(k, signal=wide_wings(w)) for k, w in enumerate(widths)]
    (plain, _), _ = stack(frames, reject="none")
    bright = STARS[2] > 2e4
    for (data, _), _, mask in frames[:1]:
        for x in np.round(STARS[0][bright][:7]).astype(int):
            mask[:, x] |= hdr.BAD
            data[:, x] += np.float32(0.05) * (data[:, x + 1] - data[:, x])  # as mended as fixpix does it
    (out, _), _ = stack(frames)
    assert np.abs(fluxes(out)[bright] / fluxes(plain)[bright] - 1).max() < 0.03


def test_two_frames_of_unequal_noise():
    frames = [frame(0, signal=np.zeros(SHAPE)), frame(1, signal=np.zeros(SHAPE), sky=1500.0)]
    frames[1] = (*frames[1][:1], np.full(SHAPE, 1 / (1500 / GAIN + (READNOISE / GAIN) ** 2), "f4"), frames[1][2])
    (out, header), weight = stack(frames, scale="none")
    optimum = sum(w[0, 0] for _, w, _ in frames) ** -0.5
    assert out.std() == pytest.approx(optimum, rel=0.02) and header["REJFRAC"] < 0.004


@pytest.mark.parametrize("wide", [2.6, 4.5])
def test_cosmic_rays_of_the_sharper_of_two_go(wide):
    """The dark lobes beside a hit do not put the blame on the other frame."""
    rng, frames = np.random.default_rng(4), [frame(0, signal=wide_wings(2.5)), frame(1, signal=wide_wings(wide))]
    (clean, _), _ = stack(frames, reject="none")
    noise = (300 / GAIN + (READNOISE / GAIN) ** 2) ** 0.5
    lobes, hits = np.array([0.03, -0.12, 0.59, 0.59, -0.12, 0.03]), []
    for (data, _), _, _ in frames:
        for y, x in rng.integers(8, (SHAPE[0] - 8, SHAPE[1] - 8), (40, 2)):
            if (wide_wings(4.5)[y - 8:y + 9, x - 8:x + 9] < 30).all():
                data[y - 2:y + 4, x - 2:x + 4] += 10 ** rng.uniform(2.5, 4) * np.outer(lobes, lobes)
                hits.append((y, x))
    (out, _), _ = stack(frames)
    left = np.array([np.abs(out - clean)[y - 2:y + 4, x - 2:x + 4].max() for y, x in hits])
    assert len(left) > 25 and np.mean(left > 5 * noise) < 0.06


@pytest.mark.parametrize("count", [2, 3, 5])
def test_cosmic_rays_go_with_their_dark_lobes(count):
    """A hit of one pixel after interpolation by half a pixel: a bright core and negative lobes beside it."""
    rng, frames = np.random.default_rng(9), [frame(k) for k in range(count)]
    (clean, _), _ = stack(frames, reject="none")
    noise = (300 / GAIN + (READNOISE / GAIN) ** 2) ** 0.5
    lobes = np.array([0.03, -0.12, 0.59, 0.59, -0.12, 0.03])
    blank, hits = sky_picture(3.0) < 0.1, []
    for (data, _), _, _ in frames:
        for y, x in rng.integers(8, (SHAPE[0] - 8, SHAPE[1] - 8), (30, 2)):
            data[y - 2:y + 4, x - 2:x + 4] += 3000 * np.outer(lobes, lobes)
            hits.append((y, x))
    (out, header), _ = stack(frames)
    hits = [(y, x) for y, x in hits if blank[y - 6:y + 8, x - 6:x + 8].all()]
    left = np.array([np.abs(out - clean)[y - 2:y + 4, x - 2:x + 4].max() for y, x in hits])
    assert len(left) > 20 and np.mean(left > 5 * noise) < 0.05 and header["REJFRAC"] < 0.03


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_cosmic_rays_go(count):
    rng, frames = np.random.default_rng(9), [frame(k) for k in range(count)]
    hits = [(rng.integers(0, SHAPE[0], 30), rng.integers(0, SHAPE[1], 30)) for _ in range(count)]
    (clean, _), _ = stack(frames, reject="none")
    noise = (300 / GAIN + (READNOISE / GAIN) ** 2) ** 0.5
    blank = sky_picture(3.0) < 1
    for ((data, _), _, _), (y, x) in zip(frames, hits):
        data[y, x] += 2000
    (out, header), _ = stack(frames)
    for y, x in hits:
        use = blank[y, x]
        assert np.abs(out[y, x] - clean[y, x])[use].max() < 5 * noise
    assert header["REJFRAC"] < 0.02


def test_minmax_leaves_the_ends_out_where_more_than_two_are():
    rng = np.random.default_rng(5)
    d, good = rng.normal(0, 1, (5, 8, 9)).astype("f4"), rng.random((5, 8, 9)) > 0.4
    good[:, 0, 0] = False
    value, weight, lost = merge.merge(d, good.astype("f4"), good, None, np.ones(5), np.ones(5), *np.ones((2, 2, 5)),
                                      method="minmax")
    for y, x in np.ndindex(8, 9):
        some = np.sort(d[good[:, y, x], y, x])
        some = some[1:-1] if len(some) > 2 else some
        assert weight[y, x] == len(some) and (len(some) == 0 or value[y, x] == pytest.approx(some.mean(), abs=1e-6))
    assert lost.sum() == good.sum() - weight.sum()


def test_sums_over_3_x_3_pixels_against_numpy():
    values = np.random.default_rng(6).normal(0, 1, (7, 9)).astype("f4")
    found = outliers.box(values)
    for y, x in np.ndindex(5, 7):
        assert found[y, x + 1] == pytest.approx(values[y:y + 3, x:x + 3].sum(), abs=1e-5)


def test_pure_noise_is_hardly_rejected():
    (out, header), _ = stack([frame(k, signal=np.zeros(SHAPE)) for k in range(7)])
    assert header["REJFRAC"] < 3e-4


def test_weights_that_promise_too_much_do_not_reject():
    frames = [((d, h), 9 * w, m) for (d, h), w, m in (frame(k, signal=np.zeros(SHAPE)) for k in range(5))]
    assert stack(frames)[0][1]["REJFRAC"] < 3e-4


def test_skies_are_matched_and_nebulae_kept():
    yy, xx = np.indices(SHAPE)
    nebula = 80 * np.exp(-((yy - 120) ** 2 + (xx - 200) ** 2) / 2 / 60**2)
    signal = sky_picture(3.0) + nebula
    slopes = [(0.3, 0.1), (-0.2, 0.3), (0.0, -0.4), (-0.1, 0.0), (0.15, 0.15)]
    frames = [
        frame(k, sky=300 + 40 * k, extra=a * (xx - 150) + b * (yy - 120), signal=signal, transparency=1 - k / 20)
        for k, (a, b) in enumerate(slopes)
    ]
    (out, header), _ = stack(frames)
    blank = sky_picture(3.0) < 0.5
    rest = np.where(blank, out - nebula, np.nan)
    boxes = np.nanmedian(rest.reshape(8, 30, 10, 30).transpose(0, 2, 1, 3).reshape(8, 10, -1), axis=2)
    by, bx = np.mgrid[:8, :10]  # the gradient that all have in common stays
    design = np.stack([np.ones(80), by.ravel(), bx.ravel()], 1)
    boxes = boxes.ravel() - design @ np.linalg.lstsq(design, boxes.ravel(), rcond=None)[0]
    assert np.abs(boxes).max() < 2.5 and header["REJFRAC"] < 0.002


def test_one_frame_is_a_stack_too():
    (data, header), weight, mask = frame(1)
    data[5, 5] = np.nan
    mask[5, 5], mask[9, 9] = hdr.NODATA, hdr.BAD
    (out, found), total = stack([((data, header), weight, mask)])
    good = np.isfinite(data)
    assert np.isnan(out[5, 5]) and total[5, 5] == 0 and np.isfinite(out[9, 9])
    assert np.ptp((data - out)[good]) < 0.01 and (data - out)[good].mean() == pytest.approx(300, abs=2)
    assert (
        found["NCOMBINE"] == 1
        and found["EXPTIME"] == 60
        and found["EGAIN"] == pytest.approx(GAIN)
        and found["RDNOISE"] == pytest.approx(READNOISE)
    )
    assert (
        found["OBJECT"] == "M 1"
        and found["INP001"] == "raw1.fit 1.00000"
        and found["FWHM"] == pytest.approx(3.0, abs=0.15)
    )


def test_saturated_pixels_are_lower_limits():
    level = 3000.0
    frames = [
        frame(0, fwhm=2.4, saturate=level),
        frame(1, fwhm=3.0, saturate=level),
        frame(2, 0.3, 3.0, saturate=level),
    ]
    (out, header), weight = stack(frames)
    all_full = np.all([m == hdr.SATURATED for _, _, m in frames], axis=0)
    some_full = np.any([m == hdr.SATURATED for _, _, m in frames], axis=0) & ~all_full
    assert all_full.sum() > 5 and some_full.sum() > 20
    assert (out[all_full] >= header["SATURATE"]).all() and (weight[all_full] == 0).all()
    assert (weight[some_full] > 0).all() and (out[some_full] > 0.6 * (level - 300)).all()


def test_repaired_pixels_count_only_where_nothing_else_is_there():
    frames = [frame(k, signal=np.zeros(SHAPE)) for k in range(3)]
    for k, ((data, _), weight, mask) in enumerate(frames):
        data[10, 10], mask[10, 10], weight[10, 10] = 1300, hdr.BAD, weight[0, 0] / 10
        if k == 0:
            data[20, 20], mask[20, 20], weight[20, 20] = 1300, hdr.COSMIC, weight[0, 0] / 10
    (out, _), weight = stack(frames, scale="none")
    assert out[10, 10] == pytest.approx(1000, abs=5) and 0 < weight[10, 10] < 0.2 * weight[0, 0]
    assert abs(out[20, 20]) < 60 and weight[20, 20] == pytest.approx(2 / 3 * weight[0, 0], rel=0.05)


def test_dithered_frames_leave_no_holes():
    frames = []
    for k in range(5):
        (data, header), weight, mask = frame(k)
        edge = np.zeros(SHAPE, bool)
        edge[: 4 * k], edge[:, SHAPE[1] - 5 * k :] = True, True
        data[edge], weight[edge], mask[edge] = np.nan, 0, hdr.NODATA
        frames.append(((data, header), weight, mask))
    (out, header), weight = stack(frames)
    assert np.isfinite(out).all() and (weight > 0).all() and header["REJFRAC"] < 0.01
    assert weight[0, 299] < 0.3 * weight[100, 100]


def test_scales_from_the_header_when_the_stars_agree():
    frames = [frame(0, 1.0), frame(1, 0.5)]
    for (_, header), _, _ in frames:
        header["FLXEXPT"] = 60.0
        header["MAGZP"] = 22.0
    frames[0][0][1]["FLXSCALE"], frames[1][0][1]["FLXSCALE"] = 1.0, 2.01
    frames[1][0][1]["MAGZP"] = 22 - 2.5 * np.log10(2.01)
    (_, header), _ = stack(frames)
    assert (
        header["SCALSRC"] == "header"
        and header["EXPREF"] == 60
        and header["MAGZP"] == pytest.approx(22)
        and "FLXSCALE" not in header
    )
    frames[1][0][1]["FLXSCALE"] = 1.0
    (data, header), _ = stack(frames)
    assert header["SCALSRC"] == "stars"
    bright = STARS[2] > 2e4
    assert np.median(fluxes(data)[bright] / STARS[2][bright]) == pytest.approx(1, abs=0.01)


def test_exposures_differ():
    frames = [frame(0, exptime=60.0), frame(1, exptime=120.0), frame(2, exptime=120.0)]
    (data, header), _ = stack(frames)
    bright = STARS[2] > 2e4
    assert header["EXPREF"] == 120 and header["EXPTIME"] == 300
    assert np.median(fluxes(data)[bright] / STARS[2][bright]) == pytest.approx(2, rel=0.01)
    blank = [frame(k, exptime=e, signal=np.zeros(SHAPE), sky=5 * e) for k, e in enumerate((60.0, 120.0))]
    assert stack(blank)[0][1]["SCALSRC"] == "exposure"


def test_factors_and_seeing_weigh_the_frames():
    frames = [frame(0, fwhm=2.5), frame(1, fwhm=5.0)]
    (_, even), w = stack(frames)
    (_, header), once = stack(frames, factors=[1, 0])
    assert float(header["INP001"].split()[1]) == 1 and once[50, 50] == pytest.approx(w[50, 50] / 2, rel=0.02)
    (_, header), _ = stack(frames, seeing=2)
    assert float(header["INP002"].split()[1]) == pytest.approx(0.2, abs=0.03)
    assert float(even["INP002"].split()[1]) == pytest.approx(0.5, abs=0.02)


class Rows:
    """Rows that can only be read in bands, big-endian, as from a file."""

    def __init__(self, data):
        self.data, self.shape, self.most = data.astype(data.dtype.newbyteorder(">")), data.shape, 0

    def __getitem__(self, rows):
        return self.data[rows]


def test_rows_from_files_give_the_same_as_arrays():
    frames = [frame(k) for k in range(4)]
    lazy = [((Rows(d), h), Rows(w), Rows(m)) for (d, h), w, m in frames]
    (one, first), a = stack(frames)
    (two, second), b = stack(lazy)
    assert one.tobytes() == two.tobytes() and a.tobytes() == b.tobytes() and first.tostring() == second.tostring()


@pytest.mark.parametrize("count", [2, 5, 9])
def test_arguments_are_left_alone_and_bands_do_not_matter(monkeypatch, count):
    frames = [frame(k, fwhm=2.5 + k / 8) for k in range(count)]
    frames[0][0][0][5::11, 7::13] += 900
    before = [(d.copy(), h.tostring(), w.copy(), m.copy()) for (d, h), w, m in frames]
    (one, header), a = stack(frames)
    for ((d, h), w, m), (d0, h0, w0, m0) in zip(frames, before):
        assert np.array_equal(d, d0) and h.tostring() == h0 and np.array_equal(w, w0) and np.array_equal(m, m0)
    monkeypatch.setattr("apfunc.coadd.MEMORY", 100000)
    monkeypatch.setattr("apfunc.outliers.CACHED", 3000)
    monkeypatch.setattr("apfunc.merge.CACHED", 3000)
    (two, _), b = stack(frames)
    assert one.tobytes() == two.tobytes() and a.tobytes() == b.tobytes()


def test_header_keeps_what_is_common_and_averages_the_rest():
    (_, header), _ = stack([frame(0), frame(4)])
    assert (
        header["OBJECT"] == "M 1"
        and header["DATE-OBS"][:18] in ("2024-05-01T03:02:0", "2024-05-01T03:01:5")
        and "RAWFILE" not in header
    )
    assert header["MJD-MID"] == pytest.approx(header["MJD-OBS"] + 30 / 86400, abs=1e-6)
    assert header["AIRMASS"] == pytest.approx(1.02, abs=0.001) and header["SATURATE"] == pytest.approx(
        60000 - 300, abs=30
    )
    assert header["HISTORY"][-1].startswith("apfunc coadd n=2")


def test_without_weights_masks_gain_or_dates():
    images = [frame(k)[0] for k in range(3)]
    for _, header in images:
        header.clear()
    (data, header), weight = coadd(images)
    noise = (300 / GAIN + (READNOISE / GAIN) ** 2) ** 0.5
    assert (
        np.median(weight) ** -0.5 == pytest.approx(noise / 3**0.5, rel=0.05)
        and "EGAIN" not in header
        and "EXPTIME" not in header
    )


def test_constant_frames_and_missing_values():
    images = [(np.full((20, 30), 7.0, "f4"), fits.Header()) for _ in range(3)]
    images[0][0][3, 3] = np.nan
    (data, _), weight = coadd(images)
    assert np.abs(data).max() == 0
    with pytest.raises(ValueError, match="no pixel"):
        coadd([(np.full((20, 30), np.nan, "f4"), fits.Header())])


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="no frame"):
        coadd([])
    one, two = frame(0)[0], frame(1)[0]
    with pytest.raises(ValueError, match="one grid"):
        coadd([one, (two[0][:9], two[1])])
    two[1]["CRVAL1"] = 11.0
    with pytest.raises(ValueError, match="grids"):
        coadd([one, two])
    with pytest.raises(ValueError, match="rejection"):
        coadd([one], reject="magic")
    with pytest.raises(ValueError, match="factors"):
        coadd([one], factors=[-1])
    with pytest.raises(ValueError, match="FLXSCALE"):
        coadd([one], scale="header")


def test_the_centre_of_many_frames():
    rng = np.random.default_rng(1)
    values, good = rng.normal(100, 1, (60, 5, 9)).astype("f4"), np.ones((60, 5, 9), bool)
    good[1:, 2, 2], values[0, 2, 2] = False, 77.0
    good[:, 3, 3] = False
    middle, _ = merge.centre(values, good)
    assert middle[2, 2] == 77 and middle[3, 3] == 0 and np.abs(np.delete(middle.ravel(), [20, 30]) - 100).max() < 1.2
    frames = [(rng.normal(0, 5, (60, 70)).astype("f4"), fits.Header()) for _ in range(40)]
    frames[7][0][30:33] += 100
    (data, _), weight = coadd(frames, scale="none")
    assert np.abs(data[29:34].mean(1)).max() < 0.5 and weight[31].mean() < 0.985 * weight[10].mean()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 27])
def test_rank_and_median_against_numpy(n):
    rng = np.random.default_rng(n)
    values, good = rng.normal(0, 1, (n, 6, 7)).astype("f4"), rng.random((n, 6, 7)) > 0.3
    ranked, count = merge.rank(values, good)
    middle = merge.median(ranked, count)
    for at in np.ndindex(6, 7):
        some = np.sort(values[(slice(None), *at)][good[(slice(None), *at)]])
        assert count[at] == len(some) and np.array_equal([lane[at] for lane in ranked[: len(some)]], some)
        low = some[(len(some) - 1) // 2] if 0 < len(some) <= merge.LOW else np.median(some) if len(some) else 0
        assert middle[at] == pytest.approx(low, abs=1e-6)
        assert n > merge.ENOUGH or merge.centre(values, good)[0][at] == middle[at]


def slow_clip(d, w, good, photon, slack, wing, sigma):
    """merge.merge, pixel by pixel, as its documentation says."""
    n, rows, columns = d.shape
    count = good.sum(0)
    middle = np.zeros((rows, columns))
    for y, x in np.ndindex(rows, columns):
        some = np.sort(d[good[:, y, x], y, x])
        middle[y, x] = (some[(len(some) - 1) // 2] if len(some) <= 4 else np.median(some)) if len(some) else 0
    two = np.array([[(count[around(y, x, 1)] == 2).any() for x in range(columns)] for y in range(rows)])
    if n == 2:
        two, facts = count == 2, (photon, slack, wing, sigma)
        strong = slow_outliers(d, slow_innocent(d, good), two, w, good, *facts, strong=True)
        left, middle = good & ~strong, slow_innocent(d, good, strong)
        out = slow_outliers(d, middle, two, np.where(left, w, 0), left, *facts)
        out = strong | out & ~strong[::-1]
    else:
        first, last = (np.where(count == 2, np.take_along_axis(d, k[None], 0)[0], 0)
                       for k in (good.argmax(0), n - 1 - good[::-1].argmax(0)))
        couple = slow_innocent(np.stack([first, last]), np.stack([count == 2, count == 2]))
        middle = np.where(count == 2, couple, middle)
        out = slow_outliers(d, middle, two, w, good, photon, slack, wing, sigma)
    for y, x in zip(*np.nonzero((count == 2) & ~(good & ~out).any(0))):
        out[np.where(good[:, y, x], np.abs(d[:, y, x] - middle[y, x]), np.inf).argmin(), y, x] = False
    use = np.where(good & ~out, w, 0)
    total = use.sum(0)
    return np.where(total > 0, (use * d).sum(0) / np.where(total > 0, total, 1), middle), total


def around(y, x, reach):
    return slice(max(y - reach, 0), y + reach + 1), slice(max(x - reach, 0), x + reach + 1)


def slow_innocent(d, good, out=None):
    middle = np.zeros(d.shape[1:])
    more = np.where(good.all(0), d[0] - d[1], 0)
    if out is not None:
        more, good = np.where(out.any(0), merge.LOBE * more, more), good & ~out
    for y, x in np.ndindex(middle.shape):
        box = more[around(y, x, merge.NEAR)]
        if good[:, y, x].all() or not good[:, y, x].any():
            suspect = 0 if box.max() >= -box.min() else 1
        else:
            suspect = 1 if good[0, y, x] else 0
        middle[y, x] = d[1 - suspect, y, x] if good[:, y, x].any() else 0
    return middle


def slow_outliers(d, middle, two, w, good, photon, slack, wing, sigma, strong=False):
    n, rows, columns = d.shape
    out, off = np.zeros(d.shape, bool), np.where(good, d - middle, 0)

    def smooth(y, x):
        return np.mean([middle[min(max(y + j, 0), rows - 1), min(max(x + i, 0), columns - 1)]
                        for j in (-1, 0, 1) for i in (-1, 0, 1)])

    def steepness(y, x, steps, of_noise, calm):
        return max(np.ptp([smooth(y + j, x + i) for j in steps for i in steps]) - of_noise * calm, 0)
    for y, x in np.ndindex(rows, columns):
        if not good[:, y, x].any():
            continue
        kind, known = int(two[y, x]), good[:, y, x]
        square = np.array([1 / w[k, y, x] + photon[k] * max(middle[y, x], 0) if known[k] else np.inf for k in range(n)])
        calm = outliers.COHERENT * np.sqrt(square.min() * (1 if kind else 1.57 / n))
        if kind:
            square = np.where(known, square[known].mean(), np.inf)
        near, far, wide = (steepness(y, x, steps, f, calm) for steps, f in (
            (range(-2, 3), 3.3), (range(-3, 4), 3.8), (range(1 - outliers.WING, outliers.WING, 3), 4.1)))
        for k in np.flatnonzero(known):
            noise, box = np.sqrt(square[k]), around(y, x, 1)
            limit = sigma * noise + slack[kind][k] * near + wing[kind][k] * wide
            means = sigma * outliers.COHERENT * noise + slack[kind][k] * far + wing[kind][k] * wide
            out[k, y, x] |= abs(off[k, y, x]) > (outliers.STRONG if strong else 1) * limit
            if abs(off[k, y, x]) > outliers.STRONG * limit or not strong and abs(off[k][box].sum()) / 9 > means:
                out[k][box] |= good[k][box]
    return out


@pytest.mark.parametrize("wing", [0.0, 0.05])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_clip_against_its_slow_twin(n, wing):
    rng = np.random.default_rng(n)
    d, good = rng.normal(50, 10, (n, 14, 15)).astype("f4"), rng.random((n, 14, 15)) > 0.1
    good[0, :, 7] = good[:, 0, 0] = True
    d[1, 3, 4] += 300
    d[0, 9:12, 5:9] += 60
    d[:, 2:5, 11:14] += np.linspace(80, 200, n)[:, None, None]
    w = np.where(good, rng.uniform(0.008, 0.012, d.shape), 0).astype("f4")
    photon, slack = np.full(n, 0.2), np.array([np.full(n, 0.5), np.full(n, 0.8)])
    wing = np.array([np.linspace(0, wing, n), np.full(n, wing)])
    value, weight, _ = merge.merge(np.where(good, d, np.float32(0)), w, good, None, photon, np.ones(n), slack, wing)
    slow, total = slow_clip(d, w, good, photon, slack, wing, 4.0)
    some = good.any(0)
    assert np.allclose(value[some], slow[some], rtol=1e-5) and np.allclose(weight, total, rtol=1e-5)
    assert ((w.sum(0) - weight)[9:12, 5:9] > 0.001).mean() > 0.8


def test_scales_recovers_the_factors_with_holes_and_liars():
    rng = np.random.default_rng(0)
    truth, stars = np.array([1.0, 2.0, 0.5, 1.7]), 10 ** rng.uniform(4, 5, 50)
    flux = stars / truth[:, None] * rng.normal(1, 0.01, (4, 50))
    flux[1, :10] *= 3
    flux[rng.random(flux.shape) < 0.3] = np.nan
    found, error = common.scales(flux, np.full(flux.shape, 100.0))
    assert np.allclose(found / found[0], truth, rtol=0.01) and (error < 0.01).all()
    lonely = np.full((2, 4), np.nan)
    lonely[0, :2], lonely[1, 2:] = 5.0, 5.0
    assert np.isnan(common.scales(lonely, np.ones((2, 4)))[0]).all()


@pytest.mark.parametrize("fwhm", [2.2, 3.0, 4.5])
def test_fwhm_of_cut_outs(fwhm):
    yy, xx = np.mgrid[-common.CORE : common.CORE + 1, -common.CORE : common.CORE + 1]
    core = 1000 * np.exp(-((yy - 0.3) ** 2 + (xx + 0.2) ** 2) * 4 * np.log(2) / fwhm**2)
    assert common.fwhm(core[None], 1.0) == pytest.approx(fwhm, rel=1e-3)
    assert np.isnan(common.fwhm(core[None] * np.nan, 1.0)) and np.isnan(common.fwhm(-core[None], 1.0))


@pytest.mark.parametrize("shape", [(1,), (6,), (5, 4), (5, 7), (2, 3, 6), (4, 1)])
def test_nanmedian_against_numpy(shape):
    values = np.random.default_rng(7).normal(0, 1, shape).astype("f4")
    values[values < -0.4] = np.nan
    values[..., 0] = 2
    assert np.array_equal(common.nanmedian(values), np.nanmedian(values, -1))
    assert np.isnan(common.nanmedian(np.full(shape, np.nan))).all() and np.isnan(common.nanmedian(np.empty((3, 0)))).all()


def test_tolerances_follow_the_seeing():
    noise = np.ones(3)
    cores = 1e6 * seeing.stars(np.array([3.0, 3.0, 4.5]))
    radii = np.arange(21)
    profiles = np.array([[1e4 * (1 + (radii / 2 / f) ** 2) ** -3.0] * 5 for f in (3.0, 3.0, 4.5)])
    slack, wing = seeing.tolerances(cores, profiles, noise, np.array([3.0, 3.0, 4.5]))
    assert slack[0, 0] == slack[0, 1] == seeing.LEAST < 0.5 < slack[0, 2] < slack[1, 2]
    assert wing[0, 0] == wing[0, 1] == 0 < wing[0, 2] < wing[1, 2]
    nothing = cores[:, :0], profiles[:, :0], noise
    known, _ = seeing.tolerances(*nothing, np.array([3.0, 3.0, 4.5]))  # those of model stars
    assert np.allclose(known, slack, rtol=0.1)
    assert (seeing.tolerances(*nothing, np.full(3, np.nan))[0][0] == seeing.UNKNOWN).all()


@pytest.mark.parametrize("near", [1, 3, 4])
def test_highest_against_a_slow_one(near):
    values = np.random.default_rng(near).normal(0, 1, (2, 9, 12)).astype("f4")
    found = merge.highest(values, near)
    for k, y, x in np.ndindex(values.shape):
        assert found[k, y, x] == values[k][around(y, x, near)].max()


def test_rings_against_a_slow_one():
    data = np.random.default_rng(1).normal(5, 1, (60, 70)).astype("f4")
    data[20, 30] = np.nan
    bits = np.zeros(data.shape, "u1")
    bits[25:27, 33] = 1
    at = np.r_[0:30, 50:80]
    stars = np.array([[22, 31], [40, 3]])
    found = common.rings(data, bits, stars, 5.0, at)
    yy, xx = np.indices(data.shape)
    for (y, x), ring in zip(stars, found):
        distance = np.round(np.hypot(at[yy] - at[y], xx - x))
        for r in range(common.PROFILE + 1):
            some = data[(distance == r) & (bits == 0) & np.isfinite(data)] - 5
            assert ring[r] == pytest.approx(some.mean(), abs=1e-5) if some.size else np.isnan(ring[r])


@pytest.mark.parametrize("ending", [".fits", ".fits.gz"])
def test_rows_are_filled_in_as_they_are_read(tmp_path, ending):
    data = np.random.default_rng(2).normal(0, 1, (50, 33)).astype("f4")
    path = tmp_path / f"a{ending}"
    hdus = fits.HDUList([fits.PrimaryHDU(data), fits.ImageHDU((data > 0).astype("u1"), name="MASK"),
                         fits.ImageHDU((100 * data).astype("i2"), name="WHOLE")])
    hdus.writeto(path)
    for plane, kind in ((None, "f4"), ("MASK", "u1"), ("WHOLE", "f4")):
        rows, _ = io.read_rows(path, plane)
        out = np.empty((12, 33), kind)
        bands.fill(bands.place(rows, kind), 7, out)
        assert np.array_equal(out, rows[7:19])
    if ending == ".fits":
        rows, _ = io.read_rows(path)
        with open(path, "r+b") as stream:
            stream.truncate(2880 + 33 * 4 * 15)
        with pytest.raises(ValueError, match="cut short"):
            bands.fill(bands.place(rows, "f4"), 7, np.empty((12, 33), "f4"))
