"""Runs the study of regret; every seed of a task and penalty is a row."""

import time
from pathlib import Path

import jax

from experiments.common import record
from experiments.studies.strength_regret.config import Config
from experiments.studies.strength_regret.networks import make_cases, train

__all__ = ["run"]


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet; the data come with scikit-learn.

    Args:
      config: what to run.
      folder: the run folder.
      data_dir: not used.

    Raises:
      ValueError: the folder holds another configuration.
    """
    del data_dir
    folder = record.open_run(folder, config)
    cases = make_cases(config)
    finished = {row["name"] for row in record.read_rows(folder)}
    for done, case in enumerate(cases, 1):
        if case.name in finished:
            continue
        cpu = time.process_time()
        # Optax's schedules mix types.
        with jax.numpy_dtype_promotion("standard"):
            losses = train(config, case)
        cpu = round(time.process_time() - cpu, 1)
        record.save_arrays(folder, **{case.name: losses})
        row = {**case._asdict(), "sizes": list(case.sizes), "cpu_seconds": cpu}
        record.append_row(folder, row)
        print(f"{done}/{len(cases)} {case.name}: {cpu:.0f} s", flush=True)
