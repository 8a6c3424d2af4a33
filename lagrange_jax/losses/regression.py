r"""Losses of real targets and counts.

Each output has a loss of its own, and they add up; r is the logit minus the target.

| loss | $\ell$ |
| --- | --- |
| `squared_error` | $r^2$ |
| `huber` | $r^2 / 2$ for $|r| \le \delta$, else $\delta (|r| - \delta / 2)$ |
| `quantile` | $-q r + h \log(1 + e^{r / h})$ |
| `poisson` | $e^z - t - t (z - \log t)$, half the deviance |

References:
  P. J. Huber, "Robust estimation of a location parameter", Ann. Math. Statist. 35,
  1964.
  R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46, 1978.
  S. Zheng, "Gradient descent algorithms for quantile regression with smooth
  approximation", Int. J. Mach. Learn. Cybern. 2, 2011 (the smoothing).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lagrange_jax.losses.reading import as_number, read_real
from lagrange_jax.losses.record import Kind, Loss, Start, Targets

__all__ = ["huber", "poisson", "quantile", "squared_error"]


class _Scale(NamedTuple):
    """The threshold of Huber's loss."""

    delta: Any


class _Quantile(NamedTuple):
    level: Any
    smoothing: Any


def squared_error() -> Loss:
    """Squared error, summed over outputs; `solve_least_squares` has its closed form.

    Targets are real, `[n, k]`, or `[n]` for one output.
    """
    return Loss(SQUARED_ERROR)


def huber(delta: Any = 1.0) -> Loss:
    """Huber's loss: squares near the target, absolute values away from it.

    Targets are real, `[n, k]`, or `[n]` for one output.

    Args:
      delta: the residual beyond which it is linear, in the unit of the targets.

    Returns:
      The `Loss`.

    Raises:
      ValueError: if delta is not positive.
    """
    return Loss(HUBER, _Scale(as_number("delta", delta, 0, np.inf)))


def quantile(level: Any = 0.5, *, smoothing: Any) -> Loss:
    r"""The pinball loss of a quantile, smoothed so that it has derivatives.

    The smoothed loss lies above the pinball loss by at most $h \log 2$, and by nothing
    but $h e^{-|r| / h}$ away from the target. Targets are real, `[n, k]`, or `[n]`.

    Args:
      level: q, the share of the targets below the prediction.
      smoothing: h, in the unit of the targets; a hundredth of their spread, say. The
        smaller, the more steps.

    Returns:
      The `Loss`.

    Raises:
      ValueError: if the level is outside (0, 1) or the smoothing is not positive.
    """
    level = as_number("level", level, 0, 1)
    smoothing = as_number("smoothing", smoothing, 0, np.inf)
    return Loss(QUANTILE, _Quantile(level, smoothing))


def poisson() -> Loss:
    """Half the Poisson deviance with a log link: a logit is the log of the mean count.

    Targets are counts or rates, at least zero, `[n, k]`, or `[n]` for one output. An
    exposure enters as the offset of its logarithm.
    """
    return Loss(POISSON)


def _real_outputs(targets):
    return targets.shape[1] if targets.ndim == 2 else 1


def _start_at_mean(p, means, k):
    return Start(means.mean, jnp.full(means.mean.shape, True))


SQUARED_ERROR = Kind(
    "squared_error",
    value=lambda p, z, t: jnp.sum((z - t) ** 2, 1),
    slope=lambda p, z, t: 2 * (z - t),
    curvature=lambda p: 2.0,
    bend=lambda p, z, t, v: 2 * v,
    read=read_real,
    start=_start_at_mean,
    num_outputs=_real_outputs,
)


def _spread(means, least):
    """Root mean square of the targets about their means, or a number above it."""
    return jnp.maximum(jnp.sqrt(means.variance.mean()), least)


def _huber_value(p, logits, targets):
    delta = jnp.asarray(p.delta, logits.dtype)
    size = jnp.abs(logits - targets)
    inner = jnp.minimum(size, delta)
    return jnp.sum(inner**2 / 2 + delta * (size - inner), 1)


def _huber_slope(p, logits, targets):
    delta = jnp.asarray(p.delta, logits.dtype)
    return jnp.clip(logits - targets, -delta, delta)


def _huber_bend(p, logits, targets, direction):
    delta = jnp.asarray(p.delta, logits.dtype)
    return jnp.where(jnp.abs(logits - targets) <= delta, direction, 0)


HUBER = Kind(
    "huber",
    value=_huber_value,
    slope=_huber_slope,
    curvature=lambda p: 1.0,
    bend=_huber_bend,
    smooth=lambda p, means: _Scale(_spread(means, p.delta)),
    read=read_real,
    start=_start_at_mean,
    num_outputs=_real_outputs,
)


def _quantile_parts(p, logits, targets):
    level, h = (jnp.asarray(x, logits.dtype) for x in p)
    return logits - targets, level, h


def _quantile_value(p, logits, targets):
    r, level, h = _quantile_parts(p, logits, targets)
    return jnp.sum(h * jax.nn.softplus(r / h) - level * r, 1)


def _quantile_slope(p, logits, targets):
    r, level, h = _quantile_parts(p, logits, targets)
    return jax.nn.sigmoid(r / h) - level


def _quantile_bend(p, logits, targets, direction):
    r, _, h = _quantile_parts(p, logits, targets)
    return jax.nn.sigmoid(r / h) * jax.nn.sigmoid(-r / h) / h * direction


QUANTILE = Kind(
    "quantile",
    value=_quantile_value,
    slope=_quantile_slope,
    curvature=lambda p: 1 / (4 * p.smoothing),
    bend=_quantile_bend,
    smooth=lambda p, means: p._replace(smoothing=_spread(means, p.smoothing)),
    read=read_real,
    start=_start_at_mean,
    num_outputs=_real_outputs,
)


def _poisson_value(p, logits, targets):
    is_some = targets > 0
    known = jnp.where(is_some, targets, 1)
    r = jnp.where(is_some, logits - jnp.log(known), 0)
    some = known * (jnp.expm1(r) - r)
    return jnp.sum(jnp.where(is_some, some, jnp.exp(logits)), 1)


def _read_counts(p, targets, k, dtype):
    values, is_valid = read_real(p, targets, k, dtype)
    return Targets(values, is_valid & (values >= 0).all(1))


def _poisson_start(p, means, k):
    # Half an event is what an output that never had one may expect.
    least = 0.5 / jnp.maximum(means.count, 1)
    return Start(jnp.log(jnp.maximum(means.mean, least)), means.mean > 0)


POISSON = Kind(
    "poisson",
    value=_poisson_value,
    slope=lambda p, z, t: jnp.exp(z) - t,
    bend=lambda p, z, t, v: jnp.exp(z) * v,
    read=_read_counts,
    start=_poisson_start,
    num_outputs=_real_outputs,
)
