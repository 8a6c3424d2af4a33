"""The loss of a batch: shapes, padding, half precision, and what Optax is told."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import scipy.optimize

import lagrange_jax as lj
from lagrange_jax.training.objective import example_losses, make_objective
from lagrange_jax.training.train import make_train


def linear_model(d=3, k=1, squeeze=False, dtype=jnp.float32):
    """One affine layer, by hand: nothing to compile."""

    def init(key):
        del key
        kernel = jnp.asarray(np.linspace(-1, 1, d * k).reshape(d, k), jnp.float32)
        return {"params": {"head": {"kernel": kernel, "bias": jnp.zeros(k)}}}

    def apply(variables, inputs):
        layer = variables["params"]["head"]
        outputs = (inputs @ layer["kernel"] + layer["bias"][None]).astype(dtype)
        return outputs[:, 0] if squeeze else outputs

    return lj.Model(
        init=init,
        apply=apply,
        apply_train=lambda v, x, key: (apply(v, x), v),
        taps=lambda v, x, key: {("head",): lj.types.Tap(x, apply(v, x))},
        layers=(("head",),),
        head=("head",),
    )


RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(24, 3)).astype(np.float32)
TARGETS = (INPUTS @ np.array([[1.0], [-2.0], [0.5]]) + 0.1).astype(np.float32)


def squared_error(outputs, targets):
    """One's own: it broadcasts whatever it is given."""
    return (outputs - targets) ** 2


def run(optimizer_fn=optax.sgd, data=(INPUTS, TARGETS), model=None, **options):
    model = linear_model() if model is None else model
    loss = options.pop("loss", squared_error)
    options = {"num_steps": 5, **options}
    train = make_train(model, loss, optimizer_fn, None, data, **options)
    return jax.jit(train)(jax.random.key(0), 0.1)


@pytest.mark.parametrize("squeeze", [True, False])
@pytest.mark.parametrize("targets", [TARGETS, TARGETS[:, 0]])
def test_one_output_is_one_column_in_every_notation(squeeze, targets):
    model = linear_model(squeeze=squeeze)
    found = run(data=(INPUTS, targets), model=model).train_loss
    outputs = np.asarray(linear_model().apply(model.init(jax.random.key(0)), INPUTS))
    wanted = np.mean((outputs - TARGETS).astype(np.float64) ** 2)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((6, 2), (6, 1)), ((6, 1), (6, 2)), ((2, 2), (2,)), ((6,), (6, 1, 1))],
)
def test_what_would_be_broadcast_is_refused(outputs, targets):
    with (
        jax.numpy_rank_promotion("allow"),
        pytest.raises(ValueError, match="broadcast"),
    ):
        example_losses(squared_error, jnp.ones(outputs), jnp.ones(targets))


def test_labels_tokens_and_losses_of_own_are_served():
    labels = optax.losses.softmax_cross_entropy_with_integer_labels
    tokens = example_losses(labels, jnp.zeros((4, 3, 5)), jnp.zeros((4, 3), int))
    np.testing.assert_allclose(tokens, 3 * np.log(5), rtol=1e-6)
    # Mean and log variance from two outputs, for one target.
    own = lambda z, t: (z[:, 0] - t[:, 0]) ** 2 / jnp.exp(z[:, 1]) + z[:, 1]  # noqa: E731
    np.testing.assert_allclose(
        example_losses(own, jnp.zeros((4, 2)), jnp.ones((4, 1))), 1
    )
    pair = lambda z, t: (z[0] - z[1] - t) ** 2  # noqa: E731
    outputs = jnp.ones((4, 1)), jnp.zeros((4, 1))
    np.testing.assert_allclose(example_losses(pair, outputs, jnp.zeros((4, 1))), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_padding_of_weight_zero_reaches_no_network(value):
    def pad(x, value):
        return np.concatenate([np.full_like(x[:8], value), x])

    def padded(value):
        weights = np.r_[np.zeros(8), np.ones(24)].astype(np.float32)
        data = pad(INPUTS, value), pad(TARGETS, value), weights
        return run(data=data, validation=data)

    found, wanted, bare = padded(value), padded(0.0), run()
    assert not found.diverged
    np.testing.assert_allclose(found.train_loss, wanted.train_loss, rtol=1e-6)
    np.testing.assert_allclose(found.train_loss, bare.train_loss, rtol=1e-5)
    np.testing.assert_allclose(found.validation_loss, found.train_loss, rtol=1e-5)


def test_losses_of_half_precision_are_summed_in_float32():
    n = 999
    inputs = RNG.normal(size=(n, 3)).astype(np.float32)
    labels = RNG.integers(0, 4, n)
    model = linear_model(k=4, dtype=jnp.bfloat16)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels
    variables = model.init(jax.random.key(0))
    each = np.asarray(loss(model.apply(variables, inputs), labels), np.float64)
    objective = make_objective(model, loss, eval_batch_size=128)
    weights = jnp.where(jnp.arange(n) < 515, 1.0, 0.0)
    batch = lj.Batch(jnp.asarray(inputs), jnp.asarray(labels), weights)
    found = objective.loss(variables, batch)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, each[:515].mean(), rtol=1e-4)


def test_a_plateau_lowers_the_rate():
    def optimizer(rate):
        plateau = optax.contrib.reduce_on_plateau(patience=2, factor=0.5, atol=1e9)
        return optax.chain(optax.sgd(rate), plateau)

    plain = run(num_steps=40, record_every=10).train_loss
    lowered = run(optimizer, num_steps=40, record_every=10).train_loss
    # With nothing ever good enough the rate is halved again and again.
    assert np.isfinite(lowered).all() and lowered[-1] > 2 * plain[-1]


def test_lbfgs_reaches_the_optimum_of_loss_and_penalty():
    strength = 0.3

    def optimizer(_):
        penalty = lambda params: lj.transforms.l2_penalty(params, strength)  # noqa: E731
        return lj.transforms.with_penalty(optax.lbfgs(), penalty)

    found = run(optimizer, num_steps=30).variables["params"]["head"]

    def total(w):
        errors = INPUTS.astype(float) @ w[:3] + w[3] - TARGETS[:, 0]
        return np.mean(errors**2) + strength / 2 * (w @ w)

    wanted = scipy.optimize.minimize(total, np.zeros(4), tol=1e-12).x
    flat = np.r_[np.ravel(found["kernel"]), np.ravel(found["bias"])]
    np.testing.assert_allclose(flat, wanted, atol=1e-4)
