"""Newton's method or L-BFGS: up to which size of a head is which the faster search?

    python -m experiments.benchmarks.second_order [--rounds 3]

Both solve the same problem from the same statistics to the same tolerance, in turns, in
one process on one core; processor time.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from experiments.benchmarks import timing

if __name__ == "__main__":
    timing.use_one_core()

import jax
import jax.numpy as jnp
import numpy as np

from lagrange_jax import losses
from lagrange_jax.batches import as_batches
from lagrange_jax.numerics.lbfgs import minimize
from lagrange_jax.numerics.newton import minimize_newton
from lagrange_jax.numerics.search import Search
from lagrange_jax.solvers import fit
from lagrange_jax.solvers.examples import example_statistics

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
MODULE = "experiments.benchmarks.second_order"
N = 4000
LOSSES = {
    "softmax": losses.softmax(),
    "sigmoid": losses.sigmoid(),
    "poisson": losses.poisson(),
    "huber": losses.huber(),
}
# Loss, features, outputs.
SHAPES = (
    ("softmax", 10, 10),
    ("softmax", 100, 10),
    ("softmax", 300, 10),
    ("softmax", 1000, 10),
    ("softmax", 300, 100),
    ("sigmoid", 1000, 1),
    ("sigmoid", 300, 10),
    ("sigmoid", 1000, 10),
    ("poisson", 300, 1),
    ("poisson", 300, 10),
    ("huber", 300, 1),
    ("huber", 300, 10),
)
# Squared norms as parts of that of the head that the targets were drawn with.
PARTS = (0.1, 1.0)


def draw(name: str, d: int, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng([d, k])
    features = rng.normal(size=(N, d)) * np.arange(1, d + 1) ** -0.5
    truth = rng.normal(size=(d, k)) / np.sqrt(np.log(d + 1))
    z = features @ truth
    targets: Any = z + rng.standard_t(2, size=z.shape)
    if name == "softmax":
        targets = (z + rng.gumbel(size=z.shape)).argmax(1).astype(np.int32)
    elif name == "sigmoid":
        targets = np.float32(z + rng.logistic(size=z.shape) > 0)
    elif name == "poisson":
        targets = np.float32(rng.poisson(np.exp(z)))
    return np.asarray(features, np.float32), targets, float(np.sum(truth**2))


def by_newton(evaluate, multiply, start, direction, while_loop, **ends):
    first = evaluate(start + direction)
    search = Search(first, jnp.int32(1), jnp.zeros((), bool), first.value)
    return minimize_newton(evaluate, multiply, search, **ends)


def by_lbfgs(evaluate, multiply, start, direction, while_loop, **ends):
    return minimize(evaluate, start, direction, **ends)


def searches(name: str, d: int, k: int, part: float) -> dict[str, Any]:
    """The two ways to solve one problem; each returns its head."""
    features, targets, norm_sq = draw(name, d, k)
    loss, batch = LOSSES[name], (jnp.asarray(features), jnp.asarray(targets))
    prepare = jax.jit(lambda batch: example_statistics(as_batches(batch), loss, k))
    prepared = jax.block_until_ready(prepare(batch))

    def way(find_minimum):
        def solve(batch, prepared, norm_sq):
            fit.find_minimum = find_minimum  # read while this is traced
            return fit.fit_head(
                as_batches(batch), prepared, loss, norm_sq, relation="at_most"
            )

        solve, bound = jax.jit(solve), jnp.float32(part * norm_sq)
        return lambda: jax.block_until_ready(solve(batch, prepared, bound))

    return {"newton": way(by_newton), "lbfgs": way(by_lbfgs)}


def compare(name: str, d: int, k: int, part: float, rounds: int) -> dict[str, Any]:
    ways = searches(name, d, k, part)
    heads = {way: run() for way, run in ways.items()}
    times = timing.measure(ways, rounds)
    ratios = [a / b for a, b in zip(times["lbfgs"], times["newton"], strict=True)]
    return {
        "loss": name,
        "shape": [N, d, k],
        "size": d * k,
        "norm_part": part,
        "newton_s": statistics.median(times["newton"]),
        "lbfgs_s": statistics.median(times["lbfgs"]),
        "lbfgs_over_newton": statistics.median(ratios),
        "lowest_and_highest": [min(ratios), max(ratios)],
        "status": {way: int(head.status) for way, head in heads.items()},
        "objective": {way: float(head.objective) for way, head in heads.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=RESULTS / "second_order.json", type=Path)
    options = parser.parse_args()
    rows = []
    for name, d, k in SHAPES:
        for part in PARTS:
            rows.append(compare(name, d, k, part, options.rounds))
            print(json.dumps(rows[-1]), flush=True)
            command = f"python -m {MODULE} --rounds {options.rounds}"
            timing.write_rows(options.out, command, rows)


if __name__ == "__main__":
    main()
