r"""Norm constraints on the head, from signal propagation.

Let the head have d inputs and k outputs. If its inputs are uncorrelated with equal
raw second moments, an output has the second moment of an input when
$\sum_i w_{ij}^2 = 1$; nothing is assumed of the mean of the weights, since raw
moments take the place of variances. Every constraint has three switches:

- `per_output`: one sphere an output (a radius of shape `[k]`), or one sphere for the
  whole kernel with k times the squared radius (shape `[]`).
- `relation`: `"equality"` (on the sphere) or `"at_most"` (in the ball).
- `metric`: `"output_variance"` measures $w^T S w$, the true variance of the output,
  instead of $\|w\|^2$ times the mean variance of the features; this drops the
  assumption of uncorrelated features of equal variance. `"feature_variance"` measures
  $\sum_i s_{ii} w_i^2$ and drops that of equal variance alone: the norm of a head on
  standardised features, folded back.

References:
  X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward
  neural networks", AISTATS 2010.
  K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015.
  "A mathematical framework for improved weight initialization of neural networks
  using Lagrange multipliers", Neural Networks 166:579-594, 2023.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lagrange_jax.bounds import (
    Constraint,
    Metric,
    Problem,
    Relation,
    hashable,
    make_constraint,
    require_norm_shape,
    require_positive,
)

__all__ = ["fixed_norm", "variance_scaling"]

Mode = Literal["fan_in", "fan_out", "fan_avg"]


def variance_scaling(
    scale: Any = 1.0,
    mode: Mode = "fan_in",
    *,
    per_output: bool = True,
    relation: Relation = "equality",
    metric: Metric = "euclidean",
) -> Constraint:
    r"""The mean squared weight is `scale / fan`, as `jax.nn.initializers` has it.

    .. math:: \sum_i w_{ij}^2 = \text{scale} \cdot d / \text{fan}

    | `mode` | fan | $\sum_i w_{ij}^2 / \text{scale}$ | keeps the size of |
    | --- | --- | --- | --- |
    | `"fan_in"` | $d$ | $1$ | the signal, on the way forward |
    | `"fan_out"` | $k$ | $d / k$ | the gradient, on the way back |
    | `"fan_avg"` | $(d + k) / 2$ | $2 d / (d + k)$ | both, Glorot's compromise |

    Kaiming's factor for ReLU features is `variance_scaling(2.0)`.

    Args:
      scale: the wanted ratio of mean squares, output to input; may be traced.
      mode: which fan the scale is divided by.
      per_output: one sphere an output, or one for the whole kernel.
      relation: on the sphere (`"equality"`) or inside it (`"at_most"`).
      metric: the kernel's Euclidean norm, the variance of its output, or the norm
        on standardised features.

    Returns:
      The `Constraint`.

    Raises:
      ValueError: if the scale is not positive, or mode, relation or metric is
        unknown.

    Example:
      >>> lj.constraints.variance_scaling(2.0) == lj.constraints.variance_scaling(2.0)
      True
    """
    require_positive("scale", scale)
    if np.ndim(scale):
        raise ValueError(f"expected a scalar scale; got shape {np.shape(scale)}.")
    if not isinstance(mode, str) or mode not in get_args(Mode):
        raise ValueError(f"expected mode to be one of {get_args(Mode)}; got {mode!r}.")
    radius = _FanNorm(hashable(scale), mode, per_output)
    return make_constraint(radius, relation, metric)


@dataclasses.dataclass(frozen=True)
class _FanNorm:
    scale: Any
    mode: Mode
    per_output: bool

    def __call__(self, problem: Problem) -> Float[Array, "*k"]:
        d, k = problem.spectrum.cross.shape
        fan = {"fan_in": d, "fan_out": k, "fan_avg": (d + k) / 2}[self.mode]
        value = jnp.asarray(self.scale, problem.spectrum.cross.dtype) * (d / fan)
        return jnp.broadcast_to(value, (k,)) if self.per_output else k * value


def fixed_norm(
    norm_sq: Any,
    *,
    per_output: bool = True,
    relation: Relation = "equality",
    metric: Metric = "euclidean",
) -> Constraint:
    r"""A squared norm of yours.

    Args:
      norm_sq: $\|w_j\|^2$ of every output (a scalar, or `[k]` values) if
        `per_output`, else the scalar $\|W\|_F^2$; may be traced. With
        `metric="output_variance"` it is the wanted output variance in units of the
        mean variance of the features.
      per_output: one sphere an output, or one for the whole kernel.
      relation: on the sphere (`"equality"`) or inside it (`"at_most"`).
      metric: the kernel's Euclidean norm, the variance of its output, or the norm
        on standardised features.

    Returns:
      The `Constraint`.

    Raises:
      ValueError: if a norm is not positive, its shape does not fit, or the relation
        or the metric is unknown.
    """
    require_positive("norm_sq", norm_sq)
    radius = _FixedNorm(hashable(norm_sq), per_output)
    return make_constraint(radius, relation, metric)


@dataclasses.dataclass(frozen=True)
class _FixedNorm:
    norm_sq: Any
    per_output: bool

    def __call__(self, problem: Problem) -> Float[Array, "*k"]:
        cross = problem.spectrum.cross
        value = require_norm_shape(self.norm_sq, cross.shape[1]).astype(cross.dtype)
        if not self.per_output and value.ndim:
            raise ValueError(
                f"expected a scalar norm_sq with per_output=False; got {value.shape}."
            )
        # Zero would be a norm that the data choose; as a number it is a mistake.
        value = jnp.where(value > 0, value, jnp.nan)
        return jnp.broadcast_to(value, cross.shape[1:]) if self.per_output else value
