r"""Training as a pure function of a key, a strength and a number of examples.

`make_train` closes over all that is static (network, loss, data, schedule) and
returns `train(key, strength, num_examples)`, which initialises, trains and measures
one network in one trace. Nothing in it depends on the values of its arguments:
`jax.vmap` trains a family of networks and `run_grid` a whole grid, each member with
its own optimally initialised head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from lagrange_jax._checks import require_callable, require_count, require_kind
from lagrange_jax._compile import warn_of_scheduler
from lagrange_jax.initializers.apply import initialize
from lagrange_jax.initializers.transforms import chain
from lagrange_jax.models.params import get_layer
from lagrange_jax.training._examples import (
    Data,
    as_key,
    count_examples,
    draw,
    keep_first,
)
from lagrange_jax.training._known import is_inside_grid
from lagrange_jax.training._status import all_solved
from lagrange_jax.training._steps import State, make_advance, make_update
from lagrange_jax.training.objective import LossFn, Objective, make_objective
from lagrange_jax.types import InitTransform, Key, Model, Variables

__all__ = ["Data", "OptimizerFn", "Train", "TrainResult", "make_train"]

OptimizerFn = Callable[[Any], optax.GradientTransformation]
"""`optimizer_fn(strength)`; the strength may be traced, and any pytree."""


class TrainResult(NamedTuple):
    """What one training run leaves behind.

    Record r is taken after `r * record_every` epochs or steps; record 0 is the
    network as initialised. Losses are free of any penalty.

    Attributes:
      variables: the trained network. Where a large grid needs the curves only, wrap
        `train` to replace this field by None, and it is never stored.
      train_loss: mean loss of the examples trained on.
      validation_loss: mean loss of the validation data; None without any.
      kernel_norm: Frobenius norm of each kernel, in the order of `Model.layers`.
      diverged: whether a loss or an update was not finite. The network was frozen
        before that update.
      is_solved: whether all heads that the initialisation solved for have the status
        `SUCCESS`; True where it solves for none.
      info: what the initialisation reported; empty without one.
    """

    variables: Variables
    train_loss: Float[Array, " records"]
    validation_loss: Float[Array, " records"] | None
    kernel_norm: Float[Array, "records layers"]
    diverged: Bool[Array, ""]
    is_solved: Bool[Array, ""]
    info: Any


Train = Callable[..., TrainResult]
"""`train(key, strength, num_examples=None) -> TrainResult`, a pure function."""


def make_train(
    model: Model,
    loss_fn: LossFn,
    optimizer_fn: OptimizerFn,
    init: InitTransform | None,
    data: Data,
    *,
    validation: Data | None = None,
    num_epochs: int | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    record_every: int | None = None,
    eval_batch_size: int = 1024,
    objective: Objective | None = None,
) -> Train:
    r"""Makes a pure `train(key, strength, num_examples) -> TrainResult`.

    The mean loss of the first `num_examples` examples,

    $$\frac{1}{\sum_n a_n} \sum_{n \le N} a_n \ell(f(x_n), t_n),$$

    goes to the optimiser of the given strength: whether that adds a penalty to the
    loss or decays the weights apart from it is the optimiser's business.

    Both `strength` and `num_examples` may be traced. The optimiser is built inside
    the trace, and so is the initialisation, from the same first examples. Whatever
    else is to vary (initial scale, method, penalty) is an argument of a function
    that calls `make_train`, and an axis of the grid by that argument's name.

    A network whose loss or update is not finite is frozen and flagged. The other
    members of a vmapped family never notice.

    Args:
      model: the network.
      loss_fn: `loss_fn(outputs, targets)`, one loss an example as in
        `optax.losses`; axes behind the first are summed.
      optimizer_fn: `optimizer_fn(strength)`, an Optax transformation.
      init: data-dependent initialisation; None keeps the network's own.
      data: the examples, or a function of a key that makes them. What an example of
        weight zero holds reaches no network.
      validation: held-out examples, or a function of a key that makes them.
      num_epochs: passes over the first `num_examples` examples, in a new order each
        time where there are mini-batches.
      num_steps: updates, instead of `num_epochs`. Mini-batches are drawn
        independently of each other, with replacement.
      batch_size: examples in a mini-batch; None means full batch, where an epoch is
        a step. Networks with batch statistics need mini-batches as soon as
        `num_examples` is less than all: a full batch masks the losses of the other
        examples, but passes them through the network.
      record_every: epochs or steps between records; None records start and end.
      eval_batch_size: examples in one pass of a measurement or of the
        initialisation. It bounds memory.
      objective: measures and differentiates the loss; None derives it from
        `model` and `loss_fn`. `mlp_objective` makes a faster one for small networks.

    Returns:
      The training function. `num_examples` left out means all.

    Raises:
      ValueError: if not exactly one of `num_epochs` and `num_steps` is given, or
        `record_every` does not divide it.
    """
    _check_kinds(model, loss_fn, optimizer_fn, init, batch_size, eval_batch_size)
    length, record_every = _check_schedule(num_epochs, num_steps, record_every)
    objective = objective or make_objective(model, loss_fn, eval_batch_size)

    def train(key: Key, strength: Any, num_examples: Any = None) -> TrainResult:
        if init is not None and not is_inside_grid():
            warn_of_scheduler()
        data_key, held_out_key, init_key, fit_key = jax.random.split(as_key(key), 4)
        given, is_enough = keep_first(draw(data, data_key), num_examples)
        held_out = None if validation is None else draw(validation, held_out_key)
        variables, info = initialize(
            init_key, model, init or chain(), given, eval_batch_size=eval_batch_size
        )
        optimizer = optax.with_extra_args_support(optimizer_fn(strength))
        update = make_update(objective, optimizer)
        count = count_examples(given, num_examples)
        advance = make_advance(update, given, count, batch_size, num_steps is None)

        def record(variables):
            validation_loss = None
            if held_out is not None:
                validation_loss = objective.loss(variables, held_out)
            loss = jnp.where(is_enough, objective.loss(variables, given), jnp.nan)
            return loss, validation_loss, _kernel_norms(model, variables)

        def interval(state, start):
            # The first interval is empty: it records the network as initialised.
            def body(i, state):
                return advance(state, jax.random.fold_in(fit_key, i))

            stop = jnp.maximum(start + record_every, 0)
            state = lax.fori_loop(jnp.maximum(start, 0), stop, body, state)
            return state, record(state.variables)

        state = State(variables, optimizer.init(variables["params"]), ~is_enough)
        starts = jnp.arange(-record_every, length, record_every)
        state, (loss, validation_loss, norm) = lax.scan(interval, state, starts)
        diverged = state.diverged | ~jnp.isfinite(loss[-1])
        return TrainResult(
            state.variables,
            loss,
            validation_loss,
            norm,
            diverged,
            all_solved(info),
            info,
        )

    return train


def _check_kinds(model, loss_fn, optimizer_fn, init, batch_size, eval_batch_size):
    require_kind("model", model, Model)
    require_callable("loss_fn", loss_fn)
    require_callable("optimizer_fn", optimizer_fn)
    if init is not None:
        require_callable("init", init)
    if batch_size is not None:
        require_count("batch_size", batch_size)
    require_count("eval_batch_size", eval_batch_size)


def _check_schedule(num_epochs, num_steps, record_every) -> tuple[int, int]:
    if (num_epochs is None) == (num_steps is None):
        raise ValueError(
            "expected exactly one of num_epochs and num_steps; got "
            f"num_epochs={num_epochs}, num_steps={num_steps}."
        )
    length = num_steps if num_epochs is None else num_epochs
    require_count("num_epochs or num_steps", length)
    record_every = length if record_every is None else record_every
    require_count("record_every", record_every)
    if length % record_every:
        raise ValueError(
            f"expected record_every to divide the {length} epochs or steps; got "
            f"{record_every}."
        )
    return length, record_every


def _kernel_norms(model, variables):
    kernels = [get_layer(variables, path)["kernel"] for path in model.layers]
    return jnp.array([jnp.linalg.norm(jnp.ravel(x.astype(float))) for x in kernels])
