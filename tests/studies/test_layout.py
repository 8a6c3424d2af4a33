"""The studies stand side by side: what two of them need is in a room of its own."""

import ast
from pathlib import Path

import pytest

from experiments import launch

ROOT = Path(launch.__file__).parent
STUDIES = launch.study_names()


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{x.name}" for x in node.names}
    return {name for name in found if name.startswith("experiments.")}


def is_in(name: str, rooms: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{room}.") for room in rooms)


@pytest.mark.parametrize("study", STUDIES)
def test_no_study_imports_another(study):
    paths = sorted((ROOT / "studies" / study).glob("*.py"))
    rooms = (f"experiments.studies.{study}", "experiments.common")
    rooms += ("experiments.backbones",)
    for path in paths:
        found = {name for name in imports_of(path) if not is_in(name, rooms)}
        assert not found, path


@pytest.mark.parametrize("room", ["common", "backbones"])
def test_what_is_shared_knows_no_study(room):
    for path in sorted((ROOT / room).glob("*.py")):
        found = imports_of(path)
        assert not any(name.startswith("experiments.studies") for name in found), path


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_is_whole(study):
    folder = ROOT / "studies" / study
    assert {"config.py", "run.py", "figures.py"} <= {x.name for x in folder.iterdir()}
    assert (ROOT / "results" / study).is_dir()


@pytest.mark.parametrize(
    "path",
    sorted(
        path
        for room in ("backbones", "studies")
        for path in (ROOT / room).rglob("*.py")
    ),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_there_is_one_loop_and_one_record(path):
    """The loop over unfinished rows, Markdown tables, the environment: in common."""
    source = path.read_text()
    assert "append_row" not in source, "use record.run_rows"
    assert "importlib.metadata" not in source, "use common.environment"
    assert "---:" not in source, "use tables.markdown"
