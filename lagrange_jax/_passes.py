"""Going over a stream of batches again and again."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["Passes"]


class Passes:
    """Goes over a stream again and again, and loses nothing of it unnoticed.

    The first pass goes on where looking at the first batch began, so that a loader
    that hands out one shared iterator loses nothing; a later pass that is shorter or
    longer than the first is refused.
    """

    def __init__(self, stream: Iterable[Any]):
        self.stream, self.count = stream, None
        self.iterator = iter(stream)
        self.first = next(self.iterator, None)
        if self.first is None:
            raise ValueError("expected at least one batch; the iterable is empty.")
        self.pending = itertools.chain([self.first], self.iterator)

    def __call__(self) -> Iterator[Any]:
        batches, self.pending = self.pending, None
        if batches is None:
            batches = iter(self.stream)
            if batches is self.iterator:
                raise ValueError(
                    "the iterator of batches is used up, and a second pass was asked "
                    "for. Pass a list, or an object whose __iter__ starts anew."
                )
        count = 0
        for batch in batches:
            yield batch
            count += 1
        if self.count not in (None, count):
            raise ValueError(
                f"the first pass over the batches gave {self.count}, a later one "
                f"{count}. Pass a list, or an object whose __iter__ starts anew."
            )
        self.count = count
