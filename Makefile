# One environment in .venv, installed once: every target that needs it depends on its stamp file.
VENV ?= .venv
PYTHON3 ?= python3

PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
# xtcocotools (mmpose's COCO metrics): its wheel was built for NumPy 1, so it is compiled here, never
# taken from pip's cache, where a build for another NumPy may lie.
XTCOCOTOOLS := xtcocotools==1.14.3
# Without its dependencies, one of which (chumpy) cannot be built and is not used.
MMPOSE := mmpose==1.3.2
# Without its dependencies, of which it allows no Pillow 13; the others are in requirements.txt.
GRADIO := gradio==6.31.0
# What `make mutate` needs.
MUTATION := mutmut==3.8.1 libcst==1.9.0 coverage==7.17.5 pytest-cov==7.1.0
SOURCES := segformer_plusplus tools tests configs docs setup.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install test test-core test-original fuzz mutate docs check format demo demo-seg demo-pose clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv and install everything with the tested versions (once)

# The stamp goes first and comes back last: an interrupted installation is taken up again.
$(STAMP): requirements.txt constraints.txt pyproject.toml setup.py
	@command -v $(PYTHON3) >/dev/null || { \
	  echo "make: no $(PYTHON3) here: install Python 3.10 or later," \
	    "or name one: make install PYTHON3=/path/to/python3" >&2; exit 1; }
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make: Python 3.10 or later is needed, $(PYTHON3) is $$($(PYTHON3) -V 2>&1):" \
	    "name another: make install PYTHON3=/path/to/python3" >&2; exit 1; }
	@rm -f $@
	$(PYTHON3) -m venv $(VENV)
	$(PIP) install -c constraints.txt -U pip
	$(PIP) install -c constraints.txt -r requirements.txt
	@if ! command -v cc >/dev/null && ! command -v gcc >/dev/null; then \
	  echo "make: no C compiler (cc or gcc) here: mmpose, which needs one, is left out:" \
	    "make demo-seg works, make demo-pose does not; with a compiler: make -B install"; \
	elif ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then \
	  echo "make: xtcocotools, which mmpose needs, does not build on Python 3.13 or later:" \
	    "mmpose is left out, make demo-seg works, make demo-pose does not;" \
	    "docs/support.md has the steps by hand"; \
	else \
	  $(PIP) install -c constraints.txt --no-deps --no-build-isolation --no-cache-dir \
	    --no-binary xtcocotools $(XTCOCOTOOLS) && $(PIP) install --no-deps $(MMPOSE); \
	fi
	$(PIP) install -c constraints.txt --no-deps $(GRADIO)
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# Two processes with one thread each: more threads than cores make every test slower. Files in the
# order of tests/conftest.py, the longest first, so that both processes end together.
test: export OMP_NUM_THREADS := 1

test: $(STAMP) ## Run the tests
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

# Other Pythons, other versions: numbers, configs, training, loading, resuming, fidelity, tuning.
CORE_TESTS := $(addprefix tests/,token_merging mit segmentation pose checkpoints \
  evaluation/fidelity evaluation/tuning training/test_hooks.py test_arguments.py test_compat.py \
  test_configs.py test_pose_configs.py test_rings.py tools/test_tools.py tools/test_pose_tools.py)

test-core: export OMP_NUM_THREADS := 1

test-core: $(STAMP) ## Run the core tests, with VENV=... PYTHON3=... on another Python
	$(PYTHON) -m pytest -n 2 --dist loadfile $(CORE_TESTS)

fuzz: export OMP_NUM_THREADS := 1

fuzz: $(STAMP) ## Run the fuzz tests with thousands of new cases (minutes)
	HYPOTHESIS_PROFILE=thorough $(PYTHON) -m pytest -n 2 tests/fuzz

# Their other dependencies are installed, or needed by mutmut's own commands only.
mutate: $(STAMP) ## Make 150 random faults and ask whether the tests notice (an hour)
	$(PIP) install -c constraints.txt -q --no-deps $(MUTATION)
	$(PYTHON) -m tests.mutate

# OpenMMLab's original line has an environment of its own, since it has the same import names.
ORIGINAL ?= .venv-original
ORIGINAL_PYTHON := $(ORIGINAL)/bin/python
ORIGINAL_PIP := $(ORIGINAL_PYTHON) -m pip --disable-pip-version-check
ORIGINAL_STAMP := $(ORIGINAL)/.installed

$(ORIGINAL_STAMP): requirements-original.txt pyproject.toml setup.py
	@$(PYTHON3) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' || { \
	  echo "make: xtcocotools for NumPy 1 needs Python 3.10 or 3.11, $(PYTHON3) is $$($(PYTHON3) -V 2>&1):" \
	    "name another: make test-original PYTHON3=/path/to/python3" >&2; exit 1; }
	@rm -f $@
	$(PYTHON3) -m venv $(ORIGINAL)
	$(ORIGINAL_PIP) install -r requirements-original.txt
	$(ORIGINAL_PIP) install --no-deps $(MMPOSE)
	$(ORIGINAL_PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The package is imported first, so that mmseg and mmpose find what mmcv-lite does not have.
test-original: export OMP_NUM_THREADS := 1

test-original: $(ORIGINAL_STAMP) ## Run the core tests on OpenMMLab's original line, in .venv-original
	$(ORIGINAL_PYTHON) -m pytest -p segformer_plusplus -n 2 --dist loadfile $(CORE_TESTS)

docs: $(STAMP) ## Build the documentation's site in build/docs, every link checked
	$(PYTHON) -m nbconvert --log-level ERROR --to markdown docs/notebooks/*.ipynb
	$(VENV)/bin/zensical build --clean --strict

check: $(STAMP) ## Lint, check the formatting, the types and who imports whom
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports

format: $(STAMP) ## Rewrite the sources in the project's format
	$(PYTHON) -m ruff check --fix $(SOURCES)
	$(PYTHON) -m ruff format $(SOURCES)

# Interrupted, they go on where they stopped.
demo: demo-pose demo-seg ## Both demos: train, test the paper's strategies; results in work_dirs

demo-seg: $(STAMP) ## Train on drawn street scenes; results in work_dirs/demo-seg
	$(PYTHON) tools/reproduce.py demo-seg --out work_dirs/demo-seg --rounds 5

demo-pose: $(STAMP) ## Train on drawn jumpers; results in work_dirs/demo-pose
	$(PYTHON) tools/reproduce.py demo-pose --out work_dirs/demo-pose --rounds 5

clean: ## Remove caches and build outputs (not .venv, data or results)
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -path './.venv*' -prune -o -path ./data -prune -o -path ./work_dirs -prune \
	  -o -type d -name __pycache__ -exec rm -rf {} +
