"""Chunks of results in a folder, each an npz file of its own.

A chunk is there whole or not at all: it is written under another name and renamed. What
the disk does to it later is found by the digest in its name, which covers its range and
its bytes. A damaged chunk is put aside, never deleted, and counts as not there. Files
of other names are left alone.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Chunk", "open_folder", "read_chunks", "save_chunk"]

UNFINISHED = "unfinished-"
NAME = re.compile(r"(\d{9})-(\d{9})-([0-9a-f]{16})\.npz")


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
      chunk: the results.
      configuration: what the results belong to, as JSON.

    Raises:
      OSError: if it cannot be saved. Other chunks are as they were.
    """
    buffer = io.BytesIO()
    text = np.array(json.dumps(dict(configuration)))
    np.savez(buffer, *chunk.arrays, configuration=text)
    data = buffer.getvalue()
    digest = _digest(chunk.start, chunk.stop, data)
    path = folder / f"{chunk.start:09d}-{chunk.stop:09d}-{digest}.npz"
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError as error:
        _clear(folder)
        raise OSError(
            error.errno,
            f"the results from {chunk.start} to {chunk.stop} could not be saved in "
            f"{folder}; those saved before are safe. Make room, or make the folder "
            f"writable, and start again with the same command. ({error})",
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
    for path in sorted(folder.iterdir()):
        match = NAME.fullmatch(path.name)
        if match is None:  # a stranger's
            continue
        start, stop = int(match[1]), int(match[2])
        try:
            found, arrays = _read(path, start, stop, match[3])
        except (OSError, ValueError) as error:
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
        # npz knows no bfloat16: it comes back as two bytes without a meaning.
        arrays = [x.view(y.dtype) for x, y in zip(arrays, like, strict=True)]
        yield Chunk(start, stop, arrays)


def _read(path, start, stop, digest):
    """Returns configuration and arrays of a chunk."""
    data = path.read_bytes()
    # Before a decoder sees the bytes: what it makes of damaged ones, who knows.
    if _digest(start, stop, data) != digest:
        raise ValueError("it does not have the digest that its name says")
    with np.load(io.BytesIO(data)) as found:
        arrays = [found[f"arr_{i}"] for i in range(len(found.files) - 1)]
        return json.loads(str(found["configuration"])), arrays


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


def _digest(start, stop, data):
    digest = hashlib.sha256(f"{start} {stop} ".encode())
    digest.update(data)
    return digest.hexdigest()[:16]


def _clear(folder):
    """Removes what a stop left unfinished."""
    for path in folder.glob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)
