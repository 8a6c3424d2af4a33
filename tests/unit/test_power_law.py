"""The law on curves whose law is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lagrange_jax.training.power_law import (
    BestStrength,
    average_seeds,
    best_strength,
    fit_power_law,
)

SIZES = np.array([100, 200, 400, 800, 1600, 3200])
PAPER_GRID = np.sort(np.outer([1, 2, 4, 8], [1e-5, 1e-4, 1e-3, 1e-2]).ravel())


def curves(strengths, optimum):
    """Losses `[strengths, sizes, seeds]` with their minimum at `optimum`."""
    distance = np.log(strengths)[:, None, None] - np.log(optimum)[None]
    return 0.3 + 0.02 * distance**2


def optima(slope=-0.8, intercept=1.0, spread=0.0, num_seeds=8, seed=0):
    rng = np.random.default_rng(seed)
    line = intercept + slope * np.log(SIZES)[:, None]
    return np.exp(line + spread * rng.normal(size=(len(SIZES), num_seeds)))


def uncensored(strength):
    return BestStrength(jnp.asarray(strength), jnp.zeros(strength.shape, bool))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_best_strength_of_parabolas(x64, axis):
    optimum = optima(intercept=-1.0, spread=0.3)
    losses = curves(PAPER_GRID, optimum)
    best = best_strength(np.moveaxis(losses, 0, axis), PAPER_GRID, axis=axis)
    np.testing.assert_allclose(best.strength, optimum, 1e-10)
    assert not best.is_censored.any()
    grid = best_strength(losses, PAPER_GRID, refine=False)
    np.testing.assert_array_equal(grid.strength, PAPER_GRID[losses.argmin(0)])


def test_the_edge_of_the_grid_is_censored(x64):
    grid = np.array([1.0, 2.0, 4.0, 8.0])
    losses = np.array(
        [
            [0.1, 0.2, 0.3, 0.4],
            [0.4, 0.3, 0.2, 0.1],
            [0.3, 0.1, 0.2, 0.4],
            [0.3, 0.2, 0.1, np.nan],
            [0.3, 0.1, 0.2, np.inf],
            [np.nan] * 4,
        ]
    )
    for refine in (True, False):
        best = best_strength(losses, grid, axis=1, refine=refine)
        assert best.is_censored.tolist() == [True, True, False, True, False, True]
        wanted = [1.0, 8.0, 2.0, 4.0, 2.0]
        at = [0, 1, 3] if refine else [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(best.strength[np.array(at)], np.take(wanted, at))


def test_means_leave_censored_seeds_out(x64):
    strength = np.array([[1.0, 3.0, 100.0], [2.0, 100.0, 100.0], [100.0] * 3])
    best = BestStrength(jnp.asarray(strength), jnp.asarray(strength == 100))
    found = average_seeds(best)
    np.testing.assert_array_equal(found.mean, [2.0, 2.0, np.nan])
    error = stats.sem([1.0, 3.0])
    np.testing.assert_allclose(found.standard_error, [error, np.nan, np.nan])
    assert found.num_used.tolist() == [2, 1, 0]
    assert found.num_censored.tolist() == [1, 2, 3]


@pytest.mark.parametrize("points", ["means", "all"])
def test_line_is_that_of_polyfit(x64, points):
    strength = optima(spread=0.3)
    law = fit_power_law(SIZES, uncensored(strength), points=points)
    y = np.log(strength.mean(1)) if points == "means" else np.log(strength).mean(1)
    slope, intercept = np.polyfit(np.log(SIZES), y, 1)
    np.testing.assert_allclose(law.slope, slope, 1e-12)
    np.testing.assert_allclose(law.intercept, intercept, 1e-12)
    assert law.num_points == (6 if points == "means" else 48)
    assert law.slope_interval[0] < slope < law.slope_interval[1]
    assert law.intercept_interval[0] < intercept < law.intercept_interval[1]


def test_a_law_without_noise_is_found_exactly(x64):
    best = best_strength(curves(PAPER_GRID, optima()), PAPER_GRID)
    law = fit_power_law(SIZES, best)
    np.testing.assert_allclose([law.slope, law.intercept], [-0.8, 1.0], 1e-10)
    np.testing.assert_allclose(law.slope_interval, [-0.8, -0.8], 1e-10)


@pytest.mark.parametrize("points", ["means", "all"])
@pytest.mark.parametrize("shared", [0.0, 0.3], ids=["independent", "shared"])
def test_intervals_cover_the_truth(points, shared):
    trials, num_seeds = 400, 8
    rng = np.random.default_rng(1)
    noise = 0.3 * rng.normal(size=(trials, len(SIZES), num_seeds))
    # A seed may lean the same way at all sizes, as where its data are nested.
    lean = rng.normal(size=(trials, 1, num_seeds)) * np.log(SIZES / 600)[:, None]
    strength = np.exp(1 - 0.8 * np.log(SIZES)[:, None] + noise + shared * lean)
    if points == "means":
        # The mean of a log-normal is not at its median: take out the known ratio.
        variance = 0.3**2 + (shared * np.log(SIZES / 600)) ** 2
        strength = strength / np.exp(variance / 2)[:, None]
    fit = jax.jit(
        jax.vmap(
            lambda best, key: fit_power_law(
                SIZES, best, key, points=points, num_resamples=1000
            )
        )
    )
    keys = jax.random.split(jax.random.key(0), trials)
    law = fit(uncensored(strength.astype(np.float32)), keys)
    for interval, truth in ((law.slope_interval, -0.8), (law.intercept_interval, 1.0)):
        covered = (interval[:, 0] <= truth) & (truth <= interval[:, 1])
        assert 0.91 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("points", ["means", "all"])
def test_censored_points_are_left_out_and_counted(x64, points):
    # The law leaves the grid at the two smallest sizes.
    grid = np.geomspace(1e-3, 0.05, 12)
    best = best_strength(curves(grid, optima()), grid)
    assert best.is_censored[:2].all() or best.is_censored[0].all()
    law = fit_power_law(SIZES, best, points=points)
    np.testing.assert_allclose(law.slope, -0.8, 1e-9)
    num_censored = np.asarray(best.is_censored).sum(1)
    np.testing.assert_array_equal(law.num_censored, num_censored)
    used = num_censored < 8
    assert law.num_points == (used.sum() if points == "means" else 8 * used.sum())
    ignored = best._replace(is_censored=jnp.zeros_like(best.is_censored))
    assert fit_power_law(SIZES, ignored, points=points).slope > -0.75


def test_too_little_to_fit(x64):
    best = uncensored(optima(spread=0.3, num_seeds=1))
    law = fit_power_law(SIZES, best)
    assert np.isfinite(law.slope) and np.isnan(law.slope_interval).all()
    one_size = jnp.ones((6, 1), bool).at[2].set(False)
    law = fit_power_law(SIZES, best._replace(is_censored=one_size))
    assert np.isnan(law.slope) and law.num_points == 1


def test_mistakes_are_named():
    best = uncensored(np.ones((6, 2), np.float32))
    with pytest.raises(ValueError, match="points"):
        fit_power_law(SIZES, best, points="mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="sizes"):
        fit_power_law(SIZES[:4], best)
    with pytest.raises(ValueError, match="three"):
        best_strength(np.ones((2, 5)), np.ones(2))
