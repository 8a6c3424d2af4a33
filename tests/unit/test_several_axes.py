"""Heads with several output axes, and data as people have them."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import RidgeCV

import lagrange_jax as lj
from lagrange_jax.solvers.blocks import in_blocks

RNG = np.random.default_rng(0)
INPUTS: Any = RNG.normal(size=(60, 4)).astype(np.float32)
NOISE = RNG.random((60, 2)) > 0.6
LABELS: Any = ((INPUTS[:, :2] > 0) + NOISE).astype(np.int32)
NORM = lj.constraints.fixed_norm(2.0, per_output=False)


class Linen(nn.Module):
    end: Any

    @nn.compact
    def __call__(self, x):
        return self.end(nn.tanh(x))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.LinearGeneral(4, (2, 3), rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(x))


MODELS = {
    "dense_general": lambda: lj.linen.as_model(
        Linen(nn.DenseGeneral((2, 3))), INPUTS[:2]
    ),
    "einsum": lambda: lj.linen.as_model(
        Linen(nn.Einsum((4, 2, 3), "nd,dgc->ngc")), INPUTS[:2]
    ),
    "nnx": lambda: lj.nnx.as_model(Nnx, INPUTS[:2]),
}


def least_loss(multiplier):
    """Of two softmaxes plus multiplier times norm, minus that of the norm, float64."""
    x = np.tanh(INPUTS.astype(float))
    rows = np.arange(len(x))[:, None], np.arange(2)[None], LABELS

    def value(flat):
        head = flat.reshape(5, 6)
        log_p = log_softmax((x @ head[:-1] + head[-1:]).reshape(-1, 2, 3), axis=2)
        slope = np.exp(log_p)
        slope[rows] -= 1
        slope = slope.reshape(-1, 6) / len(x)
        gradient = np.vstack([x.T @ slope, slope.sum(0, keepdims=True)])
        gradient[:-1] += 2 * multiplier * head[:-1]
        loss = -log_p[rows].sum() / len(x)
        return loss + multiplier * ((head[:-1] ** 2).sum() - 2.0), gradient.ravel()

    return minimize(value, np.zeros(30), jac=True, tol=1e-12).fun


@pytest.mark.parametrize("name", MODELS)
def test_softmax_is_of_the_last_axis(name, key):
    model, init = MODELS[name](), lj.lagrange(NORM, loss="cross_entropy")
    variables, info = lj.initialize(key, model, init, (INPUTS, LABELS))
    lj.check(info)
    own = optax.losses.softmax_cross_entropy_with_integer_labels(
        model.apply(variables, INPUTS), LABELS
    )
    np.testing.assert_allclose(own.sum(1).mean(), info.objective, rtol=1e-5)
    np.testing.assert_allclose(info.objective, least_loss(info.multiplier), rtol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_outputs_of_several_axes_share_their_features(use_bias):
    for end in (
        nn.Einsum((4, 2, 3), "nd,dgc->ngc", use_bias=use_bias),
        nn.DenseGeneral((2, 3), use_bias=use_bias),
    ):
        layout = lj.linen.as_model(Linen(end), INPUTS[:2]).layout
        assert layout is not None and layout.kernel == ("end", "kernel")
        assert layout.bias == (("end", "bias") if use_bias else None)
        assert layout.output_axes == (1, 2) and layout.output_shape == (2, 3)


def test_a_transform_without_parentheses_is_named(key):
    with pytest.raises(TypeError, match="with parentheses"):
        lj.initialize(key, small_model(), lj.lagrange, (INPUTS, INPUTS[:, :1]))  # type: ignore


def test_labels_of_several_axes_fit_the_output(key):
    model, init = MODELS["dense_general"](), lj.lagrange(NORM, loss="cross_entropy")
    for targets in (LABELS[:, 0], jax.nn.one_hot(LABELS, 4)):
        with pytest.raises(
            ValueError, match=r"\(60, 2, 3\), or labels of shape \(60, 2"
        ):
            lj.initialize(key, model, init, (INPUTS, targets))
    with pytest.raises(ValueError, match="one row of classes"):
        means = lj.initializers.class_means()
        lj.initialize(key, model, means, (INPUTS, LABELS[:, 0]))


def small_model(dtype=jnp.float32):
    layers = [nn.tanh, nn.Dense(1, param_dtype=dtype)]
    return lj.linen.as_model(nn.Sequential(layers), INPUTS[:2])


def test_leave_one_out_is_that_of_scikit_learn(key):
    targets = INPUTS[:, :1] + 0.3 * RNG.normal(size=(60, 1)).astype(np.float32)
    init = lj.lagrange(lj.constraints.at_strength("leave_one_out"))
    model, x = small_model(), np.tanh(INPUTS.astype(float))
    grid = np.geomspace(1e-4, 1e3, 2000)
    found = RidgeCV(grid, store_cv_results=True).fit(x, targets[:, 0])
    errors = found.cv_results_.mean(0)
    stream = [(INPUTS[:25], targets[:25]), (INPUTS[25:], targets[25:])]
    for data in ((INPUTS, targets), stream):
        _, info = lj.initialize(key, model, init, data, eval_batch_size=25)
        lj.check(info)
        alpha = float(info.multiplier[0]) * len(x)
        assert np.interp(alpha, grid, errors) <= errors.min() * (1 + 1e-4)


class OneIterator:
    """A loader whose iterations share one iterator."""

    def __init__(self, batches):
        self.iterator = iter(batches)

    def __iter__(self):
        return self.iterator


def test_data_as_people_have_them(key):
    """Columns of a table, named fields and shared iterators are the same examples."""
    targets, weights = INPUTS[:, :1] ** 2, np.linspace(0.1, 1, 60).astype(np.float32)
    frame = pd.DataFrame(np.hstack([INPUTS, targets]), columns=list("abcdt"))
    parts = [slice(0, 20), slice(20, 40), slice(40, 60)]
    model, init = small_model(), lj.lagrange(lj.constraints.fixed_norm(0.5))
    batches = [(INPUTS[s], targets[s], weights[s]) for s in parts]
    datas = [
        (INPUTS, targets, weights),
        (frame[list("abcd")], frame["t"], pd.Series(weights)),
        {"x": INPUTS, "labels": targets, "weight": weights},
        [dict(x=x, y=t, sample_weight=w) for x, t, w in batches],
        OneIterator(batches),
    ]
    heads = [lj.initialize(key, model, init, data)[1] for data in datas]
    lj.check(heads)
    for head in heads[1:]:
        np.testing.assert_allclose(head.kernel, heads[0].kernel, rtol=1e-4, atol=1e-6)


def test_half_precision_has_unit_variance(key):
    half = partial(nn.Dense, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    model = lj.linen.as_model(
        nn.Sequential([half(8), nn.relu, half(1)]),
        INPUTS[:2],
    )
    variables, _ = lj.initialize(key, model, lj.lsuv(), (INPUTS, INPUTS[:, :1]))
    for tap in model.taps(variables, INPUTS, key).values():
        np.testing.assert_allclose(np.std(np.float32(tap.outputs)), 1, rtol=0.02)


def test_partitioned_parameters_under_a_mesh(key):
    dense = nn.Dense(
        1,
        kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, None)),
    )
    targets, init = INPUTS[:, :1] ** 2, lj.lagrange(lj.constraints.fixed_norm(0.5))
    plain, wanted = lj.initialize(key, small_model(), init, (INPUTS, targets))
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        model = lj.linen.as_model(nn.Sequential([nn.tanh, dense]), INPUTS[:2])
        _, found = lj.initialize(key, model, init, (INPUTS, targets))
    np.testing.assert_allclose(found.kernel, wanted.kernel, rtol=1e-4)
    assert plain["params"]


def test_keys_that_a_checkpoint_made_text():
    variables = {"params": {"layers": {"2": {"kernel": jnp.ones((3, 1))}}}}
    path = ("layers", 2)
    np.testing.assert_array_equal(lj.models.get_layer(variables, path)["kernel"], 1)
    changed = lj.models.set_layer(variables, path, kernel=jnp.zeros((3, 1)))
    np.testing.assert_array_equal(changed["params"]["layers"]["2"]["kernel"], 0)


def test_weights_of_tokens_and_ignored_labels_are_a_cut(key):
    model = lj.linen.as_model(nn.Sequential([nn.tanh, nn.Dense(3)]), INPUTS[:2])
    labels = LABELS[:, 0]
    tokens, ids = INPUTS.reshape(20, 3, 4), labels.reshape(20, 3)
    used = RNG.random((20, 3)) > 0.3
    init = lj.lagrange(NORM, loss="cross_entropy")
    sequences = lj.linen.as_model(nn.Sequential([nn.tanh, nn.Dense(3)]), tokens[:2])
    flat = used.ravel()
    _, wanted = lj.initialize(key, model, init, (INPUTS[flat], labels[flat]))
    for data in (
        (tokens, ids, used.astype(np.float32)),
        (tokens, np.where(used, ids, -100)),
    ):
        _, found = lj.initialize(key, sequences, init, data)
        lj.check(found)
        np.testing.assert_allclose(found.objective, wanted.objective, rtol=1e-5)


def test_folds_are_of_the_examples_that_count():
    """Masked rows change nothing but which rows are held out together."""
    x, labels = INPUTS, (INPUTS[:, 0] + NOISE[:, 0] > 0.5).astype(np.int32)
    weights = (np.arange(60) < 12).astype(np.float32)
    norm = lj.constraints.cross_validated_norm()
    norms = {}
    for name, data in (
        ("cut", (x[:12], labels[:12])),
        ("masked", (x, labels, weights)),
    ):
        heads = [
            lj.solve_convex(data, norm, num_outputs=2, key=jax.random.key(seed))
            for seed in range(8)
        ]
        lj.check(heads)
        norms[name] = np.log([float(head.norm_sq) for head in heads])
    assert abs(np.median(norms["cut"]) - np.median(norms["masked"])) < np.log(10)


@pytest.mark.parametrize("most", [7, 60, 100])
def test_blocks_count_every_row_once(most):
    batch = lj.Batch(INPUTS, LABELS[:, 0], None)

    def step(total, block):
        weights = 1 if block.weights is None else block.weights[:, None]
        return total + jnp.sum(weights * block.inputs, axis=0)

    total = in_blocks(batch, most).fold(step, jnp.zeros(4))
    np.testing.assert_allclose(total, INPUTS.sum(0), atol=1e-4)
