"""Files that a user fetches by hand: finding, unpacking and reading them safely."""

import gzip
import lzma
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath

__all__ = ["DATA_VARIABLE", "find_manual_dir", "read_file"]

DATA_VARIABLE = "LAGRANGE_JAX_DATA"
_DAMAGE = (
    *(OSError, EOFError, RuntimeError),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),
)
"""Environment variable that names the folder of all data fetched by hand."""

_MAX_BYTES = 2**26
"""No text is read beyond 64 MiB: a forged archive cannot fill the memory."""


def find_manual_dir(
    manual_dir: str | os.PathLike | None, name: str, instructions: str
) -> Path:
    """Returns the folder that holds the files of one data set.

    Args:
      manual_dir: the folder, or the one above it; None takes the environment
        variable LAGRANGE_JAX_DATA.
      name: name of the data set, and of its folder where several share a parent.
      instructions: what to fetch and where to put it, for the message.

    Raises:
      FileNotFoundError: no folder is named, or it does not exist.
    """
    named = manual_dir or os.environ.get(DATA_VARIABLE)
    if not named:
        raise FileNotFoundError(
            f"No folder with the {name} files is named. {instructions}"
        )
    directory = Path(named).expanduser()
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a folder. {instructions}")
    inner = directory / name
    return inner if inner.is_dir() else directory


def _read_member(path: Path, name: str) -> bytes | None:
    """Reads one member into memory; nothing is ever unpacked to disk."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            parts = PurePosixPath(member.filename.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts:
                raise ValueError(
                    f"{path} holds {member.filename!r}, a path that leads out of the "
                    "archive. An honest archive has none: do not use this one."
                )
            if parts.name == name and not member.is_dir():
                with archive.open(member) as file:
                    return file.read(_MAX_BYTES + 1)
    return None


def _read_bytes(directory: Path, name: str, archive: str) -> bytes | None:
    plain, packed, zipped = (directory / n for n in (name, f"{name}.gz", archive))
    if plain.is_file():
        with plain.open("rb") as file:
            return file.read(_MAX_BYTES + 1)
    if packed.is_file():
        with gzip.open(packed) as file:
            return file.read(_MAX_BYTES + 1)
    return _read_member(zipped, name) if zipped.is_file() else None


def read_file(directory: Path, name: str, archive: str, instructions: str) -> bytes:
    """Reads a file that lies in a folder as it is, as .gz, or in a zip archive.

    Args:
      directory: the folder.
      name: name of the file; in the archive it may lie in any folder.
      archive: name of the zip archive.
      instructions: what to fetch and where to put it, for the messages.

    Raises:
      FileNotFoundError: the file is in none of the three places.
      ValueError: the file is damaged or absurdly large, or the archive is unsafe.
    """
    try:
        data = _read_bytes(directory, name, archive)
    # What gzip and zipfile raise on damage, encryption included.
    except _DAMAGE as error:
        raise ValueError(
            f"{name} in {directory} cannot be read: it is damaged or cut short "
            f"({error}). {instructions}"
        ) from error
    if data is None:
        raise FileNotFoundError(f"{name} is not in {directory}. {instructions}")
    if len(data) > _MAX_BYTES:
        raise ValueError(
            f"{name} in {directory} is larger than {_MAX_BYTES} bytes, far more than "
            f"the true file: it was not read. {instructions}"
        )
    return data
