r"""Proximal optimisers: penalties with weights that are exactly zero.

A proximal gradient step takes a step on the data loss E and then solves the penalised
problem near the point reached: with the metric D (diagonal) and the learning rate r,

.. math::

    w \leftarrow \arg\min_z \; \tfrac{1}{2r} \|z - x\|_D^2 + s_1 \|z\|_1
        + \tfrac{s_2}{2} \|z\|^2, \qquad x = w - r D^{-1} \nabla E(w),

which is soft thresholding and shrinkage, for each weight by itself:

.. math::

    z_i = \frac{\operatorname{sign}(x_i) \max(|x_i| - t_i s_1, 0)}{1 + t_i s_2},
    \qquad t_i = r / D_i .

Its fixed points minimise :math:`E + s_1 \|w\|_1 + \tfrac{s_2}{2} \|w\|^2` exactly, if
the step and the threshold have **the same** :math:`t_i`:

- after `optax.sgd(r)`, D = 1: `prox_l1(s, r)` is right;
- after `optax.sgd(r, momentum=m)` a constant gradient is multiplied by r / (1 - m):
  `prox_l1(s, r / (1 - m))` is right, and `prox_l1(s, r)` penalises with s (1 - m);
- after `optax.adam(r)`, and every other optimiser with a metric, the chain with
  `prox_l1(s, r)` **converges to a wrong optimum**, with few zeros. Use `proximal_adam`.

Strengths and masks are those of `penalties`; the learning rate may be a schedule too,
and counts in step with the same schedule in `optax.sgd`.

References:
  Parikh and Boyd, Proximal Algorithms, Foundations and Trends in Optimization, 2014.
  Yun, Lozano and Yang, Adaptive Proximal Gradient Methods for Structured Neural
  Networks, NeurIPS 2021.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from optax._src.base import NO_PARAMS_MSG  # Optax has no public name for it.

from lagrange_jax._checks import require_shapes
from lagrange_jax.transforms.masks import Mask, map_selected
from lagrange_jax.transforms.penalties import (
    Strength,
    at_count,
    penalize,
    require_fit,
    require_strengths,
)

__all__ = ["prox_elastic_net", "prox_l1", "proximal_adam"]


def prox_l1(
    strength: Strength, learning_rate: Strength, *, mask: Mask | None = None
) -> optax.GradientTransformation:
    r"""Soft thresholding after a gradient step: minimises :math:`E + s \|w\|_1`.

    Last in a chain, `optax.chain(optax.sgd(r), prox_l1(s, r))`; see the module for
    momentum, and for why not after Adam. Weights below the threshold
    :math:`r s` become exactly zero.

    Args:
      strength: :math:`s`; a number, a schedule, or a tree that is a prefix of the
        parameters.
      learning_rate: :math:`r`, what the chain multiplies a gradient by.
      mask: which parameters are penalised; None for all of them.

    Returns:
      A transform whose state is empty unless an argument is a schedule.
    """
    return prox_elastic_net(strength, 0.0, learning_rate, mask=mask)


def prox_elastic_net(
    strength_l1: Strength,
    strength_l2: Strength,
    learning_rate: Strength,
    *,
    mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""Minimises :math:`E + s_1 \|w\|_1 + \tfrac{s_2}{2} \|w\|^2`, with exact zeros.

    Last in a chain, `optax.chain(optax.sgd(r), prox_elastic_net(s1, s2, r))`; see the
    module for momentum, and for why not after Adam. How the strengths follow from
    scikit-learn's `alpha` and `l1_ratio` is in `add_elastic_net_penalty`.

    Args:
      strength_l1: :math:`s_1`; a number, a schedule, or a tree that is a prefix of
        the parameters.
      strength_l2: :math:`s_2`, likewise.
      learning_rate: :math:`r`, what the chain multiplies a gradient by.
      mask: which parameters are penalised; None for all of them.

    Returns:
      A transform whose state is empty unless an argument is a schedule.
    """
    return penalize(_prox, mask, strength_l1, strength_l2, learning_rate)


def proximal_adam(
    learning_rate: optax.ScalarOrSchedule,
    strength_l1: Strength,
    strength_l2: Strength = 0.0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    *,
    mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""Adam for :math:`E + s_1 \|w\|_1 + \tfrac{s_2}{2} \|w\|^2`, with exact zeros.

    A complete optimiser: Adam's step on the data loss, then the proximal step in
    Adam's own metric :math:`D = \sqrt{\hat v + \epsilon_\mathrm{root}} + \epsilon`.
    With strengths 0, and for parameters that the mask leaves out, it is `optax.adam`.

    Args:
      learning_rate: a number or a schedule. Let it decay to reach the optimum.
      strength_l1: :math:`s_1`; a number, a schedule, or a tree that is a prefix of
        the parameters.
      strength_l2: :math:`s_2`, likewise.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      eps_root: added under the root; positive to differentiate through training.
      mask: which parameters are penalised; None for all of them.

    Returns:
      A transform with the state of `optax.scale_by_adam`.
    """
    require_strengths((strength_l1, strength_l2))
    if not callable(learning_rate):
        require_shapes({"learning_rate": ""}, {"learning_rate": learning_rate})
    adam = optax.scale_by_adam(b1, b2, eps, eps_root)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        schedules = strength_l1, strength_l2, learning_rate
        s1, s2, rate = at_count(schedules, state.count)
        # Optax relies on JAX's usual promotion of numbers with integer counts.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(updates, state)
            second_moment = optax.tree.bias_correction(state.nu, b2, state.count)
            steps = jax.tree.map(
                lambda v: rate / (jnp.sqrt(v + eps_root) + eps), second_moment
            )
        updates = jax.tree.map(lambda u: -jnp.asarray(rate, u.dtype) * u, updates)
        return map_selected(_prox, mask, updates, params, s1, s2, steps), state

    return optax.GradientTransformation(adam.init, update)


def _prox(
    update: jax.Array,
    param: jax.Array,
    strength_l1: jax.Array,
    strength_l2: jax.Array,
    step: jax.Array,
) -> jax.Array:
    """Returns the update to the proximal point of `param + update`.

    At an exact zero that is `-param`, so that `optax.apply_updates` gives 0.
    """
    require_fit(param, strength_l1, strength_l2)
    target = param + update
    size = jnp.maximum(jnp.abs(target) - step * strength_l1, 0.0)
    return jnp.sign(target) * size / (1.0 + step * strength_l2) - param
