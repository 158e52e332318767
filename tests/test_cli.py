"""The command line: what goes in and out, what is refused, what fails, and how it says so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from apfunc.cli import STEPS, cli

TOP = Path(__file__).parent.parent


def apfunc(*words, folder=None, stdin=None, check=None):
    done = subprocess.run([sys.executable, "-m", "apfunc", *map(str, words)], cwd=folder, input=stdin, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(TOP)})
    if check is not None:
        assert done.returncode == check, done.stderr.decode()
    return done


@pytest.fixture
def frames(tmp_path):
    for i, name in enumerate(("a.fit", "b.fit")):
        fits.PrimaryHDU(np.full((8, 8), 1000 + i, np.uint16), fits.Header({"OBJECT": "M 1", "FILTER": "Ha", "BAYERPAT": "RGGB",
                                                                            "IMAGETYP": "Light Frame", "EGAIN": 1.5})).writeto(tmp_path / name)
    return tmp_path


def test_templates_name_the_outputs(frames):
    apfunc("debayer", "*.fit", "--channel", "R", "-o", "out/{object}-{filter}-{stem}.fits", folder=frames, check=0)
    assert sorted(os.listdir(frames / "out")) == ["M_1-Ha-a.fits", "M_1-Ha-b.fits"]


@pytest.mark.parametrize("words, complaint", [
    (["a.fit", "-o", "a.fit"], "the output is an input"),
    (["a.fit", "b.fit", "-o", "x.fits"], "same output"),
    (["a.fit", "b.fit"], "need -o"),
    (["a.fit", "-o", "{nothing}.fits"], "fields of a template"),
    (["none*.fit", "-o", "x.fits"], "no file matches"),
    (["none.fit", "-o", "x.fits"], "no such file"),
    (["a.fit", "--nonsense", "-o", "x.fits"], "No such option"),
])
def test_refused_before_any_work(frames, words, complaint):
    before = {p: p.read_bytes() for p in frames.iterdir()}
    done = apfunc("debayer", "--channel", "R", *words, folder=frames, check=2)
    said = done.stderr.decode()
    assert complaint in said and said.startswith("apfunc debayer: ") and said.count("\n") == 1
    assert {p: p.read_bytes() for p in frames.iterdir()} == before


def test_one_failure_does_not_stop_the_others(frames):
    (frames / "ab.fit").write_bytes(b"rubbish")
    done = apfunc("debayer", "*.fit", "--channel", "R", "-o", "out/{stem}.fits", folder=frames, check=1)
    said = done.stderr.decode().splitlines()
    assert said[-1] == "apfunc debayer: 1 of 3 images failed" and any("ab.fit: not a FITS file" in s for s in said)
    assert sorted(os.listdir(frames / "out")) == ["a.fits", "b.fits"]


def test_errors_name_the_stage_the_file_and_the_cure(frames):
    fits.delval(frames / "a.fit", "BAYERPAT")
    said = apfunc("debayer", "a.fit", "--channel", "R", "-o", "x.fits", folder=frames, check=1).stderr.decode()
    assert said.startswith("apfunc debayer: a.fit: no Bayer pattern in the header") and "--pattern" in said
    assert "Traceback" not in said and "Traceback" in apfunc("-vv", "debayer", "a.fit", "--channel", "R", "-o", "x.fits", folder=frames).stderr.decode()


def test_a_recorded_failure_is_handed_on_with_its_reason(frames):
    fits.delval(frames / "a.fit", "BAYERPAT")
    apfunc("debayer", "a.fit", "--channel", "R", "-o", "x.fits", "--record-failure", folder=frames, check=0)
    header = fits.getheader(frames / "x.fits")
    assert "no Bayer pattern" in header["REASON"] and header["NAXIS"] == 0 and header["OBJECT"] == "M 1"
    apfunc("debayer", "x.fits", "--channel", "R", "-o", "y.fits", "--record-failure", folder=frames, check=0)
    assert fits.getheader(frames / "y.fits")["REASON"] == header["REASON"]


def test_a_pipe_equals_run_bit_by_bit(frames):
    first = apfunc("-q", "debayer", "a.fit", "--channel", "G", folder=frames, check=0)
    second = apfunc("-q", "background", "--box", "4", stdin=first.stdout, check=0)
    apfunc("run", "a.fit", "-o", "run.fits", ":", "debayer", "--channel", "G", ":", "background", "--box", "4", folder=frames, check=0)
    assert (frames / "run.fits").read_bytes() == second.stdout


def test_a_broken_pipe_is_quiet(frames):
    fits.PrimaryHDU(np.zeros((1500, 1500), "u2"), fits.Header({"BAYERPAT": "RGGB"})).writeto(frames / "big.fits")
    done = subprocess.run(f"{sys.executable} -m apfunc debayer big.fits --channel R | head -c 10 >/dev/null", shell=True, cwd=frames,
                          capture_output=True, env=os.environ | {"PYTHONPATH": str(TOP)})
    assert b"Traceback" not in done.stderr


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['apfunc', '--help']\nfrom apfunc.cli import main\ntry: main()\nexcept SystemExit: pass\n" \
           "print([m for m in ('numpy', 'astropy', 'scipy', 'photutils', 'ccdproc', 'PIL') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP)
    assert done.stderr.strip() == "[]", done.stderr


def test_every_command_has_help_and_its_place_in_the_readme():
    readme = (TOP / "README.md").read_text()
    for name, command in cli.commands.items():
        assert command.help and len(command.help.split("\n")[0]) > 20, name
        assert re.search(rf"^\| `{name}` \|", readme, re.M), f"{name} is not in the README's table"
    assert set(STEPS) <= set(cli.commands)


def test_a_colour_carries_its_mask(frames):
    fits.HDUList([fits.PrimaryHDU(np.ones((8, 8), "f4"), fits.Header({"BAYERPAT": "RGGB"})),
                  fits.ImageHDU(np.eye(8, dtype="u1") * 4, name="MASK")]).writeto(frames / "m.fits")
    bad = np.zeros((8, 8), "u1")
    bad[2, 5] = 1
    fits.PrimaryHDU(bad).writeto(frames / "bad.fits")
    apfunc("debayer", "m.fits", "--channel", "G", "--badpix", "bad.fits", "-o", "full.fits", folder=frames, check=0)
    apfunc("debayer", "m.fits", "--channel", "G", "--method", "superpixel", "-o", "half.fits", folder=frames, check=0)
    assert np.array_equal(fits.getdata(frames / "full.fits", "MASK"), np.eye(8) * 4 + bad)
    assert np.array_equal(fits.getdata(frames / "half.fits", "MASK"), np.eye(4) * 4)


def test_update_does_only_what_is_newer(frames):
    words = ["debayer", "*.fit", "--channel", "R", "-o", "out/{stem}.fits", "--update"]
    apfunc(*words, folder=frames, check=0)
    times = {p.name: p.stat().st_mtime_ns for p in (frames / "out").iterdir()}
    assert not apfunc(*words, folder=frames, check=0).stderr
    os.utime(frames / "b.fit")
    apfunc("run", *words[1:2], *words[4:], ":", "debayer", "--channel", "R", folder=frames, check=0)
    assert [name for name in times if (frames / "out" / name).stat().st_mtime_ns != times[name]] == ["b.fits"]


def test_a_file_may_list_the_images(frames):
    (frames / "b.fit").rename(frames / "b b.fit")
    (frames / "list").write_text("a.fit\nb b.fit\n")
    apfunc("debayer", "@list", "--channel", "R", "-o", "out/{stem}.fits", folder=frames, check=0)
    assert len(os.listdir(frames / "out")) == 2
    (frames / "list").write_text("")  # no image is not standard input
    apfunc("readnoise", "@list", "-o", "out/table.ecsv", folder=frames, check=0, stdin=b"")
