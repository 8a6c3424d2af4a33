"""TensorFlow Datasets without TensorFlow: data sets prepared once, then read back."""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["find_foreign", "load_records", "prepared_builder", "read_records"]

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


def _prepare(builder: Any, manual_dir: Path | None) -> None:
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    try:
        builder.download_and_prepare(download_config=config)
    except OSError:
        # TFDS moves the finished folder into place. Where another process was first
        # the move fails, and that folder is as good as ours.
        if not builder.data_path.exists():
            raise


def _find_data_dir(data_dir: str | os.PathLike | None) -> str | None:
    """TFDS reads the environment variable once, when it is imported."""
    if data_dir is None:
        return os.environ.get("TFDS_DATA_DIR") or None
    return os.fspath(data_dir)


def prepared_builder(
    name: str,
    config: str,
    *,
    find_manual_dir: Callable[[], Path] | None = None,
    data_dir: str | os.PathLike | None = None,
    **builder_kwargs: Any,
) -> Any:
    """Returns the TFDS builder of a data set, which is prepared on the first call.

    Args:
      name: name of the builder's package in this one.
      config: name of the builder's configuration.
      find_manual_dir: returns the folder of the files fetched by hand; called only
        when the data set is not prepared yet. None: the builder needs none.
      data_dir: where prepared data sets lie; None takes TFDS's own default, which is
        `tensorflow_datasets` in the home directory unless TFDS_DATA_DIR is set.
      **builder_kwargs: further arguments of the builder.

    Raises:
      ModuleNotFoundError: the extra `data` is not installed.
    """
    _check_installed(name)
    module = importlib.import_module(f"{__name__}.{name}.{name}_dataset_builder")
    make = functools.partial(
        module.Builder,
        config=config,
        data_dir=_find_data_dir(data_dir),
        file_format=_file_format(),
        **builder_kwargs,
    )
    builder = make()
    if not builder.data_path.exists():
        _prepare(builder, find_manual_dir() if find_manual_dir else None)
        builder = make()
    return builder


def find_foreign(name: str, data_dir: str | os.PathLike | None = None) -> Any:
    """Returns the builder of a data set that TFDS's builder of that name prepared.

    Args:
      name: name of TFDS's builder, one without configurations.
      data_dir: see `prepared_builder`.

    Returns:
      A builder to read from, of the newest version, or None where there is none.

    Raises:
      ModuleNotFoundError: the extra `data` is not installed.
    """
    _check_installed(name)
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import file_utils

    roots = file_utils.list_data_dirs(_find_data_dir(data_dir))
    infos = [
        path
        for root in roots
        for path in Path(root).glob(f"{name}/[0-9]*.[0-9]*.[0-9]*/dataset_info.json")
    ]
    newest = max(
        infos, key=lambda x: [int(n) for n in x.parent.name.split(".")], default=None
    )
    return newest and tfds.builder_from_directory(os.fspath(newest.parent))


def _split_tfrecord(path: Path) -> Iterator[bytes]:
    """Yields records: in front of each its length in 8 bytes and 4 of checksum."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        start = at + 12
        stop = start + int.from_bytes(data[at : at + 8], "little")
        if stop + 4 > len(data):
            raise ValueError(f"{path} is cut short; prepare the data set anew.")
        yield data[start:stop]
        at = stop + 4


def read_records(builder: Any) -> dict[str, list[dict[str, Any]]]:
    """Returns all examples of a prepared data set.

    Args:
      builder: what `prepared_builder` or `find_foreign` returned.

    Returns:
      The examples of each split as dictionaries of NumPy values, in no fixed order.

    Raises:
      ValueError: a file is cut short.
    """
    splits, features = builder.info.splits, builder.info.features
    # TFDS's default format, which TFDS itself reads with TensorFlow only.
    if builder.info.file_format.value == "tfrecord":
        return {
            name: [
                features.deserialize_example_np(record)
                for path in split.filepaths
                for record in _split_tfrecord(Path(path))
            ]
            for name, split in splits.items()
        }
    return {name: list(builder.as_data_source(name)) for name in splits}


def load_records(
    name: str, config: str, **kwargs: Any
) -> dict[str, list[dict[str, Any]]]:
    """Returns all examples of a data set, which is prepared on the first call.

    Args:
      name: name of the builder's package in this one.
      config: name of the builder's configuration.
      **kwargs: those of `prepared_builder`.

    Returns:
      The examples of each split as dictionaries of NumPy values, in no fixed order.

    Raises:
      ModuleNotFoundError: the extra `data` is not installed.
    """
    return read_records(prepared_builder(name, config, **kwargs))
