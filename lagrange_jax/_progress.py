"""A line for whoever waits: what is compiled or computed, and since when."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["announce"]

_LOGGER = logging.getLogger("lagrange_jax")


@contextlib.contextmanager
def announce(describe: Callable[[], str], after: float = 5.0) -> Iterator[None]:
    """Logs what is going on as long as it lasts, at twice the time each time.

    The lines go to the logger `lagrange_jax` at level WARNING, which Python writes to
    standard error unless told otherwise.

    Args:
      describe: what is going on, asked for when a line is due.
      after: seconds until the first line; the next ones come after 2, 4, 8 times as
        many.
    """
    start, finished = time.monotonic(), threading.Event()

    def watch() -> None:
        due = after
        while not finished.wait(start + due - time.monotonic()):
            _LOGGER.warning("%s for %.0f s", describe(), due)
            due *= 2

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        finished.set()
