"""Field catalogues and frames solved against them, on skies whose truth is known."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from apfunc import adjust, wcs
from apfunc.astrometry import astrometry
from apfunc.field import field, where

SHAPE, SCALE = (800, 1000), 2.0
SIZE = np.hypot(*SHAPE) * SCALE / 3600


def sky(n=900, seed=1, pos=(100.0, 20.0), bright=80, width=1.4):
    """(ra, dec, mag) of n stars around pos, the brightest being what a catalogue has."""
    rng = np.random.default_rng(seed)
    xi, eta = rng.uniform(-width / 2 * SIZE, width / 2 * SIZE, (2, n))
    return (*wcs.deproject(xi, eta, pos), np.sort(17 - np.minimum(rng.exponential(1.2, n), 6)), bright)


def catalog(stars, source="test catalogue"):
    ra, dec, mag, bright = stars
    table = Table({"ra": ra[:bright], "dec": dec[:bright], "mag": mag[:bright], "err": np.full(bright, 0.03)})
    table.meta.update(SOURCE=source, MAGSYS="G")
    return table


def frame(stars, pos, turn=10.0, parity=-1, warp=4.0, filt="r", exptime=60.0, trans=1.0, seed=0, spurious=0.3,
          shape=SHAPE, scale=SCALE, limit=5.0, told=None, **meta):
    """A star table with errors, false stars and distortion (warp pixels in the corners, r^3), and the true solution."""
    rng = np.random.default_rng(seed)
    ra, dec, mag, _ = stars
    t, h = np.radians(turn), np.hypot(*shape) / 2
    a, b = np.zeros((2, 4, 4))
    a[3, 0] = a[1, 2] = b[2, 1] = b[0, 3] = warp / h**3
    cd = scale / 3600 * np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]) @ np.diag([parity, 1])
    truth = {
        "crval": tuple(map(float, pos)), "crpix": ((shape[1] - 1) / 2, (shape[0] - 1) / 2), "cd": cd, "a": a, "b": b
    }
    x, y = wcs.pixel(truth, ra, dec)
    flux, noise = 10**(-0.4 * (mag - 22)) * exptime * trans, 80.0
    seen = (x > 2) & (y > 2) & (x < shape[1] - 3) & (y < shape[0] - 3) & (flux / noise > limit)
    x, y, flux = x[seen], y[seen], flux[seen]
    error = np.hypot(0.02, 1.8 * noise / flux)
    x, y, flux = x + rng.normal(0, error), y + rng.normal(0, error), flux + rng.normal(0, noise, len(x))
    false = int(len(x) * spurious / (1 - spurious))
    x, y = np.append(x, rng.uniform(0, shape[1], false)), np.append(y, rng.uniform(0, shape[0], false))
    flux = np.append(flux, noise * limit * 10**rng.exponential(0.2, false))
    order = np.argsort(-flux)
    table = Table({
        "x": x[order], "y": y[order], "flux": flux[order], "fluxerr": np.full(len(x), noise),
        "flags": np.zeros(len(x), int)
    })
    table["snr"] = table["flux"] / table["fluxerr"]
    told = pos if told is None else told
    table.meta.update({
        "FILTER": filt, "EXPTIME": exptime, "NAXIS1": shape[1], "NAXIS2": shape[0], "FWHM": 3.0,
        "MJD-MID": 60826.2 + seed * 1e-3, "OBJCTRA": float(told[0]), "OBJCTDEC": float(told[1]), "XPIXSZ": 9.0,
        "FOCALLEN": 206.264806 * 9 / scale, **meta
    })
    return table, truth


def night(stars, pos=(100.0, 20.0), per_filter=3, filters=("r", "Ha"), seed=5, flip=True, dither=15.0, told=None,
          **options):
    rng = np.random.default_rng(seed)
    made = []
    for name in filters:
        for k in range(per_filter):
            at = wcs.deproject(*rng.normal(0, dither * SCALE / 3600, 2), pos)
            made.append(
                frame(stars, at, 10 + rng.normal(0, 0.05) + 180 * (flip and k % 2), filt=name,
                      seed=len(made) + 10 * seed, trans=0.06 if name == "Ha" else 0.1 if k == 2 else 1.0, told=told
                      or pos, **options))
    return made


def solved(table, found, truth, shape=SHAPE):
    """(median, worst corner) error [pixel] of the solution against the truth, and the image and table."""
    image, stars = astrometry((np.zeros(shape, "f4"), fits.Header()), table, found)
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, 9), np.linspace(0, shape[0] - 1, 9))
    got = wcs.from_header(image[1])
    error = wcs.distance(*wcs.sky(got, x, y), *wcs.sky(truth, x, y)) * 3600 / wcs.scale(truth)
    return float(np.median(error)), float(error[[0, 0, -1, -1], [0, -1, 0, -1]].max()), image, stars


def test_a_night_is_solved_to_hundredths_of_a_pixel_the_clouded_frames_too():
    stars = sky()
    made = night(stars)
    found = field([t for t, _ in made], catalog(stars))
    assert found.meta["TIE"] == "test catalogue" and found.meta["NTIE"] >= 15 and found.meta["TIERMS"] < 0.3
    for table, truth in made:
        middle, corner, (_, header), _ = solved(table, found, truth)
        assert middle < 0.05 and corner < 0.2
        assert header["CTYPE1"] == "RA---TAN-SIP" and header["WCSNMATC"] >= 20 and header["WCSRMSPX"] < 0.3
        assert header["FWHM"] == 3.0  # the star table's, by which resample chooses its kernel
        assert header["WCSRMS"] == pytest.approx(header["WCSRMSPX"] * header["PIXSCALE"], abs=1e-4)


@pytest.mark.parametrize("case", ["far", "mirror", "pole", "drift", "scale", "few", "cluster", "spurious"])
def test_hard_fields(case):
    pos = (200.0, 88.9) if case == "pole" else (100.0, 20.0)
    stars = sky(pos=pos, n=120 if case == "few" else 900, bright=25 if case == "few" else 80, seed=3,
                width=2.2 if case == "drift" else 1.4)
    if case == "cluster":  # half of all stars, and the brightest, in two arcminutes
        rng = np.random.default_rng(8)
        xi, eta = rng.normal(0.1, 0.01, (2, 900))
        thick = wcs.deproject(xi, eta, pos)
        ra, dec, mag, bright = stars
        order = np.argsort(np.append(mag, mag - 1), kind="stable")
        stars = np.append(ra, thick[0])[order], np.append(dec, thick[1])[order], np.append(mag, mag - 1)[order], 500
    options = {
        "far": {"told": wcs.deproject(0.6, -0.6, pos)}, "mirror": {"parity": 1},
        "scale": {"FOCALLEN": 206.264806 * 9 / SCALE * 1.09}, "spurious": {"spurious": 0.5}
    }.get(case, {})
    known = catalog(stars)
    if case == "drift":
        made = [frame(stars, wcs.deproject(0.13 * (k - 3), 0.02 * k, pos), told=pos, seed=k) for k in range(7)]
    else:
        if case == "far":  # the catalogue must reach as far as the pointing is wrong
            wide = sky(n=3000, seed=9, width=6, bright=400)
            known = catalog((np.append(stars[0][:60],
                                       wide[0]), np.append(stars[1][:60],
                                                           wide[1]), np.append(stars[2][:60], wide[2] + 1), 460))
        made = night(stars, pos, filters=("r",), **options)
    found = field([t for t, _ in made], known)
    assert found.meta["TIE"] == "test catalogue"
    for table, truth in made:
        middle, corner, _, _ = solved(table, found, truth)
        assert middle < (0.15 if case == "few" else 0.06) and corner < (0.5 if case == "few" else 0.25)


def test_the_order_of_the_tables_does_not_matter_and_arguments_stay():
    stars = sky(n=400)
    tables = [t for t, _ in night(stars, filters=("r",))]
    before = [t.copy() for t in tables]
    one, two = field(tables, catalog(stars)), field(tables[::-1], catalog(stars))
    assert one.meta == two.meta and all(
        (np.asarray(one[c]) == np.asarray(two[c])).all() or np.allclose(one[c], two[c], equal_nan=True, rtol=0, atol=0)
        for c in one.colnames)
    table, found = tables[0], one.copy()
    astrometry((np.zeros(SHAPE, "f4"), fits.Header()), table, found)
    assert (all((np.asarray(t[c]) == np.asarray(b[c])).all() for t, b in zip(tables, before) for c in b.colnames)
            and tables[0].colnames == before[0].colnames)


def test_flux_scale_and_zero_point():
    stars = sky()
    made = [
        frame(stars, (100.0, 20.0), trans=t, exptime=e, seed=k)
        for k, (t, e) in enumerate([(1.0, 60.0), (0.9, 60.0), (0.3, 60.0), (0.8, 30.0)])
    ]
    found = field([t for t, _ in made], catalog(stars))
    assert found.meta["FILT1"] == "r" and found.meta["EXPR1"] == 60.0
    for (table, truth), (trans, exptime) in zip(made, [(1.0, 60.0), (0.9, 60.0), (0.3, 60.0), (0.8, 30.0)]):
        header = solved(table, found, truth)[2][1]
        assert header["FLXSCALE"] == pytest.approx(60 / (trans * exptime), rel=0.01)
        assert abs(header["FLXSCALE"] * trans * exptime / 60 - 1) < 0.002 + 5 * header["FLXSCERR"] / header["FLXSCALE"]
        assert header["MAGZP"] == pytest.approx(22 + 2.5 * np.log10(trans * exptime), abs=0.02)
        assert 0 < header["MAGZPERR"] < 0.02 and header["MAGZPSYS"] == "G"


def test_sky_positions_and_identities_of_the_stars():
    stars = sky()
    (table, truth), *rest = made = night(stars, filters=("r",))
    found = field([t for t, _ in made], catalog(stars))
    _, _, _, named = solved(table, found, truth)
    ra, dec = wcs.sky(truth, np.asarray(table["x"]), np.asarray(table["y"]))
    assert np.median(wcs.distance(named["ra"], named["dec"], ra, dec)) * 3600 < 0.2
    same = np.flatnonzero(named["id"] >= 0)
    assert len(same) > 100 and len(set(named["id"][same])) == len(same)
    gap = wcs.distance(found["ra"][named["id"][same]], found["dec"][named["id"][same]], named["ra"][same],
                       named["dec"][same])
    assert gap.max() * 3600 < 1.6 * SCALE


def test_a_header_wcs_is_used_but_checked():
    stars = sky()
    made = night(stars, filters=("r",))
    for (table, truth), off in zip(made, (0.0, 0.3, -0.2)):
        header = wcs.to_header(fits.Header(),
                               dict(truth, a=None, b=None, crval=(truth["crval"][0], truth["crval"][1] + off / 3600)),
                               SHAPE)
        table.meta.update({k: header[k] for k in header if k not in ("A_ORDER", "B_ORDER")})
    found = field([t for t, _ in made])
    assert found.meta["TIE"] == "header WCS"
    middle, _, image, _ = solved(made[0][0], found, made[0][1])
    assert middle * SCALE < 3 and image[1]["WCSSRC"] == "header WCS"
    for table, _ in made:  # all say the same, and all are wrong: the catalogue wins
        table.meta["CRVAL2"] += 0.05
    found = field([t for t, _ in made], catalog(stars))
    assert found.meta["TIE"] == "test catalogue" and solved(made[0][0], found, made[0][1])[0] < 0.05


def test_a_header_wcs_that_the_catalogue_contradicts_is_unconfirmed():
    """Five catalogue stars are where the headers say the frame looks, and none of them shows."""
    stars = sky(n=300, bright=0)
    made = night(stars, filters=("r",))
    for table, truth in made:
        header = wcs.to_header(fits.Header(), dict(truth, a=None, b=None), SHAPE)
        table.meta.update({k: header[k] for k in header if k not in ("A_ORDER", "B_ORDER")})
    xi, eta = np.random.default_rng(6).uniform(-0.15, 0.15, (2, 5))
    ra, dec = wcs.deproject(xi, eta, (100.0, 20.0))
    known = Table({"ra": ra, "dec": dec, "mag": np.linspace(8, 9, 5)})
    assert field([t for t, _ in made], known).meta["TIE"] == "header WCS only, unconfirmed"


def test_without_any_catalogue_frames_are_registered_to_each_other():
    stars = sky(n=500)
    made = night(stars)
    found = field([t for t, _ in made])
    assert found.meta["TIE"] == "relative" and found.meta["SCALE"] == pytest.approx(SCALE, rel=1e-3)
    headers = [solved(t, found, truth)[2][1] for t, truth in made]
    assert all(h["WCSSRC"] == "relative" for h in headers)
    x, y = np.meshgrid(np.linspace(100, 900, 5), np.linspace(100, 700, 5))
    ra, dec = wcs.sky(wcs.from_header(headers[0]), x, y)
    for header, (_, truth) in zip(headers[1:], made[1:]):
        there = wcs.pixel(wcs.from_header(header), ra, dec)
        want = wcs.pixel(truth, *wcs.sky(made[0][1], x, y))
        assert np.median(np.hypot(there[0] - want[0], there[1] - want[1])) < 0.06


def test_few_stars_register_when_the_frames_are_alike():
    """Nine stars in the best frame, four in the poorest: shifts, no pattern."""
    stars = sky(n=40, seed=12, bright=0)
    made = [
        frame(stars, wcs.deproject(*np.random.default_rng(k).normal(0, 10 * SCALE / 3600, 2), (100.0, 20.0)), seed=k,
              spurious=0, warp=0, limit=(5.0, 5.0, 60.0)[k], filt="rzg"[k]) for k in range(3)
    ]
    found = field([t for t, _ in made])
    assert found.meta["NFRAMES"] == 3 and min(len(t) for t, _ in made) >= 3
    headers = [solved(t, found, truth)[2][1] for t, truth in made]
    ra, dec = wcs.sky(wcs.from_header(headers[0]), 500.0, 400.0)
    for header, (_, truth) in zip(headers, made):
        there, want = wcs.pixel(wcs.from_header(header), ra, dec), wcs.pixel(truth, *wcs.sky(made[0][1], 500.0, 400.0))
        assert np.hypot(there[0] - want[0], there[1] - want[1]) < 0.2


def test_three_stars_of_a_line_frame_are_known_among_the_brightest():
    """An H-alpha frame with three to five stars, against a field of hundreds."""
    stars = sky()
    made = night(stars, filters=("r",))
    found = field([t for t, _ in made], catalog(stars))
    for n in (3, 4, 5):
        table, truth = frame(stars, (100.004, 20.003), filt="Ha", seed=40 + n, spurious=0)
        few = table[:n]
        few.meta.update(table.meta)
        middle, corner, (_, header), _ = solved(few, found, truth)
        assert header["WCSNMATC"] == n and middle < 0.15 and corner < 0.4


def test_the_same_camera_binned_takes_over_the_distortion():
    stars = sky()
    made = night(stars, filters=("r",), warp=8.0)
    found = field([t for t, _ in made], catalog(stars))
    binned, truth = frame(stars, (100.0, 20.0), filt="r", seed=78, shape=(400, 500), scale=4.0, warp=4.0)
    few = binned[:25]
    few.meta.update(binned.meta, XPIXSZ=18.0, FOCALLEN=206.264806 * 18 / 4)
    middle, corner, (_, header), _ = solved(few, found, truth, shape=(400, 500))
    assert header["WCSORDER"] == 1 and middle < 0.06 and corner < 0.25


def test_another_camera_at_half_the_resolution():
    stars = sky()
    made = night(stars, filters=(
        "r",)) + [frame(stars, (100.0, 20.0), turn=75.0, filt="r", seed=77, shape=(400, 500), scale=4.0, warp=2.0)]
    found = field([t for t, _ in made], catalog(stars))
    middle, corner, _, _ = solved(*((made[3][0], found, made[3][1])), shape=(400, 500))
    assert middle < 0.06 and corner < 0.25


def test_a_rich_frame_of_another_target_does_not_lead():
    stars, other = sky(), sky(n=2000, seed=70, bright=0)
    made = night(stars, filters=("r",), per_filter=4)
    found = field([frame(other, (100.0, 20.0), seed=90)[0]] + [t for t, _ in made], catalog(stars))
    assert found.meta["TIE"] == "test catalogue" and found.meta["NFRAMES"] == 3
    assert all(solved(t, found, truth)[0] < 0.05 for t, truth in made)


def test_failures_have_reasons():
    stars, other = sky(n=300), sky(n=300, seed=99)
    made = night(stars, filters=("r",))
    found = field([t for t, _ in made], catalog(stars))
    image = np.zeros(SHAPE, "f4"), fits.Header()
    with pytest.raises(ValueError, match="beyond chance"):
        astrometry(image, frame(other, (100.0, 20.0), seed=4)[0], found)
    with pytest.raises(ValueError, match="usable stars"):
        astrometry(image, made[0][0][:2], found)
    with pytest.raises(ValueError, match="field catalogue has only"):
        astrometry(image, made[0][0], found[:2])
    with pytest.raises(ValueError, match="no stars in any frame"):
        field([made[0][0][:0]])
    with pytest.raises(ValueError, match="no stars in any frame"):
        field([])


def test_ugly_tables():
    stars = sky(n=300)
    made = night(stars, filters=("r",))
    ugly = made[0][0].copy()
    ugly["x"][3] = ugly["flux"][5] = np.nan
    ugly["flux"][7] = -1
    bare = Table({k: made[1][0][k] for k in ("x", "y", "flux")})
    found = field([ugly, bare, made[2][0][:0], made[2][0]], catalog(stars))
    assert found.meta["NFRAMES"] == 3
    assert solved(ugly, found, made[0][1])[0] < 0.06
    one = field([made[0][0][:1]])
    assert len(one) == 1 and one.meta["TIE"] == "relative"
    assert where([bare]) is None and field([bare]).meta["TIE"] == "relative"
    assert field([bare], catalog(stars)).meta["TIE"] == "test catalogue"  # which says itself where to look


def test_where_to_look_for_a_catalogue():
    made = night(sky(n=200), filters=("r",))
    ra, dec, radius, epoch = where([t for t, _ in made])
    assert (ra, dec) == (100.0, 20.0) and 1.3 < radius < 2 and epoch == pytest.approx(2025.41, abs=0.02)


def test_own_distortion_when_the_field_has_none_for_this_size():
    """A frame of another size than the field's: its own SIP, by cross-validation."""
    stars = sky()
    made = night(stars, filters=("r",))
    found = field([t for t, _ in made], catalog(stars))
    table, truth = frame(stars, (100.0, 20.0), seed=31, shape=(780, 990), warp=6.0)
    middle, corner, (_, header), _ = solved(table, found, truth, (780, 990))
    assert header["WCSORDER"] >= 3 and middle < 0.06 and corner < 0.3
    plain = astrometry((np.zeros(SHAPE, "f4"), fits.Header()), made[0][0], found, order=1)[0][1]
    assert plain["WCSORDER"] == 1


def test_the_common_solution_agrees_with_one_big_least_squares():
    """adjust() against scipy on all unknowns, stars included, without eliminating anything."""
    from scipy.optimize import least_squares

    rng = np.random.default_rng(2)
    xi, eta = rng.uniform(-0.2, 0.2, (2, 25))
    ra, dec = wcs.deproject(xi, eta, (50.0, 10.0))
    rough, rows = [], []
    for f, turn in enumerate((0.0, 180.0)):
        t = np.radians(turn)
        cd = 2 / 3600 * np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
        s = {"crval": (50.0 + 0.01 * f, 10.0), "crpix": (400.0, 400.0), "cd": cd, "a": None, "b": None}
        x, y = wcs.pixel(s, ra, dec)
        rows += [(f, k, x[k] + rng.normal(0, 0.1), y[k] + rng.normal(0, 0.1), 0.1) for k in range(25)]
        rough.append(dict(s, crval=(s["crval"][0] + 1e-4, s["crval"][1])))
    seen = dict(zip(("frame", "star", "x", "y", "sigma"), (np.array(c) for c in zip(*rows))))
    anchors = {"star": np.arange(8), "ra": ra[:8] + rng.normal(0, 1e-5, 8), "dec": dec[:8], "sigma": np.full(8, 0.05)}
    fitted, _, _ = adjust.adjust(rough, [0, 0], seen, anchors, rounds=8)

    def rest(p):
        out, place = [], np.stack([p[12:37], p[37:62]])
        for f in range(2):
            m = seen["frame"] == f
            q = p[6 * f:6 * f + 6]
            star = seen["star"][m]
            at = np.linalg.solve([[q[2], q[3]], [q[4], q[5]]],
                                 np.stack(wcs.project(*wcs.deproject(*(place[:, star] / 1800), (50, 10)),
                                                      (q[0], q[1]))))
            gap = (at + 400 - np.stack([seen["x"][m], seen["y"][m]])) / 0.1
            out.append(gap)
        gap = np.stack(wcs.project(anchors["ra"], anchors["dec"], (50, 10))) * 1800 - place[:, :8]
        out.append(gap / 0.05)
        gap = np.concatenate(out, axis=1)
        return (gap * np.sqrt(9 * np.log1p((gap**2).sum(axis=0) / 9) /
                              (gap**2).sum(axis=0))).ravel()  # Cauchy's, as adjust

    start = np.concatenate([[*s["crval"], *s["cd"].ravel()] for s in rough] + [xi * 1800, eta * 1800])
    best = least_squares(rest, start, x_scale=np.maximum(np.abs(start), 1e-4), xtol=1e-14, ftol=1e-14, max_nfev=60).x
    for f, s in enumerate(fitted):
        want = {
            "crval": tuple(best[6 * f:6 * f + 2]), "crpix": (400.0, 400.0),
            "cd": best[6 * f + 2:6 * f + 6].reshape(2, 2), "a": None, "b": None
        }
        x, y = np.meshgrid([0.0, 400, 800], [0.0, 400, 800])
        assert wcs.distance(*wcs.sky(s, x, y), *wcs.sky(want, x, y)).max() * 1800 < 0.02


def test_tables_from_disk_give_the_same(tmp_path):
    from apfunc.tables import read_table, write_table

    stars = sky()
    made = night(stars, filters=("r", "Ha"), per_filter=2)
    tables = [t for t, _ in made]
    for k, table in enumerate(tables):
        write_table(tmp_path / f"{k}.fits", table)
    read = [read_table(tmp_path / f"{k}.fits") for k in range(len(tables))]
    one, two = field(tables, catalog(stars)), field(read, catalog(stars))
    assert one.meta == two.meta
    write_table(tmp_path / "field.fits", one)
    kept = read_table(tmp_path / "field.fits")
    assert {k: kept.meta[k] for k in one.meta} == dict(one.meta)
    first, second = (solved(t, f, made[0][1])[2][1] for t, f in ((tables[0], one), (read[0], kept)))
    assert "FLXSCALE" in first and first.tostring() == second.tostring()


def test_medians_of_groups_against_numpy():
    from apfunc.field import _medians
    rng = np.random.default_rng(8)
    values, group = rng.normal(size=40), rng.integers(0, 9, 40)
    assert np.array_equal(_medians(values, group), [np.median(values[group == k]) for k in np.unique(group)])


def test_spread_against_a_loop():
    from apfunc.pattern import spread
    rng = np.random.default_rng(9)
    x, y, flux = rng.uniform(0, 90, 50), rng.uniform(0, 60, 50), rng.integers(1, 20, 50)
    cell = [(int(6 * (a - x.min()) / (np.ptp(x) + 1e-6)), int(6 * (b - y.min()) / (np.ptp(y) + 1e-6))) for a, b in zip(x, y)]
    best = sorted(range(50), key=lambda i: (-flux[i], x[i], y[i]))
    rank = {i: sum(cell[j] == cell[i] for j in best[:k]) for k, i in enumerate(best)}
    assert spread(x, y, flux, 30).tolist() == sorted(best, key=lambda i: rank[i])[:30]


def test_a_table_read_as_it_lies_is_the_same_frame(tmp_path):
    from astropy.table import Table
    from apfunc.register import frame_of
    from apfunc.tables import read_stars, read_table, write_table
    rng = np.random.default_rng(10)
    table = Table({"x": rng.uniform(0, 99, 9), "y": rng.uniform(0, 99, 9), "flux": rng.uniform(1, 9, 9).astype("f4"),
                   "flags": np.zeros(9, "i2")}, meta={"FILTER": "R", "EXPTIME": 30.0, "NAXIS1": 100, "NAXIS2": 90})
    for name in ("stars.fits", "stars.ecsv"):
        write_table(tmp_path / name, table)
        slow, fast = frame_of(read_table(tmp_path / name)), frame_of(read_stars(tmp_path / name))
        assert all(np.array_equal(slow[key], fast[key]) for key in slow if key != "meta") and fast["shape"] == (90, 100)
        assert frame_of(fast) == fast and frame_of(fast) is not fast
