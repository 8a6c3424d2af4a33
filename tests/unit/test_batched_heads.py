"""A batch of small heads goes together, and gives what each of them gives alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj
from lagrange_jax.numerics import batched_tridiagonal
from lagrange_jax.numerics.batched_tridiagonal import (
    extreme_eigenvalues,
    tridiagonalize,
)
from lagrange_jax.solvers.batched_sphere import LEAST_BATCH

BATCH, D = LEAST_BATCH + 2, 5


def symmetric(d=11, batch=7):
    a = np.random.default_rng(0).normal(size=(d, d, batch))
    a[..., 0], a[..., 1] = 0, np.eye(d)  # nothing to eliminate
    return a + a.transpose(1, 0, 2)


@pytest.mark.parametrize("tile", [10**6, 3 * 11**2])  # all at once, and padded tiles
def test_the_tridiagonal_form_is_similar(x64, monkeypatch, tile):
    monkeypatch.setattr(batched_tridiagonal, "TILE_ENTRIES", tile)
    matrix = symmetric()
    found = tridiagonalize(jnp.asarray(matrix))
    rows = jnp.broadcast_to(jnp.eye(11)[..., None], matrix.shape)
    again = found.rotate(found.multiply(found.rotate(rows, back=False)), back=True)
    np.testing.assert_allclose(again * found.unit[None, None], matrix, atol=1e-13)
    wanted = np.linalg.eigvalsh(matrix.transpose(2, 0, 1)).T
    low, high = extreme_eigenvalues(found) * found.unit[None]
    np.testing.assert_allclose(low, wanted[0], atol=1e-13)
    np.testing.assert_allclose(high, wanted[-1], rtol=1e-3)
    shift = (1 - low / found.unit)[None]
    solved = found.factor(shift).solve(rows)
    again = found.multiply(solved) + shift[None] * solved
    np.testing.assert_allclose(again, rows, atol=1e-12)


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
    data = jax.tree.map(lambda x: jnp.concatenate([x] * 3), data)
    assert len(data[0]) >= LEAST_BATCH
    together = jax.jit(jax.vmap(jax.grad(loss)))(data)
    alone = jax.jit(lambda data: jax.lax.map(jax.grad(loss), data))(data)
    chex.assert_trees_all_close(together, alone, rtol=1e-8, atol=1e-10)
