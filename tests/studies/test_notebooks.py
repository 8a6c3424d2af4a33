"""The notebooks run, their two forms agree, and the first cell leaves JAX alone."""

import importlib.util
import runpy
import subprocess
from importlib.metadata import version
from pathlib import Path

import jax
import jupytext
import matplotlib.pyplot as plt
import pytest

from experiments.sync_notebooks import FOLDER, name_repository, repository

NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def test_there_are_notebooks():
    assert NAMES == ["continual", "grid", "quickstart", "transfer"]


@pytest.fixture
def cheap_compilation():
    """Most of a smoke run's time is compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("cheap_compilation")
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_at_smoke_size(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAGRANGE_JAX_SMOKE", "1")
    plt.switch_backend("agg")
    # Notebooks are written for JAX as it comes, without the tests' strictness.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        names = runpy.run_path(str(FOLDER / f"{name}.py"))
    assert all(axes.has_data() for axes in names["figure"].axes)
    plt.close("all")


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_have_the_same_cells_and_no_outputs(name):
    script, notebook = (jupytext.read(FOLDER / f"{name}{x}") for x in (".py", ".ipynb"))
    pairs = [[(c.cell_type, c.source) for c in x.cells] for x in (script, notebook)]
    assert pairs[0] == pairs[1], f"run jupytext --sync experiments/notebooks/{name}.py"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(c.outputs or c.execution_count for c in code)


def first_cell(name, repository):
    cells = jupytext.read(FOLDER / f"{name}.py").cells
    source = next(cell.source for cell in cells if cell.cell_type == "code")
    return name_repository(source, repository)


@pytest.mark.parametrize("name", NAMES)
def test_the_badge_and_the_address_are_those_of_the_project(name):
    for form in ("py", "ipynb"):
        text = (FOLDER / f"{name}.{form}").read_text()
        assert name_repository(text, repository()) == text, "run make notebooks"
        assert f"github/{repository()}/blob/main/experiments/notebooks/{name}" in text
        assert f"git+https://github.com/{repository()}" in text


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """What the first cell runs where the library is missing, without running it."""
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_installs_beside_the_jax_that_is_there(name, commands):
    exec(first_cell(name, "someone/lagrange_jax"), {})
    (command,) = commands
    assert any("github.com/someone/lagrange_jax" in word for word in command)
    pins = Path(command[command.index("--constraint") + 1]).read_text().split()
    assert sorted(pins) == [f"{x}=={version(x)}" for x in ("jax", "jaxlib")]
    assert not {"--upgrade", "-U", "--force-reinstall"} & set(command)


@pytest.mark.parametrize("name", NAMES)
def test_without_an_address_the_first_cell_says_what_to_set(name, commands):
    with pytest.raises(SystemExit, match="Set REPOSITORY"):
        exec(first_cell(name, "OWNER/lagrange_jax"), {})
    assert not commands


def test_what_pip_says_is_shown(commands, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "no such repository")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(SystemExit, match="no such repository"):
        exec(first_cell("quickstart", "someone/lagrange_jax"), {})
