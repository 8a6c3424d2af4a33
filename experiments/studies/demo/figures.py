"""The demo's table and curves, drawn from its record alone."""

from pathlib import Path

import numpy as np

from experiments.common import plotting, record
from lagrange_jax.plots import plot_band

__all__ = ["draw"]

BASELINE = "Kaiming"


def _epochs_to(target: float, curve: np.ndarray) -> float:
    """First epoch with a loss at most `target`; infinite if there is none."""
    reached = np.flatnonzero(curve <= target)
    return float(reached[0]) if len(reached) else np.inf


def _row(arrays, task: str, method: str) -> str:
    train, validation = (
        arrays[f"{task}/{method}/{x}"] for x in ("train", "validation")
    )
    best = arrays[f"{task}/{BASELINE}/validation"].min(1)
    epochs = [_epochs_to(*pair) for pair in zip(best, validation, strict=True)]
    reached = np.isfinite(epochs)
    needed = f"{np.mean(np.compress(reached, epochs)):.1f}" if reached.any() else "-"
    if not reached.all():
        needed += f" ({reached.sum()} of {len(epochs)} seeds)"
    return (
        f"{task:10} {method:12} {train[:, 0].mean():14.3f} "
        f"{validation[:, 0].mean():16.3f} {needed:>22} {validation.min(1).mean():12.3f}"
    )


def draw(folder: str | Path) -> str:
    """Draws the validation curves into the folder and returns the table."""
    folder = Path(folder)
    arrays, rows = record.read_arrays(folder), record.read_rows(folder)
    tasks = {row["task"]: row["target"] for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, axes = plotting.make_axes(1, len(tasks))
    for ax, (task, title) in zip(axes.flat, tasks.items(), strict=True):
        for method in methods:
            curves = arrays[f"{task}/{method}/validation"]
            colour = plotting.colour_of(method, methods)
            epochs = np.arange(curves.shape[1])
            plot_band(ax, epochs, curves, label=method, color=colour)
        ax.set(yscale="log", xlabel="epoch", ylabel="validation loss", title=title)
        plotting.plain_log_ticks(ax, (0.05, 0.1, 0.2, 0.5, 1, 2, 5))
        ax.legend(frameon=False)
    plotting.save_figure(figure, folder / "curves.png")
    header = (
        f"{'task':10} {'method':12} {'initial train':>14} {'initial validation':>16} "
        f"{'epochs to best of ' + BASELINE:>22} {'best':>10}"
    )
    lines = [_row(arrays, task, method) for task in tasks for method in methods]
    return "\n".join([header, *lines, f"Curves: {folder / 'curves.png'}"])
