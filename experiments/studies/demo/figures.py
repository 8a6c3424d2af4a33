"""The demo's table and curves, drawn from its record alone."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.common import plotting, record
from experiments.common.curves import epochs_to
from experiments.common.tables import interval, markdown
from lagrange_jax.plots import plot_band

__all__ = ["draw"]

BASELINE = "Kaiming"

EPOCHS = (0, 1, 3, 10, 30)
"""At the axis."""

Arrays = dict[str, np.ndarray]


def best_rate(arrays: Arrays, name: str) -> int:
    """Returns the learning rate of the least validation loss, on average over seeds."""
    return int(arrays[f"{name}/validation"].min(-1).mean(-1).argmin())


def _at_best(arrays: Arrays, name: str, part: str) -> Float[np.ndarray, "seeds m"]:
    return arrays[f"{name}/{part}"][best_rate(arrays, name)]


def _cells(arrays: Arrays, rates, task: str, method: str) -> list[str]:
    name = f"{task}/{method}"
    train, validation = (_at_best(arrays, name, x) for x in ("train", "validation"))
    best = _at_best(arrays, f"{task}/{BASELINE}", "validation").min(1)
    epochs = np.arange(validation.shape[1])
    needed = [
        epochs_to(target, epochs, curve)
        for target, curve in zip(best, validation, strict=True)
    ]
    return [
        f"{task}, {method}",
        f"{rates[best_rate(arrays, name)]:g}",
        interval(train[:, 0].tolist(), ".3f"),
        interval(validation[:, 0].tolist(), ".3f"),
        interval(needed, ".1f"),
        interval(validation.min(1).tolist(), ".3f"),
        interval(validation[:, -1].tolist(), ".3f"),
    ]


def make_table(folder: Path) -> str:
    """Returns the table: means over seeds with their 95% t-intervals."""
    arrays, rows = record.read_arrays(folder), record.read_rows(folder)
    rates = record.read_config(folder)["learning_rates"]
    header = ["data, first head", "best rate", "initial training loss"]
    header += ["initial validation loss", f"epochs to {BASELINE}'s best"]
    header += ["best validation loss", "validation loss at the end"]
    lines = [_cells(arrays, rates, row["task"], row["method"]) for row in rows]
    return markdown(header, lines) + "\n"


def draw(folder: str | Path) -> str:
    """Draws the validation curves into the folder and returns the table."""
    folder = Path(folder)
    arrays, rows = record.read_arrays(folder), record.read_rows(folder)
    tasks = {row["task"]: row["target"] for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, axes = plotting.make_axes(1, len(tasks))
    for ax, (task, title) in zip(axes.flat, tasks.items(), strict=True):
        for method in methods:
            if f"{task}/{method}/validation" not in arrays:  # the run was stopped
                continue
            curves = _at_best(arrays, f"{task}/{method}", "validation")
            colour = plotting.colour_of(method, methods)
            epochs = np.arange(curves.shape[1])
            plot_band(ax, epochs, curves, label=method, color=colour)
        ax.set(yscale="log", xlabel="epoch", ylabel="validation loss", title=title)
        # The starts differ in the first epochs: they have half of the axis.
        ax.set_xscale("symlog", linthresh=1, subs=range(2, 10))
        ax.set_xticks(EPOCHS, [str(epoch) for epoch in EPOCHS])
        ax.set_xlim(-0.1, record.read_config(folder)["epochs"])
        plotting.plain_log_ticks(ax, (0.05, 0.1, 0.2, 0.5, 1, 2, 5))
    plotting.legend_below(figure, columns=4)
    plotting.save_figure(figure, folder / "curves.png")
    table = make_table(folder)
    (folder / "table.md").write_text(table)
    return f"{table}\nCurves: {folder / 'curves.png'}"
