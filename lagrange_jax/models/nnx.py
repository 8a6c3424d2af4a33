"""Flax NNX modules as `Model` records, the module itself left untouched."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from lagrange_jax.models import _affine as affine
from lagrange_jax.models import _calls as calling
from lagrange_jax.models._build import Network, build_model, require_mode
from lagrange_jax.models._nnx_sites import (
    LinenTap,
    is_site,
    record,
    shield,
    sites_of,
    tapped,
)
from lagrange_jax.types import Key, Model, Path, Variables

__all__ = ["as_model", "update"]

_KINDS = (nnx.Param, nnx.RngState, (nnx.Intermediate, LinenTap), ...)


def _pure(state: Any) -> dict[Any, Any]:
    return dict(nnx.to_pure_dict(state))


def _variables(module: nnx.Module) -> dict[str, Any]:
    _, params, _, _, state = nnx.split(module, *_KINDS)
    return {"params": _pure(params), "state": _pure(state)}


def _seed(template: Any, key: Key) -> Any:
    """Returns random-number states drawn from `key`: the pass stays a function."""
    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    leaves, treedef = jax.tree.flatten(template, is_leaf=is_variable)

    def fresh(index, leaf):
        value = leaf.get_raw_value()
        stream = jax.random.fold_in(key, index)
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return leaf.replace(_split(stream, value.shape))
        if isinstance(leaf, nnx.RngKey):  # an old-style key
            keys = _split(stream, value.shape[:-1])
            return leaf.replace(jax.random.key_data(keys))
        return leaf.replace(jnp.zeros(value.shape, value.dtype))  # the count of draws

    return treedef.unflatten([fresh(i, leaf) for i, leaf in enumerate(leaves)])


def _split(key: Key, shape: tuple[int, ...]) -> Key:
    return jax.random.split(key, shape) if shape else key


def _filled(template: Any, values: Any) -> Any:
    state = jax.tree.map(lambda x: x, template)
    nnx.replace_by_pure_dict(state, _with_own_keys(_pure(template), values))
    return state


def _with_own_keys(own: Any, values: Any) -> Any:
    """Returns values under the keys of a network; Orbax turns 2 into "2"."""
    if not isinstance(own, Mapping) or not isinstance(values, Mapping):
        return values
    keys = {str(key): key for key in own}
    return {
        keys.get(str(name), name): _with_own_keys(own.get(keys.get(str(name))), value)
        for name, value in values.items()
    }


def _arguments(module: nnx.Module, inputs: Any, kwargs: Mapping, key: Key, training):
    """Returns the arguments of one pass; `nnx.Rngs` among them are drawn from `key`."""
    wanted = calling.parameters(module.__call__)
    kwargs = calling.own_keys(kwargs, key)
    rngs = wanted.get("rngs")
    if rngs is not None and "rngs" not in kwargs:
        if training or rngs.default is rngs.empty:
            kwargs["rngs"] = nnx.Rngs(key)
    for index, (name, value) in enumerate(kwargs.items()):
        if isinstance(value, nnx.Rngs):
            kwargs[name] = nnx.Rngs(jax.random.fold_in(key, index))
    return calling.arrange(wanted, inputs, kwargs)


def _runner(module: nnx.Module, kwargs: Mapping[str, Any], training: bool) -> Any:
    """Returns `run(variables, inputs, key) -> (outputs, variables, taps)`, pure."""
    graph, params, random, other, state = nnx.split(module, *_KINDS)

    def call(module, *args, **kwargs):
        # A store of captures among the numbers of a list cannot pass a lifted loop. In
        # newer versions of Flax there is none.
        for _, child in [*nnx.iter_modules(module)]:
            if isinstance(child, nnx.List) and hasattr(child, "__captures__"):
                del child.__captures__
        return module(*args, **kwargs)

    @calling.bind_axes
    def run(variables, inputs, key):
        merged = nnx.merge(
            graph,
            _filled(params, variables["params"]),
            _seed(random, key),
            other,
            _filled(state, variables["state"]),
        )
        args, named = _arguments(merged, inputs, kwargs, key, training)
        # Capturing keeps what layers sow out of the module's state.
        outputs, sown = nnx.capture(call, nnx.Intermediate)(merged, *args, **named)
        bridged = nnx.state(merged, LinenTap)
        taps = affine.read_taps(_pure(sown)) | affine.read_taps(_pure(bridged))
        updated = {**variables, "state": _variables(merged)["state"]}
        return outputs, updated, taps

    return run


def _tap_paths(module: nnx.Module, trace: Callable[[nnx.Module], Any]) -> list[Path]:
    """Returns where taps can be made; inside a lifted loop they break its carry."""
    paths = [path for path, site in sites_of(module).items() if is_site(site)]

    def traces(paths):
        try:
            trace(tapped(module, paths))
        except Exception:
            return False
        return True

    return paths if traces(paths) else [p for p in paths if traces([p])]


def as_model(
    module: nnx.Module | Callable[[nnx.Rngs], nnx.Module],
    example_inputs: Any,
    *,
    head: str | Sequence[str | int] | None = None,
    output: calling.Output = None,
    tap_mode: Literal["inference", "training"] = "inference",
    train_kwargs: Mapping[str, Any] | None = None,
    eval_kwargs: Mapping[str, Any] | None = None,
) -> Model:
    """Makes a `Model` of a Flax NNX module.

    The head, inputs and outputs are as in `linen.as_model`. Variables are pure
    dictionaries: `"params"` holds the values of `nnx.Param`, `"state"` those of every
    other variable but random-number states, which each pass draws from its key. A
    module that takes `rngs` when it is called gets new ones in each training pass.

    Args:
      module: how to build the network, `lambda rngs: MLP(rngs=rngs)` or the class;
        `Model.init` then builds it anew from its key. Or a module, for which
        `Model.init` returns the module's own variables whatever the key.
      example_inputs: an example batch, or its shapes (`jax.ShapeDtypeStruct`, or a
        tuple of integers for float32); two rows are enough.
      head: the layer to solve for, "layers/0", "layers.0" or ("layers", 0); or an
        array of weights, "w". None for the one used last.
      output: which of several outputs the head puts out: a name, an index, a path of
        these such as `("logits", 0)`, or a function. `Model.apply` returns this one.
      tap_mode: how `Model.taps` runs the network: "inference", after
        `module.eval()`, or "training", after `module.train()`.
      train_kwargs: passed to the module in training mode. `nnx.Rngs` and PRNG keys in
        it stand for randomness: each pass draws its own.
      eval_kwargs: passed in inference mode, likewise.

    Returns:
      The model. All its functions are pure and may be traced.

    Raises:
      ValueError: there is no head, or the network is not affine in it: it is tied to
        an earlier layer, or followed by something that is not linear. Or
        taps of a training pass are asked for, and `train_kwargs` does not turn it on.

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
    require_mode(tap_mode)
    example = calling.as_example(example_inputs)
    template, init = _template(module)
    wanted = calling.parameters(template.__call__)
    calling.require_training(wanted, tap_mode, train_kwargs or {})
    shield(template)
    modes = {"inference": nnx.clone(template), "training": nnx.clone(template)}
    modes["inference"].eval()
    modes["training"].train()
    kwargs = {"inference": eval_kwargs or {}, "training": train_kwargs or {}}
    runs = {x: _runner(modes[x], kwargs[x], x == "training") for x in modes}

    def runner(module):
        return _runner(module, kwargs[tap_mode], tap_mode == "training")

    def trace(module):
        abstract = jax.eval_shape(init, jax.random.key(0))
        jax.eval_shape(runner(module), abstract, example, jax.random.key(0))

    chosen = modes[tap_mode]
    trace(chosen)  # what is wrong with the network itself is said as it is
    tap_paths = _tap_paths(chosen, trace)

    def tap(calls):
        copy = tapped(chosen, tap_paths)
        if calls is not None:
            for path, site in sites_of(copy).items():
                record(site, path, calls)
        run = runner(copy)

        def run_tapped(*args):
            outputs, updated, taps = run(*args)
            return outputs, taps, updated

        return run_tapped

    def run(variables, inputs, key, training):
        mode = "training" if training else "inference"
        return runs[mode](variables, inputs, key)[:2]

    return build_model(Network(init, run, tap), example, head, output, tap_mode)


def _template(module: Any) -> tuple[nnx.Module, Callable[[Key], Variables]]:
    """Returns a module, possibly abstract, and how variables are drawn."""
    if isinstance(module, nnx.Module):
        template = nnx.clone(module)
        own = _variables(template)
        return template, lambda key: own
    maker = module.__init__ if isinstance(module, type) else module
    rngs = calling.parameters(maker).get("rngs")
    by_name = rngs is not None and rngs.kind is rngs.KEYWORD_ONLY

    def build(key):
        rngs = nnx.Rngs(key)
        return module(rngs=rngs) if by_name else module(rngs)

    template = nnx.eval_shape(lambda: build(jax.random.key(0)))
    return template, lambda key: _variables(build(key))


def update(module: nnx.Module, variables: Variables) -> None:
    """Writes a model's variables back into an NNX module, in place.

    Args:
      module: a module of the same structure as the model's.
      variables: as `Model.init` or a training run returned them.
    """
    _, params, _, _, state = nnx.split(module, *_KINDS)
    nnx.update(module, _filled(params, variables["params"]))
    nnx.update(module, _filled(state, variables["state"]))
