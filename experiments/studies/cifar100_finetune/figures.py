"""Table and figure of the fine-tuned networks, from the record alone."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.common import plotting, record
from experiments.common.class_heads import HEADS, RANDOM, label_of
from experiments.common.curves import epochs_to
from experiments.common.tables import interval, markdown
from experiments.studies.cifar100_finetune.probe import PROBED
from experiments.studies.cifar100_finetune.run import split_head
from experiments.studies.cifar100_finetune.training import RESOLVED
from lagrange_jax.plots import plot_band

__all__ = ["Run", "best_runs", "draw", "make_table"]


class Run(NamedTuple):
    """One network, fine-tuned.

    Attributes:
      row: what the record says of it.
      epochs: `[m]` when it was measured.
      validation_loss: `[m]` mean cross-entropy.
      validation_accuracy: `[m]`.
    """

    row: dict[str, Any]
    epochs: np.ndarray
    validation_loss: np.ndarray
    validation_accuracy: np.ndarray


IN_CURVES = (
    *("kaiming", "xavier", "zeros", "exact_forward_equality/standardized"),
    *("ce_chosen", "probed/zeros", "unconstrained/standardized"),
)

_WAYS = {
    "": "",
    PROBED: ", probed by training first",
    **{
        way: f", re-solved every {f'{every} steps' if every > 1 else 'step'}"
        for way, every in RESOLVED.items()
    },
}


def _place(head: str) -> tuple[int, int]:
    way, start = split_head(head)
    return [*_WAYS].index(way), [*HEADS].index(start)


def _label(head: str) -> str:
    way, start = split_head(head)  # unit-variance targets are the rule here
    return label_of(start).removesuffix(", unit-variance targets") + _WAYS[way]


def _lowest_loss(runs: Sequence[Run]) -> float:
    return float(np.mean([run.validation_loss.min() for run in runs]))


def _best(by_rate: Sequence[list[Run]]) -> list[Run]:
    """Returns the runs of the best rate, on the seeds that all rates have."""
    seeds = set.intersection(*({run.row["seed"] for run in x} for x in by_rate))

    def score(runs):
        # The loss of the start is the same at all rates, but for rounding.
        runs = [run for run in runs if run.row["seed"] in seeds]
        return np.mean([run.validation_loss[1:].min() for run in runs])

    return min(by_rate, key=score)


def best_runs(folder: Path) -> dict[str, dict[int, Run]]:
    """Returns the runs of each head by seed, at the learning rate best for the head.

    Best is the lowest validation loss after the start, on average over the seeds that
    all rates have.
    """
    arrays = record.read_arrays(folder)
    runs = defaultdict(lambda: defaultdict(list))
    for row in record.read_rows(folder):
        curve = [arrays[f"{row['name']}/{field}"] for field in Run._fields[1:]]
        runs[row["head"]][row["learning_rate"]].append(Run(row, *curve))
    heads = sorted(runs, key=_place)
    best = {head: _best([*runs[head].values()]) for head in heads}
    return {head: {x.row["seed"]: x for x in some} for head, some in best.items()}


def _baseline(runs: dict[str, dict[int, Run]]) -> str | None:
    """Returns the random head that trains to the lowest validation loss."""
    random = [head for head in runs if head in RANDOM]
    return min(random, key=lambda x: _lowest_loss([*runs[x].values()]), default=None)


_COLUMNS: dict[str, tuple[str, Callable[[Run, Run], float]]] = {
    "test accuracy before training, %": (
        ".1f",
        lambda run, _: 100 * run.row["initial_test_accuracy"],
    ),
    "epochs to {}'s best validation loss": (
        ".1f",
        lambda run, other: epochs_to(
            other.validation_loss.min(), run.epochs, run.validation_loss
        ),
    ),
    "epochs to {}'s best validation accuracy": (
        ".1f",
        lambda run, other: epochs_to(
            -other.validation_accuracy.max(), run.epochs, -run.validation_accuracy
        ),
    ),
    "best validation loss": (".3f", lambda run, _: run.validation_loss.min()),
    "test accuracy at the end, %": (
        ".2f",
        lambda run, _: 100 * run.row["test_accuracy"],
    ),
    "points above {}": (
        "+.2f",
        lambda run, other: (
            100 * (run.row["test_accuracy"] - other.row["test_accuracy"])
        ),
    ),
}
"""Name, format, and what is measured of a run beside the baseline of its seed."""

_CALIBRATION: dict[str, tuple[str, Callable[[Run, Run], float]]] = {
    "calibration error, %": (
        ".1f",
        lambda run, _: 100 * run.row["calibration"]["calibration_error"],
    ),
    "the same after temperature scaling, %": (
        ".1f",
        lambda run, _: 100 * run.row["calibration"]["scaled_calibration_error"],
    ),
    "test loss": (".3f", lambda run, _: run.row["test_loss"]),
    "the same after temperature scaling": (
        ".3f",
        lambda run, _: run.row["calibration"]["scaled_loss"],
    ),
}
"""Likewise, where the run recorded them."""

_SHIFTED = {
    "accuracy": "accuracy, %",
    "calibration_error": "calibration error, %",
    "scaled_calibration_error": "calibration error after temperature scaling, %",
}


def make_table(folder: Path) -> str:
    """Returns the table as Markdown.

    Accuracies are in percent, losses mean cross-entropies in nats; numbers are means
    over seeds with the half-width of their 95% t-interval. "Points above" is paired:
    the same images and the same order of them.

    Args:
      folder: a run folder.
    """
    runs = best_runs(folder)
    baseline = _baseline(runs)
    if baseline is None:
        return "No random head has been trained yet.\n"
    name = label_of(baseline)
    columns = _COLUMNS
    if all("calibration" in x.row for some in runs.values() for x in some.values()):
        columns = _COLUMNS | _CALIBRATION
    header = ["first head", "learning rate", *(x.format(name) for x in columns)]
    lines = []
    for head, by_seed in runs.items():
        pairs = [
            (run, runs[baseline][seed])
            for seed, run in sorted(by_seed.items())
            if seed in runs[baseline]
        ]
        if pairs:
            cells = [
                interval([value(*pair) for pair in pairs], form)
                for form, value in columns.values()
            ]
            rate = f"{pairs[0][0].row['learning_rate']:g}"
            lines.append([_label(head), rate, *cells])
    return markdown(header, lines) + "\n"


def make_shift_tables(folder: Path) -> str:
    """Returns what networks are worth on test images as they are, and made worse."""
    shifted = {
        head: [run.row["shifted"] for run in by_seed.values()]
        for head, by_seed in best_runs(folder).items()
        if all("shifted" in run.row for run in by_seed.values())
    }
    blocks = []
    rows = [x for some in shifted.values() for row in some for x in row.values()]
    for field, title in _SHIFTED.items() if shifted else ():
        if not all(field in row for row in rows):
            continue
        kinds = list(next(iter(shifted.values()))[0])
        lines = [
            [
                _label(head),
                *(
                    interval([100 * row[kind][field] for row in rows], ".1f")
                    for kind in kinds
                ),
            ]
            for head, rows in shifted.items()
        ]
        blocks.append(
            f"\n**Test {title}**\n\n{markdown(['first head', *kinds], lines)}\n"
        )
    return "".join(blocks)


def draw_curves(runs: dict[str, dict[int, Run]]) -> Figure:
    """Loss and accuracy of the images held out."""
    figure, axes = plotting.make_axes(1, 2, size=(4.6, 4.0))
    runs = {head: runs[head] for head in IN_CURVES if head in runs}
    panels = (
        ("validation_loss", "validation cross-entropy", 1.0),
        ("validation_accuracy", "validation accuracy, %", 100.0),
    )
    for ax, (field, label, factor) in zip(axes.flat, panels, strict=True):
        for head, by_seed in runs.items():
            some = list(by_seed.values())
            plot_band(
                ax,
                some[0].epochs,
                [factor * getattr(run, field) for run in some],
                label=_label(head),
                color=plotting.colour_of(head, IN_CURVES),
                linestyle="--" if head in RANDOM else "-",
            )
        ax.set(xlabel="epochs of fine-tuning", ylabel=label)
    axes[0, 0].set_yscale("log")
    plotting.plain_log_ticks(axes[0, 0], (1, 1.5, 2, 2.5, 3, 4, 5, 10, 20))
    plotting.legend_below(figure, columns=2)
    return figure


def draw_ends(runs: dict[str, dict[int, Run]]) -> Figure:
    """Test accuracy at the end against that before training, a dot a seed.

    Squares are random heads, circles solved ones, and triangles what is trained first
    or solved again.
    """
    figure, axes = plotting.make_axes(size=(5.6, 5.6))
    ax, groups = axes[0, 0], defaultdict(list)
    for head, by_seed in runs.items():
        marker = "s" if head in RANDOM else "^" if split_head(head)[0] else "o"
        groups[marker].append(head)
        first, last = (
            [100 * run.row[field] for run in by_seed.values()]
            for field in ("initial_test_accuracy", "test_accuracy")
        )
        colour = plotting.colour_of(head, groups[marker])
        ax.plot(first, last, marker, ms=5, color=colour, label=_label(head))
    ax.set_xlabel("test accuracy before training, %")
    ax.set_ylabel("test accuracy at the end, %")
    plotting.legend_below(figure, columns=1)
    return figure


def draw(folder: Path) -> str:
    """Draws all figures into the run folder.

    Args:
      folder: a run folder.

    Returns:
      The table, which is also written to `table.md`.
    """
    folder = Path(folder)
    runs = best_runs(folder)
    if runs:
        plotting.save_figure(draw_curves(runs), folder / "curves.png")
        plotting.save_figure(draw_ends(runs), folder / "ends.png")
    table = make_table(folder) + make_shift_tables(folder)
    (folder / "table.md").write_text(table)
    return table
