"""Figures of the study, drawn from the record alone."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import plotting, record
from experiments.studies.lambda_scaling.laws import (
    Curves,
    Law,
    fit_law,
    read_config,
    read_curves,
)
from experiments.studies.lambda_scaling.tables import (
    fixed_laws,
    make_tables,
    paired_heads,
    predicted_strength,
)

__all__ = ["draw"]

BLUE, RED, GREEN = "#0072B2", "#D55E00", "#009E73"
BEST, EXAMPLES = r"best strength $\lambda^*$", "examples $N$"

THESIS_BEST = 2e-3
"""What the thesis reports at N = 3,240."""

Found = dict[str, Curves]


def _plot_law(
    ax: Axes, sizes, law: Law, label: str, colour: str, marker: str = "o"
) -> None:
    """Best strengths with standard errors, and the line that fits them."""
    ax.errorbar(
        sizes,
        law.strength,
        law.error,
        fmt=marker,
        color=colour,
        ms=4,
        capsize=2,
        label=f"{label}: slope {law.slope:.2f}",
    )
    if np.isfinite(law.slope):
        ax.plot(sizes, np.exp(law.intercept) * sizes**law.slope, color=colour, lw=1)


def _finish(ax: Axes, title: str, *, log: bool = True) -> None:
    # A small run may have no optimum inside its grid, and so nothing to draw.
    values = [np.asarray(line.get_ydata(), float) for line in ax.lines]
    log = log and any(np.any(some > 0) for some in values)
    scale = "log" if log else "linear"
    ax.set(xlabel=EXAMPLES, title=title, xscale=scale, yscale=scale)
    ax.legend(frameon=False, fontsize="small")


def draw_errors(found: Found) -> Figure:
    """The thesis's figure 1: losses over strengths at the largest N."""
    curves = found["protocol/first"]
    figure, axes = plotting.make_axes()
    ax, seeds = axes[0, 0], curves.train.shape[-1]
    parts = {"training": (curves.train, BLUE), "validation": (curves.validation, RED)}
    for label, (losses, colour) in parts.items():
        last = losses[:, -1]
        error = last.std(-1, ddof=1) / seeds**0.5 if seeds > 1 else None
        ax.errorbar(
            curves.strengths,
            last.mean(-1),
            error,
            color=colour,
            label=label,
            marker="o",
            ms=3,
            capsize=2,
        )
    best = curves.strengths[curves.validation[:, -1].mean(-1).argmin()]
    ax.axvline(best, color="0.6", label="best here")
    ax.axvline(THESIS_BEST, color="0.6", ls="--", label="best in the thesis")
    ax.set(xscale="log", xlabel=r"strength $\lambda$", ylabel="cross-entropy")
    ax.set_title(f"N = {curves.sizes[-1]}")
    ax.legend(frameon=False)
    return figure


def draw_first(found: Found) -> Figure:
    """The thesis's figure 2: best strength against N, linear and logarithmic."""
    curves = found["protocol/first"]
    figure, axes = plotting.make_axes(1, 2)
    law = fit_law(curves, "thesis")
    edge = np.isclose(law.strength, curves.strengths[-1], rtol=1e-5)
    for ax, log in zip(axes[0], (False, True), strict=True):
        _plot_law(ax, curves.sizes, law, "L2", BLUE)
        where = curves.sizes[edge], law.strength[edge]
        style = {"color": BLUE, "mfc": "white", "ms": 4, "zorder": 3}
        ax.plot(*where, "o", label="at the end of the strengths", **style)
        _finish(ax, "logarithmic" if log else "linear", log=log)
    axes[0, 0].set_ylabel(BEST)
    return figure


def draw_scales(found: Found) -> Figure:
    """The thesis's figure 3: initial variance scaled, all rules of averaging."""
    names = [x for x in found if x.startswith("protocol/scale")]
    figure, axes = plotting.make_axes(1, len(names), compared=True)
    for ax, name in zip(axes[0], names, strict=True):
        curves = found[name]
        _plot_law(ax, curves.sizes, fit_law(curves, "thesis"), "thesis's rule", BLUE)
        law = fit_law(curves, "mean curve")
        _plot_law(ax, curves.sizes, law, "mean curve", RED, "s")
        _finish(ax, f"initial variance {name.split()[-1]} / fan-in")
    axes[0, 0].set_ylabel(BEST)
    return figure


def draw_penalties(found: Found) -> Figure:
    """The thesis's figure 4: L1 beside L2."""
    figure, axes = plotting.make_axes(1, 2)
    for ax, log in zip(axes[0], (False, True), strict=True):
        for label, name, colour in (("L2", "scale 1", BLUE), ("L1", "l1", RED)):
            if f"protocol/{name}" in found:
                curves = found[f"protocol/{name}"]
                law = fit_law(curves, "thesis")
                _plot_law(ax, curves.sizes, law, label, colour)
        _finish(ax, "L1 and L2", log=log)
    axes[0, 0].set_ylabel(BEST)
    return figure


def draw_fixed(arrays: dict[str, np.ndarray], sizes: np.ndarray) -> Figure:
    """Heads on a fixed hidden layer: optimum of the mean, of each seed, evidence."""
    predicted, laws = predicted_strength(arrays), fixed_laws(arrays, sizes)
    titles = {
        "ridge": "fixed tanh layer, squared error",
        "logistic": "fixed tanh layer, cross-entropy",
        "linear": "linear units, both layers penalised",
    }
    figure, axes = plotting.make_axes(1, len(laws))
    for ax, (name, (curves, law)) in zip(axes[0], laws.items(), strict=True):
        _plot_law(ax, sizes, law, "mean curve", BLUE)
        _plot_law(ax, sizes, fit_law(curves, "seeds"), "seeds", RED, "s")
        if name in predicted:
            typical = np.exp(np.log(predicted[name]).mean(1))
            ax.plot(sizes, typical, color="black", ls=":", label="evidence")
        _finish(ax, titles[name])
    axes[0, 0].set_ylabel(BEST)
    return figure


def draw_converged(found: Found) -> Figure:
    """Converged networks, and the same with other strengths for the two layers."""
    cases = {
        x.removeprefix("converged/"): y for x, y in found.items() if "converged" in x
    }
    networks = [x for x in cases if "/" in x]
    ratios = sorted(
        (x for x in cases if x.startswith("ratio")), key=lambda x: float(x.split()[1])
    )
    figure, axes = plotting.make_axes(1, 2)
    for name in networks:
        colour = plotting.colour_of(name, networks)
        curves, (unit, *_, layers) = cases[name], name.split("/")
        law = fit_law(curves, "mean curve")
        _plot_law(axes[0, 0], curves.sizes, law, f"{unit}, {layers}", colour)
    groups = [networks[0], *ratios]
    for name in groups:
        curves = cases[name]
        label = "ratio 1" if name == networks[0] else name
        law, colour = fit_law(curves, "mean curve"), plotting.colour_of(name, groups)
        _plot_law(axes[0, 1], curves.sizes, law, label, colour)
    _finish(axes[0, 0], "units, penalised layers")
    _finish(axes[0, 1], "first layer's strength / second's")
    axes[0, 0].set_ylabel(BEST)
    axes[0, 1].set_ylabel("geometric mean of both strengths")
    return figure


def draw_heads(found: Found) -> Figure:
    """Best strength and loss of solved heads at every initial variance."""
    cases = {tuple(name.split()): x for name, x in paired_heads(found).items()}
    heads = list(dict.fromkeys(head for head, _ in cases))
    scales = list(dict.fromkeys(scale for _, scale in cases))
    figure, axes = plotting.make_axes(2, len(scales), compared=True)
    for (head, scale), curves in cases.items():
        above, below = axes[:, scales.index(scale)]
        colour = plotting.colour_of(head, heads)
        law = fit_law(curves, "mean curve")
        _plot_law(above, curves.sizes, law, head, colour)
        least = curves.validation.mean(-1).min(0)
        below.plot(curves.sizes, least, "o-", ms=3, color=colour, label=head)
        below.set(xscale="log", xlabel=EXAMPLES)
        below.legend(frameon=False, fontsize="small")
        _finish(above, f"initial variance {scale} / fan-in")
    axes[0, 0].set_ylabel(BEST)
    axes[1, 0].set_ylabel("validation loss there")
    return figure


def draw(folder: str | Path) -> str:
    """Draws all figures for which there are results.

    Args:
      folder: a run folder.

    Returns:
      The tables, which are also written to `tables.md`.
    """
    folder = Path(folder)
    config, arrays = read_config(folder), record.read_arrays(folder)
    found = read_curves(folder)
    figures = {}
    if "protocol/first" in found:
        figures["errors"] = draw_errors(found)
        figures["first"] = draw_first(found)
    if any(x.startswith("protocol/scale") for x in found):
        figures["scales"] = draw_scales(found)
        figures["penalties"] = draw_penalties(found)
    if "fixed/ridge" in arrays:
        figures["fixed"] = draw_fixed(arrays, np.array(config.fixed_sizes))
    if any(x.startswith("converged/") for x in found):
        figures["converged"] = draw_converged(found)
    if any(x.startswith("heads/") for x in found):
        figures["heads"] = draw_heads(found)
    for name, figure in figures.items():
        plotting.save_figure(figure, folder / f"{name}.png")
    tables = make_tables(found, arrays, config)
    (folder / "tables.md").write_text(tables)
    return tables
