"""Examples of every task: real tables of scikit-learn and two that are drawn."""

from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets

from lagrange_jax import Batch

__all__ = ["TASKS", "Task", "draw", "sizes_of"]


class Task(NamedTuple):
    """One problem.

    Attributes:
      largest: examples to train on at most; the others are held out.
      classes: number of classes, or 0 for regression.
      load: `load(seed) -> (inputs, targets)`, in any order; real tables ignore the
        seed.
    """

    largest: int
    classes: int
    load: Any


def _table(name):
    return lambda seed: getattr(datasets, f"load_{name}")(return_X_y=True)


def _clouds(seed):
    """Two spherical clouds, as `gaussian_clouds` draws them."""
    random = np.random.default_rng(seed)
    labels = np.arange(1024 + 4096) % 2
    centre = 13.86 / 2 / 10**0.5
    noise = 8 * random.normal(size=(len(labels), 10))
    return noise + centre * (2 * labels[:, None] - 1), labels


def _friedman(seed):
    return datasets.make_friedman1(1024 + 4096, noise=2.0, random_state=seed)


TASKS = {
    "clouds": Task(1024, 2, _clouds),
    "digits": Task(1280, 10, _table("digits")),
    "diabetes": Task(300, 0, _table("diabetes")),
    "breast_cancer": Task(400, 2, _table("breast_cancer")),
    "wine": Task(120, 3, _table("wine")),
    "friedman": Task(1024, 0, _friedman),
}


def draw(name: str, seed: int) -> tuple[Batch, Batch]:
    """Returns examples to train on, in random order, and held-out ones.

    Inputs have mean zero and variance one over the examples to train on, constant
    columns are zero; targets of regression likewise, labels are one-hot.
    """
    task = TASKS[name]
    inputs, targets = (np.asarray(x, float) for x in task.load(seed))
    order = np.random.default_rng(1000 + seed).permutation(len(inputs))
    inputs, targets = inputs[order], targets[order]
    inputs = _standardise(inputs, task.largest)
    if task.classes:
        targets = np.eye(task.classes)[targets.astype(int)]
    else:
        targets = _standardise(targets[:, None], task.largest)
    inputs, targets = inputs.astype("f4"), targets.astype("f4")
    cut = task.largest
    return Batch(inputs[:cut], targets[:cut]), Batch(inputs[cut:], targets[cut:])


def sizes_of(name: str, smallest: int, most: int) -> tuple[int, ...]:
    """The largest number of examples and its halves, increasing."""
    halves = [TASKS[name].largest // 2**k for k in range(most)]
    return tuple(sorted(n for n in halves if n >= smallest))


def _standardise(x, count):
    mean, std = x[:count].mean(0), x[:count].std(0)
    return np.where(std > 0, (x - mean) / np.where(std > 0, std, 1), 0)
