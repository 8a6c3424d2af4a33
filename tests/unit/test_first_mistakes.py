"""What newcomers get wrong is named in a sentence that says what to do."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pytest
from flax import nnx

import lagrange_jax as lj

INPUTS = jnp.zeros((2, 3))


def test_nnx_module_for_linen():
    module: Any = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"use lagrange_jax\.nnx\.as_model"):
        lj.linen.as_model(module, INPUTS)


def test_linen_module_for_nnx():
    module: Any = nn.Dense(1)
    with pytest.raises(ValueError, match=r"Use lagrange_jax\.linen\.as_model"):
        lj.nnx.as_model(module, INPUTS)


@pytest.mark.parametrize("constraint", [lj.constraints.variance_scaling, 1.0])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_what_is_no_constraint(constraint, loss):
    with pytest.raises(ValueError, match=r"such as constraints.variance_scaling\(\)"):
        lj.lagrange(constraint, loss=loss)
