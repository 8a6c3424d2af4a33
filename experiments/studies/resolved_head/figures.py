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

__all__ = ["draw"]

NEVER = 8.0
"""Where a mark for a seed that never reached the target is drawn."""

TICKS = (0.001, 0.01, 0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10, 100)


def draw_verdicts(verdicts: list[Verdict]) -> Figure:
    """Time to the best baseline's best loss, and best loss, over the baseline's."""
    figure, axes = plotting.make_axes(1, 2, size=(4.6, 0.4 * len(verdicts) + 1.4))
    places = np.arange(len(verdicts))[::-1]
    names = [f"{v.problem}\n{v.arm}" for v in verdicts]
    left, right = axes[0]
    panels = ((left, "time", "time to the best baseline's best validation loss"),
              (right, "loss", "best validation loss"))  # fmt: skip
    for ax, field, label in panels:
        for place, verdict in zip(places, verdicts, strict=True):
            _draw_ratios(ax, place, getattr(verdict, field))
        ax.axvline(1, color="0.4", linewidth=1)
        ax.set(xscale="log", xlabel=f"{label},\nre-solved over baseline")
        low, high = ax.get_xlim()
        ticks = [x for x in TICKS if low <= x <= high]
        ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
        ax.set_xticks([], minor=True)
    left.axvline(TIME_GOAL, color="C2", linestyle="--", linewidth=1)
    left.set_yticks(places, names, fontsize=7)
    right.set_yticks(places, [""] * len(places))
    return figure


def _draw_ratios(ax, place, values):
    finite = np.isfinite(values)
    ax.plot(values[finite], np.full(finite.sum(), place), ".", color="0.6")
    if not finite.all():
        ax.plot(NEVER, place, ">", color="C3")
        ax.annotate(f"{np.sum(~finite)} never", (NEVER, place), fontsize=7,
                    xytext=(4, 3), textcoords="offset points")  # fmt: skip
    elif len(values) > 2:
        low, middle, high = ratio_interval(values)
        ax.plot([low, high], [place, place], color="C0", linewidth=2)
        ax.plot(middle, place, "o", color="C0")


def draw(folder: Path) -> str:
    """Draws the figure into the run folder.

    Args:
      folder: a run folder.

    Returns:
      The tables, which are also written to `table.md`.
    """
    folder = Path(folder)
    verdicts = read_verdicts(folder)
    if verdicts:
        plotting.save_figure(draw_verdicts(verdicts), folder / "verdicts.png")
    table = make_table(folder)
    (folder / "table.md").write_text(table)
    return table
