"""Runs the study of regret; every seed of a task, penalty and recipe is a row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.common import record
from experiments.studies.strength_regret.config import Config
from experiments.studies.strength_regret.coverage import simulate
from experiments.studies.strength_regret.fixed_design import compare
from experiments.studies.strength_regret.heads import predict
from experiments.studies.strength_regret.networks import make_cases, train

__all__ = ["run"]

Row = dict[str, Any]


def _rows(config: Config) -> Iterator[Row]:
    """Yields the training grids, with what needs no training before other recipes."""
    cases = [{**x._asdict(), "sizes": list(x.sizes)} for x in make_cases(config)]
    yield from (row for row in cases if row["recipe"] == "base")
    for task in config.tasks:
        for seed in range(config.seeds):
            yield {"name": f"head/{task}/{seed}", "task": task, "seed": seed}
    yield {"name": "fixed design"}
    yield {"name": "coverage"}
    yield from (row for row in cases if row["recipe"] != "base")


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet.

    The data of most tasks come with scikit-learn; those of `tasks.FETCHED` are looked
    for where LAGRANGE_JAX_DATA says.

    Args:
      config: what to run.
      folder: the run folder.
      data_dir: not used.

    Raises:
      ValueError: the folder holds another configuration.
    """
    del data_dir
    folder = record.open_run(folder, config)
    cases = {case.name: case for case in make_cases(config)}

    def run_row(row: Row) -> Row:
        if row["name"] in cases:
            # Optax's schedules mix types.
            with jax.numpy_dtype_promotion("standard"):
                values = train(config, cases[row["name"]])
        elif row["name"] == "fixed design":
            values = compare(config.fixed_repetitions)
        elif row["name"] == "coverage":
            values = simulate(config.fixed_repetitions)
        else:
            values = predict(config, row["task"], row["seed"])
        record.save_arrays(folder, **{row["name"]: values})
        return {}

    record.run_rows(folder, _rows(config), run_row, lambda row: "done")
