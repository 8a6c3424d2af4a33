"""One of two processes that share the examples, the grid and the sweep.

python -m tests.processes.multihost_worker RANK PORT FOLDER
"""

import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import lagrange_jax as lj
import lagrange_jax.models.linen
from experiments.benchmarks.pod import collective_bytes
from lagrange_jax.distributed import sharding
from lagrange_jax.distributed.sharding import (
    all_reduce_processes,
    shard_batch,
)
from lagrange_jax.training._plan import plan_grid
from lagrange_jax.training._resume import identify
from lagrange_jax.training.grid import grid_mesh, run_grid
from tests.processes.sweep_worker import make_grid, make_train, run_sweep
from tests.unit.test_moments import data

D, K, N, SPLIT = 5, 2, 501, 301  # the first process has more examples


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Dense(12)(x))
        return nn.Dense(K)(x)


SOLVE = lj.lagrange(lj.constraints.variance_scaling())
TRAIN = make_train()


def make_model():
    return lagrange_jax.models.linen.as_model(MLP(), np.zeros((1, D), np.float32))


def head_inputs(variables, inputs):
    """What the head of the network receives, in NumPy."""
    layer = variables["params"]["Dense_0"]
    return np.tanh(inputs @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))


def collect(key, model, variables, batches):
    """An init transform that leaves the network as it is; its info is the moments."""

    def step(state, batch, variables):
        taps = model.taps(variables, batch.inputs, key)
        features = taps[model.head].inputs
        return lj.statistics.update_moments(
            state, features, batch.targets, batch.weights
        )

    return variables, batches.fold(step, lj.statistics.init_moments(12, K), variables)


def run_heads(mine):
    """Moments and heads of the examples of both processes, by different routes."""
    model, key, mesh, size = make_model(), jax.random.key(0), grid_mesh(), len(mine[0])
    batch = shard_batch(mine, mesh)
    stream = [tuple(x[i : i + 100] for x in mine) for i in range(0, size, 100)]
    program = sharding._sharded_moments.lower(*batch, mesh).compile()
    return {
        "laid": program(*batch),
        "streamed": all_reduce_processes(jax.jit(lj.compute_moments)(*mine)),
        "tapped": lj.initialize(key, model, collect, stream, mesh=mesh)[1],
        "head": lj.initialize(key, model, SOLVE, batch, mesh=mesh, eval_batch_size=64),
        "moved": dict(collective_bytes(str(program.as_text()))),
    }


def configuration():
    """What a sweep of networks is known by, which no process may see differently."""
    train = lj.make_train(
        make_model(),
        optax.losses.squared_error,
        lambda strength: optax.chain(lj.add_l2_penalty(strength), optax.adam(0.01)),
        SOLVE,
        data(n=32)[:2],
        num_epochs=2,
        batch_size=8,
    )
    axes = {name: jnp.asarray(x) for name, x in make_grid().items()}
    return identify(plan_grid(train, axes, grid_mesh(jax.local_devices())), None)


class Stop(Exception):
    pass


def run_grids(folder):
    """The same grid at once, and as a sweep that is stopped and goes on."""
    grid, told = make_grid(), []

    def progress(done, total):
        told.append(done)
        if told == [8, 16]:
            raise Stop

    def run(train=TRAIN):
        return run_sweep(folder, train, grid, 7, progress=progress).values

    with pytest.raises(Stop):
        run()
    swept = run()
    with pytest.raises((OSError, ValueError)) as refused:
        run(make_train(length=21))
    refusal = str(refused.value)
    whole = run_grid(TRAIN, grid, chunk_size=7).values  # one program with the sweep
    alone = run_grid(TRAIN, grid, mesh=grid_mesh(jax.local_devices())).values
    return dict(whole=whole, alone=alone, swept=swept, told=told, refusal=refusal)


def main(rank, port, folder):
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank, initialization_timeout=300)
    assert jax.process_count() == 2
    rows = slice(None, SPLIT) if rank == 0 else slice(SPLIT, None)
    mine = tuple(x[rows] for x in data(mean=3.0, n=N))
    found = to_numpy({**run_heads(mine), **run_grids(folder / "sweep")})
    found["configuration"] = configuration()
    with (folder / f"{rank}.pickle").open("wb") as file:
        pickle.dump(found, file)


def to_numpy(tree):
    """Arrays as NumPy's, keys as the numbers they are."""

    def convert(x):
        if isinstance(x, str | int):
            return x
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(x)

    return jax.tree.map(convert, tree)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
