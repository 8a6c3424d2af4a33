"""How training goes on: what a start saves, for how long, by which of its traits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import plotting
from experiments.studies.rul.methods import BIAS_ONLY, LABELS, LAGRANGE
from experiments.studies.rul.results import (
    REFERENCE,
    Result,
    Results,
    references,
    saved,
)
from lagrange_jax.plots import COLOURS, plot_band

__all__ = ["LAYERS", "draw_distances", "draw_horizon", "draw_mechanism", "savings"]

LAYERS = ("dense", *(f"convolution {i}" for i in range(1, 6)), "head")
"""The layers in the order of the record."""

DIRECTIONS = {
    "solved direction": tuple(x for x in LAGRANGE if not x.startswith("exact")),
    "random direction, best bias": tuple(BIAS_ONLY),
    "random direction, bias zero": ("orthogonal", "lecun", "xavier", "kaiming"),
}
"""Heads that differ in their norm alone; the exact form's solves another problem."""

SHOWN = ("kaiming", "zero_bias", "small_random", "unconstrained", "loss_within_50")


def savings(result: Result, reference: Result) -> Float[np.ndarray, " m"]:
    """Returns the share of the reference's epochs that are saved, for each horizon.

    At a horizon the target is the best validation loss of the reference so far. It is
    minus infinity where the target was never reached, and NaN at the start.
    """
    shares = [np.nan]
    for end in range(2, len(reference.epochs) + 1):
        epochs, validation = reference.epochs[:end], reference.validation[:end]
        so_far = reference._replace(epochs=epochs, validation=validation)
        shares.append(saved(result, so_far) / 100)
    return np.array(shares)


def _shown(results: Results, scale: float) -> list[str]:
    return [method for method in SHOWN if (method, scale) in results]


def draw_horizon(results: Results, scale: float) -> Figure:
    """The saving against the epochs that the reference is given.

    A line ends where a seed does not reach the target.
    """
    figure, axes = plotting.make_axes(size=(6.4, 4.0))
    by_seed = references(results, scale)
    ax = axes[0, 0]
    for method in _shown(results, scale):
        some = [x for x in results[method, scale] if x.seed in by_seed]
        if method == REFERENCE or not some:
            continue
        saved = [100 * savings(x, by_seed[x.seed]) for x in some]
        points = min(map(len, saved))
        table = np.array([x[:points] for x in saved])
        reached = np.all(np.isfinite(table), axis=0)
        plot_band(
            ax,
            by_seed[some[0].seed].epochs[:points][reached],
            list(table[:, reached]),
            label=LABELS[method],
            color=plotting.colour_of(method, SHOWN),
        )
    ax.set(
        xlabel=f"epochs that {LABELS[REFERENCE]} trains",
        ylabel="saving to its best loss so far, %",
        ylim=(0, 100),
    )
    plotting.legend_below(figure, columns=1)
    return figure


def draw_distances(results: Results, scale: float) -> Figure:
    """How far each layer is from its end, as a part of the distance at the start."""
    methods = _shown(results, scale)
    figure, axes = plotting.make_axes(2, 4, size=(2.8, 2.5))
    axes.flat[-1].set_axis_off()
    for number, layer in enumerate(LAYERS):
        ax = axes.flat[number]
        for method in methods:
            some = results[method, scale]
            points = min(len(x.epochs) for x in some)
            curves = [x.distance[:points, number] for x in some]
            plot_band(
                ax,
                some[0].epochs[:points],
                [curve / curve[0] for curve in curves],
                label=LABELS[method],
                color=plotting.colour_of(method, SHOWN),
            )
        ax.set(title=layer, xlabel="epochs", ylim=(0, None))
    for ax in axes[:, 0]:
        ax.set_ylabel("distance to the end")
    plotting.legend_below(figure, columns=2)
    return figure


def draw_mechanism(results: Results, scale: float) -> Figure | None:
    """What a start earns against the norm of its head, by where its direction is from.

    A dot is a seed, and a line goes through the medians. What is never reached saves
    nothing. None where a kind of direction has fewer than two norms.
    """
    reference = references(results, scale)
    by_kind = {}
    for kind, methods in DIRECTIONS.items():
        heads = [results.get((method, scale), []) for method in methods]
        heads = [[x for x in some if x.seed in reference] for some in heads]
        by_kind[kind] = [some for some in heads if some]
    if any(len(heads) < 2 for heads in by_kind.values()):
        return None

    def saving(one: Result) -> float:
        return max(saved(one, reference[one.seed]), 0.0)

    def best(one: Result) -> float:
        return float(one.validation.min() ** 0.5)

    figure, axes = plotting.make_axes(1, 2, size=(4.8, 3.8))
    for ax, value in zip(axes.flat, (saving, best), strict=True):
        ax.set_xscale("symlog", linthresh=1e-2)
        for number, (kind, heads) in enumerate(by_kind.items()):
            groups = [[(x.norm_sq, value(x)) for x in some] for some in heads]
            _plot_medians(ax, groups, label=kind, color=COLOURS[number])
        ax.set_xlabel("squared norm of the head")
    axes[0, 0].set(ylabel=f"saving against {LABELS[REFERENCE]}, %", ylim=(-3, 100))
    axes[0, 1].set(ylabel="best validation RMSE in cycles", yscale="log")
    plotting.plain_log_ticks(axes[0, 1], (12, 15, 20, 25, 30))
    plotting.legend_below(figure, columns=3)
    return figure


def _plot_medians(
    ax: Axes, groups: Sequence[Sequence[tuple[float, float]]], **style: Any
) -> None:
    """Draws groups of points, and a line through the median of each.

    Groups whose norms are within a fifth of each other are one, and points that two of
    them share, of a head that is the same for several methods, count once.
    """
    joined: dict[float, list[tuple[float, float]]] = {}
    for group in groups:
        middle = float(np.median([norm for norm, _ in group]))
        near = next((x for x in joined if np.isclose(x, middle, rtol=0.2)), middle)
        known = joined.setdefault(near, [])
        known += [point for point in group if point not in known]
    middles = sorted(tuple(np.median(some, axis=0)) for some in joined.values())
    ax.plot(*zip(*middles, strict=True), **style)
    for some in joined.values():
        ax.plot(*zip(*some, strict=True), ".", color=style["color"], alpha=0.5)
