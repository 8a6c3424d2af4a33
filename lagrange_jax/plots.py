r"""Pictures of heads, strengths and training, drawn on axes that the caller owns.

Every function takes a Matplotlib `Axes`, draws on it, labels it and returns what a
legend or a colour bar needs. Nothing here opens a window, makes a figure or touches
pyplot. Needs the extra `plots`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from scipy import special

from lagrange_jax.constraints.propagation import fixed_norm
from lagrange_jax.numerics.linalg import rank_tolerance
from lagrange_jax.ridge.path import norm_of_strength
from lagrange_jax.solvers.least_squares import solve_least_squares
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.statistics.spectrum import Spectrum
from lagrange_jax.strengths.best import best_strength

__all__ = [
    "COLOURS",
    "mean_interval",
    "plot_band",
    "plot_norm_landscape",
    "plot_secular_function",
    "plot_spectrum",
    "plot_strength_map",
]

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of lines, in order."""

# Squared norms of a landscape, as multiples of the unconstrained optimum's.
NORM_RATIOS = np.logspace(-3, 2, 81)


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
    t = special.stdtrit(n - 1, (1 + level) / 2)
    return mean, t * values.std(axis, ddof=1) / np.sqrt(n)


def plot_band(
    axes: Axes, x: ArrayLike, curves: ArrayLike, *, label: str = "", **kwargs: Any
) -> Line2D:
    """Draws the mean of several curves with its 95% band.

    One curve has no band. Two say too little for an interval: their band spans them.

    Args:
      axes: where to draw.
      x: `[points]`.
      curves: `[seeds, points]`, such as `validation_loss` of vmapped training.
      label: for the legend.
      **kwargs: of `Axes.plot`, such as `color`.

    Returns:
      The line of the mean.
    """
    mean, half = mean_interval(curves)
    low, high = mean - half, mean + half
    if len(np.asarray(curves)) < 3:
        low, high = np.min(curves, 0), np.max(curves, 0)
    (line,) = axes.plot(x, mean, label=label, **kwargs)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.18, lw=0)
    return line


def plot_norm_landscape(
    axes: Axes,
    spectrum: Spectrum,
    *solutions: HeadSolution,
    label: str = "least loss on the sphere",
    **kwargs: Any,
) -> Line2D:
    r"""Draws the least loss that a head of a given norm can have, and solved heads.

    The curve is the loss of the global optimum on every sphere $\|W\|_F^2 = c$. Left
    of its lowest point multipliers are positive (ridge regression), right of it
    negative. A head solved under the same kind of constraint stands on the curve; one
    with a sphere an output, or with its variance held, may stand above it.

    Args:
      axes: where to draw; both scales become logarithmic.
      spectrum: spectrum of the head's features and targets.
      *solutions: heads to mark with a dot.
      label: of the curve, for the legend.
      **kwargs: of `Axes.plot`.

    Returns:
      The curve.
    """
    optimum, norms, losses = _landscape(spectrum)
    style = {"color": COLOURS[0], **kwargs}
    (line,) = axes.plot(norms, losses, label=label, **style)
    axes.axvline(float(optimum), color="0.6", lw=1, ls=":", label="no constraint")
    if solutions:
        squares = [float(jnp.sum(solution.kernel**2)) for solution in solutions]
        objectives = [float(solution.objective) for solution in solutions]
        axes.plot(squares, objectives, "o", color=COLOURS[1], ms=6, label="solved")
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel=r"squared norm of the head", ylabel="mean squared error")
    return line


def plot_spectrum(axes: Axes, spectrum: Spectrum, **kwargs: Any) -> Line2D:
    r"""Draws the eigenvalues of the features, and what each explains of the targets.

    Bars are the shares $p_i^2 / s_i$ of the targets' variance, summed over outputs.
    Eigenvalues that are zero but for rounding are left out.

    Args:
      axes: where to draw. The bars use a second y axis on its right.
      spectrum: spectrum of the head's features and targets.
      **kwargs: of `Axes.plot`.

    Returns:
      The line of the eigenvalues.
    """
    s = np.asarray(spectrum.eigenvalues)
    kept = s > np.asarray(rank_tolerance(spectrum.eigenvalues))
    s, loads = s[kept][::-1], np.asarray(spectrum.projections)[kept][::-1] ** 2
    shares = loads.sum(1) / s / float(jnp.sum(spectrum.variance))
    index = np.arange(1, len(s) + 1)
    right = axes.twinx()
    right.bar(index, shares, width=0.8, color=COLOURS[5], alpha=0.5)
    right.set_ylabel("share of the targets' variance")
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    style = {"color": COLOURS[0], "marker": ".", **kwargs}
    (line,) = axes.plot(index, s, **style)
    axes.set(xlabel="eigenvector", ylabel="eigenvalue", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return line


def plot_secular_function(
    axes: Axes,
    spectrum: Spectrum,
    *solutions: HeadSolution,
    output: int | None = None,
    **kwargs: Any,
) -> Line2D:
    r"""Draws $\psi(\mu) = \sum_i p_i^2 / (s_i + \mu)^2$ and the roots that were taken.

    The squared norm of the stationary point of multiplier $\mu$, with a pole at every
    $-s_i$ (grey). A norm may be reached many times; the global optimum is the one
    crossing right of all poles.

    Args:
      axes: where to draw.
      spectrum: spectrum of the head's features and targets.
      *solutions: heads solved on it, whose norms and multipliers are marked.
      output: which output, for a sphere an output; None for the sum over all of them,
        which is the equation of a single sphere.
      **kwargs: of `Axes.plot`.

    Returns:
      The curve.
    """
    s = np.asarray(spectrum.eigenvalues, float)
    loads = np.asarray(spectrum.projections, float) ** 2
    loads = loads.sum(1) if output is None else loads[:, output]
    width = s[-1] - s[0] or 1.0
    pairs = [(x.multiplier, x.norm_sq) for x in solutions]
    if output is not None:
        pairs = [(roots[output], norms[output]) for roots, norms in pairs]
    roots, wanted = np.array(pairs, float).reshape(-1, 2).T
    right = max(0.0, -s[0], *roots) + 0.4 * width
    grid = np.linspace(-s[-1] - 0.1 * width, right, 4001)
    with np.errstate(divide="ignore"):
        norms = np.sum(loads / (s + grid[:, None]) ** 2, 1)
    for pole in -s:
        axes.axvline(pole, color="0.85", lw=0.6, zorder=0)
    for norm_sq in wanted:
        axes.axhline(norm_sq, color="0.4", lw=0.8, ls="--")
    axes.axvspan(-s[0], right, color=COLOURS[2], alpha=0.08, lw=0)
    (line,) = axes.plot(grid, norms, **{"color": COLOURS[0], "lw": 1, **kwargs})
    axes.plot(roots, wanted, "o", color=COLOURS[1], ms=6, zorder=3)
    seen = [norms.min(), np.median(norms), *wanted]
    axes.set(yscale="log", xlim=(grid[0], right), ylim=(min(seen) / 3, max(seen) * 300))
    axes.set(xlabel=r"multiplier $\mu$", ylabel=r"squared norm $\psi(\mu)$")
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
    axes.set_xticks(shown, [f"{size:g}" for size in shown])
    axes.set_xticks([], minor=True)
    return mesh


@jax.jit
def _landscape(spectrum):
    """Squared norm of least squares, norms about it, and their least losses."""
    optimum = norm_of_strength(spectrum, 0.0).sum()
    norms = optimum * jnp.asarray(NORM_RATIOS, optimum.dtype)

    def loss(norm_sq):
        constraint = fixed_norm(norm_sq, per_output=False)
        return solve_least_squares(spectrum, constraint).objective

    return optimum, norms, jax.vmap(loss)(norms)


def _log_edges(centres):
    """Edges of cells that share their centres on a logarithmic axis."""
    log = np.log(np.asarray(centres, float))
    middle = (log[1:] + log[:-1]) / 2
    ends = 2 * log[0] - middle[0], 2 * log[-1] - middle[-1]
    return np.exp(np.concatenate([ends[:1], middle, ends[1:]]))
