"""Many small matrices in tridiagonal form, against NumPy's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagrange_jax.numerics import tridiagonal

BATCH = 40
KINDS = ("gaussian", "repeated", "diagonal", "singular", "graded", "zero")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def make(kind, d, dtype):
    """Symmetric matrices, the batch last, and two columns for each."""
    rng = np.random.default_rng([KINDS.index(kind), d])
    rows = rng.normal(size=(BATCH, 2 * d, d))
    if kind == "singular":
        rows[:, d // 2 :] = 0
    if kind == "graded":
        rows = rows * np.geomspace(1e-3, 1, d)
    matrices = np.einsum("bni,bnj->bij", rows, rows)
    if kind == "repeated":
        basis = np.linalg.qr(rng.normal(size=(BATCH, d, d)))[0]
        values = np.where(np.arange(d) < d // 2, 1.0, 3.0)
        matrices = np.einsum("bij,j,bkj->bik", basis, values, basis)
    if kind == "diagonal":
        matrices = np.einsum("bi,ij->bij", rng.normal(size=(BATCH, d)), np.eye(d))
    matrices *= kind != "zero"
    columns = rng.normal(size=(BATCH, d, 2))
    return tuple(np.moveaxis(x, 0, -1).astype(dtype) for x in (matrices, columns))


@functools.cache
def reduced(kind, d, dtype):
    with jax.enable_x64(dtype == np.float64):
        matrices, columns = make(kind, d, dtype)
        form, inside = jax.jit(tridiagonal.reduce)(matrices, columns)
        restored = jax.jit(tridiagonal.restore)(form, inside)
        form, inside, restored = jax.tree.map(np.asarray, (form, inside, restored))
    return matrices, columns, form, inside, restored


def whole(form):
    """The tridiagonal matrices, the batch first."""
    on, off = np.asarray(form.diagonal, float).T, np.asarray(form.off, float).T
    rows = zip(on, off, strict=True)
    return np.stack([np.diag(a) + np.diag(b, 1) + np.diag(b, -1) for a, b in rows])


@DTYPES
@pytest.mark.parametrize("d", [3, 4, 17])
@pytest.mark.parametrize("kind", KINDS)
class TestForms:
    def test_it_is_the_matrix_in_another_basis(self, kind, d, dtype):
        matrices, columns, form, inside, restored = reduced(kind, d, dtype)
        size, eps = np.abs(matrices).max() + 1e-30, np.finfo(dtype).eps
        np.testing.assert_allclose(restored, columns, atol=20 * eps * 4)
        matrices = np.moveaxis(matrices, -1, 0).astype(float)
        columns, inside = (
            np.moveaxis(x, -1, 0).astype(float) for x in (columns, inside)
        )
        expected = np.einsum("bik,bij,bjl->bkl", columns, matrices, columns)
        found = np.einsum("bik,bij,bjl->bkl", inside, whole(form), inside)
        np.testing.assert_allclose(found, expected, atol=100 * d**2 * eps * size)

    def test_the_bound_is_below_the_smallest_eigenvalue_and_near_it(
        self, kind, d, dtype
    ):
        _, _, form, *_ = reduced(kind, d, dtype)
        scale = np.abs(form.diagonal).max(0) + 2 * np.abs(form.off).max(0)
        with jax.enable_x64(dtype == np.float64):
            bound = np.asarray(jax.jit(tridiagonal.lower_bound)(form, scale))
        gap = np.linalg.eigvalsh(whole(form))[:, 0] - bound
        rounding = np.finfo(dtype).eps * scale
        assert np.all(gap >= -8 * rounding)
        # To a root of many it converges by a constant factor a step.
        limit = 1e-5 * scale if kind in ("repeated", "singular") else 0
        assert np.all(gap <= np.maximum(64 * d * rounding, limit))

    def test_shifted_systems_are_solved(self, kind, d, dtype):
        _, columns, form, *_ = reduced(kind, d, dtype)
        lowest = np.linalg.eigvalsh(whole(form))[:, 0]
        shift = (0.5 - lowest)[None].astype(dtype)
        with jax.enable_x64(dtype == np.float64):
            found = jax.jit(tridiagonal.solve_shifted)(form, columns, shift)
            found = jax.tree.map(np.asarray, found)
        exact = whole(form) + shift[0].astype(float)[:, None, None] * np.eye(d)
        g = np.moveaxis(columns, -1, 0).astype(float)
        x = np.linalg.solve(exact, g)
        again = np.einsum("bik,bik->bk", x, np.linalg.solve(exact, x))
        condition = np.linalg.cond(exact).max()
        close = functools.partial(
            np.testing.assert_allclose,
            rtol=64 * condition * np.finfo(dtype).eps,
            atol=64 * condition * np.finfo(dtype).eps,
        )
        close(np.moveaxis(found.x, -1, 0), x)
        close(found.square.T, (x**2).sum(1))
        close(found.slope.T, again)
        assert np.all(found.is_positive)

    def test_what_is_not_definite_is_told(self, kind, d, dtype):
        _, columns, form, *_ = reduced(kind, d, dtype)
        lowest = np.linalg.eigvalsh(whole(form))[:, 0]
        shift = (-0.5 - lowest)[None].astype(dtype)
        with jax.enable_x64(dtype == np.float64):
            found = jax.jit(tridiagonal.solve_shifted)(form, columns, shift)
            found = jax.tree.map(np.asarray, found)
        assert not np.any(found.is_positive)


def test_one_shift_a_column(x64):
    _, columns, form, *_ = reduced("gaussian", 4, np.float64)
    columns = jnp.asarray(columns)
    shifts = jnp.stack([jnp.full(BATCH, 1.0), jnp.full(BATCH, 2.0)])
    both = tridiagonal.solve_shifted(form, columns, shifts)
    for j in range(2):
        one = tridiagonal.solve_shifted(form, columns[:, j : j + 1], shifts[j : j + 1])
        np.testing.assert_allclose(both.x[:, j], one.x[:, 0], rtol=1e-12)
