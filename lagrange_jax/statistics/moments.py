r"""Streaming moments: all that a least-squares head needs to know of the data.

For features $\phi_n \in R^d$, targets $t_n \in R^k$ and weights $a_n \ge 0$ with
total $N = \sum_n a_n$, the means, the covariance $S$ of the features, the
covariance $R$ of features with targets, and the variances of the targets. They
form a monoid under `merge_moments`, so that batches, masks, shards and hosts are
one and the same operation. All moments are centred and divided by $N$, which keeps
float32 accurate when the means are large.

References:
  T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise
  algorithm for computing sample variances", 1979.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, DTypeLike, Float

from lagrange_jax._checks import as_real, require_record, require_shapes
from lagrange_jax.statistics._blocked import blocked_moments

__all__ = [
    "Moments",
    "all_reduce_moments",
    "compute_moments",
    "init_moments",
    "merge_moments",
    "offsets_from",
    "require_alike",
    "update_moments",
]


class Moments(NamedTuple):
    """Weighted means and covariances of features and targets.

    The means are kept relative to an origin near the data, so that a mean of 1e4
    keeps digits that float32 could not hold; `mean_x` and `mean_t` add the two up.

    Attributes:
      count: total weight N (the number of examples, if all weights are one).
      origin_x: a point near the features.
      origin_t: a point near the targets.
      offset_x: mean of the features, minus `origin_x`.
      offset_t: mean of the targets, minus `origin_t`.
      cov_xx: covariance of the features, divided by N.
      cov_xt: covariance of features and targets, divided by N.
      var_t: variance of each target, divided by N.
    """

    count: Float[Array, ""]
    origin_x: Float[Array, " d"]
    origin_t: Float[Array, " k"]
    offset_x: Float[Array, " d"]
    offset_t: Float[Array, " k"]
    cov_xx: Float[Array, "d d"]
    cov_xt: Float[Array, "d k"]
    var_t: Float[Array, " k"]

    @property
    def mean_x(self) -> Float[Array, " d"]:
        """Mean of the features."""
        return self.origin_x + self.offset_x

    @property
    def mean_t(self) -> Float[Array, " k"]:
        """Mean of the targets."""
        return self.origin_t + self.offset_t


def init_moments(d: int, k: int, dtype: DTypeLike = jnp.float32) -> Moments:
    """Returns the moments of no data: the neutral element of `merge_moments`."""
    for name, size in (("d", d), ("k", k)):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"expected {name} as a positive integer; got {size!r}.")
    # Buffers of their own, so that an update may be jitted with its state donated.
    shapes = (), (d,), (k,), (d,), (k,), (d, d), (d, k), (k,)
    return Moments(*(jnp.zeros(shape, dtype) for shape in shapes))


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Returns the moments of the union of two data sets (Chan's update).

    Args:
      a: moments of the first data set, which may be empty.
      b: moments of the second data set, of the same shapes.

    Returns:
      Moments as if they had been computed of both data sets at once.

    Raises:
      TypeError: if one of them is no `Moments`.
      ValueError: if their shapes do not agree.
    """
    require_alike(a=a, b=b)
    count = a.count + b.count
    share = b.count / jnp.where(count > 0, count, 1)
    between = share * (1 - share)
    empty = a.count == 0
    origin_x = jnp.where(empty, b.origin_x, a.origin_x)
    origin_t = jnp.where(empty, b.origin_t, a.origin_t)
    a_x, a_t = offsets_from(a, origin_x, origin_t)
    b_x, b_t = offsets_from(b, origin_x, origin_t)
    # Nothing has no mean; that of zero would be far away and cost digits.
    a_x, a_t = jnp.where(empty, b_x, a_x), jnp.where(empty, b_t, a_t)
    step_x, step_t = b_x - a_x, b_t - a_t

    def mix(u, v, outer):
        return u + share * (v - u) + between * outer

    return Moments(
        count,
        origin_x,
        origin_t,
        a_x + share * step_x,
        a_t + share * step_t,
        mix(a.cov_xx, b.cov_xx, jnp.outer(step_x, step_x)),
        mix(a.cov_xt, b.cov_xt, jnp.outer(step_x, step_t)),
        mix(a.var_t, b.var_t, step_t**2),
    )


def require_alike(**moments: Moments) -> None:
    """Refuses two that are no `Moments` of as many features and outputs."""
    for name, value in moments.items():
        require_record(name, value, Moments)
    (a, b), shapes = moments, [list(x.cov_xt.shape) for x in moments.values()]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"expected moments {a} and {b} of as many features and outputs; got "
            f"[d, k] = {shapes[0]} and {shapes[1]}."
        )


def offsets_from(
    moments: Moments, origin_x: Float[Array, " d"], origin_t: Float[Array, " k"]
) -> tuple[Float[Array, " d"], Float[Array, " k"]]:
    """Returns means from another origin; the difference of near origins is exact."""
    x = (moments.origin_x - origin_x) + moments.offset_x
    t = (moments.origin_t - origin_t) + moments.offset_t
    return x, t


def update_moments(
    moments: Moments,
    features: Float[Array, "n d"],
    targets: Float[Array, "n k"],
    weights: Float[Array, " n"] | None = None,
) -> Moments:
    """Returns `moments` with one more batch taken into account.

    Args:
      moments: the moments so far; `init_moments` to begin with.
      features: head inputs of the batch.
      targets: targets of the batch.
      weights: non-negative example weights; None means all ones.

    Returns:
      The moments of all data seen so far.

    Raises:
      TypeError: if an argument is of another kind.
      ValueError: if shapes do not agree.
    """
    require_record("moments", moments, Moments)
    d, k = moments.cov_xt.shape
    arrays = dict(features=features, targets=targets)
    require_shapes(dict(features="n d", targets="n k"), arrays, d=d, k=k)
    return merge_moments(moments, compute_moments(features, targets, weights))


def all_reduce_moments(moments: Moments, axis_name: str | tuple[str, ...]) -> Moments:
    """Merges the moments of all shards along a mapped mesh axis.

    To be called inside `jax.shard_map` or `jax.vmap(axis_name=...)`. What moves
    between devices is the moments, O(d^2 + d k) numbers, and never the features.

    Args:
      moments: this shard's moments.
      axis_name: name of the mapped axis, or names of several.

    Returns:
      The moments of the whole data set, the same on every shard.
    """
    count = lax.psum(moments.count, axis_name)
    share = moments.count / jnp.where(count > 0, count, 1)
    total = lambda value: lax.psum(share * value, axis_name)  # noqa: E731
    origin_x, origin_t = total(moments.origin_x), total(moments.origin_t)
    x, t = offsets_from(moments, origin_x, origin_t)
    offset_x, offset_t = total(x), total(t)
    step_x, step_t = x - offset_x, t - offset_t
    return Moments(
        count,
        origin_x,
        origin_t,
        offset_x,
        offset_t,
        total(moments.cov_xx + jnp.outer(step_x, step_x)),
        total(moments.cov_xt + jnp.outer(step_x, step_t)),
        total(moments.var_t + step_t**2),
    )


def compute_moments(
    features: Float[Array, "n d"],
    targets: Float[Array, "n k"],
    weights: Float[Array, " n"] | None = None,
) -> Moments:
    r"""Returns the moments of one array pair in a single pass over blocks of rows.

    Each block is centred and multiplied while it is in the cache, so there is no
    centred copy of the features. Only the upper triangle of the symmetric product
    is formed. Rows of weight zero are never looked at: they may hold NaN.

    The derivative costs one product of the size of the forward pass.

    Args:
      features: head inputs. Half precision is accumulated in float32.
      targets: targets, one column an output.
      weights: non-negative example weights; None means all ones.

    Returns:
      The `Moments`; all zero when the total weight is zero.

    Raises:
      TypeError: if an argument is no array of real numbers.
      ValueError: if ranks or lengths do not agree, there are no rows, or a weight is
        visibly negative (where it is traced, the status of the head says so).

    Example:
      >>> features = jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
      >>> moments = lj.compute_moments(features, features[:, :1])
      >>> print(moments.count, moments.mean_x)
      3.0 [2. 3.]
    """
    features, targets = as_real("features", features), as_real("targets", targets)
    weights = None if weights is None else as_real("weights", weights)
    _check_shapes(features, targets, weights)
    dtype = _accumulation_dtype(features, targets)
    features, targets = (jnp.asarray(x).astype(dtype) for x in (features, targets))
    if weights is not None:
        weights = jnp.asarray(weights).astype(dtype)
        weights = jnp.where(weights < 0, jnp.nan, weights)  # the status tells
        used = (weights != 0)[:, None]
        features = jnp.where(used, features, jnp.zeros((), dtype))
        targets = jnp.where(used, targets, jnp.zeros((), dtype))
    return Moments(*blocked_moments(features, targets, weights))


def _accumulation_dtype(*arrays):
    """Double precision if any array has it, else float32, also for halves."""
    is_double = any(a.dtype == jnp.float64 for a in arrays)
    return jax.dtypes.canonicalize_dtype(jnp.float64 if is_double else jnp.float32)


def _check_shapes(features, targets, weights):
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets):
        raise ValueError(
            "expected features [n, d] and targets [n, k] with the same n; got "
            f"features {features.shape} and targets {targets.shape}. A single output "
            "needs targets[:, None]."
        )
    if len(features) == 0:
        raise ValueError("expected at least one example; got an empty batch.")
    if weights is not None and weights.shape != features.shape[:1]:
        raise ValueError(
            f"expected weights of shape {features.shape[:1]}, one an example; got "
            f"{weights.shape}."
        )
    if weights is not None and not isinstance(weights, Tracer):
        if np.any(np.asarray(weights) < 0):
            raise ValueError(
                f"expected weights of at least zero; got {np.min(weights)}. To leave "
                "an example out give it weight zero."
            )
