"""Colours, marks, and logarithmic axes with plain numbers."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

__all__ = ["COLOURS", "MARKERS", "plain_log_axes"]

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000", "#8C6D31"),
)
"""Colours of lines, in order."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Shapes of marks, in order: told apart in grey, too."""


def plain_log_axes(axes: Axes) -> None:
    """Labels logarithmic axes with plain numbers: 0.05, 0.1, 0.2 and so on.

    Call it last, since the range of an axis decides how many numbers it gets. Numbers
    beyond five digits stay powers of ten.

    Args:
      axes: the axes; a linear scale is left alone.
    """
    scales = (axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())
    for axis in (axis for axis, scale in scales if scale == "log"):
        low, high = sorted(axis.get_view_interval())
        decades = np.log10(high / low)
        many = [1, 1.5, 2, 3, 4, 5, 6, 8] if decades < 0.8 else [1, 2, 5]
        axis.set_major_locator(LogLocator(subs=many if decades < 2.5 else [1]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(_plain_number)


def _plain_number(value, position=None):
    """A power of ten where zeros would have to be counted."""
    if 1e-4 <= value < 1e5:
        return f"{value:g}"
    power = np.log10(value)
    is_power = abs(power - round(power)) < 1e-6
    return f"$10^{{{round(power)}}}$" if is_power else f"{value:.0e}"
