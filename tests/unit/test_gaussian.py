"""Mean and log-variance heads: against SciPy, and against alternation of the two."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import lagrange_jax as lj
from lagrange_jax import losses
from lagrange_jax.constraints import fixed_norm

N, D = 150, 3


def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, D))
    mean, log_variance = features @ [1.0, -1.0, 0.5], features @ [0.5, 0.0, -0.8]
    targets = mean + np.exp(log_variance / 2) * rng.normal(size=N)
    return features, targets


@jax.jit
def solve(features, targets, norm_sq):
    norm = fixed_norm(norm_sq, per_output=False, relation="at_most")
    return lj.solve_convex((features, targets), norm, loss=losses.gaussian())


def solved(norm_sq, targets=None):
    features, drawn = data()
    targets = drawn if targets is None else targets
    return solve(np.float32(features), np.float32(targets), jnp.float32(norm_sq))


def loss_of(flat, price=0.0):
    features, targets = data()
    head = flat.reshape(D + 1, 2)
    mean, log_variance = (features @ head[:D] + head[D]).T
    value = np.mean(log_variance + (targets - mean) ** 2 * np.exp(-log_variance)) / 2
    return value + price * np.sum(head[:D] ** 2)


def flat_of(head):
    return np.vstack([head.kernel, head.bias]).astype(float).ravel()


@pytest.mark.parametrize("norm_sq", [0.5, 1e3])
def test_loss_is_that_of_scipy(norm_sq):
    head = solved(norm_sq)
    lj.check(head)
    assert head.status == lj.Status.STATIONARY and lj.solvers.is_usable(head.status)
    assert np.isinf(head.gap_bound) and not head.is_global
    assert head.multiplier >= 0 and head.norm_sq <= norm_sq * (1 + 1e-5)
    np.testing.assert_allclose(head.objective, loss_of(flat_of(head)), rtol=1e-5)
    price = float(head.multiplier)
    # From a zero head, as the search does; SciPy knows nothing of the norm.
    start = np.zeros(2 * D + 2)
    found = minimize(loss_of, start, args=(price,), tol=1e-10)
    expected = found.fun - price * float(head.norm_sq)
    np.testing.assert_allclose(head.objective, expected, rtol=1e-5)


def test_neither_the_mean_nor_the_variance_alone_gains_anything():
    """Weighted least squares for the mean, gamma regression for the variance."""
    features, targets = data()
    head, rows = solved(0.5), np.hstack([features, np.ones((N, 1))])
    price, flat = float(head.multiplier), flat_of(head).reshape(D + 1, 2)
    precision = np.exp(-rows @ flat[:, 1])
    penalty = 2 * price * np.diag([1.0] * D + [0.0])
    gram = rows.T @ (precision[:, None] * rows) / N + penalty
    mean = np.linalg.solve(gram, rows.T @ (precision * targets) / N)
    np.testing.assert_allclose(flat[:, 0], mean, atol=1e-3)
    squares = (targets - rows @ flat[:, 0]) ** 2

    def deviance(w):
        log_variance = rows @ w
        value = np.mean(log_variance + squares * np.exp(-log_variance)) / 2
        return value + price * np.sum(w[:D] ** 2)

    variance = minimize(deviance, np.zeros(D + 1), tol=1e-10).x
    np.testing.assert_allclose(flat[:, 1], variance, atol=1e-3)


def test_a_zero_kernel_has_the_mean_and_the_variance():
    """Of targets far from zero too, whose squares would lose digits."""
    targets = 100 + data()[1]
    head = solved(1e-8, targets)
    lj.check(head)
    np.testing.assert_allclose(head.bias[0], np.mean(targets), rtol=1e-6)
    np.testing.assert_allclose(head.bias[1], np.log(np.var(targets)), atol=1e-2)


def test_a_network_gets_both_outputs():
    features, targets = (np.float32(x) for x in data())
    model = lj.linen.as_model(nn.Dense(2), features)
    init = lj.lagrange(fixed_norm(1.0, per_output=False), loss=losses.gaussian())
    key = jax.random.key(0)
    variables, info = lj.initialize(key, model, init, (features, targets))
    lj.check(info)
    mean, log_variance = np.asarray(model.apply(variables, features)).T
    squares = (targets - mean) ** 2 * np.exp(-log_variance)
    loss = np.mean(log_variance + squares) / 2
    np.testing.assert_allclose(info.objective, loss, rtol=1e-5)
    with pytest.raises(ValueError, match="even number of outputs"):
        odd = lj.linen.as_model(nn.Dense(3), features)
        jax.eval_shape(lambda: lj.initialize(key, odd, init, (features, targets)))
