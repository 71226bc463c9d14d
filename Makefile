# make setup   what Puna needs, in .venv          make demo    the whole paper, small
# make test    the tests                          make check   format, lint, types, tests

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format clean

TORCH := 2.13.0
# Where no GPU is found: PyTorch's builds for the CPU alone (200 MB instead of some GB), if they can be reached.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP := .venv/bin/python -m pip --disable-pip-version-check
STAMP := .venv/.puna-setup
# Two processes for the tests, each with one thread; make test JOBS=8 for more.
JOBS := 2

help:
	@echo 'make setup   install Puna and what it needs into .venv'
	@echo 'make demo    run the whole paper at the smallest size'
	@echo 'make test    run the tests'
	@echo 'make check   format, lint, types and tests, as before a commit'
	@echo 'make format  put the code into its format'
	@echo 'make clean   remove what can be made again (runs/ stays)'

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py $(wildcard constraints/*.txt puna/kernels/cpp/*)
	@python=''; \
	for name in $${PYTHON:-python3 python3.11 python3.12 python3.13}; do \
	  if $$name -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	    2> /dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'Puna needs Python 3.11, 3.12 or 3.13 (with venv), and none was found' >&2; exit 1; \
	fi; \
	if ! .venv/bin/python -m pip --version > /dev/null 2>&1; then \
	  site=''; \
	  if $$python -c 'import torch, sys; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11))' \
	    2> /dev/null; then site=--system-site-packages; fi; \
	  echo "making .venv with $$($$python --version) $$site"; \
	  $$python -m venv $$site .venv; \
	fi
	@if ! .venv/bin/python -c 'import torch' 2> /dev/null; then \
	  echo 'installing torch $(TORCH)'; \
	  index=''; \
	  if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi > /dev/null \
	    && ! $(PIP) download --quiet --no-deps --no-index --dest .venv/wheels torch==$(TORCH) \
	      > /dev/null 2>&1 \
	    && $(PIP) index versions torch --retries 0 --timeout 5 --index-url $(TORCH_CPU_INDEX) \
	      > /dev/null 2>&1; then index='--extra-index-url $(TORCH_CPU_INDEX)'; fi; \
	  rm -rf .venv/wheels; \
	  $(PIP) install --quiet $$index torch==$(TORCH); \
	fi
	@echo 'installing Puna'
	@pins=constraints/$$(.venv/bin/python -c 'import sys; print("py%d%d" % sys.version_info[:2])').txt; \
	$(PIP) install --quiet -c $$pins -e '.[dev]'
	@touch $@
	@echo 'ready: make demo, or .venv/bin/puna --help'

demo: setup
	@.venv/bin/puna paper presets/tiny/cafe.toml

test: setup
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(JOBS) $(if $(CI),,-m 'not slow')

check: setup
	@.venv/bin/ruff format --check --quiet . || { echo 'make format puts this right'; exit 1; }
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy --no-error-summary
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(JOBS)

format: setup
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean:
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@find puna tests -name __pycache__ -type d -prune -exec rm -rf {} +
