"""Figures of the RUL study, drawn from the record alone."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import plotting, record
from experiments.studies.rul.course import (
    draw_distances,
    draw_horizon,
    draw_mechanism,
)
from experiments.studies.rul.methods import BASELINES, BIAS_ONLY, LABELS
from experiments.studies.rul.results import Results, make_table, read_results
from experiments.studies.rul.signal import draw_gains, gain_table
from lagrange_jax.plots import COLOURS, plain_log_axes, plot_band

__all__ = ["draw"]

IN_CURVES = (
    *("kaiming", "lecun", "zero_bias", "unconstrained"),
    *("forward_equality", "backward_equality", "loss_within_50"),
    "small_random",
)
LANDSCAPE: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("training windows", {"color": COLOURS[0]}),
    "validation": ("validation windows", {"color": COLOURS[1]}),
    "train_sum_zero": (
        "training windows, weights add up to 0",
        {"color": COLOURS[0], "ls": "--"},
    ),
}
"""What is drawn against the norm: name in the record, label and style."""

IN_TRAJECTORIES = ("kaiming", "forward_equality", "backward_equality", "unconstrained")


def _scales(results: Results) -> list[float]:
    return sorted({scale for _, scale in results}, reverse=True)


def _title(scale: float) -> str:
    return "raw targets" if scale == 1 else f"targets divided by {scale:g}"


def _methods(results: Results, wanted, scale: float) -> list[str]:
    """Those of the wanted methods that were run."""
    return [x for x in wanted if (x, scale) in results]


def _style(method: str) -> str:
    return "--" if method in BASELINES else ":" if method in BIAS_ONLY else "-"


def draw_curves(results: Results) -> Figure:
    """Validation error against epochs, mean over seeds with its 95% band.

    What has one scale of targets is drawn again, enlarged where curves end.
    """
    scales = _scales(results)
    compared = len(scales) > 1
    panels = scales if compared else 2 * scales
    figure, axes = plotting.make_axes(
        1, len(panels), size=(5.0, 4.2), compared=compared
    )
    for ax, scale in zip(axes.flat, panels, strict=True):
        for method in _methods(results, IN_CURVES, scale):
            some = results[method, scale]
            points = min(len(x.epochs) for x in some)
            plot_band(
                ax,
                np.mean([x.epochs[:points] for x in some], 0),
                [np.sqrt(x.validation[:points]) for x in some],
                label=LABELS[method],
                color=plotting.colour_of(method, IN_CURVES),
                linestyle=_style(method),
            )
        ax.set(title=_title(scale), xlabel="epochs", yscale="log")
        plotting.plain_log_ticks(ax, (8, 10, 12, 15, 20, 30, 50, 100, 200))
    if not compared:
        drawn = [results[x, scales[0]] for x in _methods(results, IN_CURVES, scales[0])]
        best = [x.validation.min() ** 0.5 for some in drawn for x in some]
        axes.flat[1].set(ylim=(0.95 * min(best), 1.5 * np.median(best)))
        axes.flat[1].set_title("the same, enlarged")
        plotting.plain_log_ticks(axes.flat[1], range(8, 30))
    axes.flat[0].set_ylabel("validation RMSE in cycles")
    plotting.legend_below(figure, columns=4 if compared else 2)
    return figure


def draw_trajectories(results: Results) -> Figure:
    """All weights of the head through training, first seed, on one scale for all."""
    scales = _scales(results)
    methods = _methods(results, IN_TRAJECTORIES, scales[0])
    ticks = (-10, -1, -0.1, 0, 0.1, 1, 10)
    shown = [x for x in itertools.product(methods, scales) if x in results]
    largest = max((abs(results[x][0].head[:, :-1]).max() for x in shown), default=1)
    columns = max(len(methods), 1)
    figure, axes = plotting.make_axes(len(scales), columns, size=(3.4, 2.8))
    for row, scale in zip(axes, scales, strict=True):
        for ax, method in itertools.zip_longest(row, methods):
            if (method, scale) not in results:
                ax.set_axis_off()
                continue
            first = results[method, scale][0]
            weights = first.head[:, :-1]
            ax.plot(first.epochs, weights, color="#0072B2", lw=0.5, alpha=0.5)
            ax.plot(first.epochs, weights.mean(1), color="#D55E00", lw=1.5)
            ax.set_title(f"{LABELS[method]}\n{_title(scale)}", fontsize="medium")
            ax.set_yscale("symlog", linthresh=0.1)
            ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.set_ylim(-2 * largest, 2 * largest)  # one for all, after the ticks
        row[0].set_ylabel("head weights")
    for ax in axes[-1]:
        ax.set_xlabel("epochs")
    return figure


Heads = dict[tuple[float, float], list[str]]
"""Labels of the solved heads by squared norm and error; equal ones are together."""


def _solved_heads(results: Results, scale: float) -> Heads:
    labels: Heads = {}
    for (method, s), some in results.items():
        if s == scale and np.isfinite(some[0].multiplier):
            place = some[0].norm_sq, some[0].train[0] ** 0.5
            same = [p for p in labels if np.allclose(p, place, rtol=0.2)]
            labels.setdefault(same[0] if same else place, []).append(LABELS[method])
    return labels


def _mark_heads(ax: Axes, heads: Heads) -> None:
    """Puts each head on the curve, labelled above, or below where the curve is high."""
    highest = 2 * min((error for _, error in heads), default=0)
    for (norm_sq, error), names in heads.items():
        ax.plot(norm_sq, error, "o", color="black", ms=4)
        names = [name.removeprefix("Lagrange, ") for name in names]
        label, up = ", ".join(names), error < highest
        if len(label) > 20:
            label = f"{names[0]}, {len(names) - 1} more"
        ax.annotate(
            label,
            (norm_sq, error),
            xytext=(0, 9 if up else -9),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom" if up else "top",
            fontsize="small",
        )


def draw_norms(results: Results, folder: Path) -> Figure:
    """Loss of the optimal head against its norm, with the methods' heads on it.

    Target scales on which heads of the same norms are solved for share one panel.
    """
    arrays = record.read_arrays(folder)
    heads = {scale: _solved_heads(results, scale) for scale in _scales(results)}
    in_cycles = {  # what does not depend on the scale
        tuple(np.round(np.log([n * scale**2 for n, _ in sorted(labels)]), 1)): scale
        for scale, labels in reversed(heads.items())
    }
    scales = sorted(in_cycles.values(), reverse=True)
    figure, axes = plotting.make_axes(1, len(scales), size=(4.8, 4.4), compared=True)
    for ax, scale in zip(axes.flat, scales, strict=True):
        _draw_landscape(ax, arrays, heads[scale], scale)
        ax.set_title(_title(scale))
    highest = max(axes.flat[0].get_ylim())
    axes.flat[0].set(ylabel="RMSE before training, cycles", ylim=(None, 1.3 * highest))
    plotting.legend_below(figure, columns=3)
    return figure


def _draw_landscape(
    ax: Axes, arrays: Mapping[str, np.ndarray], heads: Heads, scale: float
) -> None:
    norms = arrays["landscape/norm_sq"] / scale**2
    shown = [norm_sq for norm_sq, _ in heads] or norms
    shown = (norms > min(shown) / 4) & (norms < max(shown) * 4)
    for name, (label, style) in LANDSCAPE.items():
        if f"landscape/{name}" in arrays:
            errors = arrays[f"landscape/{name}"] ** 0.5
            ax.plot(norms[shown], errors[shown], label=label, **style)
    ax.set(xlabel="squared norm of the head", xscale="log", yscale="log")
    _mark_heads(ax, heads)
    plain_log_axes(ax)


def draw(folder: Path) -> str:
    """Draws all figures into the run folder.

    Args:
      folder: a run folder.

    Returns:
      The table, which is also written to `table.md`.
    """
    folder = Path(folder)
    results = read_results(folder)
    plotting.save_figure(draw_curves(results), folder / "curves.png")
    plotting.save_figure(draw_trajectories(results), folder / "weights.png")
    scale = _scales(results)[0]
    plotting.save_figure(draw_horizon(results, scale), folder / "horizon.png")
    mechanism = draw_mechanism(results, scale)
    if mechanism is not None:
        plotting.save_figure(mechanism, folder / "mechanism.png")
    if all(x.distance.size for some in results.values() for x in some):
        plotting.save_figure(draw_distances(results, scale), folder / "distance.png")
    if "landscape/norm_sq" in record.read_arrays(folder):
        plotting.save_figure(draw_norms(results, folder), folder / "norm.png")
    table = make_table(results)
    gains = draw_gains(results, scale)
    if gains is not None:
        plotting.save_figure(gains, folder / "gains.png")
        table += (
            f"\n**What the head does to signals**\n\n{gain_table(results, scale)}\n"
        )
    (folder / "table.md").write_text(table)
    return table
