"""Cross-validation of a norm, and the head of the best one, in one loop.

The program holds a solve once: turn 0 looks at all examples for the range of norms, a
turn for each fold follows a path of heads, the last turn solves for the chosen norm.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from lagrange_jax._compile import jit_once
from lagrange_jax.bounds import Relation
from lagrange_jax.losses.classes import without_smoothing
from lagrange_jax.losses.record import Loss, read_targets
from lagrange_jax.numerics.parabola import parabola_minimum
from lagrange_jax.ridge.path import multiplier_to_strength, norm_of_strength
from lagrange_jax.solvers.blocks import in_blocks
from lagrange_jax.solvers.convex import DEFAULT_SEARCH, SearchOptions
from lagrange_jax.solvers.examples import (
    ExampleStatistics,
    example_statistics,
    num_biases,
)
from lagrange_jax.solvers.fit import default_tolerance, fit_head
from lagrange_jax.solvers.path import mean_loss
from lagrange_jax.solvers.risk import split_inputs
from lagrange_jax.solvers.solution import HeadSolution, is_usable
from lagrange_jax.types import Batch, Key

__all__ = ["cross_validate"]

# Norms of the least-squares heads whose multipliers are these multiples of the mean
# variance of the features: from hardly any head to all but interpolation.
MULTIPLIERS = tuple(4.0**i for i in range(4, -4, -1))
# A validation loss, and with it the choice, is settled long before the head is.
LOOSE = 1e-3
# A path ends once the loss is this factor above the valley it went through.
RISE = 1.05
# Evaluations of the loss in the solve of one norm on a path.
MAX_STEPS = 2000


def cross_validate(
    key: Key,
    batch: Batch,
    norm_sq: Float[Array, " m"] | None,
    loss: Loss,
    *,
    num_outputs: int,
    num_folds: int,
    use_bias: bool,
    relation: Relation | None = None,
    tie_break: Float[Array, "d k"] | None = None,
    search: SearchOptions = DEFAULT_SEARCH,
) -> tuple[Float[Array, ""], HeadSolution]:
    """Returns the norm that validates best, and its head on all examples.

    Args:
      key: decides which examples are held out together.
      batch: features `[n, d]` (or with an offset), targets and weights.
      norm_sq: norms to try, ascending; None for the range of the data.
      loss: the loss; of unsmoothed targets where examples are held out.
      num_outputs: outputs of the head.
      num_folds: parts of the examples, each held out once.
      use_bias: whether the head has a bias.
      relation: of the head to the norm; None where no head is wanted, and that
        returned says nothing.
      tie_break: of the head, see `fit_head`.
      search: options for the head.

    Returns:
      The norm, nan where no head could be validated, and the `HeadSolution`.
    """
    if batch.weights is None:
        ones = jnp.ones(len(batch.targets), jnp.float32)
        batch = batch._replace(weights=ones)
    problem = _Problem(key, batch, norm_sq, loss, tie_break, search.tolerance)
    static = _Static(
        num_outputs,
        num_folds,
        use_bias,
        relation,
        search.max_steps,
        search.batch_size,
        norm_sq is None,
    )
    return _run(problem, static)


class _Problem(NamedTuple):
    key: Any
    batch: Batch
    norm_sq: Any
    loss: Loss
    tie_break: Any
    tolerance: Any


class _Static(NamedTuple):
    num_outputs: int
    num_folds: int
    use_bias: bool
    relation: Relation | None
    max_steps: int
    batch_size: int
    finds_range: bool


class _State(NamedTuple):
    """What is known after some turns.

    Attributes:
      norm_sq: norms to try.
      losses: sums over folds of weight times loss on held-out examples.
      is_known: whether a fold had any.
      head: the last one that was solved for.
    """

    norm_sq: Float[Array, " m"]
    losses: Float[Array, " m"]
    is_known: Bool[Array, ""]
    head: HeadSolution

    def best(self) -> Float[Array, ""]:
        """Returns the norm of least loss, or nan."""
        best = parabola_minimum(jnp.log(self.norm_sq), self.losses).position
        is_known = self.is_known & jnp.isfinite(self.losses).any()
        return jnp.where(is_known, jnp.exp(best), jnp.nan)


@partial(jit_once, static_argnames=["static"])
def _run(problem, static):
    features, _ = split_inputs(problem.batch.inputs)
    dtype = jnp.float64 if features.dtype == jnp.float64 else jnp.float32
    norm_sq = problem.norm_sq
    norm_sq = jnp.ones(len(MULTIPLIERS)) if norm_sq is None else norm_sq
    norm_sq = norm_sq.astype(dtype)
    biases = num_biases(problem.batch, problem.loss, static.num_outputs, dtype)
    head = _no_head(features.shape[1], static.num_outputs, biases, dtype)
    zero = jnp.zeros((), bool)
    state = _State(norm_sq, jnp.zeros_like(norm_sq), zero, head)
    fold_of = _folds(problem, static)
    turn = partial(_turn, problem, static, fold_of)
    first = 0 if static.finds_range else 1
    last = static.num_folds + (static.relation is not None)
    state = lax.fori_loop(first, last + 1, turn, state)
    return state.best(), state.head


def _no_head(num_features, num_outputs, num_biases, dtype) -> HeadSolution:
    """A head of zeros, before anything is solved for."""
    zero, no = jnp.zeros((), dtype), jnp.zeros((), bool)
    kernel = jnp.zeros((num_features, num_outputs), dtype)
    numbers = dict.fromkeys(HeadSolution._fields, zero)
    bias = jnp.zeros(num_biases, dtype)
    numbers |= dict(kernel=kernel, bias=bias, is_global=no, is_hard_case=no)
    return HeadSolution(**{**numbers, "status": jnp.int32(0)})


def _turn(problem, static, fold_of, number, state) -> _State:
    """Validates heads on one fold, or solves for the best norm on all examples."""
    batch, loss = problem.batch, problem.loss
    held_out = (fold_of == number - 1).astype(batch.weights.dtype)
    train = batch._replace(weights=batch.weights * (1 - held_out))
    unseen = batch._replace(weights=batch.weights * held_out)
    batches = in_blocks(train, static.batch_size)
    statistics = example_statistics(batches, loss, static.num_outputs, static.use_bias)
    if static.finds_range:
        norm_sq = jnp.where(number == 0, _norm_range(statistics), state.norm_sq)
        state = state._replace(norm_sq=norm_sq)
    is_last, dtype = number > static.num_folds, state.norm_sq.dtype
    fit = _make_fit(problem, static, batches, statistics, is_last)

    def validate(head):
        value = mean_loss(unseen, without_smoothing(loss), head, static.batch_size)[0]
        return jnp.where(is_usable(head.status), value, jnp.nan)

    # A fold without examples says nothing, whatever its losses are.
    counts = (train.weights > 0).any() & (unseen.weights > 0).any()
    length = jnp.where(is_last, 1, jnp.where(counts, len(state.norm_sq), 0))
    norm_sq = jnp.where(is_last, state.best(), state.norm_sq)
    zeros = jax.tree.map(jnp.zeros_like, state.head)
    losses, head = _valley(fit, validate, norm_sq, length, zeros)
    share = unseen.weights.sum().astype(dtype)
    losses = state.losses + jnp.where(counts, share * losses, 0)
    return _State(state.norm_sq, losses, state.is_known | counts, head)


def _make_fit(problem, static, batches, statistics, is_last):
    """Returns `fit(norm_sq, start)`, loose but for the last turn."""
    dtype, tolerance = statistics.curvature.dtype, problem.tolerance
    tolerance = default_tolerance(dtype) if tolerance is None else tolerance
    is_sphere = static.relation == "equality"

    def fit(norm_sq, start):
        return fit_head(
            batches,
            statistics,
            problem.loss,
            norm_sq,
            relation=is_last if is_sphere else "at_most",
            tie_break=problem.tie_break,
            start=start,
            tolerance=jnp.where(is_last, tolerance, LOOSE).astype(dtype),
            max_steps=jnp.where(is_last, static.max_steps, MAX_STEPS),
        )

    return fit


def _folds(problem, static):
    """The fold of each example: those with weight are dealt out, class by class."""
    (key, batch, _, loss, *_), n = problem, len(problem.batch.weights)
    classes = jnp.zeros(n, jnp.int32)
    if loss.kind.is_right is not None:
        # A class is the output that the example votes for most.
        dtype = batch.weights.dtype
        read = read_targets(loss, batch.targets, static.num_outputs, dtype).values
        classes = read.argmax(1).astype(jnp.int32)
    order = jnp.lexsort((jax.random.uniform(key, (n,)), classes, ~(batch.weights > 0)))
    return jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n) % static.num_folds)


def _valley(fit, validate, norm_sq, length, head):
    """Losses along rising norms, infinite where the path was no longer followed.

    A head that was not solved has the loss nan, which ends no path.
    """

    def is_open(state):
        i, losses, _ = state
        last = losses[jnp.maximum(i - 1, 0)]
        least = jnp.nanmin(losses)
        rises = (i > 0) & (last > RISE * least)
        return (i < length) & ~rises

    def body(state):
        i, losses, head = state
        head = fit(norm_sq[i], start=head.kernel)
        return i + 1, losses.at[i].set(validate(head)), head

    losses = jnp.full_like(norm_sq, jnp.inf)
    return lax.while_loop(is_open, body, (jnp.int32(0), losses, head))[1:]


def _norm_range(statistics: ExampleStatistics) -> Float[Array, " m"]:
    spectrum, h = statistics.spectrum, statistics.curvature.mean()
    mean = jnp.maximum(spectrum.eigenvalues, 0).mean()
    multipliers = jnp.asarray(MULTIPLIERS, mean.dtype) * jnp.where(mean > 0, mean, 1)
    strengths = multiplier_to_strength(multipliers)
    norms = jax.vmap(lambda s: norm_of_strength(spectrum, s).sum())(strengths)
    norms = norms / h**2
    # Features that tell nothing make no head of any norm.
    return jnp.where(
        norms > 0, norms, jnp.exp(jnp.arange(len(norms), dtype=mean.dtype))
    )
