"""How soon a grid of 560 networks is there, its compilation included.

    python -m experiments.benchmarks.first_grid [--rounds 3]

A 10-15-1 network, tanh, with its own optimal head for each of 14 strengths, 10 sizes
and 4 seeds, 10 full-batch epochs of SGD. Every way is called twice in a process of its
own without a cache of compiled programs: the first call compiles.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import numpy as np

from experiments.benchmarks import timing

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
MODULE = "experiments.benchmarks.first_grid"
# Options of `run_grid`; None is without it.
WAYS = {
    "jit(vmap)": None,
    "run_grid": {},
    "run_grid, group_sizes": {"group_sizes": True},
}
EPOCHS = 10


def make_grid(epochs: int):
    """Returns a training function without its objective's fast path, and the axes."""
    import flax.linen as nn
    import jax
    import optax

    import lagrange_jax as lj
    from experiments.benchmarks.grid_ways import RATE, Config, grid_axes, make_problem

    problem = make_problem(Config())
    network = nn.Sequential([nn.Dense(15), nn.tanh, nn.Dense(1)])
    train = lj.make_train(
        lj.linen.as_model(network, problem.inputs[:1]),
        optax.losses.sigmoid_binary_cross_entropy,
        lambda strength: optax.chain(
            optax.add_decayed_weights(strength), optax.sgd(RATE)
        ),
        lj.lagrange(),
        jax.device_put((problem.inputs, problem.targets)),
        num_epochs=epochs,
    )
    return train, grid_axes(problem)


def by_hand(train, axes):
    """Returns the whole grid as one writes it: every combination, `jit(vmap)`."""
    import jax
    import jax.numpy as jnp

    names, shape = list(axes), [len(values) for values in axes.values()]
    at = np.unravel_index(np.arange(np.prod(shape)), shape)
    flat = {name: jnp.asarray(axes[name])[i] for name, i in zip(names, at, strict=True)}
    return partial(jax.jit(jax.vmap(lambda members: train(**members))), flat)


def calls(way: str) -> dict[str, float]:
    """Returns seconds of the first call of a process and of the second."""
    import jax

    import lagrange_jax as lj

    lj.training.disable_scheduler()
    jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
    train, axes = make_grid(EPOCHS)
    options = WAYS[way]
    grid = partial(lj.run_grid, train, axes, **(options or {}))
    run = by_hand(train, axes) if options is None else grid
    return timing.two_calls(lambda: jax.block_until_ready(run()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", choices=WAYS)
    parser.add_argument("--out", default=RESULTS / "first_grid.json", type=Path)
    options = parser.parse_args()
    timing.use_one_core()
    if options.cold is not None:
        print(json.dumps(calls(options.cold)))
        return
    rounds = []
    for _ in range(options.rounds):
        rounds.append({way: timing.cold(MODULE, way) for way in WAYS})
        print(json.dumps(rounds[-1]), flush=True)
    rows = []
    for way in WAYS:
        row = {"way": way}
        for call in ("first_cpu", "second_cpu"):
            row[call] = statistics.median(x[way][call] for x in rounds)
            ratios = (x[way][call] / x["jit(vmap)"][call] for x in rounds)
            row[f"{call}_ratio"] = statistics.median(ratios)
        rows.append(row)
    command = f"python -m {MODULE} --rounds {options.rounds}"
    timing.write_rows(options.out, command, [*rows, *({"round": x} for x in rounds)])


if __name__ == "__main__":
    main()
