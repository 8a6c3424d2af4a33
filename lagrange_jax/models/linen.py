"""Flax Linen modules as `Model` records, the module itself left untouched."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from lagrange_jax.models import _affine as affine
from lagrange_jax.models import _head_check as head_check
from lagrange_jax.types import Model, Path

__all__ = ["as_model", "record_calls", "sow_call"]


def _is_plain(module: nn.Module) -> bool:
    """Whether a DenseGeneral is a Dense: one axis in, one axis out, no batch axes."""
    if not isinstance(module, nn.DenseGeneral):
        return True
    one_feature = isinstance(module.features, int) or len(module.features) == 1
    return one_feature and module.axis in (-1, (-1,)) and not module.batch_dims


def _is_affine_call(context: Any) -> bool:
    module = context.module
    is_affine = isinstance(module, nn.Dense | nn.DenseGeneral | nn.Conv)
    return context.method_name == "__call__" and is_affine and _is_plain(module)


def sow_call(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Stores what an affine layer receives and returns, as an interceptor.

    Sown collections pass through remat, jit and scan; a Python list would leak
    tracers from them.
    """
    if not _is_affine_call(context):
        return next_fun(*args, **kwargs)
    sow = context.module.sow
    sow(affine.TAPS, affine.INPUTS, args[0] if args else kwargs["inputs"])
    outputs = next_fun(*args, **kwargs)
    sow(affine.TAPS, affine.OUTPUTS, outputs)
    return outputs


def record_calls(calls: affine.Calls, prefix: Path = ()) -> Any:
    """Returns an interceptor that lists affine layers; their last call counts."""

    def record(next_fun, args, kwargs, context):
        if _is_affine_call(context):
            is_conv = isinstance(context.module, nn.Conv)
            size = context.module.kernel_size if is_conv else ()
            rank = 2 + (1 if isinstance(size, int) else len(size))
            path = (*prefix, *context.module.scope.path)
            calls.pop(path, None)
            calls[path] = (not is_conv, rank)
        return next_fun(*args, **kwargs)

    return record


def as_model(
    module: nn.Module,
    example_inputs: Any,
    *,
    head: str | Sequence[str] | None = None,
    features: str = "inference",
    train_kwargs: Mapping[str, Any] | None = None,
    eval_kwargs: Mapping[str, Any] | None = None,
) -> Model:
    r"""Makes a `Model` of a Flax Linen module.

    The module is called as `module(inputs, **kwargs)`: `inputs` is its single
    positional argument and may be any pytree. Its variables are those of
    `module.init`; every collection besides `"params"` is state, except what
    `sow` fills. Layers called more than once, or inside a lifted scan or vmap,
    are not tapped.

    Args:
      module: the network, ending in a dense layer.
      example_inputs: an example batch; its first two rows are enough.
      head: the layer to solve for, "encoder/Dense_0", "encoder.Dense_0" or a tuple;
        None for the dense layer called last.
      features: "inference" or "training", how `Model.taps` runs the network: with
        running averages and without dropout, or as a training step does.
      train_kwargs: passed to the module in training mode, `{"train": True}` say.
      eval_kwargs: passed in inference mode and to `init`.

    Returns:
      The model. All its functions are pure and may be traced.

    Raises:
      ValueError: there is no head, or the network is not affine in its kernel: it
        is called twice, tied to an earlier layer, or followed by something else.

    Example:
      >>> network = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(1)])
      >>> model = lj.linen.as_model(network, jnp.zeros((2, 3)))
      >>> model.layers, model.head
      ((('layers_0',), ('layers_2',)), ('layers_2',))
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"expected a flax.linen module; got {type(module).__name__}. For an NNX "
            "module use lagrange_jax.nnx.as_model."
        )
    affine.check_features(features)
    example = affine.example_rows(example_inputs)
    run = _make_run(module, dict(train_kwargs or {}), dict(eval_kwargs or {}))
    init = _make_init(module, run, example, dict(eval_kwargs or {}))
    taps_train = features == "training"

    def run_tapped(variables, inputs, key):
        with nn.intercept_methods(sow_call):
            return run(
                variables, inputs, key, training=taps_train, collections=(affine.TAPS,)
            )

    def sown(updates: Any) -> affine.Taps:
        return affine.read_taps(updates.get(affine.TAPS, {}))

    abstract = jax.eval_shape(init, jax.random.key(0))

    def trace():
        calls: affine.Calls = {}
        with nn.intercept_methods(record_calls(calls)):
            _, updates = jax.eval_shape(
                run_tapped, abstract, example, jax.random.key(0)
            )
        return calls, sown(updates)

    layers = affine.find_layers(trace, abstract)
    head_path = affine.find_head(layers, head)
    paths = affine.tappable_paths(layers)

    def forward(variables, inputs, key):
        outputs, updates = run_tapped(variables, inputs, key)
        found = sown(updates)
        return outputs, {path: found[path][0] for path in paths}

    head_check.check_head(forward, init, head_path, layers, example)

    def apply(variables, inputs):
        return run(variables, inputs, jax.random.key(0), training=False)[0]

    def apply_train(variables, inputs, key):
        outputs, updates = run(variables, inputs, key, training=True)
        return outputs, {**variables, **updates}

    def taps(variables, inputs, key):
        return forward(variables, inputs, key)[1]

    return Model(init, apply, apply_train, taps, paths, head_path)


def _make_run(module: nn.Module, train_kwargs: Any, eval_kwargs: Any) -> Any:
    """Returns `run(variables, inputs, key, training=)`, with what it updated."""

    def run(variables, inputs, key, *, training, collections=()):
        # Streams without a key of their own fall back to "params".
        for_params, for_dropout = jax.random.split(key)
        rngs = {"params": for_params, "dropout": for_dropout}
        mutable = [name for name in variables if name != "params"]
        return module.apply(
            variables,
            inputs,
            rngs=rngs if training else None,
            mutable=[*mutable, *collections],
            **(train_kwargs if training else eval_kwargs),
        )

    return run


def _make_init(module: nn.Module, run: Any, example: Any, kwargs: Any) -> Any:
    """Returns `init(key)`: parameters and state, without what `sow` filled."""

    def init_all(key):
        return module.init(key, example, **kwargs)

    state = _state_collections(
        run, jax.eval_shape(init_all, jax.random.key(0)), example
    )

    def init(key):
        variables = init_all(key)
        kept = {name: variables[name] for name in state}
        return {"params": variables.get("params", {}), **kept}

    return init


def _state_collections(run: Any, variables: Any, inputs: Any) -> tuple[str, ...]:
    """Returns the collections that a training pass keeps in shape.

    What `sow` fills grows by one entry a pass: a record, not state.
    """
    names = [name for name in variables if name != "params"]
    key = jax.random.key(0)
    _, updates = jax.eval_shape(
        lambda *args: run(*args, training=True), variables, inputs, key
    )
    return tuple(
        name
        for name in names
        if jax.tree.structure(variables[name])
        == jax.tree.structure(updates.get(name, variables[name]))
    )
