r"""What a solver returns: the head, its multiplier, and evidence that it is right."""

import enum
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

__all__ = ["HeadSolution", "Status", "check", "heads_in", "is_usable"]


class Status(enum.IntEnum):
    """How a solve ended.

    `SUCCESS`: right. `INACCURATE`: solved, but rounding leaves more room for error
    than a percent. `STATIONARY`: all that can be told of a loss that is not convex.
    Anything else means: do not use the kernel.
    """

    SUCCESS = 0
    NO_DATA = 1
    NONFINITE_FEATURES = 2
    NONFINITE_TARGETS = 3
    INVALID_NORM = 4
    NOT_CONVERGED = 5
    INVALID_TARGETS = 6
    NOT_GLOBAL = 7
    NO_VARIANCE = 8
    MISMATCH = 9
    INACCURATE = 10
    INVALID_WEIGHTS = 11
    STATIONARY = 12
    NOT_CONVEX = 13

    @property
    def message(self) -> str:
        """A sentence that says what happened and what to do."""
        return _MESSAGES[self]


USABLE = Status.SUCCESS, Status.INACCURATE, Status.STATIONARY

_MESSAGES = {
    Status.SUCCESS: "The head is solved.",
    Status.NO_DATA: (
        "All example weights are zero, so there is nothing to fit. Give at least one "
        "example a positive weight."
    ),
    Status.NONFINITE_FEATURES: (
        "The head's inputs hold NaN or infinity. Look for them in the network's "
        "inputs, or in a layer before the head that overflows."
    ),
    Status.NONFINITE_TARGETS: (
        "The targets hold NaN or infinity. Remove or mask those examples (weight 0)."
    ),
    Status.INVALID_NORM: (
        "The norm constraint is not a positive finite number. Check the gain or the "
        "norm_sq of the constraint; one that counts examples (evidence, gcv) has none "
        "where their weights add up to one."
    ),
    Status.NOT_CONVERGED: (
        "The solver did not reach its tolerance. Rescale features or targets, or "
        "solve in float64."
    ),
    Status.INVALID_TARGETS: (
        "Some targets are no classes: labels outside 0..k-1, or probabilities below "
        "zero or not one in sum. Correct them, or mask those examples (weight 0)."
    ),
    Status.NOT_GLOBAL: (
        "The norm is larger than the unconstrained optimum's, so that the problem on "
        "the sphere is not convex and its solution may be a local one. Use "
        'relation="at_most" or a smaller norm.'
    ),
    Status.NO_VARIANCE: (
        "Neither features nor targets vary, or so little that their squares underflow, "
        "so there is nothing to fit. Give more examples, or rescale them."
    ),
    Status.MISMATCH: (
        "With the solved head the network's own loss on a batch of the data is not the "
        "loss that was solved for: its output is not features @ kernel + bias. Make "
        "the model with linen.as_model or nnx.as_model, which check this, or mend "
        "`taps` of your own record."
    ),
    Status.INVALID_WEIGHTS: (
        "Some example weights are negative or NaN. Weights count examples: make them "
        "zero or positive."
    ),
    Status.INACCURATE: (
        "The head is solved as well as the precision allows, but its loss may exceed "
        "the least possible one by more than a percent (see gap_bound). Standardise "
        "the features, ask for a smaller norm, or solve in float64."
    ),
    Status.STATIONARY: (
        "The loss is not convex. The head is a stationary point under the constraint; "
        "another one may have less loss."
    ),
    Status.NOT_CONVEX: (
        "The loss bends downwards at some examples, so that it is not convex and its "
        "solution has no certificate. Correct the function, or ask for a stationary "
        "point: from_function(..., is_convex=False)."
    ),
}


class HeadSolution(NamedTuple):
    r"""A solved head.

    Per-output quantities have shape `[k]` when the constraint is per output and
    `[]` when it is global.

    Attributes:
      kernel: weights W of the head.
      bias: bias b of the head; zero where the head has none.
      multiplier: the KKT multiplier $\mu$ of the norm constraint. Positive: the
        constraint shrinks the head, as ridge regression of strength $2\mu$ does.
        Negative: it inflates the head. Zero: an `at_most` bound that is not met.
      norm_sq: the squared norm that the kernel has, in the constraint's metric.
      objective: the loss at (W, b), mean over examples and sum over outputs.
      stationarity: relative KKT residual, $\|\nabla L + 2 \mu M W\|$ over its terms.
      norm_error: `|norm_sq / wanted - 1|` for a met constraint, else zero.
      gap_bound: a certificate, `loss - global minimum <= gap_bound` for the loss
        of these columns, whatever way the kernel was found. Infinite for a loss that
        is not convex.
      is_global: whether the second-order condition for a global minimiser holds.
      is_hard_case: whether the data leave part of the kernel free, so that it was
        filled in along the tie-break kernel.
      status: a `Status`.
    """

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]
    multiplier: Float[Array, "*k"]
    norm_sq: Float[Array, "*k"]
    objective: Float[Array, ""]
    stationarity: Float[Array, "*k"]
    norm_error: Float[Array, "*k"]
    gap_bound: Float[Array, "*k"]
    is_global: Bool[Array, "*k"]
    is_hard_case: Bool[Array, "*k"]
    status: Int[Array, ""]


def is_usable(status: Int[ArrayLike, "*b"]) -> Bool[Array, "*b"]:
    """Returns whether a kernel of this status may be used.

    It is solved, if inaccurately, or a stationary point of a loss that is not convex.
    """
    status = jnp.asarray(status)
    return jnp.isin(status, jnp.array(USABLE, status.dtype))


def check(info: Any) -> None:
    """Raises if any solve in `info` failed; the host-side reading of a status.

    A head that is solved but `INACCURATE` gives a warning.

    Args:
      info: a `HeadSolution` or another head with a status, or any pytree that holds
        some, batched or not.

    Raises:
      ValueError: naming the cause and how many solves it stopped.
    """
    for solution in heads_in(info):
        status = np.asarray(solution.status)
        is_right = np.isin(status, [Status.SUCCESS, Status.STATIONARY])
        for code in np.unique(status[~is_right]):
            count = int((status == code).sum())
            text = f"{Status(code).name}: {count} of {status.size} heads"
            if code == Status.INACCURATE:
                warnings.warn(f"{text}. {Status(code).message}", stacklevel=2)
                continue
            raise ValueError(f"{text} were not solved. {Status(code).message}")


def heads_in(tree: Any) -> list[Any]:
    """Returns the heads with a status in a pytree, batched or not."""
    is_head = lambda x: hasattr(x, "kernel") and hasattr(x, "status")  # noqa: E731
    return [x for x in jax.tree.leaves(tree, is_leaf=is_head) if is_head(x)]
