"""Measures of a prediction and of a training curve."""

import numpy as np
from jaxtyping import Float

__all__ = ["epochs_to", "nasa_score", "rmse"]


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


def epochs_to(
    target: float, epochs: Float[np.ndarray, " m"], losses: Float[np.ndarray, " m"]
) -> float:
    """Returns when a loss curve first reaches a target, by linear interpolation.

    Args:
      target: the loss to reach.
      epochs: when the losses were measured, ascending.
      losses: the losses.

    Returns:
      The epoch, or infinity where the target is not reached.
    """
    reached = np.flatnonzero(losses <= target)
    if not len(reached):
        return float("inf")
    i = reached[0]
    if i == 0:
        return float(epochs[0])
    share = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    return float(epochs[i - 1] + share * (epochs[i] - epochs[i - 1]))
