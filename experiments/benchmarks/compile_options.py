"""How a grid is compiled on a CPU against how fast it runs, for kinds of networks.

    python -m experiments.benchmarks.compile_options [--rounds 5] [--only NAME]

Each grid is traced once, compiled with each set of options, and the programs take
turns. Eight members, one or a few epochs; `first_grid` has 560.
"""

from experiments.benchmarks import timing

if __name__ == "__main__":
    timing.use_one_core()

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lagrange_jax as lj
from experiments.backbones import RulCNN
from experiments.benchmarks.first_grid import make_grid
from experiments.benchmarks.programs import SmallCNN
from lagrange_jax._compile import CPU_OPTIONS, grid_options
from lagrange_jax.training import _plan

__all__ = ["GRIDS", "compare", "main"]

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
WAYS = {"as XLA does": CPU_OPTIONS, "level 2": grid_options("")}
WINDOWS = (512, 30, 14)


class Dense(nn.Module):
    """Layers of `width` units on all entries of a window."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for _ in range(3):
            x = nn.gelu(nn.LayerNorm()(nn.Dense(self.width)(x)))
        return nn.Dense(1)(x)


class Attention(nn.Module):
    """Two blocks of a transformer."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(16)(x)
        for _ in range(2):
            x = x + nn.SelfAttention(2)(nn.LayerNorm()(x))
            x = x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))
        return nn.Dense(1)(x.mean(1))


class Recurrent(nn.Module):
    """A gated recurrent unit over the window."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(jnp.asarray(nn.RNN(nn.GRUCell(32))(x))[:, -1])


def windows_grid(network: nn.Module, num_epochs: int):
    """Minibatches of windows by Adam, each network from its own optimal head."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=WINDOWS), jnp.float32)
    targets = jnp.asarray(rng.normal(size=(len(inputs), 1)), jnp.float32)
    train = lj.make_train(
        lj.linen.as_model(network, inputs[:2]),
        optax.losses.squared_error,
        lambda strength: optax.chain(lj.add_l2_penalty(strength), optax.adam(1e-3)),
        lj.lagrange(),
        lj.Batch(inputs, targets),
        num_epochs=num_epochs,
        batch_size=32,
        eval_batch_size=256,
    )
    keys = jax.random.split(jax.random.key(0), 2)
    return train, {"strength": jnp.geomspace(1e-4, 1e-2, 4), "key": keys}


GRIDS = {
    "560 networks of 15 units, full batch": partial(make_grid, 10),
    "dense, 32 units": partial(windows_grid, Dense(32), 5),
    "dense, 128 units": partial(windows_grid, Dense(128), 1),
    "attention": partial(windows_grid, Attention(), 1),
    "recurrent": partial(windows_grid, Recurrent(), 1),
    "small CNN": partial(windows_grid, SmallCNN(), 1),
    "RUL network": partial(windows_grid, RulCNN(), 1),
}


def compare(name: str, rounds: int) -> dict:
    """Returns seconds to compile and ratios of the time to run, by way."""
    train, axes = GRIDS[name]()
    axes = jax.tree.map(jnp.asarray, dict(axes))
    plan = _plan.plan_grid(train, axes, lj.training.grid_mesh(jax.devices()[:1]))
    arguments = *plan.placed, jnp.arange(plan.total, dtype=jnp.int32)
    lowered = jax.jit(partial(_plan._run, plan.layout)).lower(*arguments)
    seconds, runs = {}, {}
    for way, options in WAYS.items():
        start = time.process_time()
        program = lowered.compile(compiler_options=options)
        seconds[way] = time.process_time() - start
        runs[way] = lambda program=program: jax.block_until_ready(program(*arguments))
    times = timing.measure(runs, rounds)
    first = next(iter(WAYS))
    return {
        "grid": name,
        "compile_cpu_seconds": seconds,
        "run_cpu_seconds": {way: statistics.median(x) for way, x in times.items()},
        "run_ratio": {way: timing.ratio(times, way, first) for way in WAYS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=GRIDS)
    parser.add_argument("--out", default=RESULTS / "compile_options.json", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    command = "python -m experiments.benchmarks.compile_options"
    command += f" --rounds {options.rounds}"
    rows = []
    for name in [options.only] if options.only else GRIDS:
        rows.append(compare(name, options.rounds))
        print(rows[-1], flush=True)
        timing.write_rows(options.out, command, rows)


if __name__ == "__main__":
    main()
