"""A batch of small heads gives what each of them gives alone."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj
from lagrange_jax.solvers import batched, least_squares
from lagrange_jax.solvers.small_heads import solve_small_heads
from tests import problems

BATCH, D = 30, 5
RELATIONS = pytest.mark.parametrize("relation", ["equality", "at_most"])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
CASES = pytest.mark.parametrize(
    "dtype, relation, per_output",
    [
        (np.float32, "equality", True),
        (np.float32, "at_most", False),
        (np.float64, "equality", False),
        (np.float64, "at_most", True),
    ],
)


@pytest.fixture
def set_limit(monkeypatch):
    """Sets a limit of the module; what was traced under another one is forgotten."""
    traced: Any = least_squares._solve

    def set_limit(name, value):
        monkeypatch.setattr(batched, name, value)
        traced.clear_cache()

    yield set_limit
    traced.clear_cache()


@pytest.fixture
def few_suffice(set_limit):
    """Batches of any size are solved together."""
    set_limit("FEWEST_HEADS", 1)


@pytest.fixture
def solved_together(monkeypatch):
    """Shapes of the targets of what is solved together."""
    shapes = []

    def spy(relation, spectrum, norm_sq):
        shapes.append(spectrum.cross.shape)
        return solve_small_heads(relation, spectrum, norm_sq)

    monkeypatch.setattr(batched, "solve_small_heads", spy)
    return shapes


def batch_of_examples():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(BATCH, 20, D))
    features[::3, :, 1] = features[::3, :, 0]  # the hard case
    targets = rng.normal(size=(BATCH, 20, 2)) + 2 * features[..., :2]
    return jnp.asarray(features), jnp.asarray(targets)


def batch_of_problems(dtype):
    """Moments of every kind of problem that has hurt a solver, and their norms."""
    some = [problems.make(family, seed=3) for family in problems.FAMILIES]
    features, targets, mask = problems.stack(some, dtype)
    with jax.enable_x64(dtype == np.float64):
        cast = (jnp.asarray(x, dtype) for x in (features, targets, mask))
        moments = jax.jit(jax.vmap(lj.compute_moments))(*cast)
    covariance = np.asarray(moments.cov_xx, float)
    least = np.linalg.pinv(covariance, rcond=1e-5) @ np.asarray(moments.cov_xt, float)
    return moments, (least**2).sum(1).astype(dtype)


def solve(moments, norm_sq, relation: Any = "equality", per_output=True):
    bound = lj.constraints.fixed_norm(norm_sq, relation=relation, per_output=per_output)
    return lj.solve_least_squares(moments, bound)


@RELATIONS
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


@CASES
def test_all_kinds_of_problems(few_suffice, dtype, relation, per_output):
    moments, least = batch_of_problems(dtype)
    least = least if per_output else least.sum(1)
    run = functools.partial(solve, relation=relation, per_output=per_output)
    together = jax.jit(jax.vmap(run))
    alone = jax.jit(lambda *batch: jax.lax.map(lambda one: run(*one), batch))
    for ratio in (0.25, 0.9, 4):
        with jax.enable_x64(dtype == np.float64):
            batch = moments, least * dtype(ratio)
            heads = [jax.tree.map(np.asarray, way(*batch)) for way in (together, alone)]
        require_same(jax.tree.map(np.asarray, moments), *heads)


def require_same(moments, found, wanted):
    """Whether two solutions of all families differ by rounding alone."""
    for field in ("status", "is_global", "is_hard_case"):
        np.testing.assert_array_equal(getattr(found, field), getattr(wanted, field))
    eps = np.finfo(wanted.kernel.dtype).eps
    unit = np.maximum(moments.var_t.sum(1), wanted.objective)
    room = np.maximum(found.gap_bound, wanted.gap_bound).reshape(len(unit), -1).sum(1)
    assert np.all(np.abs(found.objective - wanted.objective) <= room + 100 * eps * unit)
    is_sharp = problems.FAMILIES.index("gaussian")
    for field in ("kernel", "bias", "multiplier"):
        pair = (getattr(head, field)[is_sharp] for head in (found, wanted))
        np.testing.assert_allclose(*pair, rtol=100 * eps, atol=100 * eps)


@DTYPES
@RELATIONS
def test_ordinary_heads_need_no_eigenvectors(dtype, relation):
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == np.float64):
        features = jnp.tanh(jnp.asarray(rng.normal(size=(500, 60, 8)), dtype))
        targets = features[..., :1] + jnp.asarray(rng.normal(size=(500, 60, 1)), dtype)
        moments = jax.jit(jax.vmap(lj.compute_moments))(features, targets)
        spectra = jax.jit(jax.vmap(lj.decompose))(moments)
        norms = jnp.asarray(np.geomspace(0.01, 10, 500), dtype)
        _, is_sure = jax.jit(functools.partial(solve_small_heads, relation))(
            spectra, norms
        )
    assert np.mean(is_sure) > 0.99


def test_whatever_is_wrong_is_told_as_of_one(few_suffice, x64):
    features, targets = batch_of_examples()
    moments = jax.vmap(lj.compute_moments)(features[1:2], targets[1:2])
    moments = jax.tree.map(lambda x: jnp.repeat(x, 8, axis=0), moments)
    moments = moments._replace(
        count=moments.count.at[0].set(0).at[1].set(jnp.nan),
        cov_xx=moments.cov_xx.at[2].set(jnp.nan).at[5].set(0),
        cov_xt=moments.cov_xt.at[3].set(jnp.inf).at[5].set(0),
        var_t=moments.var_t.at[5].set(0),
    )
    norm_sq = jnp.ones(8).at[4].set(-1).at[6].set(0)
    run = functools.partial(solve, per_output=False)
    together = jax.jit(jax.vmap(run))(moments, norm_sq)
    alone = jax.jit(lambda *batch: jax.lax.map(lambda one: run(*one), batch))
    statuses = alone(moments, norm_sq).status.tolist()
    assert together.status.tolist() == statuses
    assert len(set(statuses)) == 7  # two are right


def test_a_batch_of_batches_is_one_batch(x64, set_limit, solved_together):
    set_limit("FEWEST_HEADS", BATCH)
    moments = jax.vmap(lj.compute_moments)(*batch_of_examples())
    norms = jnp.linspace(1, 2, BATCH)
    run = functools.partial(solve, per_output=False)
    flat = jax.jit(jax.vmap(run))(moments, norms)
    fold = functools.partial(jax.tree.map, lambda x: x.reshape(3, -1, *x.shape[1:]))
    nested = jax.jit(jax.vmap(jax.vmap(run)))(*fold((moments, norms)))
    chex.assert_trees_all_close(nested, fold(flat), rtol=1e-12)
    assert set(solved_together) == {(BATCH, D, 2)}


def test_slices_that_overlap_change_nothing(
    few_suffice, x64, set_limit, solved_together
):
    moments = jax.vmap(lj.compute_moments)(*batch_of_examples())
    run = functools.partial(solve, norm_sq=1.5, per_output=False)
    whole = jax.jit(jax.vmap(lambda m: run(m)))(moments)
    set_limit("LANES", 7)
    set_limit("GROUP", 4)
    sliced = jax.jit(jax.vmap(lambda m: run(m)))(moments)
    chex.assert_trees_all_close(whole, sliced, rtol=1e-10, atol=1e-12)
    assert set(solved_together) == {(BATCH, D, 2), (7, D, 2)}


@pytest.mark.parametrize("fewest", [1, 1000])
def test_derivatives_are_those_of_each(x64, set_limit, fewest):
    set_limit("FEWEST_HEADS", fewest)

    def loss(data):
        bound = lj.constraints.fixed_norm(1.5)
        head = lj.solve_least_squares(lj.compute_moments(*data), bound)
        return jnp.sum(head.kernel**3) + jnp.sum(head.multiplier)

    data = jax.tree.map(lambda x: x[1::3], batch_of_examples())  # the easy ones
    together = jax.jit(jax.vmap(jax.grad(loss)))(data)
    alone = jax.jit(lambda data: jax.lax.map(jax.grad(loss), data))(data)
    chex.assert_trees_all_close(together, alone, rtol=1e-8, atol=1e-10)
