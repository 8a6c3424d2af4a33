"""The secular equation on problems made to defeat it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagrange_jax.numerics.secular import solve_secular

SETS, COLUMNS, D = 400, 100, 8


def random_loads(rng, smallest):
    """Gaps and projections over many decades; repeated and clustered eigenvalues."""
    gaps = 10 ** rng.uniform(-12, 0, (SETS, D))
    gaps[rng.random((SETS, D)) < 0.3] = 0
    clustered = rng.random(SETS) < 0.3
    gaps[clustered, 4:] = gaps[clustered, 4:5] * (1 + 1e-10 * rng.random(4))
    gaps = np.sort(gaps - gaps.min(1, keepdims=True))
    projections = 10 ** rng.uniform(np.log10(smallest), 0, (SETS, D, COLUMNS))
    projections *= rng.choice([-1, 1], projections.shape)
    return gaps, projections, 10 ** rng.uniform(-3, 3, (SETS, COLUMNS))


def edge_of_the_hard_case(rng, smallest):
    """The norm that the upper poles have alone: Newton's slowest case from below."""
    gaps, projections, _ = random_loads(rng, 1e-3)
    gaps = np.maximum(gaps, 1e-4)
    gaps[:, 0] = gaps[:, 1] = 0
    projections[:, :2] *= smallest
    alone = (projections[:, 2:] ** 2 / gaps[:, 2:, None] ** 2).sum(1)
    off = rng.choice([-1, 0, 1], alone.shape) * 10 ** rng.uniform(-16, -2, alone.shape)
    return gaps, projections, alone * (1 + off)


def staircase(rng, smallest):
    """Every pole matters at a scale of its own."""
    gaps = np.sort(10 ** rng.uniform(np.log10(smallest), 0, (SETS, D)))
    gaps[:, 0] = 0
    power = rng.choice([0.5, 1, 1.5, 2], (SETS, 1, 1))
    projections = np.maximum(gaps, smallest)[..., None] ** power
    projections = projections * 10 ** rng.uniform(-1, 1, (SETS, D, COLUMNS))
    # What the solver hands over: nothing is below the tie-break.
    noise = 100 * smallest * np.abs(projections).max(1, keepdims=True)
    projections = np.maximum(projections, noise)
    theta = 10 ** rng.uniform(np.log10(smallest), 0, (SETS, 1, COLUMNS))
    return gaps, projections, ((projections / (gaps[..., None] + theta)) ** 2).sum(1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("family", [random_loads, edge_of_the_hard_case, staircase])
def test_the_fixed_steps_suffice(family, dtype):
    # 40,000 problems a family and dtype, 240,000 in all.
    rng = np.random.default_rng(0)
    smallest, tolerance = (1e-16, 1e-14) if dtype == np.float64 else (1e-7, 2e-6)
    problems = [a.astype(dtype) for a in family(rng, smallest)]
    with jax.enable_x64(dtype == np.float64):
        solve = jax.jit(jax.vmap(lambda g, p, c: solve_secular(g, p, c[None])[0]))
        theta = np.asarray(solve(*problems))
    assert theta.dtype == dtype and np.all(theta > 0)
    gaps, projections, norm_sq = (a.astype(np.longdouble) for a in problems)
    poles = gaps[..., None] + theta[:, None, :].astype(np.longdouble)
    found = ((projections / poles) ** 2).sum(1)
    # A norm, so the square root; rounding theta alone moves it by eps.
    assert np.abs(np.sqrt(found / norm_sq) - 1).max() <= tolerance


def test_one_sphere_for_all_columns(x64):
    rng = np.random.default_rng(1)
    gaps = np.sort(rng.uniform(size=6))
    gaps -= gaps[0]
    projections = rng.normal(size=(6, 4))
    theta = solve_secular(
        jnp.asarray(gaps), jnp.asarray(projections), jnp.array([[3.0]])
    )
    assert theta.shape == (1, 1)
    poles = gaps[:, None] + np.asarray(theta)
    np.testing.assert_allclose(((projections / poles) ** 2).sum(), 3.0, rtol=1e-14)


def test_the_known_root_of_one_pole(x64):
    theta = solve_secular(jnp.zeros(1), jnp.full((1, 1), -6.0), jnp.full((1, 1), 4.0))
    np.testing.assert_allclose(theta, 3.0, rtol=1e-15)


def test_scales_far_from_one_in_float32():
    # Squares of these projections and norms underflow or overflow.
    for scale in (1e-25, 1e25):
        projections = jnp.full((2, 1), scale, jnp.float32)
        gaps = jnp.array([0.0, scale], jnp.float32)
        theta = solve_secular(gaps, projections, jnp.ones((1, 1)))
        ratio = np.asarray(theta, np.float64)[0, 0] / scale
        np.testing.assert_allclose(1 / ratio**2 + 1 / (1 + ratio) ** 2, 1, rtol=1e-5)
