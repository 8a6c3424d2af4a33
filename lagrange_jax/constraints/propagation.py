r"""Norm constraints on the head, from signal propagation.

Let the head have d inputs and k outputs. If its inputs are uncorrelated with equal
raw second moments, an output has the second moment of an input when
$\sum_i w_{ij}^2 = 1$; nothing is assumed of the mean of the weights, since raw
moments take the place of variances. Every constraint has three switches:

- `per_output`: one sphere an output (norm_sq of shape `[k]`), or one sphere for the
  whole kernel with k times the squared radius (shape `[]`).
- `relation`: `"equality"` (on the sphere) or `"at_most"` (in the ball).
- `exact`: measure $w^T S w$, the true variance of the output, instead of
  $\|w\|^2$ times the mean variance of the features; this drops the assumption of
  uncorrelated features of equal variance.

References:
  X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward
  neural networks", AISTATS 2010.
  K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015.
  "A mathematical framework for improved weight initialization of neural networks
  using Lagrange multipliers", Neural Networks 166:579-594, 2023.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lagrange_jax.bounds import (
    Constraint,
    Relation,
    require_norm,
    require_positive,
    require_relation,
)
from lagrange_jax.statistics.spectrum import Spectrum

__all__ = [
    "backward_variance",
    "forward_variance",
    "glorot_variance",
    "kaiming_variance",
    "weight_norm",
]


def forward_variance(
    gain: Any = 1.0,
    *,
    per_output: bool = True,
    relation: Relation = "equality",
    exact: bool = False,
) -> Constraint:
    r"""The signal keeps its size on the way forward: $\sum_i w_{ij}^2 = g^2$.

    Args:
      gain: $g > 0$, the wanted ratio of output to input root mean square.
      per_output: one sphere an output, or one for the whole kernel.
      relation: on the sphere (`"equality"`) or inside it (`"at_most"`).
      exact: hold the variance of the output instead of the norm of the kernel.

    Returns:
      The `Constraint`.

    Raises:
      ValueError: if the gain is not positive or the relation is unknown.
    """
    return _per_fan(gain, lambda d, k: 1.0, per_output, relation, exact)


def backward_variance(
    gain: Any = 1.0,
    *,
    per_output: bool = True,
    relation: Relation = "equality",
    exact: bool = False,
) -> Constraint:
    r"""The gradient keeps its size on the way back: $\sum_i w_{ij}^2 = g^2 d / k$.

    Arguments, result and errors are those of `forward_variance`.
    """
    return _per_fan(gain, lambda d, k: d / k, per_output, relation, exact)


def glorot_variance(
    gain: Any = 1.0,
    *,
    per_output: bool = True,
    relation: Relation = "equality",
    exact: bool = False,
) -> Constraint:
    r"""Glorot's compromise of both: $\sum_i w_{ij}^2 = 2 g^2 d / (d + k)$.

    Arguments, result and errors are those of `forward_variance`.
    """
    return _per_fan(gain, lambda d, k: 2 * d / (d + k), per_output, relation, exact)


def kaiming_variance(
    gain: Any = 2.0**0.5,
    *,
    per_output: bool = True,
    relation: Relation = "equality",
    exact: bool = False,
) -> Constraint:
    r"""Kaiming's factor, $\sum_i w_{ij}^2 = g^2$ with $g = \sqrt 2$ for ReLU features.

    Arguments, result and errors are those of `forward_variance`.
    """
    return forward_variance(gain, per_output=per_output, relation=relation, exact=exact)


def weight_norm(
    norm_sq: Any,
    *,
    per_output: bool = True,
    relation: Relation = "equality",
    exact: bool = False,
) -> Constraint:
    r"""An explicit squared norm.

    Args:
      norm_sq: $\|w_j\|^2$ of every output (a scalar, or `[k]` values) if
        `per_output`, else the scalar $\|W\|_F^2$. With `exact` it is the wanted
        output variance in units of the mean variance of the features.
      per_output: one sphere an output, or one for the whole kernel.
      relation: on the sphere (`"equality"`) or inside it (`"at_most"`).
      exact: hold the variance of the output instead of the norm of the kernel.

    Returns:
      The `Constraint`.

    Raises:
      ValueError: if a norm is not positive, its shape does not fit, or the
        relation is unknown.
    """
    require_positive("norm_sq", norm_sq)
    require_relation(relation)

    def radius(spectrum: Spectrum) -> Float[Array, "*k"]:
        k = spectrum.projections.shape[1]
        value = require_norm(norm_sq, k)
        if not per_output and value.ndim:
            raise ValueError(
                f"expected a scalar norm_sq with per_output=False; got {value.shape}."
            )
        return jnp.broadcast_to(value, (k,)) if per_output else value

    return Constraint(radius, relation, exact)


def _per_fan(gain, ratio, per_output, relation, exact) -> Constraint:
    require_positive("gain", gain)
    if np.ndim(gain):
        raise ValueError(f"expected a scalar gain; got shape {np.shape(gain)}.")
    require_relation(relation)

    def radius(spectrum: Spectrum) -> Float[Array, "*k"]:
        d, k = spectrum.projections.shape
        value = jnp.asarray(gain, spectrum.projections.dtype) ** 2 * ratio(d, k)
        return jnp.broadcast_to(value, (k,)) if per_output else k * value

    return Constraint(radius, relation, exact)
