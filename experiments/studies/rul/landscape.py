"""The loss of the optimal head as a function of its norm, before training.

And of the head whose weights add up to zero, which Paper A asks for in the mean.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import lagrange_jax as lj
from experiments.studies.rul.training import map_slices
from lagrange_jax.constraints import fixed_norm
from lagrange_jax.types import Variables

__all__ = ["measure_landscape"]

NORM_RATIOS = np.logspace(-4, 3, 57)
"""Squared norms of the grid, as multiples of the unconstrained optimum's."""


def _head_inputs(model: lj.Model, variables, windows) -> Float[Array, "n d"]:
    def tap(some):
        return model.taps(variables, some, jax.random.key(0))[model.head].inputs

    return jax.jit(lambda x: map_slices(tap, x))(windows)


def _sum_zero_basis(d: int) -> Float[np.ndarray, "d e"]:
    """An orthonormal basis of all vectors of d numbers whose sum is zero."""
    rest = np.eye(d)[:, 1:]
    basis, _ = np.linalg.qr(np.hstack([np.ones((d, 1)), rest]))
    return basis[:, 1:].astype(np.float32)


def measure_landscape(
    model: lj.Model, variables: Variables, train, validation
) -> dict[str, np.ndarray]:
    """Solves for the head on spheres of many radii.

    Args:
      model: the network.
      variables: its initial variables; the head's do not matter.
      train: data set that the head is solved on.
      validation: data set that it is also measured on.

    Returns:
      `norm_sq`, `train` and `validation` (mean squared errors), each `[m]`, the norm
      of the unconstrained optimum, `optimum`, and `train_sum_zero`, the error of heads
      of the same norms whose weights add up to zero.
    """
    data = [
        (_head_inputs(model, variables, x.inputs), x.targets[:, None])
        for x in (train, validation)
    ]
    spectrum = lj.decompose(lj.compute_moments(*data[0]))
    free = lj.solve_least_squares(spectrum, fixed_norm(1e12, relation="at_most"))

    def losses(norm_sq):
        head = lj.solve_least_squares(spectrum, fixed_norm(norm_sq))
        return [jnp.mean((x @ head.kernel + head.bias[None] - t) ** 2) for x, t in data]

    norms = free.norm_sq * jnp.asarray(NORM_RATIOS, jnp.float32)
    on_train, on_validation = jax.jit(jax.vmap(losses))(norms)
    features, targets = data[0]
    sum_zero = features @ _sum_zero_basis(features.shape[1])
    sum_zero = lj.decompose(lj.compute_moments(sum_zero, targets))
    heads = jax.vmap(lambda c: lj.solve_least_squares(sum_zero, fixed_norm(c)))(norms)
    return {
        "train_sum_zero": np.asarray(heads.objective),
        "norm_sq": np.asarray(norms),
        "train": np.asarray(on_train),
        "validation": np.asarray(on_validation),
        "optimum": np.asarray(free.norm_sq),
    }
