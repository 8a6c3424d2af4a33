r"""Is every convex problem solved? Random problems, each against a bound from SciPy.

    python -m experiments.benchmarks.convex_robustness [--problems 1000] [--seed 0]

The record is written as it grows; the same command goes on where it was stopped. With
`--again` the recorded problems are solved anew, against the bounds recorded: a bound
holds whatever the search, and another one is looked for only where it shows too little.

For the multiplier $\mu$ of our head SciPy minimises $L + \mu (\|W\|^2 - c)$ in
float64. By weak duality that minimum lies below the least loss under the norm, whatever
$\mu \ge 0$ is; our head's loss, computed in float64, lies above it. Where the two are
apart, other multipliers are tried: the bound at a multiplier that is not quite right is
loose.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

import lagrange_jax as lj
from experiments.benchmarks import timing

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
MODULE = "experiments.benchmarks.convex_robustness"
# Examples, features, outputs; one output is binary.
SHAPES = (
    (200, 4, 1),
    (200, 4, 2),
    (100, 30, 2),
    (300, 6, 3),
    (400, 20, 10),
    (500, 8, 30),
    (600, 12, 100),
)
RELATIONS = ("equality", "at_most")
# Loss above the bound, relative, up to which a head is right.
ACCURATE = 1e-5


class Problem(NamedTuple):
    """A random problem; the norm is a multiple of that of strength 1 / N."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    smoothing: float
    norm_sq: float
    relation: str


class Verdict(NamedTuple):
    """How a problem was solved: status, and loss above the bound, relative."""

    status: str
    excess: float
    loss: float
    bound: float
    residual: float
    gap_bound: float
    slope: float


def one_hot(labels: np.ndarray, k: int, smoothing: float) -> np.ndarray:
    if k == 1:
        return ((1 - smoothing) * labels + smoothing / 2)[:, None]
    return (1 - smoothing) * np.eye(k)[labels] + smoothing / k


def log_loss(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses and slopes in float64."""
    if logits.shape[1] == 1:
        losses = np.logaddexp(0, logits) - targets * logits
        return losses[:, 0], expit(logits) - targets
    log_p = log_softmax(logits, axis=1)
    return -(targets * log_p).sum(1), np.exp(log_p) - targets


def minimum(
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    by_logits: Callable[..., Any],
    start: np.ndarray,
    is_free: np.ndarray,
    multiplier: float,
    tolerance: float = 1e-10,
) -> tuple[float, np.ndarray, float]:
    """Returns the least loss plus multiplier times norm, where, and the slope left."""
    d, k = features.shape[1], start.shape[1]
    shares = weights / weights.sum()

    def value(flat):
        head = flat.reshape(d + 1, k)
        losses, slopes = by_logits(features @ head[:-1] + head[-1:], targets)
        slopes = shares[:, None] * slopes
        gradient = np.vstack([features.T @ slopes, is_free * slopes.sum(0)])
        gradient[:-1] += 2 * multiplier * head[:-1]
        penalty = multiplier * (head[:-1] ** 2).sum()
        return shares @ losses + penalty, gradient.ravel()

    options = dict(maxiter=5000, maxfun=8000, gtol=tolerance, ftol=1e-15, maxcor=30)
    found = minimize(value, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    slope = float(np.abs(value(found.x)[1]).max())
    return float(found.fun), found.x.reshape(d + 1, k), slope


def draw(rng: np.random.Generator, shape: tuple[int, int, int], index: int) -> Problem:
    n, d, k = shape
    classes = max(k, 2)
    scales = 10 ** rng.uniform(-0.5, 0.5, d)
    mixing = rng.normal(size=(d, d)) if rng.random() < 0.3 else np.eye(d)
    features = (rng.normal(size=(n, d)) @ mixing * scales).astype(np.float32)
    features += np.float32(rng.choice([0, 3]))
    truth = rng.normal(size=(d, classes)) * rng.choice([0.1, 1, 5]) / scales[:, None]
    labels = (features @ truth + rng.gumbel(size=(n, classes))).argmax(1)
    kind = rng.integers(3)
    weights = np.ones(n)
    if kind == 1:  # classes weighted over five decades
        weights = (10 ** rng.uniform(-5, 0, classes))[labels]
    elif kind == 2:  # balanced
        weights = (n / np.bincount(labels, minlength=classes).clip(1))[labels]
    smoothing = rng.choice([0.0, rng.uniform(0, 0.3)])
    data = features.astype(float) - features.mean(0), one_hot(labels, k, smoothing)
    start = np.zeros((d + 1, k))
    head = minimum(
        *data, weights, log_loss, start, np.ones(k), 1 / (2 * n), tolerance=1e-4
    )[1]
    norm_sq = float((head[:-1] ** 2).sum()) * 10 ** rng.uniform(-3, 3)
    relation = RELATIONS[index % 2]
    return Problem(
        features, labels, weights.astype(np.float32), smoothing, norm_sq, relation
    )


def solve(features, labels, weights, smoothing, norm_sq, num_outputs, relation):
    return lj.solve_convex(
        (features, labels, weights),
        lj.constraints.fixed_norm(norm_sq, per_output=False, relation=relation),
        loss=lj.losses.softmax(label_smoothing=smoothing),
        num_outputs=num_outputs,
    )


def judge(problem: Problem, k: int, bound: float, slope: float) -> Verdict:
    """Solves, and compares with a known bound or what SciPy finds at the multiplier."""
    features, labels, weights, smoothing, norm_sq, relation = problem
    arrays = (features, labels.astype(np.int32), weights)
    numbers = jnp.float32(smoothing), jnp.float32(norm_sq)
    head = solve(*arrays, *numbers, k, relation)
    status = lj.Status(int(head.status)).name
    multiplier = max(float(head.multiplier), 0.0)
    shares = weights.astype(float) / weights.sum(dtype=float)
    mean = shares @ features.astype(float)
    kernel, bias = (np.asarray(x, float) for x in (head.kernel, head.bias))
    targets = one_hot(labels, k, smoothing)
    means = shares @ targets
    is_free = (means > 0) & (means < 1) if k == 1 else means > 0
    centred = features - mean
    centre = bias + mean @ kernel
    loss = float(shares @ log_loss(centred @ kernel + centre, targets)[0])
    given = centred, targets, weights.astype(float), log_loss
    given += np.vstack([kernel, centre]), is_free

    def least_at(multiplier):
        value, head, slope = minimum(*given, multiplier)
        return value, float((head[:-1] ** 2).sum()), slope

    if relative_excess(loss, bound) > ACCURATE:
        found = dual_bound(least_at, multiplier, norm_sq, loss)
        bound, slope = max((bound, slope), found)
    return Verdict(
        status,
        relative_excess(loss, bound),
        loss,
        bound,
        float(head.stationarity),
        float(head.gap_bound),
        slope,
    )


def relative_excess(loss: float, bound: float) -> float:
    return (loss - bound) / max(abs(bound), 1e-3) if np.isfinite(bound) else np.inf


def dual_bound(
    least_at: Callable[[float], tuple[float, float, float]],
    multiplier: float,
    norm_sq: float,
    loss: float,
) -> tuple[float, float]:
    """A lower bound of the least loss, and the slope SciPy left.

    At a multiplier `least_at` returns the least loss plus multiplier times squared
    norm, the squared norm there, and the slope left.

    Where the bound at our multiplier does not show the loss to be right, the best of
    some others is taken, by secants of the norm that each gives.
    """
    best, tried = (-np.inf, np.inf), []
    for _ in range(4):
        value, size, slope = least_at(multiplier)
        value -= multiplier * norm_sq
        best = max(best, (value, slope))
        tried.append((np.log(max(multiplier, 1e-300)), np.log(size / norm_sq)))
        if relative_excess(loss, best[0]) <= ACCURATE or abs(tried[-1][1]) < 1e-4:
            break
        if multiplier == 0:
            if size <= norm_sq:
                break
            multiplier = 1e-4 * loss / norm_sq
            tried.clear()
            continue
        step = tried[-1][1]
        if len(tried) > 1 and tried[-1][1] != tried[-2][1]:
            (a, f), (b, g) = tried[-2:]
            step = np.clip(-g * (b - a) / (g - f), -3, 3)
        multiplier *= float(np.exp(step))
    return best


def is_solved(problem: Problem, verdict: Verdict) -> bool:
    """Whether the least loss was reached, or no convex problem was asked for."""
    if verdict.status == "NOT_GLOBAL":
        return problem.relation == "equality" and problem.norm_sq > 0
    return verdict.status in ("SUCCESS", "INACCURATE") and verdict.excess <= ACCURATE


def kept_rows(path: Path, command: str) -> list[dict[str, Any]]:
    """The rows of the same command that a stopped run left."""
    record = json.loads(path.read_text()) if path.exists() else {}
    return record["rows"] if record.get("command") == command else []


def row_of(
    seed: int, index: int, bound: float = -np.inf, slope: float = np.inf
) -> dict[str, Any]:
    """Draws a problem and returns how it was solved."""
    shape = SHAPES[index % len(SHAPES)]
    problem = draw(np.random.default_rng([seed, index]), shape, index // len(SHAPES))
    verdict = judge(problem, shape[2], bound, slope)
    given = dict(index=index, shape=shape, relation=problem.relation)
    given |= dict(norm_sq=problem.norm_sq, smoothing=float(problem.smoothing))
    return {**given, **verdict._asdict(), "is_solved": is_solved(problem, verdict)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", default=RESULTS / "convex_robustness.json", type=Path)
    options = parser.parse_args()
    command = f"python -m {MODULE} --problems {options.problems} --seed {options.seed}"
    rows = kept_rows(options.out, command)
    indices = range(len(rows)) if options.again else range(len(rows), options.problems)
    for count, index in enumerate(indices, 1):
        names = ("bound", "slope") if options.again else ()
        known = {name: rows[index][name] for name in names}
        rows[index : index + 1] = [row_of(options.seed, index, **known)]
        if not rows[index]["is_solved"]:
            print(json.dumps(rows[index]), flush=True)
        if count % 20 == 0 or count == len(indices):
            timing.write_rows(options.out, command, rows)
    print(f"{sum(row['is_solved'] for row in rows)} of {len(rows)} solved")


if __name__ == "__main__":
    main()
