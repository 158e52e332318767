"""Headers read by hand: of every file either what astropy reads in it, or nothing."""

import gzip
import math

import numpy as np
import pytest
from astropy.io import fits

from apfunc import ingest, io
from apfunc.cards import header, image_of, plain

CARDS = ["EXPTIME =                120.0 / [s] exposure", "GAIN    =                  100", "EGAIN   = 1.5E+00 / e-/ADU",
         "XPIXSZ  =                  +9. /", "SET-TEMP= -20", "CCD-TEMP=                 -.5D1", "ISIT    =                    T",
         "OBJECT  = 'Barnard''s / star  '   / it''s", "FILTER  = ''", "BLANKED =", "BLANKET =  / nothing", "OBSERVER= '  a  '",
         "FILTER  = 'a second one'", "COMMENT = 'not a value'", "HISTORY  all that was / is", "", "HIERARCH ESO DET = 3 / x",
         "JD      = 2460432.123456789", "_UNDER-1= 0012"]
ODD = ["lower   = 3", "exptime = 'x", "WORD    = maybe", "CPLX    = (1.0, 2.0)", "DATE-OBS= 2024-05-01", "SMALL   = 1.0e5",
       "LONG    = 'begins &'", "QUOTED  = 'x' y", "TWO WORD= 3", "UMLAUT  = 'B\xe4r'", "NUMBER  = NaN", "NUMBER  = 1_0"]


def written(path, cards, shape=(3, 4), bitpix=16, extra=0, padded=True):
    axes = [f"NAXIS{i + 1:<3}= {n}" for i, n in enumerate(reversed(shape))]
    cards = ["SIMPLE  = T", f"BITPIX  = {bitpix}", f"NAXIS   = {len(shape)}", *axes, *cards, "END"]
    head = "".join(card.ljust(80) for card in cards).encode("latin-1")
    size = abs(bitpix) // 8 * math.prod(shape) + extra
    path.write_bytes(head + b" " * (-len(head) % 2880) + bytes(size + (-size % 2880 if padded else 0)))
    return path


def test_the_values_are_those_of_astropy(tmp_path):
    path = written(tmp_path / "a.fit", CARDS)
    header, shape, needed = plain(path)
    assert shape == (3, 4) and needed == 2880 + 24
    theirs = fits.getheader(path)
    assert header.keys() == {key for key in theirs if key not in ("COMMENT", "HISTORY", "", "ESO DET")}
    for key, value in header.items():
        assert value == theirs[key] and type(value) is type(theirs[key]), key


@pytest.mark.parametrize("card", ODD)
def test_what_is_not_plain_is_left_to_astropy(tmp_path, card):
    assert plain(written(tmp_path / "a.fit", [*CARDS, card, *(["CONTINUE  'ends'"] if card.startswith("LONG") else [])])) is None


@pytest.mark.parametrize("shape, found", [((3, 4), (3, 4)), ((1, 3, 4), (3, 4)), ((3, 1, 4), (3, 4)), ((2, 3, 4), None),
                                          ((5,), None), ((), None), ((1, 4), None)])
def test_only_one_image_of_two_dimensions(tmp_path, shape, found):
    path = written(tmp_path / "a.fit", CARDS, shape)
    assert (plain(path) or (0, None))[1] == found
    if found:
        assert io.read_header(path)[1] == found


def test_other_files_are_left_to_astropy(tmp_path):
    path = written(tmp_path / "a.fit", CARDS)
    content = path.read_bytes()
    for name, some in (("gz", gzip.compress(content)), ("empty", b""), ("text", b"not FITS" * 999), ("header", content[:800]),
                       ("extension", content + content)):
        (tmp_path / name).write_bytes(some)
        assert plain(tmp_path / name) is None
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((3, 4)))]).writeto(tmp_path / "second.fits")
    assert plain(tmp_path / "second.fits") is None
    long = written(tmp_path / "long.fit", CARDS * 30)
    assert plain(long)[0] == plain(path)[0]


def test_one_header_after_the_other(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("x", "D", array=np.arange(5.0))])
    table.header["SAID"] = "long " * 30
    fits.HDUList([fits.PrimaryHDU(np.zeros((3, 4), "f4"), fits.Header({"GAIN": 1.5})), table]).writeto(tmp_path / "a.fits")
    with open(tmp_path / "a.fits", "rb") as stream:
        first = header(stream)
        assert stream.tell() == 2880 and first["GAIN"] == 1.5 and image_of(first) == ((3, 4), 48) and type(first) is dict
        stream.seek(2880, 1)
        second = header(stream)
        assert second["SAID"].split() == ["long"] * 30 and second["TTYPE1"] == "x" and image_of(second) is None
        assert np.fromfile(stream, ">f8", 5).tolist() == [0, 1, 2, 3, 4] and header(stream) == {}


def test_records_are_the_same_either_way(tmp_path, monkeypatch):
    cards = ["IMAGETYP= 'Light Frame'", "DATE-OBS= '2024-05-02T03:04:05.67'", "XBINNING= 2", "YBINNING= 2", "SITELAT = '32 54 12'",
             "SITELONG= '-105 31 43'", "INSTRUME= 'FLI'", "PEDESTAL= -100", *CARDS]
    for name, options in (("whole", {}), ("cut", {"extra": -6, "padded": False}), ("unpadded", {"padded": False}), ("float", {"bitpix": -32})):
        path = written(tmp_path / f"{name}.fit", cards, **options)
        quick = ingest._read(path, path.name, 0)
        with monkeypatch.context() as patch:
            patch.setattr(ingest, "plain", lambda path: None)
            assert quick == ingest._read(path, path.name, 0)
        assert bool(quick["damaged"]) == (name == "cut") and quick["exptime"] == 120 and quick["night"] == "2024-05-01"


@pytest.mark.filterwarnings("ignore")
def test_junk_gives_what_astropy_gives_or_nothing(tmp_path):
    rng = np.random.default_rng(6)
    seen = 0
    for _ in range(300):
        card = bytearray(rng.choice(CARDS).ljust(80).encode())
        for _ in range(rng.integers(1, 4)):
            card[rng.integers(0, 40)] = rng.choice(list(b" '/=.+-0TE&A1x"))
        path = written(tmp_path / "a.fit", [card.decode(), "AFTER   = 1"])
        found = plain(path)
        if found:
            theirs = fits.getheader(path)
            for key, value in found[0].items():
                assert value == theirs[key], bytes(card)
            seen += 1
    assert seen > 100
