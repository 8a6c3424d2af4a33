"""Figures of the study on CIFAR-100, drawn from the record alone."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import plotting, record
from experiments.cifar100.heads import RANDOM, label_of
from experiments.cifar100.results import (
    Trained,
    best_rate,
    make_tables,
    read_trained,
)
from lagrange_jax.plots import plot_band

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
    ends = [x.validation_loss[-1].min() for some in trained.values() for x in some]
    axes[0, 0].set(ylabel="validation cross-entropy", ylim=(0.9 * min(ends), None))
    axes[0, 0].set_ylim(0.97 * min(ends), 2.2 * min(ends))
    ends = [100 * x.test_accuracy.max() for some in trained.values() for x in some]
    axes[0, 1].set(ylabel="test accuracy, %", ylim=(0.7 * max(ends), 1.02 * max(ends)))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_norms(folder: Path) -> Figure:
    """Accuracy and loss of cross-entropy heads against their norm."""
    arrays, rows = record.read_arrays(folder), record.read_rows(folder)
    path = {k.removeprefix("path/"): v for k, v in arrays.items() if "path/" in k}
    chosen = [row for row in rows if row["name"] == "head/ce_chosen/0"]
    logistic = [row for row in rows if row["kind"] == "logistic"]
    figure, axes = plotting.make_axes(1, 2, size=(5.0, 3.8))
    for ax, (kind, factor) in zip(
        axes.flat, (("accuracy", 100), ("loss", 1)), strict=True
    ):
        for part, colour in (("train", "#0072B2"), ("test", "#D55E00")):
            values = factor * path[f"{part}_{kind}"]
            label = {"train": "training", "test": "test"}[part]
            ax.plot(path["norm_sq"], values, "-o", ms=3, color=colour, label=label)
        for row in logistic:
            value = factor * row[f"test_{kind}"]
            ax.plot(
                row["norm_sq"], value, "x", color="black", label="scikit-learn, test"
            )
        for row in chosen[:1]:
            ax.axvline(row["norm_sq"], color="0.5", ls="--", label="chosen norm")
        ax.set(xlabel="squared norm of the head", xscale="log")
    axes[0, 0].set_ylabel("accuracy before training, %")
    axes[0, 1].set_ylabel("cross-entropy before training")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes[0, 0].legend(unique.values(), unique, frameon=False, fontsize="small")
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
    ax.axvline(PAPER_ACCURACY, color="0.4", ls="--", lw=1)
    ax.set_xlabel("test accuracy before training, %; dashed: the paper's 53% and more")
    ax.invert_yaxis()
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
    if "path/norm_sq" in record.read_arrays(folder):
        plotting.save_figure(draw_norms(folder), folder / "norm.png")
    plotting.save_figure(draw_first_step(folder), folder / "first_step.png")
    tables = make_tables(folder)
    (folder / "table.md").write_text(tables)
    return tables
