r"""What the head does to signals on their way: forward and backward, over training.

A constraint of signal propagation asks that the head keeps the variance of its inputs
(forward), or that the loss's derivative keeps its variance on the way back (backward).
Both are ratios here, the gains, and 1 where the constraint's aim is met:

$$ \frac{\operatorname{var} y}{\tfrac1d \sum_j \operatorname{var} h_j},
\qquad \frac{\operatorname{mean} (\partial \ell / \partial h_j)^2}
{\operatorname{mean} (\partial \ell / \partial y)^2} = \frac{\|w\|^2}{d}. $$
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.common import plotting
from experiments.common.tables import interval, markdown
from experiments.studies.rul.methods import LABELS
from experiments.studies.rul.results import Result, Results
from lagrange_jax import Model
from lagrange_jax.plots import plot_band

__all__ = ["backward_gain", "draw_gains", "forward_gain", "gain_table", "make_spread"]

WINDOWS = 1024
"""That many are looked at, evenly spaced: a sample is enough for a variance."""

SHOWN = (
    *("kaiming", "zero_bias", "unconstrained", "loss_within_50"),
    *("forward_equality", "exact_forward_equality", "backward_equality"),
)


def make_spread(model: Model) -> Callable[..., np.ndarray]:
    """Returns `spread(params, windows) -> [2]`, see `training.Curve`."""

    @jax.jit
    def measure(params, windows):
        key = jax.random.key(0)  # the network draws nothing
        tap = model.taps({"params": params}, windows, key)[model.head]
        outputs = model.apply({"params": params}, windows)
        return jnp.stack([jnp.var(x, axis=0).mean() for x in (outputs, tap.inputs)])

    def spread(params, windows):
        return np.asarray(measure(params, windows[:: -(-len(windows) // WINDOWS)]))

    return spread


def forward_gain(result: Result) -> Float[np.ndarray, " m"]:
    """Returns the variance of the output over the mean variance of the features."""
    gain = result.spread[:, 0] / result.spread[:, 1]
    # Of a constant output rounding alone is left.
    return np.where(result.head[:, :-1].any(axis=1), gain, 0)


def backward_gain(result: Result) -> Float[np.ndarray, " m"]:
    """Returns what one output's derivative is multiplied with on its way back."""
    return np.mean(result.head[:, :-1] ** 2, axis=1)


GAINS = {"forward": forward_gain, "backward": backward_gain}


def _measured(results: Results, scale: float) -> dict[str, Sequence[Result]]:
    return {
        method: results[method, scale]
        for method in SHOWN
        if (method, scale) in results
        and all(x.spread.size for x in results[method, scale])
    }


def draw_gains(results: Results, scale: float) -> Figure | None:
    """Both gains against epochs, mean over seeds; None if they were not recorded."""
    measured = _measured(results, scale)
    if not measured:
        return None
    figure, axes = plotting.make_axes(1, 2, size=(4.2, 3.6))
    for ax, (name, gain) in zip(axes.flat, GAINS.items(), strict=True):
        lowest = np.inf
        for method, some in measured.items():
            points = min(len(x.epochs) for x in some)
            curves = [np.maximum(gain(x)[:points], 1e-7) for x in some]
            lowest = min(lowest, *(curve[1:].min() for curve in curves))
            style = {"color": plotting.colour_of(method, SHOWN)}
            plot_band(
                ax, some[0].epochs[:points], curves, label=LABELS[method], **style
            )
        ax.axhline(1, color="0.4", ls="--", lw=1)
        ax.set(xlabel="epochs", ylabel=f"{name} gain of the head", yscale="log")
        ax.set_ylim(lowest / 2, None)  # a zero head begins far below
    plotting.legend_below(figure, columns=2)
    return figure


def gain_table(results: Results, scale: float) -> str:
    """Returns both gains before training, after an epoch, and at the end."""
    times = {"at the start": 0.0, "after an epoch": 1.0, "at the end": np.inf}
    header = [f"{gain} gain {time}" for gain in GAINS for time in times]
    lines = []
    for method, some in _measured(results, scale).items():
        cells = [
            interval([_at(gain(x), x.epochs, time) for x in some], ".3g")
            for gain in GAINS.values()
            for time in times.values()
        ]
        lines.append([LABELS[method], *cells])
    return markdown(["initialisation", *header], lines) if lines else ""


def _at(values: np.ndarray, epochs: np.ndarray, time: float) -> float:
    """The first measurement that is not before a time, or the last one."""
    return float(values[min(np.searchsorted(epochs, time - 0.05), len(values) - 1)])
