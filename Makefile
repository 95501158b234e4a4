# make demo: the main job on real imagery, with the base install.   make test: the whole test suite.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stamps: an installation runs again only when what it installs has changed.
BASE := $(VENV)/.base-installed
ALL := $(VENV)/.all-installed
# One that has what make gpu needs: a .venv that make demo made has neither.
GPU_PYTHON = $(shell $(BIN)/python -c 'import torch, pytest' >/dev/null 2>&1 && echo $(BIN)/python || echo $(PYTHON))
EXTRAS := train,export,tensorrt-rtx,serve,track,bench,test,dev

.PHONY: help demo setup test check gpu clean

help:
	@echo "make demo    detect tree crowns on a flight over a forest; writes out/"
	@echo "make setup   install everything that needs no GPU into $(VENV)"
	@echo "make test    run the tests"
	@echo "make check   formatting, lint and types"
	@echo "make gpu     run the tests and benchmarks that need an NVIDIA GPU, in 10 minutes"
	@echo "make clean   remove what was built, $(VENV) included"

demo: $(BASE)
	$(BIN)/python -m retina_edge.demo

setup: $(ALL)

# On every core, a file at a time, long ones first; torch's own threads would only take them from one another.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Installs nothing, so that it runs without a network: in .venv if that has torch and pytest, else with $(PYTHON). Put
# pycuda and TensorRT there yourself.
gpu:
	$(GPU_PYTHON) -m benchmarks.gpu

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
