"""Measures every head before training, trains from some of them, and records it all."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.backbones.problem import Problem, hold_out, load_problem
from experiments.common import record
from experiments.common.class_baselines import fit_logistic_regression
from experiments.common.class_heads import (
    RANDOM,
    Head,
    make_heads,
    require_heads,
    solve_path,
)
from experiments.common.class_metrics import calibrate_heads, score
from experiments.common.head_training import train_heads
from experiments.studies.cifar100.config import Config

__all__ = ["run"]

Row = dict[str, Any]


def _measure(problem: Problem, kernel: Any, bias: Any) -> Row:
    train, test = (score(part, kernel, bias) for part in (problem.train, problem.test))
    return {
        "norm_sq": float(np.sum(np.square(kernel))),
        "train_accuracy": train.accuracy,
        "train_loss": train.loss,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
    }


def _head_row(problem: Problem, make: Callable[[str], Head], head: str) -> Row:
    begin = time.perf_counter()
    kernel, bias, info = jax.block_until_ready(make(head))
    solved = {"seconds_init": time.perf_counter() - begin}
    return {**_measure(problem, kernel, bias), **info, **solved}


def _logistic_row(problem: Problem, strength: float) -> Row:
    begin = time.perf_counter()
    kernel, bias, info = fit_logistic_regression(
        problem.train, problem.num_classes, strength
    )
    solved = {"seconds_init": time.perf_counter() - begin}
    return {**_measure(problem, kernel, bias), **info, **solved}


def _training_row(config: Config, problem: Problem, folder: Path, row: Row) -> Row:
    """Solves the head on what is left of the training examples, and trains it."""
    train, validation = hold_out(problem.train, config.held_out, row["seed"])
    chosen = _chosen_norm(folder)
    make = make_heads(train, problem.num_classes, row["seed"], chosen)
    begin = time.perf_counter()
    kernel, bias, info = jax.block_until_ready(make(row["head"]))
    solved = time.perf_counter() - begin
    curves, heads = train_heads(
        (kernel, bias),
        train,
        validation,
        problem.test,
        rates=config.learning_rates,
        epochs=config.epochs,
        evaluations=config.evaluations,
        batch_size=config.batch_size,
        seed=row["seed"],
    )
    arrays = {
        f"{row['name']}/{field}": array.astype(np.float32)
        for field, array in curves._asdict().items()
    }
    record.save_arrays(folder, **arrays)
    norm_sq = float(np.sum(np.square(kernel)))
    start = np.asarray(kernel)[:, None], np.asarray(bias)[None]
    calibration = {
        "before": calibrate_heads(validation, problem.test, *start),
        "trained": calibrate_heads(validation, problem.test, *heads),
    }
    return {**info, "norm_sq": norm_sq, "seconds_init": solved, **calibration}


def _path_row(config: Config, problem: Problem, folder: Path) -> Row:
    """The cross-entropy heads of many norms, for the figure of the norm."""
    arrays = solve_path(problem.train, problem.test, config.norms, problem.num_classes)
    record.save_arrays(folder, **{f"path/{k}": array for k, array in arrays.items()})
    return {}


def _chosen_norm(folder: Path) -> float | None:
    """The norm that was chosen on all training examples, if it was."""
    for row in record.read_rows(folder):
        if row["name"] == "head/ce_chosen/0":
            return row["norm_sq"]
    return None


def _rows(config: Config) -> Iterator[Row]:
    """Yields everything to run: its name, its kind, and what it needs."""
    for head in config.heads:
        # Random heads are measured once a seed, the solved ones do not vary.
        for seed in config.seeds if head in RANDOM else config.seeds[:1]:
            name = f"head/{head}/{seed}"
            yield {"name": name, "kind": "head", "head": head, "seed": seed}
    yield {"name": "path", "kind": "path"}
    for head in config.trained:
        for seed in config.seeds:
            name = f"train/{head}/{seed}"
            yield {"name": name, "kind": "train", "head": head, "seed": seed}
    for strength in config.strengths:
        name = f"logistic/{strength:g}"
        yield {"name": name, "kind": "logistic", "strength": strength}


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet.

    Args:
      config: what to run.
      folder: the run folder.
      data_dir: folder with the archive of CIFAR-100 and the weights; None takes
        LAGRANGE_JAX_DATA.

    Raises:
      FileNotFoundError: data are missing; the message says what to fetch.
      ValueError: a head is unknown, or the folder holds another configuration.
    """
    require_heads([*config.heads, *config.trained])
    folder = record.open_run(folder, config)

    @functools.cache
    def problem() -> Problem:
        return load_problem(
            config.backbone,
            resolution=config.resolution,
            images_per_class=config.images_per_class,
            data_dir=data_dir,
            cache=config.cache,
        )

    @functools.cache
    def make(seed: int) -> Callable[[str], Head]:
        return make_heads(problem().train, problem().num_classes, seed)

    kinds: dict[str, Callable[[Row], Row]] = {
        "head": lambda row: _head_row(problem(), make(row["seed"]), row["head"]),
        "path": lambda _: _path_row(config, problem(), folder),
        "train": lambda row: _training_row(config, problem(), folder, row),
        "logistic": lambda row: _logistic_row(problem(), row["strength"]),
    }
    record.run_rows(
        folder, _rows(config), lambda row: kinds[row["kind"]](row), _summary
    )


def _summary(row: Mapping[str, Any]) -> str:
    parts = {"test_accuracy": "test accuracy {:.2%}", "norm_sq": "norm² {:.3g}"}
    return ", ".join(text.format(row[k]) for k, text in parts.items() if k in row)
