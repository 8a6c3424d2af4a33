"""Flax Linen modules as `Model` records, the module itself left untouched."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from lagrange_jax import affine, params
from lagrange_jax.types import Model, Path, Tap, Variables

__all__ = ["as_model"]

_TAPS = "lagrange_jax_taps"


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


def _sow_call(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Stores what an affine layer receives and returns, as an interceptor.

    Sown collections pass through remat, jit and scan; a Python list would leak
    tracers from them.
    """
    if not _is_affine_call(context):
        return next_fun(*args, **kwargs)
    context.module.sow(_TAPS, "inputs", args[0] if args else kwargs["inputs"])
    outputs = next_fun(*args, **kwargs)
    context.module.sow(_TAPS, "outputs", outputs)
    return outputs


def _read_taps(tree: Mapping[str, Any], prefix: Path = ()) -> dict[Path, list[Tap]]:
    """Returns all calls of each layer from the sown collection."""
    if "outputs" in tree and isinstance(tree["outputs"], tuple):
        pairs = zip(tree["inputs"], tree["outputs"], strict=True)
        return {prefix: [Tap(*pair) for pair in pairs]}
    found = {}
    for name, child in tree.items():
        found |= _read_taps(child, (*prefix, name))
    return found


def _rank(variables: Variables, path: Path) -> int:
    """Returns the rank of the kernel at `path`, 0 where there is none."""
    try:
        return params.get_layer(variables, path)["kernel"].ndim
    except (KeyError, TypeError, AttributeError):
        return 0


def _find_layers(run: Any, variables: Any, inputs: Any) -> tuple[affine.Layer, ...]:
    """Traces one forward pass and returns the affine layers in call order."""
    calls: dict[Path, tuple[bool, int]] = {}

    def record(next_fun, args, kwargs, context):
        if _is_affine_call(context):
            is_dense = not isinstance(context.module, nn.Conv)
            rank = 2 if is_dense else len(_kernel_size(context.module)) + 2
            path = context.module.scope.path
            calls.pop(path, None)  # the last call decides the order
            calls[path] = (is_dense, rank)
        return next_fun(*args, **kwargs)

    def trace():
        with nn.intercept_methods(record):
            _, updates = jax.eval_shape(run, variables, inputs, jax.random.key(0))
        return _read_taps(updates.get(_TAPS, {}))

    taps = trace()
    if set(taps) - set(calls):  # a warm cache of nn.jit hides calls
        with jax.disable_jit():
            taps = trace()
    return tuple(
        affine.Layer(
            path, dense, len(taps.get(path, ())), _rank(variables, path) == rank
        )
        for path, (dense, rank) in calls.items()
    )


def _kernel_size(module: nn.Conv) -> Sequence[int]:
    size = module.kernel_size
    return (size,) if isinstance(size, int) else size


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
    """
    affine.check_features(features)
    example = affine.example_rows(example_inputs)
    mode_kwargs = {True: dict(train_kwargs or {}), False: dict(eval_kwargs or {})}
    taps_train = features == "training"

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
            **mode_kwargs[training],
        )

    def run_tapped(variables, inputs, key):
        with nn.intercept_methods(_sow_call):
            return run(
                variables, inputs, key, training=taps_train, collections=(_TAPS,)
            )

    def init_all(key):
        return module.init(key, example, **mode_kwargs[False])

    state = _state_collections(
        run, jax.eval_shape(init_all, jax.random.key(0)), example
    )

    def init(key):
        variables = init_all(key)
        return {name: variables[name] for name in ("params", *state)}

    layers = _find_layers(run_tapped, jax.eval_shape(init, jax.random.key(0)), example)
    head_path = affine.find_head(layers, head)
    paths = affine.tappable_paths(layers)

    def forward(variables, inputs, key):
        outputs, updates = run_tapped(variables, inputs, key)
        found = _read_taps(updates[_TAPS])
        return outputs, {path: found[path][0] for path in paths}

    affine.check_head(forward, init, head_path, layers, example)

    def apply(variables, inputs):
        return run(variables, inputs, jax.random.key(0), training=False)[0]

    def apply_train(variables, inputs, key):
        outputs, updates = run(variables, inputs, key, training=True)
        return outputs, {**variables, **updates}

    def taps(variables, inputs, key):
        return forward(variables, inputs, key)[1]

    return Model(init, apply, apply_train, taps, paths, head_path)


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
