"""Moments of arrays in one pass over blocks of rows, with a derivative by hand."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax.numerics.linalg import dot

__all__ = ["blocked_moments"]

# Entries of a block of rows that is centred and multiplied while it is in a cache.
BLOCK_ENTRIES = 2**17
# With fewer rows, adding up the products of blocks costs too much beside forming
# them; with more, float32 sums within a block lose digits.
MIN_BLOCK_ROWS = 256
MAX_BLOCK_ROWS = 1024
# Columns of one strip of a symmetric product: wide enough for the matrix unit to be
# busy, narrow enough that skipping the lower triangle pays, and a multiple of the
# 48 (AVX-512), 24 and 16 columns that products handle at a time.
STRIP_COLUMNS = 144
# Rows that the origin is the mean of.
ORIGIN_ROWS = 1024


@jax.custom_vjp
def blocked_moments(
    features: Float[Array, "n d"],
    targets: Float[Array, "n k"],
    weights: Float[Array, " n"] | None,
) -> tuple[Array, ...]:
    r"""Returns the fields of `Moments`, in order.

    The derivative is written by hand from
    $dS = \frac{1}{N} \sum_n a_n (d\phi_n \tilde\phi_n^T + \tilde\phi_n d\phi_n^T)$ with
    centred $\tilde\phi_n$.

    Args:
      features: head inputs, zero where the weight is zero.
      targets: targets, likewise.
      weights: non-negative example weights; None means all ones.
    """
    n, d = features.shape
    origin_x, origin_t = _origin(features, weights), _origin(targets, weights)

    def block_sums(start, size):
        take = lambda a: lax.dynamic_slice_in_dim(a, start, size)  # noqa: E731
        x, t, a = jax.tree.map(take, (features, targets, weights))
        return _sums(x - origin_x[None], t - origin_t[None], a)

    def step(i, sums):
        return jax.tree.map(jnp.add, sums, block_sums(first + i * rows, rows))

    rows = min(max(BLOCK_ENTRIES // d, MIN_BLOCK_ROWS), MAX_BLOCK_ROWS)
    first = n % rows or rows
    sums = block_sums(0, first)
    if n > first:
        sums = lax.fori_loop(0, (n - first) // rows, step, sums)
    count, sum_x, sum_t, strips, cross, squares = sums
    scale = 1 / jnp.where(count > 0, count, 1)
    x, t = scale * sum_x, scale * sum_t
    cov_xx = scale * _symmetric(strips) - jnp.outer(x, x)
    cov_xt = scale * cross.T - jnp.outer(x, t)
    return count, origin_x, origin_t, x, t, cov_xx, cov_xt, scale * squares - t**2


def _origin(rows, weights):
    """Mean of some rows that count: near the data, wherever the weights are."""
    some = rows[:: -(-len(rows) // ORIGIN_ROWS)]
    if weights is None:
        return some.mean(0)
    share = weights[:: -(-len(rows) // ORIGIN_ROWS)]
    total = share.sum()
    mean = dot(share, some) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, mean, rows[jnp.argmax(weights)])


def _sums(x, t, weights):
    """Sums over one block; of x^T x only strips on and above the diagonal.

    Targets come first in their product with the features: the result's long rows
    are what products are fast at.
    """
    a, b, count = x, t, jnp.asarray(len(x), x.dtype)
    if weights is not None:
        a, b, count = weights[:, None] * x, weights[:, None] * t, weights.sum()
    stops = range(x.shape[1], 0, -STRIP_COLUMNS)
    starts = [max(stop - STRIP_COLUMNS, 0) for stop in stops]
    strips = [
        dot(a[:, start:stop].T, x[:, start:])
        for start, stop in zip(starts, stops, strict=True)
    ]
    return count, a.sum(0), b.sum(0), strips[::-1], dot(b.T, x), (b * t).sum(0)


def _symmetric(strips):
    """The whole matrix from its strips on and above the diagonal.

    Strip by strip: transposing it as a whole runs against the cache.
    """
    d = strips[0].shape[1]
    whole, start = jnp.zeros((d, d), strips[0].dtype), 0
    for strip in strips:
        width = len(strip)
        block = jnp.triu(strip[:, :width])
        strip = strip.at[:, :width].set(block + jnp.triu(block, 1).T)
        whole = lax.dynamic_update_slice(whole, strip, (start, start))
        whole = lax.dynamic_update_slice(whole, strip.T, (start, start))
        start += width
    return whole


def _forward(features, targets, weights):
    moments = blocked_moments(features, targets, weights)
    return moments, (features, targets, weights, moments)


def _backward(residuals, bar):
    features, targets, weights, moments = residuals
    count, origin_x, origin_t, offset_x, offset_t, *quadratic = moments
    # Origins are constants: a mean moves with its offset.
    count_bar, _, _, offset_x_bar, offset_t_bar, *quadratic_bar = bar
    xx_bar, xt_bar, tt_bar = quadratic_bar
    x, t = features - (origin_x + offset_x)[None], targets - (origin_t + offset_t)[None]
    x_bar = dot(x, xx_bar + xx_bar.T) + dot(t, xt_bar.T)
    t_bar = dot(x, xt_bar) + 2 * t * tt_bar[None]
    scale = 1 / jnp.where(count > 0, count, 1)
    x_grad, t_grad = x_bar + offset_x_bar[None], t_bar + offset_t_bar[None]
    if weights is None:
        return scale * x_grad, scale * t_grad, None
    constant = sum(map(jnp.vdot, quadratic, quadratic_bar))
    # Quadratic in x and t, so that x . x_bar counts it twice.
    terms = ((x * x_bar).sum(1) + (t * t_bar).sum(1)) / 2
    terms = terms + dot(x, offset_x_bar) + dot(t, offset_t_bar)
    weights_bar = count_bar + scale * (terms - constant)
    share = scale * weights[:, None]
    return share * x_grad, share * t_grad, weights_bar


blocked_moments.defvjp(_forward, _backward)
