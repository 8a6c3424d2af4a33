"""Time to scikit-learn's final loss for each loss that it has, in turns.

    python -m experiments.benchmarks.glm [--rows 50000] [--features 200] [--rounds 3]

Processor time of one core in one process. Ours is everything from arrays to head:
statistics, eigendecomposition and search, with as many steps as bring its loss to that
of scikit-learn at the same squared norm; and once more to its own tolerance. The floor
is the product of the features with themselves, which the search is scaled by.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks import timing

if __name__ == "__main__":
    timing.use_one_core()

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import (
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
)
from sklearn.multiclass import OneVsRestClassifier

import lagrange_jax as lj
from lagrange_jax import losses

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
MODULE = "experiments.benchmarks.glm"
# The linear program of a quantile does not end in minutes beyond such sizes.
QUANTILE_SIZE = (2000, 20)
SLACK = 1e-6


class Peer(NamedTuple):
    """A fit of scikit-learn, and its head `[d, k]`, bias and our loss of the same."""

    fit: Callable[[], Any]
    read: Callable[[Any], tuple[np.ndarray, np.ndarray, losses.Loss]]
    features: np.ndarray
    targets: np.ndarray
    num_outputs: int


def linear(fit: Any) -> tuple[np.ndarray, np.ndarray]:
    return fit.coef_.reshape(-1, fit.n_features_in_).T, np.ravel(fit.intercept_)


def many(fit: Any) -> tuple[np.ndarray, np.ndarray]:
    heads = [linear(estimator) for estimator in fit.estimators_]
    return np.hstack([w for w, _ in heads]), np.concatenate([b for _, b in heads])


def as_float(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)


def peers(rows: int, d: int) -> dict[str, Callable[[], Peer]]:
    def draw(n, d, k) -> tuple[np.random.Generator, Any, Any]:
        rng = np.random.default_rng(0)
        scales = np.arange(1, d + 1) ** -0.5
        features = np.float32(rng.normal(size=(n, d)) * scales + 0.3)
        truth = rng.normal(size=(d, k))
        return rng, features, (features - 0.3) @ truth

    def poisson(solver):
        rng, features, z = draw(rows, d, 1)
        counts = as_float(rng.poisson(np.exp(z / 2)))[:, 0]
        make = lambda: PoissonRegressor(alpha=1e-3, solver=solver, max_iter=1000)  # noqa: E731
        fit = lambda: make().fit(features, counts)  # noqa: E731
        return Peer(
            fit, lambda f: (*linear(f), losses.poisson()), features, counts[:, None], 1
        )

    def huber():
        rng, features, z = draw(rows, d, 1)
        target = as_float(z + rng.standard_t(2, size=z.shape))[:, 0]
        make = lambda: HuberRegressor(alpha=1e-4, max_iter=1000)  # noqa: E731
        fit = lambda: make().fit(features, target)  # noqa: E731
        read = lambda f: (*linear(f), losses.huber(f.epsilon * float(f.scale_)))  # noqa: E731
        return Peer(fit, read, features, target[:, None], 1)

    def labels(k):
        rng, features, z = draw(rows, d, k)
        given = as_float(z + rng.logistic(size=z.shape) > 0)
        make = lambda: LogisticRegression(C=1e-2, max_iter=1000)  # noqa: E731
        if k == 1:
            fit = lambda: make().fit(features, given[:, 0])  # noqa: E731
        else:
            fit = lambda: OneVsRestClassifier(make()).fit(features, given)  # noqa: E731
        head = linear if k == 1 else many
        return Peer(fit, lambda f: (*head(f), losses.sigmoid()), features, given, k)

    def classes(k):
        rng, features, z = draw(rows, d, k)
        given = (z + rng.gumbel(size=z.shape)).argmax(1).astype(np.int32)
        make = lambda: LogisticRegression(C=1e-2, max_iter=1000)  # noqa: E731
        fit = lambda: make().fit(features, given)  # noqa: E731
        return Peer(fit, lambda f: (*linear(f), losses.softmax()), features, given, k)

    def quantile():
        rng, features, z = draw(*QUANTILE_SIZE, 1)
        target = as_float(z + rng.standard_t(2, size=z.shape))[:, 0]
        make = lambda: QuantileRegressor(quantile=0.2, alpha=0.0)  # noqa: E731
        fit = lambda: make().fit(features, target)  # noqa: E731
        loss = losses.quantile(0.2, smoothing=0.05)
        return Peer(fit, lambda f: (*linear(f), loss), features, target[:, None], 1)

    return {
        "poisson, lbfgs": lambda: poisson("lbfgs"),
        "poisson, newton-cholesky": lambda: poisson("newton-cholesky"),
        "huber": huber,
        "sigmoid, one label": lambda: labels(1),
        "sigmoid, ten labels": lambda: labels(10),
        "softmax, ten classes": lambda: classes(10),
        "quantile": quantile,
    }


def pinball(z: np.ndarray, t: np.ndarray) -> float:
    r = z - t
    return float((np.maximum(r, 0) - 0.2 * r).mean())


def loss_of(loss: losses.Loss, peer: Peer, kernel, bias) -> float:
    """The mean loss of a head in float32 logits; of a quantile without smoothing."""
    logits = peer.features @ np.float32(kernel) + np.float32(bias)
    if loss.kind.name == "quantile":
        return pinball(logits, peer.targets)
    targets = loss.kind.read(
        loss.parameters, jnp.asarray(peer.targets), peer.num_outputs, jnp.float32
    )
    values = loss.kind.value(loss.parameters, jnp.asarray(logits), targets.values)
    return float(np.asarray(values, float).mean())


def compare(name: str, peer: Peer, rounds: int) -> dict[str, Any]:
    fit = peer.fit()
    kernel, bias, loss = peer.read(fit)
    # The linear program has no penalty; its smoothed loss is another one.
    is_smoothed = loss.kind.name == "quantile"
    norm_sq = float(np.sum(np.float64(kernel) ** 2)) * (10 if is_smoothed else 1)
    theirs = loss_of(loss, peer, kernel, bias)
    examples = jnp.asarray(peer.features), jnp.asarray(peer.targets)
    norm = lj.constraints.fixed_norm(norm_sq, per_output=False, relation="at_most")

    def solve(steps: int, tolerance: Any):
        search = lj.solvers.SearchOptions(tolerance=tolerance, max_steps=steps)
        return jax.block_until_ready(
            lj.solve_convex(
                examples,
                norm,
                loss=loss,
                num_outputs=peer.num_outputs,
                search=search,
            )
        )

    def reaches(steps: int) -> bool:
        head = solve(steps, 0.0)
        return loss_of(loss, peer, head.kernel, head.bias) <= theirs * (1 + SLACK)

    steps = 2000
    if not is_smoothed:
        steps = next((s for s in range(1, 100) if reaches(s)), 2000)
    product = jax.jit(lambda x: jnp.dot(x.T, x))
    ways = {
        "product": lambda: jax.block_until_ready(product(examples[0])),
        "sklearn": peer.fit,
        "ours": lambda: solve(steps, None if is_smoothed else 0.0),
        "converged": lambda: solve(2000, None),
    }
    times, head = timing.measure(ways, rounds), solve(2000, None)
    pairs = zip(times["sklearn"], times["ours"], strict=True)
    ratios = sorted(a / b for a, b in pairs)
    return {
        "loss": name,
        "shape": [*peer.features.shape, peer.num_outputs],
        "norm_sq": norm_sq,
        "product_s": statistics.median(times["product"]),
        "sklearn_s": statistics.median(times["sklearn"]),
        "ours_s": statistics.median(times["ours"]),
        "ours_steps": steps,
        "converged_s": statistics.median(times["converged"]),
        "ratio": statistics.median(ratios),
        "lowest_and_highest_ratio": [ratios[0], ratios[-1]],
        "sklearn_loss": theirs,
        "converged_loss": loss_of(loss, peer, head.kernel, head.bias),
        "converged_status": lj.Status(int(head.status)).name,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only")
    parser.add_argument("--out", default=RESULTS / "glm.json", type=Path)
    options = parser.parse_args()
    size = f"--rows {options.rows} --features {options.features}"
    command = f"python -m {MODULE} {size} --rounds {options.rounds}"
    record = json.loads(options.out.read_text()) if options.out.exists() else {}
    rows = record["rows"] if record.get("command") == command else []
    for name, make in peers(options.rows, options.features).items():
        if options.only in (None, name):
            rows = [row for row in rows if row["loss"] != name]
            rows.append(compare(name, make(), options.rounds))
            print(json.dumps(rows[-1]), flush=True)
            timing.write_rows(options.out, command, rows)


if __name__ == "__main__":
    main()
