"""A batch of small heads gives what each of them gives alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj

BATCH, D = 30, 5


def batch_of_examples():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(BATCH, 20, D))
    features[::3, :, 1] = features[::3, :, 0]  # the hard case
    targets = rng.normal(size=(BATCH, 20, 2)) + 2 * features[..., :2]
    return jnp.asarray(features), jnp.asarray(targets)


@pytest.mark.parametrize("relation", ["equality", "at_most"])
def test_together_or_alone(x64, relation):
    bound = lj.constraints.fixed_norm(1.5, relation=relation)

    def solve(data):
        return lj.solve_least_squares(lj.compute_moments(*data), bound)

    data = batch_of_examples()
    together = jax.jit(jax.vmap(solve))(data)
    alone = jax.jit(lambda data: jax.lax.map(solve, data))(data)
    fields = ("kernel", "bias", "multiplier", "objective", "norm_sq")
    for field in fields:
        found, wanted = getattr(together, field), getattr(alone, field)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8, err_msg=field)
    chex.assert_trees_all_equal(together.status, alone.status)
    chex.assert_trees_all_equal(together.is_global, alone.is_global)


def test_derivatives_are_those_of_each(x64):
    def loss(data):
        bound = lj.constraints.fixed_norm(1.5)
        head = lj.solve_least_squares(lj.compute_moments(*data), bound)
        return jnp.sum(head.kernel**3) + jnp.sum(head.multiplier)

    data = jax.tree.map(lambda x: x[1::3], batch_of_examples())  # the easy ones
    together = jax.jit(jax.vmap(jax.grad(loss)))(data)
    alone = jax.jit(lambda data: jax.lax.map(jax.grad(loss), data))(data)
    chex.assert_trees_all_close(together, alone, rtol=1e-8, atol=1e-10)
