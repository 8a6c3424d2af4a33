"""Reading and checking the official archive of CIFAR-100, `cifar-100-binary.tar.gz`."""

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int32, UInt8

from lagrange_jax.datasets.manual_files import DATA_VARIABLE

__all__ = [
    "ARCHIVE",
    "IMAGE_SHAPE",
    "INSTRUCTIONS",
    "NUM_COARSE_LABELS",
    "NUM_LABELS",
    "OFFICIAL_SHA256",
    "URL",
    "Archive",
    "Part",
    "find_archive",
    "read_archive",
]

ARCHIVE = "cifar-100-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
OFFICIAL_SHA256 = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
"""Of the archive at `URL`. One that is packed anew from the same images differs."""

NUM_LABELS, NUM_COARSE_LABELS = 100, 20
IMAGE_SHAPE = (32, 32, 3)
_RECORD_BYTES = 2 + 3 * 32 * 32
"""Coarse label, fine label, and the planes of red, green and blue, row by row."""

_FOLDER = "cifar-100-binary"
_LARGEST = {
    "train.bin": 50_000 * _RECORD_BYTES,
    "test.bin": 10_000 * _RECORD_BYTES,
    "fine_label_names.txt": 2**16,
    "coarse_label_names.txt": 2**16,
}
"""The members that are read, and the most bytes that each may have."""

_MAX_BYTES = 2**28
"""No more is unpacked than 256 MiB, 1.4 times the true archive: a forged one cannot
fill the memory."""

INSTRUCTIONS = f"""\
Fetch {ARCHIVE} (161 MiB) from {URL} and put it, as it is, into a folder, or into a
folder "cifar100" in it. Name the folder by manual_dir=... or in the environment
variable {DATA_VARIABLE}."""


class Part(NamedTuple):
    """Images and labels in the order of the archive.

    Attributes:
      images: `[n, 32, 32, 3]` red, green and blue, 0..255.
      labels: `[n]` the class, 0..99.
      coarse_labels: `[n]` the superclass, 0..19.
    """

    images: UInt8[np.ndarray, "n 32 32 3"]
    labels: Int32[np.ndarray, " n"]
    coarse_labels: Int32[np.ndarray, " n"]


class Archive(NamedTuple):
    """What the archive holds, and its checksum."""

    train: Part
    test: Part
    label_names: tuple[str, ...]
    coarse_label_names: tuple[str, ...]
    sha256: str


def _refuse(name: str, problem: str) -> NoReturn:
    raise ValueError(
        f"{name}: {problem}. This is not the archive of CIFAR-100: it was altered or "
        f"cut short. {INSTRUCTIONS}"
    )


def find_archive(manual_dir: str | os.PathLike | None) -> Path | None:
    """Returns where the user put the archive, or None if it has to be downloaded.

    Args:
      manual_dir: the folder, or the one above its `cifar100`; None looks in the
        folder that the environment variable LAGRANGE_JAX_DATA names, if it is set.

    Raises:
      FileNotFoundError: `manual_dir` is given and does not hold the archive.
    """
    named = manual_dir or os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    directory = Path(named).expanduser()
    places = (directory / ARCHIVE, directory / "cifar100" / ARCHIVE)
    found = next((place for place in places if place.is_file()), None)
    if found is None and manual_dir:
        raise FileNotFoundError(f"{ARCHIVE} is not in {directory}. {INSTRUCTIONS}")
    return found


def _unpack(path: Path) -> bytes:
    """Returns the tar file; reading to the end also checks the checksum of gzip."""
    try:
        with gzip.open(path) as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        _refuse(str(path), f"it cannot be unpacked ({error})")
    if len(data) > _MAX_BYTES:
        _refuse(str(path), f"unpacked it has more than {_MAX_BYTES} bytes")
    return data


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Refuses paths that lead outside and members of impossible kind or size."""
    parts = PurePosixPath(member.name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(
            f"{path} holds {member.name!r}, a path that leads out of the archive. An "
            "honest archive has none: do not use this one."
        )
    largest = _LARGEST.get(parts.name) if parts.parent.name == _FOLDER else None
    if largest is not None and not member.isfile():
        _refuse(f"{path}, {member.name}", "it is no plain file")
    if largest is not None and member.size > largest:
        problem = f"{member.size} bytes, expected at most {largest}"
        _refuse(f"{path}, {member.name}", problem)


def _read_members(path: Path) -> dict[str, bytes]:
    """Reads the four members by their exact names; nothing is unpacked to disk."""
    wanted = {f"{_FOLDER}/{name}": name for name in _LARGEST}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_unpack(path)), mode="r:") as tar:
            for member in tar:
                _check_member(path, member)
                name = wanted.get(member.name)
                if name in found:
                    _refuse(f"{path}, {member.name}", "it is there twice")
                file = tar.extractfile(member) if name else None
                if name and file:
                    found[name] = file.read()
    except (tarfile.TarError, EOFError) as error:
        _refuse(str(path), f"it cannot be read as a tar file ({error})")
    missing = [full for full, name in wanted.items() if name not in found]
    if missing:
        _refuse(str(path), f"it does not hold {' or '.join(missing)}")
    return found


def _parse_names(data: bytes, name: str, count: int) -> tuple[str, ...]:
    """One name a line; the classes, but not the superclasses, stand in order."""
    text = data.decode("ascii", errors="replace")
    names = tuple(line.strip() for line in text.strip().split("\n"))
    if len(set(names)) != count or len(names) != count or not all(names):
        _refuse(name, f"expected {count} different names, found {len(set(names))}")
    if count == NUM_LABELS and list(names) != sorted(names):
        _refuse(name, "the names of the classes are not in alphabetical order")
    return names


def _parse_part(data: bytes, name: str) -> Part:
    if not data or len(data) % _RECORD_BYTES:
        problem = (
            f"{len(data)} bytes are no whole number of {_RECORD_BYTES}-byte images"
        )
        _refuse(name, problem)
    rows = np.frombuffer(data, np.uint8).reshape(-1, _RECORD_BYTES)
    labels = rows[:, :2].astype(np.int32)
    too_large = (labels >= np.array([NUM_COARSE_LABELS, NUM_LABELS])).any(1)
    if too_large.any():
        i = int(np.argmax(too_large))
        coarse, fine = labels[i]
        problem = f"image {i} has class {fine} of superclass {coarse}, expected less "
        _refuse(name, f"{problem}than {NUM_LABELS} and {NUM_COARSE_LABELS}")
    images = rows[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Part(np.ascontiguousarray(images), labels[:, 1], labels[:, 0])


def _check_hierarchy(parts: Mapping[str, Part]) -> None:
    """Every class belongs to one superclass, the one that most of its images name."""
    pairs = np.zeros((NUM_LABELS, NUM_COARSE_LABELS), int)
    for part in parts.values():
        np.add.at(pairs, (part.labels, part.coarse_labels), 1)
    usual = pairs.argmax(1)
    for name, part in parts.items():
        wrong = part.coarse_labels != usual[part.labels]
        if wrong.any():
            i = int(np.argmax(wrong))
            problem = f"image {i} has class {part.labels[i]} of superclass "
            problem += f"{part.coarse_labels[i]}, but that class is of superclass "
            _refuse(name, f"{problem}{usual[part.labels[i]]} elsewhere")


def read_archive(path: str | os.PathLike) -> Archive:
    """Reads `cifar-100-binary.tar.gz` into memory and checks all of it.

    A smaller archive in the same format serves too: any number of whole images up to
    the official 50,000 and 10,000.

    Args:
      path: the archive.

    Returns:
      Images and labels in the order of the archive, and the names.

    Raises:
      ValueError: the archive is damaged, unsafe, or not of CIFAR-100; the message
        names the file and, where one can be told, the image.
    """
    path = Path(path)
    members = _read_members(path)
    parts = {
        name: _parse_part(members[name], f"{path}, {_FOLDER}/{name}")
        for name in ("train.bin", "test.bin")
    }
    _check_hierarchy({f"{path}, {_FOLDER}/{k}": part for k, part in parts.items()})
    fine, coarse = (
        _parse_names(members[name], f"{path}, {_FOLDER}/{name}", count)
        for name, count in (
            ("fine_label_names.txt", NUM_LABELS),
            ("coarse_label_names.txt", NUM_COARSE_LABELS),
        )
    )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Archive(parts["train.bin"], parts["test.bin"], fine, coarse, sha256)
