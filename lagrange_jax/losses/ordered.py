r"""Ordered classes: one logit against thresholds.

.. math:: \ell = -\log(\sigma(\theta_t - z) - \sigma(\theta_{t - 1} - z))

References:
  P. McCullagh, "Regression models for ordinal data", J. R. Statist. Soc. B 42, 1980.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lagrange_jax._checks import require_real
from lagrange_jax.losses.reading import read_real
from lagrange_jax.losses.record import Kind, Loss, Start, Targets

__all__ = ["ordinal"]


class _Thresholds(NamedTuple):
    values: Any


def ordinal(thresholds: Any) -> Loss:
    r"""Cumulative logits: one logit against ordered thresholds, proportional odds.

    $P(t \le j) = \sigma(\theta_j - z)$ for classes 0..m-1 as integers `[n]`. The
    thresholds are given, those of the classes' shares say, and not solved for: the
    log-odds of `numpy.cumsum(shares)[:-1]`.

    Args:
      thresholds: $\theta$, m - 1 ascending numbers.

    Returns:
      The `Loss`, for a head with one output.

    Raises:
      ValueError: if the thresholds do not ascend.
    """
    if len(require_real("thresholds", thresholds)) != 1:
        raise ValueError(f"expected thresholds [m - 1]; got {np.shape(thresholds)}.")
    if not isinstance(thresholds, Tracer):
        thresholds = tuple(float(x) for x in np.asarray(thresholds))
        if not thresholds or not all(np.diff(thresholds) > 0):
            raise ValueError(f"expected ascending thresholds; got {thresholds}.")
    return Loss(ORDINAL, _Thresholds(thresholds))


def _read_ordered(p, targets, k, dtype):
    if k != 1:
        raise ValueError(f"ordinal needs a head with one output; got {k}.")
    values, is_valid = read_real(p, targets, 1, dtype)
    is_class = (values >= 0) & (values <= len(p.values)) & (values == jnp.round(values))
    return Targets(values, is_valid & is_class[:, 0])


def _bounds(p, logits, targets):
    """How far above and below the logit the thresholds of its class are."""
    inner = jnp.asarray(p.values, logits.dtype)
    edge = jnp.full(1, jnp.inf, logits.dtype)
    padded = jnp.concatenate([-edge, inner, edge])
    label = jnp.clip(targets, 0, len(inner)).astype(jnp.int32)
    return padded[label + 1] - logits, padded[label] - logits


def _ordinal_value(p, logits, targets):
    above, below = _bounds(p, logits, targets)
    width = jnp.log1p(-jnp.exp(below - above))
    value = jax.nn.softplus(-above) + jax.nn.softplus(below) - width
    return value[:, 0]


def _ordinal_slope(p, logits, targets):
    above, below = _bounds(p, logits, targets)
    return jax.nn.sigmoid(-above) - jax.nn.sigmoid(below)


def _ordinal_bend(p, logits, targets, direction):
    above, below = _bounds(p, logits, targets)
    spread = lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)  # noqa: E731
    return (spread(above) + spread(below)) * direction


ORDINAL = Kind(
    "ordinal",
    value=_ordinal_value,
    slope=_ordinal_slope,
    bend=_ordinal_bend,
    read=_read_ordered,
    start=lambda p, mean, count, k: Start(jnp.zeros_like(mean), mean == mean),
    num_outputs=lambda targets: 1,
)
