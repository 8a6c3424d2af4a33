r"""Penalties on the weights as Optax transforms.

A penalised training minimises :math:`E(w) + \Omega(w)`, where the data loss
:math:`E` is a mean over the examples and

.. math::

    \Omega(w) = \sum_i s^{(1)}_i |w_i| + \tfrac12 \sum_i s^{(2)}_i w_i^2 .

The place of a penalty in an `optax.chain` decides what is minimised:

- Before the scaling (first in the chain) it is *coupled*: the optimiser sees the
  gradient of :math:`E + \Omega` and minimises that sum, whatever its metric.
- Between the scaling and the learning rate, `optax.chain(optax.scale_by_adam(),
  add_l2_penalty(s), optax.scale_by_learning_rate(r))`, it is *decoupled* (AdamW). A
  fixed point has :math:`\nabla E + D\,\nabla\Omega = 0`, where the optimiser divides
  gradients by :math:`D` (Adam: :math:`\sqrt{\hat v} + \epsilon`): weight i has the
  strength :math:`s_i D_i`, which changes as training goes on. This minimises
  :math:`E + \Omega` only where D = 1, that is for plain gradient descent.
- After the learning rate it has the wrong sign. Do not put it there.
- In front of a transform with a line search, such as `optax.lbfgs`, it changes the
  gradient and not the value that the search compares, and the search stalls. Wrap the
  transform in `with_penalty` instead: value, gradient and `value_fn` then agree.

`optax.inject_hyperparams` takes a mask that is a function for a schedule, as it does
with Optax's own masks: pass `static_args=("mask",)`.

Strengths are numbers, traced arrays or Optax schedules of the step count, or trees
of these that are prefixes of the parameters: a strength for each layer, or for each
weight. Make the transform inside a `jax.vmap` to train many strengths at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree
from optax._src.base import NO_PARAMS_MSG  # Optax has no public name for it.

from lagrange_jax._checks import require_real
from lagrange_jax.transforms.masks import Mask, map_selected

__all__ = [
    "PenaltyState",
    "Strength",
    "add_elastic_net_penalty",
    "add_l1_penalty",
    "add_l2_penalty",
    "elastic_net_penalty",
    "l1_penalty",
    "l2_penalty",
    "require_fit",
    "require_strengths",
]

Strength = PyTree[ArrayLike | optax.Schedule]
"""A number or schedule, or a tree of these that is a prefix of the parameters."""


class PenaltyState(NamedTuple):
    """The step count, which schedules are evaluated at; absent without them."""

    count: ArrayLike


def add_l2_penalty(
    strength: Strength, *, mask: Mask | None = None
) -> optax.GradientTransformation:
    r"""Adds the gradient of :math:`\tfrac12 s \sum_i w_i^2`, which is :math:`s w`.

    First in a chain the minimised objective is :math:`E + \tfrac12 s \|w\|^2`; after
    the scaling it is decoupled weight decay (see the module). With E the mean squared
    error the optimum is ridge regression: scikit-learn's `Ridge(alpha)` at
    :math:`s = 2\,\mathrm{alpha} / N`.

    Args:
      strength: :math:`s`.
      mask: which parameters are penalised; None for all of them.

    Returns:
      A transform whose state is empty unless a strength is a schedule.

    Example:
      >>> optimizer = optax.chain(lj.add_l2_penalty(0.5), optax.sgd(0.1))
      >>> params = {"kernel": jnp.array([2.0, -4.0])}
      >>> gradient = {"kernel": jnp.zeros(2)}
      >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
      >>> print(updates["kernel"])
      [-0.1  0.2]
    """
    return penalize(lambda g, w, s: g + s * w, mask, strength)


def add_l1_penalty(
    strength: Strength, *, mask: Mask | None = None
) -> optax.GradientTransformation:
    r"""Adds the subgradient of :math:`s \sum_i |w_i|`, which is `s sign(w)`.

    First in a chain the minimised objective is :math:`E + s \|w\|_1`; after the
    scaling it is decoupled (see the module). The subgradient, with sign(0) = 0, makes
    weights step to and fro about zero: for weights that are exactly zero use
    `prox_l1` or `proximal_adam`.

    Args:
      strength: :math:`s`.
      mask: which parameters are penalised; None for all of them.

    Returns:
      A transform whose state is empty unless a strength is a schedule.
    """
    return penalize(lambda g, w, s: g + s * jnp.sign(w), mask, strength)


def add_elastic_net_penalty(
    strength_l1: Strength, strength_l2: Strength, *, mask: Mask | None = None
) -> optax.GradientTransformation:
    r"""Adds the subgradient of :math:`s_1 \sum_i |w_i| + \tfrac12 s_2 \sum_i w_i^2`.

    First in a chain the minimised objective is :math:`E` plus this penalty; after the
    scaling it is decoupled (see the module). For weights that are exactly zero use
    `prox_elastic_net` or `proximal_adam`.

    With E half the mean squared error, scikit-learn's `ElasticNet(alpha, l1_ratio)` is
    :math:`s_1 = \mathrm{alpha} \cdot \mathrm{l1\_ratio}` and
    :math:`s_2 = \mathrm{alpha} (1 - \mathrm{l1\_ratio})`; with the mean squared error
    itself, twice these. `Lasso(alpha)` is `l1_ratio = 1`.

    Args:
      strength_l1: :math:`s_1`.
      strength_l2: :math:`s_2`.
      mask: which parameters are penalised; None for all of them.

    Returns:
      A transform whose state is empty unless a strength is a schedule.
    """

    def add(g: jax.Array, w: jax.Array, s1: jax.Array, s2: jax.Array) -> jax.Array:
        return g + s1 * jnp.sign(w) + s2 * w

    return penalize(add, mask, strength_l1, strength_l2)


def l2_penalty(
    params: Any, strength: PyTree[ArrayLike], *, mask: Mask | None = None
) -> Float[Array, ""]:
    r"""Returns :math:`\tfrac12 s \sum_i w_i^2` over the selected parameters.

    Args:
      params: the parameters.
      strength: :math:`s`; a number, or a tree of numbers that is a prefix of `params`.
      mask: which parameters are penalised; None for all of them.

    Returns:
      A scalar in float32, or float64 where a parameter is.
    """
    return elastic_net_penalty(params, 0.0, strength, mask=mask)


def l1_penalty(
    params: Any, strength: PyTree[ArrayLike], *, mask: Mask | None = None
) -> Float[Array, ""]:
    r"""Returns :math:`s \sum_i |w_i|` over the selected parameters.

    Args:
      params: the parameters.
      strength: :math:`s`; a number, or a tree of numbers that is a prefix of `params`.
      mask: which parameters are penalised; None for all of them.

    Returns:
      A scalar in float32, or float64 where a parameter is.
    """
    return elastic_net_penalty(params, strength, 0.0, mask=mask)


def elastic_net_penalty(
    params: Any,
    strength_l1: PyTree[ArrayLike],
    strength_l2: PyTree[ArrayLike],
    *,
    mask: Mask | None = None,
) -> Float[Array, ""]:
    r"""Returns :math:`s_1 \sum_i |w_i| + \tfrac12 s_2 \sum_i w_i^2`.

    The value that `add_elastic_net_penalty` and the proximal forms minimise beside the
    data loss, for reporting. Its gradient is what `add_elastic_net_penalty` adds.

    Args:
      params: the parameters.
      strength_l1: :math:`s_1`; a number, or a tree that is a prefix of `params`.
      strength_l2: :math:`s_2`, likewise.
      mask: which parameters are penalised; None for all of them.

    Returns:
      A scalar in float32, or float64 where a parameter is.
    """

    def value(zero: jax.Array, w: jax.Array, s1: jax.Array, s2: jax.Array) -> jax.Array:
        w = jnp.asarray(w)
        require_fit(w, s1, s2)
        return zero + jnp.sum(s1 * jnp.abs(w) + 0.5 * s2 * w**2)

    for leaf in jax.tree.leaves((strength_l1, strength_l2)):
        require_real("strength", leaf)
    for leaf in jax.tree.leaves(params):
        require_real("params", leaf)
    zeros = jax.tree.map(lambda _: jnp.zeros((), jnp.float32), params)
    strengths = strength_l1, strength_l2
    terms = jax.tree.leaves(map_selected(value, mask, zeros, params, *strengths))
    dtype = np.result_type(np.float32, *(term.dtype for term in terms))
    return sum((term.astype(dtype) for term in terms), jnp.zeros((), dtype))


def penalize(
    function: Callable[..., jax.Array], mask: Mask | None, *strengths: Strength
) -> optax.GradientTransformation:
    """Returns the transform `function(update, param, *strengths)` of each leaf.

    It is stateless unless some strength is a schedule; then the state is a count.
    """

    def checked(update: jax.Array, param: jax.Array, *strengths: jax.Array):
        require_fit(param, *strengths)
        return function(update, param, *strengths)

    leaves = jax.tree.leaves(strengths, is_leaf=callable)
    scheduled = any(map(callable, leaves))
    require_strengths(strengths)

    def init(params: optax.Params) -> optax.OptState:
        del params
        if not scheduled:
            return optax.EmptyState()
        return PenaltyState(jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        if not scheduled:
            return map_selected(checked, mask, updates, params, *strengths), state
        values = at_count(strengths, state.count)
        updates = map_selected(checked, mask, updates, params, *values)
        return updates, PenaltyState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def require_strengths(strengths: Any) -> None:
    """Refuses leaves that are neither real numbers nor schedules."""
    for leaf in jax.tree.leaves(strengths, is_leaf=callable):
        if not callable(leaf):
            require_real("strength and learning_rate", leaf)


def require_fit(param: jax.Array, *strengths: jax.Array) -> None:
    """Refuses strengths that are neither numbers nor fit the parameter."""
    for strength in strengths:
        pairs = zip(jnp.shape(strength)[::-1], param.shape[::-1], strict=False)
        is_longer = jnp.ndim(strength) > param.ndim
        if is_longer or any(size not in (1, wanted) for size, wanted in pairs):
            raise ValueError(
                "expected each strength and learning_rate as a number, or of the shape "
                f"of its parameter, {param.shape}; got {jnp.shape(strength)}."
            )


def at_count(strengths: Any, count: jax.Array) -> Any:
    """Evaluates the schedules in a tree of strengths at a step count."""
    return jax.tree.map(
        lambda s: s(count) if callable(s) else s, strengths, is_leaf=callable
    )
