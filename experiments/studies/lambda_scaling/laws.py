"""Best strengths and their laws, from the record alone, by three rules.

- "thesis": the strength of least validation loss on the grid, seed by seed, averaged
  over the seeds; the edge of the grid counts as an optimum.
- "seeds": the same with a parabola in the logarithm, and without the censored seeds.
- "mean curve": the lowest point of the mean validation loss of all seeds, the best
  strength for data not yet seen.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import record
from experiments.studies.lambda_scaling.cases import make_cases
from experiments.studies.lambda_scaling.config import Config
from lagrange_jax.training.power_law import (
    BestStrength,
    average_seeds,
    best_strength,
    fit_power_law,
)

__all__ = [
    "RULES",
    "Curves",
    "Law",
    "fit_choice",
    "fit_law",
    "read_config",
    "read_curves",
]

RULES = ("thesis", "seeds", "mean curve")
NUM_RESAMPLES = 1000


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
      interval: its bootstrap 95% interval over seeds.
      intercept: natural logarithm of the strength at N = 1.
      strength: `[sizes]` best strengths; NaN where all seeds are censored.
      error: `[sizes]` their standard errors.
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
    best = best_strength(curves.validation, curves.strengths, refine=rule != "thesis")
    if rule == "mean curve":
        return _fit_mean_curve(curves)
    if rule == "thesis":
        everything = best._replace(is_censored=jnp.zeros_like(best.is_censored))
        law = fit_choice(curves.sizes, everything)
    else:
        law = fit_choice(curves.sizes, best)
    return law._replace(**_count_edges(best, curves.strengths))


def fit_choice(sizes: np.ndarray, best: BestStrength) -> Law:
    """Fits strengths `[sizes, seeds]`, averaged over the seeds not censored."""
    fit, mean = fit_power_law(sizes, best), average_seeds(best)
    found = (fit.slope, fit.slope_interval, fit.intercept)
    found += (mean.mean, mean.standard_error)
    slope, interval, intercept, strength, error = map(np.asarray, found)
    return Law(
        float(slope),
        interval,
        float(intercept),
        strength,
        error,
        0,
        0,
        best.strength.size,
    )


def _count_edges(best: BestStrength, strengths) -> dict[str, int]:
    censored, middle = np.asarray(best.is_censored), np.sqrt(strengths[[0, -1]].prod())
    is_low = np.asarray(best.strength) < middle
    return {
        "num_low": int((censored & is_low).sum()),
        "num_high": int((censored & ~is_low).sum()),
        "num_curves": censored.size,
    }


@jax.jit
def _resampled_lines(validation, strengths, sizes, weights):
    """Slope, intercept and best strengths of weighted mean curves."""

    def fit(weights):
        mean = (validation * weights[None, None]).sum(-1) / weights.sum()
        best = best_strength(mean, strengths)
        column = BestStrength(best.strength[:, None], best.is_censored[:, None])
        law = fit_power_law(sizes, column, num_resamples=1)
        return law.slope, law.intercept, best

    return jax.vmap(fit)(weights)


def _fit_mean_curve(curves: Curves) -> Law:
    num_seeds = curves.validation.shape[-1]
    random = np.random.default_rng(0)
    drawn = random.multinomial(
        num_seeds, np.full(num_seeds, 1 / num_seeds), NUM_RESAMPLES
    )
    weights = np.concatenate([np.ones((1, num_seeds)), drawn])
    arrays = (curves.validation, curves.strengths, curves.sizes, weights)
    slopes, intercepts, best = _resampled_lines(*(jnp.asarray(x, "f4") for x in arrays))
    slopes, strengths = np.asarray(slopes), np.asarray(best.strength)
    own = BestStrength(best.strength[0], best.is_censored[0])
    finite = slopes[1:][np.isfinite(slopes[1:])]
    is_interval = num_seeds > 1 and len(finite) > 0
    return Law(
        float(slopes[0]),
        np.quantile(finite, [0.025, 0.975]) if is_interval else np.full(2, np.nan),
        float(intercepts[0]),
        np.where(own.is_censored, np.nan, strengths[0]),
        strengths[1:].std(0),
        **_count_edges(own, curves.strengths),
    )
