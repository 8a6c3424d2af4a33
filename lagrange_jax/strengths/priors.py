"""What is known of the exponent of N before a sweep."""

from typing import Literal, NamedTuple

__all__ = ["EXPONENTS", "Exponent", "Penalty"]

Penalty = Literal["l2", "l1", "decoupled"]
"""A penalty in the loss, L2 or L1, or AdamW's decoupled decay."""


class Exponent(NamedTuple):
    """A normal prior on the exponent of N.

    Attributes:
      mean: its mean.
      std: its standard deviation; 0 fixes the exponent.
    """

    mean: float
    std: float


EXPONENTS: dict[str, Exponent] = {
    "l2": Exponent(-0.6, 0.3),
    "l1": Exponent(-0.7, 0.4),
    "decoupled": Exponent(-0.45, 0.25),
}
"""Priors by penalty, for a fixed number of epochs, batch size and learning rate.

From the study of regret, six tasks: means over all sizes (and over the larger half) of
-0.69 (-0.47) for L2 under gradient descent and Adam, -0.70 (-0.72) for L1, and -0.47
(-0.31) for AdamW; the standard deviation is that between tasks.
"""
