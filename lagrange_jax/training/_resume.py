"""A grid run by chunks that a stop cannot take away, in a folder."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lagrange_jax.distributed.processes import (
    data_to_keys,
    from_first,
    keys_to_data,
)
from lagrange_jax.training._plan import GridPlan, run_part
from lagrange_jax.training._program import calls_python, evaluate
from lagrange_jax.training.chunk_store import (
    Chunk,
    open_folder,
    read_chunks,
    save_chunk,
)

__all__ = ["identify", "run_resumable"]


def run_resumable(
    plan: GridPlan,
    size: int,
    folder: Path,
    identity: Mapping[str, Any],
    report: Callable[[int], Any],
) -> list[Any]:
    """Runs what a folder does not have, saves it there, and returns the whole.

    Args:
      plan: the grid.
      size: flat indices on each device between two saves.
      folder: where finished chunks are kept. Process 0 alone reads and writes it.
      identity: what the results belong to, as JSON.
      report: told how many indices are done after each chunk.

    Returns:
      The results of the whole flat index, one part, on the host of every process.

    Raises:
      ValueError: if the folder holds results of another identity.
      OSError: if the folder cannot be written or is full, or another run is in it.
    """
    structs, structure = jax.tree.flatten(jax.eval_shape(keys_to_data, plan.flat_like))
    arrays = [np.zeros(x.shape, x.dtype) for x in structs]
    done = np.zeros(plan.total, bool)
    step = size * plan.num_devices

    def restore():
        for chunk in read_chunks(folder, identity, structs):
            _fill(chunk, arrays, done)

    with contextlib.ExitStack() as stack:
        _on_first_process(lambda: stack.enter_context(open_folder(folder)))
        _on_first_process(restore)
        _share(arrays, done, step)
        for start, stop in _gaps(done, step):
            part = keys_to_data(run_part(plan, start, stop, size))
            chunk = Chunk(start, stop, [np.asarray(x) for x in jax.tree.leaves(part)])
            _on_first_process(partial(save_chunk, folder, chunk, identity))
            _fill(chunk, arrays, done)
            report(int(done.sum()))
    return [data_to_keys(jax.tree.unflatten(structure, arrays), plan.flat_like)]


def identify(plan: GridPlan, configuration: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what the results of a grid belong to, the same in every process.

    The caller's configuration stands for the function; without one it is the program,
    as it is lowered, with all the arrays in it.

    Raises:
      ValueError: if there is no configuration and the program calls Python.
      TypeError: if the configuration is not JSON.
    """
    layout, axes = plan.layout, plan.axes
    order = " ".join((*layout.outer, "|", *layout.inner))
    shapes = [str(x) for x in jax.tree.leaves(plan.like)]
    return {
        "the order of the axes": order,
        **{f"axis {name!r}": _digest([x]) for name, x in axes.items()},
        "the shapes of the results": _digest([str(layout.program.result), *shapes]),
        **(_identify_program(plan) if configuration is None else _named(configuration)),
    }


def _identify_program(plan):
    program, (consts, _) = plan.layout.program, plan.placed
    if calls_python(program):
        raise ValueError(
            "expected a configuration with the folder: the function calls back to "
            "Python, and what that does cannot be seen from its program. Pass "
            "configuration={...} with all that decides the results."
        )
    member = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), plan.axes
    )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), consts)
    lowered = jax.jit(partial(evaluate, program)).lower(shapes, member)
    return {
        "the version of JAX": jax.__version__,
        "the function": _digest([lowered.as_text(), *consts]),
    }


def _named(configuration):
    try:
        return json.loads(json.dumps({"configuration": dict(configuration)}))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expected configuration as a dictionary that JSON can hold; {error}."
        ) from None


def _digest(values: Sequence[Any]) -> str:
    """A short name for texts and pytrees of arrays, the same in every process."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, str):
            digest.update(value.encode())
            continue
        digest.update(str(jax.tree.structure(value)).encode())
        for x in jax.tree.leaves(keys_to_data(value)):
            digest.update(f"{x.dtype}{np.shape(x)}".encode())
            digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()[:16]


def _fill(chunk, arrays, done):
    for whole, part in zip(arrays, chunk.arrays, strict=True):
        whole[chunk.start : chunk.stop] = part
    done[chunk.start : chunk.stop] = True


def _gaps(done, size) -> Iterator[tuple[int, int]]:
    """Ranges of at most `size` that cover what is not done."""
    is_edge = np.diff(np.concatenate([[True], done, [True]]).astype(np.int8)) != 0
    edges = np.flatnonzero(is_edge).tolist()
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        for start in range(first, last, size):
            yield start, min(start + size, last)


def _on_first_process(action: Callable[[], Any]) -> None:
    """Runs an action on process 0; where it fails there, all processes stop."""
    error = None
    if jax.process_index() == 0:
        try:
            action()
        except Exception as raised:
            error = raised
    if jax.process_count() > 1:
        failed = from_first(np.int32(error is not None))
        if failed and error is None:
            raise OSError("process 0 could not go on; its own message says why.")
    if error is not None:
        raise error


def _share(arrays, done, size):
    """Gives all processes what process 0 has restored, one chunk at a time."""
    if jax.process_count() == 1:
        return
    done[:] = from_first(done)
    for start in range(0, len(done), size):
        rows = slice(start, start + size)
        if done[rows].any():
            for x in arrays:
                x[rows] = from_first(x[rows])
