"""Validation losses over strengths, and what a few seeds of them say."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from lagrange_jax._checks import require_real
from lagrange_jax.numerics.student import t_tail
from lagrange_jax.strengths.best import best_strength, require_strengths
from lagrange_jax.training.grid import GridResult

__all__ = ["LossCurves", "MeanOptimum", "dip_test", "loss_curves", "mean_optimum"]


class LossCurves(NamedTuple):
    """Validation losses of one grid of trainings.

    Attributes:
      losses: `[strengths, sizes, seeds]`, not finite where training diverged.
      strengths: the grid, increasing; the first may be 0, no penalty at all.
      sizes: numbers of examples, increasing.
    """

    losses: Float[np.ndarray, "strengths sizes seeds"]
    strengths: Float[np.ndarray, " strengths"]
    sizes: Float[np.ndarray, " sizes"]


class MeanOptimum(NamedTuple):
    """The lowest point of the mean curve over seeds, of every size.

    Attributes:
      log_strength: natural logarithm of the strength there.
      variance: its variance by the jackknife over seeds, and at least that of a
        quarter of a grid step; infinite for one seed.
      loss: the mean loss at the grid point nearest to it.
      is_low: whether it lies at the lower edge of the grid.
      is_high: whether it lies at the upper edge, or next to divergence.
    """

    log_strength: Float[np.ndarray, " sizes"]
    variance: Float[np.ndarray, " sizes"]
    loss: Float[np.ndarray, " sizes"]
    is_low: Bool[np.ndarray, " sizes"]
    is_high: Bool[np.ndarray, " sizes"]


def loss_curves(
    result: GridResult | ArrayLike,
    strengths: ArrayLike | None = None,
    sizes: ArrayLike | None = None,
) -> LossCurves:
    """Reads loss curves from the result of a grid, or takes them as arrays.

    Args:
      result: what `run_grid` returned, with an axis `strength`, its values the loss
        of each run or a `TrainResult`, whose last validation loss counts; all axes
        but `strength` and `num_examples` count as seeds. Or the losses themselves,
        `[strengths, sizes, seeds]`, or `[strengths, seeds]` for one size.
      strengths: of losses given as an array.
      sizes: of losses given as an array, or of a grid without an axis `num_examples`;
        a single number for one size.

    Returns:
      The `LossCurves`.

    Raises:
      TypeError: if an argument is of another kind.
      ValueError: if an axis is missing, shapes do not fit, or strengths or sizes are
        not increasing.
    """
    if isinstance(result, GridResult):
        losses, strengths, sizes = _read(result, sizes)
    else:
        require_real("losses", result)
        losses = np.asarray(result, float)
    if strengths is None or sizes is None:
        raise ValueError(
            "expected strengths and sizes with losses given as an array, and sizes "
            "with a grid that has no axis num_examples."
        )
    strengths, sizes = np.asarray(strengths, float), np.atleast_1d(sizes).astype(float)
    losses = losses[:, None] if losses.ndim == 2 and len(sizes) == 1 else losses
    curves = LossCurves(losses, strengths, sizes)
    _check(curves)
    return curves


def _read(result: GridResult, sizes: Any):
    axes, losses = dict(result.axes), result.values
    if hasattr(losses, "validation_loss"):
        if losses.validation_loss is None:
            raise ValueError(
                "expected runs with validation data; see choose_without_validation "
                "for runs without any."
            )
        losses = losses.validation_loss[..., -1]
    require_real("the values of the grid", losses)
    names = list(axes)
    if "strength" not in axes or np.ndim(losses) != len(names):
        raise ValueError(
            "expected a grid with an axis strength and one loss a run; got the axes "
            f"{names} and values of shape {np.shape(losses)}."
        )
    first = [name for name in ("strength", "num_examples") if name in axes]
    order = [names.index(name) for name in first]
    order += [i for i, name in enumerate(names) if name not in first]
    sizes = axes.get("num_examples", sizes)
    losses = np.transpose(np.asarray(losses, float), order)
    shape = len(axes["strength"]), np.size(sizes), -1
    return losses.reshape(shape), axes["strength"], sizes


def _check(curves: LossCurves) -> None:
    shape = len(curves.strengths), len(curves.sizes)
    if curves.losses.ndim != 3 or curves.losses.shape[:2] != shape:
        raise ValueError(
            "expected losses [strengths, sizes, seeds]; got "
            f"{curves.losses.shape} for {shape[0]} strengths and {shape[1]} sizes."
        )
    require_strengths(curves.strengths[curves.strengths != 0])
    if (curves.strengths[1:] <= 0).any() or len(curves.strengths) < 4:
        raise ValueError(
            "expected four strengths at least, of which the first alone may be 0; "
            f"got {curves.strengths.tolist()}."
        )
    if not (curves.sizes > 0).all() or (np.diff(curves.sizes) <= 0).any():
        raise ValueError(
            f"expected sizes, positive and increasing; got {curves.sizes.tolist()}."
        )


def mean_optimum(curves: LossCurves) -> MeanOptimum:
    """Finds the best strength of the mean curve of every size.

    Args:
      curves: the losses.

    Returns:
      The `MeanOptimum`. A strength of 0 is not a point of these curves.
    """
    start = int(curves.strengths[0] == 0)
    losses, grid = curves.losses[start:], curves.strengths[start:]
    means = np.stack([losses.mean(-1), *_without_each(losses)], -1)
    best = best_strength(jnp.asarray(means), grid)
    at, is_censored = np.log(np.asarray(best.strength, float)), best.is_censored[:, 0]
    num_seeds = losses.shape[-1]
    least = (np.diff(np.log(grid)).mean() / 4) ** 2
    variance = np.full(len(curves.sizes), np.inf)
    if num_seeds > 1:
        variance = np.maximum((num_seeds - 1) * at[:, 1:].var(1), least)
        variance = np.where(np.isfinite(variance), variance, np.inf)
    is_low = np.abs(at[:, 0] - np.log(grid[0])) < 1e-3
    is_censored = np.asarray(is_censored)
    loss = np.where(np.isfinite(means[..., 0]), means[..., 0], np.inf).min(0)
    return MeanOptimum(
        at[:, 0], variance, loss, is_censored & is_low, is_censored & ~is_low
    )


def dip_test(losses: Float[np.ndarray, "strengths seeds"]) -> tuple[float, float]:
    """Tests whether some strength beats the smallest one on seeds it is not chosen on.

    Each seed's curve is read at the strength that is best for the mean of the others,
    and compared with its own value at the smallest strength.

    Args:
      losses: curves of one size.

    Returns:
      The mean gain, and the p value that it is not positive; NaN for one seed.
    """
    losses = np.where(np.isfinite(losses), losses, np.nanmax(losses[losses < np.inf]))
    num_seeds = losses.shape[1]
    if num_seeds < 2:
        return float(losses[0, 0] - losses[:, 0].min()), np.nan
    chosen = [others.argmin() for others in _without_each(losses)]
    gains = losses[0] - losses[chosen, range(num_seeds)]
    if not gains.std() > 0:
        return float(gains.mean()), float(gains.mean() <= 0)
    t = gains.mean() / (gains.std(ddof=1) / num_seeds**0.5)
    return float(gains.mean()), float(t_tail(num_seeds - 1, t))


def _without_each(values: np.ndarray) -> list[np.ndarray]:
    """Means over the last axis without each of its members in turn."""
    count = values.shape[-1]
    if count < 2:
        return []
    return [np.delete(values, j, -1).mean(-1) for j in range(count)]
