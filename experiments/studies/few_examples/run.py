"""Solves and trains every head on few examples, and records what each is worth."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.backbones.problem import Split
from experiments.common import record
from experiments.common.class_baselines import cross_validate_logistic_regression
from experiments.common.class_heads import RANDOM, make_heads, require_heads
from experiments.common.class_metrics import calibrate_heads, score
from experiments.common.head_training import Curves, train_heads
from experiments.studies.few_examples.config import Config
from experiments.studies.few_examples.sources import SOURCES, draw, numbers_of

__all__ = ["PEER", "run"]

Row = dict[str, Any]

PEER = "logistic_cv"
"""scikit-learn's logistic regression, its strength cross-validated; not trained on."""


def _timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """Returns what is made, and seconds of processor time."""
    begin = time.process_time()
    made = jax.block_until_ready(make())
    return made, time.process_time() - begin


def _measure(test: Split, kernel: Any, bias: Any, when: str) -> Row:
    measured = score(test, kernel, bias)
    return {f"accuracy_{when}": measured.accuracy, f"loss_{when}": measured.loss}


def _solved_row(labelled: Split, test: Split, classes: int, row: Row) -> Row:
    """The head on all labelled examples, as one has it who does not train."""

    def make():
        if row["head"] == PEER:
            return cross_validate_logistic_regression(labelled, classes)
        kernel, bias, _ = make_heads(labelled, classes, row["seed"])(row["head"])
        return kernel, bias

    (kernel, bias), seconds = _timed(make)
    return _measure(test, kernel, bias, "solved") | {"seconds_solved": seconds}


def _trained_row(config: Config, labelled: Split, test: Split, classes, row) -> Row:
    """The head on the examples to train on, and what training makes of it."""
    count = round((1 - config.held_out) * len(labelled.labels))
    train, validation = draw(labelled, count, row["seed"])
    head = make_heads(train, classes, row["seed"])(row["head"])
    train_all = functools.partial(
        train_heads,
        head[:2],
        train,
        validation,
        test,
        rates=config.learning_rates,
        epochs=config.epochs,
        evaluations=1,
        batch_size=config.batch_size,
        seed=row["seed"],
    )
    (curves, heads), seconds = _timed(train_all)
    before = _measure(test, head.kernel, head.bias, "before")
    start = np.asarray(head.kernel)[:, None], np.asarray(head.bias)[None]
    first = calibrate_heads(validation, test, *start)
    before |= {f"{name}_before": x for name, (x,) in first.items()}
    trained = calibrate_heads(validation, test, *heads)
    results = before | _at_lowest_loss(curves) | trained
    return results | {"seconds_trained": seconds}


def _at_lowest_loss(curves: Curves) -> Row:
    """What each rate ends at, stopped where the examples held out say so."""
    at = curves.validation_loss.argmin(0), np.arange(curves.validation_loss.shape[1])
    names = ("validation_loss", "test_accuracy", "test_loss")
    values = {name: getattr(curves, name)[at].tolist() for name in names}
    return values | {"epochs": curves.epochs[at[0]].tolist()}


def _run_row(config: Config, data_dir: str | None, row: Row) -> Row:
    split = SOURCES[row["source"]].load(data_dir, config.cache)
    classes = len(np.unique(split.labels))
    labelled, test = draw(split, row["number"], row["seed"])
    results = {}
    if row["head"] not in RANDOM:
        results |= _solved_row(labelled, test, classes, row)
    if row["head"] != PEER:
        results |= _trained_row(config, labelled, test, classes, row)
    return results


def _rows(config: Config, data_dir: str | None) -> Iterator[Row]:
    """Yields the rows to run: a source after another, all heads of a seed first."""
    for source in config.sources:
        split = SOURCES[source].load(data_dir, config.cache)
        for seed, number, head in itertools.product(
            config.seeds, numbers_of(split, config.numbers), (*config.heads, PEER)
        ):
            row = {"source": source, "number": number, "head": head, "seed": seed}
            yield {"name": f"{source}/{number}/{head}/{seed}", **row}


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet.

    Args:
      config: what to run.
      folder: the run folder.
      data_dir: folder with the weights of ResNet-20; None takes LAGRANGE_JAX_DATA.

    Raises:
      FileNotFoundError: data are missing; the message says what to fetch.
      ValueError: a head or a source is unknown, or the folder holds another
        configuration.
    """
    require_heads(config.heads)
    unknown = sorted({*config.sources} - {*SOURCES})
    if unknown:
        raise ValueError(f"expected sources of {[*SOURCES]}; got {unknown}.")
    folder = record.open_run(folder, config)
    record.run_rows(
        folder,
        _rows(config, data_dir),
        lambda row: _run_row(config, data_dir, row),
        lambda row: f"{row.get('accuracy_solved', row.get('accuracy_before')):.1%}",
    )
