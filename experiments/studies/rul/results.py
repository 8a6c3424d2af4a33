"""Results of the RUL study as tables, from the record alone."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common import record
from experiments.common.curves import epochs_to
from experiments.common.tables import interval, markdown
from experiments.studies.rul.methods import LABELS, METHODS

__all__ = ["REFERENCE", "Result", "make_table", "read_results"]

REFERENCE = "kaiming"
"""The baseline whose best validation loss is the target for all."""

RANDOM = ("kaiming", "xavier", "lecun", "orthogonal")
"""Random heads, of which the best on a seed is a stronger baseline."""


class Result(NamedTuple):
    """One trained network; a row that began like another one has its curve.

    Attributes:
      method: name of the initialisation.
      scale: what the targets were divided by.
      rate: learning rate.
      seed: the seed.
      twin: the method that began with the same head and was trained instead, or "".
      norm_sq: squared norm of the head's kernel before training.
      multiplier: KKT multiplier of a solved head, else NaN.
      test_rmse: on the test engines after training, cycles.
      nasa_score: the same, NASA's score.
      epochs: `[m]` when the losses were measured.
      validation: `[m]` mean squared errors, cycles squared.
      train: `[m]` the same on the training windows.
      head: `[m, d + 1]` kernel and bias of the head.
      distance: `[m, layers]` of each layer from where it ends; empty in old records.
    """

    method: str
    scale: float
    rate: float
    seed: int
    twin: str
    norm_sq: float
    multiplier: float
    test_rmse: float
    nasa_score: float
    epochs: np.ndarray
    validation: np.ndarray
    train: np.ndarray
    head: np.ndarray
    distance: np.ndarray


Results = dict[tuple[str, float], list[Result]]


def read_results(folder: Path) -> Results:
    """Returns the results of every method and target scale, by seed, at its best rate.

    Best is the lowest validation loss of a run, on average over the seeds.
    """
    rows = {row["name"]: row for row in record.read_rows(folder)}
    arrays = record.read_arrays(folder)
    results: Any = defaultdict(lambda: defaultdict(list))
    order = list(METHODS)
    for row in sorted(
        rows.values(), key=lambda row: (order.index(row["method"]), row["seed"])
    ):
        trained = rows[row["same_as"] or row["name"]]
        curve = {
            name: arrays[f"{trained['name']}/{name}"]
            for name in ("epochs", "validation", "train", "head")
        }
        distance = arrays.get(f"{trained['name']}/distance", np.empty(0))
        results[row["method"], row["scale"]][row["rate"]].append(
            Result(
                method=row["method"],
                scale=row["scale"],
                rate=row["rate"],
                seed=row["seed"],
                twin=trained["method"] if row["same_as"] else "",
                norm_sq=row["norm_sq"],
                multiplier=row.get("multiplier", np.nan),
                test_rmse=trained["test_rmse"],
                nasa_score=trained["nasa_score"],
                **curve,
                distance=distance,
            )
        )
    return {key: _best_rate(by_rate.values()) for key, by_rate in results.items()}


def _best_rate(runs: Iterable[list[Result]]) -> list[Result]:
    """Of the rates that were run on all seeds so far."""
    runs = list(runs)
    seeds = max(len(some) for some in runs)
    return min((some for some in runs if len(some) == seeds), key=_mean_best)


def _epochs_to_reference(results: Results, result: Result, scale: float) -> float:
    """Epochs until the best validation loss of the reference on the same seed."""
    for other in results[REFERENCE, scale]:
        if other.seed == result.seed:
            target = other.validation.min()
            return epochs_to(target, result.epochs, result.validation)
    return np.nan


def _saving_over_best(results: Results, some: Sequence[Result], scale: float) -> str:
    """Against the random head that trains best on the same seed."""
    saved = []
    for one in some:
        others = [x for m in RANDOM for x in results.get((m, scale), [])]
        others = [x for x in others if x.seed == one.seed]
        best = min(others, key=lambda x: x.validation.min())
        target = best.validation.min()
        needed = epochs_to(target, one.epochs, one.validation)
        reference = epochs_to(target, best.epochs, best.validation)
        saved.append(100 * (1 - needed / reference))
    return interval(saved, ".0f")


def _saving(results: Results, some: Sequence[Result], scale: float) -> str:
    own = [_epochs_to_reference(results, x, scale) for x in some]
    references = {x.seed: x for x in results[REFERENCE, scale]}
    reference = [_epochs_to_reference(results, references[x.seed], scale) for x in some]
    saved = 100 * (1 - np.array(own) / np.array(reference))
    return interval(saved.tolist(), ".0f")


def _cells(results: Results, some: Sequence[Result], scales: Sequence[float]):
    scale = some[0].scale

    def over_seeds(value: Callable[[Result], float], form: str) -> str:
        return interval([value(x) for x in some], form)

    yield f"{some[0].rate:g}"
    yield f"{np.mean([x.norm_sq for x in some]):.3g}"
    yield f"{np.mean([np.sum(x.head[-1, :-1] ** 2) for x in some]):.3g}"
    yield over_seeds(lambda x: x.train[0] ** 0.5, ".1f")
    yield over_seeds(lambda x: x.validation[0] ** 0.5, ".1f")
    yield over_seeds(lambda x: _epochs_to_reference(results, x, scale), ".2f")
    yield _saving(results, some, scale)
    yield _saving_over_best(results, some, scale)
    if len(scales) > 1:
        best = min(scales, key=lambda s: _mean_best(results[REFERENCE, s]))
        yield _saving(results, some, best)
    yield over_seeds(lambda x: x.validation.min() ** 0.5, ".1f")
    yield over_seeds(lambda x: x.validation[-1] ** 0.5, ".1f")
    ends = [x.validation[-1] ** 0.5 for x in some]
    yield f"{np.std(ends, ddof=1):.2f}" if len(ends) > 1 else ""
    yield over_seeds(lambda x: x.test_rmse, ".1f")
    yield over_seeds(lambda x: x.nasa_score, ".0f")


def _mean_best(some: Sequence[Result]) -> float:
    return float(np.mean([x.validation.min() for x in some]))


def _originals(results: Results, scale: float) -> dict[str, list[str]]:
    """Methods that were trained, each with those that always began alike."""
    groups: dict[str, list[str]] = {}
    for (method, s), some in results.items():
        twins = {x.twin for x in some}
        if s != scale:
            continue
        if len(twins) == 1 and twins != {""}:
            groups[twins.pop()].append(method)
        else:
            groups[method] = []
    return groups


def _header(scales: Sequence[float]) -> list[str]:
    both = [f"saving against {LABELS[REFERENCE]}'s best scale, %"]
    return [
        "initialisation",
        "learning rate",
        "norm² of the head",
        "the same at the end",
        "initial training RMSE",
        "initial validation RMSE",
        f"epochs to {LABELS[REFERENCE]}'s best validation loss",
        "saving, %",
        "saving against the seed's best random head, %",
        *(both if len(scales) > 1 else []),
        "best validation RMSE",
        "validation RMSE at the end",
        "its standard deviation over seeds",
        "test RMSE",
        "NASA score",
    ]


def make_table(results: Results) -> str:
    """Returns one Markdown table a target scale.

    Errors are in cycles. Every number is the mean over seeds with the half-width of
    its 95% t-interval, or one number a seed where there are two; losses and epochs
    are compared seed by seed. A method that began like another one on every seed was
    not trained again and stands in the other's line.
    """
    scales = sorted({scale for _, scale in results}, reverse=True)
    blocks = []
    for scale in scales:
        header = _header(scales)
        title = "Raw targets" if scale == 1 else f"Targets divided by {scale:g}"
        lines = []
        for method, twins in _originals(results, scale).items():
            names = "; the same head: " + ", ".join(LABELS[x] for x in twins)
            label = LABELS[method] + (names if twins else "")
            cells = [label, *_cells(results, results[method, scale], scales)]
            lines.append(cells)
        blocks.append(f"**{title}**\n\n{markdown(header, lines)}")
    return "\n\n".join(blocks) + "\n"
