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
from sklearn.linear_model import (
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
)

import lagrange_jax as lj
from lagrange_jax import losses
from lagrange_jax.batches import as_batches
from lagrange_jax.constraints import fixed_norm
from lagrange_jax.losses import record
from lagrange_jax.solvers.continuation import num_stages, smoother
from lagrange_jax.solvers.examples import example_statistics

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


def pinball(z, t, h=0.05):
    return 0.2 * (t - z) + h * np.logaddexp(0, (z - t) / h)


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


WEIGHTED = Case(
    losses.softmax(class_weights=WEIGHTS), 3, lambda rng, z: z.argmax(1), np.zeros_like
)


@pytest.mark.parametrize("name", [*CASES, "weighted classes"])
def test_no_second_derivative_exceeds_the_curvature(name):
    case = CASES.get(name, WEIGHTED)
    kind, parameters = case.loss
    if kind.curvature is None:
        assert name in ("poisson", "ordinal", "custom")
        return
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(200, case.k))
    targets = case.draw(rng, logits)
    with jax.enable_x64(True):
        logits = jnp.asarray(logits)
        values = record.read_targets(case.loss, jnp.asarray(targets), case.k, float)
        bend = functools.partial(record.bend, case.loss, logits, values.values)
        units = jnp.eye(case.k, dtype=float)
        columns = [bend(jnp.broadcast_to(x[None], logits.shape)) for x in units]
        largest = jnp.linalg.eigvalsh(jnp.stack(columns, -1)).max()
        assert largest <= kind.curvature(parameters) * (1 + 1e-12)


@functools.cache
def data(name):
    case, rng = CASES[name], np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype(np.float32) * [1, 2, 0.3, 1] + 1
    truth = rng.normal(size=(D, case.k))
    weights = rng.uniform(0.1, 2, N).astype(np.float32)
    offset = rng.normal(size=(N, case.k)).astype(np.float32) / 2
    targets = case.draw(rng, features @ truth - truth.sum(0) + offset)
    return np.float32(features), targets, weights, offset


@functools.partial(jax.jit, static_argnames="k")
def solve_within(loss, k, examples, norm_sq, center=None):
    """At most this norm; one program for all data, norms and numbers of a loss."""
    bound = fixed_norm(norm_sq, per_output=False, relation="at_most")
    return lj.solve_convex(examples, bound, loss=loss, num_outputs=k, center=center)


def solve(name, norm_sq, center=None):
    case, (features, targets, weights, offset) = CASES[name], data(name)
    examples = (features, offset), jnp.asarray(targets), weights
    center = np.zeros((D, case.k), np.float32) if center is None else center
    return solve_within(case.loss, case.k, examples, jnp.float32(norm_sq), center)


def solve_plainly(name, loss, norm_sq):
    """Without weights and offset, and with other numbers of the loss."""
    case, (features, targets, weights, offset) = CASES[name], data(name)
    examples = (features, 0 * offset), jnp.asarray(targets), np.ones_like(weights)
    head = solve_within(loss, case.k, examples, jnp.float32(norm_sq))
    lj.check(head)
    return features.astype(float), targets, head


def mean_value(name, flat):
    case, (features, targets, weights, offset) = CASES[name], data(name)
    head = flat.reshape(D + 1, case.k)
    logits = features.astype(float) @ head[:-1] + head[-1] + offset
    values = case.values(logits, targets.reshape(logits.shape).astype(float))
    return weights.astype(float) @ values.sum(1) / weights.sum(dtype=float)


@pytest.mark.parametrize("norm_sq", [1e-2, 0.5, 1e3])
@pytest.mark.parametrize("name", CASES)
def test_loss_is_that_of_scipy(name, norm_sq):
    require_least(name, solve(name, norm_sq), norm_sq)


@pytest.mark.parametrize("name", CASES)
def test_loss_about_a_head_is_that_of_scipy(name):
    """Small beside the centre, so that a norm about zero would be another problem."""
    k = CASES[name].k
    center = np.random.default_rng(3).normal(size=(D, k)).astype(np.float32)
    head = solve(name, 0.3, center)
    assert head.multiplier > 0
    change = np.asarray(head.kernel - center, float)
    np.testing.assert_allclose(np.sum(change**2), 0.3, rtol=1e-4)
    require_least(name, head, 0.3, center.astype(float).ravel())


def require_least(name, head, norm_sq, center: Any = 0.0):
    """No head of the same distance from the centre has a smaller loss."""
    lj.check(head)
    multiplier, k = float(head.multiplier), CASES[name].k
    assert multiplier >= 0 and head.norm_sq <= norm_sq * (1 + 1e-5)
    flat = np.vstack([head.kernel, head.bias]).astype(float).ravel()

    def lagrangian(x):
        size_sq = np.sum((x[: D * k] - center) ** 2)
        return mean_value(name, x) + multiplier * (size_sq - norm_sq)

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


JOINT = "joint thresholds"


@pytest.mark.parametrize("name", [*CASES, "gaussian", JOINT])
def test_derivatives_are_those_of_the_value(name, x64):
    kind, p, k, targets = losses.gaussian().kind, (), 4, data("squared")[1]
    rng = np.random.default_rng(1)
    z = rng.normal(size=(5, 4))
    if name in CASES:
        (kind, p), k, targets = CASES[name].loss, CASES[name].k, data(name)[1]
        z = z[:, :k]
    elif name == JOINT:
        kind, k, targets = losses.ordinal(num_classes=4).kind, 1, data("ordinal")[1]
        z = -np.sort(z[:, :3])
    z = jnp.asarray(z)
    t = kind.read(p, jnp.asarray(targets[:5]), k, jnp.float64).values
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


def test_softmax_keeps_the_digits_of_a_class_all_but_certain():
    """In float32 one less its probability would have none of them."""
    rng = np.random.default_rng(0)
    z, d = (rng.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    z[:, 1] += 17.0
    targets = np.eye(3, dtype=np.float32)[[1, 1, 0, 2]]
    kind, p = losses.softmax()
    assert kind.slope is not None and kind.bend is not None
    p_exact = np.exp(z.astype(float) - z.max(1, keepdims=True))
    total = p_exact.sum(1, keepdims=True)
    wrong = np.where(np.arange(3) == 1, 0, p_exact).sum(1) / total[:, 0]
    slopes = kind.slope(p, z, targets)
    np.testing.assert_allclose(slopes[:2, 1], -wrong[:2], rtol=1e-5)
    shares, above = p_exact / total, d.astype(float) - d[:, 1:2]
    bent = shares * (above - (shares * above).sum(1, keepdims=True))
    np.testing.assert_allclose(kind.bend(p, z, targets, d), bent, rtol=1e-5)


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
        (lambda: losses.ordinal(), "num_classes to solve for them"),
        (lambda: losses.ordinal([0.0], num_classes=2), "num_classes to solve for them"),
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


def of_each_output(make, targets, features):
    """One regressor of scikit-learn an output: kernel `[d, k]`, bias, and them."""
    fits = [make().fit(features, t) for t in targets.T]
    kernel = np.stack([fit.coef_.ravel() for fit in fits], 1)
    return kernel, np.array([np.ravel(fit.intercept_)[0] for fit in fits]), fits


@pytest.mark.parametrize(
    ("name", "make", "strength"),
    [
        ("poisson", lambda: PoissonRegressor(alpha=0.02, tol=1e-9), 0.02),
        (
            "multi-label",
            lambda: LogisticRegression(C=1 / (0.02 * N), tol=1e-9),
            0.02,
        ),
    ],
)
def test_equals_scikit_learn_one_output_each(name, make, strength):
    features, targets, _, _ = data(name)
    kernel, bias, _ = of_each_output(make, targets, features.astype(float))
    norm_sq = np.sum(kernel**2)
    features, targets, head = solve_plainly(name, CASES[name].loss, norm_sq)
    loss = CASES[name].values(features @ kernel + bias, targets).sum(1).mean()
    np.testing.assert_allclose(head.objective, loss, rtol=1e-5)
    np.testing.assert_allclose(2 * head.multiplier, strength, rtol=2e-3)
    np.testing.assert_allclose(head.kernel, kernel, atol=2e-3)


def test_equals_scikit_learns_huber_regression_of_its_scale():
    """Its scale is estimated; at that scale its kernel is the one of our loss."""
    features, targets, _, _ = data("huber")
    target = targets[:, :1]
    make = lambda: HuberRegressor(epsilon=1.35, alpha=5.0, tol=1e-9, max_iter=1000)  # noqa: E731
    kernel, bias, (fit,) = of_each_output(make, target, features.astype(float))
    delta = 1.35 * float(fit.scale_)
    loss = losses.huber(delta)
    norm = fixed_norm(np.sum(kernel**2), per_output=False, relation="at_most")
    head = lj.solve_convex((features, np.float32(target)), norm, loss=loss)
    lj.check(head)
    values = lambda w, b: loss.kind.value(  # noqa: E731
        loss.parameters,
        jnp.float32(features @ np.asarray(w) + np.asarray(b)),
        jnp.float32(target),
    ).mean()
    found, expected = values(head.kernel, head.bias), values(kernel, bias)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(head.kernel, kernel, atol=2e-3)


def test_smoothed_quantiles_converge_to_the_linear_program():
    features, targets, _, _ = data("quantile")
    make = lambda: QuantileRegressor(quantile=0.2, alpha=0.0)  # noqa: E731
    kernel, bias, _ = of_each_output(make, targets, features.astype(float))

    def pinball_loss(kernel, bias):
        r = features @ np.asarray(kernel) + np.asarray(bias) - targets
        return (np.maximum(r, 0) - 0.2 * r).sum(1).mean()

    least, excess = pinball_loss(kernel, bias), []
    for smoothing in (0.3, 0.03, 0.01):
        loss = losses.quantile(0.2, smoothing=smoothing)
        _, _, head = solve_plainly("quantile", loss, 1e3)
        excess.append(pinball_loss(head.kernel, head.bias) - least)
        assert -1e-6 <= excess[-1] <= 2 * smoothing * np.log(2)
    assert excess[2] < 2e-3 * least and excess[2] < excess[0] / 10


@pytest.mark.parametrize("wide", [3.0, 40.0, 1e4])
def test_smoother_losses_lead_to_the_loss_itself(wide):
    loss, dtype = losses.quantile(0.2, smoothing=2.0), jnp.float32
    smooth = loss.parameters._replace(smoothing=wide)
    number = int(num_stages(loss, smooth, dtype))
    shares = [jnp.asarray(i / number, dtype) for i in range(number + 1)]
    given = [smoother(loss, smooth, share, dtype).parameters for share in shares]
    scales = np.array([p.smoothing for p in given])
    np.testing.assert_allclose(scales[[0, -1]], [2.0, wide], rtol=1e-5)
    assert scales[0] == 2
    np.testing.assert_array_equal([p.level for p in given], np.float32(0.2))
    assert (scales[1:] / scales[:-1]).max() <= 4.001
    assert num_stages(loss, loss.parameters, dtype) == 0


def test_a_smoothing_far_below_the_spread_of_the_targets_is_solved():
    """There hardly an example bends the loss of a constant prediction."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(40, 12)).astype(np.float32)
    noise = 100 * (rng.random(40) > 0.5) + rng.standard_t(2, size=40)
    targets = features @ rng.normal(size=(12, 1)) * 3 + noise[:, None]
    targets = targets.astype(np.float32)
    norm = fixed_norm(1e4, per_output=False, relation="at_most")
    loss = losses.quantile(0.2, smoothing=0.01)
    head = lj.solve_convex((features, targets), norm, loss=loss)
    lj.check(head)
    make = lambda: QuantileRegressor(quantile=0.2, alpha=0.0)  # noqa: E731
    least = of_each_output(make, targets, features.astype(float))[:2]
    of_ours, of_least = (
        pinball(features.astype(float) @ kernel + bias, targets, 1e-9).mean()
        for kernel, bias in ((np.asarray(head.kernel), np.asarray(head.bias)), least)
    )
    assert -1e-6 <= of_ours - of_least <= 0.01 * np.log(2)


def test_a_norm_beyond_the_optimum_is_no_success_of_an_exponential_loss():
    """However large the loss on the sphere is, and small a bound beside it."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(150, 5)).astype(np.float32)
    rates = np.exp(1.5 * features @ rng.normal(size=5))
    counts = rng.poisson(rates).astype(np.float32)[:, None]
    fit = PoissonRegressor(alpha=0.0).fit(features.astype(float), counts[:, 0])
    norm_sq = 10 * float(np.sum(fit.coef_**2)) + 10
    norm = fixed_norm(norm_sq, per_output=False)
    head = lj.solve_convex((features, counts), norm, loss=losses.poisson())
    assert head.status == lj.Status.NOT_GLOBAL
    np.testing.assert_allclose(np.sum(head.kernel**2), norm_sq, rtol=1e-5)
    assert head.multiplier < 0 and head.stationarity <= 1e-4


def test_joint_thresholds_are_those_of_scipy():
    features, labels, weights, _ = data("ordinal")
    labels = labels.astype(np.int32)
    norm_sq = 0.5
    loss = losses.ordinal(num_classes=4)
    head = solve_within(loss, 1, (features, labels, weights), jnp.float32(norm_sq))
    lj.check(head)
    assert (np.diff(-head.bias) > 0).all() and head.norm_sq <= norm_sq * (1 + 1e-5)
    shares = weights.astype(float) / weights.sum(dtype=float)

    def lagrangian(x, price):
        z, first, steps = features.astype(float) @ x[:D], x[D], np.exp(x[D + 1 :])
        edges = np.r_[-np.inf, first, first + np.cumsum(steps), np.inf]
        at = labels.ravel()
        share = expit(edges[at + 1] - z) - expit(edges[at] - z)
        return -shares @ np.log(share) + price * (x[:D] @ x[:D] - norm_sq)

    start = np.zeros(D + 3)
    bound = minimize(lagrangian, start, args=(float(head.multiplier),), tol=1e-10)
    np.testing.assert_allclose(head.objective, bound.fun, rtol=1e-5)
    steps = np.exp(bound.x[D + 1 :])
    thresholds = bound.x[D] + np.r_[0, np.cumsum(steps)]
    np.testing.assert_allclose(-head.bias, thresholds, atol=5e-3)


def require_optimum(head, kernel, bias, loss):
    """Far inside a bound the head is that of plain maximum likelihood."""
    lj.check(head)
    np.testing.assert_allclose(head.kernel[:, 0], kernel, atol=1e-5)
    np.testing.assert_allclose(head.bias, bias, atol=1e-5)
    np.testing.assert_allclose(head.objective, loss, rtol=1e-6)


def test_thresholds_and_exposures_are_those_of_statsmodels():
    """`OrderedModel` and `GLM(offset=, var_weights=)` of statsmodels 0.15.0."""
    features, labels, _, _ = data("ordinal")
    loss, far = losses.ordinal(num_classes=4), jnp.float32(1e3)
    examples = features, labels.astype(np.int32), np.ones(N, np.float32)
    kernel = [0.67299321, 1.42548577, -1.11495226, 0.05742209]
    thresholds = np.array([-0.06513171, 1.36791981, 2.40273092])
    head = solve_within(loss, 1, examples, far)
    require_optimum(head, kernel, -thresholds, 0.85333208)
    features, counts, weights, offset = data("poisson")
    examples = (features, offset[:, :1]), jnp.asarray(counts[:, :1]), weights
    kernel = [0.07738445, -0.20181208, -0.37336797, -0.45717559]
    head = solve_within(losses.poisson(), 1, examples, far)
    require_optimum(head, kernel, 0.84077179, 0.45489213)


def test_thresholds_of_a_zero_kernel_are_log_odds():
    features, labels, weights, _ = data("ordinal")
    labels = np.where(labels == 2, 1, labels).astype(np.int32)  # a class is missing
    loss = losses.ordinal(num_classes=4)
    counts = np.bincount(labels.ravel(), weights, minlength=4).astype(np.float32)
    thresholds = losses.ordinal_thresholds(counts, N)
    below = np.cumsum(counts)[:-1] / counts.sum()
    np.testing.assert_allclose(thresholds, np.log(below / (1 - below)), rtol=1e-5)
    at_ends = losses.ordinal_thresholds(np.array([0, 5, 5, 0]))
    np.testing.assert_allclose(at_ends, [np.log(0.05), 0, np.log(20)], atol=1e-6)
    head = solve_within(loss, 1, (features, labels, weights), jnp.float32(1e-8))
    lj.check(head)
    np.testing.assert_allclose(-head.bias, thresholds, atol=1e-3)
    with pytest.raises(ValueError, match="use_bias=True"):
        norm = fixed_norm(1.0)
        lj.solve_convex((features, labels), norm, loss=loss, use_bias=False)


def poly(z, t):
    one_hot = jax.nn.one_hot(t, z.shape[1], dtype=z.dtype)
    return optax.losses.poly_loss_cross_entropy(z, one_hot, epsilon=5.0)


def test_a_function_that_is_not_convex_has_no_certificate():
    """`poly_loss` with epsilon 5 bends downwards where a class is unlikely."""
    rng = np.random.default_rng(0)
    features = np.float32(rng.normal(size=(60, 2)))
    noise = rng.gumbel(size=(60, 4))
    labels = np.argmax(features @ rng.normal(size=(2, 4)) + noise, 1)
    loss = losses.from_function(poly, takes_labels=True)
    head = solve_within(loss, 4, (features, labels), jnp.float32(1))
    assert head.status == lj.Status.NOT_CONVEX
    with pytest.raises(ValueError, match="is_convex=False"):
        lj.check(head)
    with pytest.raises(ValueError, match="Leave out the mean"):
        mean = losses.from_function(lambda z, t: jnp.mean((z - t) ** 2))
        jax.eval_shape(lambda z: mean.kind.value((), z, z), features)


def test_curvature_is_the_mean_second_derivative_on_the_data():
    features, targets, weights, _ = data("custom")
    batches = as_batches((features, jnp.asarray(np.float32(targets)), weights))
    loss = CASES["custom"].loss
    found = example_statistics(batches, loss, 2)
    function = lambda z, t: optax.losses.log_cosh(z, t).sum()  # noqa: E731
    bias = jnp.broadcast_to(found.start.bias[None], targets.shape)
    hessians = jax.vmap(jax.hessian(function))(bias, jnp.float32(targets))
    mean = np.average(np.diagonal(hessians, axis1=1, axis2=2), 0, weights)
    np.testing.assert_allclose(found.curvature, mean, rtol=1e-4)
