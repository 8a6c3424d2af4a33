"""The examples in the docstrings are run, and the main entries have one."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx

import lagrange_jax as lj

NAMES = {"lj": lj, "jax": jax, "jnp": jnp, "optax": optax, "nn": nn, "nnx": nnx}
MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(lj.__path__, "lagrange_jax.")
    if ".data" not in found.name
]
EXAMPLES = [
    example
    for module in MODULES
    for example in doctest.DocTestFinder(exclude_empty=True).find(
        module, extraglobs=NAMES
    )
    if example.examples
]
ENTRIES = (
    *("add_l2_penalty", "compute_moments", "fit_power_law", "initialize"),
    *("convert_strength", "extrapolate_strength"),
    *("linen.as_model", "loss_within", "nnx.as_model", "ridge_path"),
    "solve_least_squares",
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(example):
    # Examples are written for JAX as it comes, without the tests' strictness.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(example)


@pytest.mark.parametrize("entry", ENTRIES)
def test_main_entries_have_an_example(entry):
    names = {example.name for example in EXAMPLES}
    assert any(name.endswith(f".{entry}") for name in names)
