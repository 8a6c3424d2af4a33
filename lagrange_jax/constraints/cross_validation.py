r"""The norm of a head that cross-validates best, for any convex loss.

Along a rising path of norms the training loss falls and the validation loss has one
valley, as along the strengths of L2 regularisation: norm and strength are two names of
one path.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax._checks import require_count, require_shapes
from lagrange_jax.batches import as_batches
from lagrange_jax.bounds import (
    Constraint,
    Metric,
    Problem,
    Relation,
    hashable,
    make_constraint,
    require_norm,
)
from lagrange_jax.losses.classes import without_smoothing
from lagrange_jax.losses.record import Loss, read_targets
from lagrange_jax.numerics.parabola import parabola_minimum
from lagrange_jax.ridge.path import multiplier_to_strength, norm_of_strength
from lagrange_jax.solvers.examples import ExampleStatistics, example_statistics
from lagrange_jax.solvers.fit import fit_head
from lagrange_jax.solvers.path import mean_loss
from lagrange_jax.solvers.solution import is_usable
from lagrange_jax.types import Batch, Key

__all__ = ["choose_norm", "cross_validated_norm"]

# Norms of the least-squares heads whose multipliers are these multiples of the mean
# variance of the features: from hardly any head to all but interpolation.
MULTIPLIERS = tuple(4.0**i for i in range(4, -4, -1))
# A validation loss, and with it the choice, is settled long before the head is.
LOOSE = 1e-3
# A path ends once the loss is this factor above the valley it went through.
RISE = 1.05
# Rows multiplied at once.
BLOCK_SIZE = 4096


def cross_validated_norm(
    norm_sq: Any = None,
    *,
    num_folds: int = 5,
    relation: Relation = "equality",
    metric: Metric = "euclidean",
) -> Constraint:
    """The norm of least loss on held-out examples.

    Args:
      norm_sq: norms to try, ascending, at least three; the choice lies between them
        where the parabola through the best and its neighbours is lowest. None: eight
        norms from hardly any head to all but interpolation.
      num_folds: parts of the examples with weight, at random but with equal shares of
        each class, each held out once.
      relation: of the final head to the norm.
      metric: what norms are measured by, `"euclidean"` or `"feature_variance"`.

    Returns:
      The `Constraint`, for `lagrange(..., loss="cross_entropy")` or another loss that
      is not the squared error.

    Raises:
      ValueError: if a norm is not positive, there are fewer than three, fewer than
        two folds are asked for, or the relation or the metric is unknown.
    """
    require_count("num_folds", num_folds, least=2)
    if norm_sq is not None:
        require_shapes({"norm_sq": "m"}, {"norm_sq": norm_sq})
        norm_sq = hashable(require_norm(norm_sq, len(norm_sq)))
        if len(norm_sq) < 3:
            raise ValueError(f"expected at least three norm_sq; got {len(norm_sq)}.")
    return make_constraint(_CrossValidation(norm_sq, num_folds), relation, metric)


@dataclasses.dataclass(frozen=True)
class _CrossValidation:
    norm_sq: Any
    num_folds: int
    needs_examples = True

    def __call__(self, problem: Problem) -> Float[Array, ""]:
        if problem.loss is None:
            raise ValueError(
                "cross_validated_norm() needs loss='cross_entropy'. For squared error "
                'at_strength("gcv") or loss_within() choose the norm from the spectrum.'
            )
        if problem.examples is None or problem.key is None:
            raise ValueError(
                "cross-validation goes over the features too often to compute them "
                "anew: name a norm, fixed_norm(c, per_output=False) say, or keep the "
                "features."
            )
        cross = problem.spectrum.cross
        norm_sq = self.norm_sq
        return choose_norm(
            problem.key,
            problem.examples,
            None if norm_sq is None else jnp.asarray(norm_sq, cross.dtype),
            problem.loss,
            num_outputs=cross.shape[1],
            num_folds=self.num_folds,
            use_bias=problem.spectrum.num_biases == 1,
        )


@partial(jax.jit, static_argnames=("num_outputs", "num_folds", "use_bias"))
def choose_norm(
    key: Key,
    batch: Batch,
    norm_sq: Float[Array, " m"] | None,
    loss: Loss,
    *,
    num_outputs: int,
    num_folds: int = 5,
    use_bias: bool = True,
) -> Float[Array, ""]:
    """Returns the norm whose heads have the least loss on held-out examples.

    Args:
      key: decides which examples are held out together.
      batch: features `[n, d]`, targets and weights.
      norm_sq: norms to try, ascending; None for the range of the data.
      loss: the loss; of unsmoothed targets where examples are held out.
      num_outputs: outputs of the head.
      num_folds: parts of the examples, each held out once.
      use_bias: whether the head has a bias.

    Returns:
      The norm; at an end of the range if the loss is least there, and nan where no
      head could be validated: fewer than two examples have weight, say.
    """
    prepare = partial(
        example_statistics, loss=loss, num_outputs=num_outputs, use_bias=use_bias
    )
    if norm_sq is None:
        norm_sq = _norm_range(prepare(as_batches(batch, BLOCK_SIZE)))
    weights = batch.weights
    if weights is None:
        weights = jnp.ones(len(batch.targets), norm_sq.dtype)
    fold_of = _folds(key, batch, weights, loss, num_outputs, num_folds)
    plain = without_smoothing(loss)

    def losses_without(fold):
        held_out = (fold_of == fold).astype(weights.dtype)
        train = batch._replace(weights=weights * (1 - held_out))
        unseen = batch._replace(weights=weights * held_out)
        batches = as_batches(train, BLOCK_SIZE)
        fit = partial(
            fit_head,
            batches,
            prepare(batches),
            loss,
            relation="at_most",
            tolerance=LOOSE,
        )

        def validate(head):
            value = mean_loss(unseen, plain, head, BLOCK_SIZE)[0]
            return jnp.where(is_usable(head.status), value, jnp.nan)

        counts = (train.weights > 0).any() & (unseen.weights > 0).any()
        share = jnp.where(counts, unseen.weights.sum(), 0)
        return share, _valley(fit, validate, norm_sq, counts)

    shares, losses = lax.map(losses_without, jnp.arange(num_folds))
    # A fold without examples says nothing, whatever its losses are.
    shares = shares[:, None]
    total = jnp.where(shares > 0, shares * losses, 0).sum(0)
    is_known = jnp.isfinite(total).any() & (shares > 0).any()
    best = jnp.exp(parabola_minimum(jnp.log(norm_sq), total).position)
    return jnp.where(is_known, best, jnp.nan)


def _folds(key, batch, weights, loss, num_outputs, num_folds):
    """The fold of each example: those with weight are dealt out, class by class."""
    n = len(weights)
    classes = jnp.zeros(n, jnp.int32)
    if loss.kind.is_right is not None:
        # A class is the output that the example votes for most.
        read = read_targets(loss, batch.targets, num_outputs, weights.dtype).values
        classes = read.argmax(1).astype(jnp.int32)
    order = jnp.lexsort((jax.random.uniform(key, (n,)), classes, ~(weights > 0)))
    return jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n) % num_folds)


def _valley(fit, validate, norm_sq, counts):
    """Losses along rising norms, infinite where the path was no longer followed.

    A head that was not solved has the loss nan, which ends no path.
    """

    def is_open(state):
        i, losses, _ = state
        last = losses[jnp.maximum(i - 1, 0)]
        least = jnp.nanmin(losses)
        rises = (i > 0) & (last > RISE * least)
        return counts & (i < len(norm_sq)) & ~rises

    def body(state):
        i, losses, start = state
        head = fit(norm_sq[i], start=start)
        return i + 1, losses.at[i].set(validate(head)), head.kernel

    shape = jax.eval_shape(fit, norm_sq[0]).kernel
    losses = jnp.full(norm_sq.shape, jnp.inf, shape.dtype)
    start = jnp.zeros(shape.shape, shape.dtype)
    return lax.while_loop(is_open, body, (jnp.int32(0), losses, start))[1]


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
