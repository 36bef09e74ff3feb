# make run    set everything up once, then run a study: make run STUDY=cifar ARGS="seed=1"
# make test   the same set-up, then every check; test-all adds the slow tests
# make docs   write docs/config.md and docs/api.md

STUDY ?= digits
ARGS ?=
WORKERS ?= 2
# The first Python that is new enough and runs.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin

.PHONY: run test test-all check docs audit setup clean

run: setup
	$(BIN)/python -m orchestrator +study=$(STUDY) $(ARGS)
	@echo "these commands work in this shell after: . $(BIN)/activate"

test: check
	$(BIN)/pytest -n $(WORKERS)

test-all: check
	$(BIN)/pytest -n $(WORKERS) -m ""

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python docs/generate.py

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer: set PYTHON=..."; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

audit: setup # known vulnerabilities of the pinned versions; asks PyPI, so it needs the network
	$(BIN)/pip install --disable-pip-version-check -q pip-audit
	$(BIN)/pip-audit --no-deps --disable-pip -r constraints.txt

clean: # never the results in runs/
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
