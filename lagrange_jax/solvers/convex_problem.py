"""A loss to be minimised under a norm, as its search sees it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from lagrange_jax.bounds import Relation
from lagrange_jax.losses.record import Loss
from lagrange_jax.numerics.linalg import column_length, column_sum
from lagrange_jax.solvers.continuation import num_stages, smoother
from lagrange_jax.solvers.convex_certificate import (
    Scales,
    excess_residual,
    kkt_rows,
)
from lagrange_jax.solvers.examples import ExampleStatistics
from lagrange_jax.solvers.risk import make_risk
from lagrange_jax.types import Batches

__all__ = ["ConvexProblem"]

# Of smoother losses on the way so much is good enough, in this part of the steps.
ON_THE_WAY = 1e-2
SHARE_OF_STEPS = 0.1


class ConvexProblem(NamedTuple):
    """What a search has to know: a loss, its statistics, a norm and limits."""

    batches: Batches
    statistics: ExampleStatistics
    scales: Scales
    loss: Loss
    coordinates: Any
    norm_sq: Any
    relation: Relation | Bool[Array, ""]
    tolerance: Any
    max_steps: Any

    @property
    def is_ball(self):
        """Whether the norm is known to be a bound only."""
        return isinstance(self.relation, str) and self.relation == "at_most"

    @property
    def on_sphere(self):
        """Whether the norm is to be met; the relation may be traced."""
        relation = self.relation
        is_known = isinstance(relation, str)
        return jnp.asarray(relation == "equality" if is_known else relation)

    @property
    def can_fill(self):
        """Whether a direction that no loss depends on fills what an equality lacks."""
        k = self.statistics.spectrum.cross.shape[1]
        return self.loss.kind.is_shift_invariant and k > self.norm_sq.shape[1]

    def risk(self):
        """The mean loss as functions of the head."""
        spectrum = self.statistics.spectrum
        return make_risk(self.batches, self.loss, spectrum.count, spectrum.mean_x)

    def evaluate(self, risk, kernel, bias):
        """The loss and its gradient, zero in what is fixed of the bias."""
        found = risk.evaluate(kernel, bias)
        is_free = self.statistics.start.is_free
        return found._replace(bias=jnp.where(is_free, found.bias, 0))

    def rows(self, kernel, found, on_sphere, tolerance=0.0, can_fill=False):
        """What a `HeadSolution` says of each norm."""
        given = self.scales, kernel, found, self.norm_sq, on_sphere
        return kkt_rows(*given, self.coordinates.factor, tolerance, can_fill)

    def residual(self, rows, found, left=0.0):
        """How far from solved; by the bound too, which is none without convexity."""
        if self.loss.kind.convexity == "none":
            return rows["stationarity"].max()
        return excess_residual(self.scales, rows, found, left, self.tolerance)

    @property
    def may_leave(self):
        """Whether a search may have to go on over the sphere."""
        return not (self.is_ball or self.can_fill)

    def num_smoother(self, is_near):
        """How many smoother losses come first, unless a start is given that is near."""
        if self.loss.kind.smooth is None:
            return jnp.int32(0)
        number = num_stages(self.loss, self.statistics.smooth, self.norm_sq.dtype)
        return jnp.where(is_near, 0, number)

    def smoothed(self, left, total):
        """The problem of a smoother loss, of which so many of all are left."""
        if self.loss.kind.smooth is None:
            return self
        loss, smooth, dtype = self.loss, self.statistics.smooth, self.norm_sq.dtype
        share = left.astype(dtype) / jnp.maximum(total, 1).astype(dtype)
        loss = smoother(loss, smooth, share, dtype)
        is_last = left == 0
        rough = jnp.maximum(self.tolerance, ON_THE_WAY)
        rough = jnp.where(is_last, self.tolerance, rough).astype(dtype)
        steps = jnp.asarray(SHARE_OF_STEPS * self.max_steps).astype(jnp.int32)
        steps = jnp.where(is_last, self.max_steps, steps)
        return self._replace(loss=loss, tolerance=rough, max_steps=steps)

    def is_bound(self, end):
        """Whether the loss falls outwards, by more than its gradient is known to."""
        pull = -column_sum(end.slope * end.kernel, self.norm_sq)
        length = column_length(end.kernel, self.norm_sq)
        return pull > self.tolerance * self.scales.gradient * length

    def is_concave(self, kernel, bias):
        """Whether a loss that is said to be convex is seen not to be."""
        if self.loss.kind.convexity != "checked":
            return jnp.zeros((), bool)
        is_concave = self.risk().is_concave
        at_start = is_concave(jnp.zeros_like(kernel), self.statistics.start.bias)
        return at_start | is_concave(kernel, bias)
