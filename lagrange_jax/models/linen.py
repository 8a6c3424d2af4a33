"""Flax Linen modules as `Model` records, the module itself left untouched."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
from flax import errors
from flax import linen as nn

from lagrange_jax.models import _affine as affine
from lagrange_jax.models import _calls as calling
from lagrange_jax.models._build import Network, build_model, require_mode
from lagrange_jax.types import Model, Path

__all__ = ["as_model", "record_calls", "sow_call"]


def _is_affine_call(context: Any) -> bool:
    is_affine = isinstance(context.module, nn.Dense | nn.DenseGeneral | nn.Conv)
    return context.method_name == "__call__" and is_affine


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


def _kernel_rank(module: Any) -> int:
    if isinstance(module, nn.Conv):
        size = module.kernel_size
        return 2 + (1 if isinstance(size, int) else len(size))
    if isinstance(module, nn.Dense):
        return 2
    axes = module.axis, module.features, module.batch_dims
    return sum(1 if isinstance(x, int) else len(x) for x in axes)


def record_calls(calls: affine.Calls, prefix: Path = ()) -> Any:
    """Returns an interceptor that lists affine layers; their last call counts."""

    def record(next_fun, args, kwargs, context):
        if _is_affine_call(context):
            module = context.module
            path = (*prefix, *module.scope.path)
            calls.pop(path, None)
            calls[path] = (not isinstance(module, nn.Conv), _kernel_rank(module))
        return next_fun(*args, **kwargs)

    return record


def as_model(
    module: nn.Module,
    example_inputs: Any,
    *,
    head: str | Sequence[str] | None = None,
    output: calling.Output = None,
    tap_mode: Literal["inference", "training"] = "inference",
    train_kwargs: Mapping[str, Any] | None = None,
    eval_kwargs: Mapping[str, Any] | None = None,
) -> Model:
    r"""Makes a `Model` of a Flax Linen module.

    The network is traced once, on shapes alone. Its head is the layer called last: the
    output has to be $h W + b + o$ for features h and an offset o (a constant, a skip
    connection) that do not depend on W. A head may be any array of weights that the
    output is affine in: a dense layer or one over several axes, a convolution, an
    `Einsum`, a parameter of one's own. Where its features cannot be seen (inside a
    loop, say) they are taken from the derivative of the output. Where the network
    normalises it, by `log_softmax` say, the head is solved for by cross-entropy alone.

    *Inputs.* In a batch, inputs are one argument of the module, of any structure. A
    tuple holds positional arguments where the module takes several, and a dictionary
    holds arguments by name where its keys are names of them.

    *Variables* are those of `module.init`; every collection besides `"params"` is
    state, except what `sow` fills.

    Args:
      module: the network, ending in an affine layer.
      example_inputs: an example batch, or its shapes (`jax.ShapeDtypeStruct`, or a
        tuple of integers for float32); two rows are enough.
      head: the layer to solve for, "encoder/Dense_0", "encoder.Dense_0" or a tuple;
        or an array of weights, "w". None for the one used last.
      output: which of several outputs the head puts out: a name, an index, a path of
        these such as `("logits", 0)`, or a function. `Model.apply` returns this one.
      tap_mode: how `Model.taps` runs the network: "inference", with running averages
        and without dropout, or "training".
      train_kwargs: passed to the module in training mode, `{"train": True}` say. PRNG
        keys in it stand for randomness: each pass draws its own.
      eval_kwargs: passed in inference mode and to `init`, likewise.

    Returns:
      The model. All its functions are pure and may be traced.

    Raises:
      ValueError: there is no head, or the network is not affine in it: it is tied to
        an earlier layer, or followed by something that is not linear. Or
        taps of a training pass are asked for, and `train_kwargs` does not turn it on.

    Example:
      >>> network = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(1)])
      >>> model = lj.linen.as_model(network, (2, 3))
      >>> model.layers, model.head
      ((('layers_0',), ('layers_2',)), ('layers_2',))
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"expected a flax.linen module; got {type(module).__name__}. For an NNX "
            "module use lagrange_jax.nnx.as_model; of a record that holds a module, "
            "pass the module."
        )
    require_mode(tap_mode)
    wanted = calling.parameters(module.__call__)
    calling.require_training(wanted, tap_mode, train_kwargs or {})
    example = calling.as_example(example_inputs)
    run = _make_run(module, example, dict(train_kwargs or {}), dict(eval_kwargs or {}))
    init = _make_init(module, run, example, dict(eval_kwargs or {}))
    taps_train = tap_mode == "training"

    def pass_through(variables, inputs, key, training):
        outputs, updates = run(variables, inputs, key, training)
        return outputs, {**variables, **updates} if training else variables

    def tap(calls):
        def run_tapped(variables, inputs, key):
            recorder = record_calls({} if calls is None else calls)
            with nn.intercept_methods(recorder), nn.intercept_methods(sow_call):
                outputs, updates = run(
                    variables, inputs, key, taps_train, collections=(affine.TAPS,)
                )
            taps = affine.read_taps(updates.get(affine.TAPS, {}))
            updates = {name: x for name, x in updates.items() if name != affine.TAPS}
            return outputs, taps, {**variables, **updates}

        return run_tapped

    network = Network(init, pass_through, tap)
    return build_model(network, example, head, output, tap_mode)


def _make_run(module: nn.Module, example: Any, train_kwargs: Any, eval_kwargs: Any):
    """Returns `run(variables, inputs, key, training)`, with what it updated."""
    wanted = calling.parameters(module.__call__)

    @calling.bind_axes
    def run(variables, inputs, key, training, *, collections=(), is_random=True):
        # Streams without a key of their own fall back to "params".
        for_params, for_dropout, for_kwargs = jax.random.split(key, 3)
        rngs = {"params": for_params, "dropout": for_dropout}
        kwargs = train_kwargs if training else eval_kwargs
        kwargs = calling.own_keys(kwargs, for_kwargs)
        args, kwargs = calling.arrange(wanted, inputs, kwargs)
        mutable = [name for name in variables if name != "params"]
        return module.apply(
            variables,
            *args,
            rngs=rngs if training or is_random else None,
            mutable=[*mutable, *collections],
            **kwargs,
        )

    return run


def _make_init(module: nn.Module, run: Any, example: Any, kwargs: Any) -> Any:
    """Returns `init(key)`: parameters and state, without what `sow` filled."""
    wanted = calling.parameters(module.__call__)

    @calling.bind_axes
    def init_all(key):
        own = calling.own_keys(kwargs, key)
        args, named = calling.arrange(wanted, calling.make_zeros(example), own)
        return module.init(key, *args, **named)

    variables = jax.eval_shape(init_all, jax.random.key(0))
    _require_inference(run, variables, example)
    state = _state_collections(run, variables, example)

    def init(key):
        variables = init_all(key)
        kept = {name: variables[name] for name in state}
        return {"params": variables.get("params", {}), **kept}

    return init


def _require_inference(run: Any, variables: Any, example: Any) -> None:
    """Refuses dropout in inference mode; other random numbers may be drawn there."""

    def trace(**options):
        pass_ = functools.partial(run, training=False, **options)
        jax.eval_shape(pass_, variables, example, jax.random.key(0))

    def refuse(next_fun, args, kwargs, context):
        if isinstance(context.module, nn.Dropout) and context.module.rate:
            scope = context.module.scope
            path = "/".join(() if scope is None else scope.path)
            raise ValueError(
                f"dropout at {path!r} is active in inference mode. Pass the argument "
                'that turns it off, eval_kwargs={"train": False} say, and in '
                'train_kwargs the one that turns it on, {"train": True}.'
            )
        return next_fun(*args, **kwargs)

    try:
        trace(is_random=False)
    except errors.InvalidRngError as error:
        if "dropout" not in str(error):
            return
        with nn.intercept_methods(refuse):
            trace()


def _state_collections(run: Any, variables: Any, inputs: Any) -> tuple[str, ...]:
    """Returns the collections that a training pass keeps in shape.

    What `sow` fills grows by one entry a pass: a record, not state.
    """
    names = [name for name in variables if name != "params"]
    if not names:
        return ()
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
