"""From a model and data to its initial variables, by any init transform."""

import functools
from typing import Any

from jax.sharding import Mesh

from lagrange_jax._checks import require_count, require_key, require_kind
from lagrange_jax._compile import jit_once
from lagrange_jax._progress import announce
from lagrange_jax.batches import as_batch, as_batches, is_arrays
from lagrange_jax.initializers.draw import draw_variables, transform_key
from lagrange_jax.initializers.sharded import initialize_on_mesh
from lagrange_jax.initializers.static import as_static
from lagrange_jax.initializers.transforms import by_head, require_transform
from lagrange_jax.types import InitTransform, Key, Model, Variables

__all__ = ["initialize"]


def initialize(
    key: Key,
    model: Model,
    init: InitTransform,
    data: Any = None,
    *,
    mesh: Mesh | None = None,
    eval_batch_size: int = 1024,
) -> tuple[Variables, Any]:
    """Draws a model's parameters and applies an init transform.

    With arrays everything runs in one jitted call, and `jax.vmap` over keys (or
    over inputs, targets, weights) gives an ensemble. With an iterable the pass over
    the data is a Python loop of jitted steps, so that a data set of any length
    streams through.

    With a mesh the examples are spread over its devices, and over processes: one
    all-reduce of moments, and every device solves for the same head, that of all
    examples. Transforms that ask for one batch, such as `lsuv`, then see the first one
    of the first device or process; networks that are random as they are tapped draw
    anew on each.

    Args:
      key: PRNG key, the same on every process; decides the random parameters and every
        random choice.
      model: made by `linen.as_model` or `nnx.as_model`.
      init: an init transform.
      data: `(inputs, targets)` or `(inputs, targets, weights)` arrays, or an
        iterable of such tuples. May be None for transforms that need no data. With a
        mesh: this process's share, or global arrays from `shard_batch`.
      mesh: devices that share the examples; None means this process's default one.
      eval_batch_size: examples in one forward pass, on each device, when `data` is
        arrays.

    Returns:
      The variables, like those of the module's own `init`, and the transform's info;
      with a mesh on every device of it for arrays, on each process for an iterable.

    Raises:
      ValueError: if data are missing or do not fit the model or the mesh, or with a
        mesh the transform folds something that is not `Moments`; the sentence says how.

    Example:
      >>> inputs = jax.random.normal(jax.random.key(0), (64, 3))
      >>> targets = inputs[:, :1] ** 2
      >>> model = lj.linen.as_model(nn.Sequential([nn.Dense(16), nn.Dense(1)]), inputs)
      >>> kaiming = lj.reinitialize(jax.nn.initializers.he_normal())
      >>> init = lj.chain(kaiming, lj.lagrange())
      >>> key = jax.random.key(1)
      >>> variables, info = lj.initialize(key, model, init, (inputs, targets))
      >>> lj.check(info)  # raises if a head could not be solved
    """
    require_key(key)
    require_kind("model", model, Model)
    require_transform("init", init)
    require_count("eval_batch_size", eval_batch_size)
    with announce(lambda: "initialising a network"):
        if mesh is not None and data is not None:
            return initialize_on_mesh(key, model, init, data, mesh, eval_batch_size)
        variables = draw_variables(key, model)
        if data is None or is_arrays(data):
            batch = None if data is None else as_batch(data, by_head=by_head(init))
            given = key, variables, batch, model
            return _initialize(*given, as_static(init), eval_batch_size)
        batches = as_batches(data, by_head=by_head(init))
        return init(transform_key(key), model, variables, batches)


@functools.partial(
    jit_once,
    static_argnames=("model", "init", "eval_batch_size"),
    runs_network=True,
)
def _initialize(key, variables, batch, model, init, eval_batch_size):
    batches = (
        None
        if batch is None
        else as_batches(batch, eval_batch_size, by_head=isinstance(batch.targets, dict))
    )
    return init(transform_key(key), model, variables, batches)
