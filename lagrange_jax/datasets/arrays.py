"""The record in which every data set of the library comes."""

from typing import Any, NamedTuple

__all__ = ["Dataset"]


class Dataset(NamedTuple):
    """Examples as arrays: a pytree, ready for `jit`, `vmap` and slicing.

    Attributes:
      inputs: `[n, ...]` what the network is called with.
      targets: `[n]` for one output, `[n, k]` for k.
      groups: `[n]` integers naming the unit that an example comes from, such as the
        engine of a window, or None where every example stands for itself. Split
        and average by it: examples of one group are not independent.
    """

    inputs: Any
    targets: Any
    groups: Any = None
