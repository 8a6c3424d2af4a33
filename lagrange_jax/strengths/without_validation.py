r"""Strengths chosen from the training data alone.

For a head there are also the evidence, generalised cross-validation and leave-one-out
of `lagrange_jax.ridge`; what is here needs no spectrum.

References:
  L. Brigato and S. Mougiakakou, "Twin: tuning learning rate and weight decay of deep
  homogeneous classifiers without validation", arXiv 2403.05532.
  H. Zou, T. Hastie and R. Tibshirani, "On the degrees of freedom of the lasso", The
  Annals of Statistics 35, 2007.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lagrange_jax._checks import require_count, require_kind, require_real
from lagrange_jax.training.grid import GridResult

__all__ = [
    "Choice",
    "choose_without_validation",
    "stein_risk",
]


class Choice(NamedTuple):
    """The run that was chosen from a grid.

    Attributes:
      index: its place along every axis that was chosen over, by name.
      values: the values of these axes there.
      is_separable: whether several runs fit the training data as well as the best, so
        that the norm decided.
    """

    index: dict[str, int]
    values: dict[str, Any]
    is_separable: bool


def choose_without_validation(
    result: GridResult,
    *,
    train_loss: ArrayLike | None = None,
    norm: ArrayLike | None = None,
    within: float = 0.05,
    seed_axes: tuple[str, ...] = ("key",),
) -> Choice:
    """Chooses, of the runs that fit the data as well as the best, the smallest norm.

    A run fits as well as the best if its training loss exceeds the least one by no
    more than `within` times the range from the least to that of the worst run. Where
    only the best run does, it is taken: data that no run separates are not overfitted,
    and training loss ranks the runs.

    Args:
      result: a grid of `TrainResult`; axes such as strengths and learning rates are
        chosen over. For one choice a size, `select` the size first.
      train_loss: training losses in the shape of the grid; None takes the last
        `train_loss` of a `TrainResult`.
      norm: norms of the parameters in the shape of the grid; None takes the root of
        the summed squares of the last `kernel_norm`.
      within: what counts as fitting as well.
      seed_axes: axes to average over.

    Returns:
      The `Choice`.

    Raises:
      TypeError: if the result is not a grid.
      ValueError: if losses or norms are missing or have another shape, every run
        diverged, or `within` is not between 0 and 1.
    """
    require_kind("result", result, GridResult)
    if not isinstance(within, int | float) or not 0 < within < 1:
        raise ValueError(f"expected within between 0 and 1; got {within!r}.")
    names = list(result.axes)
    values = result.values
    if train_loss is None:
        train_loss = getattr(values, "train_loss", np.zeros((0, 1)))[..., -1]
    if norm is None:
        norms = getattr(values, "kernel_norm", np.zeros((0, 1, 1)))[..., -1, :]
        norm = np.sqrt((np.asarray(norms) ** 2).sum(-1))
    shape = tuple(_length(result.axes[name]) for name in names)
    losses, norms = np.asarray(train_loss, float), np.asarray(norm, float)
    if losses.shape != shape or norms.shape != shape:
        raise ValueError(
            f"expected a training loss and a norm for each run of the grid {shape}; "
            f"got {losses.shape} and {norms.shape}."
        )
    over = tuple(i for i, name in enumerate(names) if name in seed_axes)
    kept = [name for name in names if name not in seed_axes]
    return _choose(losses.mean(over), norms.mean(over), kept, result.axes, within)


def _choose(losses, norms, names, axes, within):
    is_finite = np.isfinite(losses)
    if not is_finite.any():
        raise ValueError("expected a finite training loss; every run diverged.")
    least, worst = losses[is_finite].min(), losses[is_finite].max()
    fits = is_finite & (losses <= least + within * (worst - least))
    place = np.unravel_index(np.where(fits, norms, np.inf).argmin(), losses.shape)
    index = {name: int(i) for name, i in zip(names, place, strict=True)}
    values = {name: np.asarray(axes[name])[i] for name, i in index.items()}
    return Choice(index, values, bool(fits.sum() > 1))


def _length(axis):
    return len(jax.tree.leaves(axis)[0])


def stein_risk(
    train_loss: Float[ArrayLike, "*l"],
    num_nonzero: Float[ArrayLike, "*l"],
    noise_variance: Float[ArrayLike, ""] | float,
    num_examples: int,
) -> Float[Array, "*l"]:
    r"""Estimates, without bias, the error of L1 fits on the same inputs, new noise.

    $$ \frac1N \|t - \hat f\|^2 + \frac{2 \sigma^2}{N} \mathrm{df}, $$

    Stein's unbiased risk estimate plus the noise itself, where the degrees of freedom
    of the lasso are, without bias, the number of its weights that are not zero (with
    the bias, which counts as one). Take the strength at which it is least.

    Args:
      train_loss: mean squared errors of the fits on the training data.
      num_nonzero: weights that are not zero, exactly; `prox_l1` and `proximal_adam`
        leave such weights. Count the bias.
      noise_variance: $\sigma^2$; from the residuals of a fit with little bias, or of
        least squares over N - d - 1.
      num_examples: N.

    Returns:
      The estimate of the mean squared error.

    Raises:
      TypeError: if an argument is of another kind.
      ValueError: if a known noise variance is negative, or N is less than one.
    """
    require_real("train_loss", train_loss)
    require_real("num_nonzero", num_nonzero)
    require_real("noise_variance", noise_variance)
    require_count("num_examples", num_examples)
    if not isinstance(noise_variance, Tracer) and np.any(
        np.asarray(noise_variance) < 0
    ):
        raise ValueError(f"expected a noise variance; got {noise_variance}.")
    loss = jnp.asarray(train_loss)
    freedom = jnp.asarray(num_nonzero).astype(loss.dtype)
    variance = jnp.asarray(noise_variance).astype(loss.dtype)
    return loss + 2 * variance * freedom / num_examples
