"""Answers found without the library: NumPy in extended precision, and SciPy.

Nothing here imports `lagrange_jax`.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize

__all__ = [
    "Moments",
    "Quadratic",
    "central_difference",
    "diagonalise",
    "eigenproblem_multiplier",
    "minimum_norm",
    "moments",
    "objective",
    "optimality_gap",
    "slsqp",
]

LONG = np.longdouble


class Moments(NamedTuple):
    count: np.ndarray
    mean_x: np.ndarray
    mean_t: np.ndarray
    cov_xx: np.ndarray
    cov_xt: np.ndarray
    var_t: np.ndarray


class Quadratic(NamedTuple):
    """Eigenvalues, eigenvectors and projections of a batch, in extended precision."""

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    projections: np.ndarray


def moments(features, targets, weights=None) -> Moments:
    """Two passes in extended precision, over any leading batch axes."""
    x, t = np.asarray(features, LONG), np.asarray(targets, LONG)
    weights = np.ones(x.shape[:-1]) if weights is None else weights
    a = np.asarray(weights, LONG)[..., None]
    x, t = np.where(a > 0, x, 0), np.where(a > 0, t, 0)
    count = a.sum((-2, -1))
    mean = lambda values: (a * values).sum(-2) / count[..., None]  # noqa: E731
    mean_x, mean_t = mean(x), mean(t)
    x, t = x - mean_x[..., None, :], t - mean_t[..., None, :]
    cross = lambda u, v: (  # noqa: E731
        np.swapaxes(a * u, -1, -2) @ v / count[..., None, None]
    )
    return Moments(count, mean_x, mean_t, cross(x, x), cross(x, t), mean(t**2))


def diagonalise(covariance, cross, sweeps=3) -> Quadratic:
    """LAPACK's eigenvectors, polished by Jacobi rotations in extended precision."""
    covariance = np.asarray(covariance, LONG)
    basis = np.linalg.eigh(covariance.astype(np.float64))[1].astype(LONG)
    basis = basis @ (1.5 * np.eye(basis.shape[-1]) - _gram(basis) / 2)  # orthonormal
    basis = basis @ (1.5 * np.eye(basis.shape[-1]) - _gram(basis) / 2)
    nearly = np.swapaxes(basis, -1, -2) @ covariance @ basis
    for _ in range(sweeps):
        for i in range(basis.shape[-1]):
            for j in range(i):
                _rotate(nearly, basis, i, j)
    values = np.diagonal(nearly, axis1=-2, axis2=-1)
    order = np.argsort(values, axis=-1)
    basis = np.take_along_axis(basis, order[..., None, :], axis=-1)
    values = np.take_along_axis(values, order, axis=-1)
    return Quadratic(
        values, basis, np.swapaxes(basis, -1, -2) @ np.asarray(cross, LONG)
    )


def _gram(basis):
    return np.swapaxes(basis, -1, -2) @ basis


def _rotate(matrix, basis, i, j):
    """One Jacobi rotation in the plane (i, j), in place, over leading axes."""
    off = matrix[..., i, j]
    difference = matrix[..., j, j] - matrix[..., i, i]
    sign = np.where(difference >= 0, 1, -1)
    scale = np.abs(difference) + np.sqrt(difference**2 + 4 * off**2)
    tangent = sign * 2 * off / np.where(scale > 0, scale, 1)
    cosine = (1 / np.sqrt(1 + tangent**2))[..., None]
    sine = tangent[..., None] * cosine
    for array in (matrix, np.swapaxes(matrix, -1, -2), basis):
        a, b = array[..., i].copy(), array[..., j].copy()
        array[..., i], array[..., j] = cosine * a - sine * b, sine * a + cosine * b


def optimality_gap(quadratic, kernel, per_output=True):
    r"""How far a kernel is from optimal on the sphere that it lies on.

    For every theta > 0 the dual gives, without cancellation,
    `f(W) - f* <= sum (gap_i + theta) (y_i - p_i / (gap_i + theta))^2`
    with y the kernel in the eigenbasis. The theta whose solution has the kernel's own
    norm makes it an equality. No case distinction is needed: where theta runs to zero
    the free directions cost nothing.
    """
    y = np.swapaxes(quadratic.eigenvectors, -1, -2) @ np.asarray(kernel, LONG)
    p = np.broadcast_to(quadratic.projections, y.shape)
    gaps = quadratic.eigenvalues - quadratic.eigenvalues[..., :1]
    gaps = np.broadcast_to(gaps[..., None], y.shape)
    axes = -2 if per_output else (-2, -1)
    total = lambda values: values.sum(axes, keepdims=True)  # noqa: E731
    norm_sq = total(y**2)
    high = np.log(np.sqrt(total(p**2) / norm_sq) + LONG(1e-300))
    low = high - 100
    for _ in range(110):
        middle = (low + high) / 2
        too_long = total((p / (gaps + np.exp(middle))) ** 2) > norm_sq
        low, high = np.where(too_long, middle, low), np.where(too_long, high, middle)
    shifted = gaps + np.exp(high)
    gap = total(shifted * (y - p / shifted) ** 2)
    return gap[..., 0, :] if per_output else gap[..., 0, 0]


def objective(features, targets, kernel, bias, weights=None):
    """Mean over examples and sum over outputs, straight from the definition."""
    weights = np.ones(len(features)) if weights is None else weights
    used = weights > 0
    residuals = features[used] @ np.asarray(kernel) + np.asarray(bias) - targets[used]
    return np.average((residuals**2).sum(1), weights=weights[used])


def minimum_norm(features, targets, mask=None):
    """The unconstrained solution, by singular values of the centred features."""
    rows = np.ones(len(features), bool) if mask is None else mask > 0
    tolerance = 100 * np.finfo(features.dtype).eps  # what the data's rounding hides
    x, t = features[rows].astype(np.float64), targets[rows].astype(np.float64)
    return np.linalg.lstsq(x - x.mean(0), t - t.mean(0), rcond=tolerance)[0]


def eigenproblem_multiplier(covariance, cross, norm_sq):
    """The 2d x 2d eigenproblem of Gander, Golub and von Matt; easy cases only."""
    eye = np.eye(len(covariance))
    matrix = np.block(
        [[covariance, -eye], [-np.outer(cross, cross) / norm_sq, covariance]]
    )
    values = np.linalg.eigvals(matrix)
    real = values[np.abs(values.imag) < 1e-7 * np.abs(values).max()].real
    return -real.min()


def slsqp(covariance, cross, norm_sq, start, relation="equality", metric=None):
    """A local solution from one start."""
    metric = np.eye(len(cross)) if metric is None else metric
    result = scipy.optimize.minimize(
        lambda w: w @ covariance @ w - 2 * cross @ w,
        start,
        jac=lambda w: 2 * (covariance @ w - cross),
        method="SLSQP",
        constraints={
            "type": "eq" if relation == "equality" else "ineq",
            "fun": lambda w: norm_sq - w @ metric @ w,
            "jac": lambda w: -2 * metric @ w,
        },
        options={"maxiter": 1000, "ftol": 1e-15},
    )
    return result.x


def central_difference(values, point, step=1e-5):
    """The gradient at a vector, in fourth order.

    `values` takes points `[m, size]` to the function's values `[m]`.
    """
    moves = step * np.eye(len(point))[:, None] * np.array([-2, -1, 1, 2])[:, None]
    points = (np.asarray(point, np.float64) + moves).reshape(-1, len(point))
    return np.asarray(values(points)).reshape(-1, 4) @ [1, -8, 8, -1] / (12 * step)
