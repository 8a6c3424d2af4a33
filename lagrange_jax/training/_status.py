"""Which members of a grid started from the heads that were to be solved for."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from lagrange_jax.solvers.solution import Status, heads_in, is_usable

__all__ = ["all_solved", "warn_unsolved"]

_LOGGER = logging.getLogger("lagrange_jax")


def all_solved(info: Any) -> Bool[Array, ""]:
    """Returns whether all heads in the info of an initialisation are solved."""
    found = [jnp.all(is_usable(x.status)) for x in heads_in(info)]
    return jnp.array(found, bool).all()


def warn_unsolved(values: Any) -> None:
    """Logs how many heads in the results of a grid failed, by status."""
    codes = [np.ravel(x.status) for x in heads_in(values)]
    statuses, counts = np.unique(np.concatenate([[], *codes]), return_counts=True)
    failed = {
        Status(int(status)).name: int(count)
        for status, count in zip(statuses, counts, strict=True)
        if not is_usable(status)
    }
    if failed and jax.process_index() == 0:
        said = ", ".join(f"{count} {name}" for name, count in failed.items())
        _LOGGER.warning(
            "%d of %d heads of the grid were not solved as asked: %s. Their members "
            "are those without `is_solved`; summarize(result) tells more.",
            sum(failed.values()),
            counts.sum(),
            said,
        )
