"""The examples that one training run sees."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from lagrange_jax._checks import require_real
from lagrange_jax.batches import as_batch
from lagrange_jax.training._known import bounds_of
from lagrange_jax.training.objective import replace_unweighted
from lagrange_jax.types import Batch, Key

__all__ = ["Data", "as_key", "count_examples", "draw", "keep_first"]

Data = Batch | Callable[[Key], Batch]
"""Examples, or a function of a key that makes them."""


def as_key(key: Any) -> Key:
    """Returns a key; an integer is a seed."""
    is_seed = jnp.issubdtype(jnp.result_type(key), jnp.integer) and not jnp.shape(key)
    return jax.random.key(key) if is_seed else key


def draw(data: Data, key: Key) -> Batch:
    """Returns the examples; what those of weight zero hold is out of the way."""
    batch = as_batch(data(key) if callable(data) else data)
    if batch.weights is not None and batch.weights.ndim != 1:
        raise ValueError(
            "expected one weight an example, weights [n], to train with; got "
            f"{list(batch.weights.shape)}. Put the weights of tokens or outputs into "
            "the targets, and let loss_fn multiply by them."
        )
    return replace_unweighted(batch)


def keep_first(data: Batch, num_examples) -> tuple[Batch, Bool[Array, ""]]:
    """Gives every example behind the first `num_examples` the weight zero.

    Examples behind the largest number that is known while tracing are left out.

    Returns:
      The examples, and whether there are as many.
    """
    size = len(data.targets)
    if num_examples is None:
        num_examples = size
    _check_size(num_examples, size)
    known = bounds_of(num_examples)
    if known is not None:
        size = known[1]
        data = jax.tree.map(lambda x: x[:size], data)
    weights = jnp.ones(size) if data.weights is None else data.weights
    used = jnp.arange(size) < num_examples
    weights = jnp.where(used, weights, jnp.zeros_like(weights))
    return data._replace(weights=weights), jnp.asarray(num_examples <= size)


def _check_size(num_examples, size):
    if require_real("num_examples", num_examples) or not jnp.issubdtype(
        jnp.result_type(num_examples), jnp.integer
    ):
        raise ValueError(
            "expected num_examples as an integer, a number of examples; got "
            f"{jnp.result_type(num_examples)}{list(jnp.shape(num_examples))}. A "
            f"fraction f of the data is int(f * {size})."
        )
    low, high = bounds_of(num_examples) or (1, size)
    if low < 1 or high > size:
        raise ValueError(
            f"expected num_examples between 1 and the {size} examples there are; got "
            f"{low if low < 1 else high}."
        )


def count_examples(data: Batch, num_examples: Any) -> Any:
    """Returns how many of the examples are trained on."""
    size = len(data.targets)
    return size if num_examples is None else jnp.minimum(num_examples, size)
