r"""What a head of a convex loss does not know, to second order (Laplace).

Around the least of $N L + N \mu \|W\|^2$, minus a log posterior density, the density is
taken for a normal one, with the Hessian there as its precision:

.. math:: P = \frac1\tau \sum_n a_n\, (\tilde\phi_n \tilde\phi_n^T) \otimes H_n
              + \frac{2 N \mu}{\tau} I_W,
          \qquad \tilde\phi_n = (\phi_n - m_\phi, 1),

with $H_n$ the second derivative of $\ell$ in the logits and $\tau$ the dispersion: one
where $\ell$ is minus a log likelihood (softmax, sigmoid, Poisson), $2 \sigma^2$ for
squared error, whose posterior is exact. The logits of new features have the covariance
$J P^{-1} J^T$, $J = \tilde\phi^T \otimes I$.

References:
  D. J. C. MacKay, "The evidence framework applied to classification networks", Neural
  Computation 4, 1992 (also the probabilities: $\sigma(z / \sqrt{1 + \pi v / 8})$).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax._checks import require_count, require_kind, require_shapes
from lagrange_jax.batches import as_batch, as_batches, is_arrays
from lagrange_jax.losses.record import Loss, bend
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.solvers.convex import read_loss
from lagrange_jax.solvers.risk import read_logits, split_inputs
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.types import Batch

__all__ = ["LaplacePosterior", "laplace", "predict_logits"]


class LaplacePosterior(NamedTuple):
    """A normal distribution of heads.

    Attributes:
      kernel: weights of the mean head.
      bias: bias of the mean head.
      mean_x: the features that the bias is seen from.
      covariance: of weights and bias, `[d + 1, k, d + 1, k]`, the bias last (and left
        out for a head without).
    """

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]
    mean_x: Float[Array, " d"]
    covariance: Float[Array, "e k e k"]


def laplace(
    examples: Any,
    head: HeadSolution,
    *,
    loss: Loss | str = "cross_entropy",
    use_bias: bool = True,
    dispersion: Float[Array, ""] | float = 1.0,
    batch_size: int = 1024,
) -> LaplacePosterior:
    r"""Returns the normal approximation of the posterior around a head.

    One pass over the examples, $O(N d^2 k^2)$, and a Cholesky factor of
    $((d + 1) k)^2$ numbers: for heads of some thousand weights.

    Args:
      examples: those that the head was solved for, as in `solve_convex`.
      head: a solution of that loss in the Euclidean norm; its multiplier, where it is
        positive, is half the strength of the prior.
      loss: the loss that it was solved for.
      use_bias: whether the head has a bias.
      dispersion: $\tau$, by which the loss is to be divided to be minus a log
        likelihood.
      batch_size: rows taken at once when examples are arrays.

    Returns:
      The `LaplacePosterior`. Softmax does not know the common part of its biases, which
      has no variance here and changes no probability. It is not finite where data and
      prior leave a direction free.

    Raises:
      TypeError: if head or examples are of another kind.
      ValueError: if their shapes do not agree.
    """
    require_kind("head", head, HeadSolution)
    require_shapes({"dispersion": ""}, {"dispersion": dispersion})
    require_count("batch_size", batch_size)
    data = as_batch(examples) if is_arrays(examples) else examples
    batches = as_batches(data, batch_size)
    k = head.kernel.shape[1]
    loss, _ = read_loss(batches.first, loss, k)
    if head.bias.shape != (k,):
        raise ValueError(
            f"expected a head with a bias of shape ({k},), one an output; got "
            f"{head.bias.shape}. Thresholds that are solved for are not supported."
        )
    features, _ = split_inputs(batches.first.inputs)
    require_shapes({"features": "n d"}, {"features": features}, d=len(head.kernel))
    means = batches.fold(_add_mean, _zero_mean(head.kernel))
    step = partial(_add_curvature, use_bias)
    total, mean_x = means[0], means[1] / jnp.where(means[0] > 0, means[0], 1)
    bias = head.bias + dot(mean_x, head.kernel)
    size = len(head.kernel) + use_bias
    zero = jnp.zeros((size, k, size, k), head.kernel.dtype)
    curvature = batches.fold(step, zero, head.kernel, bias, mean_x, loss)
    covariance = _invert(curvature, total, head.multiplier, loss, use_bias)
    covariance = jnp.asarray(dispersion, covariance.dtype) * covariance
    return LaplacePosterior(head.kernel, head.bias, mean_x, covariance)


def _zero_mean(kernel):
    return jnp.zeros((), kernel.dtype), jnp.zeros(len(kernel), kernel.dtype)


def _add_mean(state, batch):
    total, sum_x = state
    features, _ = split_inputs(batch.inputs)
    features = features.astype(sum_x.dtype)
    if batch.weights is None:
        return total + len(features), sum_x + features.sum(0)
    weights = batch.weights.astype(sum_x.dtype)
    features = jnp.where(weights[:, None] > 0, features, 0)
    return total + weights.sum(), sum_x + dot(weights, features)


def _add_curvature(use_bias, state, batch: Batch, kernel, bias, mean_x, loss):
    """Adds the Hessian of a batch, output by output."""
    k, dtype = len(bias), kernel.dtype
    rows, logits, example = read_logits(batch, (kernel, bias), mean_x, loss)
    if use_bias:
        rows = jnp.concatenate([rows, jnp.ones((len(rows), 1), dtype)], 1)
    weighted = rows if example.weights is None else example.weights[:, None] * rows

    def column(direction):
        direction = jnp.broadcast_to(direction[None], logits.shape)
        bent = bend(loss, logits, example.targets, direction)
        products = rows[:, :, None] * bent[:, None, :]
        return dot(weighted.T, products.reshape(len(rows), -1))

    columns = lax.map(column, jnp.eye(k, dtype=dtype))
    e = rows.shape[1]
    return state + columns.reshape(k, e, e, k).transpose(1, 0, 2, 3)


@partial(jax.jit, static_argnames="use_bias")
def _invert(curvature, count, multiplier, loss, use_bias):
    e, k = curvature.shape[:2]
    d = e - use_bias
    prior = jnp.broadcast_to(2 * count * jnp.maximum(multiplier, 0), (k,))
    prior = jnp.concatenate([jnp.broadcast_to(prior, (d, k)), jnp.zeros((e - d, k))])
    precision = curvature.reshape(e * k, e * k) + jnp.diag(prior.ravel())
    free = jnp.zeros((e, k), curvature.dtype)
    if use_bias and loss.kind.is_shift_invariant and k > 1:
        free = free.at[-1].set(k**-0.5)
    free = free.ravel()
    # A precision of its own for the direction that has none, taken out again.
    known = jnp.sum(jnp.diagonal(precision)[-k:])
    precision = precision + known * jnp.outer(free, free)
    factor = jax.scipy.linalg.cho_factor((precision + precision.T) / 2)
    identity = jnp.eye(e * k, dtype=precision.dtype)
    covariance = jax.scipy.linalg.cho_solve(factor, identity)
    return (covariance - jnp.outer(free, free) / known).reshape(curvature.shape)


def predict_logits(
    head: LaplacePosterior, features: Float[Array, "n d"]
) -> tuple[Float[Array, "n k"], Float[Array, "n k k"]]:
    """Returns the mean and the covariance of the logits of each row.

    Args:
      head: the posterior.
      features: inputs of the head.

    Raises:
      ValueError: if the features do not fit the head.
    """
    require_kind("head", head, LaplacePosterior)
    d = len(head.kernel)
    require_shapes({"features": "n d"}, {"features": features}, d=d)
    features = jnp.asarray(features, head.kernel.dtype)
    rows = features - head.mean_x[None]
    if len(head.covariance) > d:
        rows = jnp.concatenate([rows, jnp.ones((len(rows), 1), rows.dtype)], 1)
    covariance = jnp.einsum(
        "nd,diej,ne->nij", rows, head.covariance, rows, precision="highest"
    )
    return dot(features, head.kernel) + head.bias[None], covariance
