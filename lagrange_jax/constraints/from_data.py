r"""Norms that the data choose, from the spectrum and, if need be, the examples.

Along the ridge path the loss rises with the multiplier and the norm falls. A head
that gives up a bounded share of the loss can be several times smaller than the
optimal one; its body then learns faster, see the study `experiments/studies/rul`.

References:
  V. A. Morozov, "On the solution of functional equations by the method of
  regularization", Soviet Math. Dokl. 7, 1966 (the discrepancy principle).
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from lagrange_jax._checks import require_shapes
from lagrange_jax.bounds import (
    Constraint,
    Metric,
    Problem,
    Relation,
    hashable,
    make_constraint,
)
from lagrange_jax.ridge.criteria import gcv, leave_one_out
from lagrange_jax.ridge.marginal_likelihood import negative_log_evidence
from lagrange_jax.ridge.path import norm_of_strength, ridge_loss
from lagrange_jax.ridge.selection import Criterion, choose_strength

__all__ = ["at_strength", "loss_within"]

# Halvings of the range of log strengths, some 40 in float32: to 4e-6 of a strength.
NUM_STEPS = 24
# A head is never allowed to give up more than this share of what it can explain.
LARGEST_SHARE = 0.5


def loss_within(factor: Any = 1.5, *, per_output: bool = True) -> Constraint:
    r"""The least norm whose loss is at most `factor` times the least loss.

    Morozov's discrepancy principle, with the least loss as the noise level:

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
      >>> head = lj.solve_least_squares(spectrum, lj.loss_within(1.5))
      >>> print(f"{head.objective:.3f}")
      0.150
    """
    require_shapes({"factor": ""}, {"factor": factor})
    if isinstance(factor, int | float) and not factor > 1:
        raise ValueError(f"expected factor > 1; got {factor}.")

    return Constraint(_Discrepancy(hashable(factor), per_output))


@dataclasses.dataclass(frozen=True)
class _Discrepancy:
    factor: Any
    per_output: bool

    def __call__(self, problem: Problem):
        spectrum = lax.stop_gradient(problem.spectrum)
        total = (lambda x: x) if self.per_output else jnp.sum
        least, most = total(ridge_loss(spectrum, 0.0)), total(spectrum.variance)
        bound = jnp.minimum(self.factor * least, least + LARGEST_SHARE * (most - least))
        strength = _largest_strength(spectrum, bound, total)
        return total(norm_of_strength(spectrum, strength))


def _largest_strength(spectrum, bound, total):
    """Bisects the logarithm of the strength: the loss rises with it."""
    top = jnp.max(jnp.abs(spectrum.eigenvalues))
    top = jnp.where(top > 0, top, 1)
    low = jnp.log(jnp.min(spectrum.resolution) + jnp.finfo(top.dtype).tiny)
    low, high = jnp.full_like(bound, low), jnp.full_like(bound, jnp.log(1e6 * top))

    def step(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        kept = total(ridge_loss(spectrum, jnp.exp(middle))) <= bound
        return jnp.where(kept, middle, low), jnp.where(kept, high, middle)

    low, _ = lax.fori_loop(0, NUM_STEPS, step, (low, high))
    return jnp.exp(low)


def at_strength(
    criterion: str | Criterion = "evidence",
    *,
    per_output: bool = True,
    relation: Relation = "equality",
    metric: Metric = "euclidean",
) -> Constraint:
    """The norm of ridge regression at the strength that a criterion prefers.

    The head is then the ridge regression of that strength, with half the strength
    as its multiplier. Where the data call for no head at all (the upper edge of
    `choose_strength`) the radius is zero: the kernel is zero and the bias is the
    targets' mean. Where they call for no penalty (the lower edge) it is the norm of
    least squares, and the multiplier is zero but for rounding.

    Args:
      criterion: `"evidence"` (the strength that makes the data most likely), `"gcv"`
        (generalised cross-validation), `"leave_one_out"`, which needs the examples
        (see `Problem`), or a function `criterion(spectrum, strength) -> [k]`.
      per_output: one strength and one sphere an output, or one for all.
      relation: on the sphere (`"equality"`) or inside it (`"at_most"`).
      metric: what the norm is measured by. With `"feature_variance"` the strength is
        that of features which all have their mean variance, with `"output_variance"`
        that of `"euclidean"`.

    Returns:
      The `Constraint`.

    Raises:
      ValueError: if the criterion, the relation or the metric is unknown.
    """
    known = (*_CRITERIA, "leave_one_out")
    is_known = isinstance(criterion, str) and criterion in known
    if not callable(criterion) and not is_known:
        raise ValueError(
            f"expected criterion to be one of {(*_CRITERIA, 'leave_one_out')} or a "
            f"function (spectrum, strength); got {criterion!r}."
        )
    return make_constraint(_StrengthNorm(criterion, per_output), relation, metric)


_CRITERIA = {"evidence": negative_log_evidence, "gcv": gcv}


@dataclasses.dataclass(frozen=True)
class _StrengthNorm:
    criterion: str | Criterion
    per_output: bool

    @property
    def needs_examples(self) -> bool:
        return self.criterion == "leave_one_out"

    def __call__(self, problem: Problem):
        spectrum, criterion = problem.spectrum, self.criterion
        if isinstance(criterion, str):
            criterion = _CRITERIA.get(criterion) or _leave_one_out(problem)
        choice = choose_strength(spectrum, criterion, per_output=self.per_output)
        norm = norm_of_strength(spectrum, choice.strength)
        norm = norm if self.per_output else norm.sum()
        # Without a value there is no choice: the status says so.
        norm = jnp.where(jnp.isnan(choice.value), jnp.nan, norm)
        return jnp.where(choice.edge == 1, 0, norm)


def _leave_one_out(problem: Problem) -> Criterion:
    if problem.examples is None:
        raise ValueError(
            'at_strength("leave_one_out") needs the examples: solve '
            "Problem(spectrum, examples=Batch(features, targets, weights)), or take "
            '"gcv", which needs the spectrum alone.'
        )
    return leave_one_out(*problem.examples)
