r"""What a solver asks of a loss: a record of a few functions of the logits.

A loss of the head is a mean of $\ell(z_n, t_n)$ over examples, with the logits
$z_n = W^T \phi_n + b + o_n$. Where $\ell$ is convex and smooth in z, the whole problem
is convex in W and b, and `solve_convex` solves it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = [
    "Convexity",
    "Kind",
    "Loss",
    "Start",
    "TargetMeans",
    "Targets",
    "bend",
    "losses_and_slopes",
    "read_targets",
    "start",
]

Convexity = Literal["known", "checked", "none"]
"""Known; promised, and looked at where examples are; or absent."""


class Targets(NamedTuple):
    """Targets as a loss reads them.

    Attributes:
      values: what the functions of a `Kind` are given.
      is_valid: whether each example's targets are such as the loss is made for.
    """

    values: Float[Array, "n t"]
    is_valid: Bool[Array, " n"]


class TargetMeans(NamedTuple):
    """Means over the weighted examples of the targets as a loss reads them.

    Attributes:
      mean: mean of each column.
      variance: variance of each column.
      count: total weight.
    """

    mean: Float[Array, " t"]
    variance: Float[Array, " t"]
    count: Float[Array, ""]


class Start(NamedTuple):
    """The constant prediction of least loss.

    Attributes:
      bias: it, or a finite one near it; one number an output. For a head with one
        output there may be several, `[b]`: the loss is then one of the logits
        `[n, b]` that the output makes with each of them.
      is_free: whether an output's optimum is finite, so that its bias may change.
    """

    bias: Float[Array, " b"]
    is_free: Bool[Array, " b"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Kind:
    r"""The functions of a loss; p are its `Loss.parameters`.

    Attributes:
      name: what messages call it.
      value: `value(p, logits [n, k], targets [n, t]) -> [n]`, convex in the logits.
      read: `read(p, targets, k, dtype) -> Targets`; raises ValueError where shapes do
        not fit.
      start: `start(p, means, k) -> Start` from the `TargetMeans`.
      slope: the derivative of `value` in the logits; None: by JAX.
      curvature: `curvature(p)`, a number that no second derivative of `value` in the
        logits exceeds; None where there is none.
      bend: `bend(p, logits, targets, direction [n, k]) -> [n, k]`, the second
        derivative times a direction; None: by JAX.
      smooth: `smooth(p, means) -> p`, parameters that make the loss bend over all the
        spread of the targets, from which a search comes to its own; None where it does
        so anyhow.
      is_right: `is_right(p, logits, targets) -> [n]`, whether the likeliest class is
        the true one; None for a loss without classes.
      num_outputs: `num_outputs(targets) -> k` where targets tell it; None where they
        do not.
      num_targets: `num_targets(k)`, targets of an example for a head with k outputs;
        None where any number will do.
      takes_labels: whether targets may be labels, one number for all outputs.
      is_shift_invariant: whether adding one number to all k > 1 logits changes nothing.
      convexity: whether `value` is convex in the logits.
    """

    name: str
    value: Callable[..., Array]
    read: Callable[..., Targets]
    start: Callable[..., Start]
    slope: Callable[..., Array] | None = None
    curvature: Callable[[Any], Any] | None = None
    bend: Callable[..., Array] | None = None
    smooth: Callable[..., Any] | None = None
    is_right: Callable[..., Array] | None = None
    num_outputs: Callable[[Any], int | None] = lambda targets: None
    num_targets: Callable[[int], int | None] = lambda k: k
    takes_labels: bool = False
    is_shift_invariant: bool = False
    convexity: Convexity = "known"


class Loss(NamedTuple):
    """A convex loss: its functions, and the numbers that they take.

    It is hashable where its parameters are, and a pytree whose leaves are the
    parameters: they may be traced.

    Attributes:
      kind: the functions.
      parameters: numbers such as a label smoothing; a NamedTuple.
    """

    kind: Kind
    parameters: Any = ()


def read_targets(loss: Loss, targets: Array, num_outputs: int, dtype: Any) -> Targets:
    """Returns the targets as the loss reads them."""
    return loss.kind.read(loss.parameters, targets, num_outputs, dtype)


def start(loss: Loss, means: TargetMeans, num_outputs: int) -> Start:
    """Returns the best constant prediction, from means of the read targets."""
    return loss.kind.start(loss.parameters, means, num_outputs)


def losses_and_slopes(
    loss: Loss, logits: Float[Array, "n k"], targets: Float[Array, "n t"]
) -> tuple[Float[Array, " n"], Float[Array, "n k"]]:
    """Returns each example's loss and its derivative in the logits."""
    value = loss.kind.value(loss.parameters, logits, targets)
    return value, _slope(loss)(logits, targets)


def bend(
    loss: Loss,
    logits: Float[Array, "n k"],
    targets: Float[Array, "n t"],
    direction: Float[Array, "n k"],
) -> Float[Array, "n k"]:
    """Returns each example's second derivative in the logits times a direction."""
    if loss.kind.bend is not None:
        return loss.kind.bend(loss.parameters, logits, targets, direction)
    slope = _slope(loss)
    return jax.jvp(lambda z: slope(z, targets), (logits,), (direction,))[1]


def _slope(loss):
    kind, parameters = loss
    if kind.slope is not None:
        return lambda logits, targets: kind.slope(parameters, logits, targets)
    return jax.grad(lambda z, t: jnp.sum(kind.value(parameters, z, t)))
