# `make demo` and `make test` work from a clean clone: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

.PHONY: setup demo test lint types check clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[experiments]" --group test --group lint
	touch $@

demo: setup
	$(BIN)/python -m experiments.launch demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

check: setup
	$(BIN)/python -m pytest -n $(JOBS)

test: lint types check

clean:
	rm -rf .venv runs build dist .pytest_cache .ruff_cache
