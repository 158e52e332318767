#!/bin/sh
# Reduce single frames by hand, without make: masters, one calibrated frame through a pipe, its stars.
# Usage: examples/pipe.sh FOLDER_OF_RAW_FRAMES RAW_LIGHT
set -eu
raw=$1 light=$2
apfunc combine "$raw/*ias*.f*" --kind bias -o bias.fits
apfunc combine "$raw/*ark*.f*" --kind dark --bias bias.fits -o dark.fits
apfunc combine "$raw/*lat*.f*" --kind flat --bias bias.fits --dark dark.fits -o flat.fits
apfunc readnoise "$raw/*ias*.f*" "$raw/*lat*.f*" -o readnoise.ecsv
apfunc badpix --dark dark.fits --flat flat.fits -o badpix.fits
apfunc calibrate "$light" --bias bias.fits --dark dark.fits --flat flat.fits --table readnoise.ecsv |
    apfunc metadata | apfunc fixpix --badpix badpix.fits | apfunc cosmics > clean.fits
apfunc stars clean.fits -o stars.ecsv --regions stars.reg
