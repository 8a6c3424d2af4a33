"""Is the norm of standardised features the better one for cross-entropy?

    python -m experiments.benchmarks.standardised_norm [--folds 5]

Raw columns, and columns that were standardised by hand, of three data sets. On each
outer fold the norm is cross-validated on the rest, in either metric, and the head is
judged on the fold. Times are medians of solves at the chosen norms, in turn, in one
process.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

import lagrange_jax as lj
from experiments.common.environment import environment

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
DATA: dict[str, Any] = {
    "digits": load_digits,
    "breast_cancer": load_breast_cancer,
    "wine": load_wine,
}
METRICS: tuple[Any, ...] = ("euclidean", "feature_variance")
NUM_TIMES = 5


@functools.partial(jax.jit, static_argnames=("metric", "k"))
def choose(key, features, labels, metric, k):
    constraint = lj.constraints.cross_validated_norm(metric=metric)
    return lj.solve_convex((features, labels), constraint, key=key, num_outputs=k)


@functools.partial(jax.jit, static_argnames=("metric", "k"))
def solve(features, labels, norm_sq, metric, k):
    constraint = lj.constraints.fixed_norm(norm_sq, per_output=False, metric=metric)
    return lj.solve_convex((features, labels), constraint, num_outputs=k)


def judge(head, features, labels):
    """Returns log loss and accuracy on unseen examples, in float64."""
    kernel, bias = np.asarray(head.kernel, float), np.asarray(head.bias, float)
    logits = features @ kernel + bias
    top = logits.max(1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    right = logits.argmax(1) == labels
    return -log_p[np.arange(len(labels)), labels].mean(), right.mean()


def seconds(call):
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def rows_of(name, form, num_folds):
    """Yields one row a fold and a metric."""
    features, labels = DATA[name](return_X_y=True)
    features = features[:, features.std(0) > 0]
    if form == "standardised":
        features = (features - features.mean(0)) / features.std(0)
    k = int(labels.max()) + 1
    order = np.random.default_rng(0).permutation(len(labels))
    size = len(labels) // num_folds
    for fold in range(num_folds):
        unseen = order[fold * size : (fold + 1) * size]
        seen = np.setdiff1d(order[: num_folds * size], unseen)
        x, t = np.float32(features[seen]), np.int32(labels[seen])
        heads, times = {}, {metric: [] for metric in METRICS}
        for metric in METRICS:
            heads[metric] = choose(jax.random.key(fold), x, t, metric, k)
        for turn in range(NUM_TIMES + 1):
            for metric in METRICS:
                call = functools.partial(solve, x, t, heads[metric].norm_sq, metric, k)
                took = seconds(call)
                if turn:  # the first one compiles
                    times[metric].append(took)
        for metric, head in heads.items():
            loss, accuracy = judge(head, features[unseen], labels[unseen])
            yield dict(
                data=name,
                columns=form,
                fold=fold,
                metric=metric,
                status=lj.Status(int(head.status)).name,
                log_loss=loss,
                accuracy=accuracy,
                norm_sq=float(head.norm_sq),
                seconds=float(np.median(times[metric])),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--data", nargs="*", default=list(DATA))
    parser.add_argument("--out", default=RESULTS / "standardised_norm.json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.data:
        for form in ("raw", "standardised"):
            rows += rows_of(name, form, options.folds)
            for metric in METRICS:
                own = [
                    row
                    for row in rows
                    if (row["data"], row["columns"], row["metric"])
                    == (name, form, metric)
                ]
                mean = {
                    key: np.mean([row[key] for row in own])
                    for key in ("log_loss", "accuracy", "seconds")
                }
                print(name, form, metric, mean, {row["status"] for row in own})
            record = dict(folds=options.folds, environment=environment(), rows=rows)
            options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
