"""One figure, does it pay, and the tables; from the record alone."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.common import plotting
from experiments.studies.resolved_head.tables import (
    TIME_GOAL,
    Verdict,
    make_table,
    ratio_interval,
    read_verdicts,
)
from experiments.studies.resolved_head.training import STARTS

__all__ = ["draw"]

NEVER = 8.0
"""Where a mark for seeds that never reached the target is drawn."""

LOWEST = 0.05
"""Where a mark stands for a ratio below, with its number and no interval."""

TICKS = (0.1, 0.2, 0.5, 1, 2, 5)
PANELS = {
    "time": "time to the baseline's best\nvalidation loss, re-solved / baseline",
    "loss": "best validation loss,\nre-solved / baseline",
}


def draw_verdicts(groups: dict[str, list[Verdict]]) -> Figure:
    """Time to the best baseline's best loss, and best loss, over the baseline's.

    Args:
      groups: verdicts on the same problems, by the name of what they are against.
    """
    names = [f"{v.problem}\n{v.arm}" for v in next(iter(groups.values()))]
    figure, axes = plotting.make_axes(1, 2, size=(4.6, 0.45 * len(names) + 1.6))
    places = np.arange(len(names))[::-1]
    for ax, (field, label) in zip(axes[0], PANELS.items(), strict=True):
        for i, (group, verdicts) in enumerate(groups.items()):
            for place, verdict in zip(places, verdicts, strict=True):
                values = getattr(verdict, field)
                _draw_ratios(ax, place + 0.15 - 0.3 * i, values, f"C{i}", group)
        ax.axvline(1, color="0.4", linewidth=1)
        ax.set(xscale="log", xlabel=label)
        low, high = ax.get_xlim()
        ticks = [x for x in TICKS if low <= x <= high]
        ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
        ax.set_xticks([], minor=True)
    left, right = axes[0]
    left.axvline(TIME_GOAL, color="C2", linestyle="--", linewidth=1)
    left.set_yticks(places, names, fontsize=7)
    right.set_yticks(places, [""] * len(places))
    plotting.legend_below(figure, columns=2)
    return figure


def _draw_ratios(ax, place, values, colour, label):
    if not np.isfinite(values).all():
        missed = f"{np.sum(~np.isfinite(values))} of {len(values)} never"
        ax.plot(NEVER, place, ">", color=colour)
        ax.annotate(missed, (NEVER, place), fontsize=6, xytext=(-6, -2.5),
                    ha="right", textcoords="offset points")  # fmt: skip
    elif len(values) > 2:
        low, middle, high = ratio_interval(values)
        if middle < LOWEST:
            ax.plot(LOWEST, place, "<", color=colour)
            ax.annotate(f"{middle:.2g}", (LOWEST, place), fontsize=6,
                        xytext=(6, -2.5), textcoords="offset points")  # fmt: skip
            return
        ax.plot([low, high], [place, place], color=colour, linewidth=2)
        ax.plot(middle, place, "o", color=colour, label=label)


def draw(folder: Path) -> str:
    """Draws the figure into the run folder.

    Args:
      folder: a run folder.

    Returns:
      The tables, which are also written to `table.md`.
    """
    folder = Path(folder)
    groups = {
        "against Kaiming, zero, solved once": read_verdicts(folder, baselines=STARTS),
        "and a penalised head": read_verdicts(folder),
    }
    if all(groups.values()):
        plotting.save_figure(draw_verdicts(groups), folder / "verdicts.png")
    table = make_table(folder)
    (folder / "table.md").write_text(table)
    return table
