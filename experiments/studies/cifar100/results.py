"""Results of the study on CIFAR-100 as tables, from the record alone."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments.common import record
from experiments.common.class_heads import HEADS, RANDOM, label_of
from experiments.common.curves import epochs_to
from experiments.common.tables import interval, markdown

__all__ = ["Reference", "Trained", "make_tables", "read_trained", "reference_of"]


class Trained(NamedTuple):
    """One head, trained from one initialisation with every learning rate.

    Attributes:
      head: name of the initialisation.
      seed: the seed.
      seconds_init: seconds that the initial head took.
      epochs: `[m]` when it was measured.
      validation_loss: `[m, r]` mean cross-entropy.
      validation_accuracy: `[m, r]`.
      test_loss: `[m, r]` mean cross-entropy.
      test_accuracy: `[m, r]`.
      before: calibration of the initial head, lists of one; empty in old records.
      trained: likewise of the heads of least validation loss, lists of `r`.
    """

    head: str
    seed: int
    seconds_init: float
    epochs: np.ndarray
    validation_loss: np.ndarray
    validation_accuracy: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    before: Mapping[str, list[float]] = MappingProxyType({})
    trained: Mapping[str, list[float]] = MappingProxyType({})


class Reference(NamedTuple):
    """The baseline: a random head, and the learning rate that is best for it."""

    head: str
    rate: int


def read_trained(folder: Path) -> dict[str, list[Trained]]:
    """Returns what was trained from each head, by seed."""
    arrays = record.read_arrays(folder)
    trained = defaultdict(list)
    for row in record.read_rows(folder):
        if row["kind"] == "train":
            names = Trained._fields[3:-2]
            known: dict[str, Any] = {x: arrays[f"{row['name']}/{x}"] for x in names}
            known |= {name: row.get(name, {}) for name in ("before", "trained")}
            one = Trained(row["head"], row["seed"], row["seconds_init"], **known)
            trained[row["head"]].append(one)
    order = sorted(trained, key=list(HEADS).index)
    return {head: sorted(trained[head], key=lambda x: x.seed) for head in order}


def best_rate(some: Sequence[Trained]) -> int:
    """Returns the learning rate with the lowest validation loss of a run, on average.

    The learning rate is tuned for every initialisation.
    """
    return int(np.mean([x.validation_loss.min(0) for x in some], 0).argmin())


def reference_of(trained: dict[str, list[Trained]]) -> Reference | None:
    """Returns the random head that reaches the lowest validation loss."""
    random = {head: some for head, some in trained.items() if head in RANDOM}
    if not random:
        return None

    def lowest(head):
        return np.mean([x.validation_loss.min(0) for x in random[head]], 0).min()

    head = min(random, key=lowest)
    return Reference(head, best_rate(random[head]))


CALIBRATION = {
    "calibration_error": "calibration error",
    "scaled_calibration_error": "the same after temperature scaling",
}


def _group(rows: Sequence[dict[str, Any]], key: str) -> dict[Any, list[dict[str, Any]]]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return dict(groups)


def _first_step_cells(label: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    def mean(field: str, form: str, factor: float = 1.0) -> str:
        return f"{factor * np.mean([row[field] for row in rows]):{form}}"

    return [
        label,
        mean("norm_sq", ".3g"),
        mean("train_accuracy", ".1f", 100),
        mean("test_accuracy", ".2f", 100),
        mean("test_loss", ".3f"),
    ]


def _first_step_table(rows: Sequence[dict[str, Any]]) -> str:
    heads = _group([row for row in rows if row["kind"] == "head"], "head")
    cells = [
        _first_step_cells(label_of(head), heads[head])
        for head in HEADS
        if head in heads
    ]
    logistic = [row for row in rows if row["kind"] == "logistic"]
    for row in sorted(logistic, key=lambda row: -row["strength"]):
        label = f"scikit-learn's logistic regression, strength {row['strength']:g}"
        cells.append(_first_step_cells(label, [row]))
    header = ("head", "norm²", "training accuracy, %", "test accuracy, %", "test loss")
    return markdown(header, cells)


def _training_cells(
    some: Sequence[Trained], rates: Sequence[float], references: dict[int, Trained], at
):
    rate = best_rate(some)

    def over_seeds(value: Callable[[Trained], float], form: str) -> str:
        return interval([value(x) for x in some], form)

    def epochs_to_loss(x):
        target = references[x.seed].validation_loss[:, at].min()
        return epochs_to(target, x.epochs, x.validation_loss[:, rate])

    def epochs_to_accuracy(x):
        target = references[x.seed].validation_accuracy[:, at].max()
        return epochs_to(-target, x.epochs, -x.validation_accuracy[:, rate])

    def at_lowest_loss(x):
        return 100 * x.test_accuracy[x.validation_loss[:, rate].argmin(), rate]

    yield f"{rates[rate]:g}"
    yield over_seeds(lambda x: 100 * x.validation_accuracy[0, rate], ".1f")
    yield over_seeds(lambda x: x.validation_loss[0, rate], ".3f")
    yield over_seeds(epochs_to_loss, ".2f")
    yield over_seeds(epochs_to_accuracy, ".2f")
    yield over_seeds(lambda x: x.validation_loss[:, rate].min(), ".3f")
    yield over_seeds(at_lowest_loss, ".2f")
    yield over_seeds(lambda x: 100 * x.test_accuracy[-1, rate], ".2f")


def _calibration_cells(some: Sequence[Trained]):
    rate = best_rate(some)
    for name in CALIBRATION:
        yield interval([100 * x.before[name][0] for x in some], ".1f")
        yield interval([100 * x.trained[name][rate] for x in some], ".1f")


def _training_table(trained: dict[str, list[Trained]], rates: Sequence[float]) -> str:
    reference = reference_of(trained)
    if reference is None:
        return ""
    references = {x.seed: x for x in trained[reference.head]}
    name = label_of(reference.head)
    header = [
        "initial head",
        "learning rate",
        "initial validation accuracy, %",
        "initial validation loss",
        f"epochs to the best validation loss of {name}",
        f"epochs to the best validation accuracy of {name}",
        "best validation loss",
        "test accuracy there, %",
        "test accuracy at the end, %",
    ]
    calibrated = all(x.trained for some in trained.values() for x in some)
    if calibrated:
        for name in CALIBRATION.values():
            header += [f"{name} before training, %", "at the lowest validation loss, %"]
    rows = [
        [
            label_of(head),
            *_training_cells(some, rates, references, reference.rate),
            *(_calibration_cells(some) if calibrated else ()),
        ]
        for head, some in trained.items()
        if all(x.seed in references for x in some)
    ]
    return markdown(header, rows)


def make_tables(folder: Path) -> str:
    """Returns the tables of the first step and of training, as Markdown.

    Accuracies are in percent, losses mean cross-entropies in nats. Numbers of training
    are means over seeds with the half-width of their 95% t-interval, and every
    initialisation has the learning rate that is best for it on validation.

    Args:
      folder: a run folder.
    """
    rows = record.read_rows(folder)
    blocks = ["**Before the first step**", _first_step_table(rows)]
    training = _training_table(
        read_trained(folder), record.read_config(folder)["learning_rates"]
    )
    if training:
        blocks += ["**Training the head alone**", training]
    return "\n\n".join(blocks) + "\n"
