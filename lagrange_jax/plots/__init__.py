"""Pictures on axes that the caller owns. Needs the extra `plots`; imports all floors.

Every function takes a Matplotlib `Axes`, draws on it, labels it and returns what a
legend or a colour bar needs. Nothing here opens a window, makes a figure or touches
pyplot.
"""

from lagrange_jax.plots.axes import COLOURS, MARKERS, plain_log_axes
from lagrange_jax.plots.curves import mean_interval, plot_band, plot_strength_map
from lagrange_jax.plots.heads import (
    plot_norm_landscape,
    plot_secular_function,
    plot_spectrum,
)

__all__ = [
    "COLOURS",
    "MARKERS",
    "mean_interval",
    "plain_log_axes",
    "plot_band",
    "plot_norm_landscape",
    "plot_secular_function",
    "plot_spectrum",
    "plot_strength_map",
]
