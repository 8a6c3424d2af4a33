r"""Gaussian likelihood: a mean and a log-variance for every target.

.. math:: \ell = \tfrac12 \sum_j s_j + (t_j - m_j)^2 e^{-s_j}, \qquad z = (m, s)

is convex in m and convex in s, but not in both. Given s it is weighted least squares;
given m it is a gamma regression of squared residuals with a log link. A stationary
point is therefore the best mean for its variance and the best variance for its mean,
and need not be the least of all. The two outputs are searched for together: the search
lowers the loss at every step, as alternation of the two does, and ends at such a point
in fewer passes, for it knows how mean and variance depend on each other.

References:
  D. A. Nix, A. S. Weigend, "Estimating the mean and variance of the target probability
  distribution", ICNN 1994.
  J. Gorski, F. Pfeuffer, K. Klamroth, "Biconvex sets and optimization with biconvex
  functions", Math. Meth. Oper. Res. 66, 2007.
"""

from typing import Any

import jax.numpy as jnp

from lagrange_jax.losses.reading import read_real
from lagrange_jax.losses.record import Kind, Loss, Start, TargetMeans

__all__ = ["gaussian"]


def gaussian() -> Loss:
    r"""Gaussian negative log-likelihood of mean and log-variance outputs.

    A head for t targets has 2t outputs: the means, then the log-variances. Targets are
    real, `[n, t]`, or `[n]` for one. The constant $\tfrac12 \log 2\pi$ is left out.

    The loss is not convex: a solved head has the status `STATIONARY` instead of
    `SUCCESS`, an infinite `gap_bound`, and no `is_global`. Where the norm binds with a
    multiplier of at least zero, neither a better kernel of the means (for these
    variances) nor one of the variances (for these means) is within it. A norm so large
    that the means interpolate targets leaves the variance no minimum, and the search
    does not converge.

    Returns:
      The `Loss`.

    Example:
      >>> features = jnp.array([[-1.0], [1.0], [-1.0], [1.0]])
      >>> targets = jnp.array([-1.0, -1.0, 1.0, 3.0])
      >>> norm = lj.constraints.fixed_norm(
      ...     100.0, per_output=False, relation="at_most"
      ... )
      >>> loss = lj.losses.gaussian()
      >>> head = lj.solve_convex((features, targets), norm, loss=loss)
      >>> print(lj.Status(head.status).name)
      STATIONARY
      >>> print((features[:2] @ head.kernel + head.bias + 0.01).round(1))
      [[0.  0. ]
       [1.  1.4]]
    """
    return Loss(GAUSSIAN)


def _parts(logits, targets):
    """Residual and precision of each target."""
    mean, log_variance = jnp.split(logits, 2, axis=1)
    return targets - mean, jnp.exp(-log_variance)


def _value(p, logits, targets):
    log_variance = jnp.split(logits, 2, axis=1)[1]
    residual, precision = _parts(logits, targets)
    return jnp.sum(log_variance + residual**2 * precision, 1) / 2


def _slope(p, logits, targets):
    residual, precision = _parts(logits, targets)
    of_mean = -residual * precision
    return jnp.concatenate([of_mean, (1 - residual**2 * precision) / 2], 1)


def _bend(p, logits, targets, direction):
    residual, precision = _parts(logits, targets)
    along_mean, along_variance = jnp.split(direction, 2, axis=1)
    change = residual * along_variance
    of_mean = precision * (along_mean + change)
    of_variance = precision * residual * (along_mean + change / 2)
    return jnp.concatenate([of_mean, of_variance], 1)


def _start(p: Any, means: TargetMeans, k: int) -> Start:
    varies = means.variance > 0
    log_variance = jnp.log(jnp.where(varies, means.variance, 1))
    is_free = jnp.concatenate([jnp.full(varies.shape, True), varies])
    return Start(jnp.concatenate([means.mean, log_variance]), is_free)


def _read(p, targets, k, dtype):
    if k % 2:
        raise ValueError(
            "gaussian needs a head with a mean and a log-variance for every target, an "
            f"even number of outputs; got {k}."
        )
    return read_real(p, targets, k, dtype, k // 2)


GAUSSIAN = Kind(
    "gaussian",
    value=_value,
    slope=_slope,
    bend=_bend,
    read=_read,
    start=_start,
    num_outputs=lambda targets: 2 * (targets.shape[1] if targets.ndim == 2 else 1),
    num_targets=lambda k: k // 2,
    convexity="none",
)
