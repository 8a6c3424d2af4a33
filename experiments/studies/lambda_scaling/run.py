"""Runs the study of the best strength; every finished seed of a case is a row."""

import time
from pathlib import Path

from experiments.common import record
from experiments.studies.lambda_scaling.cases import make_cases
from experiments.studies.lambda_scaling.config import Config
from experiments.studies.lambda_scaling.fixed_layer import run_fixed, run_linear
from experiments.studies.lambda_scaling.networks import train

__all__ = ["run"]


def _is_finished(folder: Path, name: str) -> bool:
    return name in {row["name"] for row in record.read_rows(folder)}


def _run_fixed(config: Config, folder: Path) -> None:
    """Solves the heads on fixed layers, and linear networks: a row each."""
    reading = config.converged_networks[0]
    common = (config.fixed_sizes, config.num_validation, config.fixed_seeds)
    divisor = float(reading.split("/")[1])
    jobs = {
        "fixed": lambda: run_fixed(reading, *common),
        "linear": lambda: {"linear": run_linear(divisor, *common)},
    }
    for name, job in jobs.items():
        if _is_finished(folder, name):
            continue
        cpu = time.process_time()
        found = {f"fixed/{key}": value for key, value in job().items()}
        cpu = round(time.process_time() - cpu, 1)
        record.save_arrays(folder, **found)
        row = {"name": name, "part": "fixed", "cpu_seconds": cpu}
        record.append_row(folder, row)
        print(f"{name}: {cpu:.0f} s", flush=True)


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
    cases = make_cases(config)
    folder = record.open_run(folder, config)
    rows = [(case, seed) for case in cases for seed in range(case.seeds)]
    if "fixed" in config.parts:
        _run_fixed(config, folder)
    for done, (case, seed) in enumerate(rows, 1):
        name = f"{case.name}/{seed}"
        if _is_finished(folder, name):
            continue
        cpu = time.process_time()
        losses = train(case.network, case.schedule, case.strengths, case.sizes, seed)
        cpu = round(time.process_time() - cpu, 1)
        record.save_arrays(folder, **{name: losses})
        row = {"name": name, "case": case.name, "part": case.part, "seed": seed}
        record.append_row(folder, row | {"cpu_seconds": cpu})
        print(f"{done}/{len(rows)} {name}: {cpu:.0f} s", flush=True)
