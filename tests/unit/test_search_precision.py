"""Searches that end early: each head against SciPy's minimum in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

import lagrange_jax as lj
from lagrange_jax.solvers.coordinates import Coordinates, settle

N, D, K = 120, 4, 3


def weighted(features, labels, weights, classes):
    """Mean loss over the present classes, penalised, with its gradient, in float64."""
    shares, targets = weights / weights.sum(), np.eye(K)[labels][:, classes]
    centred = features.astype(float) - shares @ features.astype(float)

    def value(flat, price):
        head = flat.reshape(D + 1, len(classes))
        log_p = log_softmax(centred @ head[:-1] + head[-1:], axis=1)
        slopes = shares[:, None] * (np.exp(log_p) - targets)
        gradient = np.vstack([centred.T @ slopes, slopes.sum(0)])
        gradient[:-1] += 2 * price * head[:-1]
        loss = -shares @ (targets * log_p).sum(1) + price * (head[:-1] ** 2).sum()
        return loss, gradient.ravel()

    return value


def least(value, width, price):
    options = dict(maxiter=5000, gtol=1e-11, ftol=1e-15)
    start = np.zeros((D + 1) * width)
    found = minimize(value, start, (price,), "L-BFGS-B", jac=True, options=options)
    return found.fun, found.x.reshape(D + 1, width)


def draw(kind):
    rng = np.random.default_rng(3)
    features = rng.normal(size=(N, D)).astype(np.float32)
    logits = features @ rng.normal(size=(D, K)) + rng.gumbel(size=(N, K))
    labels, weights = logits.argmax(1).astype(np.int32), np.ones(N, np.float32)
    if kind == "a class without examples":
        labels = np.minimum(labels, 1)
    if kind == "weights over five decades":
        weights = np.array([1, 1e-3, 1e-5], np.float32)[labels]
    return features, labels, weights


def test_all_but_separate_classes_have_a_usable_head():
    """Their loss is less than float32 tells; what may be left is little, and told."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 30)).astype(np.float32)
    labels = (features @ rng.normal(size=30) > 0).astype(np.int32)
    norm = lj.constraints.fixed_norm(3e4, per_output=False, relation="at_most")
    head = lj.solve_convex((features, labels), norm, num_outputs=2)
    assert lj.solvers.is_usable(head.status)
    assert float(head.objective) < 1e-6 and float(head.gap_bound) < 1e-4


def test_a_head_just_inside_is_put_on_the_sphere_along_the_path_of_solutions(x64):
    """To scale it would change the logits most along the stiffest directions."""
    s, loads = jnp.array([[100.0], [1.0], [1e-3]]), jnp.array([[1.0], [2.0], [0.1]])
    kernel = loads / (s + 1e-3)
    norm_sq = (1 + 5e-4) * jnp.sum(kernel**2, keepdims=True)
    coordinates = Coordinates(jnp.eye(3), (s + 1e-3) ** -0.5, jnp.ones(1), norm_sq)
    yes, no = jnp.ones((1, 1), bool), jnp.zeros((), bool)
    moved = settle(coordinates, kernel, None, no, yes)
    np.testing.assert_allclose(jnp.sum(moved**2), norm_sq[0, 0], rtol=1e-12)

    def residual(kernel):
        slope = s * kernel - loads
        pull = -jnp.sum(slope * kernel) / jnp.sum(kernel**2)
        return jnp.linalg.norm(slope + pull * kernel)

    assert residual(moved) < 1e-2 * residual(kernel * (1 + 5e-4) ** 0.5)


def test_a_class_of_next_to_no_weight_is_solved_for():
    """What the others lose to it is less than float32 tells from one."""
    features, labels, _ = draw("a class without examples")
    weights = np.array([1, 2e-7], np.float32)[labels]
    value = weighted(features, labels, weights.astype(float), np.array([0, 1]))
    price = 1e-9
    norm_sq = np.sum(least(value, 2, price)[1][:-1] ** 2)
    head = solve(features, labels, weights, np.float32(norm_sq))
    assert lj.Status(int(head.status)) == lj.Status.SUCCESS
    assert float(head.multiplier) == pytest.approx(price, rel=1e-2)


def test_rare_classes_do_not_hold_the_search_up():
    """Weights over five decades and a norm at which rare classes are fitted too."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(150, 10)).astype(np.float32)
    truth = rng.normal(size=(10, 12))
    labels = (features @ truth + rng.gumbel(size=(150, 12))).argmax(1).astype(np.int32)
    weights = (10 ** rng.uniform(-5, 0, 12)).astype(np.float32)[labels]
    norm = lj.constraints.fixed_norm(3e3, per_output=False, relation="at_most")
    search = lj.solvers.SearchOptions(max_steps=1000)
    head = lj.solve_convex(
        (features, labels, weights), norm, num_outputs=12, search=search
    )
    assert lj.Status(int(head.status)) == lj.Status.SUCCESS


@jax.jit
def solve(features, labels, weights, norm_sq):
    norm = lj.constraints.fixed_norm(norm_sq, per_output=False, relation="at_most")
    return lj.solve_convex((features, labels, weights), norm, num_outputs=K)


@pytest.mark.parametrize("part", [0.3, 1.0009, 3.0])
@pytest.mark.parametrize(
    "kind", ["plain", "a class without examples", "weights over five decades"]
)
def test_success_is_the_least_loss_to_a_hundred_thousandth(kind, part):
    """Norms below, just beyond and above that of a regularised optimum, at its price.

    Just inside the sphere the optimum is where it is, and not on the sphere.
    """
    features, labels, weights = draw(kind)
    classes = np.unique(labels)
    value = weighted(features, labels, weights.astype(float), classes)
    price = 0.0 if kind == "plain" else 1e-4
    norm_sq = part * np.sum(least(value, len(classes), price)[1][:-1] ** 2)
    head = solve(features, labels, weights, np.float32(norm_sq))
    assert lj.Status(int(head.status)) == lj.Status.SUCCESS
    price = max(float(head.multiplier), 0.0)
    bound = least(value, len(classes), price)[0] - price * norm_sq
    assert float(head.objective) <= bound * (1 + 1e-5) + 2e-7
    if kind == "plain" and part == 1.0009:
        assert float(head.stationarity) <= 2e-5
