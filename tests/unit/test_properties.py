"""Whatever the data: a result is finite and certified, or it has a status.

Three shapes only, for each compiles anew; scale, rank, duplicates, constants, weights
and norms are drawn.
"""

import functools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import lagrange_jax as lj
from tests import oracles
from tests.heads import solve_norm

SHAPES = [(12, 4, 2), (5, 9, 2), (1, 3, 1)]  # many rows, few rows, a single one
EPS = float(np.finfo(np.float32).eps)
EXPONENT = st.floats(-30, 30)
MODEST = st.floats(-6, 6)
settings = functools.partial(
    hypothesis.settings,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.filter_too_much,
        hypothesis.HealthCheck.too_slow,
    ],
)


@st.composite
def data(draw) -> Any:
    """Features, targets and weights in float32, some of their columns degenerate."""
    n, d, k = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    rank = draw(st.integers(0, d))
    features = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d))
    features *= 10.0 ** rng.uniform(-draw(st.sampled_from([0, 3, 8])), 0, d)
    if draw(st.booleans()):
        features[:, -1] = features[:, 0]
    if draw(st.booleans()):
        features[:, d // 2] = 1.0
    targets = features @ rng.normal(size=(d, k)) * draw(st.sampled_from([0.0, 1.0]))
    targets += draw(st.sampled_from([0.0, 1e-3, 1.0])) * rng.normal(size=(n, k))
    features += draw(st.sampled_from([0.0, 1.0, 100.0]))
    scales = [10.0 ** draw(st.one_of(MODEST, EXPONENT)) for _ in range(2)]
    weights = draw(st.sampled_from(["one", "mask", "real", "tiny", "none"]))
    weights = {
        "one": np.ones(n),
        "mask": rng.integers(0, 2, n).astype(float),
        "real": rng.uniform(0, 3, n),
        "tiny": 10.0 ** rng.uniform(-20, 0, n),
        "none": np.zeros(n),
    }[weights]
    arrays = scales[0] * features, scales[1] * targets, weights
    with np.errstate(over="ignore", under="ignore"):
        return tuple(array.astype(np.float32) for array in arrays)


@functools.partial(jax.jit, static_argnames=("route", "relation"))
def solve(features, targets, weights, norm_sq, route, relation):
    if route == "thin":
        spectrum = lj.statistics.decompose_gram(features, targets, weights)
        return solve_norm(spectrum, norm_sq, relation=relation)
    moments = lj.compute_moments(features, targets, weights)
    return solve_norm(moments, norm_sq, relation=relation)


def certified(arrays, norm_sq, solution):
    """A success is finite, on the sphere, as near to optimal as it says, and near."""
    features, targets, weights = (array.astype(np.longdouble) for array in arrays)
    for leaf in solution:
        assert np.all(np.isfinite(leaf.astype(float)))
    norm_error = np.abs((solution.kernel.astype(float) ** 2).sum(0) / norm_sq - 1)
    assert norm_error.max() <= 64 * EPS and np.all(solution.is_global)
    moments = oracles.moments(features, targets, weights)
    # NumPy's eigenvectors of the oracle are in double precision: a unit of its own.
    largest = np.abs(moments.cov_xx).max() or np.longdouble(1)
    quadratic = oracles.diagonalise(moments.cov_xx / largest, moments.cov_xt / largest)
    gap = largest * oracles.optimality_gap(quadratic, solution.kernel)
    # The data themselves are known to rounding only.
    used = weights > 0
    x, t = np.abs(features[used]).max(), np.abs(targets[used]).max()
    # A feature moved by its rounding changes the loss by this much.
    d, tiny = features.shape[1], np.finfo(np.float32).tiny
    moved = 4 * EPS * x * np.sqrt(d * norm_sq * moments.var_t)
    moved += d * (32 * EPS) ** 2 * (norm_sq * x**2 + t**2) + tiny
    assert np.all(gap <= solution.gap_bound + moved)
    unit = moments.var_t + norm_sq * largest * d
    assert np.all(gap <= 64 * EPS * unit + moved)


@pytest.mark.parametrize("route", ["eigh", "thin"])
@settings(max_examples=120)
@hypothesis.given(data(), st.one_of(MODEST, EXPONENT))
def test_a_head_is_certified_or_has_a_status(route, arrays, exponent):
    features, targets, _ = arrays
    hypothesis.assume(route != "thin" or features.shape[0] < features.shape[1])
    norm_sq = np.full(targets.shape[1], 10.0**exponent, np.float32)
    solution = solve(*arrays, norm_sq, route, "equality")
    solution = jax.tree.map(np.asarray, solution)
    if solution.status == lj.Status.SUCCESS:
        certified(arrays, norm_sq, solution)
    elif lj.solvers.is_usable(solution.status):
        with pytest.warns(UserWarning, match="1 of 1"):
            lj.check(solution)
    else:
        assert lj.Status(int(solution.status)).message
        with pytest.raises(ValueError, match="1 of 1"):
            lj.check(solution)


def linear_model(d, k):
    """The head alone: its inputs are the features."""

    def variables(key):
        kernel = jax.random.normal(key, (d, k), jnp.float32)
        return {"params": {"kernel": kernel, "bias": jnp.full(k, 0.5)}}

    def apply(variables, inputs):
        return (
            inputs @ variables["params"]["kernel"] + variables["params"]["bias"][None]
        )

    return lj.Model(
        init=variables,
        apply=apply,
        apply_train=lambda variables, inputs, key: (
            apply(variables, inputs),
            variables,
        ),
        taps=lambda variables, inputs, key: {
            (): lj.types.Tap(inputs, apply(variables, inputs))
        },
        layers=((),),
        head=(),
    )


MODELS = {(d, k): linear_model(d, k) for _, d, k in SHAPES}
INITS = {
    "loss_within": lj.lagrange(),
    "forward": lj.lagrange(lj.constraints.variance_scaling(relation="at_most")),
    "evidence": lj.lagrange(lj.constraints.at_strength("evidence")),
}


@pytest.mark.parametrize("name", INITS)
@settings(max_examples=60)
@hypothesis.given(data())
def test_parameters_are_solved_or_left_alone(name, arrays):
    features, targets, weights = arrays
    model = MODELS[features.shape[1], targets.shape[1]]
    key = jax.random.key(0)
    variables, info = lj.initialize(
        key, model, INITS[name], (features, targets, weights)
    )
    found, random = variables["params"], model.init(key)["params"]
    assert all(np.all(np.isfinite(leaf)) for leaf in found.values())
    if lj.solvers.is_usable(info.status):
        np.testing.assert_array_equal(found["kernel"], info.kernel)
    else:
        np.testing.assert_array_equal(found["kernel"], random["kernel"])
        np.testing.assert_array_equal(found["bias"], random["bias"])


@st.composite
def classified(draw) -> Any:
    """Labels in place of targets: of classes that may be missing, or of none."""
    features, targets, weights = draw(data())
    k = targets.shape[1]
    labels = targets[:, 0] > 0 if k == 1 else targets.argmax(1)
    labels = np.asarray(labels, np.int32)
    if draw(st.integers(0, 9)) == 0:
        labels[0] = draw(st.sampled_from([-1, 2]))
    return features, labels, weights, k


def certified_classes(features, labels, weights, solution):
    """A success is finite, on the sphere and stationary in double precision."""
    for leaf in solution:
        assert np.all(np.isfinite(leaf.astype(float)))
    kernel, bias = solution.kernel.astype(float), solution.bias.astype(float)
    assert np.abs((kernel**2).sum() / NORM_SQ - 1) <= 64 * EPS and solution.is_global
    used = weights > 0
    x, labels, a = features[used].astype(float), labels[used], weights[used] / 1.0
    a = a.astype(float) / a.sum(dtype=float)
    centred = x - a @ x
    if kernel.shape[1] == 1:  # sigmoid is the softmax of (0, z)
        targets = labels[:, None].astype(float)
        log_p = -np.logaddexp(0, (1 - 2 * targets) * (x @ kernel + bias))[:, 0]
        p = scipy.special.expit(x @ kernel + bias)
    else:
        targets = np.eye(kernel.shape[1])[labels]
        log_p = scipy.special.log_softmax(x @ kernel + bias, axis=1)
        p, log_p = np.exp(log_p), log_p[np.arange(len(labels)), labels]
    # What rounding of the features leaves of the logits.
    rounding = 64 * EPS * (1 + np.abs(x).max() * np.sqrt(NORM_SQ))
    assert np.abs(solution.objective + a @ log_p) <= rounding
    gradient = centred.T @ (a[:, None] * (p - targets))
    pull = 2 * solution.multiplier.astype(float) * kernel
    cross = centred.T @ (a[:, None] * targets)
    size = np.linalg.norm(cross) + np.linalg.norm(pull)
    residual = np.linalg.norm(gradient + pull)
    is_small = residual <= 2e-5 * size + rounding * np.abs(centred).max()
    assert is_small or solution.gap_bound <= 2e-5 * abs(solution.objective)


NORM_SQ = 4.0
CLASSES = lj.lagrange(
    lj.constraints.fixed_norm(NORM_SQ, per_output=False), loss="cross_entropy"
)


@settings(max_examples=100)
@hypothesis.given(classified())
def test_a_class_head_is_certified_or_left_alone(arrays):
    features, labels, weights, k = arrays
    model, key = MODELS[features.shape[1], k], jax.random.key(0)
    variables, info = lj.initialize(key, model, CLASSES, (features, labels, weights))
    found, random = variables["params"], model.init(key)["params"]
    if lj.solvers.is_usable(info.status):
        np.testing.assert_array_equal(found["kernel"], info.kernel)
        info = jax.tree.map(np.asarray, info)
        if info.status == lj.Status.SUCCESS:
            certified_classes(features, labels, weights, info)
    else:
        np.testing.assert_array_equal(found["kernel"], random["kernel"])
        np.testing.assert_array_equal(found["bias"], random["bias"])


@jax.jit
def in_two_parts(features, targets, weights):
    parts = [slice(None, 1), slice(1, None)]
    a, b = (lj.compute_moments(features[p], targets[p], weights[p]) for p in parts)
    return lj.compute_moments(features, targets, weights), lj.statistics.merge_moments(
        a, b
    )


@settings(max_examples=60)
@hypothesis.given(data())
def test_parts_have_the_moments_of_the_whole(arrays):
    hypothesis.assume(len(arrays[0]) > 1 and np.any(arrays[2]))
    whole, merged = jax.tree.map(np.float64, in_two_parts(*arrays))
    if not all(np.all(np.isfinite(leaf)) for leaf in whole):
        return
    used = arrays[2] > 0
    sizes = [np.abs(a[used]).max(initial=0).astype(float) for a in arrays[:2]]
    spread = [np.ptp(a[used], axis=0).max(initial=0).astype(float) for a in arrays[:2]]
    x, t = (16 * EPS * (s + EPS * size) for s, size in zip(spread, sizes, strict=True))
    tiny = 100 * float(np.finfo(np.float32).tiny)
    assert np.abs(whole.count - merged.count) <= 4 * EPS * whole.count
    assert np.abs(whole.mean_x - merged.mean_x).max() <= x + 2 * EPS * sizes[0] + tiny
    for name, unit in (("cov_xx", x**2), ("cov_xt", x * t), ("var_t", t**2)):
        error = np.abs(getattr(whole, name) - getattr(merged, name)).max()
        assert error <= unit / EPS + tiny, name
