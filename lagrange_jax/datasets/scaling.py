"""Min-max scaling of sensor values, apart for every operating condition."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

__all__ = ["MinMaxScaler", "apply_scaler", "fit_scaler", "operating_conditions"]

_RESOLUTION = np.array([1.0, 100.0, 1.0], np.float32)
"""Steps per unit in which settings are told apart: 1000 ft, Mach 0.01, 1 degree.

In C-MAPSS the set points differ by at least five of these steps in some setting, and
the noise about a set point is below half a step, so rounding finds them exactly.
"""


class MinMaxScaler(NamedTuple):
    """Ranges of the sensors in each operating condition.

    Attributes:
      conditions: `[c, 3]` the conditions, as `operating_conditions` returns them.
      minimum: `[c, s]` smallest value of each sensor.
      maximum: `[c, s]` largest value of each sensor.
    """

    conditions: Int64[np.ndarray, "c 3"]
    minimum: Float32[np.ndarray, "c s"]
    maximum: Float32[np.ndarray, "c s"]


def operating_conditions(
    settings: Float32[np.ndarray, "n 3"],
) -> Int64[np.ndarray, "n 3"]:
    """Returns the set points behind noisy settings, in steps of the resolution."""
    return np.rint(settings * _RESOLUTION).astype(np.int64)


def fit_scaler(
    settings: Float32[np.ndarray, "n 3"], values: Float32[np.ndarray, "n s"]
) -> MinMaxScaler:
    """Measures the ranges of the sensors in each operating condition.

    Args:
      settings: operating settings of each row.
      values: sensor values of each row.

    Returns:
      The scaler; where all rows have one condition it is plain min-max scaling.
    """
    conditions, index = np.unique(
        operating_conditions(settings), axis=0, return_inverse=True
    )
    groups = [values[index == i] for i in range(len(conditions))]
    return MinMaxScaler(
        conditions,
        np.stack([group.min(axis=0) for group in groups]),
        np.stack([group.max(axis=0) for group in groups]),
    )


def apply_scaler(
    scaler: MinMaxScaler,
    settings: Float32[np.ndarray, "n 3"],
    values: Float32[np.ndarray, "n s"],
) -> Float32[np.ndarray, "n s"]:
    """Maps each sensor's range in the row's operating condition to [-1, 1].

    Values outside the fitted range land outside [-1, 1]. A sensor that was constant
    where the scaler was fitted has no range and becomes 0.

    Args:
      scaler: from `fit_scaler`.
      settings: operating settings of each row.
      values: sensor values of each row.

    Raises:
      ValueError: a row has a condition in which the scaler was not fitted.
    """
    found = operating_conditions(settings)
    matches = (found[:, None, :] == scaler.conditions).all(axis=-1)
    unknown = ~matches.any(axis=1)
    if unknown.any():
        raise ValueError(
            f"Settings {settings[unknown.argmax()].tolist()} are none of the "
            f"{len(scaler.conditions)} operating conditions that the scaler was fitted "
            "in: fit it on more engines."
        )
    index = matches.argmax(axis=1)
    minimum, maximum = scaler.minimum[index], scaler.maximum[index]
    span = maximum - minimum
    scaled = 2 * (values - minimum) / np.where(span > 0, span, 1) - 1
    return np.where(span > 0, scaled, 0).astype(np.float32)
