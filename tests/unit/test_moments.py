"""Moments: one number whichever way the data arrive."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, PartitionSpec

import lagrange_jax as lj
from tests import oracles

N, D, K = 1100, 5, 2  # more rows than one block


def data(seed=0, mean=0.0, n=N, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, D)) @ rng.normal(size=(D, D)) + mean
    targets = features[:, :K] + rng.normal(size=(n, K))
    weights = rng.uniform(0.1, 2, size=n) * (rng.random(n) > 0.3)
    return tuple(a.astype(dtype) for a in (features, targets, weights))


def assert_close(found, features, targets, weights=None, tolerance=1e-6):
    """Against extended precision, in units of means and standard deviations."""
    wanted = oracles.moments(features, targets, weights)
    std_x = np.sqrt(np.diagonal(wanted.cov_xx).max())
    std_t = np.sqrt(wanted.var_t.max())
    units = dict(
        count=wanted.count,
        mean_x=np.abs(wanted.mean_x).max() + std_x,
        mean_t=np.abs(wanted.mean_t).max() + std_t,
        cov_xx=std_x**2,
        cov_xt=std_x * std_t,
        var_t=std_t**2,
    )
    for name, unit in units.items():
        value = np.asarray(getattr(found, name), np.longdouble)
        error = np.abs(value - getattr(wanted, name)).max()
        assert error <= tolerance * unit, (name, error / unit)


compute = jax.jit(lj.compute_moments)
merge = jax.jit(lj.statistics.merge_moments)


@pytest.mark.parametrize("n", [1, 7, 1023, 1024, 1025, 3000])
def test_any_number_of_rows(n):
    features, targets, weights = data(n=n)
    weights[0] = 1
    assert_close(compute(features, targets, weights), features, targets, weights)
    if n > 1:
        assert_close(compute(features, targets), features, targets)


def test_many_columns_take_the_strip_route():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 300)).astype(np.float32)
    targets = rng.normal(size=(300, 3)).astype(np.float32)
    found = compute(features, targets)
    assert_close(found, features, targets)
    np.testing.assert_array_equal(found.cov_xx, found.cov_xx.T)


def test_streaming_equals_whole():
    features, targets, weights = data(mean=30.0)
    moments, update = (
        lj.statistics.init_moments(D, K),
        jax.jit(lj.statistics.update_moments),
    )
    for rows in np.split(np.arange(N), [1, 501]):
        moments = update(moments, features[rows], targets[rows], weights[rows])
    assert_close(moments, features, targets, weights)


def test_merging_in_any_order():
    features, targets, weights = data(mean=30.0)
    parts = [
        compute(features[rows], targets[rows], weights[rows])
        for rows in np.array_split(np.arange(N), 4)
    ]
    rng = np.random.default_rng(1)
    for _ in range(4):
        order = [parts[i] for i in rng.permutation(4)]
        left = functools.reduce(merge, order)
        pairs = merge(merge(*order[:2]), merge(*order[2:]))
        assert_close(left, features, targets, weights)
        assert_close(pairs, features, targets, weights)


def test_a_part_can_be_taken_away_again():
    x, t, a = data(mean=100.0)
    part, whole = (
        lj.compute_moments(x[:400], t[:400], a[:400]),
        lj.compute_moments(x, t, a),
    )
    rest = lj.statistics.subtract_moments(whole, part)
    assert_close(rest, x[400:], t[400:], a[400:], tolerance=1e-5)
    nothing = lj.statistics.subtract_moments(whole, whole)
    jax.tree.map(
        lambda v: np.testing.assert_array_equal(v, 0),
        nothing._replace(origin_x=nothing.count, origin_t=nothing.count),
    )
    again = lj.statistics.merge_moments(nothing, part)
    assert_close(again, x[:400], t[:400], a[:400])
    too_much = lj.statistics.subtract_moments(part, whole)
    status = lj.solve_least_squares(too_much, lj.constraints.fixed_norm(1.0)).status
    assert not lj.solvers.is_usable(status)


def test_no_data_is_neutral():
    features, targets, weights = data(mean=30.0)
    moments, empty = (
        compute(features, targets, weights),
        lj.statistics.init_moments(D, K),
    )
    masked = compute(features * np.nan, targets, np.zeros_like(weights))
    for nothing in (empty, masked):
        for merged in (
            merge(nothing, moments),
            merge(moments, nothing),
        ):
            assert_close(merged, features, targets, weights)
    nothing = merge(empty, masked)
    assert not any(np.any(leaf) for leaf in nothing)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_shards_reduce_to_the_whole(mean):
    features, targets, weights = data(mean=mean, n=1104)
    weights[:138] = 0  # one shard without any weight
    mesh = jax.make_mesh((8,), ("rows",), (AxisType.Auto,))
    rows = PartitionSpec("rows")

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(rows, rows, rows), out_specs=PartitionSpec()
    )
    def whole(features, targets, weights):
        local = lj.compute_moments(features, targets, weights)
        return lj.statistics.all_reduce_moments(local, "rows")

    assert_close(jax.jit(whole)(features, targets, weights), features, targets, weights)


def test_masked_rows_are_never_looked_at():
    features, targets, weights = data()
    hidden = weights == 0
    wanted = compute(features, targets, weights)
    features[hidden], targets[hidden] = np.nan, np.inf
    chex.assert_trees_all_equal(compute(features, targets, weights), wanted)
    total = lambda x: lj.compute_moments(x, targets, weights).cov_xx.sum()  # noqa: E731
    gradient = jax.jit(jax.grad(total))(features)
    assert np.isfinite(gradient).all() and not np.any(gradient[hidden])


def test_negative_weights_are_refused():
    features, targets = jnp.ones((4, 2)), jnp.ones((4, 1))
    weights = jnp.array([1.0, 1.0, 1.0, -1.0])
    with pytest.raises(ValueError, match="weights of at least zero; got -1"):
        lj.compute_moments(features, targets, weights)
    moments = compute(features, targets, weights)  # traced
    head = lj.solve_least_squares(moments, lj.loss_within())
    assert head.status == lj.Status.INVALID_WEIGHTS


@pytest.mark.parametrize("weighted", [False, True])
def test_a_mean_of_1e4_with_unit_spread_in_float32(weighted):
    rng = np.random.default_rng(0)
    features = (1e4 + rng.normal(size=(5000, 20))).astype(np.float32)
    targets = (-1e4 + rng.normal(size=(5000, K))).astype(np.float32)
    weights = rng.uniform(0.5, 1.5, 5000).astype(np.float32) if weighted else None
    # Measured 4e-7; the textbook form E[xx] - E[x]E[x] is off by a factor of 88.
    assert_close(compute(features, targets, weights), features, targets, weights)
    moments = lj.statistics.init_moments(20, K)
    for start in range(0, 5000, 1000):
        rows = slice(start, start + 1000)
        share = None if weights is None else weights[rows]
        moments = merge(moments, compute(features[rows], targets[rows], share))
    assert_close(moments, features, targets, weights)


def test_without_bias_raw_second_moments_take_their_place(x64):
    features, targets, weights = data(mean=3.0, dtype=np.float64)
    spectrum = lj.decompose(compute(features, targets, weights), use_bias=False)
    a = (weights / weights.sum())[:, None]
    np.testing.assert_allclose(spectrum.covariance, features.T @ (a * features))
    np.testing.assert_allclose(spectrum.cross, features.T @ (a * targets))
    np.testing.assert_allclose(spectrum.variance, (a * targets**2).sum(0))
    assert not np.any(spectrum.mean_x) and not np.any(spectrum.mean_t)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_halves_are_accumulated_in_float32(dtype):
    features, targets, weights = (jnp.asarray(a).astype(dtype) for a in data())
    found = compute(features, targets, weights)
    assert found.cov_xx.dtype == jnp.float32
    features, targets, weights = (
        np.asarray(a, np.float32) for a in (features, targets, weights)
    )
    assert_close(found, features, targets, weights)


def test_double_precision(x64):
    features, targets, weights = data(mean=1e4, dtype=np.float64)
    found = compute(features, targets, weights)
    assert_close(found, features, targets, weights, tolerance=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_finite_differences(x64, weighted):
    features, targets, weights = data(mean=2.0, n=9, dtype=np.float64)
    point = dict(features=features, targets=targets)
    if weighted:
        point["weights"] = np.abs(weights) + 0.1
    rng = np.random.default_rng(3)
    shapes: Any = jax.eval_shape(lj.compute_moments, **point)
    probe = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)

    flat, unravel = ravel_pytree(point)

    def value(flat):
        moments = lj.compute_moments(**unravel(flat))
        names = ("count", "mean_x", "mean_t", "cov_xx", "cov_xt", "var_t")
        probes = (probe.count, probe.offset_x, probe.offset_t, *probe[5:])
        pairs = zip(names, probes, strict=True)
        return sum(jnp.vdot(getattr(moments, name), p) for name, p in pairs)

    wanted = oracles.central_difference(jax.jit(jax.vmap(value)), flat, step=1e-3)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(flat), wanted, atol=1e-8)


BAD: dict[str, Any] = {
    "expected features": (np.zeros((4, 2)), np.zeros(4), None),
    r"targets \(3, 1\)": (np.zeros((4, 2)), np.zeros((3, 1)), None),
    "features \\[n, d\\]": (np.zeros(4), np.zeros((4, 1)), None),
    "empty batch": (np.zeros((0, 2)), np.zeros((0, 1)), None),
    r"weights of shape \(4,\)": (np.zeros((4, 2)), np.zeros((4, 1)), np.ones(3)),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_shapes_that_do_not_fit_are_refused(message):
    with pytest.raises(ValueError, match=message):
        lj.compute_moments(*BAD[message])


def test_one_trace_serves_all_data_of_a_shape():
    features, targets, weights = data()
    chex.clear_trace_counter()
    once = jax.jit(chex.assert_max_traces(lj.compute_moments, n=1))
    for seed in range(3):
        once(*data(seed))
    chex.assert_trees_all_close(
        once(features, targets, weights),
        lj.compute_moments(features, targets, weights),
        rtol=1e-5,
        atol=1e-6,
    )


def test_vmap_equals_a_loop():
    stacked = [
        np.stack(parts) for parts in zip(*(data(s) for s in range(3)), strict=True)
    ]
    batched = jax.jit(jax.vmap(lj.compute_moments))(*stacked)
    for seed in range(3):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, seed=seed: leaf[seed], batched),
            compute(*data(seed)),
            rtol=1e-5,
            atol=1e-6,
        )
