"""NASA's C-MAPSS turbofan data, the benchmark for remaining useful life."""

import functools
import operator
import os
from collections.abc import Sequence
from typing import Any

from lagrange_jax.datasets.cmapss_files import INSTRUCTIONS, SUBSETS, Engine
from lagrange_jax.datasets.cmapss_splits import CmapssSplits, make_splits
from lagrange_jax.datasets.manual_files import find_manual_dir
from lagrange_jax.datasets.tfds import load_records

__all__ = ["USUAL_SENSORS", "load_cmapss", "load_engines"]

USUAL_SENSORS = (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)
"""The 14 sensors that published CNNs use: on FD001 the others hardly vary."""


def load_engines(
    subset: str,
    *,
    manual_dir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    **builder_kwargs: Any,
) -> dict[str, list[Engine]]:
    """Returns the raw recordings of one data set, by NASA's split and unit number.

    Args:
      subset: "FD001", "FD002", "FD003" or "FD004".
      manual_dir: see `load_cmapss`.
      data_dir: see `load_cmapss`.
      **builder_kwargs: further arguments of the TFDS builder.

    Returns:
      The engines of `"train"` and of `"test"`, each in ascending order of `unit`.

    Raises:
      FileNotFoundError: the data are neither prepared nor found.
      ModuleNotFoundError: the extra `data` is not installed.
      ValueError: the name is unknown, or a file is not NASA's.
    """
    if subset not in SUBSETS:
        raise ValueError(f"C-MAPSS has {', '.join(SUBSETS)}, got {subset!r}.")
    records = load_records(
        "cmapss",
        subset,
        find_manual_dir=functools.partial(
            find_manual_dir, manual_dir, "cmapss", INSTRUCTIONS
        ),
        data_dir=data_dir,
        **builder_kwargs,
    )
    by_unit = operator.attrgetter("unit")
    return {
        split: sorted((Engine(**record) for record in some), key=by_unit)
        for split, some in records.items()
    }


def load_cmapss(
    subset: str = "FD001",
    *,
    manual_dir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    window: int = 30,
    rul_cap: float = 125.0,
    cap_test_rul: bool = True,
    validation_fraction: float = 0.2,
    split_seed: int = 0,
    sensors: Sequence[int] = USUAL_SENSORS,
) -> CmapssSplits:
    r"""Returns windows of sensor values and the remaining useful life after each.

    An example is `window` consecutive cycles of one engine. Its target is
    $\min(\text{cycles left after the window}, \text{rul\_cap})$: far from failure
    the sensors do not tell how far. Sensors are scaled to [-1, 1] by their range over
    the training engines, apart for each operating condition (one in FD001 and FD003,
    six in FD002 and FD004). Whole engines are held out for validation, so that no
    engine has windows in two splits. From an engine of NASA's test file only the last
    window is taken: the benchmark scores one prediction an engine.

    No engine is lost: one with fewer cycles than `window` (six in the test file of
    FD002 and eleven in that of FD004, at 30) gives one window that is filled up in
    front by its first row, and is listed in `padded`.

    Args:
      subset: "FD001", "FD002", "FD003" or "FD004".
      manual_dir: folder with NASA's `CMAPSSData.zip` or its texts (.txt or .txt.gz),
        or the folder above their `cmapss`. Needed on the first call only; None takes
        the environment variable LAGRANGE_JAX_DATA.
      data_dir: where the prepared data set is kept; None takes TFDS's default,
        `tensorflow_datasets` in the home directory unless TFDS_DATA_DIR is set.
      window: length of a window in cycles.
      rul_cap: largest target in cycles; `math.inf` leaves targets uncapped.
      cap_test_rul: whether the cap holds for the test targets too, as in most
        published results. False scores against the true remaining life.
      validation_fraction: share of the engines in NASA's training file, rounded to
        whole engines, that goes to validation.
      split_seed: seed of the choice of those engines.
      sensors: numbers of the sensors to use, from 1, in this order.

    Returns:
      The three data sets as NumPy arrays, the scaler and the padded engines.

    Raises:
      FileNotFoundError: the data are neither prepared nor found; the message says
        what to fetch from where.
      ModuleNotFoundError: the extra `data` is not installed.
      TypeError: an option is of another type.
      ValueError: an option is out of range, or a file is damaged or not NASA's; the
        message names the file and, where one can be told, the line.

    References:
      A. Saxena, K. Goebel, D. Simon, N. Eklund, Damage Propagation Modeling for
      Aircraft Engine Run-to-Failure Simulation, PHM, 2008.
    """
    engines = load_engines(subset, manual_dir=manual_dir, data_dir=data_dir)
    return make_splits(
        engines["train"],
        engines["test"],
        window=window,
        rul_cap=rul_cap,
        cap_test_rul=cap_test_rul,
        validation_fraction=validation_fraction,
        split_seed=split_seed,
        sensors=sensors,
    )
