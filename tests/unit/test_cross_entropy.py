"""The cross-entropy head against scikit-learn, and its own evidence."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, check_grad, minimize
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression

import lagrange_jax as lj
from lagrange_jax import Status, losses, solve_convex
from lagrange_jax.constraints import fixed_norm
from lagrange_jax.solvers import SearchOptions


def solve_cross_entropy(
    examples,
    norm_sq,
    *,
    relation: Any = "equality",
    label_smoothing=0.0,
    max_steps=2000,
    **options,
):
    constraint = fixed_norm(norm_sq, per_output=np.ndim(norm_sq) > 0, relation=relation)
    loss = losses.softmax(label_smoothing=label_smoothing)
    search = SearchOptions(max_steps=max_steps)
    return solve_convex(examples, constraint, loss=loss, search=search, **options)


def load(dataset: Any) -> tuple[Any, Any]:
    return dataset(return_X_y=True)


@functools.cache
def digits() -> tuple[Any, Any]:
    images, labels = load(load_digits)
    return np.float32(images[:600] / 16), np.int32(labels[:600])


@functools.cache
def cancer() -> tuple[Any, Any]:
    features, labels = load(load_breast_cancer)
    features = (features - features.mean(0)) / features.std(0)
    return np.float32(features), np.int32(labels)


@functools.cache
def reference(data, strength):
    """scikit-learn's optimum for a mean loss with strength / 2 times the norm."""
    features, labels = data()
    oracle = LogisticRegression(
        C=1 / (len(labels) * strength), tol=1e-9, max_iter=10_000
    ).fit(features.astype(float), labels)
    log_p = oracle.predict_log_proba(features.astype(float))
    loss = -log_p[np.arange(len(labels)), labels].mean()
    return loss, float(np.sum(oracle.coef_**2)), oracle


@pytest.mark.parametrize("relation", ["equality", "at_most"])
@pytest.mark.parametrize(("data", "k"), [(digits, 10), (cancer, 1)])
@pytest.mark.parametrize("strength", [1e-1, 1e-4])
def test_equals_logistic_regression_of_the_same_norm(data, k, strength, relation):
    loss, norm_sq, oracle = reference(data, strength)
    head = solve_cross_entropy(data(), norm_sq, num_outputs=k, relation=relation)
    lj.check(head)
    np.testing.assert_allclose(head.objective, loss, rtol=1e-5)
    np.testing.assert_allclose(np.sum(head.kernel**2), norm_sq, rtol=1e-5)
    np.testing.assert_allclose(2 * head.multiplier, strength, rtol=2e-3)
    assert head.stationarity <= 1e-5 and head.is_global and not head.is_hard_case
    # scikit-learn's softmax has the mean bias zero, ours the classes' shares.
    bias = head.bias - head.bias.mean() if k > 1 else head.bias
    np.testing.assert_allclose(bias, oracle.intercept_, atol=2e-2)


def test_gap_bound_holds_for_an_unfinished_search():
    loss, norm_sq, _ = reference(digits, 1e-4)
    for steps in (1, 4, 16):
        head = solve_cross_entropy(digits(), norm_sq, num_outputs=10, max_steps=steps)
        assert head.status == Status.NOT_CONVERGED
        assert head.objective - loss <= head.gap_bound


def test_double_precision(x64):
    features, labels = digits()
    loss, norm_sq, oracle = reference(digits, 1e-2)
    head = solve_cross_entropy(
        (features.astype(float), labels), norm_sq, num_outputs=10
    )
    lj.check(head)
    np.testing.assert_allclose(head.objective, loss, rtol=1e-9)
    np.testing.assert_allclose(head.kernel.T, oracle.coef_, atol=1e-6)


def test_a_norm_an_output_is_the_optimum_that_slsqp_finds():
    features, labels = (x[:60] for x in digits())
    features = features[:, 20:26]
    norm_sq = jnp.array([0.5, 1.0, 2.0, 0.3, 0.8, 1.0, 1.0, 0.7, 1.2, 0.6])
    one_hot = np.eye(10)[labels]

    def loss(x):
        kernel, bias = x[:60].reshape(6, 10), x[60:]
        logits = features @ kernel + bias
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        errors = (np.exp(log_p) - one_hot) / len(labels)
        gradient = np.concatenate([(features.T @ errors).ravel(), errors.sum(0)])
        return -(one_hot * log_p).sum(1).mean(), gradient

    start = np.random.default_rng(0).normal(size=70) / 10
    assert check_grad(lambda x: loss(x)[0], lambda x: loss(x)[1], start) < 1e-5
    ball = {
        "type": "ineq",
        "fun": lambda x: np.asarray(norm_sq) - (x[:60].reshape(6, 10) ** 2).sum(0),
    }
    oracle = minimize(
        loss, start, jac=True, method="SLSQP", constraints=ball, options={"ftol": 1e-12}
    )
    head = solve_cross_entropy(
        (features, labels), norm_sq, num_outputs=10, relation="at_most"
    )
    lj.check(head)
    assert head.multiplier.shape == (10,) and (head.multiplier >= 0).all()
    np.testing.assert_allclose(head.objective, oracle.fun, atol=1e-5)
    assert (head.norm_sq <= norm_sq * (1 + 1e-5)).all()


def overlapping(k=3, n=400) -> tuple[Any, Any]:
    """Classes that overlap, so that the unconstrained optimum is finite."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, k, n).astype(np.int32)
    centres = rng.normal(size=(k, 4))
    return np.float32(centres[labels] + rng.normal(size=(n, 4))), labels


def test_a_norm_beyond_the_optimum_is_filled_along_the_free_direction():
    data = overlapping()
    inside = solve_cross_entropy(data, 1e4, num_outputs=3, relation="at_most")
    filled = solve_cross_entropy(data, 100.0, num_outputs=3)
    lj.check((inside, filled))
    assert inside.norm_sq < 50 and inside.multiplier == 0
    assert filled.is_hard_case and not inside.is_hard_case
    np.testing.assert_allclose(filled.norm_sq, 100, rtol=1e-5)
    np.testing.assert_allclose(filled.objective, inside.objective, rtol=1e-5)


def test_one_output_beyond_the_optimum_has_no_certificate():
    data = overlapping(k=2)
    head = solve_cross_entropy(data, 1e3, num_outputs=1)
    assert head.status == Status.NOT_GLOBAL and head.multiplier < 0
    with pytest.raises(ValueError, match="at_most"):
        lj.check(head)
    assert solve_cross_entropy(data, 1e3, num_outputs=1, relation="at_most").status == 0


def test_weights_count_examples_and_mask_them():
    features, labels = overlapping()
    weights = np.random.default_rng(2).integers(0, 3, len(labels))
    repeated = features.repeat(weights, 0), labels.repeat(weights)
    features = np.where(weights[:, None] > 0, features, np.nan)
    labels = np.where(weights > 0, labels, -1)
    weighted = features, labels, np.float32(weights)
    a, b = (solve_cross_entropy(x, 2.0, num_outputs=3) for x in (weighted, repeated))
    lj.check((a, b))
    np.testing.assert_allclose(a.objective, b.objective, rtol=1e-5)
    np.testing.assert_allclose(a.kernel, b.kernel, atol=1e-3)


def test_a_stream_is_solved_like_arrays():
    features, labels = digits()
    stream = [(features[i : i + 250], labels[i : i + 250]) for i in range(0, 600, 250)]
    a = solve_cross_entropy((features, labels), 20.0, num_outputs=10)
    b = solve_cross_entropy(stream, 20.0, num_outputs=10)
    lj.check((a, b))
    np.testing.assert_allclose(a.objective, b.objective, rtol=1e-5)
    once = iter(stream)
    with pytest.raises(ValueError, match="second pass"):
        solve_cross_entropy(once, 20.0, num_outputs=10)


def test_far_features_and_halves_keep_their_digits():
    features, labels = digits()
    near = solve_cross_entropy((features, labels), 20.0, num_outputs=10)
    far = solve_cross_entropy((features + 100, labels), 20.0, num_outputs=10)
    lj.check((near, far))
    np.testing.assert_allclose(far.objective, near.objective, rtol=1e-4)
    half = solve_cross_entropy(
        (features.astype(jnp.bfloat16), labels), 20.0, num_outputs=10
    )
    assert half.kernel.dtype == jnp.float32
    np.testing.assert_allclose(half.objective, near.objective, rtol=1e-2)


def test_separable_and_missing_classes_have_finite_heads():
    features, labels = digits()
    kept = labels != 3
    head = solve_cross_entropy(
        (features[kept], labels[kept]), 300.0, num_outputs=10, relation="at_most"
    )
    lj.check(head)
    logits = features @ head.kernel + head.bias[None]
    assert (logits.argmax(1)[kept] == labels[kept]).mean() > 0.99
    assert np.isfinite(head.bias).all()
    # Half an example of 540 is what the class that was never seen may expect.
    share = jax.nn.softmax(logits[kept]).mean(0)
    np.testing.assert_allclose(
        share[:3], np.bincount(labels[kept])[:3] / kept.sum(), rtol=1e-2
    )
    assert share[3] < 1 / kept.sum()


def test_imbalance_is_in_the_bias():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), [900, 90, 10]).astype(np.int32)
    noise = rng.normal(size=(1000, 5)).astype(np.float32)
    head = solve_cross_entropy((noise, labels), 1e-6, num_outputs=3)
    lj.check(head)
    np.testing.assert_allclose(jax.nn.softmax(head.bias), [0.9, 0.09, 0.01], rtol=1e-3)


def test_label_smoothing_is_that_of_the_targets():
    features, labels = digits()
    smooth = np.float32(0.9 * np.eye(10)[labels] + 0.01)
    a = solve_cross_entropy(
        (features, labels), 50.0, num_outputs=10, label_smoothing=0.1
    )
    b = solve_cross_entropy((features, smooth), 50.0)
    np.testing.assert_allclose(a.objective, b.objective, rtol=1e-5)


def test_vmap_equals_a_loop_and_compiles_once():
    data = overlapping()
    norms = jnp.array([0.1, 1.0, 3.0])
    solve = functools.partial(solve_cross_entropy, data, num_outputs=3)
    together = jax.jit(jax.vmap(solve))(norms)
    for i, norm in enumerate(norms):
        alone = solve(norm)
        np.testing.assert_allclose(together.objective[i], alone.objective, rtol=1e-5)


def two_classes(seed, smoothing, odds):
    """200 rows of a noisy logistic regression; the classes weigh 1 : odds."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(200, 4))
    labels = features @ rng.normal(size=4) + rng.logistic(size=200) > 0
    targets = (1 - smoothing) * np.eye(2)[labels.astype(int)] + smoothing / 2
    arrays = features, targets, np.where(labels, odds, 1.0)
    return [np.float32(x) for x in arrays]


def least_loss(features, targets, weights, norm_sq):
    """By Newton's method in float64 on the difference of both logits, and a root."""
    rows = np.c_[features, np.ones(len(features))].astype(float)
    aim, weights = targets[:, 1].astype(float), weights / weights.sum(dtype=float)
    ridge = np.diag([1.0, 1, 1, 1, 0])

    def loss(v):
        z = rows @ v
        return weights @ (np.logaddexp(0, z) - aim * z)

    def optimum(strength):
        def slope(v):
            return rows.T @ (weights * (expit(rows @ v) - aim)) + strength * ridge @ v

        def curvature(v):
            p = expit(rows @ v)
            return rows.T * (weights * p * (1 - p)) @ rows + strength * ridge

        value = lambda v: loss(v) + strength / 2 * v @ ridge @ v  # noqa: E731
        options = {"gtol": 1e-12, "maxiter": 500}
        derivatives: Any = {"jac": slope, "hess": curvature, "method": "trust-exact"}
        return minimize(value, np.zeros(5), options=options, **derivatives).x

    def excess(log_strength):  # kernels v / 2 and -v / 2
        return np.sum(optimum(np.exp(log_strength))[:4] ** 2) / 2 - norm_sq

    least: Any = np.log(1e-9)
    if excess(least) > 0:
        least = brentq(excess, least, 3)
    return loss(optimum(np.exp(least)))


def test_easy_problems_of_two_classes_are_all_solved():
    cases = [(s, a, 1.0) for s in range(8) for a in (0.0, 0.1, 0.2)]
    cases += [(s, a, 1e5) for s in range(8, 12) for a in (0.0, 0.1)]
    problems = [two_classes(*case) for case in cases]
    stacked = [np.stack(x) for x in zip(*problems, strict=True)]
    solve = functools.partial(solve_cross_entropy, norm_sq=1.0, relation="at_most")
    heads = jax.jit(jax.vmap(lambda *examples: solve(examples)))(*stacked)
    lj.check(heads)
    wanted = [least_loss(*problem, norm_sq=1.0) for problem in problems]
    np.testing.assert_allclose(heads.objective, wanted, rtol=1e-5)
    assert (heads.norm_sq <= 1 + 1e-5).all()


def test_a_head_without_bias():
    features, labels = overlapping()
    head = solve_cross_entropy((features, labels), 1.0, num_outputs=3, use_bias=False)
    lj.check(head)
    assert (head.bias == 0).all()
    logits = features @ head.kernel
    errors = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)
    residual = features.T @ errors / 400 + 2 * head.multiplier * head.kernel
    np.testing.assert_allclose(residual, 0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_outputs=None), "num_outputs"),
        (dict(num_outputs=2), r"0\.\.1"),
        (dict(norm_sq=-1.0), "norm_sq"),
        (dict(norm_sq=np.ones(2)), "norm_sq of shape"),
        (dict(relation="inside"), "relation"),
        (dict(tie_break=np.ones((4, 1))), r"tie_break of shape \(4, 3\)"),
        (
            dict(examples=(np.ones((4, 2, 2), np.float32), np.zeros(4, int))),
            r"\[n, d\]",
        ),
        (dict(examples=(np.ones((4, 2), np.float32), np.ones((4, 5)))), "3 outputs"),
        (dict(examples=(np.ones((4, 2), np.float32), np.zeros(3, int))), "same number"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments: dict[str, Any] = (
        dict(examples=overlapping(), norm_sq=1.0, num_outputs=3) | change
    )
    with pytest.raises(ValueError, match=message):
        solve_cross_entropy(**arguments)


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda x, t, w: (x * np.nan, t, w), Status.NONFINITE_FEATURES),
        (lambda x, t, w: (x, t * 2, w), Status.INVALID_TARGETS),
        (lambda x, t, w: (x, t * np.nan, w), Status.INVALID_TARGETS),
        (lambda x, t, w: (x, t, 0 * w), Status.NO_DATA),
    ],
)
def test_spoilt_data_have_a_status(spoil, status):
    features, labels = overlapping()
    targets = np.eye(3, dtype=np.float32)[labels]
    weights = np.ones(len(labels), np.float32)
    head = solve_cross_entropy(spoil(features, targets, weights), 1.0)
    assert head.status == status


def test_a_traced_norm_that_is_none_has_a_status():
    solve = jax.jit(lambda c: solve_cross_entropy(overlapping(), c, num_outputs=3))
    assert solve(jnp.nan).status == Status.INVALID_NORM
