"""Figures of the RUL study, drawn from the record alone."""

import itertools
from pathlib import Path

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
from lagrange_jax.plots import plain_log_axes, plot_band

__all__ = ["draw"]

IN_CURVES = (
    *("kaiming", "lecun", "zero_bias", "unconstrained"),
    *("forward_equality", "backward_equality", "loss_within_50"),
    "small_random",
)
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
    """Validation error against epochs, mean over seeds with its 95% band."""
    scales = _scales(results)
    figure, axes = plotting.make_axes(1, len(scales), size=(5.0, 4.2))
    for ax, scale in zip(axes.flat, scales, strict=True):
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
        ax.set(title=_title(scale), xlabel="epochs", yscale="log", ylim=(11, 110))
        plotting.plain_log_ticks(ax, (12, 15, 20, 30, 50, 100))
    axes.flat[0].set_ylabel("validation RMSE in cycles")
    plotting.legend_below(figure, columns=4 if len(scales) > 1 else 1)
    return figure


def draw_trajectories(results: Results) -> Figure:
    """All weights of the head through training, first seed."""
    scales = _scales(results)
    methods = _methods(results, IN_TRAJECTORIES, scales[0])
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
        row[0].set_ylabel("head weights")
    for ax in axes[-1]:
        ax.set_xlabel("epochs")
    return figure


def _mark_heads(ax: Axes, results: Results, scale: float) -> None:
    """Puts each solved head on the curve, labelled above; equal heads share a dot."""
    labels: dict[tuple[float, float], list[str]] = {}
    for (method, s), some in results.items():
        if s == scale and np.isfinite(some[0].multiplier):
            place = some[0].norm_sq, some[0].train[0] ** 0.5
            same = [p for p in labels if np.allclose(p, place, rtol=0.2)]
            labels.setdefault(same[0] if same else place, []).append(LABELS[method])
    for (norm_sq, error), names in labels.items():
        ax.plot(norm_sq, error, "o", color="black", ms=4)
        short = [name.removeprefix("Lagrange, ") for name in names]
        if len(short) > 3:
            short = [short[0], f"{len(short) - 1} more"]
        ax.annotate(
            ", ".join(short),
            (norm_sq, error),
            xytext=(0, 9),
            textcoords="offset points",
            rotation=90,
            ha="center",
            fontsize="x-small",
        )
    norms = [norm_sq for norm_sq, _ in labels]
    if norms:
        ax.set_xlim(min(norms) / 4, max(norms) * 8)


def draw_norms(results: Results, folder: Path) -> Figure:
    """Loss of the optimal head against its norm, with the methods' heads on it."""
    arrays = record.read_arrays(folder)
    norm_sq, train, validation = (
        arrays[f"landscape/{name}"] for name in ("norm_sq", "train", "validation")
    )
    scales = _scales(results)
    figure, axes = plotting.make_axes(1, len(scales), size=(6.0, 4.0))
    for ax, scale in zip(axes.flat, scales, strict=True):
        norms = norm_sq / scale**2
        ax.plot(norms, train**0.5, color="#0072B2", label="training windows")
        ax.plot(norms, validation**0.5, color="#D55E00", label="validation windows")
        if "landscape/train_sum_zero" in arrays:
            sum_zero = arrays["landscape/train_sum_zero"] ** 0.5
            label = "training windows, weights add up to 0"
            ax.plot(norms, sum_zero, "--", color="#0072B2", label=label)
        _mark_heads(ax, results, scale)
        ax.set(title=_title(scale), xlabel="squared norm of the head", xscale="log")
        ax.set_yscale("log")
        plain_log_axes(ax)
    axes.flat[0].set_ylabel("RMSE before training, cycles")
    axes.flat[0].legend(frameon=False, fontsize="small", loc="upper left")
    return figure


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
