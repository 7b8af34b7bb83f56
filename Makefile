# Every target works on a fresh clone with Python 3.11, make, gcc and git: the first one called sets up .venv.
PYTHON ?= python3
EXTRAS ?= cpu,dev
BIN := .venv/bin
# A set OPENBLAS_CORETYPE slows the peer that a benchmark compares with.
FAIR := env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format lint types imports slow gpu bench wheel clean

help:
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

.venv/ready: pyproject.toml
	@echo "setting up .venv, once: a minute or two"
	@$(PYTHON) -m venv .venv
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	@touch .venv/ready

setup: .venv/ready                 ## install gpuvec and its tools into .venv

demo: .venv/ready                  ## import real rows, search them, show hits, recall and speed
	@$(FAIR) $(BIN)/gpuvec demo

test: .venv/ready                  ## all quick tests
	$(BIN)/python -m pytest

check: format lint types imports test   ## what CI runs

format: .venv/ready
	$(BIN)/ruff format --check .

lint: .venv/ready
	$(BIN)/ruff check .

types: .venv/ready
	$(BIN)/mypy

imports: .venv/ready
	$(BIN)/lint-imports

slow: .venv/ready                  ## long fuzzing, kill and simulation runs too
	$(BIN)/python -m pytest --run-slow --timeout 3000

gpu: .venv/ready                   ## the same contract classes on a CUDA device, where there is one
	$(BIN)/python -m pytest -m gpu -rs

bench: .venv/ready                 ## the speed table of the docs, beside FAISS in the same run
	$(FAIR) $(BIN)/python benchmarks/bench_exact.py
	$(FAIR) $(BIN)/python benchmarks/bench_engine.py

wheel: .venv/ready                 ## build dist/*.whl
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:                             ## remove .venv and caches
	rm -rf .venv dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
