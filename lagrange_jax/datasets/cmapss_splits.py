"""From recordings of engines to scaled windows with their remaining useful life."""

import numbers
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from lagrange_jax.datasets.arrays import Dataset
from lagrange_jax.datasets.cmapss_files import NUM_SENSORS, Engine
from lagrange_jax.datasets.scaling import MinMaxScaler, apply_scaler, fit_scaler

__all__ = ["CmapssSplits", "make_splits"]


class CmapssSplits(NamedTuple):
    """Windows of three disjoint sets of engines.

    In each `Dataset`, inputs are `[n, window, sensors]` scaled sensor values, oldest
    cycle first; targets are `[n]` remaining useful life after the window's last cycle,
    in cycles; groups are `[n]` the engine's number in NASA's file. Training and test
    engines are numbered apart.

    Attributes:
      train: every full window of the training engines.
      validation: every full window of the engines held out from NASA's training file.
      test: the last window of every engine in NASA's test file, in its order.
      scaler: ranges of the chosen sensors over the training engines.
      padded: for each split the engines with fewer cycles than one window. Each of
        them has one window, filled up in front by its first row.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    scaler: MinMaxScaler
    padded: dict[str, tuple[int, ...]]


def _split_units(
    engines: Sequence[Engine], fraction: float, seed: int
) -> tuple[list[Engine], list[Engine]]:
    order = np.random.default_rng(seed).permutation(len(engines))
    held_out = set(order[: round(fraction * len(engines))].tolist())
    train = [engine for i, engine in enumerate(engines) if i not in held_out]
    return train, [engines[i] for i in sorted(held_out)]


def _scaled(scaler: MinMaxScaler, engine: Engine, columns: list[int]) -> np.ndarray:
    return apply_scaler(scaler, engine.settings, engine.sensors[:, columns])


def _windows(
    rows: Float32[np.ndarray, "cycles s"], window: int
) -> Float32[np.ndarray, "n window s"]:
    """All full windows, as a view; a short record is filled up by its first row."""
    missing = max(window - len(rows), 0)
    padded = np.concatenate([np.repeat(rows[:1], missing, axis=0), rows])
    views = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)
    return views.swapaxes(1, 2)


def _to_dataset(
    engines: Iterable[tuple[Engine, np.ndarray]],
    window: int,
    rul_cap: float,
    *,
    last_only: bool = False,
) -> Dataset:
    inputs, targets, groups = [], [], []
    for engine, rows in engines:
        some = _windows(rows, window)[-1:] if last_only else _windows(rows, window)
        inputs.append(some)
        targets.append(engine.rul + np.arange(len(some))[::-1])
        groups.append(np.full(len(some), engine.unit, np.int32))
    rul = np.minimum(np.concatenate(targets), rul_cap).astype(np.float32)
    return Dataset(np.concatenate(inputs), rul, np.concatenate(groups))


def _check_kinds(kind: type, wanted: str, **options: Any) -> None:
    """Refuses another type before it is compared with anything; 1 is no boolean."""
    for name, value in options.items():
        value = value.item() if isinstance(value, np.generic) else value
        is_bool = isinstance(value, bool)
        if not isinstance(value, kind) or is_bool != (kind is bool):
            raise TypeError(f"expected {name} as {wanted}; got {value!r}.")


def _check_sensors(sensors: Sequence[int]) -> None:
    is_list = hasattr(sensors, "__len__") and getattr(sensors, "ndim", 1) == 1
    if not is_list or isinstance(sensors, str | Set | Mapping):
        raise TypeError(
            f"expected sensors as a list of integers, such as (2, 3); got {sensors!r}."
        )
    for i, sensor in enumerate(sensors):
        _check_kinds(numbers.Integral, "an integer", **{f"sensors[{i}]": sensor})
    known = all(1 <= sensor <= NUM_SENSORS for sensor in sensors)
    if not (known and len(set(sensors)) == len(sensors) > 0):
        raise ValueError(
            f"sensors must be distinct numbers in 1..{NUM_SENSORS}, got {sensors}."
        )


def _check_options(window: int, rul_cap: float, fraction: float, seed: int) -> None:
    _check_kinds(numbers.Integral, "an integer", window=window, split_seed=seed)
    _check_kinds(numbers.Real, "a number (math.inf: no cap)", rul_cap=rul_cap)
    _check_kinds(numbers.Real, "a number", validation_fraction=fraction)
    if window < 1:
        raise ValueError(f"window must be at least 1 cycle, got {window}.")
    if seed < 0:
        raise ValueError(f"split_seed must be at least 0, got {seed}.")
    if not rul_cap > 0:
        raise ValueError(
            f"rul_cap must be positive, got {rul_cap}; math.inf leaves it out."
        )
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be in (0, 1), got {fraction}.")


def make_splits(
    train_engines: Sequence[Engine],
    test_engines: Sequence[Engine],
    *,
    window: int,
    rul_cap: float,
    cap_test_rul: bool,
    validation_fraction: float,
    split_seed: int,
    sensors: Sequence[int],
) -> CmapssSplits:
    """Splits, scales and windows recordings; `load_cmapss` says how, with defaults.

    Args:
      train_engines: recordings up to failure.
      test_engines: recordings that stop earlier.
      window: length of a window in cycles.
      rul_cap: largest target, in cycles.
      cap_test_rul: whether the test targets are capped too.
      validation_fraction: share of the training engines held out.
      split_seed: seed of the choice of those engines.
      sensors: numbers of the sensors, from 1.

    Returns:
      The three data sets, the scaler and the engines shorter than a window.

    Raises:
      TypeError: an option is of another type.
      ValueError: an option is out of range, or a split would have no engine.
    """
    _check_options(window, rul_cap, validation_fraction, split_seed)
    _check_kinds(bool, "True or False", cap_test_rul=cap_test_rul)
    _check_sensors(sensors)
    train, validation = _split_units(train_engines, validation_fraction, split_seed)
    parts = {"train": train, "validation": validation, "test": list(test_engines)}
    empty = [name for name, engines in parts.items() if not engines]
    if empty:
        raise ValueError(
            f"No engine is left for {' and '.join(empty)}: {len(train_engines)} "
            f"training engines, validation_fraction {validation_fraction}, "
            f"{len(test_engines)} test engines."
        )
    columns = [sensor - 1 for sensor in sensors]
    scaler = fit_scaler(
        np.concatenate([engine.settings for engine in train]),
        np.concatenate([engine.sensors[:, columns] for engine in train]),
    )

    def dataset(name: str, cap: float, last_only: bool = False) -> Dataset:
        rows = ((engine, _scaled(scaler, engine, columns)) for engine in parts[name])
        return _to_dataset(rows, window, cap, last_only=last_only)

    test_cap = rul_cap if cap_test_rul else np.inf
    return CmapssSplits(
        train=dataset("train", rul_cap),
        validation=dataset("validation", rul_cap),
        test=dataset("test", test_cap, last_only=True),
        scaler=scaler,
        padded={
            name: tuple(e.unit for e in engines if len(e.sensors) < window)
            for name, engines in parts.items()
        },
    )
