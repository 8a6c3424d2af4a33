"""Moments of what is left when a part of the data is taken away again."""

import jax.numpy as jnp

from lagrange_jax.statistics.moments import Moments, offsets_from, require_alike

__all__ = ["subtract_moments"]


def subtract_moments(whole: Moments, part: Moments) -> Moments:
    r"""Returns the moments of what is left when a part is taken away again.

    The inverse of `merge_moments`: a client leaves, a batch was wrong, a day is past.
    The whole must hold the part. With R the share of the weight that is left, rounding
    grows by $1 / R$, and by the squared distance of the means over the variance that
    is left: where little is left, or something very unlike the part, merge the other
    parts instead.

    Args:
      whole: moments of the whole data set.
      part: moments of a part of it, of the same shapes.

    Returns:
      Moments of the rest; all zero where nothing is left. A part of more weight than
      the whole leaves a negative weight, which the status of a head tells.

    Raises:
      TypeError: if one of them is no `Moments`.
      ValueError: if their shapes do not agree.
    """
    require_alike(whole=whole, part=part)
    count = whole.count - part.count
    share = part.count / jnp.where(count == 0, 1, count)
    # From where the whole has its origin; means of the rest lie on the line onwards.
    w_x, w_t = whole.offset_x, whole.offset_t
    p_x, p_t = offsets_from(part, whole.origin_x, whole.origin_t)
    step_x, step_t = w_x - p_x, w_t - p_t
    between = share * (1 + share)

    def rest(u, v, outer):
        return jnp.where(count == 0, 0, u + share * (u - v) - between * outer)

    variance = rest(whole.var_t, part.var_t, step_t**2)
    return Moments(
        count,
        whole.origin_x,
        whole.origin_t,
        jnp.where(count == 0, 0, w_x + share * step_x),
        jnp.where(count == 0, 0, w_t + share * step_t),
        rest(whole.cov_xx, part.cov_xx, jnp.outer(step_x, step_x)),
        rest(whole.cov_xt, part.cov_xt, jnp.outer(step_x, step_t)),
        jnp.maximum(variance, 0),
    )
