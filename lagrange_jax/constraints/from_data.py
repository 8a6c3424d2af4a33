r"""The smallest head that is nearly optimal: a norm that the data choose.

Along the ridge path the loss rises with the multiplier and the norm falls. A head
that gives up a bounded share of the loss can be several times smaller than the
optimal one; its body then learns faster, see the study `experiments/studies/rul`.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from lagrange_jax._checks import require_shapes
from lagrange_jax.bounds import Constraint
from lagrange_jax.numerics.linalg import rank_tolerance
from lagrange_jax.ridge.path import norm_of_strength, ridge_loss
from lagrange_jax.statistics.spectrum import Spectrum

__all__ = ["loss_within"]

# Halvings of the range of log strengths, some 40 in float32: to 4e-6 of a strength.
NUM_STEPS = 24
# A head is never allowed to give up more than this share of what it can explain.
LARGEST_SHARE = 0.5


def loss_within(factor: Any = 1.5, *, per_output: bool = True) -> Constraint:
    r"""The least norm whose loss is at most `factor` times the least loss.

    .. math:: \min_W \|W\|^2 \quad\text{s.t.}\quad
              \mathrm{loss}(W) \le \min(f\, l^*,\ (l^* + v) / 2)

    where $l^*$ is the loss of least squares and $v$, the variance of the targets, that
    of no head at all: at least half of what the features explain is kept, also where
    they explain little. The solution is ridge regression, so that the multiplier is
    positive. It does not depend on the scale of features or targets.

    Args:
      factor: $f > 1$, may be traced.
      per_output: one bound an output, or one for their sum.

    Returns:
      The `Constraint`.

    Raises:
      ValueError: if the factor is visibly not greater than one.

    Example:
      A tenth of the variance cannot be explained; the head may leave 15 percent.

      >>> x = jnp.array([-1.0, 1, -1, 1])[:, None]
      >>> noise = jnp.array([-1.0, -1, 1, 1])[:, None]
      >>> targets = 0.9**0.5 * x + 0.1**0.5 * noise
      >>> spectrum = lj.decompose(lj.compute_moments(x, targets))
      >>> constraint = lj.loss_within(1.5)
      >>> head = lj.solvers.solve_spectrum(spectrum, constraint.norm_sq(spectrum))
      >>> print(f"{head.objective:.3f}")
      0.150
    """
    require_shapes({"factor": ""}, {"factor": factor})
    if isinstance(factor, int | float) and not factor > 1:
        raise ValueError(f"expected factor > 1; got {factor}.")

    def norm_sq(spectrum: Spectrum):
        spectrum = lax.stop_gradient(spectrum)
        total = (lambda x: x) if per_output else jnp.sum
        least, most = total(ridge_loss(spectrum, 0.0)), total(spectrum.variance)
        bound = jnp.minimum(factor * least, least + LARGEST_SHARE * (most - least))
        strength = _largest_strength(spectrum, bound, total)
        return total(norm_of_strength(spectrum, strength))

    return Constraint(norm_sq)


def _largest_strength(spectrum, bound, total):
    """Bisects the logarithm of the strength: the loss rises with it."""
    top = jnp.max(jnp.abs(spectrum.eigenvalues))
    top = jnp.where(top > 0, top, 1)
    low = jnp.log(rank_tolerance(spectrum.eigenvalues) + jnp.finfo(top.dtype).tiny)
    low, high = jnp.full_like(bound, low), jnp.full_like(bound, jnp.log(1e6 * top))

    def step(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        kept = total(ridge_loss(spectrum, jnp.exp(middle))) <= bound
        return jnp.where(kept, middle, low), jnp.where(kept, high, middle)

    low, _ = lax.fori_loop(0, NUM_STEPS, step, (low, high))
    return jnp.exp(low)
