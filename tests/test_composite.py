import tracemalloc

import numpy as np
import pytest
from astropy.io.fits import Header
from astropy.table import Table

from apfunc import crop, level, paint, stretch
from apfunc.composite import composite
from apfunc.palette import palette_for, palettes_for


def star(size, x, y, sigma=1.3):
    yy, xx = np.mgrid[:size, :size]
    return np.exp(-((xx - x)**2 + (yy - y)**2) / 2 / sigma**2) / (2 * np.pi * sigma**2)


# colours of stars as factors on R, G, B: cool, Sun-like, hot
COLOURS = np.array([[1.5, 1.0, 0.6], [1.0, 1.0, 1.0], [0.75, 1.0, 1.5]])


def field(factors=(1.0, 0.7, 0.4), skies=(90, 60, 40), size=288, stars=45, nebula=(40, 4, 8), seed=1, noise=3.0,
          bright=None, **keys):
    """R, G, B images of stars and a nebula through filters of different throughput; and the stars' places and kinds."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(12, size - 12, (2, stars))
    kinds = np.arange(stars) % 3
    flux = np.minimum(800 * (1 + rng.pareto(1.0, stars)), 3e4)
    if bright:
        x[0], y[0], kinds[0], flux[0] = size // 4, size // 4, 1, bright
    yy, xx = np.mgrid[:size, :size]
    glow = np.exp(-((xx - 0.6 * size)**2 + (yy - 0.55 * size)**2) / 2 / (0.12 * size)**2)
    light = [sum(flux[i] * COLOURS[kinds[i], c] * star(size, x[i], y[i]) for i in range(stars)) + nebula[c] * glow
             for c in range(3)]
    images = {}
    for c, name in enumerate("RGB"):
        data = factors[c] * light[c] + skies[c] + rng.normal(0, noise * factors[c], (size, size))
        images[name] = data.astype("f4"), Header({"FILTER": name, "OBJECT": "NGC 1"} | keys)
    return images, (x, y, kinds, flux)


def shown(rgb):
    return rgb.astype("f8") / 65535


def test_sky_is_dark_and_neutral_and_nebula_red():
    images, _ = field()
    rgb, header = composite(images)
    assert rgb.dtype == np.uint16 and rgb.shape == (288, 288, 3)
    sky = shown(rgb)[:50, :50].reshape(-1, 3)
    assert np.median(sky, axis=0) == pytest.approx([stretch.SKY] * 3, abs=0.01)
    nebula = np.median(shown(rgb)[150:166, 165:181].reshape(-1, 3), axis=0)
    assert nebula[0] > 0.3 and nebula[0] > 1.6 * nebula[1] and nebula[0] > 1.5 * nebula[2]
    assert header["PALETTE"] == "RGB" and header["BALANCE"] == "stars" and header["NBALANCE"] > 10


def test_stars_are_balanced_whatever_the_filters_let_through():
    pictures = []
    for factors in ((1.0, 1.0, 1.0), (1.0, 0.5, 0.2)):
        images, (x, y, kinds, flux) = field(factors, nebula=(0, 0, 0), noise=1.0)
        rgb, header = composite(images)
        weights = [float(header[f"COLOR{i}"].split()[2]) for i in (1, 2, 3)]
        balanced = np.array(weights) * factors
        assert balanced / balanced[1] == pytest.approx([1, 1, 1], rel=0.12)
        pictures.append(shown(rgb))
    for i in np.argsort(-flux)[:9]:
        pixel = pictures[0][int(round(y[i])) + 2, int(round(x[i]))]  # beside the core
        if kinds[i] == 0:
            assert pixel[0] > pixel[2] + 0.02
        if kinds[i] == 2:
            assert pixel[2] > pixel[0] + 0.02


def test_balance_by_catalogue_colours_and_by_hand():
    images, (x, y, kinds, flux) = field(nebula=(0, 0, 0), noise=0.5, stars=60)
    # all stars are given a colour; only those of the Sun's (kind 1) have equal R, G and B
    wcs = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 1.0, "CRPIX2": 1.0,
           "CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4}
    for _, header in images.values():
        header.update(wcs)
    from astropy.wcs import WCS

    ra, dec = WCS(images["R"][1]).all_pix2world(x, y, 0)
    catalog = Table({"ra": ra, "dec": dec, "bp_rp": np.array([1.45, 0.82, 0.25])[kinds]})
    _, header = composite(images, catalog=catalog)
    weights = np.array([float(header[f"COLOR{i}"].split()[2]) for i in (1, 2, 3)]) * (1.0, 0.7, 0.4)
    assert weights / weights[1] == pytest.approx([1, 1, 1], rel=0.05)
    _, header = composite(images, weights={"R": 1, "G": 2, "B": 3})
    assert header["BALANCE"] == "hand" and header["COLOR3"] == "B B 3"


def test_saturated_cores_are_white_and_not_magenta():
    images, (x, y, _, _) = field((1.0, 0.7, 0.4), bright=4e5)
    for name, (data, header) in images.items():
        header["SATURATE"] = 5000.0
        np.minimum(data, 5000, out=data)  # green less than red clips later: its colour is a lie
    rgb, _ = composite(images)
    core = shown(rgb)[71:74, 71:74].reshape(-1, 3)
    assert (core.min(1) > 0.9).all() and (np.ptp(core, axis=1) < 0.02).all()
    holes = {k: (np.where(d >= 5000, np.nan, d), h) for k, (d, h) in images.items()}
    core = shown(composite(holes)[0])[71:74, 71:74].reshape(-1, 3)
    assert core.min() > 0.6  # a hole in a bright star is filled from round it, not black


def test_noise_in_colour_is_held_down_and_brightness_kept():
    images, _ = field(nebula=(0, 0, 0), stars=12)

    def noise(**options):
        sky = shown(composite(images, soft=60.0, white=3e4, **options)[0])[:40, :200]
        return np.std(sky.mean(2)), np.std(sky[..., 0] - sky[..., 1])

    bright, colour = noise()
    assert colour < 0.45 * bright
    plain, _ = noise(denoise=0.0)
    assert bright < 0.75 * plain


def test_hue_is_that_of_lupton_2004():
    images, (x, y, kinds, flux) = field(noise=0.02, nebula=(300, 60, 90), stars=20)
    rgb, header = composite(images, weights={"R": 1, "G": 1 / 0.7, "B": 1 / 0.4}, stretch="arcsinh", soft=30.0,
                            white=4000.0)
    part = np.s_[140:176, 150:190]
    linear = np.stack([(images[k][0] - s)[part] / f for k, s, f in zip("RGB", (90, 60, 40), (1, 0.7, 0.4))], -1)
    bright = linear.mean(-1, keepdims=True)
    expected = stretch.SKY + linear / bright * (1 - stretch.SKY) * np.arcsinh(bright / 30) / np.arcsinh(4000 / 30)
    got = shown(rgb)[part]
    plain = (expected.max(-1) < 0.8) & (np.hypot(*np.gradient(bright[..., 0])) < 6)
    assert plain.sum() > 200
    np.testing.assert_allclose(got[plain], expected[plain], atol=0.02)


def test_halpha_goes_into_red_and_leaves_stars_alone():
    images, (x, y, kinds, flux) = field(noise=0.5, nebula=(10, 1, 1))
    yy, xx = np.mgrid[:288, :288]
    glow = np.exp(-((xx - 173)**2 + (yy - 158)**2) / 2 / 35**2)
    stars = images["R"][0] - 90 - 10 * glow
    line = 0.05 * stars + 10 * glow + np.random.default_rng(3).normal(0, 0.3, glow.shape)
    with_line = images | {"Ha": (line.astype("f4"), Header({"FILTER": "Ha"}))}
    plain, _ = composite(images, soft=20.0, white=5e3)
    mixed, header = composite(with_line, soft=20.0, white=5e3)
    assert header["PALETTE"] == "HaRGB" and 0.1 <= header["HASHARE"] <= 0.6
    centre = np.s_[154:162, 169:177]
    assert shown(mixed)[centre][..., 0].mean() > shown(plain)[centre][..., 0].mean() + 0.08
    far = [i for i in np.argsort(-flux)[:15] if np.hypot(x[i] - 173, y[i] - 158) > 110]
    for i in far:
        spot = np.s_[int(round(y[i])), int(round(x[i]))]
        np.testing.assert_allclose(shown(mixed)[spot], shown(plain)[spot], atol=0.07)


def test_luminance_gives_the_detail():
    images, _ = field(noise=6.0)
    light = sum(d - s for (d, _), s in zip(images.values(), (90, 60, 40)))
    sharp = np.random.default_rng(4).normal(150, 1, light.shape) + light
    rgb, header = composite(images | {"L": (sharp.astype("f4"), Header({"FILTER": "Luminance"}))})
    assert header["PALETTE"] == "LRGB" and header["COLOR1"].startswith("L L")
    nebula = np.median(shown(rgb)[150:166, 165:181].reshape(-1, 3), axis=0)
    assert nebula[0] > 1.4 * nebula[1]


def test_narrow_palettes_have_white_stars():
    images, (x, y, kinds, flux) = field(nebula=(20, 30, 10), noise=1.0)
    for palette, names in (("SHO", ("SII", "Ha", "OIII")), ("HOO", ("Ha", "OIII"))):
        some = {n: images[k] for n, k in zip(names, "RGB")}
        rgb, header = composite(some)
        assert header["PALETTE"] == palette and header["BALANCE"] == "signal"
        i = np.argmax(flux)
        core = shown(rgb)[int(round(y[i])), int(round(x[i]))]
        assert np.ptp(core) < 0.15 and core.min() > 0.6
    assert np.abs(rgb[..., 1].astype(int) - rgb[..., 2]).max() < 50  # HOO: green is blue


def test_borders_are_cropped_or_black():
    images, _ = field()
    wcs = {"CTYPE1": "RA---TAN", "CRPIX1": 100.0, "CRPIX2": 120.0}
    for name, edge in (("R", np.s_[:7]), ("G", np.s_[:, :9]), ("B", np.s_[-5:])):
        images[name][0][edge] = np.nan
        images[name][1].update(wcs)
    images["G"][0][100, 100] = np.nan
    rgb, header = composite(images)
    assert rgb.shape == (276, 279, 3)
    assert (header["CROPX0"], header["CROPY0"], header["CRPIX1"], header["CRPIX2"]) == (9, 7, 91, 113)
    assert 0.03 < shown(rgb)[93, 91].min() and shown(rgb)[93, 91].max() < 0.2  # the lone hole is filled
    whole, header = composite(images, crop=False)
    assert whole.shape == (288, 288, 3) and header["CROPX0"] == 0
    assert (whole[:7] == 0).all() and (whole[:, :9] == 0).all() and whole[20, 20].min() > 0


def test_rectangle_is_its_slow_twin():
    rng = np.random.default_rng(1)
    for _ in range(20):
        good = rng.uniform(size=(7, 9)) > 0.25
        best = (max((b - t) * (r - c) for t in range(7) for b in range(t + 1, 8) for c in range(9)
                    for r in range(c + 1, 10) if good[t:b, c:r].all()) if good.any() else 0)
        t, b, c, r = crop.rectangle(good)
        assert good[t:b, c:r].all() and (b - t) * (r - c) == best


def test_strips_have_no_seams_and_little_memory(monkeypatch):
    images, _ = field()
    options = dict(soft=20.0, white=5e3)
    first, _ = composite(images, **options)
    monkeypatch.setattr(paint, "STRIP", 1000)
    whole, _ = composite(images, **options)
    assert np.abs(first.astype(int) - whole.astype(int)).max() < 0.004 * 65535
    monkeypatch.undo()
    big = {k: (np.tile(d, (12, 3)), h) for k, (d, h) in images.items()}
    tracemalloc.start()
    composite(big, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < big["R"][0].nbytes * 1.5 + 40e6  # the picture itself, and a strip's worth of planes


def test_same_bytes_and_arguments_stay():
    images, _ = field()
    before = {k: (d.copy(), h.copy()) for k, (d, h) in images.items()}
    first, h1 = composite(images)
    second, h2 = composite(images)
    assert np.array_equal(first, second) and repr(h1) == repr(h2)
    for k in images:
        assert np.array_equal(before[k][0], images[k][0]) and repr(before[k][1]) == repr(images[k][1])


def test_one_filter_and_two_and_odd_frames():
    images, _ = field()
    rgb, header = composite([images["R"]])
    assert header["PALETTE"] == "R" and np.ptp(rgb, axis=2).max() == 0
    rgb, header = composite({"R": images["R"], "B": images["B"]})
    assert header["PALETTE"] == "RB" and rgb.shape == (288, 288, 3)
    rng = np.random.default_rng(2)
    for shape in ((9, 7), (1, 5), (33, 47)):
        rgb, _ = composite({k: (rng.normal(10, 1, shape).astype("f4"), Header()) for k in "RGB"})
        assert rgb.ndim == 3
    rgb, _ = composite({k: (np.full((40, 40), 7, "u2"), Header()) for k in "RGB"})
    assert np.ptp(rgb) == 0


def test_clear_errors():
    a, b = (np.zeros((20, 20), "f4"), Header()), (np.zeros((20, 30), "f4"), Header())
    with pytest.raises(ValueError, match="20x20, 30x20"):
        composite({"R": a, "G": b})
    with pytest.raises(ValueError, match="no images"):
        composite({})
    with pytest.raises(ValueError, match="no pixel in common"):
        composite({"R": (np.full((20, 20), np.nan), Header()), "G": a})
    with pytest.raises(ValueError, match="unknown stretch"):
        composite({"R": a}, stretch="log")
    with pytest.raises(ValueError, match="unknown balance"):
        composite({"R": a, "G": a, "B": a}, balance="moon")
    with pytest.raises(ValueError, match="no palette XYZ"):
        composite({"R": a, "G": a, "B": a}, palette="XYZ")


def test_palettes():
    assert palettes_for(["Luminance", "Red", "Green", "Blue"]) == {"LRGB": ["Luminance", "Red", "Green", "Blue"]}
    assert list(palettes_for(["R", "G", "B", "Ha", "SII", "OIII"])) == ["HaRGB", "SHO"]
    assert palettes_for(["Ha", "OIII"]) == {"HOO": ["Ha", "OIII"]}
    assert palettes_for([]) == {}
    assert palette_for(["g", "r", "z"])[:2] == ("RGB", {"R": "z", "G": "r", "B": "g"})
    assert palette_for(["g", "r", "i"])[:2] == ("RGB", {"R": "i", "G": "r", "B": "g"})
    name, roles, note = palette_for(["g", "r", "z", "H-Alpha"])
    assert (name, roles) == ("HaRGB", {"R": "r", "B": "g", "Ha": "H-Alpha"}) and "R is r" in note
    assert palette_for(["z"]) == ("z", {"L": "z"}, "grey picture of z")
    assert palette_for(["V", "B", "R", "I"])[1] == {"R": "R", "G": "V", "B": "B"}
    name, roles, note = palette_for(["Ha", "OIII"], "SHO")
    assert name == "HOO" and note == "no SII for SHO: HOO instead"
    assert palette_for(["Ha", "OIII", "SII"], "SII,OIII,Ha")[:2] == ("SIIOIIIHa", {"R": "SII", "G": "OIII", "B": "Ha"})
    assert palette_for(["weird one"])[0] == "weirdone"
    with pytest.raises(ValueError, match="no image of X"):
        palette_for(["R", "G", "B"], "X,G,B")
    with pytest.raises(ValueError, match="no filter"):
        palette_for([])
    for filters in ("R Ha", "L Ha", "R G", "SII Ha", "L R G", "u g r i z", "g r z Ha", "R Ha OIII"):
        filters = filters.split()
        for name, used in palettes_for(filters).items():
            assert palette_for(used, name)[0] == name and "-" not in name  # make hands the name back
            assert set(used) <= set(filters)


@pytest.mark.parametrize("rows", [63, 64, 65, 66, 127, 128, 129, 130, 193])
def test_any_number_of_rows_is_painted(rows):
    rng = np.random.default_rng(1)
    images = {f: (rng.normal(100, 5, (rows, 81)).astype("f4"), Header()) for f in "RGB"}
    for names in ("RGB", "R"):
        rgb, _ = composite({n: images[n] for n in names})
        assert rgb.shape == (rows, 81, 3) and rgb[-1].any() and rgb[0].any()


def test_sky_is_found_under_a_nebula_that_covers_most_of_the_field():
    rng = np.random.default_rng(6)
    y, x = np.mgrid[-1:1:400j, -1:1:400j]
    veil = 30 * np.exp(-((x + 0.4)**2 + y**2) / 2 / 0.35**2) + 4 * (x < 0.5)
    plane = 100 + 6 * x - 3 * y
    images = [(plane + k * veil + rng.normal(0, 5, x.shape)).astype("f4") for k in (1, 0.1)]
    surfaces, noises = level.skies(images)
    for surface, sigma in zip(surfaces, (1.6, 0.6)):
        assert len(surface) == 2
        assert np.abs(level.at(surface, x.shape) - plane)[:, 300:].mean() < sigma
    assert noises == pytest.approx([5, 5], rel=0.05)
    curved = plane + 8 * y**3 - 5 * x**2
    surface, = level.skies([(curved + rng.normal(0, 5, x.shape)).astype("f4")])[0]
    assert len(surface) == 4 and np.abs(level.at(surface, x.shape) - curved).mean() < 0.5
    part = level.at(surface, x.shape, slice(10, 20), slice(None, None, 7))
    np.testing.assert_allclose(part, level.at(surface, x.shape)[10:20, ::7], rtol=1e-5)
    assert level.skies(images, 0)[0][0].shape == (1, 1)


def test_rim_that_few_frames_reach_is_cropped():
    images, _ = field()
    weight = np.ones((288, 288), "f4")
    weight[:20] = 0.1
    weight[160, 100:130] = 0  # a hole is no rim
    for coverage in ([weight], [weight[::16]]):
        assert composite(images, coverage=coverage)[1]["CROPY0"] in range(19, 34)
    weight[:120] = 0.1
    assert composite(images, coverage=[weight])[1]["CROPY0"] == 0  # half a field is a panel of its own
