"""Runs the study of the best strength; every finished seed of a case is a row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common import record
from experiments.studies.lambda_scaling.cases import Case, make_cases, other_layers
from experiments.studies.lambda_scaling.config import Config
from experiments.studies.lambda_scaling.fixed_layer import run_fixed, run_linear
from experiments.studies.lambda_scaling.networks import train

__all__ = ["run"]


Row = dict[str, Any]


def _rows(config: Config) -> Iterator[Row]:
    """Yields fixed layers and linear networks, then every seed of every case."""
    if "fixed" in config.parts:
        names = ["fixed", "linear", *(f"fixed {x}" for x in other_layers(config))]
        yield from ({"name": name, "part": "fixed"} for name in names)
    for case in make_cases(config):
        for seed in range(case.seeds):
            name = f"{case.name}/{seed}"
            yield {"name": name, "case": case.name, "part": case.part, "seed": seed}


def _run_fixed(config: Config, folder: Path, name: str) -> Row:
    """Solves the heads on fixed layers, or linear networks."""
    reading = config.converged_networks[0]
    common = (config.fixed_sizes, config.num_validation, config.fixed_seeds)
    if name == "fixed":
        found = run_fixed(reading, *common)
    elif name == "linear":
        found = {"linear": run_linear(float(reading.split("/")[1]), *common)}
    else:
        found = run_fixed(name.split()[1], *common, with_logistic=False)
    prefix = "fixed" if name == "linear" else name
    record.save_arrays(folder, **{f"{prefix}/{key}": x for key, x in found.items()})
    return {}


def _run_case(case: Case, folder: Path, row: Row) -> Row:
    losses = train(case.network, case.schedule, case.strengths, case.sizes, row["seed"])
    record.save_arrays(folder, **{row["name"]: losses})
    return {}


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet; the data are drawn, not fetched.

    Args:
      config: what to run.
      folder: the run folder.
      data_dir: not used.

    Raises:
      ValueError: a part is unknown, or the folder holds another configuration.
    """
    del data_dir
    cases = {case.name: case for case in make_cases(config)}
    folder = record.open_run(folder, config)

    def run_row(row: Row) -> Row:
        if row["part"] == "fixed":
            return _run_fixed(config, folder, row["name"])
        return _run_case(cases[row["case"]], folder, row)

    record.run_rows(folder, _rows(config), run_row, lambda row: row["part"])
