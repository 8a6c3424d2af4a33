"""Time to scikit-learn's final loss, ours against its L-BFGS, side by side.

    python -m experiments.benchmarks.cross_entropy [--data-dir DATA] [--rows N]

With a folder of data, the EfficientNet-Lite0 features of the CIFAR-100 study; without
one they are synthetic: a rectified random layer over overlapping classes.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

import lagrange_jax as lj
from experiments.backbones.problem import load_problem
from experiments.benchmarks import timing
from experiments.studies.cifar100.config import Config

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
MODULE = "experiments.benchmarks.cross_entropy"
CLASSES = 100
# Two strengths around the one that validates best on CIFAR-100, and one looser.
INVERSE_STRENGTHS = (1e-3, 1e-2, 1e-1)


def load(data_dir: str | None, rows: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns features, labels and what they are."""
    if data_dir is not None:
        config = Config()
        problem = load_problem(
            config.backbone,
            resolution=config.resolution,
            images_per_class=0,
            data_dir=data_dir,
            cache=config.cache,
        )
        features, labels = (np.asarray(array)[:rows] for array in problem.train)
        return features, labels, f"CIFAR-100, {config.backbone}"
    rng = np.random.default_rng(0)
    d = 1280
    scales = np.arange(1, d + 1) ** -0.5
    labels = np.arange(rows) % CLASSES
    centres = 0.3 * rng.normal(size=(CLASSES, d)) * scales
    hidden = centres[labels] + rng.normal(size=(rows, d)) * scales
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    features = np.maximum(hidden @ rotation / hidden.std() - 0.3, 0)
    return features.astype(np.float32), labels.astype(np.int32), "synthetic"


def passes_to(examples, norm_sq: float, loss: float) -> int:
    """Returns the least number of passes after which our loss is at most `loss`."""
    low, high = 1, 1
    while solve(examples, norm_sq, high).objective > loss:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        reached = solve(examples, norm_sq, middle).objective <= loss
        low, high = (low, middle) if reached else (middle + 1, high)
    return high


def solve(
    examples, norm_sq: float, steps: int, tolerance: Any = 0.0
) -> lj.HeadSolution:
    return jax.block_until_ready(
        lj.solve_convex(
            examples,
            lj.constraints.fixed_norm(norm_sq, per_output=False),
            num_outputs=CLASSES,
            search=lj.solvers.SearchOptions(tolerance=tolerance, max_steps=steps),
        )
    )


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def compare(features, labels, inverse_strength: float, rounds: int) -> dict:
    """Times both, one after the other, and returns medians."""
    oracle = LogisticRegression(C=inverse_strength, max_iter=5000)
    fit, first = timed(oracle.fit, features, labels)
    rows = np.arange(len(labels))
    loss = float(-fit.predict_log_proba(features)[rows, labels].mean())
    norm_sq = float(np.sum(fit.coef_.astype(float) ** 2))
    examples = jax.numpy.asarray(features), jax.numpy.asarray(labels)
    passes = passes_to(examples, norm_sq, loss)
    theirs, ours = [first], []
    for _ in range(rounds):
        ours.append(timed(solve, examples, norm_sq, passes)[1])
        if len(theirs) < rounds:
            theirs.append(timed(oracle.fit, features, labels)[1])
    converged, full = timed(solve, examples, norm_sq, 2000, None)
    return {
        "C": inverse_strength,
        "norm_sq": norm_sq,
        "loss": loss,
        "sklearn_s": statistics.median(theirs),
        "sklearn_iterations": int(fit.n_iter_[0]),
        "ours_s": statistics.median(ours),
        "ours_passes": passes,
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "converged_s": full,
        "converged_loss": float(converged.objective),
        "converged_residual": float(converged.stationarity),
        "converged_status": int(converged.status),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=RESULTS / "cross_entropy.json", type=Path)
    options = parser.parse_args()
    features, labels, name = load(options.data_dir, options.rows)
    command = f"python -m {MODULE} --rows {options.rows} --rounds {options.rounds}"
    command += "" if options.data_dir is None else " --data-dir DATA"
    rows = []
    for inverse_strength in INVERSE_STRENGTHS:
        measured = compare(features, labels, inverse_strength, options.rounds)
        rows.append({"data": name, "shape": [*features.shape, CLASSES], **measured})
        print(json.dumps(rows[-1]), flush=True)
        timing.write_rows(options.out, command, rows)


if __name__ == "__main__":
    main()
