r"""The optimal head for cross-entropy, subject to a constraint on its norm.

.. math:: \min_{W, b} L(W, b) = \frac1N \sum_n a_n\,
          \mathrm{CE}(\mathrm{softmax}(W^T \phi_n + b), t_n)
          \quad\text{s.t.}\quad \|W\|_F^2 = c \text{ (or } \le c)

is convex over the ball. A point with $\nabla_W L + 2 \mu W = 0$, $\nabla_b L = 0$ and
$\mu \ge 0$ is its global minimiser: L2-regularised multinomial logistic regression of
strength $2\mu$. Nothing has to be found out about the strength: the norm is kept by
the coordinates, $W = \sqrt{c}\, A / \|A\|$ on the sphere and
$W = 2 \sqrt{c}\, Y / (1 + \|Y\|^2)$, a smooth image of all of space, in the ball.

**Start and scale.** At a zero kernel the loss is quadratic with curvature $h S$, $h$
the mean of $\pi_j (1 - \pi_j)$ over the classes' shares. Its minimiser of that norm is
the Lagrangian head of least squares, found from one eigendecomposition: the search
starts there, in coordinates in which $h (S + \nu)$, with that head's multiplier
$\nu$, is the identity.

**Free direction.** A vector added to all k > 1 columns changes no probability. An
equality beyond the norm of the unconstrained optimum is filled with it, so that a
global sphere always has a global minimiser with $\mu \ge 0$.

References:
  D. Böhning, "Multinomial logistic regression algorithm", Ann. Inst. Statist. Math. 44,
  1992 (the curvature bound).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lagrange_jax._checks import require_count, require_real, require_shapes
from lagrange_jax.batches import as_batch, as_batches, is_arrays
from lagrange_jax.bounds import Relation, require_norm, require_relation
from lagrange_jax.numerics.lbfgs import Point, minimize
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.solvers.class_certificate import kkt_rows, status_of_classes
from lagrange_jax.solvers.classes import (
    ClassStatistics,
    class_statistics,
    curvature,
    prior_bias,
)
from lagrange_jax.solvers.coordinates import make_coordinates, settle
from lagrange_jax.solvers.least_squares import require_tie_break, unit_tie_break
from lagrange_jax.solvers.losses import make_log_loss, num_outputs_of
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.solvers.spectral import on_sphere
from lagrange_jax.types import Batches

__all__ = ["fit_head", "require_search", "solve_cross_entropy"]

# This share of the start is the tie-break: it seeds directions that data leave free.
TIE_BREAK = 1e-3


def solve_cross_entropy(
    examples: Any,
    norm_sq: Float[Array, "*k"] | float,
    *,
    num_outputs: int | None = None,
    relation: Relation = "equality",
    use_bias: bool = True,
    label_smoothing: Any = 0.0,
    tie_break: Float[Array, "d k"] | None = None,
    tolerance: float | None = None,
    max_passes: int = 1000,
    batch_size: int = 4096,
) -> HeadSolution:
    r"""Solves for the head of least cross-entropy under a norm constraint.

    The problem is that of this module's head. With one output it is binary logistic
    regression. The bias is not constrained.

    With arrays this is one jitted computation, which may be traced and vmapped over
    examples, weights and norms. It is not differentiable.

    Args:
      examples: `(features [n, d], targets)` or `(features, targets, weights)`, or an
        iterable of such batches that can be gone through again and again: one pass an
        evaluation of the loss. Targets are integer labels `[n]` or probabilities
        `[n, k]`; weights are non-negative.
      norm_sq: $c > 0$. Shape `[]`: one sphere for the kernel; `[k]`: one an output.
      num_outputs: k, outputs of the head; 1 is binary. None reads it off
        probabilities; integer labels do not tell it.
      relation: `"equality"`, or `"at_most"` for a ball.
      use_bias: whether the head has a bias.
      label_smoothing: share of each target that is spread evenly over the classes.
      tie_break: a kernel that fills what the data leave free; None: a fixed random one.
      tolerance: of the relative KKT residual; None for 1e-5, or 1e-8 in double
        precision.
      max_passes: evaluations of the loss after which the search is given up.
      batch_size: rows multiplied at once when `examples` are arrays.

    Returns:
      The `HeadSolution`. Its `multiplier` is half the L2 strength, as for least
      squares: scikit-learn's `LogisticRegression(C=1 / (2 * N * multiplier))` has the
      same solution. `stationarity` is $\|\nabla_W L + 2 \mu W\|$ relative to
      $\|R\| + 2 \mu \|W\|$, with R the covariance of features and targets (the gradient
      at a zero kernel), or the same of the bias if that is larger. `gap_bound` is
      $2 \sqrt c \|\nabla_W L + 2 \mu^+ W\|$, which bounds the distance to the global
      minimum over the ball, for an optimal bias; with a norm an output the sum of the
      bounds does. `status` is NOT_GLOBAL where an equality has a negative multiplier,
      which only one output or a norm an output can have.

    Raises:
      ValueError: if shapes do not agree, labels come without `num_outputs`, or known
        labels lie outside 0..k-1.
    """
    require_relation(relation)
    require_search(label_smoothing, tolerance, max_passes)
    require_count("batch_size", batch_size)
    if tie_break is not None:
        require_real("tie_break", tie_break)
    batches = None if is_arrays(examples) else as_batches(examples)
    batch = as_batch(examples) if batches is None else batches.first
    k = num_outputs_of(batch, num_outputs)
    norm_sq = require_norm(norm_sq, k)
    options: dict[str, Any] = dict(
        relation=relation,
        use_bias=use_bias,
        label_smoothing=label_smoothing,
        tie_break=tie_break,
        tolerance=tolerance,
        max_passes=max_passes,
    )
    if batches is None:
        return _solve_arrays(
            batch, norm_sq, num_outputs=k, batch_size=batch_size, **options
        )
    statistics = class_statistics(batches, k, use_bias, label_smoothing)
    return fit_head(batches, statistics, norm_sq, **options)


def require_search(label_smoothing: Any, tolerance: Any, max_passes: Any) -> None:
    """Refuses options of the search that are no numbers."""
    numbers = dict(label_smoothing=label_smoothing, tolerance=tolerance)
    require_shapes(dict.fromkeys(numbers, ""), numbers)
    require_count("max_passes", max_passes)


@partial(jax.jit, static_argnames=("num_outputs", "batch_size", "relation", "use_bias"))
def _solve_arrays(
    examples, norm_sq, *, num_outputs, batch_size, use_bias, label_smoothing, **options
):
    batches = as_batches(examples, batch_size)
    statistics = class_statistics(batches, num_outputs, use_bias, label_smoothing)
    return fit_head(
        batches,
        statistics,
        norm_sq,
        use_bias=use_bias,
        label_smoothing=label_smoothing,
        **options,
    )


def fit_head(
    batches: Batches,
    statistics: ClassStatistics,
    norm_sq: Float[Array, "*k"],
    *,
    relation: Relation = "equality",
    use_bias: bool = True,
    label_smoothing: Any = 0.0,
    tie_break: Float[Array, "d k"] | None = None,
    start: Float[Array, "d k"] | None = None,
    tolerance: float | None = None,
    max_passes: int = 1000,
) -> HeadSolution:
    """Solves as `solve_cross_entropy` does, from statistics of the same batches.

    Args:
      batches: features and targets.
      statistics: what `class_statistics` returned for them.
      norm_sq: as in `solve_cross_entropy`.
      relation: likewise.
      use_bias: likewise.
      label_smoothing: likewise.
      tie_break: likewise.
      start: a kernel to start from instead of the least-squares head, such as the
        solution for a neighbouring norm; zeros count as None.
      tolerance: as in `solve_cross_entropy`.
      max_passes: likewise.

    Returns:
      The `HeadSolution`.
    """
    spectrum, shares = statistics.spectrum, statistics.shares
    dtype = spectrum.cross.dtype
    tolerance = _tolerance(dtype) if tolerance is None else tolerance
    wanted = norm_sq.astype(dtype).reshape(1, -1)
    usable = jnp.isfinite(wanted) & (wanted > 0)
    wanted = jnp.where(usable, wanted, 1)
    require_tie_break(tie_break, spectrum.cross.shape)
    tie_break = unit_tie_break(tie_break, spectrum.cross.shape, dtype)
    kernel, multiplier = _least_squares_start(statistics, wanted, tie_break)
    if start is not None:
        kernel = jnp.where(jnp.any(start != 0), start, kernel)
    # Softmax needs the ball alone: a free direction fills what an equality lacks.
    can_fill = relation == "equality" and kernel.shape[1] > wanted.shape[1]
    within: Relation = "at_most" if can_fill else relation
    coordinates = make_coordinates(spectrum, multiplier, kernel, wanted, within)
    bias, is_free = prior_bias(shares, spectrum.count)
    if not use_bias:
        bias, is_free = jnp.zeros_like(bias), jnp.zeros_like(is_free)
    log_loss = make_log_loss(
        batches, len(shares), spectrum.count, spectrum.mean_x, label_smoothing
    )

    def measure(kernel, bias, relation: Relation = within):
        loss = log_loss(kernel, bias)
        loss = loss._replace(bias=jnp.where(is_free, loss.bias, 0))
        return loss, kkt_rows(statistics, kernel, loss, wanted, relation, tolerance)

    def evaluate(params):
        kernel, pull_back = jax.vjp(coordinates.to_kernel, params[0])
        loss, rows = measure(kernel, bias + params[1])
        gradient = (pull_back(loss.kernel)[0], loss.bias)
        return Point(params, loss.loss, gradient, rows["stationarity"].max())

    search = minimize(
        evaluate,
        (coordinates.start, jnp.zeros_like(bias)),
        tolerance=tolerance,
        max_evaluations=max_passes,
        while_loop=batches.while_loop,
    )
    kernel = coordinates.to_kernel(search.best.params[0])
    bias = bias + search.best.params[1]
    kernel = settle(kernel, wanted, tie_break if can_fill else None)
    loss, rows = measure(kernel, bias, relation)
    return HeadSolution(
        kernel=kernel,
        bias=bias - dot(spectrum.mean_x, kernel),
        objective=loss.loss,
        status=status_of_classes(statistics, usable, rows, tolerance),
        **{name: row.reshape(norm_sq.shape) for name, row in rows.items()},
    )


def _least_squares_start(statistics, norm_sq, tie_break):
    """The least-squares head of the wanted norm, and its multiplier."""
    spectrum, h = statistics.spectrum, curvature(statistics.shares)
    k = spectrum.cross.shape[1]
    start = on_sphere(spectrum, h**2 * norm_sq, "at_most", tie_break)
    radius = jnp.sqrt(norm_sq * norm_sq.shape[1] / k)  # of each column
    kernel = start.kernel / h + TIE_BREAK * radius * tie_break
    return kernel, jnp.mean(start.multiplier)


def _tolerance(dtype):
    """What a gradient over many examples resolves, with room to spare."""
    return 1e-8 if dtype == jnp.float64 else 1e-5
