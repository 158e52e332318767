"""Resampling against truth: positions, fluxes, holes, weights; fast routines against slow obvious ones."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from apfunc import header as hdr
from apfunc import interpolate, mapping, wcs
from apfunc.resample import REPAIRED, WIDE, resample

SHAPE = (256, 320)


def solution(angle=0.3, scale=1.0, shift=(0.0, 0.0), sip=0.0, shape=SHAPE, parity=-1):
    turn = np.radians(angle)
    cd = scale / 3600 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ np.diag([parity, 1])
    a, b = np.zeros((2, 4, 4))
    a[2, 0], b[1, 1], a[3, 0], b[2, 1] = sip, -sip, sip / 200, sip / 200
    return {
        "crval": (150.0, 40.0),
        "crpix": ((shape[1] - 1) / 2 + shift[0], (shape[0] - 1) / 2 + shift[1]),
        "cd": cd,
        "a": a if sip else None,
        "b": b if sip else None,
    }


def header_of(solution, shape=SHAPE, **keys):
    header = wcs.to_header(fits.Header(), solution, shape)
    header["NAXIS1"], header["NAXIS2"] = shape[1], shape[0]
    header.update(EGAIN=1.5, RDNOISE=9.0, SATURATE=60000.0)
    header.update(keys)
    return header


GRID = header_of(solution(0))


def star(x, y, flux, fwhm, shape=SHAPE):
    """A round Gaussian of `flux` adu at the 0-based (x, y), as the pixels' centres see it."""
    sigma, (yy, xx) = fwhm / 2.3548, np.indices(shape)
    return flux / (2 * np.pi * sigma**2) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 2 / sigma**2)


def field(source, fwhm=3.0, seed=1, shape=SHAPE):
    """Frame with stars of 1e5 adu at known grid positions, and those positions."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(40, SHAPE[1] - 40, 4), np.linspace(40, SHAPE[0] - 40, 3))
    x, y = x.ravel() + rng.uniform(-4, 4, 12), y.ravel() + rng.uniform(-4, 4, 12)
    data = np.zeros(shape)
    for px, py in zip(*wcs.pixel(source, *wcs.sky(solution(0), x, y))):
        data += star(px, py, 1e5, fwhm, shape)
    return data.astype("f4"), x, y


def measured(data, x, y, radius=12):
    """Flux in a wide aperture, and the Gaussian-weighted centroid, of the star at about (x, y)."""
    i, j = int(round(y)), int(round(x))
    part = data[i - radius : i + radius + 1, j - radius : j + radius + 1].astype(float)
    yy, xx = np.indices(part.shape) + np.array([i - radius, j - radius])[:, None, None]
    cx, cy = x, y
    for _ in range(20):
        w = part * np.exp(-((xx - cx) ** 2 + (yy - cy) ** 2) / 2 / 1.5**2)
        cx, cy = cx + 2 * ((w * xx).sum() / w.sum() - cx), cy + 2 * ((w * yy).sum() / w.sum() - cy)
    return part.sum(), cx, cy


@pytest.mark.parametrize(
    "kernel,fwhm,offset,loss",
    [
        ("quadratic", WIDE, 0.01, 1e-3),
        ("spline", 3, 0.004, 3e-4),
        ("lanczos3", 3, 0.01, 1e-2),
        ("bilinear", 3, 0.03, 2e-2),
    ],
)
@pytest.mark.parametrize("angle,sip", [(0.3, 0.0), (180.4, 2e-5), (37.0, 2e-5), (-90.0, 0.0)])
def test_stars_keep_their_flux_and_place(kernel, fwhm, offset, loss, angle, sip):
    source = solution(angle, 0.97, (0.3, -0.4), sip, (380, 380))
    data, x, y = field(source, fwhm, shape=(380, 380))
    (out, header), weight, mask = resample((data, header_of(source, (380, 380))), GRID, kernel=kernel)
    for px, py in zip(x, y):
        flux, cx, cy = measured(out, px, py)
        assert flux == pytest.approx(1e5, rel=loss)
        assert np.hypot(cx - px, cy - py) < offset
    assert header["CRVAL1"] == 150 and "A_ORDER" not in header
    assert out.dtype == weight.dtype == np.float32 and mask.dtype == np.uint8


def test_saturated_pixels_are_known_whatever_the_order_of_the_mask():
    data, header = np.full(SHAPE, 100, "f4"), header_of(solution(0), SATURATE=60000.0)
    data[100, 120] = 61000
    plain, turned = (resample((data, header), GRID, np.zeros(SHAPE, "u1", order=order))[2] for order in "CF")
    assert (plain & hdr.SATURATED).any() and (plain == turned).all()


@pytest.mark.parametrize("seen,angle,kernel", [
    ({"FWHM": WIDE}, 37, "quadratic"), ({"FWHM": WIDE, "ELLIP": 0.1}, 37, "spline"), ({"FWHM": 3.4}, 37, "spline"),
    ({}, 37, "spline"), ({"FWHM": 1.6}, 37, "quintic"), ({"FWHM": 1.6}, 8, "spline")])
def test_auto_suits_the_seeing(seen, angle, kernel):
    header = header_of(solution(angle), **seen)
    (_, found), _, _ = resample((np.ones(SHAPE, "f4"), header), GRID)
    assert f"kernel={kernel}" in found["HISTORY"][-1]


@pytest.mark.parametrize("angle,parity", [(37.0, -1), (45.0, 1), (123.0, -1), (8.0, -1)])
def test_undersampled_stars_keep_their_flux(angle, parity):
    """Pixel-integrated stars of FWHM 1.6, each at another place in its pixel."""
    special = pytest.importorskip("scipy.special")
    shape = (380, 380)
    source = solution(angle, 0.995, (0.3, -0.4), 1e-5, shape, parity)
    rng = np.random.default_rng(4)
    places = np.meshgrid(np.linspace(40, 280, 6), np.linspace(40, 215, 5))
    x, y = (place.ravel() + rng.uniform(-3, 3, 30) for place in places)
    edges, data = np.arange(shape[0] + 1) - 0.5, np.zeros(shape)
    for px, py in zip(*wcs.pixel(source, *wcs.sky(solution(0), x, y))):
        across, down = (np.diff(special.erf((edges - c) / (1.6 / 2.3548 * 2**0.5))) / 2 for c in (px, py))
        data += 1e5 * np.outer(down, across)
    (out, header), _, _ = resample((data.astype("f4"), header_of(source, shape, FWHM=1.6)), GRID)
    for px, py in zip(x, y):
        flux, cx, cy = measured(out, px, py)
        assert flux == pytest.approx(1e5, rel=1e-3) and np.hypot(cx - px, cy - py) < 0.01
    assert ("quintic" in header["HISTORY"][-1]) == (angle != 8)


@pytest.mark.parametrize("sip", [0.0, 3e-5])
def test_the_mapping_is_that_of_astropy(sip):
    source, shape = solution(12.0, 1.02, (3.3, 2.2), sip), (200, 210)
    target = solution(0.0, 1.0, shape=shape)
    oracle, grid = WCS(header_of(source)), WCS(header_of(target, shape))
    worst = 0
    for rows, columns, jacobian, [(y, x, base_y, base_x)] in mapping.tiles(
        source, target, mapping.overlap(source, SHAPE, target, shape)
    ):
        yy, xx = np.mgrid[rows, columns]
        ox, oy = oracle.all_world2pix(*grid.all_pix2world(xx.ravel(), yy.ravel(), 0), 0, tolerance=1e-8, maxiter=50)
        worst = max(worst, np.hypot(ox - (x + base_x).ravel(), oy - (y + base_y).ravel()).max())
        inner = (yy > 2) & (xx > 2) & (yy < 196) & (xx < 206)
        assert np.abs(jacobian[inner] - 1 / 1.02**2).max() < 0.03
    assert worst < 1e-3


def test_jacobian_is_the_area_of_the_mapped_pixel():
    source, target = solution(12.0, 1.3, (3.3, 2.2), 3e-5), solution(0.0)
    for rows, columns, jacobian, [(y, x, base_y, base_x)] in mapping.tiles(source, target, (0, 256, 0, 320)):
        yy, xx = np.mgrid[rows, columns].astype(float)
        (xa, ya), (xb, yb), (xc, yc), (xd, yd) = (
            wcs.pixel(source, *wcs.sky(target, xx + dx, yy + dy))
            for dx, dy in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))
        )
        assert np.allclose(jacobian, abs((xb - xa) * (yd - yc) - (xd - xc) * (yb - ya)), rtol=1e-4)


def coefficients_of(data, kernel):
    """The spline's coefficients of the whole of `data`, and of three pixels more on each side."""
    more, (rows, columns) = 3 + interpolate.KERNELS[kernel][-1], data.shape
    box = -more, rows + more, -more, columns + more
    return interpolate.coefficients(interpolate.window(data, box, "reflect"), kernel)


@pytest.mark.parametrize("kernel", sorted(interpolate.KERNELS))
def test_sample_against_its_slow_twin(kernel):
    rng = np.random.default_rng(0)
    data = rng.normal(0, 1, (9, 12)).astype("f4")
    y, x = rng.uniform(2.5, 11.499, (4, 5)), rng.uniform(2.5, 14.499, (4, 5))
    padded = coefficients_of(data, kernel)
    about = rng.random(padded.shape) < 0.5
    value, found = interpolate.sample(padded, y, x, kernel, about=about)
    near = []
    taps, before, _ = interpolate.KERNELS[kernel]
    for k in np.ndindex(y.shape):
        i, j = (int(np.floor(place[k] + (kernel == "quadratic") / 2)) for place in (y, x))
        wy, wx = (np.ravel(taps(np.full(1, fraction, "f4"))) for fraction in (y[k] - i, x[k] - j))
        slow = sum(a * b * padded[i + m - before, j + n - before] for m, a in enumerate(wy) for n, b in enumerate(wx))
        assert value[k] == pytest.approx(slow, abs=2e-6)
        if about[i, j]:
            near.append((np.ravel_multi_index(k, y.shape), i, j, y[k] - i, x[k] - j))
        assert sum(wy) == pytest.approx({"quadratic": 2, "spline": 6, "quintic": 120}.get(kernel, 1), rel=1e-6)
    assert np.allclose(np.transpose(found), near, atol=1e-6)


def test_holes_against_a_slow_twin():
    rng = np.random.default_rng(1)
    data = rng.normal(100, 30, (30, 40)).astype("f4")
    bad = rng.random(data.shape) < 0.1
    bad[8:23, 12:27] = bad[:3, :2] = True  # wider than three rounds of 5 x 5 reach; at the corner
    known, slow = ~bad, np.where(bad, np.median(data[~bad]), data)
    for _ in range(3):
        found = {}
        for i, j in zip(*np.nonzero(~known)):
            near = [(y, x) for y in range(i - 2, i + 3) for x in range(j - 2, j + 3)
                    if 0 <= y < 30 and 0 <= x < 40 and known[y, x]]
            if near:
                weight = [np.exp(-((y - i) ** 2 + (x - j) ** 2) / 2) for y, x in near]
                found[i, j] = np.average([slow[p] for p in near], weights=weight)
        for place, value in found.items():
            slow[place], known[place] = value, True
    hidden = np.where(bad, np.nan, data).astype("f4")
    y, x, values = interpolate.holes(hidden, bad)
    assert (bad[y, x]).all() and len(y) == bad.sum() and not known[15, 19]
    assert np.allclose(values, slow[y, x], rtol=1e-5)
    filled = hidden.copy()
    filled[y, x] = values
    for box in ((0, 30, 0, 40), (5, 12, 18, 26), (-4, 9, -3, 8), (20, 33, 30, 44)):
        patched = interpolate.window(hidden, box, "reflect", (y, x, values))
        assert np.array_equal(patched, interpolate.window(filled, box, "reflect"))
    assert np.isnan(hidden[bad]).all()


@pytest.mark.parametrize("kernel,order", [("quadratic", 2), ("spline", 3), ("quintic", 5)])
@pytest.mark.parametrize("shape", [(40, 70), (130, 5), (1, 1), (3, 2)])
def test_spline_is_that_of_scipy(shape, kernel, order):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    data = rng.normal(100, 30, shape).astype("f4")
    y, x = rng.uniform(0, shape[0] - 1, 300), rng.uniform(0, shape[1] - 1, 300)
    y, x = y[:, None], x[:, None]
    coefficients = coefficients_of(data, kernel)
    value = interpolate.sample(coefficients, y + 3, x + 3, kernel)[0]
    assert np.abs(value - ndimage.map_coordinates(data.astype(float), [y, x], order=order, mode="mirror")).max() < 1e-3


def test_identity_is_exact():
    data = np.random.default_rng(2).normal(100, 10, SHAPE).astype("f4")
    for kernel in interpolate.KERNELS:
        (out, header), weight, mask = resample((data, GRID), GRID, kernel=kernel)
        assert np.abs(out - data).max() < 2e-3 and not mask.any()


def test_flux_or_surface_brightness():
    source = solution(3.0, 1.25)
    image = (np.full(SHAPE, 100, "f4"), header_of(source, MAGZP=22.0, SKY=100.0, FWHM=3.0, EXPTIME=60.0))
    (flux, hf), wf, _ = resample(image, GRID)
    (surface, hs), ws, _ = resample(image, GRID, conserve="surface")
    assert np.nanmax(np.abs(flux - 100 / 1.25**2)) < 0.01 and np.nanmax(np.abs(surface - 100)) < 0.01
    assert hf["SATURATE"] == pytest.approx(60000 / 1.5625) and hf["FWHM"] == pytest.approx(3.75) and hf["MAGZP"] == 22
    assert hs["SATURATE"] == 60000 and hs["EGAIN"] == pytest.approx(1.5 / 1.5625)
    assert hs["MAGZP"] == pytest.approx(22 + 2.5 * np.log10(1.5625), abs=1e-4)
    assert wf[128, 160] == pytest.approx(1.5625 / (100 / 1.5 + 36), rel=1e-3)
    assert ws[128, 160] == pytest.approx(wf[128, 160] / 1.5625**2, rel=1e-3)


def test_a_coarser_grid_sums_its_pixels():
    rng = np.random.default_rng(5)
    data = rng.normal(50, 1, SHAPE).astype("f4")
    shape = (80, 100)
    coarse = header_of(solution(0, 3.0, shape=shape), shape)
    (out, header), weight, mask = resample((data, header_of(solution(0))), coarse)
    x, y = wcs.pixel(solution(0), *wcs.sky(solution(0, 3.0, shape=shape), np.array([50.0]), np.array([40.0])))
    i, j = int(round(y[0])), int(round(x[0]))
    assert np.hypot(y[0] - i, x[0] - j) < 1e-6
    assert out[40, 50] == pytest.approx(data[i - 1 : i + 2, j - 1 : j + 2].sum(), rel=1e-4)
    assert np.nanstd(out) == pytest.approx(3, rel=0.1) and weight[40, 50] == pytest.approx(
        1 / 9 / (50 / 1.5 + 36), rel=0.01
    )


def test_weights_are_the_inverse_variance_of_the_sky():
    rng = np.random.default_rng(3)
    flat = np.linspace(0.6, 1.2, SHAPE[1], dtype="f4") * np.ones(SHAPE, "f4")
    sky = 400.0
    data = ((rng.poisson(sky * flat * 1.5) + rng.normal(0, 9, SHAPE)) / (flat * 1.5)).astype("f4")
    (out, _), weight, _ = resample((data, header_of(solution(0))), GRID, flat=(flat, None))
    for columns in (slice(0, 40), slice(280, 320)):
        assert 1 / weight[:, columns].mean() == pytest.approx(data[:, columns].var(), rel=0.05)


def test_weights_without_flat_gain_or_with_noise_of_another_kind():
    rng = np.random.default_rng(3)
    data = ((rng.poisson(600, SHAPE) + rng.normal(0, 9, SHAPE)) / 1.5).astype("f4")
    plain = resample((data, header_of(solution(0))), GRID)[1]
    assert np.ptp(plain) == 0 and plain[0, 0] == pytest.approx(1 / (400 / 1.5 + 36), rel=0.03)
    unknown = header_of(solution(0))
    del unknown["EGAIN"]
    assert resample((data, unknown), GRID)[1][0, 0] == pytest.approx(1 / data.var(), rel=0.05)
    assert resample((data, unknown), GRID, gain=1.5)[1][0, 0] == plain[0, 0]
    assert resample((data, header_of(solution(0))), GRID, sky=800.0)[1][0, 0] == pytest.approx(
        1 / (800 / 1.5 + 36), rel=1e-3
    )
    warm = data + rng.normal(0, 20, SHAPE).astype("f4")
    assert resample((warm, header_of(solution(0))), GRID)[1][0, 0] == pytest.approx(1 / warm.var(), rel=0.05)


def test_trails_of_the_header_are_masked():
    header = header_of(solution(0), TRAIL=1, TRAIL1="0.0 50.0 319.0 50.0 6.0")
    (_, found), weight, mask = resample((np.ones(SHAPE, "f4"), header), GRID)
    assert (
        (mask[48:53] == hdr.TRAIL).all()
        and (weight[48:53] == 0).all()
        and not mask[60:].any()
        and "TRAIL1" not in found
    )


def test_holes_neither_spread_nor_invent_data():
    source = solution(0.2, 1.0, (0.45, 0.45))
    data, x, y = field(source)
    data += 100
    clean = resample((data, header_of(source)), GRID)[0][0]
    holed = data.copy()
    holed[100, 50] = holed[30:40, 230:242] = np.nan
    holed[:, 80] = np.nan
    holed[0, 0] = np.inf
    (out, _), weight, mask = resample((holed, header_of(source)), GRID)
    none = np.isnan(out)
    assert np.array_equal(none, weight == 0) and np.array_equal(none, (mask & hdr.NODATA) != 0)
    outside = np.isnan(clean)
    lost = none & ~outside
    assert lost.sum() <= 10 * 12 + 256 + 2
    far = np.ones(SHAPE, bool)
    for a, b in np.argwhere(lost):
        far[max(a - 3, 0) : a + 4, max(b - 3, 0) : b + 4] = False
    far[:6, :6] = far[96:106, 45:57] = False
    assert np.abs(out - clean)[far & ~outside].max() < 0.5
    assert weight[far & ~outside].min() == pytest.approx(weight.max(), rel=1e-3)


def test_repaired_pixels_keep_data_and_lose_weight():
    mask = np.zeros(SHAPE, "u1")
    mask[100, 100], mask[50, 60], mask[70, 70], mask[20, 20] = hdr.BAD, hdr.COSMIC, hdr.TRAIL, hdr.SATURATED
    data = np.random.default_rng(1).normal(100, 5, SHAPE).astype("f4")
    (out, _), weight, found = resample((data, GRID), GRID, mask)
    assert np.array_equal(found, mask) and np.isfinite(out).all()
    usual = weight[0, 0]
    assert (
        weight[100, 100] == pytest.approx(REPAIRED * usual) == weight[50, 60]
        and weight[70, 70] == 0
        and weight[20, 20] == usual
    )
    half = header_of(solution(0, shift=(0.5, 0.0)))
    assert resample((data, half), GRID, mask)[1][100, 99] == pytest.approx((1 + REPAIRED) / 2 * usual, rel=1e-3)


@pytest.mark.parametrize("kernel", ["quadratic", "spline", "lanczos3"])
def test_no_dark_rings_beside_saturated_stars(kernel):
    rng = np.random.default_rng(4)
    data = np.minimum(rng.normal(100, 5, SHAPE) + star(150, 120, 3e6, 2.5), 60000).astype("f4")
    data[60:200, 150] = 60000  # a bleeding column
    source = solution(0.4, 1.0, (0.3, 0.6))
    (out, header), _, mask = resample((data, header_of(source)), GRID, kernel=kernel)
    assert np.nanmin(out) > 100 - 5 * 5.5
    assert ((mask & hdr.SATURATED) != 0).sum() > 140
    assert out[(mask & hdr.SATURATED) != 0].max() <= 60001


def test_a_frame_that_touches_a_corner_of_a_large_mosaic():
    big = header_of(solution(0, shape=(3000, 2000)), (3000, 2000))
    source = solution(45, shift=(900, 1200))
    data = np.full(SHAPE, 7, "f4")
    (out, _), weight, mask = resample((data, header_of(source)), big)
    good = np.isfinite(out)
    assert 0 < good.sum() <= data.size + 1200 and np.abs(out[good] - 7).max() < 1e-3 and out.shape == (3000, 2000)
    assert np.array_equal(good, weight > 0) and np.array_equal(good, mask == 0)


def test_the_input_is_left_alone_and_the_result_is_the_same_again():
    rng = np.random.default_rng(6)
    data, mask = rng.normal(100, 5, SHAPE).astype("f4"), rng.integers(0, 30, SHAPE).astype("u1")
    data[5, 5] = np.nan
    header, before = header_of(solution(1.0)), (data.copy(), mask.copy())
    text = header.tostring()
    one, two = (resample((data, header), GRID, mask) for _ in range(2))
    assert (
        np.array_equal(data, before[0], equal_nan=True)
        and np.array_equal(mask, before[1])
        and header.tostring() == text
    )
    assert one[0][0].tobytes() == two[0][0].tobytes() and one[0][1]["HISTORY"][-1].startswith(
        "apfunc resample kernel=spline"
    )


def test_integers_and_tiny_frames():
    tiny = solution(0, shape=(3, 4))
    data = np.arange(12, dtype=">i2").reshape(3, 4)
    (out, _), _, _ = resample((data, header_of(tiny, (3, 4))), header_of(tiny, (3, 4)))
    assert np.allclose(out, data, atol=1e-4)


def test_errors_say_what_to_do():
    data = np.zeros(SHAPE, "f4")
    with pytest.raises(ValueError, match="astrometry"):
        resample((data, fits.Header()), GRID)
    with pytest.raises(ValueError, match="does not touch"):
        resample((data, header_of(solution(0, shift=(5000, 0)))), GRID)
    with pytest.raises(ValueError, match="touch|tangent"):
        resample((data, header_of({**solution(0), "crval": (330.0, -40.0)})), GRID)
    with pytest.raises(ValueError, match="shape"):
        resample((data, GRID), GRID, mask=np.zeros((3, 3), "u1"))
    with pytest.raises(ValueError, match="no pixel"):
        resample((data * np.nan, GRID), GRID)
    with pytest.raises(ValueError, match="kernel"):
        resample((data, GRID), GRID, kernel="sinc")
