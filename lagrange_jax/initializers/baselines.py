"""The cheap baselines that every solved head is to be compared with."""

import dataclasses
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lagrange_jax._checks import require_count
from lagrange_jax.bounds import Constraint, Problem
from lagrange_jax.initializers.lagrange import lagrange
from lagrange_jax.initializers.plan import Plan, moment_dtype, run_plan
from lagrange_jax.initializers.rows import (
    IGNORED,
    head_rows,
    output_shape,
    tap_head,
)
from lagrange_jax.initializers.transforms import require_batches
from lagrange_jax.initializers.verify import place_head
from lagrange_jax.losses.named import as_loss
from lagrange_jax.losses.record import Loss, read_targets
from lagrange_jax.models.params import get_head
from lagrange_jax.numerics.linalg import dot, eigh, pseudo_inverse, rank_tolerance
from lagrange_jax.solvers.certificate import is_finite
from lagrange_jax.solvers.solution import Status
from lagrange_jax.statistics.moments import Moments, init_moments, update_moments
from lagrange_jax.types import InitTransform

__all__ = ["ClassMeans", "class_means", "zero_head"]

Covariance = Literal["identity", "spherical", "full"]
# A class without examples has the share of half an example.
HALF_EXAMPLE = 0.5


def zero_head(
    loss: Literal["squared_error", "cross_entropy"] | Loss = "squared_error",
    *,
    ignore_index: int = IGNORED,
) -> InitTransform:
    r"""Sets the kernel of the head to zero and its bias to the best constant.

    .. math:: W = 0, \qquad b = \arg\min_b \frac1N \sum_n a_n\, \ell(b, t_n)

    which is the mean for squared error, the log-odds of the classes for cross-entropy,
    the log mean for Poisson, the quantile for the pinball loss. How much of what a
    solved head earns is the bias? This tells.

    Args:
      loss: as in `lagrange`.
      ignore_index: as in `lagrange`.

    Returns:
      An init transform; its info is the `HeadSolution`.

    Raises:
      ValueError: if the loss is unknown.
    """
    constraint = Constraint(_Zero(), "at_most")
    return lagrange(constraint, loss=loss, ignore_index=ignore_index)


@dataclasses.dataclass(frozen=True)
class _Zero:
    """The radius of a kernel of zeros."""

    def __call__(self, problem: Problem) -> Float[Array, ""]:
        return jnp.zeros((), problem.spectrum.cross.dtype)


class ClassMeans(NamedTuple):
    """A head of class means.

    Attributes:
      kernel: a column a class, or the difference of two for one output.
      bias: likewise.
      shares: share of each class in the weight of the examples.
      status: a `Status`.
    """

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]
    shares: Float[Array, " c"]
    status: Int[Array, ""]


def class_means(
    covariance: Covariance = "identity",
    *,
    log_prior: bool = False,
    ignore_index: int = IGNORED,
) -> InitTransform:
    r"""Makes the head classify by the nearest class mean.

    .. math:: w_c = C^{-1} m_c, \qquad
              b_c = -\tfrac12 m_c^T C^{-1} m_c\ (+ \log \pi_c)

    with the mean $m_c$ and the share $\pi_c$ of class c: prototypes for $C = I$, linear
    discriminant analysis for the covariance within classes. One pass and no search; a
    head with one output has the difference of the two classes. Targets are labels or
    probabilities.

    Args:
      covariance: C: `"identity"`; `"spherical"`, the mean variance within classes times
        the identity: the same classes as without it, but logits that are log
        likelihoods; `"full"`, the covariance within classes, by its pseudo-inverse.
      log_prior: whether frequent classes are preferred. A class without examples always
        has the prior of half a one, and the mean of all.
      ignore_index: the label of rows that do not count.

    Returns:
      An init transform; its info is a `ClassMeans`, whose status `check` reads.

    Raises:
      ValueError: if the covariance is unknown.
    """
    if not isinstance(covariance, str) or covariance not in get_args(Covariance):
        raise ValueError(
            f"expected covariance to be one of {get_args(Covariance)}; got "
            f"{covariance!r}."
        )
    require_count("ignore_index", ignore_index, least=-(2**31))
    return _ClassMeans(covariance, bool(log_prior), ignore_index)


@dataclasses.dataclass(frozen=True)
class _ClassMeans:
    covariance: Covariance
    log_prior: bool
    ignore_index: int

    def __call__(self, key, model, variables, batches):
        first = require_batches(batches, "class_means").first
        return run_plan(self.plan(key, model, variables, first), variables, batches)

    def plan(self, key, model, variables, first) -> Plan:
        """What the transform wants of one pass over the examples."""
        d, k = get_head(model, variables).kernel.shape
        loss, dtype = as_loss("cross_entropy", k), moment_dtype(model, variables, first)
        axes = output_shape(model, k, loss)
        if len(axes) > 1:
            raise ValueError(
                "class_means expects a network that puts out one row of classes; got "
                f"outputs [..., {', '.join(map(str, axes))}]."
            )

        def step(state, batch, variables):
            moments, key = state
            key, tap_key = jax.random.split(key)
            tap = tap_head(model, variables, batch.inputs, tap_key)
            rows = head_rows(
                tap,
                batch,
                axes,
                loss=loss,
                ignore_index=self.ignore_index,
                dtype=dtype,
            )
            read = read_targets(loss, rows.targets, k, dtype)
            # Of one output the loss reads positives and negatives.
            shares = read.values[:, ::-1] if k == 1 else read.values
            shares = jnp.where(read.is_valid[:, None], shares, jnp.nan)
            return update_moments(moments, rows.features, shares, rows.weights), key

        def finish(state, variables, batches):
            moments, key = state
            return place_head(
                model,
                variables,
                _solve(moments, k, self.covariance, self.log_prior),
                first=batches.first,
                key=key,
                loss=loss,
                ignore_index=self.ignore_index,
            )

        return Plan(finish, fold=((init_moments(d, max(k, 2), dtype), key), step))


def _solve(
    moments: Moments, num_outputs: int, covariance: Covariance, log_prior: bool
) -> ClassMeans:
    shares = moments.mean_t
    is_there = shares > 0
    steps = jnp.where(
        is_there, moments.cov_xt / jnp.where(is_there, shares, 1)[None], 0
    )
    means = moments.mean_x[:, None] + steps
    columns = _times_inverse(moments, steps, shares, means, covariance)
    bias = -jnp.sum(means * columns, axis=0) / 2
    least = HALF_EXAMPLE / jnp.maximum(moments.count, 1)
    prior = jnp.log(jnp.maximum(shares, least))
    bias = bias + (prior if log_prior else jnp.where(is_there, 0, prior))
    kernel = columns
    if num_outputs == 1:
        kernel, bias = (x[..., 1:] - x[..., :1] for x in (columns, bias))
    causes = {
        Status.INVALID_WEIGHTS: jnp.isnan(moments.count),
        Status.NO_DATA: moments.count <= 0,
        Status.NONFINITE_FEATURES: ~is_finite(moments.cov_xx, moments.mean_x),
        Status.INVALID_TARGETS: ~is_finite(moments.var_t),
        Status.NOT_CONVERGED: ~is_finite(kernel, bias),
    }
    codes = [jnp.int32(code) for code in causes]
    status = jnp.select(list(causes.values()), codes, jnp.int32(Status.SUCCESS))
    return ClassMeans(kernel, bias, shares, status)


def _times_inverse(moments, steps, shares, means, covariance):
    if covariance == "identity":
        return means
    within = moments.cov_xx - dot(steps * shares[None], steps.T)
    if covariance == "spherical":
        variance = jnp.trace(within) / len(within)
        return means / jnp.where(variance > 0, variance, 1)
    s, basis = eigh(within)
    inverse = pseudo_inverse(s, jnp.broadcast_to(rank_tolerance(s), s.shape))
    return dot(basis * inverse[None], dot(basis.T, means))
