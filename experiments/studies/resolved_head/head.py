r"""A head that is solved anew at every step, while the body trains.

For squared error the head W that is best for the body $\theta$ of the moment is the
solution of a small linear system, so that the body alone is left to be trained, on

$$R(\theta) = \min_W \frac1N \sum_n \|W^T \phi_n(\theta) - t_n\|^2 + \mu \|W\|^2 .$$

By the envelope theorem its gradient is the ordinary one with W held fixed: nothing is
differentiated through the solve. A mini-batch alone determines W badly; the moments of
the batches before it, discounted by `decay` a step, steady it.

References:
  A. Galashov et al., "Closed-form last layer optimization", arXiv:2510.04606, 2025.
  E. Newman, J. Chung, M. Chung, L. Ruthotto, "slimTrain: a stochastic approximation
  method for training separable deep neural networks", SIAM J. Sci. Comput. 44, 2022.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int

import lagrange_jax as lj
from lagrange_jax.ridge import choose_strength, solve_ridge
from lagrange_jax.statistics import init_moments, update_moments

__all__ = ["Head", "HeadState", "Resolver", "resolve_head"]


class Head(NamedTuple):
    """A linear head.

    Attributes:
      kernel: the weights.
      bias: the bias; zero where the head has none.
    """

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]


class HeadState(NamedTuple):
    """What is remembered from step to step.

    Attributes:
      moments: of features and targets, discounted.
      head: the head solved last.
      step: number of batches so far.
    """

    moments: lj.Moments
    head: Head
    step: Int[Array, ""]


class Resolver(NamedTuple):
    """A head as a stream of solves.

    Attributes:
      init: `init(head) -> HeadState`, from the head to begin with.
      update: `update(state, features, targets, weights=None) -> HeadState` takes a
        batch into account and solves; the head is constant to automatic
        differentiation.
    """

    init: Callable[[Head], HeadState]
    update: Callable[..., HeadState]


def resolve_head(
    *,
    decay: float = 0.9,
    ridge: float | Callable[..., Array] = 0.1,
    every: int = 1,
    proximal: bool = False,
    use_bias: bool = True,
) -> Resolver:
    r"""Returns a head that follows the body; pure, jittable and vmappable.

    Args:
      decay: what the weight of a batch is multiplied by at each later step; the
        memory is $1 / (1 - \text{decay})$ batches, and 0 sees the last batch alone.
      ridge: $\mu$ as a share of the features' mean variance, or a criterion such as
        `gcv` that chooses it at each solve.
      every: steps between solves; the moments are updated at each.
      proximal: whether the penalty draws W towards the head before instead of zero.
      use_bias: whether there is a bias, free of penalty.
    """
    if not 0 <= decay < 1 or every < 1:
        raise ValueError(
            f"expected 0 <= decay < 1 and every >= 1; got {decay} and {every}."
        )

    def solve(moments: lj.Moments, last: Head) -> Head:
        if callable(ridge):
            head = _chosen_ridge(moments, ridge, use_bias)
        else:
            centre = last.kernel if proximal else jnp.zeros_like(last.kernel)
            head = _fixed_ridge(moments, ridge, centre, use_bias)
        finite = jnp.isfinite(head.kernel).all() & jnp.isfinite(head.bias).all()
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), head, last)

    def init(head: Head) -> HeadState:
        d, k = head.kernel.shape
        return HeadState(init_moments(d, k, head.kernel.dtype), head, jnp.int32(0))

    def update(state: HeadState, features, targets, weights=None) -> HeadState:
        features, targets = jax.lax.stop_gradient((features, targets))
        moments = state.moments._replace(count=decay * state.moments.count)
        moments = update_moments(moments, features, targets, weights)
        if every == 1:
            head = solve(moments, state.head)
        else:
            is_due = state.step % every == 0
            keep = lambda _, head: head  # noqa: E731
            head = jax.lax.cond(is_due, solve, keep, moments, state.head)
        return HeadState(moments, head, state.step + 1)

    return Resolver(init, update)


def _fixed_ridge(moments, ridge, centre, use_bias) -> Head:
    """One Cholesky factorisation; `centre` is what the penalty draws towards."""
    covariance, cross = moments.cov_xx, moments.cov_xt
    mean_x, mean_t = moments.mean_x, moments.mean_t
    if not use_bias:
        covariance = covariance + jnp.outer(mean_x, mean_x)
        cross = cross + jnp.outer(mean_x, mean_t)
    d = len(covariance)
    shift = ridge * jnp.trace(covariance) / d * jnp.eye(d, dtype=covariance.dtype)
    factor = cho_factor(covariance + shift)
    kernel = centre + cho_solve(factor, cross - covariance @ centre)
    bias = mean_t - mean_x @ kernel if use_bias else jnp.zeros_like(mean_t)
    return Head(kernel, bias)


def _chosen_ridge(moments, criterion, use_bias) -> Head:
    spectrum = lj.decompose(moments, use_bias=use_bias)
    strength = choose_strength(spectrum, criterion).strength
    solved = solve_ridge(spectrum, strength)
    return Head(solved.kernel, solved.bias)
