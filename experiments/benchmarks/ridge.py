"""A path of ridge regressions against a loop over scikit-learn's Ridge.

One pinned core, float64. Contestants take turns within a round; what is reported is
the median CPU time of each (all threads; others may share the core) and the median
over rounds of their ratio. Both begin with features and targets in memory and end
with all kernels and biases on the host.

    python -m experiments.benchmarks.ridge [--smoke] [--rounds 7] [--out FILE]
"""

import os

# Before any numerical library starts: one core, one thread.
if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[_name] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
from sklearn.linear_model import Ridge

from experiments.common.environment import environment
from lagrange_jax.ridge.path import ridge_path
from lagrange_jax.statistics.gram import decompose_gram
from lagrange_jax.statistics.moments import compute_moments
from lagrange_jax.statistics.spectrum import decompose

DEFAULT_OUT = Path("experiments/results/benchmarks/ridge.json")
NUM_STRENGTHS = 100
# Features, examples, outputs, and how many times faster the path has to be.
CASES = ((84, 5000, 1, 50), (512, 5000, 1, 15), (2000, 400, 10, 10))
SMOKE_CASES = ((12, 200, 1, 1), (60, 20, 2, 1))


@jax.jit
def path_of_moments(features, targets, strengths):
    return ridge_path(decompose(compute_moments(features, targets)), strengths)


@jax.jit
def path_of_gram(features, targets, strengths):
    return ridge_path(decompose_gram(features, targets), strengths)


def run_ours(features, targets, strengths):
    n, d = features.shape
    path = path_of_gram if n < d else path_of_moments
    kernel, bias = path(features, targets, strengths)
    return np.asarray(kernel), np.asarray(bias)


def run_peer(features, targets, strengths):
    # scikit-learn penalises the sum of squares: alpha = N * strength / 2.
    models = [
        Ridge(alpha=len(features) * strength / 2).fit(features, targets)
        for strength in strengths
    ]
    kernels = np.stack(
        [np.reshape(model.coef_, (*targets.shape[1:], -1)).T for model in models]
    )
    return kernels, np.stack([model.intercept_ for model in models])


def make_problem(d, n, k, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) + 0.5
    targets = features @ rng.normal(size=(d, k)) / d**0.5 + rng.normal(size=(n, k))
    return features, targets, np.geomspace(1e-3, 1e3, NUM_STRENGTHS)


def measure(case, num_rounds):
    d, n, k, demanded = case
    problem = make_problem(d, n, k)
    start = time.perf_counter()
    kernel, bias = run_ours(*problem)
    first_call = time.perf_counter() - start
    peer_kernel, peer_bias = run_peer(*problem)
    axes = (1, 2)
    error = np.linalg.norm(kernel - peer_kernel, axis=axes)
    error = (error / np.linalg.norm(peer_kernel, axis=axes)).max()
    times = np.array(
        [
            [_seconds(run_ours, problem), _seconds(run_peer, problem)]
            for _ in range(num_rounds)
        ]
    )
    ours, peer = np.median(times, axis=0)
    return {
        "features": d,
        "examples": n,
        "outputs": k,
        "strengths": NUM_STRENGTHS,
        "rounds": num_rounds,
        "first_call_wall_ms": 1e3 * first_call,
        "ours_cpu_ms": 1e3 * ours,
        "sklearn_ridge_loop_cpu_ms": 1e3 * peer,
        "ratio": float(np.median(times[:, 1] / times[:, 0])),
        "demanded_ratio": demanded,
        "relative_error": float(error),
        "bias_error": float(np.abs(bias - peer_bias).max()),
    }


def _seconds(function, problem):
    start = time.process_time()
    function(*problem)
    return time.process_time() - start


def main(argv=None):
    parser = argparse.ArgumentParser(description="Ridge path benchmark.")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, no record")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args(argv)
    cases = SMOKE_CASES if args.smoke else CASES
    with jax.enable_x64(True):
        rows = [measure(case, args.rounds) for case in cases]
    for row in rows:
        print(json.dumps(row))
    out = args.out or (None if args.smoke else DEFAULT_OUT)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        record = {"environment": environment(["scikit-learn"]), "rows": rows}
        out.write_text(json.dumps(record, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    main()
