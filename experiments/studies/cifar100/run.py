"""Measures every head before training, trains from some of them, and records it all."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import record
from experiments.studies.cifar100.baselines import fit_logistic_regression
from experiments.studies.cifar100.config import Config
from experiments.studies.cifar100.heads import (
    RANDOM,
    Head,
    make_heads,
    require_heads,
    solve_path,
)
from experiments.studies.cifar100.metrics import score
from experiments.studies.cifar100.problem import Problem, hold_out, load_problem
from experiments.studies.cifar100.training import train_heads

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
    seconds = time.perf_counter() - begin
    return {"head": head, **_measure(problem, kernel, bias), **info, "seconds": seconds}


def _logistic_row(problem: Problem, strength: float) -> Row:
    begin = time.perf_counter()
    kernel, bias, info = fit_logistic_regression(
        problem.train, problem.num_classes, strength
    )
    seconds = time.perf_counter() - begin
    measured = _measure(problem, kernel, bias)
    return {"strength": strength, **measured, **info, "seconds": seconds}


def _training_row(config: Config, problem: Problem, folder: Path, row: Row) -> Row:
    """Solves the head on what is left of the training examples, and trains it."""
    train, validation = hold_out(problem.train, config.held_out, row["seed"])
    chosen = _chosen_norm(folder)
    make = make_heads(train, problem.num_classes, row["seed"], chosen)
    begin = time.perf_counter()
    kernel, bias, info = jax.block_until_ready(make(row["head"]))
    solved = time.perf_counter() - begin
    curves = train_heads(
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
    seconds = time.perf_counter() - begin
    return {
        **row,
        **info,
        "norm_sq": norm_sq,
        "seconds_init": solved,
        "seconds": seconds,
    }


def _path_row(config: Config, problem: Problem, folder: Path) -> Row:
    """The cross-entropy heads of many norms, for the figure of the norm."""
    begin = time.perf_counter()
    arrays = solve_path(problem.train, problem.test, config.norms, problem.num_classes)
    record.save_arrays(folder, **{f"path/{k}": array for k, array in arrays.items()})
    return {"seconds": time.perf_counter() - begin}


def _chosen_norm(folder: Path) -> float | None:
    """The norm that was chosen on all training examples, if it was."""
    for row in record.read_rows(folder):
        if row["name"] == "head/ce_chosen/0":
            return row["norm_sq"]
    return None


def _tasks(config: Config) -> dict[str, tuple[str, Row]]:
    """Everything to run, by the name of its row: its kind, and what it needs."""
    tasks: dict[str, tuple[str, Row]] = {}
    for head in config.heads:
        # Random heads are measured once a seed, the solved ones do not vary.
        for seed in config.seeds if head in RANDOM else config.seeds[:1]:
            tasks[f"head/{head}/{seed}"] = "head", {"head": head, "seed": seed}
    tasks["path"] = "path", {}
    for head in config.trained:
        for seed in config.seeds:
            tasks[f"train/{head}/{seed}"] = "train", {"head": head, "seed": seed}
    for strength in config.strengths:
        tasks[f"logistic/{strength:g}"] = "logistic", {"strength": strength}
    return tasks


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
    finished = {row["name"] for row in record.read_rows(folder)}
    tasks = {k: task for k, task in _tasks(config).items() if k not in finished}
    if not tasks:
        return
    problem = load_problem(
        config.backbone,
        resolution=config.resolution,
        images_per_class=config.images_per_class,
        data_dir=data_dir,
        cache=config.cache,
    )
    make = functools.cache(
        functools.partial(make_heads, problem.train, problem.num_classes)
    )
    for name, (kind, task) in tasks.items():
        row = {"name": name, "kind": kind, **task}
        if kind == "head":
            row |= _head_row(problem, make(task["seed"]), task["head"])
        elif kind == "path":
            row |= _path_row(config, problem, folder)
        elif kind == "train":
            row |= _training_row(config, problem, folder, row)
        else:
            row |= _logistic_row(problem, task["strength"])
        record.append_row(folder, row)
        print(f"{name}: {_summary(row)} ({row['seconds']:.1f} s)", flush=True)


def _summary(row: Row) -> str:
    parts = {"test_accuracy": "test accuracy {:.2%}", "norm_sq": "norm² {:.3g}"}
    return ", ".join(text.format(row[k]) for k, text in parts.items() if k in row)
