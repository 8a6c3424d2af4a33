"""Figures of the study on CIFAR-100, drawn from the record alone."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import plotting, record
from experiments.common.class_heads import RANDOM, label_of
from experiments.studies.cifar100.results import (
    Trained,
    best_rate,
    make_tables,
    read_trained,
)
from lagrange_jax.plots import plain_log_axes, plot_band

__all__ = ["draw"]

IN_CURVES = (
    *("kaiming", "zeros", "imprinted", "gcv/calibrated"),
    *("exact_forward_equality/standardized", "ce_forward", "ce_chosen"),
)

IN_BARS = (
    *("kaiming", "imprinted", "class_means"),
    *("forward_equality/one_hot", "forward_at_most/one_hot"),
    *("exact_forward_equality/one_hot", "loss_within_50/one_hot", "gcv/one_hot"),
    *("ce_forward", "ce_chosen"),
)

PAPER_ACCURACY = 53.0
"""What the paper reports before training, in percent, with another network."""


def _draw_curve(ax: Axes, some: list[Trained], field: str, factor: float, **style: Any):
    rate = best_rate(some)
    curves = [factor * getattr(x, field)[:, rate] for x in some]
    plot_band(ax, some[0].epochs, curves, **style)


def draw_curves(trained: dict[str, list[Trained]]) -> Figure:
    """Validation loss and test accuracy against epochs; each at its best rate."""
    figure, axes = plotting.make_axes(1, 2, size=(5.0, 4.2))
    heads = [head for head in IN_CURVES if head in trained]
    fields = (("validation_loss", 1.0), ("test_accuracy", 100.0))
    for ax, (field, factor) in zip(axes.flat, fields, strict=True):
        for head in heads:
            _draw_curve(
                ax,
                trained[head],
                field,
                factor,
                label=label_of(head),
                color=plotting.colour_of(head, IN_CURVES),
                linestyle="--" if head in RANDOM else "-",
            )
        ax.set_xlabel("epochs")
    axes[0, 0].set(ylabel="validation cross-entropy", yscale="log")
    plotting.plain_log_ticks(axes[0, 0], (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7))
    ends = [100 * x.test_accuracy.max() for some in trained.values() for x in some]
    near = 0.7 * max(ends), 1.02 * max(ends)
    axes[0, 1].set(ylabel="test accuracy, %, enlarged", ylim=near)
    plotting.legend_below(figure, columns=2)
    return figure


PARTS = {"train": ("training", "#0072B2"), "test": ("test", "#D55E00")}


def _draw_norm(ax: Axes, folder: Path, measure: str, factor: float) -> None:
    arrays = record.read_arrays(folder)
    rows = {row["name"]: row for row in record.read_rows(folder)}
    for part, (label, colour) in PARTS.items():
        field, style = f"{part}_{measure}", {"color": colour, "ms": 4}
        heads = [row for name, row in rows.items() if name.startswith("head/ce_")]
        logistic = [row for row in rows.values() if row["kind"] == "logistic"]
        path = [arrays.get(f"path/{name}", ()) for name in ("norm_sq", field)]
        solved = [(row["norm_sq"], row[field]) for row in heads]
        solved = sorted([*zip(*path, strict=True), *solved])
        others = [(row["norm_sq"], row[field]) for row in logistic]
        for points, line, name in ((solved, "-o", "solved"), (others, "x", "sklearn")):
            norms, values = np.reshape(points, (-1, 2)).T
            ax.plot(norms, factor * values, line, label=f"{name}, {label}", **style)
    if "head/ce_chosen/0" in rows:
        norm_sq = rows["head/ce_chosen/0"]["norm_sq"]
        ax.axvline(norm_sq, color="0.5", ls="--", label="cross-validated norm")
    ax.set(xlabel="squared norm of the head", xscale="log")
    plain_log_axes(ax)


def draw_norms(folder: Path) -> Figure:
    """Accuracy and loss of cross-entropy heads against their norm."""
    figure, axes = plotting.make_axes(1, 2, size=(5.0, 4.2))
    for ax, measure, factor in zip(
        axes.flat, ("accuracy", "loss"), (100, 1), strict=True
    ):
        _draw_norm(ax, folder, measure, factor)
    axes[0, 0].set_ylabel("accuracy before training, %")
    axes[0, 1].set_ylabel("cross-entropy before training")
    plotting.legend_below(figure, columns=3)
    return figure


def draw_first_step(folder: Path) -> Figure:
    """Test accuracy of some heads before any training step."""
    rows = record.read_rows(folder)
    bars = {}
    for head in IN_BARS:
        some = [
            row["test_accuracy"]
            for row in rows
            if row["kind"] == "head" and row["head"] == head
        ]
        if some:
            bars[label_of(head)] = 100 * np.mean(some)
    logistic = [row["test_accuracy"] for row in rows if row["kind"] == "logistic"]
    if logistic:
        bars["scikit-learn's logistic regression, best"] = 100 * max(logistic)
    figure, axes = plotting.make_axes(size=(7.0, 0.34 * len(bars) + 1.0))
    (ax,) = axes.flat
    colours = ["#D55E00" if "scikit" in label else "#0072B2" for label in bars]
    drawn = ax.barh(list(bars), list(bars.values()), color=colours)
    ax.bar_label(drawn, fmt="%.1f", padding=3, fontsize="small")
    ax.invert_yaxis()
    label = f"{PAPER_ACCURACY:g}, which the paper reports of its ResNets"
    ax.axvline(PAPER_ACCURACY, color="0.4", ls="--", lw=1, label=label)
    ax.set_xlabel("test accuracy before training, %")
    plotting.legend_below(figure, columns=1)
    return figure


def draw(folder: Path) -> str:
    """Draws all figures into the run folder.

    Args:
      folder: a run folder.

    Returns:
      The tables, which are also written to `table.md`.
    """
    folder = Path(folder)
    trained = read_trained(folder)
    if trained:
        plotting.save_figure(draw_curves(trained), folder / "curves.png")
    if any(row["kind"] in ("path", "logistic") for row in record.read_rows(folder)):
        plotting.save_figure(draw_norms(folder), folder / "norm.png")
    plotting.save_figure(draw_first_step(folder), folder / "first_step.png")
    tables = make_tables(folder)
    (folder / "table.md").write_text(tables)
    return tables
