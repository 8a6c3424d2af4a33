r"""The evidence of a trained network, by Laplace's method: no held-out examples.

References:
  D. J. C. MacKay, "A practical Bayesian framework for backpropagation networks",
  Neural Computation 4, 1992.
  A. Immer, M. Bauer, V. Fortuin, G. Rätsch, M. E. Khan, "Scalable marginal likelihood
  estimation for model selection in deep learning", ICML 2021 (Gauss-Newton curvature).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lagrange_jax._checks import (
    require_callable,
    require_count,
    require_kind,
    require_real,
)
from lagrange_jax.batches import as_batches
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.training.objective import LossFn, example_losses, replace_unweighted
from lagrange_jax.transforms.masks import Mask
from lagrange_jax.types import Batch, Model, Variables

__all__ = ["negative_log_laplace_evidence"]


def negative_log_laplace_evidence(
    model: Model,
    loss_fn: LossFn,
    variables: Variables,
    batch: Batch,
    strength: Float[ArrayLike, ""] | float,
    *,
    mask: Mask | None = None,
    estimate_noise: bool = False,
    eval_batch_size: int = 64,
) -> Float[Array, ""]:
    r"""Returns the negative log evidence of an L2 strength, an example.

    At the minimum $w$ of $J(w) = L(w) + \tfrac s2 \|w\|^2$ the mean loss is replaced
    by its quadratic model with the Gauss-Newton matrix $G$, and the weights are
    integrated out. For a loss that is a negative log-likelihood, such as the
    cross-entropy,

    $$ J(w) + \frac{1}{2 N} \log\det (I + G / s), $$

    and with `estimate_noise`, for a squared error summed over $k$ outputs whose noise
    has an unknown variance, up to a constant,

    $$ \frac k2 \log J(w) + \frac{1}{2 N} \log\det (I + G / s). $$

    Train for several strengths, and take the one at which this is least. Parameters
    outside of the mask keep their values. Network and strength must belong together:
    away from the minimum of $J$ the formula does not hold.

    Args:
      model: the network, as at inference.
      loss_fn: one loss an example, twice differentiable by the outputs.
      variables: trained with this strength.
      batch: all the examples that it was trained on; N is their total weight.
      strength: $s$, in the mean loss, as in `add_l2_penalty(s, mask=mask)`.
      mask: which parameters are penalised; None for all of them.
      estimate_noise: whether the loss is a squared error of unknown noise.
      eval_batch_size: examples whose Jacobians are held at once.

    Returns:
      The value; infinite or NaN where network or strength are of no use. Memory and
      time are those of a P x P matrix and its Cholesky factor, P penalised numbers,
      some thousands at most. In single precision, strengths below 1e-6 of the largest
      curvature are lost in rounding.

    Raises:
      TypeError: if an argument is of another kind.
      ValueError: if the mask selects nothing.
    """
    require_kind("model", model, Model)
    require_callable("loss_fn", loss_fn)
    require_kind("batch", batch, Batch)
    require_real("strength", strength)
    require_count("eval_batch_size", eval_batch_size)
    weights, replace = _penalised(variables["params"], mask)

    def outputs(weights, inputs):
        changed = {**variables, "params": replace(weights)}
        return model.apply(changed, jax.tree.map(lambda x: x[None], inputs))[0]

    def example_loss(output, target):
        return example_losses(loss_fn, output[None], target[None])[0]

    def curvature(inputs, target):
        jacobian = jax.jacrev(outputs)(weights, inputs)
        output = outputs(weights, inputs)
        hessian = jax.hessian(example_loss)(output, target)
        size = output.size
        jacobian, hessian = jacobian.reshape(size, -1), hessian.reshape(size, size)
        return jacobian, dot(hessian, jacobian), example_loss(output, target)

    def add(totals, block):
        count, loss, matrix = totals
        block = replace_unweighted(block)
        found = jax.vmap(curvature)(block.inputs, block.targets)
        left, right, losses = (x.astype(weights.dtype) for x in found)
        share = jnp.ones(len(losses)) if block.weights is None else block.weights
        share = share.astype(weights.dtype)
        right = right * share[:, None, None]
        left, right = (x.reshape(-1, len(weights)) for x in (left, right))
        return (
            count + share.sum(),
            loss + dot(share, losses),
            matrix + dot(left.T, right),
        )

    zero = jnp.zeros((), weights.dtype)
    start = zero, zero, jnp.zeros((len(weights),) * 2, weights.dtype)
    count, loss, matrix = as_batches(batch, eval_batch_size).fold(add, start)
    strength = jnp.asarray(strength, weights.dtype)
    total = loss / count + strength / 2 * dot(weights, weights)
    if estimate_noise:
        num_outputs = jax.eval_shape(outputs, weights, _first(batch.inputs)).size
        total = num_outputs / 2 * jnp.log(total)
    matrix = matrix / (count * strength) + jnp.eye(len(weights), dtype=weights.dtype)
    factor = jnp.linalg.cholesky(matrix)
    return total + jnp.log(jnp.diagonal(factor)).sum() / count


def _first(inputs):
    return jax.tree.map(lambda x: x[0], inputs)


def _penalised(params: Any, mask: Mask | None):
    """The selected numbers as one vector, and how to put others in their place."""
    mask = True if mask is None else mask(params) if callable(mask) else mask
    leaves, structure = jax.tree.flatten(params)
    selected = jax.tree.leaves(jax.tree.broadcast(mask, params))
    chosen = [x for x, is_in in zip(leaves, selected, strict=True) if is_in]
    if not chosen:
        raise ValueError(
            "expected a mask that selects some parameter; it selects none."
        )
    weights, unravel = ravel_pytree(chosen)

    def replace(weights):
        new = iter(unravel(weights))
        pairs = zip(leaves, selected, strict=True)
        return jax.tree.unflatten(structure, [next(new) if s else x for x, s in pairs])

    return weights, replace
