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

EPOCHS = 50
"""At most: the examples held out say when to stop."""


def probe(head: Head, train: Split, validation: Split, batch_size: int, seed: int):
    """Returns the `Head` of least validation loss on the way of training.

    It is trained a second time, for its best rate and up to its best epoch.

    Args:
      head: to begin with.
      train: features of the images to train on.
      validation: features of those held out.
      batch_size: images in a step.
      seed: of their order.
    """

    def fit(rates, epochs):
        return train_heads(
            head[:2],
            train,
            validation,
            validation,
            rates=rates,
            epochs=epochs,
            evaluations=1,
            batch_size=batch_size,
            seed=seed,
        )

    losses = fit(RATES, EPOCHS)[0].validation_loss
    epochs, rate = np.unravel_index(losses.argmin(), losses.shape)
    kernels, biases = fit((RATES[rate],), int(epochs))[1]
    info = {"probe_rate": RATES[rate], "probe_epochs": int(epochs)}
    return Head(kernels[:, 0], biases[0], info)
