"""CIFAR-100: small colour images in 100 classes."""

import functools
import operator
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lagrange_jax.datasets.arrays import Dataset
from lagrange_jax.datasets.cifar100_files import find_archive
from lagrange_jax.datasets.tfds import find_foreign, prepared_builder, read_records

__all__ = ["Cifar100Splits", "load_cifar100"]


class Cifar100Splits(NamedTuple):
    """Images of 100 classes, in the order of the archive.

    In each `Dataset`, inputs are `[n, 32, 32, 3]` uint8, red, green and blue 0..255,
    and targets are `[n]` int32 classes 0..99. The official archive has 50,000 images
    for training and 10,000 for testing.

    Attributes:
      train: the images to train on.
      test: the images to test on.
      label_names: names of the 100 classes.
      coarse_labels: for each split, `[n]` int32 superclasses 0..19.
      coarse_label_names: names of the 20 superclasses.
      archive_sha256: of the archive that was read, None for a data set that TFDS's own
        builder prepared. `cifar100_files.OFFICIAL_SHA256` is the official one's.
    """

    train: Dataset
    test: Dataset
    label_names: tuple[str, ...]
    coarse_labels: dict[str, np.ndarray]
    coarse_label_names: tuple[str, ...]
    archive_sha256: str | None


_BLOCKS = ("first", ("images", "labels", "coarse_labels"), np.concatenate)
_SINGLE = ("id", ("image", "label", "coarse_label"), np.stack)
"""Layouts of our records and of those of TFDS's own builder, which are single images:
what tells the place in the archive, the features, and how they become arrays."""


def _read_arrays(builder: Any, order: str, features: Sequence[str], join: Any):
    """Returns images, labels and coarse labels of every split, in archive order."""
    dtypes = (np.uint8, np.int32, np.int32)
    arrays = {}
    for split, records in read_records(builder).items():
        records.sort(key=operator.itemgetter(order))
        arrays[split] = [
            join([record[feature] for record in records]).astype(dtype, copy=False)
            for feature, dtype in zip(features, dtypes, strict=True)
        ]
    return arrays


def _names(feature: Any) -> tuple[str, ...]:
    return tuple(getattr(feature, "feature", feature).names)


def load_cifar100(
    *,
    manual_dir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Cifar100Splits:
    """Returns the images and labels of CIFAR-100 as arrays.

    The first call prepares the data set from the official archive,
    `cifar-100-binary.tar.gz`, which is read where the user put it, or downloaded (161
    MiB) from the University of Toronto. Later calls read what was prepared, in a few
    seconds. A data set that TFDS's own builder `cifar100` has prepared in `data_dir` is
    read as it is, unless `manual_dir` is given. That takes longer, because it stores
    every image apart, and needs Pillow or OpenCV to decode them.

    A smaller archive of the same format serves too: any number of whole images, one at
    least, for training and for testing.

    Args:
      manual_dir: folder with the archive, or the folder above its `cifar100`. None
        takes the environment variable LAGRANGE_JAX_DATA; without that, or where that
        folder has no archive, it is downloaded.
      data_dir: where the prepared data set is kept; None takes TFDS's default,
        `tensorflow_datasets` in the home directory unless TFDS_DATA_DIR is set.

    Returns:
      The two data sets as NumPy arrays, coarse labels, and the names.

    Raises:
      FileNotFoundError: the data are neither prepared nor found, and cannot be
        downloaded; the message says what to fetch from where.
      ModuleNotFoundError: the extra `data` is not installed.
      ValueError: the archive is damaged or not of CIFAR-100; the message names the
        file and, where one can be told, the image.

    References:
      A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical
      report, University of Toronto, 2009.
    """
    builder, layout = None, _SINGLE
    if not manual_dir:
        builder = find_foreign("cifar100", data_dir)
    if builder is None:
        find = functools.partial(find_archive, manual_dir)
        builder = prepared_builder(
            "cifar100", "blocks", data_dir=data_dir, find_archive=find
        )
        layout = _BLOCKS
    arrays = _read_arrays(builder, *layout)
    label, coarse_label = (_names(builder.info.features[x]) for x in layout[1][1:])
    return Cifar100Splits(
        *(Dataset(*arrays[split][:2]) for split in ("train", "test")),
        label_names=label,
        coarse_labels={split: some[2] for split, some in arrays.items()},
        coarse_label_names=coarse_label,
        archive_sha256=(builder.info.metadata or {}).get("archive_sha256"),
    )
