"""Each loss against SciPy in float64 at the same norm, through weak duality.

For the multiplier of our head SciPy minimises the loss plus multiplier times norm. That
minimum lies below the least loss under the norm, whatever the multiplier; the loss of
our head, computed in float64 by other formulas, lies above it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import check_grad, minimize
from scipy.special import expit, log_expit, xlogy

import lagrange_jax as lj
from lagrange_jax import losses
from lagrange_jax.constraints import fixed_norm

THRESHOLDS = (-1.0, 0.2, 1.5)
N, D = 120, 4


class Case(NamedTuple):
    """A loss, how targets are drawn from logits, and its values in float64."""

    loss: losses.Loss
    k: int
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    values: Callable[[np.ndarray, np.ndarray], np.ndarray]


def noisy(rng, z):
    return z + rng.standard_t(2, size=z.shape)


def labels(rng, z):
    return (rng.random(z.shape) < expit(z)).astype(np.float32)


def bernoulli(z, t):
    return -(t * log_expit(z) + (1 - t) * log_expit(-z))


def huber(z, t):
    r = np.abs(z - t)
    return np.where(r <= 0.7, r**2 / 2, 0.7 * (r - 0.35))


def pinball(z, t):
    return 0.2 * (t - z) + 0.05 * np.logaddexp(0, (z - t) / 0.05)


def cumulative(z, t):
    edges = np.r_[-np.inf, THRESHOLDS, np.inf]
    label = t.astype(int)
    return -np.log(expit(edges[label + 1] - z) - expit(edges[label] - z))


def ordered(rng, z):
    return np.searchsorted(THRESHOLDS, z + rng.logistic(size=z.shape))


WEIGHTS, POSITIVES = np.array([1.0, 0.1, 3.0]), np.array([1.0, 20.0, 0.5])


def weighted(z, t):
    return WEIGHTS * -(POSITIVES * t * log_expit(z) + (1 - t) * log_expit(-z))


CASES = {
    "multi-label": Case(losses.sigmoid(), 3, labels, bernoulli),
    "weighted labels": Case(
        losses.sigmoid(class_weights=WEIGHTS, positive_weights=POSITIVES),
        3,
        labels,
        weighted,
    ),
    "poisson": Case(
        losses.poisson(),
        2,
        lambda rng, z: rng.poisson(np.exp(z / 2)),
        lambda z, t: np.exp(z) - t + xlogy(t, t) - t * z,
    ),
    "huber": Case(losses.huber(0.7), 2, noisy, huber),
    "quantile": Case(losses.quantile(0.2, smoothing=0.05), 2, noisy, pinball),
    "squared": Case(losses.squared_error(), 2, noisy, lambda z, t: (z - t) ** 2),
    "ordinal": Case(losses.ordinal(THRESHOLDS), 1, ordered, cumulative),
    "custom": Case(
        losses.from_function(optax.losses.log_cosh),
        2,
        noisy,
        lambda z, t: np.logaddexp(z - t, t - z) - np.log(2),
    ),
}


@functools.cache
def data(name):
    case, rng = CASES[name], np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype(np.float32) * [1, 2, 0.3, 1] + 1
    truth = rng.normal(size=(D, case.k))
    weights = rng.uniform(0.1, 2, N).astype(np.float32)
    offset = rng.normal(size=(N, case.k)).astype(np.float32) / 2
    targets = case.draw(rng, features @ truth - truth.sum(0) + offset)
    return np.float32(features), targets, weights, offset


@functools.partial(jax.jit, static_argnames="name")
def solve(name, norm_sq):
    """At most this norm; one program for all norms."""
    case, (features, targets, weights, offset) = CASES[name], data(name)
    return lj.solve_convex(
        ((features, offset), jnp.asarray(targets), weights),
        fixed_norm(norm_sq, per_output=False, relation="at_most"),
        loss=case.loss,
        num_outputs=case.k,
    )


def mean_value(name, flat):
    case, (features, targets, weights, offset) = CASES[name], data(name)
    head = flat.reshape(D + 1, case.k)
    logits = features.astype(float) @ head[:-1] + head[-1] + offset
    values = case.values(logits, targets.reshape(logits.shape).astype(float))
    return weights.astype(float) @ values.sum(1) / weights.sum(dtype=float)


@pytest.mark.parametrize("norm_sq", [1e-2, 0.5, 1e3])
@pytest.mark.parametrize("name", CASES)
def test_loss_is_that_of_scipy(name, norm_sq):
    head = solve(name, jnp.float32(norm_sq))
    lj.check(head)
    multiplier, k = float(head.multiplier), CASES[name].k
    assert multiplier >= 0 and head.norm_sq <= norm_sq * (1 + 1e-5)
    flat = np.vstack([head.kernel, head.bias]).astype(float).ravel()

    def lagrangian(x):
        return mean_value(name, x) + multiplier * (np.sum(x[: D * k] ** 2) - norm_sq)

    start = np.zeros_like(flat)
    options = dict(maxiter=2000, maxfun=200_000, ftol=1e-14, gtol=1e-9)
    bound = min(
        minimize(lagrangian, x, method="L-BFGS-B", options=options).fun
        for x in (start, flat)
    )
    loss = mean_value(name, flat)
    np.testing.assert_allclose(head.objective, loss, rtol=1e-5)
    slack = multiplier * (norm_sq - float(head.norm_sq))
    assert loss - bound <= 1e-5 * abs(loss) + slack
    assert head.gap_bound >= 0


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_the_value(name, x64):
    case, (_, targets, _, _) = CASES[name], data(name)
    kind, p = case.loss
    t = kind.read(p, jnp.asarray(targets[:5]), case.k, jnp.float64).values
    z = jnp.asarray(np.random.default_rng(1).normal(size=(5, case.k)))
    value = lambda z: kind.value(p, z, t).sum()  # noqa: E731
    slope = jax.grad(value)(z)
    if kind.slope is not None:
        np.testing.assert_allclose(kind.slope(p, z, t), slope, atol=1e-9)
    if kind.bend is not None:
        bent = jax.jvp(jax.grad(value), (z,), (z,))[1]
        np.testing.assert_allclose(kind.bend(p, z, t, z), bent, atol=1e-9)
    shape = z.shape
    error = check_grad(
        lambda x: float(value(jnp.asarray(x.reshape(shape)))),
        lambda x: np.asarray(jax.grad(value)(jnp.asarray(x.reshape(shape)))).ravel(),
        np.asarray(z).ravel(),
    )
    assert error < 1e-5


def test_labels_of_every_kind_are_the_same_classes():
    """Narrow integers, whose own type holds too few numbers, floats and columns."""
    wide = np.arange(0, 250, 3)
    loss = losses.softmax()
    read = lambda labels: loss.kind.read(  # noqa: E731
        loss.parameters, jnp.asarray(labels), 300, jnp.float32
    )
    for labels in (wide, np.uint8(wide), np.float32(wide), wide[:, None]):
        values, is_valid = read(labels)
        np.testing.assert_array_equal(values, np.eye(300)[wide])
        assert is_valid.all()
    assert not read(np.float32(wide) + 0.5).is_valid.any()
    binary = losses.sigmoid()
    kinds = [
        binary.kind.read(binary.parameters, jnp.asarray(y), 1, jnp.float32).values
        for y in (wide % 2 == 0, np.float32(wide % 2 == 0), np.int32(wide % 2 == 0))
    ]
    np.testing.assert_array_equal(kinds[0], kinds[1])
    np.testing.assert_array_equal(kinds[0], kinds[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.softmax(label_smoothing=1.5), r"label_smoothing in \[0, 1\)"),
        (lambda: losses.softmax(label_smoothing=-0.1), "label_smoothing"),
        (lambda: losses.softmax(class_weights=[1.0, -1.0]), "class_weights"),
        (lambda: losses.huber(0.0), "delta"),
        (lambda: losses.quantile(1.0, smoothing=0.1), "level"),
        (lambda: losses.quantile(0.5, smoothing=0.0), "smoothing"),
        (lambda: losses.ordinal([1.0, 0.0]), "ascending"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_negative_weights_and_traced_smoothing_are_not_taken():
    features, labels = np.ones((4, 2), np.float32), np.array([0, 1, 1, 0])
    norm = fixed_norm(1.0, per_output=False)
    weights = np.array([1.0, 1.0, -1.0, 1.0], np.float32)
    with pytest.raises(ValueError, match="weights >= 0"):
        lj.solve_convex((features, labels, weights), norm, num_outputs=2)

    def solve(weights, smoothing):
        loss = losses.softmax(label_smoothing=smoothing)
        data = features, labels, weights
        return lj.solve_convex(data, norm, loss=loss, num_outputs=2).status

    traced = jax.jit(solve)
    assert traced(weights, 0.0) == lj.Status.INVALID_WEIGHTS
    assert traced(np.abs(weights), 2.0) == lj.Status.INVALID_TARGETS


def test_a_loss_is_a_value():
    assert losses.softmax(label_smoothing=0.1) == losses.softmax(label_smoothing=0.1)
    assert hash(losses.huber(2.0)) == hash(losses.huber(2.0))
    assert losses.sigmoid(class_weights=WEIGHTS) == losses.sigmoid(
        class_weights=tuple(WEIGHTS)
    )


def test_a_norm_of_zero_leaves_the_best_constant():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(301, 2)).astype(np.float32)
    counts: Any = rng.poisson(3.0, (301, 1))
    constraint = lj.Constraint(lambda problem: jnp.zeros(()))
    for loss, constant, tolerance in (
        (losses.poisson(), np.log(counts.mean()), 1e-4),
        (losses.quantile(0.5, smoothing=0.02), np.median(counts), 0.05),
    ):
        head = lj.solve_convex((features, counts), constraint, loss=loss)
        lj.check(head)
        assert (head.kernel == 0).all()
        np.testing.assert_allclose(head.bias, constant, atol=tolerance)
