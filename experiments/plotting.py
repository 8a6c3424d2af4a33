"""How the figures of all studies look, without pyplot and so without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "colour_of",
    "make_axes",
    "mean_interval",
    "plain_log_ticks",
    "plot_band",
    "save_figure",
]

# Okabe and Ito's palette: told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Two-sided 95% points of Student's t for 1..30 degrees of freedom; 1.96 beyond.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def colour_of(name: str, names: Sequence[str]) -> str:
    """Returns the colour of a method: its place in the list of all methods."""
    return _COLOURS[list(names).index(name) % len(_COLOURS)]


def mean_interval(values: Any, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and half-width of its 95% t-interval, NaN for a single value."""
    values = np.asarray(values, float)
    n = values.shape[axis]
    mean = values.mean(axis)
    if n < 2:
        return mean, np.full_like(mean, np.nan)
    t = _T95[n - 2] if n - 1 <= len(_T95) else 1.96
    return mean, t * values.std(axis, ddof=1) / np.sqrt(n)


def make_axes(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (5.0, 3.6)
) -> tuple[Figure, np.ndarray]:
    """Returns a figure and its axes `[rows, columns]`, each of `size` inches."""
    figure = Figure((size[0] * columns, size[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="0.9", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def plain_log_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Labels a logarithmic y axis with plain numbers at these values only."""
    axes.set_yticks(values, [f"{value:g}" for value in values])
    axes.set_yticks([], minor=True)


def plot_band(axes: Axes, x: Any, curves: Any, colour: str, label: str, **kwargs: Any):
    """Draws the mean of `curves` `[seeds, points]` with its 95% band.

    Two seeds say too little for an interval: the band then spans them.
    """
    mean, half = mean_interval(curves)
    low, high = mean - half, mean + half
    if len(curves) < 3:
        low, high = np.min(curves, 0), np.max(curves, 0)
    axes.plot(x, mean, color=colour, label=label, **kwargs)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG fit for a page and for a screen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
