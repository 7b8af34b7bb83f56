# Every target works on a fresh clone with Python 3.11, make, gcc and git: the first one called sets up .venv.
PYTHON ?= python3
EXTRAS ?= cpu,dev
MINUTES ?= 30
CHANNELS ?= 1
GPU_PYTHON ?= $(BIN)/python
OFFLINE_PYTHON ?= 3.12
BIN := .venv/bin
# A set OPENBLAS_CORETYPE slows the peer that a benchmark compares with.
FAIR := env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE
ON_STORES := tests/api tests/properties --timeout 3000

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format lint types imports slow soak chaos gpu wheels bench peers notebooks wheel clean

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

test: .venv/ready                  ## all quick tests, the files dealt to as many processes as there are cores
	$(BIN)/python -m pytest -n auto --dist loadfile

check: format lint types imports test   ## what CI runs

format: .venv/ready
	$(BIN)/ruff format --check .

lint: .venv/ready
	$(BIN)/ruff check .

types: .venv/ready
	$(BIN)/mypy

imports: .venv/ready
	$(BIN)/lint-imports

soak: .venv/ready                  ## four processes on one database, killed at random: MINUTES=30 CHANNELS=1
	$(BIN)/python -m gpuvec.testing.soak --minutes $(MINUTES) --channels $(CHANNELS)

chaos: .venv/ready                 ## a cluster whose processes are killed, stopped and slowed: MINUTES=30
	$(BIN)/python -m gpuvec.testing.chaos --minutes $(MINUTES)

slow: .venv/ready                  ## long fuzzing, kill and simulation runs too, on every kind of store; prints the time of each part
	@command -v radosgw >/dev/null && test -x /usr/sbin/sshd || { apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends radosgw ceph-mon ceph-osd openssh-server; } >/dev/null 2>&1 \
	    || echo "Ceph or OpenSSH cannot be installed here: their tests are skipped"
	@rm -f .slow; failed=0; \
	part() { name=$$1; shift; echo "== $$name"; from=$$(date +%s); $(BIN)/python -m pytest "$$@" || failed=1; \
	    printf '%6d s  %s\n' $$(($$(date +%s) - from)) "$$name" >>.slow; }; \
	part "all tests, on this disk" --run-slow --timeout 3000; \
	part "API, on nodes in one process" tests/api --cluster=inprocess --timeout 3000; \
	part "searches, on nodes with a rehearsed GPU" tests/api/test_examples_search.py tests/api/test_search_with_index.py tests/api/test_indexes.py --cluster=inprocess --device=rehearsed --timeout 3000; \
	part "API, on worker processes" tests/api -n 0 --cluster=local --timeout 3000; \
	part "API and histories, on a rehearsed GPU" tests/api tests/properties --device=rehearsed --timeout 3000; \
	part "API and histories, in memory" $(ON_STORES) --store=memory; \
	part "API and histories, in moto" $(ON_STORES) --store=s3; \
	if command -v radosgw >/dev/null; then part "API and histories, in Ceph" $(ON_STORES) --store=s3 --ceph; fi; \
	if test -x /usr/sbin/sshd; then part "API and histories, over SFTP" $(ON_STORES) --store=sftp; fi; \
	echo; cat .slow; rm -f .slow; exit $$failed

gpu: $(if $(filter $(BIN)/%,$(GPU_PYTHON)),.venv/ready)   ## on a CUDA device, without a network: what works, the contract classes, the GPU rows
	$(GPU_PYTHON) -m gpuvec.cli doctor
	$(GPU_PYTHON) -m pytest -m gpu -rs
	$(GPU_PYTHON) -m benchmarks.gpu_kernels --json benchmarks/results/gpu-kernels.json
	$(GPU_PYTHON) -m benchmarks.gpu --json benchmarks/results/gpu.json

wheels: .venv/ready                ## what gpuvec and its tests need beside the GPU stack, for a host without a network: HAS="numpy ..."
	$(BIN)/python benchmarks/offline_wheels.py --python $(OFFLINE_PYTHON) --folder .wheels --has "$(HAS)"

bench: .venv/ready                 ## the speed table of the docs, beside FAISS in the same run
	$(FAIR) $(BIN)/python benchmarks/bench_exact.py
	$(FAIR) $(BIN)/python benchmarks/bench_engine.py
	$(MAKE) --no-print-directory peers
	$(FAIR) $(BIN)/python benchmarks/ann.py --plot docs/recall.png
	$(FAIR) $(BIN)/python benchmarks/storage.py

peers: .venv/ready                 ## other libraries to compare with, each if it can be had
	@$(PYTHON) -m venv .venv-peers
	@for package in hnswlib usearch scann scalable-vs lancedb "milvus-lite pymilvus"; do \
	    .venv-peers/bin/pip install --quiet --disable-pip-version-check $$package 2>.venv-peers/log \
	    || echo "left out: $$package: $$(grep -m1 -i error .venv-peers/log)"; done

notebooks: .venv/ready             ## run the notebooks into dist/
	$(BIN)/pip install --quiet --disable-pip-version-check ".[notebook]"
	@for name in 02_choose_an_index 04_cluster; do \
	    $(BIN)/jupytext --to ipynb --execute --output dist/$$name.ipynb notebooks/$$name.py || exit 1; done

wheel: .venv/ready                 ## build dist/*.whl
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:                             ## remove .venv and caches
	rm -rf .venv .venv-peers dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
