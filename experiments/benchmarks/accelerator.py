"""Heads and grids on what JAX finds here: one command for a machine with a GPU or TPU.

    python -m experiments.benchmarks.accelerator [--smoke] [--rounds 5] [--out FILE]

Wall-clock seconds of a call whose data lie on the device, medians, and the seconds of
the first call, which compiles. cuML's ridge regression and a loop over `torch.func` are
timed where they are installed.
"""

# Peers are installed by hand, for the benchmark only.
# pyright: reportMissingImports=false

import argparse
import dataclasses
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lagrange_jax as lj
from experiments.benchmarks.grid_ways import (
    Config,
    grid_axes,
    make_problem,
    tiled_train,
    torch_func_vmap,
)
from experiments.benchmarks.timing import write_rows

# Features, outputs and rows of single heads; features and batches of small ones.
HEADS = ((512, 1, 50_000), (2048, 100, 50_000), (4096, 100, 50_000))
BATCHES = ((15, 1_000), (15, 10_000), (32, 10_000))
# Seeds of 14 strengths and 10 sizes: 560 networks to 100,000 of them.
SEEDS = (4, 40, 715)

SMOKE_HEADS, SMOKE_BATCHES, SMOKE_SEEDS = ((32, 2, 200),), ((5, 200),), (1,)
SMOKE = Config(num_strengths=2, sizes=(20, 60), num_seeds=1, num_epochs=3, rounds=1)


def timed(run: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Returns seconds of the first call and the median of further ones."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    first, *rest = seconds
    return {"first_seconds": first, "seconds": statistics.median(rest)}


def examples(*shape: int, k: int) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    features = jax.random.normal(keys[0], shape)
    return features, jax.random.normal(keys[1], (*shape[:-1], k)) + features[..., :1]


def solve(features: jax.Array, targets: jax.Array) -> lj.HeadSolution:
    moments = lj.compute_moments(features, targets)
    return lj.solve_least_squares(moments, lj.constraints.fixed_norm(1.0))


def heads(sizes, batches, rounds: int) -> Iterator[dict[str, Any]]:
    """Heads from features: single ones, and many small ones at once."""
    for d, k, n in sizes:
        data = examples(n, d, k=k)
        row = {"name": f"head, d={d} k={k} N={n}"}
        yield row | timed(partial(jax.jit(solve), *data), rounds)
        if importlib.util.find_spec("cuml"):
            yield {"name": f"cuML ridge, {row['name']}"} | cuml_ridge(data, rounds)
    for d, batch in batches:
        data = examples(batch, 200, d, k=1)
        together = partial(jax.jit(jax.vmap(solve)), *data)
        yield {"name": f"{batch} heads, d={d} N=200"} | timed(together, rounds)


def cuml_ridge(data, rounds: int) -> dict[str, float]:
    import cupy
    from cuml.linear_model import Ridge

    features, targets = map(cupy.asarray, data)

    def run():
        model = Ridge(alpha=1.0, solver="eig").fit(features, targets)
        cupy.cuda.Device().synchronize()
        return np.asarray(model.coef_.shape)

    return timed(run, rounds)


def grids(config: Config, seeds, rounds: int) -> Iterator[dict[str, Any]]:
    """Grids of small networks, in tiles."""
    for num_seeds in seeds:
        problem = make_problem(dataclasses.replace(config, num_seeds=num_seeds))
        train, axes = tiled_train(problem), grid_axes(problem)
        run = partial(lj.run_grid, train, axes, vmap_axes=("strength",))
        count = int(np.prod([len(x) for x in axes.values()]))
        row = {"name": f"grid of {count} networks", "members": count}
        yield row | timed(lambda run=run: run().values, rounds)
        if num_seeds == seeds[0] and importlib.util.find_spec("torch"):
            yield row | torch_loop(problem, run().values.info, rounds)


def torch_loop(problem, start, rounds: int) -> dict[str, Any]:
    """Seconds of all epochs, scaled from those that are run."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    way = torch_func_vmap(problem, start, device)
    scale = problem.config.num_epochs / way.epochs
    seconds = {name: scale * x for name, x in timed(way.run, rounds).items()}
    return {"name": f"torch.func loop on {device}", **seconds}


def main() -> None:
    """Times everything and writes the record after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="seconds, for a test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/accelerator.json"))
    options = parser.parse_args()
    smoke, rounds = options.smoke, 1 if options.smoke else options.rounds
    sizes, batches = (SMOKE_HEADS, SMOKE_BATCHES) if smoke else (HEADS, BATCHES)
    config, seeds = (SMOKE, SMOKE_SEEDS) if smoke else (Config(), SEEDS)
    kind, rows = jax.devices()[0].device_kind, []
    for section in (heads(sizes, batches, rounds), grids(config, seeds, rounds)):
        for row in section:
            rows.append({"device": kind, "devices": jax.device_count(), **row})
            print(json.dumps(rows[-1]), flush=True)
            write_rows(options.out, "experiments.benchmarks.accelerator", rows)


if __name__ == "__main__":
    main()
