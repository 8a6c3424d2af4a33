"""Other solvers of min w^T S w - 2 r^T w subject to ||w||^2 = c, one column a call."""

# Peers are installed by hand, for the benchmark only.
# pyright: reportMissingImports=false

import contextlib
import io

import numpy as np
import scipy.optimize

__all__ = [
    "exact_trust_region",
    "fracridge",
    "galahad",
    "pymanopt_sphere",
    "slsqp",
    "trust_constr",
]


def loss(s, r, w):
    return w @ s @ w - 2 * r @ w


def galahad(problems):
    """GALAHAD's trust-region solver with an equality constraint, dense, in a loop.

    Set up once for all (s, r, norm_sq), with LAPACK's solvers and the spectral
    factorisation, its fastest for dense matrices.
    """
    from galahad import trs  # pyright: ignore[reportAttributeAccessIssue]

    d = len(problems[0][1])
    lower = np.tril_indices(d)
    options = trs.initialize()
    options |= {"equality_problem": True, "dense_factorization": 1}
    options |= {"symmetric_linear_solver": "sytr ", "definite_linear_solver": "sytr "}
    trs.load(d, "dense", len(lower[0]), None, None, None, options)
    # It minimises g^T x + x^T H x / 2.
    kernels = [
        trs.solve_problem(d, c**0.5, 0.0, -2 * r, len(lower[0]), 2 * s[lower])
        for s, r, c in problems
    ]
    trs.terminate()
    return np.stack(kernels, axis=1)


def exact_trust_region(s, r, norm_sq):
    """SciPy's exact trust-region subproblem; an indefinite shift makes it active."""
    from scipy.optimize._trustregion_exact import IterativeSubproblem

    # ||w|| is fixed on the sphere, so subtracting a multiple of I changes nothing
    # but makes the Hessian indefinite, and the solution lies on the boundary.
    hessian = 2 * s - 2 * (1 + np.linalg.eigvalsh(s)[0]) * np.eye(len(r))
    problem = IterativeSubproblem(
        np.zeros(len(r)),
        lambda w: 0.0,
        lambda w: -2 * r,
        lambda w: hessian,
        k_easy=1e-12,
        k_hard=1e-12,
    )
    return problem.solve(np.sqrt(norm_sq))[0]


def start_on_sphere(r, norm_sq, start):
    start = np.ones(len(r)) if start is None else start
    return start * np.sqrt(norm_sq) / np.linalg.norm(start)


def slsqp(s, r, norm_sq, start=None):
    """SciPy's SLSQP with exact gradients."""
    found = scipy.optimize.minimize(
        lambda w: loss(s, r, w),
        start_on_sphere(r, norm_sq, start),
        jac=lambda w: 2 * (s @ w - r),
        method="SLSQP",
        constraints={
            "type": "eq",
            "fun": lambda w: w @ w - norm_sq,
            "jac": lambda w: 2 * w,
        },
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    return found.x


def trust_constr(s, r, norm_sq, start=None):
    """SciPy's trust-constr with exact gradients and Hessians."""
    sphere = scipy.optimize.NonlinearConstraint(
        lambda w: w @ w,
        norm_sq,
        norm_sq,
        jac=lambda w: 2 * w[None],  # pyright: ignore[reportArgumentType]
        hess=lambda w, v: 2 * v[0] * np.eye(len(w)),
    )
    found = scipy.optimize.minimize(
        lambda w: loss(s, r, w),
        start_on_sphere(r, norm_sq, start),
        jac=lambda w: 2 * (s @ w - r),
        hess=lambda w: 2 * s,
        method="trust-constr",
        constraints=[sphere],
        options={"maxiter": 1000, "gtol": 1e-9, "xtol": 1e-12},
    )
    return found.x


def pymanopt_sphere(s, r, norm_sq, start=None):
    """Riemannian trust regions on the sphere."""
    import pymanopt

    radius, manifold = np.sqrt(norm_sq), pymanopt.manifolds.Sphere(len(r))

    @pymanopt.function.numpy(manifold)
    def cost(v):
        return loss(s, r, radius * v)

    @pymanopt.function.numpy(manifold)
    def gradient(v):
        return 2 * radius * (s @ (radius * v) - r)

    @pymanopt.function.numpy(manifold)
    def hessian(v, u):
        return 2 * radius**2 * (s @ u)

    problem = pymanopt.Problem(
        manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian
    )
    optimizer = pymanopt.optimizers.TrustRegions(
        verbosity=0, max_iterations=200, min_gradient_norm=1e-9 * radius
    )
    first = start_on_sphere(r, norm_sq, start) / radius
    with contextlib.redirect_stdout(io.StringIO()):
        return radius * optimizer.run(problem, initial_point=first).point


def fracridge(features, targets, fraction):
    """Runs fracridge at one fraction of the unconstrained norm, all columns at once."""
    from fracridge import fracridge as solve

    kernel, _ = solve(features, targets, np.array([fraction]))
    return np.asarray(kernel).reshape(features.shape[1], -1)
