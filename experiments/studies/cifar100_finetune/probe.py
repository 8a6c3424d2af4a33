"""Linear probing by training: what a solved head is the closed form of."""

import numpy as np

from experiments.backbones.problem import Split
from experiments.common.class_heads import Head
from experiments.common.head_training import train_heads

__all__ = ["PROBED", "probe"]

PROBED = "probed/"
"""Before the name of a head: it is trained on the frozen features, before all else."""

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Of Adam; each trains by itself, and the examples held out choose."""

EPOCHS = 200
"""At most: the examples held out say when to stop."""


def probe(head: Head, train: Split, validation: Split, batch_size: int, seed: int):
    """Returns the `Head` of least validation loss on the way of training.

    Args:
      head: to begin with.
      train: features of the images to train on.
      validation: features of those held out.
      batch_size: images in a step.
      seed: of their order.
    """
    curves, heads = train_heads(
        head[:2],
        train,
        validation,
        validation,
        rates=RATES,
        epochs=EPOCHS,
        evaluations=1,
        batch_size=batch_size,
        seed=seed,
    )
    losses = curves.validation_loss
    i, rate = np.unravel_index(losses.argmin(), losses.shape)
    info = {"probe_rate": RATES[rate], "probe_epochs": float(curves.epochs[i])}
    return Head(heads.kernel[:, rate], heads.bias[rate], info)
