"""Table and figure of the study of few examples, drawn from the record alone."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common import plotting, record
from experiments.common.class_heads import label_of
from experiments.common.tables import interval, markdown
from experiments.studies.few_examples.run import PEER
from experiments.studies.few_examples.sources import SOURCES
from lagrange_jax.plots import plot_band

__all__ = ["draw"]

Rows = Sequence[dict[str, Any]]

IN_FIGURE = {
    "kaiming": "Kaiming, trained",
    "frequencies": "zeros, trained",
    "gcv/calibrated": "least squares, solved",
    "ce_chosen": "cross-entropy, solved",
    PEER: "scikit-learn, solved",
}
SOLVED = ("gcv/calibrated", "ce_chosen", PEER)


def _label(head: str) -> str:
    if head == PEER:
        return "scikit-learn's LogisticRegressionCV"
    return label_of(head)


def _groups(folder: Path) -> dict[tuple[str, int, str], Rows]:
    """Returns the rows of all seeds by source, number and head."""
    groups = defaultdict(list)
    for row in record.read_rows(folder):
        groups[row["source"], row["number"], row["head"]].append(row)
    return dict(groups)


def _best_rate(rows: Rows) -> int:
    """Returns the place of the rate whose validation loss is lowest on average."""
    return int(np.mean([row["validation_loss"] for row in rows], 0).argmin())


def _cells(rows: Rows, rates: Sequence[float]) -> list[str]:
    """What a head is worth, solved and trained; blank where it was not either."""
    rate = _best_rate(rows) if "validation_loss" in rows[0] else 0

    def cell(field: str, form: str, factor: float = 1.0) -> str:
        if field not in rows[0]:
            return ""
        values = [np.atleast_1d(row[field]) for row in rows]
        return interval([factor * x[rate if len(x) > 1 else 0] for x in values], form)

    def seconds(field: str) -> str:
        values = [row[field] for row in rows if field in row]
        return f"{np.median(values):.2f}" if values else ""

    return [
        cell("accuracy_solved", ".1f", 100),
        cell("loss_solved", ".3f"),
        seconds("seconds_solved"),
        cell("accuracy_before", ".1f", 100),
        f"{rates[rate]:g}" if "validation_loss" in rows[0] else "",
        cell("test_accuracy", ".1f", 100),
        cell("test_loss", ".3f"),
        cell("epochs", ".0f"),
        seconds("seconds_trained"),
    ]


HEADER = (
    *("head", "on all examples: test accuracy, %", "test loss", "seconds"),
    *("on three quarters: test accuracy before training, %", "rate"),
    *("trained: test accuracy, %", "test loss", "epochs", "seconds, all rates"),
)


CALIBRATION = (
    *("head", "on three quarters: calibration error before training, %"),
    *("after temperature scaling, %", "test loss", "after temperature scaling"),
    *("trained: calibration error, %", "after temperature scaling, %", "test loss"),
    "after temperature scaling",
)


def _calibration(rows: Rows) -> list[str]:
    """How sure a head is before training and after, as it is and scaled."""
    rate = _best_rate(rows)
    fields = ("calibration_error", "scaled_calibration_error")
    errors = [(field, ".1f", 100) for field in fields]
    cells = []
    for loss, place in (("loss_before", "_before"), ("test_loss", "")):
        losses = [(loss, ".3f", 1), (f"scaled_loss{place}", ".3f", 1)]
        named = [(f"{field}{place}", form, unit) for field, form, unit in errors]
        for field, form, unit in named + losses:
            values = [np.atleast_1d(row[field]) for row in rows]
            at = rate if len(values[0]) > 1 else 0
            cells.append(interval([unit * x[at] for x in values], form))
    return cells


def _tables(groups, heads: Sequence[str], rates: Sequence[float]) -> str:
    blocks = []
    for source, number in dict.fromkeys(key[:2] for key in groups):
        blocks.append(f"**{SOURCES[source].label}, {number} labelled examples**")
        lines = [
            [_label(head), *_cells(groups[source, number, head], rates)]
            for head in heads
            if (source, number, head) in groups
        ]
        blocks.append(markdown(HEADER, lines))
        lines = [
            [_label(head), *_calibration(groups[source, number, head])]
            for head in heads
            if "scale" in groups.get((source, number, head), [{}])[0]
        ]
        blocks += [markdown(CALIBRATION, lines)] if lines else []
    return "\n\n".join(blocks) + "\n"


def _accuracies(groups, source: str, head: str) -> tuple[list[int], list[list[float]]]:
    """Returns numbers of examples and, a line a seed, a head's test accuracy in %."""
    curves, is_solved = {}, head in SOLVED
    for (name, number, one), rows in groups.items():
        if (name, one) == (source, head):
            field = "accuracy_solved" if is_solved else "test_accuracy"
            at = () if is_solved else _best_rate(rows)
            curves[number] = [100 * float(np.array(row[field])[at]) for row in rows]
    numbers = sorted(curves)
    return numbers, list(map(list, zip(*(curves[n] for n in numbers), strict=False)))


def _draw_accuracies(groups) -> Figure:
    """Test accuracy against the number of examples: solved heads and trained ones."""
    sources = list(dict.fromkeys(key[0] for key in groups))
    figure, axes = plotting.make_axes(1, len(sources), size=(3.4, 3.6))
    for ax, source in zip(axes.flat, sources, strict=True):
        ticks = sorted({key[1] for key in groups if key[0] == source})
        for head, label in IN_FIGURE.items():
            numbers, curves = _accuracies(groups, source, head)
            if numbers:
                plot_band(
                    ax,
                    np.array(numbers),
                    np.array(curves),
                    label=label,
                    color=plotting.colour_of(head, [*IN_FIGURE]),
                    linestyle="-" if head in SOLVED else "--",
                    marker="o",
                )
        ax.set(xscale="log", xlabel="labelled examples")
        ax.set_xticks(ticks, [f"{number:,}" for number in ticks])
        ax.set_xticks([], minor=True)
        ax.set_title(SOURCES[source].label, fontsize="small")
    axes[0, 0].set_ylabel("test accuracy, %")
    plotting.legend_below(figure, columns=2)
    return figure


def draw(folder: str | Path) -> str:
    """Draws the figure into the run folder.

    Args:
      folder: a run folder.

    Returns:
      The tables, which are also written to `table.md`.
    """
    folder = Path(folder)
    config, groups = record.read_config(folder), _groups(folder)
    heads = (*config["heads"], PEER)
    plotting.save_figure(_draw_accuracies(groups), folder / "accuracy.png")
    tables = _tables(groups, heads, config["learning_rates"])
    (folder / "table.md").write_text(tables)
    return tables
