"""What makes an extrapolated strength doubtful, in sentences."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from lagrange_jax.strengths.curves import LossCurves, MeanOptimum

__all__ = ["doubts_of_distance", "doubts_of_law", "doubts_of_optima"]


def doubts_of_optima(curves: LossCurves, optimum: MeanOptimum) -> Iterator[str]:
    """Optima at an edge of the grid."""
    for side, flags in (("lower", optimum.is_low), ("upper", optimum.is_high)):
        if flags.any():
            sizes = ", ".join(f"{n:g}" for n in curves.sizes[flags])
            yield (
                f"the best strength lies at the {side} edge of the grid for N = {sizes}"
                ": it is there or beyond. Such a size is left out where others remain."
            )


def doubts_of_distance(
    sizes: Float[np.ndarray, " sizes"], to_examples: float, largest_factor: float
) -> Iterator[str]:
    """A long way from the sweep."""
    factor = max(to_examples / sizes[-1], sizes[0] / to_examples)
    if factor > largest_factor:
        yield (
            f"N = {to_examples:g} is a factor of {factor:.3g} away from the sweep, "
            f"more than {largest_factor:g}: sweep a nearer size."
        )


def doubts_of_law(
    optimum: MeanOptimum,
    sizes: Float[np.ndarray, " sizes"],
    slope: float,
    quantile: float,
) -> Iterator[str]:
    """A strength that rises, and a line that bends beyond its error."""
    use = ~(optimum.is_low | optimum.is_high) & np.isfinite(optimum.variance)
    if slope >= 0:
        yield f"the best strength does not fall with N: exponent {slope:.2f}."
    if use.sum() < 4:
        return
    x, y, spread = (
        a[use] for a in (np.log(sizes), optimum.log_strength, optimum.variance)
    )
    design = np.stack([np.ones_like(x), x - x[-1], (x - x[-1]) ** 2], 1)
    covariance = np.linalg.inv(design.T @ (design / spread[:, None]))
    _, last, bend = covariance @ design.T @ (y / spread)
    if abs(bend) > quantile * np.sqrt(covariance[2, 2]):
        first = last + 2 * bend * (x[0] - x[-1])
        yield (
            f"the law is not straight: local exponent {first:.2f} at N = "
            f"{sizes[use][0]:g} and {last:.2f} at {sizes[use][-1]:g}."
        )
