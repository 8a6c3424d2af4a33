"""Transforms as static arguments of a program: equal ones share it."""

from typing import Any

__all__ = ["Function", "as_static"]


class Function:
    """A function; equal to another one of the same code and the same settings.

    `he_normal()` makes a new function at every call. Told apart, each would compile a
    program of its own.
    """

    def __init__(self, function: Any):
        self.function = function
        self.key = _settings(function)
        try:
            hash(self.key)
        except TypeError:
            self.key = id(function)

    def __eq__(self, other):
        return isinstance(other, Function) and self.key == other.key

    def __hash__(self):
        return hash(self.key)


def _settings(function):
    code = getattr(function, "__code__", None)
    if code is None:
        return function
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    parts = (*cells, *(function.__defaults__ or ()))
    return code, *(Function(x) if callable(x) else x for x in parts)


class _Identified:
    """What cannot be hashed, such as a transform that holds traced numbers."""

    def __init__(self, held: Any):
        self.held = held

    def __call__(self, *args):
        return self.held(*args)


def as_static(value: Any) -> Any:
    """Returns a record as a static argument of a program; equal ones share it."""
    try:
        hash(value)
    except TypeError:
        return _Identified(value)
    return value
