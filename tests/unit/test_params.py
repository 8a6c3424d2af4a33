"""Reading and writing one layer."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj


def variables():
    layer = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    return {"params": {"a": {0: layer}, "b": layer}, "state": {"count": jnp.zeros(())}}


def test_a_layer_is_read_and_replaced_by_path():
    before = variables()
    after = lj.models.set_layer(before, ("a", 0), kernel=jnp.full((2, 3), 7.0))
    assert np.all(lj.models.get_layer(after, ("a", 0))["kernel"] == 7)
    for path, name in [(("a", 0), "bias"), (("b",), "kernel"), (("b",), "bias")]:
        assert (
            lj.models.get_layer(after, path)[name]
            is lj.models.get_layer(before, path)[name]
        )
    assert after["state"] is before["state"]
    assert np.all(lj.models.get_layer(before, ("a", 0))["kernel"] == 1)  # not in place


def test_the_dtype_of_the_layer_is_kept():
    before = {"params": {"a": {"kernel": jnp.ones((2, 2), jnp.bfloat16)}}}
    after = lj.models.set_layer(before, ("a",), kernel=jnp.ones((2, 2), jnp.float32))
    assert lj.models.get_layer(after, ("a",))["kernel"].dtype == jnp.bfloat16


def test_boxes_of_partitioning_metadata_are_kept(key):
    module = nn.Dense(3, kernel_init=nn.with_partitioning(
        nn.initializers.ones, (None, "model")))  # fmt: skip
    before = {"params": {"head": module.init(key, jnp.ones((1, 2)))["params"]}}
    assert lj.models.get_layer(before, ("head",))["kernel"].shape == (2, 3)
    after = lj.models.set_layer(before, ("head",), kernel=jnp.zeros((2, 3)))
    box = after["params"]["head"]["kernel"]
    assert isinstance(box, nn.Partitioned) and box.names == (None, "model")
    assert not np.any(box.value)


def test_a_path_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no layer at path"):
        lj.models.get_layer(variables(), ("c",))
