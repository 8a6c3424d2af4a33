"""Run folders and the command line."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import launch
from experiments.common import record


@dataclasses.dataclass(frozen=True)
class Config:
    epochs: int = 3
    rate: float = 0.1
    subset: str = "one"
    shuffle: bool = True
    seeds: tuple[int, ...] = (0, 1)


def test_rows_and_arrays_are_read_back(tmp_path):
    folder = record.open_run(tmp_path / "run", Config())
    assert record.read_rows(folder) == [] and record.read_arrays(folder) == {}
    for seed in range(3):
        record.save_arrays(folder, **{f"curve/{seed}": np.arange(seed + 1.0)})
        record.append_row(folder, {"seed": seed, "loss": 0.1 * seed})
    assert [row["seed"] for row in record.read_rows(folder)] == [0, 1, 2]
    assert record.read_config(folder)["seeds"] == [0, 1]
    arrays = record.read_arrays(folder)
    np.testing.assert_array_equal(arrays["curve/2"], [0.0, 1.0, 2.0])
    assert len(arrays) == 3
    assert json.loads((folder / "environment.json").read_text())["packages"]["jax"]


def test_a_line_cut_short_is_dropped(tmp_path):
    folder = record.open_run(tmp_path, Config())
    record.append_row(folder, {"seed": 0})
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"seed": 1, "lo')
    assert record.read_rows(folder) == [{"seed": 0}]
    record.append_row(folder, {"seed": 2})
    assert record.read_rows(folder) == [{"seed": 0}, {"seed": 2}]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    folder = record.open_run(tmp_path, Config())
    record.append_row(folder, {"seed": 0})
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(TypeError):
        record.append_row(folder, {"seed": object()})
    assert record.read_rows(folder) == [{"seed": 0}]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_another_configuration_is_refused_once_there_are_rows(tmp_path):
    record.open_run(tmp_path, Config())
    record.open_run(tmp_path, Config(epochs=4))
    record.append_row(tmp_path, {"seed": 0})
    record.open_run(tmp_path, Config(epochs=4))
    with pytest.raises(ValueError, match="epochs was 4 and is 5"):
        record.open_run(tmp_path, Config(epochs=5))
    assert record.read_config(tmp_path)["epochs"] == 4


def test_a_run_can_be_extended_but_not_cut(tmp_path):
    record.open_run(tmp_path, Config(seeds=(0, 1)))
    record.append_row(tmp_path, {"seed": 1})
    record.open_run(tmp_path, Config(seeds=(2, 1, 0)))
    assert record.read_config(tmp_path)["seeds"] == [2, 1, 0]
    with pytest.raises(ValueError, match="seeds was"):
        record.open_run(tmp_path, Config(seeds=(0, 2)))


def test_fields_are_read_by_the_type_of_their_default():
    fields = ["epochs=7", "rate=1e-3", "subset=x=y", "shuffle=False", "seeds=4"]
    expected = Config(7, 1e-3, "x=y", False, (4,))
    assert launch.override(Config(), fields) == expected


@pytest.mark.parametrize("field", ["epoch=3", "epochs", "epochs=many", "shuffle=1"])
def test_wrong_fields_are_named(field):
    with pytest.raises(ValueError, match=r"one of: epochs, rate|is no value for"):
        launch.override(Config(), [field])


def test_unknown_study_lists_the_studies(capsys):
    with pytest.raises(SystemExit):
        launch.main(["no_such_study"])
    error = capsys.readouterr().err
    assert all(name in error for name in launch.study_names())


def test_rows_are_run_once_and_timed(tmp_path, capsys):
    folder, seen = record.open_run(tmp_path, Config()), []

    def run(row):
        seen.append(row["name"])
        if row["name"] == "b" and len(seen) == 2:
            raise RuntimeError("stopped")
        return {"loss": len(seen)}

    rows = [{"name": name} for name in "abc"]
    with pytest.raises(RuntimeError):
        record.run_rows(folder, rows, run, lambda row: str(row["loss"]))
    record.run_rows(folder, rows, run, lambda row: str(row["loss"]))
    record.run_rows(folder, rows, run, lambda row: str(row["loss"]))
    assert seen == ["a", "b", "b", "c"]
    found = record.read_rows(folder)
    assert [row["name"] for row in found] == ["a", "b", "c"]
    assert all(row["seconds"] >= 0 and row["cpu_seconds"] >= 0 for row in found)
    assert "3/3 c: 4" in capsys.readouterr().out
