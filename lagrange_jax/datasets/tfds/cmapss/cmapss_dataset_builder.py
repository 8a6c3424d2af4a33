"""C-MAPSS as a TensorFlow Datasets builder that needs no TensorFlow."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lagrange_jax.datasets import cmapss_files

__all__ = ["Builder"]


class Builder(tfds.core.GeneratorBasedBuilder):
    """One configuration for each of FD001 to FD004; one example an engine.

    Args:
      checksums: what NASA's texts must be, by file name.
      **kwargs: those of every TFDS builder.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = cmapss_files.INSTRUCTIONS
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=subset, description=f"Data set {subset}.")
        for subset in cmapss_files.SUBSETS
    ]

    def __init__(
        self,
        *,
        checksums: Mapping[str, cmapss_files.Checksum] = cmapss_files.CHECKSUMS,
        **kwargs: Any,
    ):
        self._checksums = checksums
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        columns = {
            "settings": cmapss_files.NUM_SETTINGS,
            "sensors": cmapss_files.NUM_SENSORS,
        }
        features = {
            name: tfds.features.Tensor(shape=(None, count), dtype=np.float32)
            for name, count in columns.items()
        }
        scalars = {
            name: tfds.features.Tensor(shape=(), dtype=np.int32)
            for name in ("unit", "rul")
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({**scalars, **features}),
            supervised_keys=None,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        # Everything is read and checked here, before TFDS writes a first record.
        engines = cmapss_files.read_subset(
            dl_manager.manual_dir, str(self.builder_config_name), self._checksums
        )
        return {name: self._generate_examples(some) for name, some in engines.items()}

    def _generate_examples(
        self, engines: list[cmapss_files.Engine]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for engine in engines:
            yield engine.unit, engine._asdict()
