# apfunc: a whole night of raw frames, with make's dependency tracking.  `make` alone prints help.
#
# The recipes are the pattern rules below.  Which frame needs which master, which frames make a stack: that
# is read from the headers by `apfunc plan` into $(OUT)/night.mk, which holds prerequisites only.  Every product is
# named there, so that none is intermediate and none is deleted; .SECONDARY would make 1,000 new frames a minute of checks.

ifeq (,$(filter grouped-target,$(.FEATURES)))
  $(error This needs GNU Make 4.3 or newer, this is $(MAKE_VERSION). On macOS: brew install make, then use gmake)
endif
MAKEFLAGS += -rRL
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := $(if $(NIGHT)$(NIGHTS),night,help)
export OMP_NUM_THREADS = 1
export OPENBLAS_NUM_THREADS = 1
export MKL_NUM_THREADS = 1
export NUMBA_NUM_THREADS = 1
# Memory that a process frees stays with it, in huge pages: fresh memory costs more than most of what is done in it.  For glibc;
# others do not look at this.
export GLIBC_TUNABLES ?= glibc.malloc.mmap_threshold=4000000000:glibc.malloc.trim_threshold=4000000000:glibc.malloc.hugetlb=1

ifneq (,$(NIGHTS))
  NIGHT := $(subst $(subst ,, ),+,$(strip $(NIGHTS)))
  RAW   ?= $(NIGHTS:%=data/%)
endif
RAW    ?= data/$(NIGHT)
CAL    ?=
OUT    ?= nights/$(NIGHT)
RUN    ?=
BATCH  ?=
KEEP   ?=
DROP   ?=
PYTHON ?= python3
APFUNC ?= .venv/bin/apfunc
DO     := $(RUN) $(APFUNC) -q

GOALS  := masters calibrate navigate quality resample coadd continuum composite report night
STAGES := combine readnoise badpix calibrate metadata debayer fixpix cosmics stars field astrometry quality grid resample coadd continuum \
          composite report

.PHONY: help setup demo test bench explain clean $(GOALS)
help:
	@sed -n 's/^#: \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

#: make -j8 NIGHT=2024-05-01                 reduce the night in data/2024-05-01 into nights/2024-05-01
#: make -j8 NIGHT=2024-05-01 RAW=folder      … with the raw frames anywhere below a folder
#: make -j8 NIGHTS='2024-05-01 2024-05-02'   … of several nights in one: stacks across nights, in nights/2024-05-01+2024-05-02
#:
#: goals      setup demo test bench · masters calibrate navigate quality resample coadd continuum composite report night
#:            explain FRAME=name (what serves a frame, and why) · clean (removes OUT)
#: variables  NIGHT, RAW, CAL (calibration folders or a library of masters), OUT, RUN (a prefix of every recipe, as srun),
#:            BATCH (most lights a process takes), KEEP and DROP (names of frames to accept or reject by hand),
#:            <stage>_FLAGS (options of a stage's command)
#: stages     combine readnoise badpix calibrate metadata debayer fixpix cosmics stars field astrometry quality grid
#:            resample coadd continuum composite report; each is also a command: apfunc <stage> --help

# ---- the environment -------------------------------------------------------------------------------------------------

setup: .venv/bin/apfunc

.venv/bin/apfunc: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'apfunc needs Python 3.11 or newer; give PYTHON=' >&2; exit 1; }
	$(PYTHON) -m venv .venv || $(PYTHON) -m virtualenv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

test: .venv/bin/apfunc
	.venv/bin/python -m pytest

bench: .venv/bin/apfunc
	.venv/bin/python tests/bench.py

demo: .venv/bin/apfunc
	test -e data/demo/truth || $(APFUNC) simulate -o data/demo
	$(MAKE) -j2 NIGHT=2024-05-01 RAW=data/demo OUT=nights/demo
	@echo 'Look at nights/demo/report.html'

# ---- the night -------------------------------------------------------------------------------------------------------

ifneq (,$(or $(NIGHT),$(filter $(GOALS) explain clean,$(MAKECMDGOALS))))
ifeq (,$(NIGHT))
  $(error Which night? For example: make -j8 NIGHT=2024-05-01)
endif
ifneq (,$(word 2,$(OUT))$(findstring $(lparen),$(OUT)))
  $(error OUT holds spaces, which make cannot use: $(OUT))
endif

clean:
	rm -rf '$(OUT)'

explain: $(OUT)/night.mk
	@$(APFUNC) explain '$(FRAME)' --inventory $(OUT)/frames.ecsv

# A stage's flags are a file that changes only when they do, and a prerequisite of what the stage makes.
quality_FLAGS += $(if $(KEEP),--keep '$(KEEP)') $(if $(DROP),--drop '$(DROP)')
flags = $(patsubst %,$(OUT)/flags/%,$(1))
ifneq (,$(wildcard $(OUT)/night.mk))
$(shell mkdir -p $(OUT)/flags $(OUT)/done)
$(foreach s,$(STAGES),$(if $(subst x$(file <$(OUT)/flags/$(s)),,x$(strip $($(s)_FLAGS)))$(if $(wildcard $(OUT)/flags/$(s)),,new),\
  $(file >$(OUT)/flags/$(s),$(strip $($(s)_FLAGS)))))
endif

ifeq (,$(filter clean,$(MAKECMDGOALS)))
include $(OUT)/night.mk
endif
$(OUT)/night.mk: FORCE | $(filter .venv/%,$(APFUNC))
	@$(APFUNC) plan $(if $(NIGHTS),$(RAW),'$(RAW)') $(addprefix --cal ,$(CAL)) $(addprefix --night ,$(subst +, ,$(NIGHT))) $(addprefix --batch ,$(BATCH)) -o $(OUT)
.PHONY: FORCE

# The prerequisites that are masters of a kind, as an option: $(call use,dark) is --dark OUT/masters/dark-….fits
use = $(addprefix --$(1) ,$(filter $(OUT)/masters/$(1)-%,$^))
raw = $(filter $(OUT)/raw/%,$^)
# … and those in a folder, as the lines of a file, for a command's line has its limits: $(call all,stars)
all = $(file >$(list))$(foreach f,$(filter-out %.stars.fits,$(filter $(OUT)/$(1)/%,$^)),$(file >>$(list),$(f)))@$(list)
list = $(OUT)/lists/$(@F).in

$(OUT)/masters/%.fits: $(call flags,combine)
	$(DO) combine $(raw) --kind $(firstword $(subst -, ,$(@F))) $(call use,bias) $(call use,dark) $(combine_FLAGS) -o $@

$(OUT)/masters/readnoise.ecsv: $(call flags,readnoise)
	$(DO) readnoise $(call all,raw) $(readnoise_FLAGS) -o $@

$(OUT)/masters/badpix-%.fits: $(call flags,badpix)
	$(DO) badpix $(call use,bias) $(call use,dark) $(call use,flat) $(badpix_FLAGS) -o $@

# Frames go through a process a batch at a time, for its start costs as much as a frame.  make sees to the batch, whose file in
# done/ says when it was last looked at; --update does those of its frames that are newer than what was made of them, or all
# when something newer is shared by them all: $(call update,raw) for a batch of raw frames.
update = --update --shared '$(filter-out $(addprefix $(OUT)/,$(addsuffix /%,lists $(1))),$^)'

$(OUT)/done/calibrate-%: $(call flags,calibrate metadata debayer fixpix cosmics)
	$(DO) run $(raw) $(call update,raw) -o '$(OUT)/calibrated/{stem}.fits' --record-failure \
	  : calibrate $(call use,bias) $(call use,dark) $(call use,flat) --table $(OUT)/masters/readnoise.ecsv $(calibrate_FLAGS) \
	  : metadata $(metadata_FLAGS) $(colour) : fixpix $(if $(colour),,$(call use,badpix)) $(fixpix_FLAGS) : cosmics $(cosmics_FLAGS)
	@touch $@
$(OUT)/calibrated/%.fits: ;

# Of a one-shot-colour frame each colour is a product of its own: NAME.cfaR.fits, NAME.cfaG.fits, NAME.cfaB.fits
colour = $(strip $(foreach c,R G B,$(if $(filter %.cfa$(c).fits,$(raw)),: debayer --channel $(c) $(call use,badpix) $(debayer_FLAGS))))

$(OUT)/done/stars-%: $(call flags,stars)
	$(DO) stars $(filter $(OUT)/calibrated/%,$^) $(call update,calibrated) $(stars_FLAGS) -o '$(OUT)/stars/{stem}.fits' --record-failure
	@touch $@
$(OUT)/stars/%.fits: ;

$(OUT)/done/field-%: $(call flags,field)
	$(DO) field $(call all,stars) $(field_FLAGS) -o $(OUT)/fields/$*.fits --record-failure
	@touch $@
$(OUT)/fields/%.fits: $(OUT)/done/field-% ;

$(OUT)/done/astrometry-%: $(call flags,astrometry)
	$(DO) astrometry $(filter $(OUT)/calibrated/%,$^) $(call update,calibrated stars) --stars '$(OUT)/stars/{stem}.fits' \
	  --field $(filter $(OUT)/fields/%,$^) $(astrometry_FLAGS) -o '$(OUT)/navigated/{stem}.fits' --stars-out '$(OUT)/navigated/{stem}.stars.fits' --record-failure
	@touch $@
$(OUT)/navigated/%.fits: ;

$(OUT)/done/quality: $(call flags,quality)
	$(DO) quality $(call all,navigated) --inventory $(OUT)/frames.ecsv $(quality_FLAGS) -o $(OUT)/quality.csv --accepted $(OUT)/accepted
	@touch $@
$(OUT)/quality.csv: $(OUT)/done/quality ;
$(OUT)/accepted/%.csv: $(OUT)/done/quality ;

$(OUT)/done/grid-%: $(call flags,grid)
	$(DO) grid $(call all,navigated) $(grid_FLAGS) -o $(OUT)/grids/$*.fits --record-failure
	@touch $@
$(OUT)/grids/%.fits: $(OUT)/done/grid-% ;

$(OUT)/done/resample-%: $(call flags,resample)
	$(DO) resample $(filter $(OUT)/navigated/%,$^) $(call update,navigated) --like $(filter $(OUT)/grids/%,$^) $(call use,flat) $(resample_FLAGS) \
	  -o '$(OUT)/resampled/{stem}.fits' --record-failure
	@touch $@
$(OUT)/resampled/%.fits: ;

$(OUT)/coadd/%.fits: $(call flags,coadd)
	$(DO) coadd $(call all,resampled) --accepted $(OUT)/accepted/$*.csv $(coadd_FLAGS) -o $@ --record-failure

$(OUT)/continuum/%.fits: $(call flags,continuum)
	$(DO) continuum $(filter $(OUT)/coadd/%,$^) $(continuum_FLAGS) -o $@ --record-failure

$(OUT)/composite/%.png $(OUT)/composite/%.tif: $(call flags,composite)
	$(DO) composite $(filter %.fits,$^) $(addprefix --palette ,$(filter HaRGB LRGB RGB SHO HOO,$(lastword $(subst -, ,$*)))) \
	  $(composite_FLAGS) -o $(OUT)/composite/$*.png -o $(OUT)/composite/$*.tif --record-failure

$(OUT)/report.html: $(call flags,report)
	$(DO) report $(OUT) $(report_FLAGS) -o $@

quality: $(OUT)/quality.csv
report: $(OUT)/report.html
# The last goal first: make comes to a stack's frames just before the stack, not long before.  What ends between the two it would
# not see in this round (4.3), and the next begins when another command ends: a free processor would wait.
night: report composite continuum coadd resample quality navigate calibrate masters
	@cat $(OUT)/warnings.txt
endif
