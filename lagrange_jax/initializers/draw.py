"""What a key decides: a network's own parameters, and the choices of a transform."""

from functools import partial

import jax

from lagrange_jax._compile import jit_once
from lagrange_jax.types import Key, Model, Variables

__all__ = ["draw_variables", "transform_key"]


@partial(jit_once, static_argnames=("model",), same_bits=True)
def draw_variables(key: Key, model: Model) -> Variables:
    """Returns the variables that `jax.jit(module.init)(key)` does, to the bit."""
    return model.init(key)


def transform_key(key: Key) -> Key:
    """Returns the key of the transform.

    The model's own init gets the key itself: the same draw as `module.init(key)`.
    """
    return jax.random.fold_in(key, 1)
