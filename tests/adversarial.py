"""Least-squares heads where rounding hurts, and how far from optimal each really is.

`python -m tests.adversarial --out FILE` solves 5,000 of them and records, for each
configuration, the largest ratio of true gap and bound and the statuses. The record is
written as it grows; the same command goes on where it was stopped.
"""

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lagrange_jax as lj
from tests import oracles

__all__ = ["CONFIGURATIONS", "Configuration", "make", "measure"]

SHAPES = {"eigh": (14, 6, 2), "few_rows": (5, 8, 2), "gram": (5, 8, 2)}


class Configuration(NamedTuple):
    route: str
    metric: Any
    relation: Any
    per_output: bool
    dtype: Any


CONFIGURATIONS = [
    Configuration(*options)
    for options in itertools.product(
        SHAPES,
        ("euclidean", "output_variance"),
        ("equality", "at_most"),
        (True, False),
        (np.float32, np.float64),
    )
]


def _features(rng, n, d):
    """Kinds of features, and weights, that hurt."""
    x, weights = rng.normal(size=(n, d)), np.ones(n)
    kind = rng.choice(["plain", "graded", "twins", "dead", "one_hot", "outlier", "far",
                       "condition", "scaled", "nearly_dead"])  # fmt: skip
    if kind == "graded":
        x = x * 10 ** rng.uniform(-4, 4, d)
    elif kind == "twins":
        x[:, 1] = 10 ** rng.uniform(-3, 3) * x[:, 0]
    elif kind == "dead":
        x[:, : d // 2] = rng.choice([0.0, 7.0])
    elif kind == "one_hot":
        x = np.eye(d)[np.arange(n) % d]
    elif kind == "outlier":
        x[0], weights[0] = 10 ** rng.uniform(3, 7), 10 ** rng.uniform(-7, 0)
    elif kind == "far":
        x = x + 10 ** rng.uniform(1, 4)
    elif kind == "condition":
        left, _, right = np.linalg.svd(x - x.mean(0), full_matrices=False)
        x = left * np.geomspace(10 ** rng.uniform(-8, 0), 1, len(right)) @ right
    elif kind == "scaled":
        x = x * 10 ** rng.uniform(-8, 8)
    elif kind == "nearly_dead":
        x[:, 0] *= 10 ** rng.uniform(-8, -2)
    if rng.random() < 0.3:
        weights = weights * (rng.random(n) < 0.8)
        weights[:3] = np.maximum(weights[:3], 0.1)
    return x, weights


def _targets(rng, x, k):
    truth = rng.normal(size=(x.shape[1], k)) / np.maximum(x.std(0), 1e-30)[:, None]
    truth = np.where(x.std(0)[:, None] > 0, truth, 0)
    if rng.random() < 0.5:
        truth = truth * 10 ** rng.uniform(-3, 0, truth.shape)
    t = x @ truth + rng.choice([0, 1e-3, 0.5, 30]) * rng.normal(size=(len(x), k))
    t = t * 10 ** rng.uniform(-3, 3) + rng.choice([0, 100.0])
    if rng.random() < 0.1:
        t[:, 0] = 3.0
    return t


def make(seed, configuration):
    """One problem: features, targets, weights, wanted norm, all of the dtype."""
    rng = np.random.default_rng([seed, *map(ord, configuration.route)])
    n, d, k = SHAPES[configuration.route]
    x, weights = _features(rng, n, d)
    t = _targets(rng, x, k)
    x, t, weights = (a.astype(configuration.dtype) for a in (x, t, weights))
    share = weights.astype(float) / weights.sum()
    centred = (x - share @ x.astype(float)) * np.sqrt(share)[:, None]
    wanted = (t - share @ t.astype(float)) * np.sqrt(share)[:, None]
    scale = np.sqrt((centred**2).sum(0))
    scale = np.where(scale > 0, scale, 1)
    free = np.linalg.lstsq(centred / scale, wanted, rcond=1e-10)[0] / scale[:, None]
    size = (free**2).sum(0)
    if configuration.metric == "output_variance":
        mean = (centred**2).sum() / d
        size = ((centred @ free) ** 2).sum(0) / (mean if mean > 0 else 1)
    size = np.where(size > 0, size, 1) * 10 ** rng.uniform(-3, 3)
    norm = size if configuration.per_output else size.sum()
    return x, t, weights, np.clip(norm, 1e-30, 1e30).astype(configuration.dtype)


def solve(configuration: Configuration):
    """Returns the function that solves a batch of problems of one configuration."""
    route, metric, relation, per_output, _ = configuration

    @jax.jit
    @jax.vmap
    def run(features, targets, weights, norm_sq):
        if route == "gram":
            spectrum = lj.statistics.decompose_gram(features, targets, weights)
        else:
            spectrum = lj.decompose(lj.compute_moments(features, targets, weights))
        bound = lj.constraints.fixed_norm(
            norm_sq, per_output=per_output, relation=relation, metric=metric
        )
        return lj.solve_least_squares(spectrum, bound)

    return run


def true_gap(configuration, x, t, weights, norm_sq, kernel):
    """Loss above the global minimum, and variance and loss, in extended precision."""
    found = oracles.moments(x, t, weights)
    total = lambda v: v if configuration.per_output else v.sum(-1)  # noqa: E731
    quadratic = oracles.diagonalise(found.cov_xx, found.cov_xt, sweeps=8)
    s = np.maximum(quadratic.eigenvalues, 0)[..., None]
    p, kernel = quadratic.projections, np.asarray(kernel, oracles.LONG)
    y = np.swapaxes(quadratic.eigenvectors, -1, -2) @ kernel
    loss = found.var_t + ((s * y - 2 * p) * y).sum(-2)
    unit = np.maximum(total(found.var_t), total(loss))
    norm_sq = np.asarray(norm_sq, oracles.LONG)
    if configuration.metric == "euclidean":
        if configuration.relation == "equality":
            gap = oracles.optimality_gap(quadratic, kernel, configuration.per_output)
        else:
            gap = _gap_in_ball(s, p, y, norm_sq, configuration.per_output)
        return gap, unit
    mean = np.trace(found.cov_xx, axis1=-2, axis2=-1) / x.shape[-1]
    mean = mean[..., None] if configuration.per_output else mean
    # So many rows with weight span one dimension less; the rest of s is rounding.
    rank = (np.asarray(weights) > 0).sum(-1)[..., None, None] - 1
    is_spanned = s.shape[-2] - np.arange(s.shape[-2])[:, None] <= rank
    s = np.where(is_spanned, s, 0)
    explained = total(np.where(s > 0, p**2 / np.where(s > 0, s, 1), 0).sum(-2))
    reached = total((s * y**2).sum(-2))
    limit = np.minimum(norm_sq * mean, explained)
    limit = reached if configuration.relation == "equality" else limit
    best = total(found.var_t) - 2 * np.sqrt(explained * limit) + limit
    return total(loss) - best, unit


def _gap_in_ball(s, p, y, norm_sq, per_output):
    axes = -2 if per_output else (-2, -1)
    total = lambda values: values.sum(axes, keepdims=True)  # noqa: E731
    wanted = norm_sq[..., None, :] if per_output else norm_sq[..., None, None]
    high = np.log(np.sqrt(total(p**2) / wanted) + oracles.LONG(1e-300))
    low = high - 100
    for _ in range(110):
        middle = (low + high) / 2
        too_long = total((p / (s + np.exp(middle))) ** 2) > wanted
        low, high = np.where(too_long, middle, low), np.where(too_long, high, middle)
    price = np.exp(high)
    gap = total((s + price) * (y - p / (s + price)) ** 2)
    gap = gap + price * (wanted - total(y**2))
    return gap[..., 0, :] if per_output else gap[..., 0, 0]


def measure(configuration: Configuration, seeds) -> dict[str, np.ndarray]:
    """Solves the problems of these seeds; one row a problem and sphere."""
    problems = [make(seed, configuration) for seed in seeds]
    batch = [np.stack(parts) for parts in zip(*problems, strict=True)]
    with jax.enable_x64(configuration.dtype == np.float64):
        run: Any = solve(configuration)
        solution = run(*map(jnp.asarray, batch))
        solution = jax.tree.map(np.asarray, solution)
    x, t, weights, norm_sq = batch
    gap, unit = true_gap(configuration, x, t, weights, norm_sq, solution.kernel)
    bound = solution.gap_bound
    if configuration.per_output:  # the bound of all outputs together counts
        gap, unit, bound = gap.sum(-1), unit.sum(-1), bound.sum(-1)
    # Extended precision itself.
    gap = gap - 1e-17 * unit
    return dict(gap=gap, bound=bound, unit=unit, status=solution.status)


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    each = -(-arguments.count // len(CONFIGURATIONS))
    record: dict[str, Any] = dict(
        command=f"python -m tests.adversarial --count {arguments.count}",
        configurations=[],
    )
    if arguments.out and arguments.out.exists():
        old = json.loads(arguments.out.read_text())
        record = old if old["command"] == record["command"] else record
    rows = record["configurations"]
    for configuration in CONFIGURATIONS[len(rows) :]:
        found = measure(configuration, range(each))
        solved = np.isin(found["status"], [lj.Status.SUCCESS, lj.Status.INACCURATE])
        is_bound = found["gap"] <= found["bound"]
        right = found["status"] == lj.Status.SUCCESS
        rows.append(
            {
                **configuration._asdict(),
                "dtype": np.dtype(configuration.dtype).name,
                "solves": int(each),
                "not_bounded": int((solved & ~is_bound).sum()),
                "success_beyond_a_percent": int(
                    (right & (found["gap"] > 1e-2 * found["unit"])).sum()
                ),
                "largest_gap_over_bound": float(
                    np.max(np.where(solved, found["gap"] / found["bound"], 0))
                ),
                "statuses": {
                    lj.Status(code).name: count
                    for code, count in Counter(found["status"].tolist()).items()
                },
            }
        )
        print(rows[-1], flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
