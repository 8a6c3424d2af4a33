"""Reading and checking NASA's C-MAPSS files, in any of the forms they come in."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from jaxtyping import Float32, Float64

from lagrange_jax.datasets.manual_files import DATA_VARIABLE, read_file

__all__ = [
    "CHECKSUMS",
    "INSTRUCTIONS",
    "NUM_SENSORS",
    "NUM_SETTINGS",
    "SUBSETS",
    "Checksum",
    "Engine",
    "read_subset",
]

SUBSETS = ("FD001", "FD002", "FD003", "FD004")
NUM_SETTINGS = 3
NUM_SENSORS = 21
_NUM_COLUMNS = 2 + NUM_SETTINGS + NUM_SENSORS
_ARCHIVE = "CMAPSSData.zip"

INSTRUCTIONS = f"""\
Fetch "Turbofan Engine Degradation Simulation Data Set" (C-MAPSS) from the Data Set
Repository of NASA's Prognostics Center of Excellence and unpack it once: inside lies
{_ARCHIVE}. Put that file, or the texts in it (train_FD001.txt, test_FD001.txt,
RUL_FD001.txt, ... as .txt or .txt.gz), into a folder, or into a folder "cmapss" in it.
Name the folder by manual_dir=... or in the environment variable {DATA_VARIABLE}."""


class Checksum(NamedTuple):
    """Size in bytes and sha256 of a text with its line ends as a line feed."""

    size: int
    sha256: str


class Engine(NamedTuple):
    """The recorded flights of one engine, one row a cycle.

    Attributes:
      unit: the engine's number in its file, from 1.
      settings: `[cycles, 3]` altitude (1000 ft), Mach number, throttle angle (deg).
      sensors: `[cycles, 21]` raw sensor values.
      rul: remaining useful life after the last row, in cycles.
    """

    unit: int
    settings: Float32[np.ndarray, "cycles 3"]
    sensors: Float32[np.ndarray, "cycles 21"]
    rul: int


def _read_checksums() -> dict[str, Checksum]:
    path = Path(__file__).parent / "tfds" / "cmapss" / "checksums.tsv"
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    return {row[3]: Checksum(int(row[1]), row[2]) for row in rows if len(row) == 4}


CHECKSUMS: Mapping[str, Checksum] = _read_checksums()
"""What NASA's twelve texts must be, by file name."""


def _refuse(name: str, line: int, problem: str) -> NoReturn:
    raise ValueError(
        f"{name}, line {line}: {problem}. This is not NASA's file: it was altered or "
        f"cut short. {INSTRUCTIONS}"
    )


def _parse_cell(name: str, line: int, column: int, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        _refuse(name, line, f"column {column} is {cell!r}, expected a finite number")
    return value


def _parse(data: bytes, name: str, columns: int) -> Float64[np.ndarray, "rows columns"]:
    """Returns the numbers of a text, or refuses its first bad line."""
    lines = data.decode("ascii", errors="replace").removesuffix("\n").split("\n")
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            _refuse(name, number, f"{len(row)} columns, expected {columns}")
    try:
        table = np.array(rows, np.float64)
    except ValueError:
        table = np.full((), np.nan)
    if np.isfinite(table).all():
        return table
    cells = [
        [_parse_cell(name, i, j, cell) for j, cell in enumerate(row, 1)]
        for i, row in enumerate(rows, 1)
    ]
    return np.array(cells, np.float64)


def _check_order(table: Float64[np.ndarray, "rows columns"], name: str) -> None:
    """Units run 1, 2, ... and the cycles of each 1, 2, ..., without a gap."""
    unit, cycle = table[:, 0], table[:, 1]
    before_unit = np.concatenate([[0.0], unit[:-1]])
    before_cycle = np.concatenate([[0.0], cycle[:-1]])
    goes_on = (unit == before_unit) & (cycle == before_cycle + 1)
    starts = (unit == before_unit + 1) & (cycle == 1)
    (bad,) = np.nonzero(~(goes_on | starts))
    if bad.size:
        i = bad[0]
        _refuse(
            name,
            int(i) + 1,
            f"unit {unit[i]:g} cycle {cycle[i]:g} follows unit {before_unit[i]:g} "
            f"cycle {before_cycle[i]:g}; rows are missing, moved or repeated",
        )


def _check_counts(
    test: Float64[np.ndarray, "rows columns"],
    rul: Float64[np.ndarray, "units 1"],
    names: Sequence[str],
) -> None:
    """Every test engine has one remaining life, a whole number of cycles."""
    (bad,) = np.nonzero((rul[:, 0] < 0) | (rul[:, 0] != np.round(rul[:, 0])))
    if bad.size:
        value = rul[bad[0], 0]
        _refuse(names[2], int(bad[0]) + 1, f"{value:g} is not a number of cycles")
    num_units = int(test[-1, 0])
    if num_units > len(rul):
        line = int(np.argmax(test[:, 0] > len(rul))) + 1
        problem = f"unit {len(rul) + 1} has no line in {names[2]}"
        _refuse(names[1], line, problem)
    if num_units < len(rul):
        problem = f"a life without an engine: {names[1]} ends at unit {num_units}"
        _refuse(names[2], num_units + 1, problem)


def _checksum(data: bytes) -> Checksum:
    return Checksum(len(data), hashlib.sha256(data).hexdigest())


def _as_published(data: bytes) -> bytes:
    """Returns a text with NASA's blanks, which editors take from the ends of lines."""
    rows = [line.split() for line in data.removesuffix(b"\n").split(b"\n")]
    lines = [b" ".join(row) + (b" " if len(row) == 1 else b"  ") for row in rows]
    return b"\n".join([*lines, b""])


def _check_sum(data: bytes, name: str, expected: Checksum) -> None:
    found = _checksum(data)
    if expected not in (found, _checksum(_as_published(data))):
        _refuse(
            name,
            data.count(b"\n"),
            "every line reads well up to this, the last, but the text has "
            f"{found.size} bytes and sha256 {found.sha256}, expected {expected.size} "
            f"and {expected.sha256}",
        )


def _split_engines(
    table: Float64[np.ndarray, "rows columns"], rul: Sequence[int]
) -> list[Engine]:
    starts = np.nonzero(table[:, 1] == 1)[0][1:]
    values = table[:, 2:].astype(np.float32)
    return [
        Engine(i, rows[:, :NUM_SETTINGS], rows[:, NUM_SETTINGS:], remaining)
        for i, (rows, remaining) in enumerate(
            zip(np.split(values, starts), rul, strict=True), 1
        )
    ]


def read_subset(
    directory: str | os.PathLike,
    subset: str,
    checksums: Mapping[str, Checksum] = CHECKSUMS,
) -> dict[str, list[Engine]]:
    """Reads one of the four data sets from NASA's files and checks every line.

    Args:
      directory: folder with `CMAPSSData.zip`, or the texts as .txt or .txt.gz.
      subset: one of `SUBSETS`.
      checksums: what the texts must be, by file name; blanks and line ends between the
        numbers may differ.

    Returns:
      `{"train": engines, "test": engines}` in the order of the files. Engines in
      "train" run to failure, so that their `rul` is 0.

    Raises:
      FileNotFoundError: a file is missing; the message says what to fetch.
      ValueError: a file is damaged or is not NASA's; the message names the file and,
        where one can be told, the line.
    """
    names = [f"{kind}_{subset}.txt" for kind in ("train", "test", "RUL")]
    texts = [
        read_file(Path(directory), name, _ARCHIVE, INSTRUCTIONS).replace(b"\r\n", b"\n")
        for name in names
    ]
    train, test, rul = map(_parse, texts, names, (_NUM_COLUMNS, _NUM_COLUMNS, 1))
    # Content first, then the checksums, so that a bad line is named if there is one.
    _check_order(train, names[0])
    _check_order(test, names[1])
    _check_counts(test, rul, names)
    for text, name in zip(texts, names, strict=True):
        _check_sum(text, name, checksums[name])
    return {
        "train": _split_engines(train, [0] * int(train[-1, 0])),
        "test": _split_engines(test, rul[:, 0].astype(int).tolist()),
    }
