# make report · test · lab · bench · notebooks · clean. Everything made goes to .venv/ and build/.
PYTHON ?= python3.11
BIN := .venv/bin
# The notebooks' matrices are small: threads only get in each other's way.
export OMP_NUM_THREADS ?= 1

.PHONY: report test lab bench notebooks clean
.DELETE_ON_ERROR:

# The training notebooks are not among these: they take half an hour (make notebooks NOTEBOOKS=notebooks/training/…).
NOTEBOOKS ?= $(filter-out %.failed.ipynb,$(wildcard notebooks/*.ipynb))

report: .venv/report.stamp
	$(BIN)/python -m helpers run $(NOTEBOOKS) --out build
	@echo "all of them: build/index.html"

test: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n auto --dist loadfile

lab: .venv/report.stamp
	$(BIN)/jupyter lab --notebook-dir=. notebooks/01_subspace_similarity.ipynb

bench: .venv/test.stamp
	$(BIN)/python -m tests.benchmark

notebooks: .venv/test.stamp
	$(BIN)/python -m helpers refresh $(NOTEBOOKS)

clean:
	rm -rf build .venv

.venv/report.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/test.stamp: .venv/report.stamp
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[training,test]'
# Without a browser the tests of the pages fail and say what to do; root on Debian is spared that.
ifeq ($(shell which chromium chromium-browser google-chrome chrome 2>/dev/null),)
	-[ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq --no-install-recommends chromium
endif
	touch $@
