"""Labelled features of frozen encoders, of which few are given to a head."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.backbones.features import extract_features
from experiments.backbones.problem import Split, load_backbone

__all__ = ["SOURCES", "Source", "draw", "numbers_of"]

UNITS = 256
"""Units of the random encoder."""


class Source(NamedTuple):
    """Where features are from.

    Attributes:
      label: what tables and figures call it.
      load: `load(data_dir, cache)` returns all examples that may be drawn.
    """

    label: str
    load: Callable[[str | None, str], Split]


def _digits(data_dir: str | None, cache: str) -> Split:
    """Digits, every pixel a square of 4 x 4, as a ResNet-20 of CIFAR-10 sees them."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    grey = (digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey.repeat(4, 1).repeat(4, 2)[..., None], 3, axis=3)
    backbone = load_backbone("resnet20", data_dir, 32)
    features = extract_features(backbone, images, cache, progress=False)
    return Split(features, digits.target.astype(np.int32))


def _breast_cancer(data_dir: str | None, cache: str) -> Split:
    """The standardised table behind one frozen layer of random rectified units."""
    from sklearn.datasets import load_breast_cancer

    table: Any = load_breast_cancer()
    inputs = (table.data - table.data.mean(0)) / table.data.std(0)
    weights = np.random.default_rng(0).normal(size=(inputs.shape[1], UNITS))
    hidden = np.maximum(inputs @ weights * np.sqrt(2 / len(weights)), 0)
    return Split(hidden.astype(np.float32), table.target.astype(np.int32))


SOURCES = {
    "digits": Source("digits, ResNet-20 of CIFAR-10", functools.cache(_digits)),
    "breast_cancer": Source(
        "breast cancer, 256 random units", functools.cache(_breast_cancer)
    ),
}


def numbers_of(split: Split, numbers: tuple[int, ...]) -> list[int]:
    """Returns which numbers leave ten of a class, and a quarter to test with."""
    least, most = 10 * len(np.unique(split.labels)), 0.75 * len(split.labels)
    return [number for number in numbers if least <= number <= most]


def draw(split: Split, number: int, seed: int) -> tuple[Split, Split]:
    """Returns `number` examples, of every class its share, and all others."""
    from sklearn.model_selection import train_test_split

    here, there = train_test_split(
        np.arange(len(split.labels)),
        train_size=number,
        stratify=split.labels,
        random_state=seed,
    )
    return Split(*(x[here] for x in split)), Split(*(x[there] for x in split))
