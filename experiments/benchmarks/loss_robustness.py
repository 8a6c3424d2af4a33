r"""Is every loss solved? Random problems of each, against a bound from SciPy.

    python -m experiments.benchmarks.loss_robustness [--loss poisson] [--problems 500]

A few problems of equal shape are solved together, by `vmap`, one loss after the other
in turns; the same command goes on where it was stopped. For the multiplier $\mu$ of a
head SciPy minimises $L + \mu (\|W\|^2 - c)$ in float64, by formulas of its own. By weak
duality that minimum lies below the least loss under the norm, whatever $\mu \ge 0$ is;
the loss of the head, computed in float64, lies above it. Where the two are apart, other
multipliers are tried. A Gaussian likelihood is not convex: there SciPy, starting at the
head, has to find nothing better near it.
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import minimize
from scipy.special import expit, xlogy

import lagrange_jax as lj
from experiments.benchmarks import timing
from experiments.benchmarks.convex_robustness import (
    ACCURATE,
    dual_bound,
    kept_rows,
    relative_excess,
)
from lagrange_jax import losses

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
MODULE = "experiments.benchmarks.loss_robustness"
# Examples and features: many examples, and hardly more than features.
SHAPES = ((150, 5), (60, 30))
RELATIONS = ("equality", "at_most")
KINDS = [(shape, relation) for shape in SHAPES for relation in RELATIONS]
# Problems of one call: it takes as long as the one with the most steps.
CHUNK = 25
CLASS_WEIGHTS = (1.0, 0.1, 3.0)
POSITIVES = (1.0, 20.0, 0.5)
THRESHOLDS = np.array([-1.0, 0.2, 1.5])

ByLogits = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Case(NamedTuple):
    """A loss, its outputs, how targets are drawn, it in float64, its free biases."""

    loss: losses.Loss
    num_outputs: int
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    by_logits: ByLogits
    is_free: Callable[[np.ndarray], Any] = lambda targets: 1.0


def sigmoid(z, t, weight: Any = 1.0, positive: Any = 1.0):
    weight, positive = np.asarray(weight), np.asarray(positive)
    value = weight * (positive * t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z))
    slope = weight * ((1 - t) * expit(z) - positive * t * expit(-z))
    return value.sum(1), slope


def poisson(z, t):
    return (np.exp(z) - t - t * z + xlogy(t, t)).sum(1), np.exp(z) - t


def huber(z, t, delta=0.7):
    r = z - t
    inner = np.clip(r, -delta, delta)
    return (inner**2 / 2 + delta * (np.abs(r) - np.abs(inner))).sum(1), inner


def pinball(z, t, level=0.2, h=0.05):
    r = z - t
    return (h * np.logaddexp(0, r / h) - level * r).sum(1), expit(r / h) - level


def log_cosh(z, t):
    r = z - t
    return (np.logaddexp(r, -r) - np.log(2)).sum(1), np.tanh(r)


def cumulative(z, t):
    """Of logits less thresholds, `[n, m - 1]`; infinite unless they ascend."""
    n, t = len(z), t[:, 0].astype(int)
    edges = np.hstack([np.full((n, 1), -np.inf), -z, np.full((n, 1), np.inf)])
    rows = np.arange(n)
    above, below = edges[rows, t + 1], edges[rows, t]
    both = np.isfinite(above) & np.isfinite(below)
    width = np.where(both, above - below, 1.0)
    if (width <= 0).any():
        return np.full(n, np.inf), np.zeros_like(z)
    inside = np.where(both, np.log(-np.expm1(-width)), 0)
    push = np.where(both, 1 / np.expm1(np.minimum(width, 700)), 0)
    slopes = np.zeros((n, z.shape[1] + 2))
    slopes[rows, t + 1] += expit(-above) + push
    slopes[rows, t] -= expit(below) + push
    value = np.logaddexp(0, -above) + np.logaddexp(0, below) - inside
    return value, slopes[:, 1:-1]


def given_thresholds(z, t):
    value, slopes = cumulative(z - THRESHOLDS, t)
    return value, slopes.sum(1, keepdims=True)


def occur_next_to(t):
    """Thresholds between classes that both occur: others have no finite optimum."""
    occurs = np.bincount(t[:, 0].astype(int), minlength=len(THRESHOLDS) + 1) > 0
    return occurs[:-1] & occurs[1:]


def gaussian(z, t):
    mean, log_variance = np.split(z, 2, axis=1)
    r, precision = t - mean, np.exp(-log_variance)
    value = (log_variance + r**2 * precision) / 2
    return value.sum(1), np.hstack([-r * precision, (1 - r**2 * precision) / 2])


def noisy(rng, z):
    return z + rng.standard_t(2, size=z.shape)


def labels(rng, z):
    return (rng.random(z.shape) < expit(z)).astype(float)


def counts(rng, z):
    return rng.poisson(np.exp(np.clip(z, -20, 6))).astype(float)


def ordered(rng, z):
    return np.searchsorted(THRESHOLDS, z + rng.logistic(size=z.shape)).astype(float)


def spread(rng, z):
    mean, log_variance = np.split(z, 2, axis=1)
    return mean + np.exp(log_variance / 4) * rng.normal(size=mean.shape)


CASES = {
    "sigmoid": Case(losses.sigmoid(), 3, labels, sigmoid),
    "sigmoid, weighted": Case(
        losses.sigmoid(class_weights=CLASS_WEIGHTS, positive_weights=POSITIVES),
        3,
        labels,
        functools.partial(sigmoid, weight=CLASS_WEIGHTS, positive=POSITIVES),
    ),
    "poisson": Case(losses.poisson(), 2, counts, poisson),
    "huber": Case(losses.huber(0.7), 2, noisy, huber),
    "quantile": Case(losses.quantile(0.2, smoothing=0.05), 2, noisy, pinball),
    "ordinal": Case(losses.ordinal(THRESHOLDS), 1, ordered, given_thresholds),
    "ordinal, joint": Case(
        losses.ordinal(num_classes=4), 1, ordered, cumulative, occur_next_to
    ),
    "from_function, log_cosh": Case(
        losses.from_function(optax.losses.log_cosh), 2, noisy, log_cosh
    ),
    "gaussian": Case(losses.gaussian(), 4, spread, gaussian),
}


class Part(NamedTuple):
    """Problems of a kind that are solved in one call."""

    shape: tuple[int, int]
    relation: str
    indices: range


class Problem(NamedTuple):
    """A random problem; what the solver is given is of float32."""

    features: np.ndarray
    offset: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    norm_sq: np.ndarray


def draw(rng: np.random.Generator, case: Case, shape: tuple[int, int]) -> Problem:
    n, d = shape
    scales = 10 ** rng.uniform(-0.5, 0.5, d)
    mixing = rng.normal(size=(d, d)) if rng.random() < 0.3 else np.eye(d)
    features = (rng.normal(size=(n, d)) @ mixing * scales).astype(np.float32)
    features += np.float32(rng.choice([0, 3]))
    truth = rng.normal(size=(d, case.num_outputs)) / scales[:, None] / np.sqrt(d)
    truth *= rng.choice([0.1, 1, 3])
    offset = rng.choice([0, 0.5]) * rng.normal(size=(n, case.num_outputs))
    targets = case.draw(rng, (features - features.mean(0)) @ truth + offset)
    weights = np.ones(n) if rng.random() < 0.5 else 10 ** rng.uniform(-2, 0, n)
    norm_sq = np.sum(truth**2) * 10 ** rng.uniform(-3, 1)
    found = Problem(features, offset, targets, weights, norm_sq)
    return Problem(*(np.asarray(x, np.float32) for x in found))


@functools.partial(jax.jit, static_argnames=("num_outputs", "relation"))
def solve(problems: Problem, loss, num_outputs, relation):
    """Heads of problems of one shape."""

    def one(problem):
        features, offset, targets, weights, norm_sq = problem
        norm = lj.constraints.fixed_norm(norm_sq, per_output=False, relation=relation)
        examples = (features, offset), targets, weights
        return lj.solve_convex(examples, norm, loss=loss, num_outputs=num_outputs)

    return jax.vmap(one)(problems)


def lagrangian(case: Case, problem: Problem, num_biases: int, price: float):
    """The loss plus price times squared norm, and its gradient, in float64."""
    features, offset, targets, weights, _ = (np.asarray(x, float) for x in problem)
    features = features - np.average(features, 0, weights)
    shares, (_, d) = weights / weights.sum(), features.shape

    def value(flat):
        kernel = flat[:-num_biases].reshape(d, case.num_outputs)
        logits = features @ kernel + offset + flat[-num_biases:]
        values, slopes = case.by_logits(logits, targets)
        slopes = shares[:, None] * slopes
        pull = slopes
        if slopes.shape[1] != case.num_outputs:
            pull = slopes.sum(1, keepdims=True)
        gradient = features.T @ pull + 2 * price * kernel
        loss = shares @ values + price * np.sum(kernel**2)
        of_bias = case.is_free(targets) * slopes.sum(0)
        return loss, np.concatenate([gradient.ravel(), of_bias])

    return value


def least_at(case: Case, problem: Problem, start: np.ndarray, num_biases: int):
    """What `dual_bound` asks of a problem, and where that is."""

    def find(price: float) -> tuple[float, float, float]:
        value = lagrangian(case, problem, num_biases, price)
        options = dict(maxiter=5000, maxfun=8000, gtol=1e-10, ftol=1e-15, maxcor=30)
        found = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
        size = float(np.sum(found.x[:-num_biases] ** 2))
        return float(found.fun), size, float(np.abs(value(found.x)[1]).max())

    return find


def judge(case: Case, problem: Problem, head: Any, relation: str) -> dict[str, Any]:
    """Compares a head with what SciPy finds at the same multiplier, or near it."""
    kernel, bias = (np.asarray(x, float) for x in (head.kernel, head.bias))
    mean = np.average(problem.features.astype(float), 0, problem.weights.astype(float))
    flat = np.concatenate([kernel.ravel(), bias + mean @ kernel])
    norm_sq, price = float(problem.norm_sq), max(float(head.multiplier), 0.0)
    status = lj.Status(int(head.status)).name
    loss = lagrangian(case, problem, len(bias), 0.0)(flat)[0]
    is_convex = case.loss.kind.convexity != "none"
    find = least_at(case, problem, flat, len(bias))
    if status == "NOT_GLOBAL":  # right, if the equality asks for more than the optimum
        far = np.concatenate([0 * kernel.ravel(), np.clip(bias, -10, 10)])
        bound, size, slope = least_at(case, problem, far, len(bias))(0.0)
        is_solved = relation == "equality" and size <= norm_sq * (1 + 1e-3)
    elif is_convex:
        bound, slope = dual_bound(find, price, norm_sq, loss)
        is_solved = status == "SUCCESS" and relative_excess(loss, bound) <= ACCURATE
    else:
        bound, _, slope = find(price)
        bound -= price * norm_sq if price > 0 else 0.0
        is_solved = status == "STATIONARY" and relative_excess(loss, bound) <= ACCURATE
    numbers = dict(
        excess=relative_excess(loss, bound),
        loss=loss,
        bound=bound,
        slope=slope,
        norm_sq=norm_sq,
        multiplier=float(head.multiplier),
        residual=float(head.stationarity),
    )
    # Thousands of rows: no more digits than tell them apart.
    short = {name: float(f"{number:.7g}") for name, number in numbers.items()}
    return dict(status=status, **short, is_solved=bool(is_solved))


def solve_chunk(name: str, part: Part, seed: int) -> list[dict[str, Any]]:
    """Rows of the problems of one loss that are solved in one call."""
    case, number = CASES[name], KINDS.index(part[:2])
    draws = [
        draw(np.random.default_rng([seed, number, i]), case, part.shape)
        for i in part.indices
    ]
    together = jax.tree.map(lambda *x: jnp.stack(x), *draws)
    heads = solve(together, case.loss, case.num_outputs, part.relation)
    rows = []
    for place, (index, problem) in enumerate(zip(part.indices, draws, strict=True)):
        head = jax.tree.map(lambda x: np.asarray(x[place]), heads)  # noqa: B023
        given = dict(name=name, shape=part.shape, relation=part.relation, index=index)
        rows.append({**given, **judge(case, problem, head, part.relation)})
    return rows


def parts_of(num_problems: int) -> list[Part]:
    """The calls for so many problems of a loss, every kind in its turn."""
    each = num_problems // len(KINDS)
    starts = range(0, each, CHUNK)
    return [
        Part(*kind, range(start, min(start + CHUNK, each)))
        for start in starts
        for kind in KINDS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss", choices=CASES, action="append")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=RESULTS / "loss_robustness.json", type=Path)
    options = parser.parse_args()
    command = f"python -m {MODULE} --problems {options.problems} --seed {options.seed}"
    rows = kept_rows(options.out, command)
    done = {(r["name"], *r["shape"], r["relation"], r["index"]) for r in rows}
    names = options.loss or list(CASES)
    for part in parts_of(options.problems):
        for name in names:
            if (name, *part.shape, part.relation, part.indices[-1]) in done:
                continue
            found = solve_chunk(name, part, options.seed)
            rows += found
            for row in found:
                if not row["is_solved"]:
                    print(json.dumps(row), flush=True)
            timing.write_rows(options.out, command, rows)
    for name in names:
        solved = [row["is_solved"] for row in rows if row["name"] == name]
        print(f"{name}: {sum(solved)} of {len(solved)}")


if __name__ == "__main__":
    main()
