"""Curves of training and maps of a grid, over seeds."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from lagrange_jax.numerics.student import t_half_width
from lagrange_jax.plots.axes import plain_log_axes
from lagrange_jax.strengths.best import best_strength

__all__ = ["mean_interval", "plot_band", "plot_strength_map"]

FEWEST_OF_A_BAND = 5
"""A t-interval of fewer is as wide as the picture."""


def mean_interval(
    values: ArrayLike, axis: int = 0, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the half-width of its t-interval, NaN for one value.

    Args:
      values: measurements, such as one a seed.
      axis: the axis that runs over the measurements.
      level: coverage of the interval.

    Returns:
      Mean and half-width, both without `axis`.
    """
    values = np.asarray(values, float)
    n, mean = values.shape[axis], values.mean(axis)
    if n < 2:
        return mean, np.full_like(mean, np.nan)
    t = t_half_width(n - 1, level)
    return mean, t * values.std(axis, ddof=1) / np.sqrt(n)


def plot_band(
    axes: Axes, x: ArrayLike, curves: ArrayLike, *, label: str = "", **kwargs: Any
) -> Line2D:
    """Draws the mean of several curves with its 95% band.

    Fewer than five curves say too little for an interval: each is drawn instead, thin.

    Args:
      axes: where to draw.
      x: `[points]`.
      curves: `[seeds, points]`, such as `validation_loss` of vmapped training.
      label: for the legend.
      **kwargs: of `Axes.plot`, such as `color`.

    Returns:
      The line of the mean.
    """
    curves = np.asarray(curves)
    mean, half = mean_interval(curves)
    (line,) = axes.plot(x, mean, label=label, **kwargs)
    color = line.get_color()
    if len(curves) >= FEWEST_OF_A_BAND:
        axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.18, lw=0)
    elif len(curves) > 1:
        axes.plot(x, curves.T, color=color, alpha=0.4, lw=0.8)
    return line


def plot_strength_map(
    axes: Axes,
    losses: ArrayLike,
    strengths: ArrayLike,
    sizes: ArrayLike,
    *,
    largest: float = 1.0,
    **kwargs: Any,
) -> QuadMesh:
    """Draws a strength x N grid as a heat map, with the best strength of each N.

    The colour is by how much the loss, averaged over seeds, exceeds the least of its
    N: 0 is the best strength, 0.1 is ten percent worse. The line is `best_strength` of
    the averaged loss; open circles are censored, at the edge of the grid.

    Args:
      axes: where to draw; both scales become logarithmic.
      losses: validation losses `[strengths, sizes]` or `[strengths, sizes, seeds]`.
      strengths: positive and increasing.
      sizes: numbers of examples, increasing.
      largest: excess at the end of the colour scale.
      **kwargs: of `Axes.pcolormesh`.

    Returns:
      The mesh, for `Figure.colorbar`.
    """
    losses, strengths = np.asarray(losses, float), np.asarray(strengths, float)
    mean = losses if losses.ndim == 2 else losses.mean(-1)
    mean = np.where(np.isfinite(mean), mean, np.inf)
    style = {"cmap": "viridis_r", "vmin": 0, "vmax": largest, **kwargs}
    excess = np.minimum(mean / mean.min(0) - 1, 1e9)
    mesh = axes.pcolormesh(
        _log_edges(sizes), _log_edges(strengths), excess, rasterized=True, **style
    )
    best = best_strength(jnp.asarray(mean, jnp.float32), jnp.asarray(strengths))
    inside = ~np.asarray(best.is_censored)
    line = np.where(inside, best.strength, np.nan)
    axes.plot(sizes, line, "o-", color="black", mfc="white", ms=5, lw=1.5)
    edge = np.where(inside, np.nan, best.strength)
    axes.plot(sizes, edge, "o", mfc="none", mec="black", ms=5)
    axes.set(xscale="log", yscale="log", xlabel="examples", ylabel="strength")
    shown = np.asarray(sizes)[:: -(-len(line) // 6)]  # more labels would overlap
    plain_log_axes(axes)
    axes.set_xticks(shown, [f"{size:g}" for size in shown])
    axes.set_xticks([], minor=True)
    return mesh


def _log_edges(centres):
    """Edges of cells that share their centres on a logarithmic axis."""
    log = np.log(np.asarray(centres, float))
    middle = (log[1:] + log[:-1]) / 2
    ends = 2 * log[0] - middle[0], 2 * log[-1] - middle[-1]
    return np.exp(np.concatenate([ends[:1], middle, ends[1:]]))
