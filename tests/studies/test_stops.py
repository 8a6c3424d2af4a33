"""A run that was stopped in its middle is drawn from what it has recorded."""

import importlib
from pathlib import Path

import pytest

from experiments.common import plotting, record

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
FOLDERS = sorted(x.parent.relative_to(RESULTS) for x in RESULTS.rglob("rows.jsonl"))


def stops(count):
    """Numbers of finished rows: the first one, and a third of all."""
    return sorted({1, count // 3} & {*range(1, count)})


@pytest.mark.parametrize("name", FOLDERS, ids=str)
def test_a_stopped_run_is_drawn(name, tmp_path, monkeypatch):
    rows = record.read_rows(RESULTS / name)
    arrays = record.read_arrays(RESULTS / name)
    config = (RESULTS / name / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    study = importlib.import_module(f"experiments.studies.{name.parts[0]}.figures")
    monkeypatch.setattr(plotting, "save_figure", lambda figure, path: None)
    for count in stops(len(rows)):
        later = tuple(f"{row['name']}/" for row in rows[count:])
        kept = {k: x for k, x in arrays.items() if not k.startswith(later)}
        monkeypatch.setattr(record, "read_rows", lambda _, n=count: rows[:n])
        monkeypatch.setattr(record, "read_arrays", lambda _, found=kept: found)
        assert study.draw(tmp_path)
