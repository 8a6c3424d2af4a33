"""What is known of a traced argument: the bounds of the axis that it comes from.

A compiled program sees a number of examples as an argument without a value. `run_grid`
knows all the values that it will take; training asks for them here, to refuse sizes
beyond the data and to leave out examples that no member uses.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np
from jax.core import Tracer

__all__ = ["Bounds", "bounds_of", "is_inside_grid", "known_bounds"]

Bounds = tuple[int, int]
"""The least and the largest value."""

_KNOWN: ContextVar[tuple[tuple[Any, Bounds], ...] | None] = ContextVar(
    "known", default=None
)


@contextlib.contextmanager
def known_bounds(
    arguments: Mapping[str, Any], bounds: Mapping[str, Bounds]
) -> Iterator[None]:
    """Makes the bounds of traced arguments known to the functions called inside."""
    token = _KNOWN.set(tuple((arguments[name], bounds[name]) for name in bounds))
    try:
        yield
    finally:
        _KNOWN.reset(token)


def bounds_of(value: Any) -> Bounds | None:
    """Returns the least and the largest value of an integer; None if not known."""
    if not isinstance(value, Tracer):
        return int(np.min(value)), int(np.max(value))
    known = (bounds for tracer, bounds in _KNOWN.get() or () if tracer is value)
    return next(known, None)


def is_inside_grid() -> bool:
    """Whether `run_grid` is tracing."""
    return _KNOWN.get() is not None
