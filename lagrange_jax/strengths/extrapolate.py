r"""From the strengths of a sweep to the strength of the run that matters.

A free line through a few best strengths may do worse than no law at all, since its
exponent is uncertain where it counts. The line here has a prior on the exponent, from
measurements: one size is enough, and many sizes correct the prior as far as their
seeds agree.

References:
  X. Wang and L. Aitchison, "How to set AdamW's weight decay as you scale model and
  dataset size", ICML 2025.
"""

import enum
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from lagrange_jax._checks import require_kind
from lagrange_jax.numerics.student import t_half_width
from lagrange_jax.strengths.curves import (
    LossCurves,
    MeanOptimum,
    dip_test,
    loss_curves,
    mean_optimum,
)
from lagrange_jax.strengths.doubts import (
    doubts_of_distance,
    doubts_of_law,
    doubts_of_optima,
)
from lagrange_jax.strengths.power_law import require_confidence
from lagrange_jax.strengths.priors import EXPONENTS, RECIPE_EXPONENTS, Exponent, Penalty
from lagrange_jax.training.grid import GridResult

__all__ = ["Advice", "Extrapolation", "Recipe", "extrapolate_strength"]

# The law is followed from the nearest sizes: a size counts less by this scatter of its
# best strength, in logarithms, for every factor e between it and the wanted size.
DRIFT = 0.1

# Level of the test for a dip. To leave out a penalty that helps loses all of its gain,
# to keep one that does not loses little, since the best strength is then near none.
DIP_LEVEL = 0.1


class Recipe(NamedTuple):
    """How a network is trained, as far as strength depends on it.

    Attributes:
      batch_size: examples in a mini-batch.
      learning_rate: the (first) rate.
      num_epochs: passes over the data.
    """

    batch_size: float
    learning_rate: float
    num_epochs: float


class Advice(enum.StrEnum):
    """What the curves say about the penalty."""

    PENALTY_HELPS = "the best strength beats the smallest beyond the noise of the seeds"
    NO_PENALTY_NEEDED = (
        "no strength beats the smallest beyond the noise of the seeds: no penalty "
        "needed, and none is worth a sweep"
    )
    UNTESTED = "one seed cannot tell a dip from noise: run two at least"


class Extrapolation(NamedTuple):
    """A strength for a run that was not swept.

    Attributes:
      strength: the best strength expected; the smallest of the grid where no penalty
        is needed.
      interval: within which the best strength is expected; NaN for one seed or where
        no penalty is needed.
      loss: the validation loss expected there. With one size it is that of the sweep.
      exponent: of N, after the curves.
      exponent_interval: likewise with its interval.
      status: whether the penalty helps at all.
      warnings: sentences on what makes the number doubtful.
    """

    strength: float
    interval: Float[np.ndarray, "2"]
    loss: float
    exponent: float
    exponent_interval: Float[np.ndarray, "2"]
    status: Advice
    warnings: tuple[str, ...]


def extrapolate_strength(
    curves: LossCurves | GridResult,
    to_examples: float,
    *,
    penalty: Penalty = "l2",
    recipe: Recipe | None = None,
    to_recipe: Recipe | None = None,
    exponent: Exponent | None = None,
    confidence_level: float = 0.95,
    largest_factor: float = 10.0,
) -> Extrapolation:
    r"""Finds the strength for another number of examples, and says if one is needed.

    With $y_i$ the logarithm of the strength that is best for the mean curve of size
    $N_i$, the model is

    $$ y_i = \log \lambda^* + b \log(N_i / N) + e_i, \quad b \sim \mathcal N(m, s^2), $$

    where $e_i$ has the variance of the jackknife over seeds and grows with the
    distance from N, so that the nearest sizes lead where the law is not straight.
    With one size the prior alone carries it to N. From $(k - 1) N / k$ examples of a
    fold to all N is the same question.

    Beforehand the largest size is asked whether some strength beats the smallest on
    seeds that it was not chosen on (one-sided t-test, level 0.1). If not, the answer
    is the smallest strength of the grid, and the status says so.

    Another recipe: the optimum of a coupled penalty is that of an objective, which
    knows neither batch size nor rate, so the strength stays. Decoupled decay moves with
    the batch size to the power 0.4, as measured (`RECIPE_EXPONENTS`): less than the 1
    of a constant timescale $B / (\eta \lambda N)$, and not with the rate at all. What
    is uncertain in these powers widens the interval. A change of the number of epochs
    is warned of.

    Args:
      curves: validation losses of a sweep: a `GridResult`, or `loss_curves` of
        anything else.
      to_examples: number of examples N of the wanted run.
      penalty: "l2" or "l1" for a penalty in the loss, "decoupled" for AdamW's decay.
      recipe: how the sweep was trained; needed with `to_recipe`.
      to_recipe: how the wanted run is trained; None for the same.
      exponent: prior on the exponent; None takes that of `EXPONENTS`.
      confidence_level: of the intervals.
      largest_factor: beyond this factor in N from the largest size, or the smallest,
        there is a warning.

    Returns:
      The `Extrapolation`.

    Raises:
      TypeError: if an argument is of another kind.
      ValueError: if an option is out of range, or no size has a finite loss.

    Example:
      >>> strengths, sizes = np.geomspace(1e-4, 1.0, 17), np.array([100, 200, 400])
      >>> seeds = np.random.default_rng(0).normal(size=(3, 4))
      >>> best = np.log(2 * sizes ** (-2 / 3))[:, None] + 0.1 * seeds
      >>> losses = 1 + 0.01 * (np.log(strengths)[:, None, None] - best) ** 2
      >>> curves = lj.strengths.loss_curves(losses, strengths, sizes)
      >>> found = lj.extrapolate_strength(curves, 1600)
      >>> print(f"{found.strength:.3f}", found.status.name)
      0.015 PENALTY_HELPS
    """
    if isinstance(curves, GridResult):
        curves = loss_curves(curves)
    _check(curves, to_examples, penalty, recipe, to_recipe, largest_factor)
    require_confidence(confidence_level)
    prior = EXPONENTS[penalty] if exponent is None else exponent
    require_kind("exponent", prior, Exponent)
    optimum, num_seeds = mean_optimum(curves), curves.losses.shape[-1]
    # Few seeds know their own scatter badly: Student's t, in units of the normal.
    quantile = float(t_half_width(np.inf, confidence_level))
    widened = float(t_half_width(max(num_seeds - 1, 1), confidence_level)) / quantile
    optimum = optimum._replace(variance=widened**2 * optimum.variance)
    offset = np.log(curves.sizes / to_examples)
    (log_strength, slope), covariance = _line(optimum, offset, prior)
    shift, variance = _recipe_shift(penalty, recipe, to_recipe)
    log_strength += shift
    covariance[0, 0] += variance
    errors = quantile * np.sqrt(np.diag(covariance))
    ends = np.array([-1.0, 1.0])
    found = Extrapolation(
        strength=float(np.exp(log_strength)),
        interval=np.exp(log_strength + errors[0] * ends),
        loss=_predicted_loss(optimum.loss, curves.sizes, to_examples),
        exponent=float(slope),
        exponent_interval=slope + errors[1] * ends,
        status=_advice(curves),
        warnings=tuple(
            [
                *doubts_of_optima(curves, optimum),
                *doubts_of_distance(curves.sizes, to_examples, largest_factor),
                *doubts_of_law(optimum, curves.sizes, slope, quantile),
                *_doubts_of_recipe(recipe, to_recipe),
            ]
        ),
    )
    if num_seeds < 2:
        found = found._replace(interval=np.full(2, np.nan))
    if found.status is Advice.NO_PENALTY_NEEDED:
        smallest = float(curves.strengths[0])
        return found._replace(strength=smallest, interval=np.full(2, np.nan))
    return found


def _check(curves, to_examples, penalty, recipe, to_recipe, largest_factor):
    require_kind("curves", curves, LossCurves)
    if penalty not in get_args(Penalty):
        raise ValueError(
            f"expected penalty to be one of {get_args(Penalty)}; got {penalty!r}."
        )
    for name, value in {
        "to_examples": to_examples,
        "largest_factor": largest_factor,
    }.items():
        is_number = isinstance(value, int | float | np.number)
        if not is_number or not 0 < float(value) < np.inf:
            raise ValueError(f"expected {name} as a positive number; got {value!r}.")
    if not np.isfinite(curves.losses).any((0, 2)).all():
        raise ValueError("expected a finite loss at every size; all runs diverged.")
    if (recipe is None) != (to_recipe is None):
        raise ValueError(
            "expected recipe, of the sweep, and to_recipe, of the wanted run, together."
        )
    for value in (recipe, to_recipe):
        if value is not None:
            require_kind("recipe", value, Recipe)
            if not all(np.isfinite(x) and x > 0 for x in value):
                raise ValueError(f"expected a recipe of positive numbers; got {value}.")


def _line(optimum: MeanOptimum, offset, prior: Exponent):
    """Mean and covariance of log strength at offset 0 and of the exponent."""
    use = ~(optimum.is_low | optimum.is_high)
    use = use if use.any() else np.ones_like(use)
    x, y = offset[use], optimum.log_strength[use]
    spread = np.where(np.isfinite(optimum.variance[use]), optimum.variance[use], 1.0)
    spread = spread + (DRIFT * x) ** 2
    design = np.stack([np.ones_like(x), x], 1)
    precision = design.T @ (design / spread[:, None])
    # A fixed exponent is one of very great precision.
    certainty = 1 / max(prior.std, 1e-6) ** 2
    precision += np.diag([0.0, certainty])
    covariance = np.linalg.inv(precision)
    right = design.T @ (y / spread) + np.array([0.0, certainty * prior.mean])
    return covariance @ right, covariance


def _recipe_shift(penalty, recipe, to_recipe) -> tuple[float, float]:
    """What another recipe adds to the log strength: mean and variance."""
    if recipe is None:
        return 0.0, 0.0
    priors = [RECIPE_EXPONENTS[penalty][field] for field in Recipe._fields]
    steps = np.log(np.divide(to_recipe, recipe))
    means, stds = np.transpose(priors)
    return float(means @ steps), float((stds * steps) @ (stds * steps))


def _predicted_loss(losses, sizes, to_examples) -> float:
    """The line through the last two sizes, linear in 1 / sqrt(N)."""
    if len(sizes) < 2:
        return float(losses[-1])
    x = sizes[-2:] ** -0.5
    slope = (losses[-1] - losses[-2]) / (x[1] - x[0])
    return float(losses[-1] + slope * (to_examples**-0.5 - x[1]))


def _advice(curves: LossCurves) -> Advice:
    _, p_value = dip_test(curves.losses[:, -1])
    if np.isnan(p_value):
        return Advice.UNTESTED
    is_dip = p_value < DIP_LEVEL
    return Advice.PENALTY_HELPS if is_dip else Advice.NO_PENALTY_NEEDED


def _doubts_of_recipe(recipe, to_recipe):
    if recipe is not None and recipe.num_epochs != to_recipe.num_epochs:
        yield (
            f"{to_recipe.num_epochs:g} epochs instead of {recipe.num_epochs:g}: the "
            "strength is kept, which is right only once training comes to rest."
        )
