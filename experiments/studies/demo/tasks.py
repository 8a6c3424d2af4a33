"""Real data that always load: scikit-learn's digits and diabetes."""

from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split

from lagrange_jax import Batch

__all__ = ["Task", "load_task"]


class Task(NamedTuple):
    """One problem, split into training and validation examples.

    Attributes:
      train: examples to train on.
      validation: held-out examples.
      outputs: of the network: classes, or 1 for regression.
      target: what the network is to predict, for a figure's title.
    """

    train: Batch
    validation: Batch
    outputs: int
    target: str


def load_task(name: str) -> Task:
    """Returns "digits" or "diabetes", standardised on the training examples."""
    if name == "digits":
        images, labels = _arrays(datasets.load_digits)
        inputs, targets = images / 16.0, labels
        outputs, title = 10, "digits, ten classes"
    elif name == "diabetes":
        inputs, progression = _arrays(datasets.load_diabetes)
        targets = progression[:, None]
        outputs, title = 1, "diabetes, standardised progression"
    else:
        raise ValueError(f"expected 'digits' or 'diabetes'; got {name!r}.")
    parts = train_test_split(inputs, targets, test_size=0.25, random_state=0)
    train_x, valid_x, train_t, valid_t = map(_narrow, parts)
    if name == "diabetes":
        scale = train_x.std(0)
        train_x, valid_x = train_x / scale, valid_x / scale
        mean, std = train_t.mean(0), train_t.std(0)
        train_t, valid_t = (train_t - mean) / std, (valid_t - mean) / std
    return Task(Batch(train_x, train_t), Batch(valid_x, valid_t), outputs, title)


def _narrow(x: Any) -> np.ndarray:
    dtype = np.float32 if np.issubdtype(np.asarray(x).dtype, np.floating) else np.int32
    return np.asarray(x, dtype)


def _arrays(load: Any) -> tuple[np.ndarray, np.ndarray]:
    return load(return_X_y=True)
