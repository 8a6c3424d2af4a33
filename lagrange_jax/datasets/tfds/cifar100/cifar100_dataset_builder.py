"""CIFAR-100 as a TensorFlow Datasets builder that needs no TensorFlow."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lagrange_jax.datasets import cifar100_files as files

__all__ = ["Builder"]

BLOCK = 500
"""Images in a record: reading one costs about as much as reading one image would."""


# Not registered: TFDS has a builder of this name, which needs TensorFlow.
class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """CIFAR-100 in blocks of images, in the order of the official archive.

    Args:
      find_archive: returns the archive that the user fetched, or None if TFDS is to
        download it; called only when the data are prepared.
      **kwargs: those of every TFDS builder.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="blocks", description="500 images a record.")
    ]

    def __init__(
        self, *, find_archive: Callable[[], Path | None] = lambda: None, **kwargs: Any
    ):
        self._find_archive = find_archive
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def labels(count):
            return tfds.features.Sequence(tfds.features.ClassLabel(num_classes=count))

        features = {
            "first": tfds.features.Tensor(shape=(), dtype=np.int32),
            "images": tfds.features.Tensor(
                shape=(None, *files.IMAGE_SHAPE),
                dtype=np.uint8,
                encoding=tfds.features.Encoding.BYTES,
            ),
            "labels": labels(files.NUM_LABELS),
            "coarse_labels": labels(files.NUM_COARSE_LABELS),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=None,
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            metadata=tfds.core.MetadataDict(),
        )

    def _download(self, dl_manager: tfds.download.DownloadManager) -> Path:
        try:
            return Path(dl_manager.download(files.URL))
        except (OSError, tfds.download.DownloadError) as error:
            raise FileNotFoundError(
                f"{files.ARCHIVE} could not be downloaded ({error}). "
                f"{files.INSTRUCTIONS}"
            ) from error

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        # Everything is read and checked here, before TFDS writes a first record.
        path = self._find_archive() or self._download(dl_manager)
        archive = files.read_archive(path)
        info: Any = self.info
        info.features["labels"].feature.names = archive.label_names
        info.features["coarse_labels"].feature.names = archive.coarse_label_names
        info.metadata["archive_sha256"] = archive.sha256
        return {
            "train": self._generate_examples(archive.train),
            "test": self._generate_examples(archive.test),
        }

    def _generate_examples(
        self, part: files.Part
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for first in range(0, len(part.labels), BLOCK):
            block = {
                name: array[first : first + BLOCK]
                for name, array in part._asdict().items()
            }
            yield first, {"first": first, **block}
