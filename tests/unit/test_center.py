"""Bounds about a given head, and in the norm of standardised features."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.special import logsumexp

import lagrange_jax as lj
from lagrange_jax import solve_convex, solve_least_squares
from lagrange_jax.constraints import at_strength, fixed_norm

N, D, K = 60, 4, 3
rng = np.random.default_rng(0)
X: Any = (rng.normal(size=(N, D)) * [1, 3, 0.3, 2] + [5, 0, 1, -2]).astype(np.float32)
TRUTH = rng.normal(size=(D, K))
T: Any = np.float32(X @ TRUTH + rng.normal(size=(N, K)))
LABELS: Any = np.int32((X @ TRUTH / 3 + rng.gumbel(size=(N, K))).argmax(1))
W0: Any = np.float32(TRUTH + 0.5 * rng.normal(size=(D, K)))
COVARIANCE = np.cov(X.T.astype(float), bias=True)
# What W - W0 is measured by, the square of it.
METRICS = {
    "euclidean": np.eye(D),
    "output_variance": COVARIANCE * D / np.trace(COVARIANCE),
    "feature_variance": np.diag(np.diag(COVARIANCE)) * D / np.trace(COVARIANCE),
}


def squares(logits):
    return np.sum((logits - T) ** 2, 1).mean()


def entropy(logits):
    return np.mean(logsumexp(logits, 1) - logits[np.arange(N), LABELS])


@functools.cache
def optimum(risk, metric, radius_sq):
    """The least risk within the distance, by SLSQP in double precision."""
    x, matrix = X.astype(float), METRICS[metric]

    def value(flat):
        return risk(x @ flat[K:].reshape(D, K) + flat[:K])

    def slack(flat):
        change = flat[K:].reshape(D, K) - W0
        return radius_sq - np.sum(change * (matrix @ change))

    # The bias is the best one of the centre.
    start = np.concatenate([(T - x @ W0).mean(0), W0.ravel()])
    found = scipy.optimize.minimize(
        value,
        start,
        method="SLSQP",
        constraints=dict(type="ineq", fun=slack),
        options=dict(maxiter=1000, ftol=1e-12),
    )
    assert found.success
    return found.fun


def distance_sq(kernel, metric):
    change = np.asarray(kernel, float) - W0
    return np.sum(change * (METRICS[metric] @ change))


def bound(radius_sq, metric: Any, relation: Any = "equality"):
    return fixed_norm(radius_sq, per_output=False, metric=metric, relation=relation)


@pytest.mark.parametrize("metric", METRICS)
def test_least_squares_about_a_head_is_what_slsqp_finds(metric):
    constraint = bound(0.05, metric)
    head = solve_least_squares(lj.compute_moments(X, T), constraint, center=W0)
    lj.check(head)
    assert head.multiplier > 0
    np.testing.assert_allclose(distance_sq(head.kernel, metric), 0.05, rtol=1e-4)
    np.testing.assert_allclose(head.norm_sq, 0.05, rtol=1e-5)
    risk = squares(X.astype(float) @ np.asarray(head.kernel) + np.asarray(head.bias))
    np.testing.assert_allclose(risk, head.objective, rtol=1e-5)
    np.testing.assert_allclose(risk, optimum(squares, metric, 0.05), rtol=1e-5)


def require_optimum(head, metric):
    np.testing.assert_allclose(distance_sq(head.kernel, metric), 0.05, rtol=1e-3)
    logits = X.astype(float) @ np.asarray(head.kernel) + np.asarray(head.bias)
    np.testing.assert_allclose(entropy(logits), head.objective, rtol=1e-5)
    np.testing.assert_allclose(
        entropy(logits), optimum(entropy, metric, 0.05), rtol=1e-4
    )


@dataclasses.dataclass(frozen=True)
class Seen:
    """A radius that looks at what a constraint is given."""

    def __call__(self, problem):
        features, offset = problem.examples.inputs
        np.testing.assert_allclose(features.std(0), features.std(0)[0], rtol=1e-3)
        wanted = np.asarray(X @ W0 - X.mean(0) @ W0)
        np.testing.assert_allclose(offset, wanted, atol=1e-3)
        return jnp.float32(0.05)


def test_a_convex_loss_about_a_head_is_what_slsqp_finds():
    constraint = lj.Constraint(Seen(), metric="feature_variance")
    head = solve_convex((X, LABELS), constraint, num_outputs=K, center=W0)
    lj.check(head)
    require_optimum(head, "feature_variance")


def test_a_stream_and_a_path_about_a_head():
    stream = [(X[:35], LABELS[:35]), (X[35:], LABELS[35:])]
    options: Any = dict(num_outputs=K, center=W0)
    head = solve_convex(stream, bound(0.05, "euclidean"), **options)
    path = lj.solvers.convex_path(
        (X, LABELS), jnp.array([0.01, 0.05]), validation=(X, LABELS), **options
    )
    last = jax.tree.map(lambda x: x[1], path.heads)
    lj.check((head, last))
    for found in (head, last):
        require_optimum(found, "euclidean")
    validation_loss: Any = path.validation_loss
    np.testing.assert_allclose(validation_loss, path.heads.objective, rtol=1e-5)


def test_a_radius_of_nothing_keeps_the_kernel_and_mends_the_bias():
    nothing = lj.Constraint(lambda problem: jnp.zeros(()))
    least = solve_least_squares(lj.compute_moments(X, T), nothing, center=W0)
    lj.check(least)
    np.testing.assert_array_equal(least.kernel, W0)
    np.testing.assert_allclose(least.bias, (T - X @ W0).mean(0), rtol=1e-4, atol=1e-4)


def test_a_criterion_reads_the_data_as_the_centre_leaves_them():
    """Near the truth the evidence asks for a smaller change than for a whole head."""
    spectrum = lj.decompose(lj.compute_moments(X, T))
    examples = lj.Batch(jnp.asarray(X), jnp.asarray(T))
    for criterion in ("evidence", "leave_one_out"):
        problem = lj.constraints.Problem(spectrum, examples=examples)
        constraint = at_strength(criterion, per_output=False)
        head = solve_least_squares(problem, constraint, center=W0)
        residuals: Any = T - X @ W0
        left = lj.compute_moments(X, residuals)
        plain = solve_least_squares(
            problem._replace(
                spectrum=lj.decompose(left),
                examples=examples._replace(targets=jnp.asarray(T - X @ W0)),
            ),
            constraint,
        )
        np.testing.assert_allclose(head.norm_sq, plain.norm_sq, rtol=1e-2)
        np.testing.assert_allclose(head.kernel, W0 + plain.kernel, atol=1e-2)


def test_a_centre_that_explains_all_but_rounding_is_no_false_success():
    exact: Any = np.float32(X @ TRUTH)
    moments = lj.compute_moments(X, exact)
    center = np.float32(TRUTH)
    head = solve_least_squares(moments, bound(1e-4, "euclidean"), center=center)
    found = squares_of(head, exact)
    best = np.linalg.eigvalsh(COVARIANCE)[0] * 1e-4
    assert found <= best + head.gap_bound
    assert head.gap_bound > 1e-8


def squares_of(head, targets):
    outputs = X.astype(float) @ np.asarray(head.kernel, float)
    outputs += np.asarray(head.bias, float)
    return np.sum((outputs - targets) ** 2, 1).mean()


@pytest.mark.parametrize("thin", [False, True])
def test_the_variance_of_features_is_standardising_folded_back(thin):
    rows = slice(None, 3) if thin else slice(None)
    x, t = X[rows], T[rows]
    scale = x.std(0) / np.sqrt(np.mean(x.var(0)))

    def spectrum(x):
        if thin:
            return lj.statistics.decompose_gram(x, t)
        return lj.decompose(lj.compute_moments(x, t))

    tie = np.ones((D, K), np.float32)
    plain = solve_least_squares(spectrum(x / scale), fixed_norm(0.5), tie_break=tie)
    head = solve_least_squares(
        spectrum(x), fixed_norm(0.5, metric="feature_variance"), tie_break=tie
    )
    lj.check((plain, head))
    np.testing.assert_allclose(
        head.kernel, plain.kernel / scale[:, None], rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(head.norm_sq, 0.5, rtol=1e-5)
    np.testing.assert_allclose(head.objective, plain.objective, rtol=1e-3, atol=1e-5)


def test_dead_features_are_no_obstacle():
    x: Any = np.concatenate([X, np.full((N, 2), 3.0, np.float32)], 1)
    constraint = bound(0.5, "feature_variance", "at_most")
    lj.check(solve_least_squares(lj.compute_moments(x, T), constraint))


def test_residual_spectra_are_those_of_the_residuals():
    for decompose in (
        lj.statistics.decompose_gram,
        lambda *data: lj.decompose(lj.compute_moments(*data)),
    ):
        x, t = X[:3], T[:3]
        seen = lj.statistics.residual_spectrum(decompose(x, t), W0)
        wanted = decompose(x, t - x @ W0)
        for name in ("cross", "variance", "mean_t"):
            np.testing.assert_allclose(
                getattr(seen, name), getattr(wanted, name), rtol=1e-3, atol=1e-4
            )
        project = lambda s: np.asarray(s.eigenvectors) @ np.asarray(s.projections)  # noqa: E731
        np.testing.assert_allclose(project(seen), project(wanted), atol=1e-3)


def test_a_derivative_in_the_centre_is_a_central_difference(x64):
    x, t, w0 = X.astype(float), T.astype(float), W0.astype(float)
    probe = rng.normal(size=(D, K))

    @jax.jit
    def value(center):
        constraint = fixed_norm(0.05, per_output=False, metric="feature_variance")
        head = solve_least_squares(lj.compute_moments(x, t), constraint, center=center)
        return jnp.sum(probe * head.kernel) + head.objective

    direction = rng.normal(size=(D, K))
    step = 1e-5 * direction
    wanted = (value(w0 + step) - value(w0 - step)) / 2e-5
    found = np.sum(np.asarray(jax.grad(value)(w0)) * direction)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(K, name="head")(nn.tanh(nn.Dense(5)(x)))


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_a_network_keeps_near_the_head_it_has(key, loss):
    model, variables = lj.linen.as_model(Net(), X[:1]), None
    before: Any = model.init(key)["params"]["head"]["kernel"]
    data: Any = [(X[:35], T[:35]), (X[35:], T[35:])]
    center: Any = np.asarray(before)
    if loss == "cross_entropy":
        data, center = (X, LABELS), "current"
    init = lj.lagrange(bound(0.3, "euclidean"), loss=loss, center=center)
    variables, info = lj.initialize(key, model, init, data)
    lj.check(info)
    change = variables["params"]["head"]["kernel"] - before
    np.testing.assert_allclose(np.sum(change**2), 0.3, rtol=1e-3)


wrong: Any = "pretrained"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lj.lagrange(center=wrong), "'current' or a kernel"),
        (lambda: lj.lagrange(center=W0[0]), r"center of shape \[d=3, k\]"),
        (
            lambda: solve_least_squares(
                lj.compute_moments(X, T), fixed_norm(1.0), center=W0[1:]
            ),
            r"center of shape \[d=4, k=3\]",
        ),
        (
            lambda: solve_convex(
                (X, LABELS), fixed_norm(1.0), num_outputs=K, center=W0.T
            ),
            r"center of shape \[d=4, k=3\]",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
