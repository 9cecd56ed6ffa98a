# One target for each thing a person or a machine wants from a checkout; `make` lists them.
# `make setup` is part of every target (`demo` needs less of it) and takes no time when nothing has changed.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
ONCE ?=
QUICK ?=
ARGS ?=

.PHONY: help setup demo test lint types interop failures simulate simulate-cluster cluster fuzz browser latency bench docs glasses realbluez

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## Python environment with everything pinned (only Python 3.11+ is needed)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing pinned packages"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(VENV)/.runs $@

# What the product needs to run, without the tools that work on it: a third of the packages, for a first look.
$(VENV)/.runs: requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing pinned packages"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[sim]"
	@touch $@

demo: $(VENV)/.runs ## simulated glasses, edge, cloud and the lens page; ONCE=1 plays examples/demo.toml and exits
	@$(BIN)/glassbridge dev $(if $(ONCE),--once examples/demo.toml) $(ARGS)

test: setup ## every test; the last lines count them by level and say what was skipped for want of a tool
	@$(BIN)/pytest -q -n 4 --dist loadfile $(ARGS)

lint: setup ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup ## mypy --strict over all packages
	@$(BIN)/mypy

interop: setup ## unmodified @mentra/sdk apps against our cloud (needs Node 20)
	@$(BIN)/pytest -q -n 3 --dist loadfile tests/interop $(ARGS)

failures: setup ## which entries of the failure catalogue a test holds
	@$(BIN)/python -m tests.support.failures_report $(ARGS)

simulate-cluster: setup ## nodes, bus and engine in virtual time, everything that can go wrong with them: SEEDS=5000
	@$(BIN)/python -m tests.simulation.cluster --seeds $(or $(SEEDS),5000) $(ARGS)

cluster: setup ## kill, freeze and drain the parts of a real cluster under real SDK apps; JSON lines; QUICK=1: one run of each
	@$(BIN)/python -m tests.cluster --runs $(if $(QUICK),1,10) $(ARGS)

simulate: setup ## many simulated worlds: SEEDS=500, JOBS=2; a failing seed is shrunk and says how to repeat it
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),500) --jobs $(or $(JOBS),1) $(ARGS)

fuzz: setup $(VENV)/.fuzz ## search decoders for what breaks them (Linux on x86-64): TARGET=all SECONDS=60; TARGET=list names them
	@$(BIN)/python -m tests.fuzz $(or $(TARGET),all) --seconds $(or $(SECONDS),60) $(ARGS)

$(VENV)/.fuzz: tests/fuzz/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $< && touch $@

browser: setup ## the pages in Chromium; writes docs/img/
	@$(BIN)/pytest -q tests/browser $(ARGS)

latency: setup ## edge to app and app to lens over 200 events of the demo set-up
	@$(BIN)/python -m glassbridge.latency $(ARGS)

bench: setup tests/bench/node_modules ## beside node ws and a C server; QUICK=1 prints the headline ratios in under 50 s
	@$(BIN)/python -m tests.bench $(if $(QUICK),--quick,--out docs/img) $(ARGS)

tests/bench/node_modules: tests/bench/package-lock.json
	@command -v npm >/dev/null && npm ci --prefix tests/bench --silent --no-audit --no-fund || echo "without node: npm is not installed"

docs: setup ## generated pages, then the documentation site in site/ (strict)
	@$(BIN)/python docs/generate.py && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "docs: $$(find site -name '*.html' ! -name 404.html | wc -l) pages in site/"

glasses: setup ## the system stories of every model over lanes A (Bumble) and B (BlueZ; needs dbus-daemon)
	@$(BIN)/python -m tests.ble.glasses $(ARGS)

realbluez: setup ## the BLE suite on a real bluetoothd and kernel in an emulated machine (lane C; needs QEMU and apt; KERNEL=, STORIES=1, KVM=1)
	@$(BIN)/python -m tests.ble.realbluez $(ARGS)
