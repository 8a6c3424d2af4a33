r"""Is every loss solved? Random problems of each, against a bound from SciPy.

    python -m experiments.benchmarks.loss_robustness [--loss poisson] [--problems 500]

Problems of equal shape are solved together, by `vmap`. For the multiplier $\mu$ of a
head SciPy minimises $L + \mu (\|W\|^2 - c)$ in float64, by formulas of its own. By weak
duality that minimum lies below the least loss under the norm, whatever $\mu \ge 0$ is;
the loss of the head, computed in float64, lies above it. A Gaussian likelihood is not
convex: there SciPy, starting at the head, has to find nothing better near it.
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
from lagrange_jax import losses

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
MODULE = "experiments.benchmarks.loss_robustness"
# Examples and features: many examples, and hardly more than features.
SHAPES = ((150, 5), (60, 30))
RELATIONS = ("equality", "at_most")
CLASS_WEIGHTS = (1.0, 0.1, 3.0)
POSITIVES = (1.0, 20.0, 0.5)
THRESHOLDS = np.array([-1.0, 0.2, 1.5])
TOLERANCE = 1e-5

ByLogits = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Case(NamedTuple):
    """A loss, its outputs, how targets are drawn, and it in float64."""

    loss: losses.Loss
    num_outputs: int
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    by_logits: ByLogits


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
    "ordinal, joint": Case(losses.ordinal(num_classes=4), 1, ordered, cumulative),
    "from_function, log_cosh": Case(
        losses.from_function(optax.losses.log_cosh), 2, noisy, log_cosh
    ),
    "gaussian": Case(losses.gaussian(), 4, spread, gaussian),
}


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
        return loss, np.concatenate([gradient.ravel(), slopes.sum(0)])

    return value


def least(value, start) -> tuple[float, np.ndarray]:
    options = dict(maxiter=5000, maxfun=8000, gtol=1e-10, ftol=1e-15, maxcor=30)
    found = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    return float(found.fun), found.x


def judge(case: Case, problem: Problem, head: Any, relation: str) -> dict[str, Any]:
    """Compares a head with what SciPy finds at the same multiplier."""
    kernel, bias = (np.asarray(x, float) for x in (head.kernel, head.bias))
    mean = np.average(problem.features.astype(float), 0, problem.weights.astype(float))
    flat = np.concatenate([kernel.ravel(), bias + mean @ kernel])
    norm_sq, price = float(problem.norm_sq), max(float(head.multiplier), 0.0)
    status = lj.Status(int(head.status)).name
    loss = lagrangian(case, problem, len(bias), 0.0)(flat)[0]
    bound, x = least(lagrangian(case, problem, len(bias), price), flat)
    bound -= price * (norm_sq if price > 0 else 0.0)
    excess = (loss - bound) / max(abs(bound), 1e-2)
    size = float(np.sum(x[: kernel.size] ** 2))
    wanted = "STATIONARY" if case.loss.kind.convexity == "none" else "SUCCESS"
    is_solved = status == wanted and excess <= TOLERANCE
    if status == "NOT_GLOBAL":  # right, if the equality asks for more than the optimum
        is_solved = relation == "equality" and size <= norm_sq * (1 + 1e-3)
    return dict(
        relation=relation,
        status=status,
        excess=excess,
        loss=loss,
        norm_sq=norm_sq,
        multiplier=float(head.multiplier),
        residual=float(head.stationarity),
        is_solved=bool(is_solved),
    )


def run(name: str, num_problems: int, seed: int) -> list[dict[str, Any]]:
    """Rows of one loss: as many problems of each shape and relation."""
    case, rows = CASES[name], []
    kinds = [(shape, relation) for shape in SHAPES for relation in RELATIONS]
    for number, (shape, relation) in enumerate(kinds):
        count = num_problems // len(kinds) + (number < num_problems % len(kinds))
        draws = [
            draw(np.random.default_rng([seed, number, i]), case, shape)
            for i in range(count)
        ]
        together = jax.tree.map(lambda *x: jnp.stack(x), *draws)
        heads = solve(together, case.loss, case.num_outputs, relation)
        for i, problem in enumerate(draws):
            head = jax.tree.map(lambda x: np.asarray(x[i]), heads)  # noqa: B023
            verdict = judge(case, problem, head, relation)
            rows.append(dict(name=name, shape=shape, index=i, **verdict))
            if not verdict["is_solved"]:
                print(json.dumps(rows[-1]), flush=True)
    print(f"{name}: {sum(row['is_solved'] for row in rows)} of {len(rows)}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss", choices=CASES)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=RESULTS / "loss_robustness.json", type=Path)
    options = parser.parse_args()
    command = f"python -m {MODULE} --problems {options.problems} --seed {options.seed}"
    record = json.loads(options.out.read_text()) if options.out.exists() else {}
    rows = record["rows"] if record.get("command") == command else []
    for name in CASES if options.loss is None else [options.loss]:
        rows = [row for row in rows if row["name"] != name]
        rows += run(name, options.problems, options.seed)
        timing.write_rows(options.out, command, rows)


if __name__ == "__main__":
    main()
