"""Student's t distribution; SciPy is imported when it is first needed."""

from typing import Any

__all__ = ["t_half_width", "t_tail"]


def t_half_width(freedom: Any, confidence_level: float) -> Any:
    """Returns the half-width of a two-sided t-interval, in standard errors.

    Args:
      freedom: degrees of freedom.
      confidence_level: coverage of the interval.
    """
    from scipy import special  # here, since the import takes a third of a second

    return special.stdtrit(freedom, (1 + confidence_level) / 2)


def t_tail(freedom: Any, t: Any) -> Any:
    """Returns the probability of a value above `t`."""
    from scipy import special

    return special.stdtr(freedom, -t)
