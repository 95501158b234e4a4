# make demo: the main job on real imagery, with the base install.   make test: the quick tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stamps: an installation runs again only when what it installs has changed.
BASE := $(VENV)/.base-installed
ALL := $(VENV)/.all-installed
# One that has what make gpu needs: a .venv that make demo made has neither.
GPU_PYTHON = $(shell $(BIN)/python -c 'import torch, pytest' >/dev/null 2>&1 && echo $(BIN)/python || echo $(PYTHON))
EXTRAS := train,export,tensorrt-rtx,serve,track,bench,test,dev,docs

# Each worker takes a file at a time. More threads than one in torch would only slow the other workers down.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# A failed python3 -m venv leaves a Python without pip.
.DELETE_ON_ERROR:

.PHONY: help demo setup test test-all test-timed check docs gpu gpu-prepare clean

help:
	@echo "make demo         detect tree crowns on a flight over a forest; writes out/"
	@echo "make setup        install everything that needs no GPU into $(VENV)"
	@echo "make test         run the tests, without the slow ones"
	@echo "make test-all     run the slow tests, too"
	@echo "make test-timed   run the tests that need a quiet machine, in about 10 minutes"
	@echo "make check        check formatting, lint and types"
	@echo "make docs         build the documentation into out/docs"
	@echo "make gpu          run the tests and benchmarks that need an NVIDIA GPU, in 10 minutes"
	@echo "make gpu-prepare  make the models and engines for make gpu, on a machine without a GPU, in out/gpu"
	@echo "make clean        remove what was built, $(VENV) included"

demo: $(BASE)
	$(BIN)/retina-edge demo

setup: $(ALL)

test: setup
	$(PYTEST) -m "not slow and not timed"

test-all: test
	$(PYTEST) -m "slow and not timed"

test-timed: setup
	$(BIN)/python -m pytest -m timed

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples docs/hooks

# mkdocs-material advertises its successor with a warning.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Installs nothing, so that it runs without a network: in .venv if that has torch and pytest, else with $(PYTHON). Put
# pycuda and TensorRT there yourself. Options: make gpu ARGS='--seconds 120 --sanitizer'
gpu:
	$(GPU_PYTHON) -m benchmarks.gpu$(if $(ARGS), $(ARGS))

# Copy out/gpu to the GPU machine together with the checkout.
gpu-prepare: setup
	$(BIN)/python -m benchmarks.gpu_prepare

clean:
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

# It contains the base, so a demo afterwards installs nothing.
$(ALL): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $(BASE) $@
