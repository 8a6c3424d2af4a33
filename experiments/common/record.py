"""Run folders: what was run, with what, and what came out, safe against a stop.

A folder holds `config.json`, `environment.json`, `rows.jsonl` (one result a line, in
the order they were finished) and `arrays.npz` (named arrays of any row). A row is
written after its arrays, so a row that is there is whole.
"""

import dataclasses
import json
import os
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.environment import environment

__all__ = [
    "append_row",
    "open_run",
    "read_arrays",
    "read_config",
    "read_npz",
    "read_rows",
    "run_rows",
    "save_arrays",
    "write_atomically",
]

Folder = str | os.PathLike


def write_atomically(path: Path, write: Callable[[Any], Any]) -> None:
    """Writes a file so that readers see the old one or the new one, never half of it.

    Args:
      path: the file.
      write: called with a binary file to write to.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _plain(config: Any) -> dict[str, Any]:
    """A dataclass as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _extends(old: Any, new: Any) -> bool:
    """Whether old rows still belong: lists (seeds, methods) may get more members.

    A list that the old configuration did not know had none.
    """
    if isinstance(old, list | None) and isinstance(new, list):
        return all(value in new for value in old or [])
    return old == new


def open_run(folder: Folder, config: Any) -> Path:
    """Makes a run folder, or opens one that the same configuration started.

    Rows belong to members of tuples, such as a seed: a tuple may get more members
    than it had, so that a run can be extended.

    Args:
      folder: where the run is recorded.
      config: a dataclass of numbers, strings and tuples of them.

    Returns:
      The folder.

    Raises:
      ValueError: the folder holds rows of another configuration.
    """
    path, new = Path(folder), _plain(config)
    path.mkdir(parents=True, exist_ok=True)
    if (path / "config.json").exists():
        old = read_config(path)
        changed = [
            f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
            for name in sorted(old.keys() | new.keys())
            if not _extends(old.get(name), new.get(name))
        ]
        if changed and read_rows(path):
            raise ValueError(
                f"{folder} holds rows of another configuration: {'; '.join(changed)}. "
                "Give the old values to resume it, or another folder with --out."
            )
    _write_json(path / "config.json", new)
    devices = sorted({device.device_kind for device in jax.devices()})
    _write_json(path / "environment.json", environment() | {"devices": devices})
    return path


def read_config(folder: Folder) -> dict[str, Any]:
    """Returns the recorded configuration as plain JSON values."""
    return json.loads((Path(folder) / "config.json").read_text())


def read_rows(folder: Folder) -> list[dict[str, Any]]:
    """Returns the finished rows; a last line cut short by a stop does not count."""
    path = Path(folder) / "rows.jsonl"
    if not path.exists():
        return []
    *whole, _cut = path.read_text().split("\n")
    return [json.loads(line) for line in whole]


def append_row(folder: Folder, row: Mapping[str, Any]) -> None:
    """Adds one finished result, on disk before this returns."""
    path = Path(folder) / "rows.jsonl"
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1] + json.dumps(row) + "\n"
    write_atomically(path, lambda file: file.write(whole.encode()))


def run_rows(
    folder: Folder,
    rows: Iterable[Mapping[str, Any]],
    run_row: Callable[[dict[str, Any]], Mapping[str, Any]],
    summarize: Callable[[Mapping[str, Any]], str],
) -> None:
    """Runs the rows that the folder does not hold yet; each is recorded when done.

    Args:
      folder: the run folder.
      rows: what to run, in order; "name" tells them apart.
      run_row: returns the row's results; what it saves as arrays is saved by then.
      summarize: a few words on a finished row, for the progress.
    """
    rows = [dict(row) for row in rows]
    finished = {row["name"] for row in read_rows(folder)}
    for place, row in enumerate(rows, 1):
        if row["name"] in finished:
            continue
        seconds, cpu = time.perf_counter(), time.process_time()
        row |= run_row(row)
        row["seconds"] = round(time.perf_counter() - seconds, 3)
        row["cpu_seconds"] = round(time.process_time() - cpu, 1)
        append_row(folder, row)
        progress = f"{place}/{len(rows)} {row['name']}"
        print(f"{progress}: {summarize(row)} ({row['seconds']:.0f} s)", flush=True)


def read_arrays(folder: Folder) -> dict[str, np.ndarray]:
    """Returns all recorded arrays by name."""
    path = Path(folder) / "arrays.npz"
    if not path.exists():
        return {}
    return read_npz(path)


def read_npz(path: Folder) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file; a pickle in it is never opened.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or holds what is no plain array.
    """
    # What zipfile and NumPy raise on damage; a forged size may ask for any memory.
    damage = (EOFError, ValueError, NotImplementedError, RuntimeError, MemoryError)
    damage = (*damage, zipfile.BadZipFile, zlib.error, struct.error, OSError)
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file):
            file.seek(0)
            arrays = dict(np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise
    except damage as error:
        raise ValueError(
            f"{path} cannot be read: it is damaged, or holds a pickle ({error})."
        ) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path}: {name} is no plain array; is it a pickle?")
    return arrays


def save_arrays(folder: Folder, **arrays: Any) -> None:
    """Adds arrays to the record, replacing those of the same names."""
    merged: dict[str, Any] = {**read_arrays(folder), **arrays}
    write_atomically(
        Path(folder) / "arrays.npz", lambda file: np.savez_compressed(file, **merged)
    )
