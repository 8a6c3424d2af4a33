from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze

from lagrange_jax.transforms import masks


class Layer(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


class Attention(NamedTuple):
    query: jax.Array
    value: jax.Array


class Linear(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 2, rngs=rngs)
        self.head = nnx.Linear(2, 2, rngs=rngs)


def dictionary():
    names = ("hidden", "head")
    return {n: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for n in names}


def boxed(params):
    return jax.tree.map(lambda w: nn.Partitioned(w, (None,) * w.ndim), params)


TREES = {
    "dictionary": dictionary,
    "linen": lambda: {"params": dictionary()},
    "frozen": lambda: freeze({"params": dictionary()}),
    "boxed": lambda: {"params": boxed(dictionary())},
    "nnx": lambda: nnx.state(Linear(nnx.Rngs(0)), nnx.Param),
    "nnx_pure": lambda: nnx.as_pure(nnx.state(Linear(nnx.Rngs(0)), nnx.Param)),
}


def selected(mask, params):
    """The paths whose arrays the mask selects, seen through the library's map."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    result = masks.map_selected(lambda u, w: u + 1.0, mask, zeros, params)
    leaves = jax.tree_util.tree_leaves_with_path(result)
    names = (
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, value in leaves
        if np.all(np.asarray(value) == 1.0)
    )
    return {n.removeprefix("params/").removesuffix("/value") for n in names}


KERNELS = {"hidden/kernel", "head/kernel"}


@pytest.mark.parametrize("make", TREES.values(), ids=TREES.keys())
@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (masks.kernels_only, KERNELS),
        (masks.head_only(("head",)), {"head/kernel", "head/bias"}),
        (masks.head_only(("head", "kernel")), {"head/kernel"}),
        (masks.head_only("head/bias"), {"head/bias"}),
        (masks.by_path(r"h.*n/kernel"), {"hidden/kernel"}),
        (
            masks.by_path(lambda path: path.endswith("bias")),
            {"hidden/bias", "head/bias"},
        ),
        (None, KERNELS | {"hidden/bias", "head/bias"}),
    ],
)
def test_ready_masks_select_the_same_in_every_tree(make, mask, expected):
    assert selected(mask, make()) == expected


@pytest.mark.parametrize("make", TREES.values(), ids=TREES.keys())
def test_ready_masks_are_optax_masks(make):
    params = make()
    tx = optax.masked(optax.set_to_zero(), masks.kernels_only)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, tx.init(params), params)
    zero = jax.tree.map(lambda u: bool(jnp.all(u == 0)), updates)
    assert jax.tree.leaves(zero) == [False, True, False, True]  # bias, kernel


def test_lists_and_named_tuples():
    layers = [
        Layer(jnp.ones((2, 2)), jnp.ones(2)),
        Layer(jnp.ones((2, 1)), jnp.ones(1)),
    ]
    assert selected(masks.kernels_only, layers) == {"0/kernel", "1/kernel"}
    assert selected(masks.head_only((1,)), layers) == {"1/kernel", "1/bias"}
    attention = {"a": Attention(jnp.ones(2), jnp.ones(3))}
    # A field that is named "value" is not taken for a box.
    assert jax.tree.leaves(masks.by_path("a/value")(attention)) == [False, True]


def test_names_match_whole_and_literally():
    params = {"head": jnp.ones(1), "head_2": jnp.ones(1), "a.b": jnp.ones(1)}
    assert selected(masks.head_only(("head",)), params) == {"head"}
    assert selected(masks.head_only(("a.b",)), params) == {"a.b"}
    assert selected(masks.by_path("head"), params) == {"head"}
    with pytest.raises(ValueError, match=r"a\.b"):
        masks.head_only(("a+b",))(params)


@pytest.mark.parametrize(
    "mask", [masks.kernels_only, masks.head_only(("Head",)), masks.by_path("head")]
)
def test_a_mask_that_selects_nothing_names_the_paths(mask):
    with pytest.raises(ValueError, match=r"selects no parameter.*'0/1'"):
        mask([(jnp.ones((2, 2)), jnp.ones(2))])


def test_prefix_masks_and_wrong_prefixes():
    params = dictionary()
    prefix = {"hidden": False, "head": True}
    assert selected(prefix, params) == {"head/kernel", "head/bias"}
    assert selected({"hidden": {"kernel": True, "bias": False}, "head": False}, params)
    with pytest.raises(ValueError, match="hidden"):
        selected({"Head": True, "hidden": True}, params)


def test_none_leaves_and_dtypes():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": None, "c": jnp.ones(2)}
    updates = {"a": jnp.ones(2, jnp.bfloat16), "b": None, "c": None}
    seen = []

    def function(update, param, value):
        seen.append((update.dtype, param.dtype, value.dtype))
        return update + value * param

    result = masks.map_selected(function, None, updates, params, jnp.float32(1.0))
    assert result["b"] is None and result["c"] is None
    assert result["a"].dtype == jnp.bfloat16 and result["a"][0] == 2.0
    assert seen == [(jnp.float32,) * 3]
