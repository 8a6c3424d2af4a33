"""Examples of every task: tables of scikit-learn, engines, images, and two drawn."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn import datasets

from experiments.backbones.features import extract_features
from experiments.backbones.problem import load_backbone
from lagrange_jax import Batch
from lagrange_jax.datasets import load_cifar100, load_cmapss

__all__ = ["FETCHED", "TASKS", "Task", "draw", "sizes_of"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lagrange_jax"


Load = Callable[[int], tuple[np.ndarray, np.ndarray]]


class Task(NamedTuple):
    """One problem.

    Attributes:
      largest: examples to train on at most; the others are held out.
      classes: number of classes, or 0 for regression.
      load: `load(seed) -> (inputs, targets)` in random order, those held out last.
    """

    largest: int
    classes: int
    load: Load


def _shuffled(load: Load) -> Load:
    def shuffled(seed):
        inputs, targets = load(seed)
        order = np.random.default_rng(1000 + seed).permutation(len(inputs))
        return inputs[order], targets[order]

    return shuffled


def _table(name):
    return _shuffled(lambda _: getattr(datasets, f"load_{name}")(return_X_y=True))


def _clouds(seed):
    """Two spherical clouds, as `gaussian_clouds` draws them."""
    random = np.random.default_rng(seed)
    labels = np.arange(1024 + 4096) % 2
    centre = 13.86 / 2 / 10**0.5
    noise = 8 * random.normal(size=(len(labels), 10))
    return noise + centre * (2 * labels[:, None] - 1), labels


def _friedman(seed):
    return datasets.make_friedman1(1024 + 4096, noise=2.0, random_state=seed)


def _engines(seed):
    """Windows of C-MAPSS FD001; those held out are of other engines."""
    splits = load_cmapss("FD001", validation_fraction=0.3, split_seed=seed)
    random, parts = np.random.default_rng(1000 + seed), []
    for part, count in ((splits.train, 1024), (splits.validation, 4096)):
        some = random.permutation(len(part.targets))[:count]
        parts.append((part.inputs[some].reshape(len(some), -1), part.targets[some]))
    inputs, targets = (np.concatenate(x) for x in zip(*parts, strict=True))
    return inputs, targets


@functools.cache
def _images():
    """Ten classes of CIFAR-100, as features of a ResNet-20 trained on CIFAR-10."""
    train, test = load_cifar100()[:2]
    images, labels = (np.concatenate(x) for x in zip(train[:2], test[:2], strict=True))
    kept = labels < 10
    network = load_backbone("resnet20", None, 32)
    return extract_features(network, images[kept], CACHE), labels[kept]


TASKS = {
    "clouds": Task(1024, 2, _shuffled(_clouds)),
    "digits": Task(1280, 10, _table("digits")),
    "diabetes": Task(300, 0, _table("diabetes")),
    "breast_cancer": Task(400, 2, _table("breast_cancer")),
    "wine": Task(120, 3, _table("wine")),
    "friedman": Task(1024, 0, _shuffled(_friedman)),
    "engines": Task(1024, 0, _engines),
    "images": Task(4096, 10, _shuffled(lambda _: _images())),
}
FETCHED = {"engines": "cmapss", "images": "cifar100/cifar-100-binary.tar.gz"}
"""What has to be fetched for a task; LAGRANGE_JAX_DATA names the folder above."""


def draw(name: str, seed: int) -> tuple[Batch, Batch]:
    """Returns examples to train on, in random order, and held-out ones.

    Inputs have mean zero and variance one over the examples to train on, constant
    columns are zero; targets of regression likewise, labels are one-hot.
    """
    task = TASKS[name]
    inputs, targets = (np.asarray(x, float) for x in task.load(seed))
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
