"""The peers of bench.py that are programs: the commands they are run by.

`stage` is the folder of frame.fits, solved.fits and red, green and blue.fits, and `known` what is said of them
(see bench_data.prepare); `tiny` is "" or "tiny": the same for frames of 64x64.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

VERSION = {"siril-cli": "--version", "SWarp": "-v", "source-extractor": "--version", "stiff": "-v",
           "solve-field": "--version"}
OTHER = {"SWarp": "swarp", "source-extractor": "sex"}


def find(program):
    """The path of a program, else RuntimeError."""
    path = shutil.which(program) or shutil.which(OTHER.get(program, program))
    if path is None:
        raise RuntimeError(f"{program} is not installed")
    return path


def versions():
    """What the peers say of themselves, after the machine; a line each."""
    cpu, info = platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        names = re.findall(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE)
        cpu = names[0] if names else cpu
    lines = [f"{os.cpu_count()} cores, {cpu}; {platform.system()}, Python {platform.python_version()}"]
    for program, flag in VERSION.items():
        path = shutil.which(program) or shutil.which(OTHER.get(program, program))
        said = path and subprocess.run([path, flag], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        version = said and re.search(r"\d+\.[\w.]+", said.stdout + said.stderr)
        lines.append(f"{program} {version[0] if version else 'of an unknown version' if path else 'is not installed'}")
    return lines


def siril(work, raw, filters, threads):
    """Masters, calibrate, register, stack as Siril's own scripts for mono cameras do it, from links to the frames."""
    shutil.rmtree(work, ignore_errors=True)
    names = {"bias": "*-Bias-*.fit", "dark": "*-Dark-*.fit"}
    names |= {f"flat_{f}": f"*_{f}_*skyflat*.fit" for f in filters}
    names |= {f"light_{f}": f"raw-*-{f}-BIN*.fit" for f in filters}
    script = ["requires 1.0.0", f"setcpu {threads}"]
    for name, pattern in names.items():
        (work / name).mkdir(parents=True)
        for path in raw.glob(pattern):
            (work / name / path.name).symlink_to(path)
        steps = siril_steps(*name.partition("_")[::2])
        script += [f"cd {name}", f"link {name} -out=../process", "cd ../process", *steps, "cd .."]
    (work / "night.ssf").write_text("\n".join(script) + "\n")
    return [find("siril-cli"), "-d", work, "-s", work / "night.ssf"]


def siril_steps(kind, f):
    return {"bias": ["stack bias rej 3 3 -nonorm -out=master_bias"],
            "dark": ["stack dark rej 3 3 -nonorm -out=master_dark"],
            "flat": [f"preprocess flat_{f} -bias=master_bias",
                     f"stack pp_flat_{f} rej 3 3 -norm=mul -out=master_flat_{f}"],
            "light": [f"preprocess light_{f} -dark=master_dark -flat=master_flat_{f} -cc=dark",
                      f"register pp_light_{f}",
                      f"stack r_pp_light_{f} rej 3 3 -norm=addscale -output_norm -out=../stack_{f}"]}[kind]


def command(program, stage, known, tiny=""):
    """The command of one of PROGRAMS; its default settings but for what is said here."""
    (stage / "empty.conf").write_text("")
    return [find(program), *PROGRAMS[program](stage, known, tiny)]


def options(stage, **values):
    """The options that the programs of one family share, and `values`."""
    common = {"c": stage / "empty.conf", "NTHREADS": 1, "VERBOSE_TYPE": "QUIET"}
    return [word for name, value in (common | values).items() for word in (f"-{name}", value)]


def source_extractor(stage, known, tiny):
    names = "XWIN_IMAGE YWIN_IMAGE FLUX_AUTO FLUXERR_AUTO FWHM_IMAGE ELLIPTICITY THETA_IMAGE FLUX_MAX BACKGROUND FLAGS"
    (stage / "sex.param").write_text(names.replace(" ", "\n") + "\n")
    (stage / "sex.conv").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
    return [stage / f"{tiny}frame.fits", *options(
        stage, PARAMETERS_NAME=stage / "sex.param", FILTER_NAME=stage / "sex.conv", GAIN=known["gain"],
        SATUR_LEVEL=known["saturate"], CATALOG_TYPE="FITS_1.0", CATALOG_NAME=stage / f"{tiny}sex.cat")]


def swarp(stage, known, tiny):
    size, (ra, dec) = 64 if tiny else known["size"], known["centre"]
    return [stage / f"{tiny}solved.fits", *options(
        stage, RESAMPLING_TYPE="LANCZOS3", COMBINE="N", SUBTRACT_BACK="N", RESAMPLE_DIR=stage, CENTER_TYPE="MANUAL",
        CENTER=f"{ra},{dec}", PIXELSCALE_TYPE="MANUAL", PIXEL_SCALE=known["scale"], IMAGE_SIZE=f"{size},{size}",
        WRITE_XML="N")]


def stiff(stage, known, tiny):
    return [*(stage / f"{tiny}{colour}.fits" for colour in ("red", "green", "blue")), *options(
        stage, OUTFILE_NAME=stage / f"{tiny}stiff.tif", BITS_PER_CHANNEL=16, WRITE_XML="N")]


def solve_field(stage, known, tiny):
    """With the position of the header to a degree and the scale to 5 %."""
    (stage / "frame.solved").unlink(missing_ok=True)
    ra, dec = known["hint"]
    return [stage / "frame.fits", "--dir", stage, "--overwrite", "--no-plots", "--new-fits", "none",
            "--cpulimit", "300", "--ra", ra, "--dec", dec, "--radius", "1", "--scale-units", "arcsecperpix",
            "--scale-low", 0.95 * known["scale"], "--scale-high", 1.05 * known["scale"]]


PROGRAMS = {"source-extractor": source_extractor, "SWarp": swarp, "stiff": stiff, "solve-field": solve_field}
