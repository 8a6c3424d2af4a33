# `make demo` and `make test` work from a clean clone: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

.PHONY: setup demo test lint types check docs notebooks clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[experiments]" --group test --group lint
	touch $@

demo: setup
	$(BIN)/python -m experiments.launch demo

# The site, docs/_build/html; every page's code and every docstring's example is run.
docs: .venv/.docs
	$(BIN)/python -m pytest -q tests/test_doctests.py
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

# The notebooks' address, from pyproject.toml, and their pairs of script and notebook.
notebooks: setup
	$(BIN)/python -m experiments.sync_notebooks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

check: setup
	$(BIN)/python -m pytest -n $(JOBS)

test: lint types check

clean:
	rm -rf .venv runs build dist docs/_build .pytest_cache .ruff_cache
