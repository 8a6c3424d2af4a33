"""Long sweeps: a grid run by chunks that a stop cannot take away.

Stop it anywhere and start it again with the same command. On the same devices the
result has the same bits as without the stop; on others it is equal up to rounding.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import Mesh

from lagrange_jax._checks import require_count
from lagrange_jax.distributed.processes import from_first
from lagrange_jax.training._plan import GridPlan, merge_parts, run_part
from lagrange_jax.training.chunk_store import (
    Chunk,
    open_folder,
    read_chunks,
    save_chunk,
)
from lagrange_jax.training.grid import Grid, GridResult, plan_of

__all__ = ["run_sweep"]


def run_sweep(
    train: Callable[..., Any],
    grid: Grid,
    folder: str | os.PathLike[str],
    *,
    chunk_size: int,
    together: Sequence[str] | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> GridResult:
    """`run_grid` with every chunk saved as soon as it is finished.

    A finished chunk is never computed again, unless it was damaged on disk, which
    checksums tell. The folder remembers the grid's values and the traced program of
    `train` with all the arrays in it, and refuses others.

    With several processes, all call this; process 0 alone reads and writes the folder.

    Args:
      train: as for `run_grid`.
      grid: the axes.
      folder: where finished chunks are kept, one Orbax checkpoint each.
      chunk_size: combinations between two saves, as for `run_grid`: what a stop costs
        at most. `chunk_size_for` gives one that fits the memory. It may change when
        the sweep is resumed, which may change the rounding.
      together: as for `run_grid`.
      mesh: as for `run_grid`; another one may resume the sweep.
      progress: `progress(done, total)` is called after every chunk.

    Returns:
      The results, on the host of every process.

    Raises:
      ValueError: if the folder holds results of another grid or another function.
      OSError: if the folder cannot be written or is full, or another run is at work
        in it. Finished chunks are safe.
    """
    require_count("chunk_size", chunk_size)
    plan, path = plan_of(train, grid, mesh, together), Path(folder)
    size = min(chunk_size, plan.total)
    configuration, like = _trace(plan)
    structs, structure = jax.tree.flatten(jax.eval_shape(_to_data, like))
    arrays = [np.zeros(x.shape, x.dtype) for x in structs]
    done = np.zeros(plan.total, bool)

    def restore():
        for chunk in read_chunks(path, configuration, structs):
            _fill(chunk, arrays, done)

    with contextlib.ExitStack() as stack:
        _on_first_process(lambda: stack.enter_context(open_folder(path)))
        _on_first_process(restore)
        _share(arrays, done, size)
        for start, stop in _gaps(done, size):
            part = _to_data(run_part(plan, start, stop, size))
            chunk = Chunk(start, stop, [np.asarray(x) for x in jax.tree.leaves(part)])
            _on_first_process(partial(save_chunk, path, chunk, configuration))
            _fill(chunk, arrays, done)
            if progress is not None:
                progress(int(done.sum()), plan.total)
    values = _from_data(jax.tree.unflatten(structure, arrays), like)
    return GridResult(plan.axes, merge_parts(plan, [values]))


def _trace(plan: GridPlan) -> tuple[dict[str, str], Any]:
    """Returns what a sweep is, and the shapes of all that it returns."""
    member = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), plan.axes
    )
    program, out = jax.make_jaxpr(plan.train, return_shape=True)(**member)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*plan.flat_shape, *x.shape), x.dtype), out
    )
    axes = {f"axis {name!r}": _digest([x]) for name, x in plan.axes.items()}
    return {
        "the version of JAX": jax.__version__,
        "the order of the axes": " ".join((*plan.outer, "|", *plan.inner)),
        **axes,
        "the function": _digest([_program_text(program), *_constants(program)]),
    }, like


def _program_text(program: ClosedJaxpr) -> str:
    return re.sub("0x[0-9a-f]+", "", str(program.jaxpr))  # addresses of functions


def _constants(x: Any) -> Iterator[Any]:
    """Yields the arrays that a traced program holds, however deep."""
    if isinstance(x, ClosedJaxpr):
        yield from x.consts
        yield from _constants(x.jaxpr)
    elif isinstance(x, Jaxpr):
        for equation in x.eqns:
            yield from (v.val for v in equation.invars if isinstance(v, Literal))
            yield from _constants(tuple(equation.params.values()))
    elif isinstance(x, tuple | list):
        for part in x:
            yield from _constants(part)


def _digest(values: Sequence[Any]) -> str:
    """A short name for texts and pytrees of arrays, the same in every process."""
    digest, known = hashlib.sha256(), {}
    for value in values:
        if isinstance(value, str):
            digest.update(value.encode())
            continue
        # A program may hold one large array in many places.
        if id(value) not in known:
            known[id(value)] = _digest_tree(value)
        digest.update(known[id(value)])
    return digest.hexdigest()[:16]


def _digest_tree(tree):
    digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for x in jax.tree.leaves(tree):
        digest.update(f"{jnp.result_type(x)}{np.shape(x)}".encode())
        digest.update(np.ascontiguousarray(_to_data(x)).tobytes())
    return digest.digest()


def _is_key(x):
    return jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)


def _to_data(tree):
    """Typed keys, such as a network's random state, as the numbers they are."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _from_data(tree, like):
    def wrap(x, like):
        if not _is_key(like):
            return x
        impl = jax.random.key_impl(jnp.empty((), like.dtype))
        return jax.random.wrap_key_data(x, impl=impl)

    return jax.tree.map(wrap, tree, like)


def _fill(chunk, arrays, done):
    for whole, part in zip(arrays, chunk.arrays, strict=True):
        whole[chunk.start : chunk.stop] = part
    done[chunk.start : chunk.stop] = True


def _gaps(done, size):
    """Ranges of at most `size` that cover what is not done."""
    is_edge = np.diff(np.concatenate([[True], done, [True]]).astype(np.int8)) != 0
    edges = np.flatnonzero(is_edge).tolist()
    return [
        (start, min(start + size, last))
        for first, last in zip(edges[::2], edges[1::2], strict=True)
        for start in range(first, last, size)
    ]


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
