"""The Lagrangian head of cross-entropy as an init transform."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import lagrange_jax as lj
import lagrange_jax.models.linen


class MLP(nn.Module):
    outputs: int = 10

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(16)(x))
        return nn.Dense(self.outputs)(x)


DIGITS: Any = load_digits()
IMAGES: Any = np.float32(DIGITS.data[:400] / 16)
LABELS: Any = np.int32(DIGITS.target[:400])
NORM = lj.constraints.fixed_norm(30.0, per_output=False)


@pytest.fixture(scope="module")
def model():
    return lagrange_jax.models.linen.as_model(MLP(), IMAGES[:1])


def mean_loss(model, variables, inputs=IMAGES, labels=LABELS):
    logits = model.apply(variables, inputs)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def features(model, variables):
    return model.taps(variables, IMAGES, jax.random.key(0))[model.head].inputs


def test_equals_the_solver_on_the_head_inputs(model, key):
    init = lj.lagrange(NORM, loss="cross_entropy")
    variables, info = lj.initialize(
        key, model, init, (IMAGES, LABELS), eval_batch_size=150
    )
    lj.check(info)
    plain = model.init(key)
    head = lj.solve_convex((features(model, plain), LABELS), NORM, num_outputs=10)
    np.testing.assert_allclose(mean_loss(model, variables), head.objective, rtol=1e-5)
    np.testing.assert_allclose(info.norm_sq, 30.0, rtol=1e-5)
    body = lambda v: v["params"]["Dense_0"]  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, body(variables), body(plain))


@pytest.mark.parametrize("stream", [False, True])
def test_features_kept_or_computed_anew(model, key, stream):
    data = (IMAGES, LABELS)
    if stream:
        data = [(IMAGES[i : i + 150], LABELS[i : i + 150]) for i in (0, 150, 300)]
    losses = []
    for keep in (True, False):
        init = lj.lagrange(NORM, loss="cross_entropy", keep_features=keep)
        variables, info = lj.initialize(key, model, init, data)
        lj.check(info)
        losses.append(mean_loss(model, variables))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_default_norm_generalises(model, key):
    """Of all norms the cross-validated one is near the best for unseen examples."""
    train, unseen = (IMAGES[:300], LABELS[:300]), (IMAGES[300:], LABELS[300:])
    init = lj.lagrange(loss="cross_entropy")
    variables, info = lj.initialize(key, model, init, train)
    lj.check(info)
    body = model.init(key)
    path = lj.solvers.convex_path(
        (features(model, body)[:300], LABELS[:300]),
        jnp.geomspace(1, 1e5, 9),
        validation=(features(model, body)[300:], LABELS[300:]),
        num_outputs=10,
        search=lj.solvers.SearchOptions(tolerance=1e-3),
    )
    loss = mean_loss(model, variables, *unseen)
    assert path.validation_loss is not None
    assert loss <= 1.1 * path.validation_loss.min()
    assert loss < 0.7 * path.validation_loss[0]


def test_binary_heads_and_probabilities(key):
    model = lagrange_jax.models.linen.as_model(MLP(1), IMAGES[:1])
    even: Any = np.int32(LABELS % 2)
    init = lj.lagrange(NORM, loss="cross_entropy")
    likely = even.astype(np.float32)
    heads = [
        lj.initialize(key, model, init, (IMAGES, targets))[1]
        for targets in (even, likely, likely[:, None])
    ]
    lj.check(heads)
    for head in heads:
        np.testing.assert_allclose(head.objective, heads[0].objective, rtol=1e-6)


def test_sequence_heads_count_positions(key):
    class Tagger(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(nn.tanh(nn.Dense(12)(x)))

    inputs, labels = IMAGES.reshape(100, 4, 64), LABELS.reshape(100, 4)
    model = lagrange_jax.models.linen.as_model(Tagger(), inputs[:1])
    init = lj.lagrange(NORM, loss="cross_entropy")
    _, info = lj.initialize(key, model, init, (inputs, labels))
    flat = lagrange_jax.models.linen.as_model(Tagger(), IMAGES[:1])
    _, other = lj.initialize(key, flat, init, (IMAGES, LABELS))
    lj.check((info, other))
    np.testing.assert_allclose(info.objective, other.objective, rtol=1e-5)


def test_a_failed_solve_keeps_the_head(model, key):
    init = lj.lagrange(NORM, loss="cross_entropy")
    spoilt = IMAGES.copy()
    spoilt[3] = np.nan
    variables, info = lj.initialize(key, model, init, (spoilt, LABELS))
    assert info.status == lj.Status.NONFINITE_FEATURES
    jax.tree.map(np.testing.assert_array_equal, dict(variables), dict(model.init(key)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(loss="hinge"), "'squared_error', 'cross_entropy'"),
        (
            dict(
                constraint=lj.constraints.variance_scaling(metric="output_variance"),
                loss="cross_entropy",
            ),
            "metric='output_variance'",
        ),
        (dict(loss="cross_entropy", keep_features=False), "name a norm"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        lj.lagrange(**arguments)


def test_cross_validation_is_of_cross_entropy(model, key):
    init = lj.lagrange(lj.constraints.cross_validated_norm())
    with pytest.raises(ValueError, match="needs loss='cross_entropy'"):
        lj.initialize(key, model, init, (IMAGES, jax.nn.one_hot(LABELS, 10)))


def test_targets_of_the_wrong_kind_or_shape(model, key):
    init = lj.lagrange(NORM, loss="cross_entropy")
    with pytest.raises(ValueError, match="as the head puts out"):
        lj.initialize(key, model, init, (IMAGES, jnp.ones((400, 7))))
    with pytest.raises(ValueError, match="loss='cross_entropy'"):
        lj.initialize(key, model, lj.lagrange(), (IMAGES, LABELS))
