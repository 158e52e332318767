"""The report: everything is in it, nothing of the night can break out of it, and the same night gives the same page."""

import os
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from apfunc import io, page, picture, svg
from apfunc.gather import _unpacked, gather
from apfunc.report import report, warnings
from apfunc.tables import write_table

PNG = b"\x89PNG not looked into"
HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "a & b", "'; drop", "\u202egnp.exe", "x\ny",
           "{{7*7}}", "javascript:alert(1)", "</style><b>"]


def night(names=("a-R-1", "a-R-2", "a-Ha-1"), object="NGC 1", reason="", **changes):
    """The arguments of `report` for a small night; the second light is rejected."""
    n = len(names)
    inventory = Table({"name": [*names, "dark-1"], "raw": [f"/raw/{x}.fit" for x in (*names, "dark-1")],
                       "kind": ["light"] * n + ["dark"],
                       "object": [object] * n + [""], "filter": ["R"] * (n - 1) + ["Ha", ""],
                       "exptime": [120.0] * (n + 1), "temp": [-20.0] * (n + 1),
                       "date_obs": [f"2024-05-02T0{4 + i}:00:00.0" for i in range(n + 1)],
                       "night": ["2024-05-01"] * (n + 1), "used": [True] * n + [False],
                       "masters": ["bias-1 dark-1"] * n + [""],
                       "reason": [f"bias: 9 frames, 0.{i} C off; no flat of R found: not flat-fielded"
                                  for i in range(n)]
                       + ["not needed"]})
    quality = Table({"name": list(names), "object": [object] * n, "filter": list(inventory["filter"][:n]),
                     "exptime": [120.0] * n,
                     "airmass": np.linspace(1.5, 1.1, n), "fwhm_px": [3.0, np.nan, 3.2][:n],
                     "fwhm_arcsec": [6.0, np.nan, 6.4][:n], "ellipticity": [0.05] * n,
                     "nstars": [100] * n, "sky": [50.0] * n, "noise": [5.0] * n, "transparency": [1.0, 0.3, 0.98][:n],
                     "wcs_rms_arcsec": MaskedColumn([0.3, 0, 0.4][:n], mask=[False, True, False][:n]),
                     "wcs_nmatch": [90, 0, 80][:n],
                     "verdict": ["accept", "reject", "accept"][:n],
                     "reason": ["", reason or "clouded: transparency 0.30", ""][:n]})
    frames = {names[0]: {"thumb": PNG, "href": "navigated/x.fits",
                         "header": fits.Header({"FOCUSPOS": 5600, "WCSSRC": "relative"})}}
    pictures = [{"kind": "coadd", "name": "NGC_1-R", "thumb": PNG, "full": "previews/x.jpg",
                 "files": [("FITS", "coadd/NGC_1-R.fits")],
                 "header": fits.Header({"NCOMBINE": 2, "EXPTIME": 240.0, "FWHM": 3.1, "FILTER": "R"})},
                {"kind": "composite", "name": "NGC_1-RGB", "reason": "no blue"}]
    masters = [{"name": "bias-1", "thumb": PNG, "href": "masters/bias-1.fits", "median": 1000.4, "std": 3.0,
                "header": fits.Header({"IMAGETYP": "Master Bias", "NCOMBINE": 9, "EXC001": "bias-7: 12 ADU too high"})}]
    badpix = [{"name": "badpix-1", "thumb": PNG, "href": "masters/badpix-1.fits", "pixels": 10000, "bad": 12,
               "counts": {"HOT": 10, "DEAD": 2, "USER": 0}}]
    readnoise = Table({"camera": ["cam"], "gain": [1.4], "gain_err": [0.0061], "readnoise": [8.0],
                       "readnoise_err": [0.02], "nbias": [9], "nflat": [5]})
    return dict(inventory=inventory, quality=quality, readnoise=readnoise, frames=frames, pictures=pictures,
                masters=masters, badpix=badpix,
                night="2024-05-01") | changes


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(content)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, k, v) for k, v in attributes]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, k, v) for k, v in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_everything_is_in_it():
    content = report(**night())
    text = "".join(Reader(content).text)
    for said in ("NGC 1", "2 of 3", "clouded: transparency 0.30", "Master Bias", "bias-7: 12 ADU too high",
                 "10 hot · 2 dead", "0.120 %",
                 "1.4000 ± 0.0061", "2 frames · 240 s · FWHM 3.10 px", "not flat-fielded", "up to 0.1 °C off",
                 "not needed", "not solved"):
        assert said in text, said
    for link in ("previews/x.jpg", "coadd/NGC_1-R.fits", "navigated/x.fits", "masters/bias-1.fits", "quality.csv",
                 "frames.ecsv"):
        assert f'href="{link}"' in content
    assert content.count('class="pill accept"') == 2 and content.count(">reject<") == 2
    assert len(re.findall(r'<figure class="card [^"]*" id="light-', content)) == 3


def test_warnings_come_first_and_say_what_matters():
    told = "\n".join(warnings(**{k: v for k, v in night(notes=["disk nearly full"]).items()
                                 if k not in ("badpix", "night")}))
    for said in ("disk nearly full", "1 of 3 lights rejected: a-R-2 (clouded", "3 lights: no flat of R found",
                 "bias-1: 1 frame left out",
                 "1 light registered to each other only", "NGC_1-RGB was not made: no blue"):
        assert said in told, said
    content = report(**night())
    assert content.index("Worth knowing") < content.index("<main>")
    good = night(pictures=(), masters=(), frames={}, inventory=None)
    good["quality"]["verdict"] = "accept"
    assert "Worth knowing" not in report(**good)


def test_disagreeing_continuum_scales_are_told():
    header = fits.Header({"CONTAGRE": False, "CONTDIFF": -4.2, "CONTSTAR": 0.05, "CONTPIX": 0.06, "CONTSCAL": 0.05,
                          "CONTSERR": 0.001, "CONTRESI": -0.004})
    given = night(pictures=[{"kind": "continuum", "name": "NGC_1-Ha", "thumb": PNG, "header": header}])
    said = "NGC_1-Ha: the two estimates of the continuum's scale differ by 4.2 sigma"
    assert said in "\n".join(warnings(None, pictures=given["pictures"]))
    assert "continuum × 0.0500 ± 0.0010 · stars left 0.4 %" in report(**given)


@pytest.mark.parametrize("word", HOSTILE)
def test_nothing_of_the_night_breaks_out(word):
    given = night(names=("a" + word, "b" + word, "c" + word), object=word, reason=word, night=word, notes=[word])
    given["frames"] = {"a" + word: {"thumb": PNG, "href": f"navigated/{word}.fits", "header": {"WCSSRC": word}}}
    given["pictures"] = [{"kind": "coadd", "name": word, "thumb": PNG, "full": word, "files": [(word, word)],
                          "header": {"NCOMBINE": 2}}]
    given["masters"] = [{"name": word, "thumb": None, "href": word,
                         "header": {"IMAGETYP": word, "FILTER": word, "EXC001": word}}]
    page_ = Reader(report(**given))
    assert not {"script", "iframe", "object", "link", "base", "form"} & set(page_.tags)
    assert page_.tags.count("style") == 1 and page_.tags.count("img") == 3
    for tag, key, value in page_.attributes:
        assert not key.startswith("on")
        if key in ("href", "src"):
            assert value.startswith(("#", "data:image/")) or not re.match(r"[a-z]+:|/", value), value
    assert "\u202e" not in "".join(page_.text)


def test_a_weak_tie_to_the_sky_is_told():
    told = warnings(None, frames={n: {"header": {"WCSSRC": "Gaia, 2 stars only"}} for n in "ab"}
                    | {"c": {"header": {"WCSSRC": "Gaia"}}})
    assert told == ["2 lights: the tie to the sky is weak (Gaia, 2 stars only)"]


def test_one_file_without_network_or_scripts():
    content = report(**night())
    assert "Content-Security-Policy" in content and "default-src 'none'" in content
    assert not re.search(r"https?://|url\(|@import|<script|<link", content)


def test_same_night_same_page():
    assert report(**night()) == report(**night())


@pytest.mark.parametrize("given", [dict(inventory=None), dict(inventory=Table()), night(quality=None),
                                   night(frames=None, readnoise=None, pictures=(), masters=(), badpix=()),
                                   night(readnoise=Table(names=("camera", "gain"), dtype=("U4", "f8")))])
def test_what_is_missing_leaves_its_section_out(given):
    assert "".join(Reader(report(**given)).tags)


def test_plots_are_drawn_to_scale():
    points = [{"x": float(x), "y": float(y), "filter": f, "good": g, "text": "t<", "link": "i"} for x, y, f, g in
              ((1, 10, "R", True), (2, 20, "R", True), (3, 15, "Ha", False), (np.nan, 3, "R", True),
               (2, np.inf, "R", True))]
    root = ElementTree.fromstring(svg.plot(points, "FWHM", "px"))
    dots = [(float(e.get("cx")), float(e.get("cy"))) for e in root.iter("circle") if "dot" in e.get("class")]
    assert len(dots) == 2 and len([e for e in root.iter("path")]) == 1
    ticks = {e.text: float(e.get("y")) - 3.5 for e in root.iter("text") if e.get("text-anchor") == "end"}
    height = lambda y: np.interp(y, *zip(*sorted((float(k), v) for k, v in ticks.items())))
    assert dots[0][1] == pytest.approx(height(10), abs=0.2) and dots[1][1] == pytest.approx(height(20), abs=0.2)
    times = {e.text: float(e.get("x")) for e in root.iter("text") if e.get("text-anchor") == "middle"}
    assert dots[0][0] == pytest.approx(times["01:00"], abs=0.1) and dots[1][0] == pytest.approx(times["02:00"], abs=0.1)
    assert svg.plot(points[3:], "x") == "" and svg.plot([], "x") == ""


@pytest.mark.parametrize("low, high", [(0, 1), (0.98, 1.01), (-20.2, -19.8), (0, 65535), (1e-6, 3e-6), (5, 5.0001)])
def test_ticks_are_round_and_few(low, high):
    found = svg.ticks(low, high)
    assert 1 <= len(found) <= 6 and all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    steps = np.diff(found)
    if len(steps):
        mantissa = steps[0] / 10**np.floor(np.log10(steps[0]) + 1e-9)
        assert np.allclose(steps, steps[0]) and min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3


def test_one_point_and_equal_points_do_not_divide_by_zero():
    for n in (1, 3):
        points = [{"x": 5.0, "y": 0.0, "filter": "", "good": True, "text": "", "link": ""}] * n
        assert ElementTree.fromstring(svg.plot(points, "x", floor=0, together=True)).tag.endswith("svg")


def test_numbers_and_names_in_words():
    assert page.fixed(float("nan"), 2) == page.fixed(None, 2) == page.short(None) == "–"
    assert page.fixed(1234.567, 1) == "1,234.6"
    assert page.short(22173.4) == "22,173" and page.short(0.0025349) == "0.002535"
    assert [page.exposure(s) for s in (0.037, 120, 600, 7200, None)] == ["0.037 s", "120 s", "10 min", "2.0 h", None]
    assert page.common_start(["raw-T05-a-1", "raw-T05-a-22"]) == "raw-T05-a-"
    assert page.common_start(["a-1", "a-2"]) == page.common_start(["x"]) == ""
    assert page.href("/etc/passwd") == "#" and page.href("a b.png") == "a%20b.png"
    assert sorted(["Ha", "B", "R", "L", "odd", "G"], key=svg.order) == ["L", "R", "G", "B", "Ha", "odd"]


def test_gather_reads_the_products_of_a_night(tmp_path):
    rng = np.random.default_rng(1)
    frame = rng.normal(100, 5, (64, 90)).astype("f4")
    given = night(names=("x-1", "x-2", "x-3"))
    for folder in ("navigated", "coadd", "continuum", "masters", "composite"):
        (tmp_path / folder).mkdir()
    write_table(tmp_path / "frames.ecsv", given["inventory"])
    write_table(tmp_path / "quality.csv", given["quality"])
    write_table(tmp_path / "masters/readnoise.ecsv", given["readnoise"])
    io.write(tmp_path / "navigated/x-1.fits", (frame, fits.Header({"FOCUSPOS": 7})),
             {"MASK": np.zeros(frame.shape, "u1")})
    fits.PrimaryHDU(header=fits.Header({"REASON": "no stars"})).writeto(tmp_path / "navigated/x-2.fits")
    io.write(tmp_path / "navigated/x-3.fits", (np.full_like(frame, np.nan), fits.Header()))
    io.write(tmp_path / "coadd/NGC_1-R.fits", (frame, fits.Header({"FILTER": "R", "NCOMBINE": 3})))
    fits.PrimaryHDU(header=fits.Header({"REASON": "no continuum"})).writeto(tmp_path / "continuum/NGC_1-Ha.fits")
    io.write(tmp_path / "masters/bias-cam.fits", (frame, fits.Header({"IMAGETYP": "Master Bias"})))
    kinds = np.zeros((64, 90), "u1")
    kinds[:, 5], kinds[10, 5], kinds[3, 3:5], kinds[40, 40] = 4, 5, 1, 2
    io.write(tmp_path / "masters/badpix-cam.fits", (kinds, fits.Header()))
    from PIL import Image
    Image.new("RGB", (40, 30), "red").save(tmp_path / "composite/NGC_1-RGB.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "composite/NGC_1-SHO.png")
    (tmp_path / "composite/NGC_1-RGB.tif").write_bytes(b"")
    found = gather(tmp_path)
    assert found["night"] == "2024-05-01" and set(found["frames"]) == {"x-1", "x-3"}
    assert found["frames"]["x-3"]["thumb"] is None
    assert found["frames"]["x-1"]["thumb"][:2] == b"\xff\xd8" and found["frames"]["x-1"]["header"]["FOCUSPOS"] == 7
    pictures = {p["name"]: p for p in found["pictures"]}
    assert pictures["NGC_1-Ha"]["reason"] == "no continuum" and "none" in pictures["NGC_1-SHO"]["reason"]
    assert pictures["NGC_1-RGB"]["files"] == [("PNG", "composite/NGC_1-RGB.png"), ("TIF", "composite/NGC_1-RGB.tif")]
    with Image.open(tmp_path / pictures["NGC_1-R"]["full"]) as full:
        assert full.size == (90, 64)
    assert found["masters"][0]["median"] == pytest.approx(100, abs=1)
    assert found["masters"][0]["std"] == pytest.approx(5, rel=0.1)
    assert found["badpix"][0]["counts"] == {"HOT": 2, "DEAD": 1, "COLUMN": 64, "UNSTABLE": 0,
                                            "USER": 0} and found["badpix"][0]["bad"] == 67
    content = report(**found)
    Reader(content)
    assert "no continuum" in content and content.count("data:image/") == 5
    assert gather(tmp_path, previews=False)["frames"].keys() == found["frames"].keys()


def test_a_picture_is_the_same_from_the_tiff_beside_it(tmp_path):
    from PIL import Image
    pixels = np.random.default_rng(3).integers(0, 65536, (50, 70, 3)).astype("u2")
    for format in ("png", "tif"):
        (tmp_path / f"x.{format}").write_bytes(picture.encode(pixels, None, format))
    with Image.open(tmp_path / "x.png") as png:
        np.testing.assert_array_equal(np.asarray(png), np.asarray(_unpacked(tmp_path / "x.png", png)))
        os.unlink(tmp_path / "x.tif")
        assert _unpacked(tmp_path / "x.png", png) is None


def test_arrows_are_medians_of_their_parts():
    x, y, east, north = np.random.default_rng(4).uniform(-0.1, 1.1, (4, 40))
    place = [np.clip((v * 2).astype(int), 0, 1) for v in (x, y)]
    slow = {(i, j): [np.median(v[(place[0] == i) & (place[1] == j)]) for v in (east, north)] for i in (0, 1) for j in (0, 1)}
    drawn, longest = svg.arrows(x, y, east, north, cells=2)
    assert longest == pytest.approx(max(np.hypot(*v) for v in slow.values()))
    ends = [(float(a), float(b)) for a, b in re.findall(r'x2="([\d.-]+)" y2="([\d.-]+)"', drawn)]
    scale = 0.49 * svg.SQUARE / 2 / longest
    for (i, j), (e, n), (a, b) in zip(slow, slow.values(), ends):
        assert (a, b) == pytest.approx(((i + 0.5) * 160 - e * scale, 320 - (j + 0.5) * 160 - n * scale), abs=0.06)


def test_gather_of_an_empty_folder(tmp_path):
    assert "The night" in report(**gather(tmp_path))


def test_residuals_are_drawn_where_they_are():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(size=(2, 900))
    drawn, longest = svg.arrows(x, y, 0.4 * (x - 0.5), 0 * y)
    assert longest == pytest.approx(0.4 * 0.4375, rel=0.1)
    lines = [{k: float(v) for k, v in re.findall(r'(x1|x2|y1|y2)="([\d.-]+)"', line)} for line in drawn.split("<line")[1:]]
    assert len(lines) == 64
    for line in lines:  # to the east, left, on the right of the frame
        assert (line["x2"] < line["x1"]) == (line["x1"] > svg.SQUARE / 2) and line["y1"] == pytest.approx(line["y2"])
    points, reach, half = svg.scatter(*rng.normal(0, 0.1, (2, 900)))
    assert half == pytest.approx(0.1177, rel=0.08) and 2 * half < reach < 4 * half
    content = report(**night(residuals=dict(x=x, y=y, east=0.1 * x, north=0.1 * y)))
    Reader(content)
    assert "Over the frame" in content and "half of them within" in content
    assert svg.arrows(x[:2], y[:2], x[:2], y[:2])[0] == ""


def test_a_hundred_lights_fold_their_tables():
    names = [f"a-R-{i:03}" for i in range(100)]
    inventory = Table({"name": names, "kind": ["light"] * 100, "filter": ["R"] * 100})
    verdict, reason = ["accept"] * 90 + ["reject"] * 10, [""] * 90 + ["clouded: 0.3"] * 7 + ["trailed: x (y)"] * 3
    quality = Table({"name": names, "verdict": verdict, "reason": reason, "fwhm_px": np.linspace(3, 4, 100)})
    content = report(inventory, quality)
    assert warnings(None, quality) == ["10 of 100 lights rejected: 7 clouded, 3 trailed (quality.csv says which)"]
    Reader(content)
    assert 'class="strip dense"' in content and content.count("<details>") == 2
