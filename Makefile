# `make` alone lists what there is.
SHELL := /bin/sh
.DEFAULT_GOAL := help
# Relative, because a clone's path may hold spaces.
PYTHON := .venv/bin/python
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" $(PYTHON)

.PHONY: help env repro test verify self-test workstation workstation-tables spot-check renew ui sync experiments lint benchmark nightly lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

env: .venv/installed ## make the environment in .venv from the hash-checked lock

.venv/installed: requirements.lock pyproject.toml
	@echo "environment: installing what requirements.lock names into .venv (about 6 GB, torch with its libraries)"
	@[ -x .venv/bin/pip ] && exit 0; for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && exec $$python -m venv --clear .venv; \
	done; echo "error: no Python 3.11 or newer found as python3 or python3.11 to python3.14; install one" >&2; exit 1
	@# Compiled here: where Python may not write bytecode, every process would compile torch anew.
	@awk '/^uv==/ {p = 1; print; next} /^[^ #]/ {p = 0} p' requirements.lock > .venv/uv.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	@.venv/bin/uv pip install --quiet --compile-bytecode --python $(PYTHON) --require-hashes -r requirements.lock
	@.venv/bin/uv pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --editable .
	@touch $@

repro: .venv/installed ## run the embedded pipeline: what is out of date, and nothing else
	@echo "pipeline: embedded scale; trials run in parallel (DNM_WORKERS=1 for one at a time)"
	@$(RUN) -m dvc repro
	@echo "results: metrics/embedded/tables/; runs: make ui"

test: .venv/installed ## run the tests, on all cores
	@# A file's tests stay together, for what they share; in the order of their names, or the longest ones would be the last.
	@$(RUN) -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder --durations 15 \
	  -m "not benchmark and not nightly"

verify: .venv/installed ## regenerate every committed figure from nothing and compare the bits (TOLERANCE=ci: the intervals)
	@$(RUN) -m stages.verify --tolerance $(or $(TOLERANCE),bits)

self-test: .venv/installed ## show on one stage that verify finds a forged figure and a changed training loop
	@$(RUN) -m stages.verify --self-test

workstation: .venv/installed ## run the workstation scale: real data, hours, resumable
	@$(RUN) -m dvc repro scales/workstation/dvc.yaml

workstation-tables: .venv/installed ## statistics and tables of what the workstation scale has measured so far
	@$(RUN) -m stages.statistics --params scales/workstation/params.yaml
	@$(RUN) -m stages.report --params scales/workstation/params.yaml

spot-check: .venv/installed ## run one short recorded trial of each workstation row again and compare the bits
	@$(RUN) -m stages.spot_check --params scales/workstation/params.yaml

renew: .venv/installed ## carry workstation records over to code that gives the same bits: one trial a kind is run again
	@$(RUN) -m stages.renew --params scales/workstation/params.yaml

ui: .venv/installed ## show the runs in a browser, on this machine only
	@$(RUN) -m stages.ui

sync: .venv/installed ## log to MLflow what it does not have yet: a server was down, a scale ran elsewhere
	@$(RUN) -m stages.sync

experiments: .venv/installed ## list what `dvc exp run` ran: settings and figures that differ, and no other columns
	@$(RUN) -m dvc exp show --only-changed --drop '(data|dnm|metrics|params|stages)[^:]*$$'

lint: .venv/installed ## check style and types
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m pyright

benchmark: .venv/installed ## compare speeds with peers, on a quiet machine
	@$(RUN) -m pytest -m benchmark -s

nightly: lint test verify self-test benchmark ## all checks: the large models and one worker too
	@$(RUN) -m pytest -m nightly
	@DNM_WORKERS=1 $(RUN) -m stages.verify

lock: ## resolve the dependencies anew
	@.venv/bin/uv pip compile pyproject.toml --extra dev --generate-hashes --universal --fork-strategy fewest \
	  --python-version 3.11 --quiet --output-file requirements.lock
