"""Linear algebra, root finding and minimisation. Imports `_checks` alone."""

from lagrange_jax.numerics.secular import solve_secular

__all__ = ["solve_secular"]
