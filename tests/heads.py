"""A head of a given norm, as the tests ask for it: an array of norms and options."""

import jax.numpy as jnp

import lagrange_jax as lj

__all__ = ["solve_norm"]


def solve_norm(data, norm_sq, *, tie_break=None, use_bias=True, **options):
    """One sphere an output for norms `[k]`, one for the whole kernel for a scalar."""
    if isinstance(data, lj.Moments):
        data = lj.decompose(data, use_bias=use_bias)
    bound = lj.constraints.fixed_norm(
        norm_sq, per_output=jnp.ndim(norm_sq) > 0, **options
    )
    return lj.solve_least_squares(data, bound, tie_break=tie_break)
