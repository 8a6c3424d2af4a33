# `make demo` and `make test` work from a clean clone: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
# One worker a module, so that fixtures and programs are built once.
PYTEST := -m pytest -n $(JOBS) --dist loadfile --durations 10
# The newest Python, where there is one that runs (a pyenv shim need not).
NEWEST ?= $(shell for python in python3.13 $(HOME)/.pyenv/versions/3.13.*/bin/python; \
	do "$$python" -c "import ensurepip" 2>/dev/null && echo "$$python" && break; done)
# What runs there too: the tests of these modules.
CORE := constraints grid linen masks moments nnx norm_path params penalties ridge \
	secular solution spectrum training

.PHONY: setup demo test test-all lint types check check-all check-rest check-newest \
	test-accelerators docs notebooks clean

# Minutes: before every commit.
test: lint types check

# Everything: studies, data sets, processes, doctests, the newest Python.
test-all: lint types check-all check-newest

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
	$(BIN)/python -m pytest -q tests/studies/test_doctests.py
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
	$(BIN)/python $(PYTEST) -m "not slow" tests/unit

check-rest: setup
	$(BIN)/python $(PYTEST) tests/studies tests/datasets tests/processes

# In one run, so that no worker waits between the tiers. Programs are compiled for a GPU
# too, where its compiler (716 MB) installs: a minute of processor time. A TPU's takes
# three more, too many for a run of all tests, and has to be asked for below.
check-all: setup .accelerators/h100.tried
	$(BIN)/python $(PYTEST) tests

# Compiles for a TPU and a GPU that need not be there, against ceilings. The compilers
# take 1.4 GB; tests of one that does not install are skipped.
test-accelerators: setup .accelerators/v5e.tried .accelerators/h100.tried
	$(BIN)/python -m pytest -q -rs tests/accelerators

.accelerators/%.tried: pyproject.toml
	mkdir -p .accelerators
	$(BIN)/python -m pip install --quiet --retries 1 --no-deps --upgrade \
		--target .accelerators/$* \
		$$($(BIN)/python -m experiments.benchmarks.compiled $* --packages) \
		|| rm -rf .accelerators/$*
	touch $@

ifeq ($(NEWEST),)
check-newest:
	@echo "check-newest: skipped, since there is no Python 3.13 here"
else
check-newest: .venv-newest/.installed
	.venv-newest/bin/python -m pip list | \
		grep -E "^(jax|flax|optax|numpy) "
	.venv-newest/bin/python $(PYTEST) -m "not slow" $(CORE:%=tests/unit/test_%.py)
endif

# The newest packages of the day it is made; `make clean` asks for newer ones.
.venv-newest/.installed: pyproject.toml
	test -x .venv-newest/bin/python || $(NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-newest/bin/python -m pip install --quiet --upgrade \
		--upgrade-strategy eager --editable . --group test scikit-learn
	touch $@

clean:
	rm -rf .venv .venv-newest .accelerators runs build dist docs/_build .pytest_cache .ruff_cache .cache
