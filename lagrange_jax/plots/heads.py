"""What a head is solved from: its spectrum, the secular equation, loss over norm."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lagrange_jax.constraints.propagation import fixed_norm
from lagrange_jax.plots.axes import COLOURS, MARKERS, plain_log_axes
from lagrange_jax.ridge.path import norm_of_strength
from lagrange_jax.solvers.least_squares import solve_least_squares
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.statistics.spectrum import Spectrum

__all__ = ["plot_norm_landscape", "plot_secular_function", "plot_spectrum"]

# Squared norms of a landscape, as multiples of the unconstrained optimum's.
NORM_RATIOS = np.logspace(-3, 2, 81)


def plot_norm_landscape(
    axes: Axes,
    spectrum: Spectrum,
    *solutions: HeadSolution,
    names: Sequence[str] = (),
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
      *solutions: heads to mark, each with a colour and shape of its own.
      names: of the heads, for the legend, as many as heads; without them all heads are
        marked alike.
      label: of the curve, for the legend.
      **kwargs: of `Axes.plot`.

    Returns:
      The curve.

    Raises:
      ValueError: if there are names, and not one a head.
    """
    if names and len(names) != len(solutions):
        raise ValueError(
            f"expected a name for each of {len(solutions)} heads; got {len(names)}."
        )
    optimum, norms, losses = _landscape(spectrum)
    style = {"color": COLOURS[0], **kwargs}
    (line,) = axes.plot(norms, losses, label=label, **style)
    axes.axvline(float(optimum), color="0.6", lw=1, ls=":", label="no constraint")
    for place, solution in enumerate(solutions):
        style = place if names else 0
        axes.plot(
            float(jnp.sum(solution.kernel**2)),
            float(solution.objective),
            MARKERS[style % len(MARKERS)],
            color=COLOURS[(style + 1) % len(COLOURS)],
            ms=6,
            ls="",
            label=names[place] if names else "solved" if place == 0 else None,
        )
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel=r"squared norm of the head", ylabel="mean squared error")
    plain_log_axes(axes)
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
    kept = s > np.asarray(spectrum.resolution)
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


@jax.jit
def _landscape(spectrum):
    """Squared norm of least squares, norms about it, and their least losses."""
    optimum = norm_of_strength(spectrum, 0.0).sum()
    norms = optimum * jnp.asarray(NORM_RATIOS, optimum.dtype)

    def loss(norm_sq):
        constraint = fixed_norm(norm_sq, per_output=False)
        return solve_least_squares(spectrum, constraint).objective

    return optimum, norms, jax.vmap(loss)(norms)
