"""The head before as the memory: the proximal form of a re-solved head."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

import lagrange_jax as lj
from lagrange_jax.models import HeadArrays
from lagrange_jax.statistics import init_moments
from lagrange_jax.training import Resolver, ResolverState

__all__ = ["proximal_head"]


def proximal_head(ridge: float) -> Resolver:
    r"""Returns a head that minimises the batch's error plus $\mu \|W - W_{last}\|^2$.

    Args:
      ridge: $\mu$ as a share of the features' mean variance.

    References:
      A. Galashov et al., "Closed-form last layer optimization", arXiv:2510.04606, 2025.
    """

    def init(head: HeadArrays) -> ResolverState:
        d, k = head.kernel.shape
        moments = init_moments(d, k, head.kernel.dtype)
        return ResolverState(moments, head, jnp.int32(0))

    def update(state: ResolverState, features, targets, weights=None) -> ResolverState:
        given = jax.lax.stop_gradient((features, targets, weights))
        moments, last = lj.compute_moments(*given), state.head
        covariance, d = moments.cov_xx, len(moments.cov_xx)
        shift = ridge * jnp.trace(covariance) / d
        factor = cho_factor(covariance + shift * jnp.eye(d, dtype=covariance.dtype))
        missing = moments.cov_xt - covariance @ last.kernel
        kernel = last.kernel + cho_solve(factor, missing)
        bias = moments.mean_t - moments.mean_x @ kernel
        return ResolverState(moments, HeadArrays(kernel, bias), state.step + 1)

    return Resolver(init, update)
