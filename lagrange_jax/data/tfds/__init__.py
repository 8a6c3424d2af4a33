"""TensorFlow Datasets without TensorFlow: data sets prepared once, then read back."""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["load_records"]

# TFDS imports importlib_resources without declaring it.
_REQUIRED = ("tensorflow_datasets", "importlib_resources")


def _check_installed(name: str) -> None:
    missing = [n for n in _REQUIRED if importlib.util.find_spec(n) is None]
    if missing:
        raise ModuleNotFoundError(
            f"The {name} data need {' and '.join(missing)}: "
            "pip install lagrange-jax[data]",
            name=missing[0],
        )


def _file_format() -> str:
    """array_record, which TFDS offers on Linux only; parquet elsewhere."""
    return "array_record" if importlib.util.find_spec("array_record") else "parquet"


def _prepare(builder: Any, manual_dir: Path) -> None:
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    try:
        builder.download_and_prepare(download_config=config)
    except OSError:
        # TFDS moves the finished folder into place. Where another process was first
        # the move fails, and that folder is as good as ours.
        if not builder.data_path.exists():
            raise


def load_records(
    name: str,
    config: str,
    *,
    find_manual_dir: Callable[[], Path],
    data_dir: str | os.PathLike | None = None,
    **builder_kwargs: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Returns all examples of a data set, which is prepared on the first call.

    Args:
      name: name of the builder's package in this one.
      config: name of the builder's configuration.
      find_manual_dir: returns the folder of the files fetched by hand; called only
        when the data set is not prepared yet.
      data_dir: where prepared data sets lie; None takes TFDS's own default, which is
        `tensorflow_datasets` in the home directory unless TFDS_DATA_DIR is set.
      **builder_kwargs: further arguments of the builder.

    Returns:
      The examples of each split as dictionaries of NumPy values, in no fixed order.

    Raises:
      ModuleNotFoundError: the extra `data` is not installed.
    """
    _check_installed(name)
    module = importlib.import_module(f"{__name__}.{name}.{name}_dataset_builder")
    make_builder = functools.partial(
        module.Builder,
        config=config,
        data_dir=None if data_dir is None else os.fspath(data_dir),
        file_format=_file_format(),
        **builder_kwargs,
    )
    builder = make_builder()
    if not builder.data_path.exists():
        _prepare(builder, find_manual_dir())
        builder = make_builder()
    return {split: list(builder.as_data_source(split)) for split in builder.info.splits}
