r"""A head that is solved anew while the body trains.

For the body $\theta$ of the moment the best head is the solution of a small linear
system, so that the body alone is left to be trained, on

$$R(\theta) = \min_{W, b} \frac1N \sum_n \|W^T \phi_n(\theta) + b - t_n\|^2
              + \mu \|W\|^2 .$$

By the envelope theorem its gradient is the ordinary one with W and b held fixed:
nothing is differentiated through the solve. A mini-batch alone determines W badly; the
moments of the batches before it, discounted by a decay $\gamma$ a step, steady it. They
were taken at bodies of the past: the features held are at most $\gamma / (1 - \gamma)$
steps old on average. Where these are no longer than R and a step moves none by more
than $\delta$, their second moments are within $2 R \delta \gamma / (1 - \gamma)$, in
the spectral norm, of what the body of the moment makes of the same examples.

Another loss, whose second derivatives are at most h, lies below a parabola of that
curvature, which touches it at the logit z of the head before and is least at the
*working target* $z - \ell'(z) / h$. Its head is regressed on these: a step of
majorisation, which never raises the loss of a full batch for a fixed body, and whose
fixed point is the optimum of the loss plus $\frac h2 \mu \|W\|^2$.

References:
  G. H. Golub, V. Pereyra, "The differentiation of pseudo-inverses and nonlinear least
  squares problems whose variables separate", SIAM J. Numer. Anal. 10, 1973.
  E. Newman, J. Chung, M. Chung, L. Ruthotto, "slimTrain: a stochastic approximation
  method for training separable deep neural networks", SIAM J. Sci. Comput. 44, 2022.
  A. Galashov et al., "Closed-form last layer optimization", arXiv:2510.04606, 2025.
  D. Böhning, "Multinomial logistic regression algorithm", Ann. Inst. Statist. Math. 44,
  1992 (the bound for softmax).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jax.sharding import Mesh
from jaxtyping import Array, Int

from lagrange_jax._checks import require_count, require_kind
from lagrange_jax.bounds import Constraint, Problem
from lagrange_jax.distributed.sharding import sharded_moments
from lagrange_jax.initializers.rows import at_least_float32
from lagrange_jax.losses.named import as_loss
from lagrange_jax.losses.record import Loss, losses_and_slopes, read_targets
from lagrange_jax.losses.regression import SQUARED_ERROR, squared_error
from lagrange_jax.models.params import HeadArrays
from lagrange_jax.solvers.least_squares import solve_least_squares
from lagrange_jax.solvers.solution import is_usable
from lagrange_jax.statistics.moments import (
    Moments,
    compute_moments,
    init_moments,
    merge_moments,
)
from lagrange_jax.statistics.spectrum import decompose

__all__ = ["Resolver", "ResolverState", "resolve_head"]


class ResolverState(NamedTuple):
    """What a re-solved head remembers from step to step.

    Attributes:
      moments: of features and targets, discounted.
      head: the head solved last, kernel `[d, k]` and bias `[k]` or None.
      step: number of batches so far.
    """

    moments: Moments
    head: HeadArrays
    step: Int[Array, ""]


class Resolver(NamedTuple):
    """A head as a stream of solves; two pure functions.

    Attributes:
      init: `init(head) -> ResolverState`, from the head to begin with. Without a bias
        (None) it gets none: where a column of the features is the bias, say, as under
        a differential operator. Half precision is widened to float32.
      update: `update(state, features, targets, weights=None, offset=None) ->
        ResolverState` takes a batch into account and solves; the head is constant to
        automatic differentiation. The offset `[n, k]` is added to the head's output.
      loss: what the head is solved for.
    """

    init: Callable[[HeadArrays], ResolverState]
    update: Callable[..., ResolverState]
    loss: Loss = squared_error()


def resolve_head(
    ridge: float | Constraint = 0.1,
    *,
    loss: Loss | str = "squared_error",
    decay: float = 0.9,
    every: int = 1,
    mesh: Mesh | None = None,
) -> Resolver:
    r"""Returns a head that follows the body; jittable and vmappable.

    A step costs $O(n d (d + k))$ for the moments of a batch of n examples, and a solve
    $O(d^2 (d + k))$: one Cholesky factorisation for a ridge, an eigendecomposition for
    a constraint, which is ten times as much or more.

    Args:
      ridge: $\mu$ as a share of the features' mean variance; or a constraint on the
        norm, such as `at_strength("gcv")`, which is asked at each solve.
      loss: `"squared_error"`, solved exactly; or `"cross_entropy"` or another `Loss` of
        bounded curvature, for which a solve is one step of majorisation.
      decay: what the weight of a batch is multiplied by at each later step; the
        memory is $1 / (1 - \text{decay})$ batches. Zero for full batches.
      every: steps between solves; the moments are updated at each.
      mesh: devices that the rows of a batch are spread over, as `shard_batch` lays
        them: each takes the moments of its own rows, which then are summed. Without
        it XLA may gather the rows, and does where a batch has more than some hundred.

    Returns:
      The `Resolver`. A solve that fails keeps the head before.

    Raises:
      ValueError: if the ridge is not positive, decay or every is out of range, or the
        curvature of the loss has no bound.
      TypeError: if the ridge is neither a number nor a constraint.
    """
    _check(ridge, decay, every, mesh)
    loss = squared_error() if loss == "squared_error" else as_loss(loss)
    if loss.kind.curvature is None:
        raise ValueError(
            "expected a loss whose second derivatives are bounded, such as "
            f"'cross_entropy' or losses.huber(); got {loss.kind.name}."
        )
    solve = partial(_constrained if isinstance(ridge, Constraint) else _ridge, ridge)

    of_batch = compute_moments if mesh is None else partial(sharded_moments, mesh=mesh)

    def init(head: HeadArrays) -> ResolverState:
        d, k = head.kernel.shape
        dtype = at_least_float32(head.kernel)
        head = HeadArrays(*jax.tree.map(lambda x: x.astype(dtype), head))
        return ResolverState(init_moments(d, k, dtype), head, jnp.int32(0))

    def update(state, features, targets, weights=None, offset=None):
        head, moments = state.head, state.moments
        given = jax.lax.stop_gradient((features, targets, weights, offset))
        given = _as_floats(given, head.kernel.dtype)
        features, targets, weights, offset = given
        targets = _working_targets(loss, head, features, targets, offset)
        batch = of_batch(features, targets, weights)
        moments = moments._replace(count=decay * moments.count)
        moments = merge_moments(moments, batch)
        if every == 1:
            head = solve(moments, head)
        else:
            is_due = state.step % every == 0
            head = jax.lax.cond(is_due, solve, lambda _, last: last, moments, head)
        return ResolverState(moments, head, state.step + 1)

    return Resolver(init, update, loss)


def _check(ridge: Any, decay: float, every: int, mesh: Any) -> None:
    if not isinstance(ridge, int | float | Constraint):
        raise TypeError(
            "expected ridge as a number or a Constraint, such as "
            f'constraints.at_strength("gcv"); got {type(ridge).__name__}.'
        )
    if not isinstance(ridge, Constraint) and not 0 < ridge < math.inf:
        raise ValueError(
            f"expected ridge > 0, a share of the features' mean variance; got {ridge}."
        )
    if not 0 <= decay < 1:
        raise ValueError(
            f"expected 0 <= decay < 1, the weight of a batch one step later; got "
            f"{decay}."
        )
    require_count("every", every)
    if mesh is not None:
        require_kind("mesh", mesh, Mesh)


def _as_floats(arrays: Any, dtype: Any) -> Any:
    """Returns the floating-point arrays in the memory's dtype; labels as they are."""
    is_float = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)  # noqa: E731
    cast = lambda x: jnp.asarray(x).astype(dtype) if is_float(x) else x  # noqa: E731
    return jax.tree.map(cast, arrays)


def _working_targets(loss: Loss, head: HeadArrays, features, targets, offset):
    """What the head's own output is regressed on."""
    offset = 0 if offset is None else offset
    if loss.kind == SQUARED_ERROR:
        return targets - offset
    own = features @ head.kernel
    own = own if head.bias is None else own + head.bias[None]
    loss = as_loss(loss, own.shape[1])
    bound: Any = loss.kind.curvature
    values = read_targets(loss, targets, own.shape[1], own.dtype).values
    slopes = losses_and_slopes(loss, own + offset, values)[1]
    return own - slopes / bound(loss.parameters)


def _ridge(ridge: float, moments: Moments, last: HeadArrays) -> HeadArrays:
    """Ridge regression by one Cholesky factorisation."""
    covariance, cross = moments.cov_xx, moments.cov_xt
    mean_x, mean_t = moments.mean_x, moments.mean_t
    if last.bias is None:
        covariance = covariance + jnp.outer(mean_x, mean_x)
        cross = cross + jnp.outer(mean_x, mean_t)
    d = len(covariance)
    shift = ridge * jnp.trace(covariance) / d
    factor = cho_factor(covariance + shift * jnp.eye(d, dtype=covariance.dtype))
    kernel = cho_solve(factor, cross)
    bias = None if last.bias is None else mean_t - mean_x @ kernel
    return _keep(jnp.isfinite(kernel).all(), HeadArrays(kernel, bias), last)


def _constrained(constraint: Constraint, moments: Moments, last: HeadArrays):
    problem = Problem(decompose(moments, use_bias=last.bias is not None))
    found = solve_least_squares(problem, constraint, tie_break=last.kernel)
    bias = None if last.bias is None else found.bias
    return _keep(is_usable(found.status), HeadArrays(found.kernel, bias), last)


def _keep(is_good, new: HeadArrays, last: HeadArrays) -> HeadArrays:
    choose = lambda x, y: jax.lax.stop_gradient(jnp.where(is_good, x, y))  # noqa: E731
    return jax.tree.map(choose, new, last)
