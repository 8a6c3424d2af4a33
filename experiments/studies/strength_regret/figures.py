"""Figures of the study, drawn from the record alone."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.common import plotting
from experiments.studies.strength_regret import rules
from experiments.studies.strength_regret.networks import PENALTIES
from experiments.studies.strength_regret.tables import Study, make_tables, read_study
from lagrange_jax.strengths.curves import mean_optimum

__all__ = ["draw"]

SHOWN = (
    *("full sweep", "law, one sweep at N/4", "law, one sweep at N/8"),
    *("law, all up to N/8", "free fit, all up to N/8", "1/N from N/4"),
    *("N^-1/2 from N/4", "unscaled from N/4", "usual default", "Twin, no validation"),
)
FLOOR = 0.05


def draw_regret(study: Study) -> Figure:
    """Regret of every rule against the examples that it saw."""
    figure, axes = plotting.make_axes(size=(8.0, 4.2))
    ax, random = axes[0, 0], np.random.default_rng(0)
    names = [x for x in SHOWN if x in study.names()]
    for place, name in enumerate(names):
        values = study.percents(name)
        values = np.maximum(values[np.isfinite(values)], FLOOR)
        if not len(values):
            continue
        compute = np.mean(
            [x[name].compute for x in study.regrets.values() if name in x]
        )
        at = place + 0.25 * random.uniform(-1, 1, len(values))
        ax.plot(at, values, "o", ms=3, color="0.6")
        ax.plot(place, np.median(values), "_", ms=18, mew=2.5, color="#D55E00")
        label = f"{name}\n{compute:.0f} %"
        ax.text(
            place, FLOOR / 2.2, label, rotation=35, ha="right", va="top", fontsize=7
        )
    ax.axhline(1, color="#0072B2", lw=0.8, ls="--")
    ax.axhline(5, color="#0072B2", lw=0.8, ls=":")
    ax.set(yscale="log", ylabel="regret, % of what the penalty buys")
    ax.set_xticks([])
    ax.set_title("each point a task and penalty; bar: median; below: examples seen")
    return figure


def draw_slopes(study: Study) -> Figure:
    """Best strength of the mean curve against N, with the jackknife's bands."""
    figure, axes = plotting.make_axes(1, len(PENALTIES))
    tasks = list(dict.fromkeys(task for task, _ in study.families))
    for ax, penalty in zip(axes[0], PENALTIES, strict=True):
        for task in tasks:
            if (task, penalty) not in study.families:
                continue
            curves = study.families[task, penalty].curves
            optimum = mean_optimum(curves)
            known = ~(optimum.is_low | optimum.is_high)
            x, y = curves.sizes[known], optimum.log_strength[known]
            colour = plotting.colour_of(task, tasks)
            ax.plot(x, np.exp(y), "o-", ms=3, color=colour, label=task)
            error = np.minimum(optimum.variance[known], 9.0) ** 0.5
            ends = np.exp(y - error), np.exp(y + error)
            ax.fill_between(x, *ends, color=colour, alpha=0.12, lw=0)
        ax.set(xscale="log", yscale="log", xlabel="examples $N$", title=penalty)
    axes[0, 0].set_ylabel("best strength, ± one standard error")
    if tasks:
        axes[0, -1].legend(frameon=False, fontsize="small")
    return figure


def draw_local(study: Study) -> Figure:
    """Local slopes between a size and four times it, averaged over tasks."""
    figure, axes = plotting.make_axes(1, len(PENALTIES))
    for ax, penalty in zip(axes[0], PENALTIES, strict=True):
        for (_, other), family in study.families.items():
            if other != penalty:
                continue
            sizes, slopes = family.curves.sizes, []
            for i in range(len(sizes) - 2):
                slopes.append(rules.fit_slope(family.curves, slice(i, i + 3)))
            centre = sizes[1:-1]
            values = np.array(slopes).reshape(-1, 3)
            ax.plot(centre, values[:, 0], "o-", ms=3, lw=0.8, color="0.5")
            ax.fill_between(centre, values[:, 1], values[:, 2], color="0.5", alpha=0.08)
        for exponent in (-1, -0.5):
            ax.axhline(exponent, color="#0072B2", lw=0.8, ls="--")
        ax.set(xscale="log", xlabel="examples $N$", title=penalty, ylim=(-2, 1))
    axes[0, 0].set_ylabel("local slope of log strength")
    return figure


def draw(folder: str | Path) -> str:
    """Draws all figures and returns the tables, which are written to `tables.md`."""
    folder = Path(folder)
    study = read_study(folder)
    makers = {"regret": draw_regret, "strengths": draw_slopes, "slopes": draw_local}
    for name, maker in makers.items():
        plotting.save_figure(maker(study), folder / f"{name}.png")
    text = make_tables(folder, study)
    (folder / "tables.md").write_text(text)
    return text
