r"""The norm of a head that cross-validates best, for any convex loss.

Along a rising path of norms the training loss falls and the validation loss has one
valley, as along the strengths of L2 regularisation: norm and strength are two names of
one path.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lagrange_jax._checks import require_count, require_shapes
from lagrange_jax.bounds import (
    Constraint,
    Metric,
    Problem,
    Relation,
    hashable,
    make_constraint,
    require_norm,
)
from lagrange_jax.constraints.folds import cross_validate
from lagrange_jax.losses.record import Loss
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.types import Batch, Key

__all__ = ["choose_norm", "cross_validated_norm"]


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
        spectrum, (key, examples, loss) = problem.spectrum, problem[1:]
        options = dict(use_bias=spectrum.num_biases == 1)
        return self._run(key, examples, loss, spectrum.cross.shape[1], **options)[0]

    def solve(
        self,
        key: Key | None,
        examples: Batch | None,
        loss: Loss,
        num_outputs: int,
        **options: Any,
    ) -> HeadSolution:
        """Returns the head of the best norm, from the program that finds the norm."""
        return self._run(key, examples, loss, num_outputs, **options)[1]

    def _run(self, key, examples, loss, num_outputs, **options):
        if examples is None or key is None:
            raise ValueError(
                "cross-validation goes over the features too often to compute them "
                "anew: name a norm, fixed_norm(c, per_output=False) say, or keep the "
                "features."
            )
        return cross_validate(
            key,
            examples,
            None if self.norm_sq is None else jnp.asarray(self.norm_sq),
            loss,
            num_outputs=num_outputs,
            num_folds=self.num_folds,
            **options,
        )


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
    options: dict[str, Any] = dict(num_outputs=num_outputs, num_folds=num_folds)
    return cross_validate(key, batch, norm_sq, loss, use_bias=use_bias, **options)[0]
