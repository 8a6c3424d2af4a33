"""How the figures of all studies look, without pyplot and so without a display."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lagrange_jax.plots import COLOURS

__all__ = [
    "colour_of",
    "legend_below",
    "make_axes",
    "plain_log_ticks",
    "save_figure",
]


def colour_of(name: str, names: Sequence[str]) -> str:
    """Returns the colour of a method: its place in the list of all methods."""
    return COLOURS[list(names).index(name) % len(COLOURS)]


def make_axes(
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] = (4.0, 3.2),
    compared: bool = False,
) -> tuple[Figure, np.ndarray]:
    """Returns a figure and its axes `[rows, columns]`, each of `size` inches.

    Three axes side by side are still readable in a column of text. Those to be
    compared have one y axis a row.
    """
    figure = Figure((size[0] * columns, size[1] * rows), layout="constrained")
    sharey = "row" if compared else False
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="0.9", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def legend_below(figure: Figure, *, columns: int) -> None:
    """Puts one legend under all axes, each label once."""
    found = dict(
        pair
        for ax in figure.axes
        for pair in zip(*reversed(ax.get_legend_handles_labels()), strict=True)
    )
    figure.legend(
        found.values(), found, loc="outside lower center", ncols=columns, frameon=False
    )


def plain_log_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Labels a logarithmic y axis with plain numbers at these values only."""
    low, high = axes.get_ylim()
    values = [value for value in values if low <= value <= high]
    axes.set_yticks(values, [f"{value:g}" for value in values])
    axes.set_yticks([], minor=True)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG fit for a page and for a screen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
