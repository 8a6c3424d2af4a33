"""Best strengths and their laws, from the record alone, by three rules.

- "thesis": the strength of least validation loss on the grid, seed by seed, averaged
  over the seeds; the edge of the grid counts as an optimum.
- "seeds": a parabola in the logarithm, seed by seed, and the censored regression of
  `fit_power_law`.
- "mean curve": the lowest point of the mean validation loss of all seeds, the best
  strength for data not yet seen.

Intervals are Student's t with the jackknife over seeds.
"""

import warnings
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.common import record
from experiments.studies.lambda_scaling.cases import make_cases
from experiments.studies.lambda_scaling.config import Config
from lagrange_jax.strengths import (
    BestStrength,
    best_strength,
    fit_power_law,
)

__all__ = [
    "RULES",
    "Curves",
    "Law",
    "fit_choice",
    "fit_law",
    "local_slopes",
    "paired_difference",
    "read_config",
    "read_curves",
]

RULES = ("thesis", "seeds", "mean curve")


class Curves(NamedTuple):
    """Losses over strengths.

    Attributes:
      strengths: `[strengths]`.
      sizes: `[sizes]` numbers of examples.
      train: `[strengths, sizes, seeds]`.
      validation: `[strengths, sizes, seeds]`.
    """

    strengths: np.ndarray
    sizes: np.ndarray
    train: np.ndarray
    validation: np.ndarray


class Law(NamedTuple):
    """A power law of the best strength.

    Attributes:
      slope: exponent of the number of examples.
      interval: its 95% interval.
      intercept: natural logarithm of the strength at N = 1.
      strength: `[sizes]` best strengths by the rule; NaN where all are censored.
      error: `[sizes]` their standard errors over seeds.
      num_low: curves whose best strength is the smallest of the grid.
      num_high: the same at the largest.
      num_curves: curves in all.
    """

    slope: float
    interval: np.ndarray
    intercept: float
    strength: np.ndarray
    error: np.ndarray
    num_low: int
    num_high: int
    num_curves: int


def read_config(folder: Path) -> Config:
    """Returns the configuration of a run."""
    fields: dict[str, Any] = record.read_config(folder)
    for name, value in fields.items():
        fields[name] = tuple(value) if isinstance(value, list) else value
    return Config(**fields)


def read_curves(folder: Path) -> dict[str, Curves]:
    """Returns the curves of every finished case, by its name."""
    arrays, found = record.read_arrays(folder), defaultdict(list)
    for row in record.read_rows(folder):
        if "case" in row:
            found[row["case"]].append(arrays[row["name"]])
    return {
        case.name: Curves(
            case.strengths,
            np.array(case.sizes),
            *np.stack(found[case.name], -1).astype(float),
        )
        for case in make_cases(read_config(folder))
        if case.name in found
    }


def fit_law(curves: Curves, rule: str) -> Law:
    """Fits the law of the best strength.

    Args:
      curves: losses over strengths.
      rule: one of `RULES`.

    Returns:
      The `Law`.
    """
    find = partial(best_strength, strengths=curves.strengths, refine=rule != "thesis")
    best = find(jnp.asarray(curves.validation))
    if rule == "seeds":
        return fit_choice(curves.sizes, best)._replace(
            **_count_edges(best, curves.strengths)
        )
    if rule == "thesis":
        own = best
        means = _without_each(np.asarray(best.strength))
    else:
        losses = np.stack(_without_each(curves.validation), -1)
        mean_best = find(jnp.asarray(losses))
        strength = np.where(mean_best.is_censored, np.nan, mean_best.strength)
        own, means = find(jnp.asarray(losses[..., :1])), list(strength.T)
    law = _line_through(curves.sizes, np.stack(means))
    return law._replace(**_count_edges(own, curves.strengths))


def fit_choice(sizes: np.ndarray, best: BestStrength) -> Law:
    """Fits strengths `[sizes, seeds]` by `fit_power_law`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the slope is printed
        law = fit_power_law(sizes, best)
    logs = np.log(np.where(best.is_censored, np.nan, best.strength))
    count = np.maximum((~np.isnan(logs)).sum(1), 1)
    mean = np.where(np.isnan(logs).all(1), np.nan, np.nansum(logs, 1) / count)
    spread = np.nansum((logs - mean[:, None]) ** 2, 1) / np.maximum(count - 1, 1)
    error = np.exp(mean) * np.sqrt(spread / count)
    slope, intercept = float(law.slope), float(law.intercept)
    interval = np.asarray(law.slope_interval)
    return Law(slope, interval, intercept, np.exp(mean), error, 0, 0, logs.size)


def paired_difference(first: Curves, second: Curves, rule: str) -> Law:
    """Slope of the first minus that of the second, on the same seeds and sizes."""
    means = []
    for curves in (first, second):
        find = partial(best_strength, strengths=curves.strengths)
        if rule == "thesis":
            best = find(jnp.asarray(curves.validation), refine=False)
            means.append(_without_each(np.asarray(best.strength)))
        else:
            losses = np.stack(_without_each(curves.validation), -1)
            means.append(list(np.asarray(find(jnp.asarray(losses)).strength).T))
    return _line_through(first.sizes, np.stack(means[0]) / np.stack(means[1]))


def local_slopes(curves: Curves, rule: str, split: int) -> tuple[Law, Law, float]:
    """Laws of the sizes up to `split` and from there, and the curvature in log N."""
    halves = []
    for part in (curves.sizes <= split, curves.sizes >= split):
        some = curves._replace(
            sizes=curves.sizes[part],
            train=curves.train[:, part],
            validation=curves.validation[:, part],
        )
        halves.append(fit_law(some, rule))
    strength = fit_law(curves, rule).strength
    known = np.isfinite(strength)
    logs = np.log(curves.sizes[known]), np.log(strength[known])
    # Three points say nothing of a bend beside their scatter.
    bend = np.polyfit(*logs, 2)[0] if known.sum() > 3 else np.nan
    return *halves, float(bend)


def _without_each(values: np.ndarray) -> list[np.ndarray]:
    """The mean over the last axis, and that without each of its members."""
    total, count = values.sum(-1), values.shape[-1]
    others = [(total - values[..., j]) / max(count - 1, 1) for j in range(count)]
    return [total / count, *others]


def _line_through(sizes: np.ndarray, strengths: np.ndarray) -> Law:
    """The line through `[sizes]` strengths, with the jackknife of those that follow."""
    logs = np.log(np.where(strengths > 0, strengths, np.nan))  # a seed alone has zeros
    lines = np.array([_line(np.log(sizes), x) for x in logs])
    (slope, intercept), others = lines[0], lines[1:]
    num_seeds = len(others)
    error = np.sqrt((num_seeds - 1) * others[:, 0].var())
    half = stats.t.ppf(0.975, num_seeds - 1) * error if num_seeds > 1 else np.nan
    scatter = np.sqrt((num_seeds - 1) * strengths[1:].var(0))
    interval = slope + half * np.array([-1.0, 1.0])
    return Law(slope, interval, intercept, strengths[0], scatter, 0, 0, num_seeds)


def _line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    known = np.isfinite(y)
    if known.sum() < 2:
        return np.full(2, np.nan)
    return np.polyfit(x[known], y[known], 1)


def _count_edges(best: BestStrength, strengths) -> dict[str, int]:
    censored, middle = np.asarray(best.is_censored), np.sqrt(strengths[[0, -1]].prod())
    is_low = np.asarray(best.strength) < middle
    return {
        "num_low": int((censored & is_low).sum()),
        "num_high": int((censored & ~is_low).sum()),
        "num_curves": censored.size,
    }
