"""What is known, before a sweep, of how the best strength moves with N and recipe."""

from typing import Literal, NamedTuple

__all__ = ["EXPONENTS", "RECIPE_EXPONENTS", "Exponent", "Penalty"]

Penalty = Literal["l2", "l1", "decoupled"]
"""A penalty in the loss, L2 or L1, or AdamW's decoupled decay."""


class Exponent(NamedTuple):
    """A normal prior on an exponent, such as that of N.

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

_COUPLED = {
    "batch_size": Exponent(0.0, 0.1),
    "learning_rate": Exponent(0.0, 0.3),
    "num_epochs": Exponent(0.0, 0.2),
}
RECIPE_EXPONENTS: dict[str, dict[str, Exponent]] = {
    "l2": _COUPLED,
    "l1": _COUPLED,
    "decoupled": {
        "batch_size": Exponent(0.4, 0.25),
        "learning_rate": Exponent(0.0, 0.25),
        "num_epochs": Exponent(0.0, 0.2),
    },
}
"""Priors on the exponents of a recipe at fixed N, by penalty.

From the study of regret, each of the three times 4 and divided by 4 (the rate divided)
on two tasks with four seeds. For Adam with L2 the best strengths stay; for AdamW they
go as the batch size to the powers 0.1 to 0.7 and hardly move with the rate: the
constant timescale B / (rate N), which would have 1 and -1, is not seen. L1 was not
measured and takes what L2 has.
"""
