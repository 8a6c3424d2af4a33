r"""Ordered classes: one logit against thresholds.

.. math:: \ell = -\log(\sigma(\theta_t - z) - \sigma(\theta_{t - 1} - z))

With $z_j = z - \theta_j$ it is convex in all $z_j$ together, and so in the kernel and
the thresholds. Thresholds that do not ascend have no finite loss.

References:
  P. McCullagh, "Regression models for ordinal data", J. R. Statist. Soc. B 42, 1980.
  J. W. Pratt, "Concavity of the log likelihood", J. Am. Statist. Assoc. 76, 1981.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lagrange_jax._checks import require_count, require_real
from lagrange_jax.losses.reading import read_real
from lagrange_jax.losses.record import Kind, Loss, Start, TargetMeans, Targets

__all__ = ["ordinal", "ordinal_thresholds"]

# A class without examples counts as half an example, so that thresholds are finite.
HALF_EXAMPLE = 0.5


class _Thresholds(NamedTuple):
    values: Any


def ordinal(thresholds: Any = None, *, num_classes: int | None = None) -> Loss:
    r"""Cumulative logits: one logit against ordered thresholds, proportional odds.

    $P(t \le j) = \sigma(\theta_j - z)$ for classes 0..m-1 as integers `[n]` and a head
    with one output z.

    *Given thresholds* are kept. Those of the classes' shares, `ordinal_thresholds`, are
    the best ones of a zero kernel.

    *With `num_classes` in their place* `solve_convex` and `convex_path` solve for the
    thresholds as well, together with the kernel: a convex problem, whose solution has
    a certificate like any other. They are the bias: `solution.bias` is $-\theta$,
    `[m - 1]`, in place of one number. Thresholds next to a class without examples stay
    where `ordinal_thresholds` puts them. An init transform has no place for them: give
    them to `lagrange`, and to the model.

    Args:
      thresholds: $\theta$, m - 1 ascending numbers.
      num_classes: m, to solve for the thresholds.

    Returns:
      The `Loss`.

    Raises:
      ValueError: if the thresholds do not ascend, or not one of both is given.

    Example:
      >>> features = jnp.array([[-2.0], [-1.0], [-0.5], [0.0], [1.0], [2.0]])
      >>> labels = jnp.array([0, 0, 1, 0, 1, 2])
      >>> norm = lj.constraints.fixed_norm(1.0)
      >>> loss = lj.losses.ordinal(num_classes=3)
      >>> head = lj.solve_convex((features, labels), norm, loss=loss)
      >>> first, second = -head.bias
      >>> print(f"{first:.1f} {second:.1f}")  # the thresholds
      -0.2 2.1
    """
    if (thresholds is None) == (num_classes is None):
        raise ValueError(
            "expected thresholds, or num_classes to solve for them; got "
            f"thresholds={thresholds}, num_classes={num_classes}."
        )
    if thresholds is None:
        require_count("num_classes", num_classes, least=2)
        return Loss(_joint_kind(num_classes))
    if len(require_real("thresholds", thresholds)) != 1:
        raise ValueError(f"expected thresholds [m - 1]; got {np.shape(thresholds)}.")
    if not isinstance(thresholds, Tracer):
        thresholds = tuple(float(x) for x in np.asarray(thresholds))
        if not thresholds or not all(np.diff(thresholds) > 0):
            raise ValueError(f"expected ascending thresholds; got {thresholds}.")
    return Loss(ORDINAL, _Thresholds(thresholds))


def ordinal_thresholds(
    shares: Float[ArrayLike, " m"], count: Float[Array, ""] | float | None = None
) -> Float[Array, "m-1"]:
    r"""Returns the thresholds that suit a head of zero: the classes' log-odds.

    .. math:: \theta_j = \log \frac{P(t \le j)}{P(t > j)}

    Args:
      shares: how often each class occurs, in order: shares or counts.
      count: number of examples, so that classes that do not occur at either end count
        as half an example; None: the sum of `shares`.

    Returns:
      The thresholds; two are equal where a class between others does not occur.
    """
    shares = jnp.asarray(shares)
    if not jnp.issubdtype(shares.dtype, jnp.floating):
        shares = shares.astype(jnp.float32)
    total = shares.sum()
    count = total if count is None else count
    least = HALF_EXAMPLE / jnp.maximum(count, 1)
    below = jnp.cumsum(shares)[:-1] / jnp.where(total > 0, total, 1)
    above = jnp.cumsum(shares[::-1])[-2::-1] / jnp.where(total > 0, total, 1)
    return jnp.log(jnp.maximum(below, least) / jnp.maximum(above, least))


def _read_classes(targets, num_classes, k, dtype):
    """Whether each example is of each class, `[n, m]`."""
    if k != 1:
        raise ValueError(f"ordinal needs a head with one output; got {k}.")
    values, is_valid = read_real((), targets, 1, dtype)
    label = jnp.clip(values[:, 0], 0, num_classes - 1).astype(jnp.int32)
    is_valid &= label.astype(dtype) == values[:, 0]
    return Targets(jax.nn.one_hot(label, num_classes, dtype=dtype), is_valid)


class _Gaps(NamedTuple):
    """How far the thresholds of the class are above and below the logit, `[n]`.

    Infinite where there is none; `width` is their distance, one where there is none.
    """

    above: Array
    below: Array
    has_both: Array
    width: Array


def _gaps(logits, targets):
    upper, lower = targets[:, :-1], targets[:, 1:]
    has_above, has_below = upper.sum(1) > 0, lower.sum(1) > 0
    above = jnp.where(has_above, -jnp.sum(upper * logits, 1), jnp.inf)
    below = jnp.where(has_below, -jnp.sum(lower * logits, 1), -jnp.inf)
    has_both = has_above & has_below
    width = jnp.where(has_both, above - below, 1)
    return _Gaps(above, below, has_both, width)


def _value(logits, targets):
    above, below, has_both, width = _gaps(logits, targets)
    inside = jnp.where(has_both, jnp.log(-jnp.expm1(-width)), 0)
    return jax.nn.softplus(-above) + jax.nn.softplus(below) - inside


def _slope(logits, targets):
    above, below, has_both, width = _gaps(logits, targets)
    push = jnp.where(has_both, 1 / jnp.expm1(width), 0)
    at_upper = jax.nn.sigmoid(-above) + push
    at_lower = -jax.nn.sigmoid(below) - push
    return targets[:, :-1] * at_upper[:, None] + targets[:, 1:] * at_lower[:, None]


def _bend(logits, targets, direction):
    above, below, has_both, width = _gaps(logits, targets)
    upper, lower = targets[:, :-1], targets[:, 1:]
    spread = lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)  # noqa: E731
    at_upper, at_lower = jnp.sum(upper * direction, 1), jnp.sum(lower * direction, 1)
    push = jnp.where(has_both, (at_upper - at_lower) / jnp.sinh(width / 2) ** 2 / 4, 0)
    at_upper = spread(above) * at_upper + push
    at_lower = spread(below) * at_lower - push
    return upper * at_upper[:, None] + lower * at_lower[:, None]


def _below(p, logits):
    """The logit less each threshold."""
    return logits - jnp.asarray(p.values, logits.dtype)[None]


def _bend_together(p, logits, targets, direction):
    logits = _below(p, logits)
    along = jnp.broadcast_to(direction, logits.shape)
    return _bend(logits, targets, along).sum(1, keepdims=True)


ORDINAL = Kind(
    "ordinal",
    value=lambda p, z, t: _value(_below(p, z), t),
    slope=lambda p, z, t: _slope(_below(p, z), t).sum(1, keepdims=True),
    bend=_bend_together,
    read=lambda p, targets, k, dtype: _read_classes(
        targets, len(p.values) + 1, k, dtype
    ),
    start=lambda p, means, k: Start(jnp.zeros(1, means.mean.dtype), jnp.full(1, True)),
    num_outputs=lambda targets: 1,
    takes_labels=True,
)


@functools.cache
def _joint_kind(num_classes: int) -> Kind:
    """The loss of logits that are the head's output less each threshold."""

    def start(p: Any, means: TargetMeans, k: int) -> Start:
        occurs = means.mean > 0
        bias = -ordinal_thresholds(means.mean, means.count)
        return Start(bias, occurs[:-1] & occurs[1:])

    return Kind(
        f"ordinal of {num_classes} classes",
        value=lambda p, z, t: _value(z, t),
        slope=lambda p, z, t: _slope(z, t),
        bend=lambda p, z, t, v: _bend(z, t, v),
        read=lambda p, targets, k, dtype: _read_classes(targets, num_classes, k, dtype),
        start=start,
        num_outputs=lambda targets: 1,
        takes_labels=True,
    )
