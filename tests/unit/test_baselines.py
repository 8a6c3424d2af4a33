"""The zero head has the best constant of its loss."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import lagrange_jax as lj

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(101, 3)).astype(np.float32)
COUNTS = RNG.poisson(3.0, (101, 1)).astype(np.float32)
LABELS = RNG.choice(3, 101, p=[0.6, 0.3, 0.1]).astype(np.int32)
SHARES = np.bincount(LABELS, minlength=3) / 101


@pytest.mark.parametrize(
    ("loss", "targets", "bias"),
    [
        ("squared_error", COUNTS, COUNTS.mean(0)),
        ("cross_entropy", LABELS, np.log(SHARES)),
        (lj.losses.poisson(), COUNTS, np.log(COUNTS.mean(0))),
    ],
)
def test_kernel_is_zero_and_bias_the_best_constant(loss, targets, bias):
    model = lj.linen.as_model(nn.Dense(len(bias)), INPUTS[:1])
    init = lj.zero_head(loss)
    assert init == lj.zero_head(loss)
    variables, info = lj.initialize(jax.random.key(0), model, init, (INPUTS, targets))
    lj.check(info)
    head = variables["params"]
    assert (head["kernel"] == 0).all()
    np.testing.assert_allclose(head["bias"], bias, rtol=1e-4)
