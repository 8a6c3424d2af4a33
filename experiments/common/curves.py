"""Curves of a training: which examples a step sees, and when a target is reached."""

import numpy as np
from jaxtyping import Float, Int

__all__ = ["epochs_to", "shuffled_batches"]


def shuffled_batches(
    seed: int, n: int, batch_size: int, num_batches: int
) -> Int[np.ndarray, "num_batches batch_size"]:
    """Returns indices: permutations of `n` examples in a row, cut in batches."""
    random = np.random.default_rng(seed)
    needed = num_batches * batch_size
    passes = [random.permutation(n) for _ in range(-(-needed // n))]
    return np.concatenate(passes)[:needed].reshape(num_batches, batch_size)


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
