"""Programs that an accelerator has to run, as shapes on a mesh: nothing is computed.

A mesh of devices that are not there will do, see `experiments.benchmarks.compiled`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lagrange_jax as lj
from experiments.benchmarks.grid_ways import (
    Config,
    grid_axes,
    make_problem,
    tiled_train,
)
from lagrange_jax.distributed import sharded_moments
from lagrange_jax.training import _plan

__all__ = ["PROGRAMS", "Program"]

# 32 networks a chip on four chips; the data are much larger than a network.
CNN_MEMBERS = (4, 4, 8)
CNN_SHAPE = (2048, 30, 14)


class Program(NamedTuple):
    """What `jax.jit(function)` is compiled for.

    Attributes:
      function: a pure function.
      arguments: shapes and where they lie.
      members: how many networks or heads one device works on.
      data_bytes: size of the data that all members of a grid share; zero elsewhere.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    members: int = 1
    data_bytes: int = 0


def _lay(tree: Any, mesh: Mesh, *axes: str | None) -> Any:
    """The shapes of a tree, laid on the mesh."""
    sharding = NamedSharding(mesh, P(*axes))
    lay = partial(jax.ShapeDtypeStruct, sharding=sharding)
    return jax.tree.map(lambda x: lay(x.shape, x.dtype), jax.eval_shape(lambda: tree))


def _one(mesh: Mesh) -> Mesh:
    return Mesh(mesh.devices.flat[:1], mesh.axis_names)


def _moments(d: int, k: int, batch: tuple[int, ...] = ()) -> lj.Moments:
    like = jax.eval_shape(partial(lj.statistics.init_moments, d, k))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(batch + x.shape, x.dtype), like)


def _solve(moments: lj.Moments) -> lj.HeadSolution:
    return lj.solve_least_squares(moments, lj.constraints.fixed_norm(1.0))


def head(d: int, k: int, batch: tuple[int, ...], mesh: Mesh) -> Program:
    """The solved head: from moments to kernel, certificate and status."""
    solve = jax.vmap(_solve) if batch else _solve
    moments = _lay(_moments(d, k, batch), _one(mesh))
    return Program(solve, (moments,), members=math.prod(batch))


def sharded(mesh: Mesh) -> Program:
    """Moments of rows that are spread over the devices."""
    rows, axis = 1024 * mesh.size, mesh.axis_names[0]
    data = jnp.zeros((rows, 512)), jnp.zeros((rows, 10))
    return Program(partial(sharded_moments, mesh=mesh), _lay(data, mesh, axis))


class SmallCNN(nn.Module):
    """Two temporal convolutions and a hidden layer."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.tanh(nn.Conv(10, (10,))(x))
        x = nn.tanh(nn.Dense(50)(x.reshape(len(x), -1)))
        return nn.Dense(1)(x)


def _cnn() -> lj.Model:
    return lj.linen.as_model(SmallCNN(), jnp.zeros((2, *CNN_SHAPE[1:])))


def _cnn_data() -> tuple[jax.Array, jax.Array]:
    return jnp.zeros(CNN_SHAPE), jnp.zeros((CNN_SHAPE[0], 1))


def initialize_cnn(mesh: Mesh) -> Program:
    """A small network drawn and its head solved."""
    model, init = _cnn(), lj.lagrange()

    def initialize(key, inputs, targets):
        return lj.initialize(key, model, init, (inputs, targets))

    arguments = _lay((jax.random.key(0), *_cnn_data()), _one(mesh))
    return Program(initialize, arguments)


def _grid(train, axes, vmap_axes, data_bytes, mesh: Mesh) -> Program:
    here = lj.training.grid_mesh(jax.devices("cpu")[:1])
    plan = _plan.plan_grid(train, axes, here, vmap_axes)
    mesh = Mesh(mesh.devices.ravel(), (_plan.AXIS,))
    rows = -(-plan.total // mesh.size) * mesh.size
    index = _lay(jnp.zeros(rows, jnp.int32), mesh, _plan.AXIS)
    members = math.prod(len(x) for x in axes.values()) // mesh.size
    run = partial(_plan._run, plan.layout._replace(mesh=mesh))
    return Program(run, (*_lay(plan.placed, mesh), index), members, data_bytes)


def mlp_grid(mesh: Mesh) -> Program:
    """14 strengths, 10 sizes and 4 seeds of a network of 15 hidden units."""
    problem = make_problem(Config())
    train, axes = tiled_train(problem), grid_axes(problem)
    return _grid(train, axes, ("strength",), problem.inputs.nbytes, mesh)


def cnn_grid(mesh: Mesh) -> Program:
    """128 small CNNs, each with its own optimal head."""
    model, data = _cnn(), _cnn_data()
    train = lj.make_train(
        model,
        optax.losses.squared_error,
        lambda strength: optax.chain(lj.add_l2_penalty(strength), optax.adam(1e-3)),
        lj.lagrange(),
        lj.Batch(*data),
        num_epochs=2,
        batch_size=32,
        eval_batch_size=32,
    )
    strengths, sizes, seeds = CNN_MEMBERS
    axes = dict(
        strength=jnp.ones(strengths),
        num_examples=np.full(sizes, CNN_SHAPE[0]),
        key=jax.random.split(jax.random.key(0), seeds),
    )
    return _grid(train, axes, None, data[0].nbytes, mesh)


PROGRAMS: dict[str, Callable[[Mesh], Program]] = {
    "1,000 heads, d=15": partial(head, 15, 1, (1000,)),
    "head, d=512": partial(head, 512, 1, ()),
    "head, d=2048, k=100": partial(head, 2048, 100, ()),
    "sharded moments, d=512": sharded,
    "initialize, small CNN": initialize_cnn,
    "grid of 560 networks": mlp_grid,
    "grid of 128 small CNNs": cnn_grid,
}
"""By name, each a function of the mesh."""
