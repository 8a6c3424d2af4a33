"""Least-squares problems of every kind that has hurt a solver, from fixed seeds.

A problem is features, targets and a 0/1 mask of rows, all of one shape whatever the
family, so that many of them can be stacked and solved in one call.
"""

from typing import NamedTuple

import numpy as np

__all__ = [
    "FAMILIES",
    "NEAR_HARD",
    "Problem",
    "free_directions",
    "make",
    "stack",
]

NEAR_HARD = {f"near_hard_1e-{i}": 10.0**-i for i in (3, 4, 5, 6, 7, 9, 12)}
FAMILIES = (
    "gaussian",
    "hard",
    *NEAR_HARD,
    "condition_1e4",
    "condition_1e8",
    "rank_deficient",
    "duplicated",
    "dead_and_constant",
    "few_rows",
    "one_hot",
    "mean_100_sigma",
)


class Problem(NamedTuple):
    features: np.ndarray
    targets: np.ndarray
    mask: np.ndarray


def make(family, seed=0, n=160, d=16, k=3) -> Problem:
    """One problem; targets are linear in the features plus noise of half their size."""
    rng = np.random.default_rng([FAMILIES.index(family), seed])
    mask = np.ones(n)
    truth = rng.normal(size=(d, k))
    features = rng.normal(size=(n, d))
    if family == "one_hot":
        features = np.eye(d)[rng.permutation(np.arange(n) % d)]
    elif family == "dead_and_constant":
        features[:, :2], features[:, 2] = 0.0, 7.0
    elif family == "duplicated":
        features[:, 1], features[:, 3] = features[:, 0], features[:, 2]
    elif family == "few_rows":
        mask[d // 2 :] = 0
    elif family != "mean_100_sigma":
        features, truth = _with_spectrum(family, rng, features, truth)
    signal = features @ truth
    noise = rng.normal(size=(n, k))
    # Noise would fill the empty direction, or inflate the ill-conditioned solution.
    if family in ("hard", *NEAR_HARD) or family.startswith("condition"):
        basis = np.linalg.qr(np.c_[np.ones(n), features])[0]
        noise -= basis @ (basis.T @ noise)
    targets = signal + 0.5 * signal.std(0) * noise
    if family == "mean_100_sigma":
        features, targets = features + 100, targets + 100
    return Problem(features, targets, mask)


def _with_spectrum(family, rng, features, truth):
    """Centred features with chosen singular values; the truth bends to the family."""
    n, d = features.shape
    left, _, right = np.linalg.svd(features - features.mean(0), full_matrices=False)
    scales = np.linspace(0.7, 1.3, d)
    if family.startswith("condition"):
        scales = np.geomspace(1 / float(family[10:]), 1, d)
    if family == "rank_deficient":
        scales[:4] = 0
    scales = rng.permutation(scales) * n**0.5
    if family in ("hard", *NEAR_HARD):
        bottom, coordinates = np.argmin(scales), right @ truth
        coordinates[bottom] = 0
        length = np.linalg.norm(scales[:, None] ** 2 * coordinates, axis=0)
        coordinates[bottom] = NEAR_HARD.get(family, 0) * length / scales[bottom] ** 2
        truth = right.T @ coordinates
    return (left * scales) @ right, truth


def stack(problems, dtype) -> Problem:
    """Problems of one shape as one batch; the dtype's rounding is part of the data."""
    return Problem(
        *(np.stack(parts).astype(dtype) for parts in zip(*problems, strict=True))
    )


def free_directions(problem):
    """Orthonormal basis of what the masked, centred features leave free."""
    rows = problem.features[problem.mask > 0].astype(np.float64)
    _, scales, right = np.linalg.svd(rows - rows.mean(0), full_matrices=True)
    rank = int((scales > 1e-6 * scales[0]).sum())
    return right[rank:].T
