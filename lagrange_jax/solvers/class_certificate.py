"""Evidence that a head solved for cross-entropy is right: residual, bound, status."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax.bounds import Relation
from lagrange_jax.numerics.linalg import column_length, column_sum
from lagrange_jax.solvers.classes import ClassStatistics
from lagrange_jax.solvers.coordinates import ON_SPHERE
from lagrange_jax.solvers.losses import LogLoss
from lagrange_jax.solvers.solution import Status

__all__ = ["kkt_rows", "status_of_classes"]

# A part of the kernel that no probability depends on counts as filled in beyond this.
FREE_SHARE = 1e-2


def kkt_rows(
    statistics: ClassStatistics,
    kernel: Float[Array, "d k"],
    loss: LogLoss,
    norm_sq: Float[Array, "1 m"],
    relation: Relation,
    tolerance: Float[Array, ""] | float,
) -> dict[str, Array]:
    r"""Returns what a `HeadSolution` says of each norm.

    For a kernel of the norm and any other in the ball, convexity gives
    $L(W) - L(V) \le \langle \nabla L + 2 \mu W, W - V \rangle$ for every $\mu \ge 0$,
    hence the bound $2 \sqrt c \, \|\nabla L + 2 \mu W\|$.

    Args:
      statistics: of the examples.
      kernel: the head.
      loss: its loss and gradient; that of a fixed bias is zero.
      norm_sq: the wanted norm $c$.
      relation: on the sphere or in the ball.
      tolerance: residual up to which a negative multiplier counts as zero.

    Returns:
      The rows `multiplier`, `norm_sq`, `stationarity`, `norm_error`, `gap_bound`,
      `is_global` and `is_hard_case`.
    """
    length = column_length(kernel, norm_sq)
    length_sq = length**2
    pull = -column_sum(loss.kernel * kernel, norm_sq)
    strength = pull / jnp.where(length_sq > 0, length_sq, 1)
    is_met = length_sq >= (1 - ON_SPHERE) * norm_sq
    if relation == "at_most":
        is_met &= strength > 0
        strength = jnp.where(is_met, strength, 0)
    size = (
        column_length(statistics.spectrum.cross, norm_sq) + jnp.abs(strength) * length
    )
    size = jnp.where(size > 0, size, 1)
    drift = jnp.linalg.norm(loss.bias) / jnp.linalg.norm(statistics.shares)
    relative = lambda x: column_length(x, norm_sq) / size  # noqa: E731
    shrinking = loss.kernel + jnp.maximum(strength, 0) * kernel
    return dict(
        multiplier=strength / 2,
        norm_sq=length_sq,
        stationarity=jnp.maximum(relative(loss.kernel + strength * kernel), drift),
        norm_error=jnp.where(is_met, jnp.abs(length_sq / norm_sq - 1), 0),
        gap_bound=2 * jnp.sqrt(norm_sq) * column_length(shrinking, norm_sq),
        is_global=relative(shrinking) <= tolerance,
        is_hard_case=_free_share(kernel, norm_sq, length_sq) > FREE_SHARE,
    )


def _free_share(kernel, norm_sq, length_sq):
    """The share of the norm that no probability depends on."""
    if kernel.shape[1] == 1 or norm_sq.shape[1] > 1:
        return jnp.zeros_like(norm_sq)
    free = kernel.shape[1] * jnp.sum(kernel.mean(1) ** 2)
    return free / jnp.where(length_sq > 0, length_sq, 1)


def status_of_classes(
    statistics: ClassStatistics,
    usable: Bool[Array, "1 m"],
    rows: Mapping[str, Array],
    tolerance: Float[Array, ""] | float,
) -> Int[Array, ""]:
    """Returns the first thing that went wrong, causes before their effects.

    Args:
      statistics: of the examples.
      usable: whether each wanted norm is positive and finite.
      rows: from `kkt_rows`.
      tolerance: of the residual.
    """
    spectrum = statistics.spectrum
    is_finite = lambda x: jnp.isfinite(jnp.sum(x))  # noqa: E731
    failures = {
        Status.NO_DATA: spectrum.count <= 0,
        Status.NONFINITE_FEATURES: ~is_finite(spectrum.covariance),
        Status.INVALID_TARGETS: statistics.num_invalid > 0,
        Status.INVALID_NORM: ~usable.all(),
        Status.NOT_CONVERGED: ~(rows["stationarity"] <= tolerance).all(),
        Status.NOT_GLOBAL: ~rows["is_global"].all(),
    }
    codes = [jnp.int32(code) for code in failures]
    return jnp.select(list(failures.values()), codes, jnp.int32(Status.SUCCESS))
