"""The loss of the optimal head as a function of its norm, before training."""

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
      `norm_sq`, `train` and `validation` (mean squared errors), each `[m]`, and the
      norm of the unconstrained optimum, `optimum`.
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
    return {
        "norm_sq": np.asarray(norms),
        "train": np.asarray(on_train),
        "validation": np.asarray(on_validation),
        "optimum": np.asarray(free.norm_sq),
    }
