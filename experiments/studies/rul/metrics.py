"""Measures of a prediction."""

import numpy as np
from jaxtyping import Float

__all__ = ["nasa_score", "rmse"]


def rmse(predicted: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"]) -> float:
    """Returns the root mean squared error, in cycles if the arguments are."""
    return float(np.sqrt(np.mean((predicted - true) ** 2)))


def nasa_score(
    predicted: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"]
) -> float:
    r"""Returns NASA's asymmetric score, a sum over engines: late costs more.

    $\sum_n e^{d_n / 10} - 1$ where $d_n = \hat t_n - t_n \ge 0$, and
    $e^{-d_n / 13} - 1$ where it is negative.

    Args:
      predicted: predicted remaining useful life, in cycles.
      true: the true one.

    References:
      A. Saxena et al., Damage Propagation Modeling for Aircraft Engine Run-to-Failure
      Simulation, PHM, 2008.
    """
    late = np.asarray(predicted, float) - true
    return float(np.sum(np.expm1(np.where(late >= 0, late / 10, -late / 13))))
