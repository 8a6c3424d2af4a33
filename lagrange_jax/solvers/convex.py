r"""The head of least convex loss under a bound: the public entry.

The method is that of `fit`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lagrange_jax._checks import (
    require_count,
    require_kind,
    require_real,
    require_shapes,
)
from lagrange_jax._compile import jit_once
from lagrange_jax.batches import as_batch, as_batches, is_arrays
from lagrange_jax.bounds import Constraint, Problem, require_norm_shape
from lagrange_jax.losses.named import as_loss
from lagrange_jax.losses.record import Loss
from lagrange_jax.solvers.blocks import in_blocks
from lagrange_jax.solvers.examples import example_statistics, num_outputs_of
from lagrange_jax.solvers.fit import fit_head
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.solvers.substitution import (
    changed,
    evened,
    make_center,
    restore,
    scale_features,
    shift_logits,
)
from lagrange_jax.types import Batch, Batches, Key

__all__ = [
    "DEFAULT_SEARCH",
    "SearchOptions",
    "read_loss",
    "require_metric",
    "solve_convex",
    "solve_examples",
]


class SearchOptions(NamedTuple):
    """How the head of a loss without closed form is searched for.

    Attributes:
      tolerance: of the relative KKT residual, or of ten times `gap_bound` relative to
        the loss where that is reached first; None for 1e-5, or 1e-8 in double. A
        search that rounding ends at ten times as much counts as solved, if no more than
        the tolerance of the loss was left to be gained.
      max_steps: evaluations of the loss, or products with its Hessian, at most.
      batch_size: rows multiplied at once when examples are arrays.
    """

    tolerance: float | None = None
    max_steps: int = 10_000
    batch_size: int = 4096

    def require(self) -> None:
        """Raises TypeError or ValueError for an option that is no number."""
        require_shapes({"tolerance": ""}, {"tolerance": self.tolerance})
        require_count("max_steps", self.max_steps)
        require_count("batch_size", self.batch_size)


DEFAULT_SEARCH = SearchOptions()


def solve_convex(
    examples: Any,
    constraint: Constraint,
    *,
    loss: Loss | str = "cross_entropy",
    num_outputs: int | None = None,
    use_bias: bool = True,
    tie_break: Float[Array, "d k"] | None = None,
    center: Float[Array, "d k"] | None = None,
    search: SearchOptions = DEFAULT_SEARCH,
    key: Key | None = None,
) -> HeadSolution:
    r"""Solves for the head of least loss under a norm constraint.

    .. math:: \min_{W, b} \frac1N \sum_n a_n\, \ell(W^T \phi_n + b + o_n, t_n)
              \quad\text{s.t.}\quad \|W\|_F^2 = c \text{ or } \|w_j\|^2 = c_j
              \text{ (or } \le),

    or of the change $\|W - W_0\|$ of a `center` $W_0$, for a loss $\ell$ that is
    convex and smooth in the logits, such as those of `lagrange_jax.losses`; of one that
    is not, such as `losses.gaussian()`, a stationary point. The bias is not
    constrained. With arrays everything is jitted, and may be traced and vmapped over
    examples, weights, norms and the numbers of the loss. It is not differentiable.

    Args:
      examples: `(features [n, d], targets)` or `(features, targets, weights)`, or an
        iterable of such batches that can be gone through again and again: one pass an
        evaluation of the loss. In place of the features a pair `(features, offset)`
        adds an offset $o_n$, `[n, k]`, to the logits: exposures, prior logits, a
        frozen part. Weights are non-negative.
      constraint: the norm, such as `fixed_norm(1.0, per_output=False)`, Euclidean or
        with the metric `"feature_variance"`.
      loss: a `Loss`, or `"cross_entropy"`: softmax, and sigmoid for one output.
      num_outputs: k, outputs of the head. None reads it off the targets; integer
        labels do not tell it.
      use_bias: whether the head has a bias.
      tie_break: a kernel that fills what the data leave free; None: a fixed random one.
      center: the kernel that the bound is about; None for zero. Norm, multiplier and
        residual of the solution are those of the change. Its logits of all examples
        are kept where these are arrays.
      search: tolerance, number of steps and batch size.
      key: PRNG key, for a constraint that draws, such as `cross_validated_norm()`.

    Returns:
      The `HeadSolution`. Its `multiplier` is half the L2 strength of a mean loss:
      scikit-learn's `LogisticRegression(C=1 / (2 * N * multiplier))` has the same
      solution. `stationarity` is $\|\nabla_W L + 2 \mu W\|$ relative to
      $\|R\| + 2 \mu \|W\|$, with R the gradient at a zero kernel, or the same of the
      bias if that is larger. `gap_bound` is $2 \sqrt c \|\nabla_W L + 2 \mu^+ W\|$,
      which bounds the distance to the global minimum over the ball, for an optimal
      bias; with a norm an output the sum of the bounds does. `status` is NOT_GLOBAL
      where an equality asks for a larger norm than the unconstrained optimum has and
      the loss leaves no direction free to fill it with, and STATIONARY for a loss that
      is not convex.

    Raises:
      TypeError: if an argument is of another kind.
      ValueError: if shapes do not agree, targets do not tell the outputs and
        `num_outputs` is missing, known labels lie outside 0..k-1 or known weights
        below zero.
    """
    require_kind("constraint", constraint, Constraint)
    require_metric(constraint.metric)
    require_kind("search", search, SearchOptions)
    search.require()
    if tie_break is not None:
        require_real("tie_break", tie_break)
    examples = as_batch(examples) if is_arrays(examples) else as_batches(examples)
    loss, k = read_loss(_first(examples), loss, num_outputs)
    return solve_examples(
        examples,
        constraint,
        loss,
        k,
        use_bias=use_bias,
        tie_break=None if tie_break is None else jnp.asarray(tie_break),
        center=center,
        search=search,
        key=key,
    )


def _first(examples: Batch | Batches) -> Batch:
    return examples if isinstance(examples, Batch) else examples.first


def solve_examples(
    examples: Batch | Batches,
    constraint: Constraint,
    loss: Loss,
    num_outputs: int,
    *,
    use_bias: bool,
    tie_break: Float[Array, "d k"] | None,
    center: Float[Array, "d k"] | None,
    search: SearchOptions,
    key: Key | None,
) -> HeadSolution:
    """Solves from rows of features, see `solve_convex`.

    Args:
      examples: arrays, or batches with one pass an evaluation of the loss.
      constraint: the norm.
      loss: the loss, of so many outputs.
      num_outputs: k.
      use_bias: whether the head has a bias.
      tie_break: a kernel that fills what the data leave free; None: a random one.
      center: the kernel that the bound is about; None for zero.
      search: tolerance, number of steps and batch size.
      key: PRNG key, for a constraint that draws.

    Returns:
      The `HeadSolution`.
    """
    kept, k = isinstance(examples, Batch), num_outputs
    about = make_center(center, _first(examples), k)
    given: Any = changed(examples, shift_logits, about)
    solve = getattr(constraint.radius_sq, "solve", None)
    if kept and solve is not None and constraint.metric == "euclidean":
        # Finds the norm and its head in one program.
        options = dict(relation=constraint.relation, tie_break=tie_break, search=search)
        head = solve(key, given, loss, k, use_bias=use_bias, **options)
        return restore(head, about, None)
    if kept:
        statistics = _statistics(given, loss, k, use_bias, search.batch_size)
    else:
        statistics = example_statistics(given, loss, k, use_bias)
    statistics, scale = evened(statistics, constraint.metric)
    given = changed(given, scale_features, scale)
    problem = Problem(statistics.spectrum, key, given if kept else None, loss)
    norm_sq = require_norm_shape(constraint.radius_sq(problem), k)
    options: dict[str, Any] = dict(
        relation=constraint.relation,
        tie_break=tie_break,
        tolerance=search.tolerance,
        max_steps=search.max_steps,
    )
    if kept:
        options["batch_size"] = search.batch_size
    fit = _fit if kept else fit_head
    return restore(fit(given, statistics, loss, norm_sq, **options), about, scale)


def read_loss(batch: Any, loss: Any, num_outputs: int | None) -> tuple[Loss, int]:
    """Returns the loss and k; raises ValueError for weights known to be negative."""
    weights = batch.weights
    if weights is not None and not isinstance(weights, Tracer):
        if np.any(np.asarray(weights) < 0):
            raise ValueError("expected weights >= 0; some are negative.")
    loss = as_loss(loss)
    k = num_outputs_of(batch, loss, num_outputs)
    return as_loss(loss, k), k


def require_metric(metric: Any) -> None:
    """Raises ValueError unless a search can keep a norm of this metric."""
    if not isinstance(metric, str) or metric not in ("euclidean", "feature_variance"):
        raise ValueError(
            f"metric={metric!r} needs loss='squared_error'; other losses are solved "
            "with metric='euclidean' or 'feature_variance'."
        )


@partial(jit_once, static_argnames=("num_outputs", "use_bias", "batch_size"))
def _statistics(examples, loss, num_outputs, use_bias, batch_size):
    batches = in_blocks(examples, batch_size)
    return example_statistics(batches, loss, num_outputs, use_bias)


@partial(jit_once, static_argnames=("batch_size", "relation"))
def _fit(examples, statistics, loss, norm_sq, *, batch_size, **options):
    batches = in_blocks(examples, batch_size)
    return fit_head(batches, statistics, loss, norm_sq, **options)
