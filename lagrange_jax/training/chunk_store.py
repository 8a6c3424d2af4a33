"""Chunks of results in a folder, each an Orbax checkpoint of its own.

A chunk is there whole or not at all: it is written under another name and renamed. What
the disk does to it later is found by the checksums of its files. A damaged chunk is put
aside, never deleted, and counts as not there.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Chunk", "open_folder", "read_chunks", "save_chunk"]

UNFINISHED = "unfinished-"
CHECKSUMS = "checksums.json"


class Chunk(NamedTuple):
    """Results of a range of the flat index.

    Attributes:
      start: the first index.
      stop: one more than the last.
      arrays: one array a leaf of the result, leading axis `stop - start`.
    """

    start: int
    stop: int
    arrays: Sequence[np.ndarray]


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps others out of it, until left or this process ends.

    Raises:
      OSError: if it cannot be made or written, or another run is in it.
    """
    import fcntl  # not on every system

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise OSError(
            error.errno, f"{folder} must be a folder that can be written: {error}"
        ) from error
    with lock:
        try:
            # The system holds it, not the file: it ends with its process, however.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                error.errno,
                f"another run is at work in {folder}. Wait for it, or take another "
                "folder.",
            ) from error
        _clear(folder)
        yield


def save_chunk(folder: Path, chunk: Chunk, configuration: Mapping[str, Any]) -> None:
    """Saves one chunk, on disk when this returns.

    Args:
      folder: an open folder.
      chunk: the results; arrays without entries are not stored.
      configuration: what the results belong to, as JSON.

    Raises:
      OSError: if it cannot be saved. Other chunks are as they were.
    """
    import orbax.checkpoint as ocp

    arrays = {name: x for name, x in _named(chunk.arrays) if x.size}
    path = folder.absolute() / f"{chunk.start:09d}-{chunk.stop:09d}"
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    parts = ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays),
        configuration=ocp.args.JsonSave(dict(configuration)),
    )
    try:
        _checkpointer().save(unfinished, parts)
        _write(unfinished / CHECKSUMS, json.dumps(_checksums(unfinished)))
        unfinished.rename(path)
    except Exception as error:  # Orbax and TensorStore have no exception of their own
        _clear(folder)
        raise OSError(
            f"the results from {chunk.start} to {chunk.stop} could not be saved in "
            f"{folder}; those saved before are safe. Make room, or make the folder "
            f"writable, and start again with the same command. ({error})"
        ) from error


def read_chunks(
    folder: Path, configuration: Mapping[str, Any], like: Sequence[Any]
) -> Iterator[Chunk]:
    """Yields every chunk that is whole, and puts the others aside with a warning.

    Args:
      folder: an open folder.
      configuration: what the results must belong to.
      like: shape and dtype of each array of the whole index.

    Raises:
      ValueError: if the folder holds chunks of another configuration.
    """
    for path in sorted(folder.absolute().glob("[0-9]*-[0-9]*")):
        start, stop = map(int, path.name.split("-"))
        try:
            found, arrays = _read(path, stop - start, like)
        except Exception as error:
            aside = path.with_name(f"damaged-{path.name}-{time.time_ns()}")
            path.rename(aside)
            warnings.warn(
                f"{path} is damaged and will be computed again; it was put aside as "
                f"{aside.name}. ({error})",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        _check_same(folder, found, configuration)
        yield Chunk(start, stop, arrays)


def _read(path, length, like):
    """Returns configuration and arrays of a chunk, or raises whatever is wrong."""
    import orbax.checkpoint as ocp

    # Before a decoder sees the bytes: what it makes of damaged ones, who knows.
    if json.loads((path / CHECKSUMS).read_text()) != _checksums(path):
        raise ValueError("a file does not have the checksum it should have")
    parts = ocp.args.Composite(
        arrays=ocp.args.StandardRestore(), configuration=ocp.args.JsonRestore()
    )
    found = _checkpointer().restore(path, args=parts)
    empty = [np.empty((length, *x.shape[1:]), x.dtype) for x in like]
    arrays = [found["arrays"].get(name, x) for name, x in _named(empty)]
    return found["configuration"], arrays


def _check_same(folder, found, wanted):
    changed = [
        f"{name} ({found.get(name)}, now {wanted.get(name)})"
        for name in {**found, **wanted}
        if found.get(name) != wanted.get(name)
    ]
    if changed:
        raise ValueError(
            f"{folder} holds results of another sweep: it differs in "
            f"{', '.join(changed)}. Give what it was begun with to resume it, or "
            "another folder."
        )


def _named(arrays):
    return [(f"{i:04d}", x) for i, x in enumerate(arrays)]


def _checksums(path):
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file() and file.name != CHECKSUMS
    }


def _write(path, text):
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _clear(folder):
    """Removes what a stop left unfinished."""
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def _checkpointer():
    # Imported when used: it takes half a second. Only process 0 is here, and must not
    # wait for the others.
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        arrays=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        configuration=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
