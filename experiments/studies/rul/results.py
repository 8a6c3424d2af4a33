"""Results of the RUL study as tables, from the record alone."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common import record
from experiments.common.curves import epochs_to
from experiments.common.tables import interval, markdown
from experiments.studies.rul.methods import LABELS, METHODS

__all__ = ["REFERENCE", "Result", "make_table", "read_results", "references", "saved"]

REFERENCE = "kaiming"
"""The baseline whose best validation loss is the target for all."""

ONE_LINE = "zero_bias"
"""The baseline that costs nothing."""

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
      spread: `[m, 2]` variance of the head's output and inputs; empty in old records.
      distance: `[m, layers]` of each layer from where it ends; likewise.
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
    spread: np.ndarray
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
        for name in ("spread", "distance"):
            curve[name] = arrays.get(f"{trained['name']}/{name}", np.empty(0))
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
            )
        )
    return {key: _best_rate(by_rate.values()) for key, by_rate in results.items()}


def _best_rate(runs: Iterable[list[Result]]) -> list[Result]:
    """Judged on the seeds that all rates have so far."""
    runs = list(runs)
    seeds = set.intersection(*({x.seed for x in some} for some in runs))

    def score(some: list[Result]) -> float:
        return _mean_best([x for x in some if x.seed in seeds] or some)

    return min(runs, key=score)


def _needed(one: Result, reference: Result) -> float:
    """Epochs until the best validation loss of the reference."""
    return epochs_to(reference.validation.min(), one.epochs, one.validation)


def saved(one: Result, reference: Result) -> float:
    """Returns the share of the reference's epochs to its best that is saved, in %.

    Minus infinity where that is never reached, NaN where the reference begins with it.
    """
    own = _needed(reference, reference)
    return 100 * (1 - _needed(one, reference) / own) if own > 0 else float("nan")


def references(
    results: Results, scale: float, method: str = REFERENCE
) -> dict[int, Result]:
    """Returns a baseline's results by seed; a stop may have left some out."""
    return {x.seed: x for x in results.get((method, scale), [])}


def _best_random(results: Results, scale: float) -> dict[int, Result]:
    """The random head that trains best, on the seeds that have all random heads."""
    random = [results[m, scale] for m in RANDOM if (m, scale) in results]
    by_seed = defaultdict(list)
    for one in itertools.chain(*random):
        by_seed[one.seed].append(one)
    return {
        seed: min(some, key=lambda x: x.validation.min())
        for seed, some in by_seed.items()
        if len(some) == len(random)
    }


def _compare(
    value: Callable[[Result, Result], float],
    some: Sequence[Result],
    others: dict[int, Result],
    form: str,
) -> str:
    """Over the seeds that both have; blank where they share none."""
    values = [value(x, others[x.seed]) for x in some if x.seed in others]
    return interval(values, form) if values else ""


def _cells(results: Results, some: Sequence[Result], scales: Sequence[float]):
    reference = references(results, some[0].scale)

    def over_seeds(value: Callable[[Result], float], form: str) -> str:
        return interval([value(x) for x in some], form)

    yield f"{some[0].rate:g}"
    yield f"{np.mean([x.norm_sq for x in some]):.3g}"
    yield f"{np.mean([np.sum(x.head[-1, :-1] ** 2) for x in some]):.3g}"
    yield over_seeds(lambda x: x.train[0] ** 0.5, ".1f")
    yield over_seeds(lambda x: x.validation[0] ** 0.5, ".1f")
    yield _compare(_needed, some, reference, ".2f")
    yield _compare(saved, some, reference, ".0f")
    yield _compare(saved, some, _best_random(results, some[0].scale), ".0f")
    yield _compare(saved, some, references(results, some[0].scale, ONE_LINE), ".0f")
    if len(scales) > 1:
        yield _compare(saved, some, _best_references(results, scales), ".0f")
    yield over_seeds(lambda x: x.validation.min() ** 0.5, ".1f")
    yield over_seeds(lambda x: x.validation[-1] ** 0.5, ".1f")
    ends = [x.validation[-1] ** 0.5 for x in some]
    yield f"{np.std(ends, ddof=1):.2f}" if len(ends) > 1 else ""
    yield over_seeds(lambda x: x.test_rmse, ".1f")
    yield over_seeds(lambda x: x.nasa_score, ".0f")


def _best_references(results: Results, scales: Sequence[float]) -> dict[int, Result]:
    """The reference on its best scale, judged on the seeds of all its scales."""
    found = [x for x in (references(results, s) for s in scales) if x]
    seeds = set.intersection(*map(set, found)) if found else set()
    if not seeds:
        return {}
    return min(found, key=lambda by_seed: _mean_best([by_seed[i] for i in seeds]))


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
            groups.setdefault(twins.pop(), []).append(method)
        else:
            groups.setdefault(method, [])
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
        f"saving against the {LABELS[ONE_LINE]}, %",
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
    are compared seed by seed, on the seeds that both have. A method that began like
    another one on every seed was not trained again and stands in the other's line.
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
