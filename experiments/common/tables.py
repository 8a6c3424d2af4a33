"""Cells and tables in Markdown, as the studies write them."""

from collections.abc import Sequence

import numpy as np

from lagrange_jax.plots import mean_interval

__all__ = ["interval", "markdown"]


def interval(values: Sequence[float], form: str) -> str:
    """Mean and 95% t-interval over seeds, both values where there are but two.

    Never a mean over what was not reached, or is not a number.
    """
    unknown = sum(np.isnan(x) for x in values)
    if unknown:
        return f"NaN ({unknown} of {len(values)})"
    missed = sum(np.isinf(x) for x in values)
    if missed:
        return f"not reached ({missed} of {len(values)})"
    if len(values) < 3:
        return " / ".join(_number(value, form) for value in values)
    mean, half = mean_interval(values)
    return f"{_number(float(mean), form)} ± {_number(float(half), form)}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float, form: str) -> str:
    return f"{value:.1e}" if abs(value) >= 1e6 else f"{value:{form}}"
