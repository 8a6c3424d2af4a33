"""The grid of small networks: `run_grid` against the ways others train it.

    python -m experiments.benchmarks.grid [--smoke] [--out FILE]

A 10-15-1 network, tanh, logistic loss and L2 penalty, full batch, rate 0.1, for each
of 14 strengths, 10 sizes and 4 seeds. One core, processor time (what other programs
take on a shared machine does not count), rounds interleaved, medians. A way that would
take minutes runs fewer epochs and fewer networks of each size, and its time is scaled
to the whole grid: the record says from what. PyTorch and scikit-learn are used where
they are installed.
"""

# Peers are installed by hand, for the benchmark only.
# pyright: reportMissingImports=false

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.grid_ways import (
    PEERS,
    Config,
    Problem,
    make_problem,
    scan_per_model,
    tiled_grid,
)
from experiments.common.environment import environment

# At least how many times faster `run_grid` must be.
DEMANDS = {
    "torch_loop": 20.0,
    "sklearn_loop": 9.0,
    "torch_func_vmap": 6.0,
    "jax_naive_vmap": 8.0,
    "jax_scan_per_model": 2.3,
}
MAX_COMPILE_SECONDS = 5.0
MAX_WEIGHT_DIFFERENCE = 1e-5

SMOKE = Config(num_strengths=2, sizes=(20, 300), num_seeds=1, num_epochs=20, rounds=1)


def seconds(run: Callable[[], Any]) -> float:
    """Returns the processor time of one call, of all threads."""
    start = time.process_time()
    run()
    return time.process_time() - start


def gemm_rate() -> float:
    """Returns the float32 rate of a large product on this core, in flop/s."""
    n = 2048
    matrix = jnp.ones((n, n))
    product = jax.jit(lambda a: a @ a)
    run = lambda: product(matrix).block_until_ready()  # noqa: E731
    run()
    return 2 * n**3 / min(seconds(run) for _ in range(5))


def max_difference(result, problem: Problem) -> float:
    """Returns the largest difference in any weight from per-model training."""
    worst = 0.0
    for i, k in ((-1, 0), (0, -1)):
        finals = scan_per_model(problem, result.values.info, (i, k)).run()
        params = result.values.variables["params"]
        for j, final in enumerate(finals):
            tiled = jax.tree.map(lambda x, at=(i, j, k): x[at], params)
            gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), tiled, final)
            worst = max(worst, *map(float, jax.tree.leaves(gaps)))
    return worst


def use_one_core() -> None:
    """Pins this process to one core, and PyTorch to one thread, before they start."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)


def measure(config: Config) -> list[dict[str, Any]]:
    """Returns one row a way of training, with its time for the whole grid."""
    problem, results = make_problem(config), []
    ours = tiled_grid(problem)
    first_call = seconds(lambda: results.append(ours.run()))
    ways = {"run_grid": ours}
    for name, make in PEERS.items():
        try:
            ways[name] = make(problem, results[0].values.info)
        except ImportError:
            print(f"{name}: not installed, left out")
    for name in list(ways)[1:]:
        ways[name].run()  # compiles
    models = config.num_strengths * config.num_seeds
    times = {name: [] for name in ways}
    for _ in range(config.rounds):
        for name, way in ways.items():
            scale = models / way.models * config.num_epochs / way.epochs
            times[name].append(scale * seconds(way.run))
    medians = {name: statistics.median(rounds) for name, rounds in times.items()}
    rows = [
        {
            "way": name,
            "seconds": medians[name],
            "times_ours": medians[name] / medians["run_grid"],
            "demanded": DEMANDS.get(name),
            "rounds": times[name],
            "models_a_size": way.models,
            "epochs": way.epochs,
        }
        for name, way in ways.items()
    ]
    flop = 690 * models * config.num_epochs * sum(config.sizes)
    rows[0] |= {
        "compile_seconds": first_call - medians["run_grid"],
        "max_weight_difference": max_difference(results[0], problem),
        "share_of_gemm_rate": flop / medians["run_grid"] / gemm_rate(),
    }
    return rows


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Returns what was demanded and not reached."""
    ours, *peers = rows
    found = [
        f"{row['way']}: {row['times_ours']:.1f} times, demanded {row['demanded']}"
        for row in peers
        if row["times_ours"] < row["demanded"]
    ]
    if ours["compile_seconds"] > MAX_COMPILE_SECONDS:
        found.append(f"compilation took {ours['compile_seconds']:.1f} s")
    if not ours["max_weight_difference"] <= MAX_WEIGHT_DIFFERENCE:
        found.append(f"weights differ by {ours['max_weight_difference']:.1e}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds, no record")
    parser.add_argument(
        "--out", type=Path, default="experiments/results/benchmarks/grid.jsonl"
    )
    arguments = parser.parse_args()
    use_one_core()
    config = SMOKE if arguments.smoke else Config()
    rows = measure(config)
    for row in rows:
        print(f"{row['way']:20} {row['seconds']:8.2f} s {row['times_ours']:6.1f} times")
    named = ("compile_seconds", "max_weight_difference", "share_of_gemm_rate")
    print(*(f"{name}: {rows[0][name]:.2g}" for name in named), sep="\n")
    if arguments.smoke:
        return
    head = {
        "config": dataclasses.asdict(config),
        "environment": environment(["scikit-learn", "torch"]),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("".join(json.dumps(x) + "\n" for x in [head, *rows]))
    raise SystemExit("\n".join(failures(rows)) or 0)


if __name__ == "__main__":
    main()
