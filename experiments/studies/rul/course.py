"""How training goes on: what a start saves later, and how far layers have to go."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.common import plotting
from experiments.common.curves import epochs_to
from experiments.studies.rul.methods import LABELS
from experiments.studies.rul.results import REFERENCE, Result, Results, references
from lagrange_jax.plots import plot_band

__all__ = ["LAYERS", "draw_distances", "draw_horizon", "savings"]

LAYERS = ("dense", *(f"convolution {i}" for i in range(1, 6)), "head")
"""The layers in the order of the record."""

SHOWN = ("kaiming", "zero_bias", "small_random", "unconstrained", "loss_within_50")


def savings(result: Result, reference: Result) -> Float[np.ndarray, " m"]:
    """Returns the share of the reference's epochs that are saved, for each horizon.

    At a horizon the target is the best validation loss of the reference so far. It is
    minus infinity where the target was never reached, and NaN at the start.
    """
    saved = [np.nan]
    for end in range(2, len(reference.epochs) + 1):
        target = reference.validation[:end].min()
        needed = epochs_to(target, result.epochs, result.validation)
        own = epochs_to(target, reference.epochs, reference.validation)
        saved.append(1 - needed / own if own > 0 else np.nan)
    return np.array(saved)


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
