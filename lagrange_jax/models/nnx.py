"""Flax NNX modules as `Model` records, the module itself left untouched."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from lagrange_jax.models import _affine as affine
from lagrange_jax.models import _head_check as head_check
from lagrange_jax.models import linen
from lagrange_jax.types import Key, Model, Path, Variables

__all__ = ["as_model", "update"]

# Linen layers behind nnx.bridge.ToNNX leave their taps in variables of this type.
_LinenTap = nnx.variable_type_from_name(affine.TAPS, allow_register=True)
_KINDS = (nnx.Param, nnx.RngState, (nnx.Intermediate, _LinenTap), ...)


def _is_affine(layer: Any) -> bool:
    if isinstance(layer, nnx.LinearGeneral):
        plain_axes = layer.axis in (-1, (-1,)) and not layer.batch_axis
        return plain_axes and len(layer.out_features) == 1
    return isinstance(layer, nnx.Linear | nnx.Conv)


def _is_site(child: Any) -> bool:
    """Whether taps are made here: one affine layer, no stack, or a Linen module."""
    if isinstance(child, nnx.bridge.ToNNX):
        return True
    rank = len(child.kernel_size) + 2 if isinstance(child, nnx.Conv) else 2
    return child.kernel.ndim == rank


def _override_call(module: nnx.Module, call: Callable[..., Any]) -> None:
    """Gives one module a `__call__` of its own; `split` and `merge` keep it."""
    cls = type(module)
    module.__class__ = type(cls.__name__, (cls,), {"__call__": call})


def _shield(module: nnx.Module) -> None:
    """Hides the store of nnx.capture from ToNNX, which takes it for a variable."""
    for bridge in _sites(module).values():
        if isinstance(bridge, nnx.bridge.ToNNX):
            cls = type(bridge)

            def call(self, *args, cls=cls, **kwargs):
                captures = vars(self).get("__captures__")
                if captures is None:
                    return cls.__call__(self, *args, **kwargs)
                del self.__captures__
                outputs = cls.__call__(self, *args, **kwargs)
                self.__captures__ = nnx.data(captures)
                return outputs

            _override_call(bridge, call)


def _record(module: nnx.Module, path: Path, calls: affine.Calls) -> None:
    cls = type(module)

    def call(self, *args, **kwargs):
        calls.pop(path, None)
        calls[path] = (not isinstance(self, nnx.Conv), self.kernel.ndim)
        return cls.__call__(self, *args, **kwargs)

    def call_linen(self, *args, **kwargs):
        with nn.intercept_methods(linen.record_calls(calls, path)):
            return cls.__call__(self, *args, **kwargs)

    is_bridge = isinstance(module, nnx.bridge.ToNNX)
    _override_call(module, call_linen if is_bridge else call)


def _tap(module: nnx.Module) -> None:
    cls = type(module)

    def call(self, inputs, *args, **kwargs):
        outputs = cls.__call__(self, inputs, *args, **kwargs)
        self.sow(nnx.Intermediate, affine.INPUTS, inputs)
        self.sow(nnx.Intermediate, affine.OUTPUTS, outputs)
        return outputs

    def call_linen(self, *args, mutable=None, **kwargs):
        mutable = [*(mutable or ()), affine.TAPS]
        with nn.intercept_methods(linen.sow_call):
            return cls.__call__(self, *args, mutable=mutable, **kwargs)

    is_bridge = isinstance(module, nnx.bridge.ToNNX)
    _override_call(module, call_linen if is_bridge else call)


def _sites(module: nnx.Module) -> dict[Any, Any]:
    """Returns the affine layers and bridged Linen modules inside a module."""
    return {
        path: child
        for path, child in nnx.iter_modules(module)
        if isinstance(child, nnx.bridge.ToNNX) or _is_affine(child)
    }


def _tapped(module: nnx.Module, paths: Sequence[Path]) -> nnx.Module:
    module = nnx.clone(module)
    for path, site in _sites(module).items():
        if path in paths:
            _tap(site)
    return module


def _pure(state: Any) -> dict[Any, Any]:
    return dict(nnx.to_pure_dict(state))


def _variables(module: nnx.Module) -> dict[str, Any]:
    _, params, _, _, state = nnx.split(module, *_KINDS)
    return {"params": _pure(params), "state": _pure(state)}


def _seed(template: Any, key: Key) -> Any:
    """Returns random-number states drawn from `key`: the pass stays a function."""
    leaves, treedef = jax.tree.flatten(template)

    def fresh(index, leaf):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)  # the count of draws
        stream = jax.random.fold_in(key, index)
        return jax.random.split(stream, leaf.shape) if leaf.shape else stream

    return treedef.unflatten([fresh(i, leaf) for i, leaf in enumerate(leaves)])


def _filled(template: Any, values: Any) -> Any:
    state = jax.tree.map(lambda x: x, template)
    nnx.replace_by_pure_dict(state, values)
    return state


def _runner(module: nnx.Module, kwargs: Mapping[str, Any]) -> Any:
    """Returns `run(variables, inputs, key) -> (outputs, variables, taps)`, pure."""
    graph, params, random, other, state = nnx.split(module, *_KINDS)

    def run(variables, inputs, key):
        merged = nnx.merge(
            graph,
            _filled(params, variables["params"]),
            _seed(random, key),
            other,
            _filled(state, variables["state"]),
        )
        # Capturing keeps what layers sow out of the module's state.
        outputs, sown = nnx.capture(merged, nnx.Intermediate)(inputs, **kwargs)
        bridged = nnx.state(merged, _LinenTap)
        taps = affine.read_taps(_pure(sown)) | affine.read_taps(_pure(bridged))
        updated = {**variables, "state": _variables(merged)["state"]}
        return outputs, updated, taps

    return run


def _tap_paths(module: nnx.Module, kwargs: Any, trace: Callable[..., Any]) -> list:
    """Returns where taps can be made; inside a lifted loop they break its carry."""
    paths = [path for path, site in _sites(module).items() if _is_site(site)]

    def traces(paths):
        try:
            trace(_runner(_tapped(module, paths), kwargs))
        except Exception:
            return False
        return True

    return paths if traces(paths) else [p for p in paths if traces([p])]


def as_model(
    module: nnx.Module | Callable[[nnx.Rngs], nnx.Module],
    example_inputs: Any,
    *,
    head: str | Sequence[str | int] | None = None,
    features: str = "inference",
    train_kwargs: Mapping[str, Any] | None = None,
    eval_kwargs: Mapping[str, Any] | None = None,
) -> Model:
    """Makes a `Model` of a Flax NNX module.

    The module is called as `module(inputs, **kwargs)`: `inputs` is its single
    positional argument and may be any pytree. Variables are pure dictionaries:
    `"params"` holds the values of `nnx.Param`, `"state"` those of every other
    variable but random-number states, which each pass draws from its key.

    Args:
      module: how to build the network, `lambda rngs: MLP(rngs=rngs)`; `Model.init`
        then builds it anew from its key. Or a module, for which `Model.init`
        returns the module's own variables whatever the key.
      example_inputs: an example batch; its first two rows are enough.
      head: the layer to solve for, "layers/0", "layers.0" or ("layers", 0); None
        for the dense layer called last.
      features: "inference" or "training", how `Model.taps` runs the network: after
        `module.eval()` or after `module.train()`.
      train_kwargs: passed to the module in training mode.
      eval_kwargs: passed to the module in inference mode.

    Returns:
      The model. All its functions are pure and may be traced.

    Raises:
      ValueError: there is no head, or the network is not affine in its kernel: it
        is called twice, tied to an earlier layer, or followed by something else.

    Example:
      >>> def build(rngs):
      ...     return nnx.Sequential(
      ...         nnx.Linear(3, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 1, rngs=rngs)
      ...     )
      >>> lj.nnx.as_model(build, jnp.zeros((2, 3))).head
      ('layers', 2)
    """
    if isinstance(module, nn.Module):
        raise ValueError(
            f"expected an NNX module; got {type(module).__name__} of flax.linen. Use "
            "lagrange_jax.linen.as_model."
        )
    affine.check_features(features)
    example = affine.example_rows(example_inputs)
    if isinstance(module, nnx.Module):
        template = nnx.clone(module)
        own = _variables(template)
        init = lambda key: own  # noqa: E731
    else:
        template = nnx.eval_shape(lambda: module(nnx.Rngs(0)))
        init = lambda key: _variables(module(nnx.Rngs(key)))  # noqa: E731
    abstract = jax.eval_shape(init, jax.random.key(0))
    _shield(template)
    modes = {"inference": nnx.clone(template), "training": nnx.clone(template)}
    modes["inference"].eval()
    modes["training"].train()
    kwargs = {"inference": eval_kwargs or {}, "training": train_kwargs or {}}
    run_eval, run_train = (_runner(modes[mode], kwargs[mode]) for mode in modes)
    chosen, chosen_kwargs = modes[features], kwargs[features]

    def shapes(run):
        return jax.eval_shape(run, abstract, example, jax.random.key(0))

    def trace():
        calls: affine.Calls = {}
        recorded = nnx.clone(chosen)
        for path, site in _sites(recorded).items():
            _record(site, path, calls)
        shapes(_runner(recorded, chosen_kwargs))
        return calls, shapes(run_tapped)[2]

    tap_paths = _tap_paths(chosen, chosen_kwargs, shapes)
    run_tapped = _runner(_tapped(chosen, tap_paths), chosen_kwargs)
    layers = affine.find_layers(trace, abstract)
    head_path = affine.find_head(layers, head)
    paths = affine.tappable_paths(layers)

    def forward(variables, inputs, key):
        outputs, _, found = run_tapped(variables, inputs, key)
        return outputs, {path: found[path][0] for path in paths}

    head_check.check_head(forward, init, head_path, layers, example)

    def apply(variables, inputs):
        return run_eval(variables, inputs, jax.random.key(0))[0]

    def apply_train(variables, inputs, key):
        return run_train(variables, inputs, key)[:2]

    def taps(variables, inputs, key):
        return forward(variables, inputs, key)[1]

    return Model(init, apply, apply_train, taps, paths, head_path)


def update(module: nnx.Module, variables: Variables) -> None:
    """Writes a model's variables back into an NNX module, in place.

    Args:
      module: a module of the same structure as the model's.
      variables: as `Model.init` or a training run returned them.
    """
    _, params, _, _, state = nnx.split(module, *_KINDS)
    nnx.update(module, _filled(params, variables["params"]))
    nnx.update(module, _filled(state, variables["state"]))
