"""The law on curves whose law is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from lagrange_jax.strengths import BestStrength, best_strength, fit_power_law

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
            [np.nan, 0.1, 0.2, 0.3],
        ]
    )
    for refine in (True, False):
        best = best_strength(losses, grid, axis=1, refine=refine)
        assert best.is_censored.tolist() == [
            *[True, True, False, True],
            False,
            True,
            True,
        ]
        wanted = [1.0, 8.0, 2.0, 4.0, 2.0]
        at = [0, 1, 3] if refine else [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(best.strength[np.array(at)], np.take(wanted, at))
        assert np.isnan(best.strength[5])
        # Half a step inside the edge, or inside what diverged.
        assert best.bound is not None
        beyond = np.sqrt([1 * 2, 4 * 8, 2 * 4, 2 * 4])
        np.testing.assert_allclose(best.bound[np.array([0, 1, 3, 6])], beyond)


def test_bounds_are_where_the_grid_begins_to_censor(x64):
    grid = np.geomspace(1e-3, 1.0, 7)
    optimum = np.geomspace(2e-4, 5.0, 400)
    losses = (np.log(grid)[:, None] - np.log(optimum)[None]) ** 2
    best = best_strength(losses, grid)
    is_inside = (optimum > np.sqrt(grid[0] * grid[1])) & (
        optimum < np.sqrt(grid[-1] * grid[-2])
    )
    np.testing.assert_array_equal(~best.is_censored, is_inside)
    assert best.bound is not None
    low, high = best.bound[0], best.bound[-1]
    np.testing.assert_allclose(
        [low**2, high**2], [grid[0] * grid[1], grid[-1] * grid[-2]]
    )


def likelihood_line(sizes, best, scatter_prior=(2.0, 0.5)):
    """The censored regression, maximised by SciPy from another parametrisation."""
    x = np.log(sizes)
    x = (x - x.mean()) / x.std()
    y = np.log(np.where(best.is_censored, best.bound, best.strength))
    side = np.where(best.is_censored, np.sign(np.log(best.strength) - y), 0)
    start = np.polyfit(np.repeat(x, y.shape[1]), y.ravel(), 1)
    residual = y - np.polyval(start, x)[:, None]
    scale = np.sqrt((residual**2).sum() / (y.size - 2))

    def loss(theta):
        sd = scale * np.exp(theta[2] + theta[3] * x)[:, None] * np.ones_like(y)
        line = (theta[0] + theta[1] * x)[:, None] * np.ones_like(y)
        inside = stats.norm.logpdf(y, line, sd)
        above, below = stats.norm.logsf(y, line, sd), stats.norm.logcdf(y, line, sd)
        each = np.select([side == 0, side > 0], [inside, above], below)
        return -each.sum() + (np.divide(theta[2:], scatter_prior) ** 2).sum() / 2

    found = optimize.minimize(
        loss,
        [start[1], start[0], 0, 0],
        method="Nelder-Mead",
        options=dict(xatol=1e-9, fatol=1e-12, maxiter=9999),
    )
    slope = found.x[1] / np.log(sizes).std()
    return slope, found.x[0] - slope * np.log(sizes).mean()


@pytest.mark.parametrize("edge", [0.08, 0.03], ids=["few censored", "many censored"])
def test_line_is_that_of_greatest_likelihood(x64, edge):
    grid = np.geomspace(1e-4, edge, 12)
    best = best_strength(curves(grid, optima(spread=0.3)), grid)
    assert 0 < best.is_censored.mean() < 0.5
    law = fit_power_law(SIZES, best)
    wanted = likelihood_line(SIZES, jax.tree.map(np.asarray, best))
    np.testing.assert_allclose([law.slope, law.intercept], wanted, 1e-5)
    assert law.slope_interval[0] < law.slope < law.slope_interval[1]
    assert law.num_points == (~best.is_censored).sum()
    np.testing.assert_array_equal(law.num_censored, best.is_censored.sum(1))


def test_even_scatter_gives_the_interval_of_the_slopes_of_the_seeds(x64):
    """Without censoring it is nearly Student's for one slope a seed."""
    strength = optima(spread=0.3, num_seeds=6, seed=3)
    law = fit_power_law(SIZES, uncensored(strength))
    slopes = np.polyfit(np.log(SIZES), np.log(strength), 1)[0]
    low, high = stats.t.interval(0.95, 5, slopes.mean(), stats.sem(slopes))
    np.testing.assert_allclose(law.slope, slopes.mean(), atol=0.1 * (high - low))
    np.testing.assert_allclose(np.diff(law.slope_interval)[0], high - low, 0.3)


def test_a_law_without_noise_is_found_exactly(x64):
    best = best_strength(curves(PAPER_GRID, optima()), PAPER_GRID)
    law = fit_power_law(SIZES, best)
    np.testing.assert_allclose([law.slope, law.intercept], [-0.8, 1.0], 1e-8)
    np.testing.assert_allclose(law.slope_interval, [-0.8, -0.8], 1e-7)
    assert law.is_falling


# growth of the scatter's logarithm with log N, censored share at the upper (+) or
# lower (-) end, scatter of the slopes of the seeds
WORLDS = {
    "even": (0.0, 0.0, 0.0),
    "growing": (0.5, 0.0, 0.0),
    "shared": (0.0, 0.0, 0.3),
    "upper end": (0.0, 0.08, 0.0),
    "lower end": (0.5, -0.08, 0.0),
}


def simulate(world, num_seeds, trials, seed=0):
    """Best strengths of slope -0.8 and intercept 0, `[trials, sizes, seeds]`."""
    growth, share, lean = WORLDS[world]
    rng, x = np.random.default_rng(seed), np.log(SIZES / SIZES.mean())[:, None]
    shape = (trials, len(SIZES), num_seeds)
    y = -0.8 * np.log(SIZES)[:, None] + 0.3 * np.exp(growth * x) * rng.normal(
        size=shape
    )
    y = y + lean * x * rng.normal(size=(trials, 1, num_seeds))
    if not share:
        known = jnp.asarray(np.exp(y), jnp.float32)
        return BestStrength(known, jnp.zeros(shape, bool), known)
    edge = np.quantile(y, 1 - share if share > 0 else -share)
    is_censored = y > edge if share > 0 else y < edge
    at = np.where(is_censored, edge + 0.3 * np.sign(share), y)
    bound = np.where(is_censored, edge, y)
    return BestStrength(
        np.exp(at).astype("f4"), is_censored, np.exp(bound).astype("f4")
    )


fit_many = jax.jit(jax.vmap(lambda best: fit_power_law(SIZES, best)))


def covered(world, num_seeds, trials=500):
    law = fit_many(simulate(world, num_seeds, trials))
    ends = law.slope_interval, law.intercept_interval
    return [
        float(((x[:, 0] <= truth) & (truth <= x[:, 1])).mean())
        for x, truth in zip(ends, (-0.8, 0.0), strict=True)
    ]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("num_seeds", [4, 8])
def test_intervals_hold_the_truth(world, num_seeds):
    # 0.95 is promised; 500 trials have a standard error of 0.01.
    assert min(covered(world, num_seeds)) >= 0.925


def test_censored_curves_do_not_flatten_the_law(x64):
    # The law leaves the grid at the two smallest sizes.
    grid = np.geomspace(1e-3, 0.05, 12)
    best = best_strength(curves(grid, optima()), grid)
    assert best.is_censored[0].all()
    law = fit_power_law(SIZES, best)
    np.testing.assert_allclose(law.slope, -0.8, 1e-6)
    counted = np.polyfit(np.log(SIZES), np.log(best.strength).mean(1), 1)[0]
    assert counted > -0.77


def test_a_record_made_by_hand_needs_no_bounds(x64):
    strength = np.minimum(optima(spread=0.3), 0.03)
    best = BestStrength(jnp.asarray(strength), jnp.asarray(strength == 0.03))
    with_bounds = best._replace(bound=jnp.where(best.is_censored, 0.0299999, strength))
    laws = [fit_power_law(SIZES, x) for x in (best, with_bounds)]
    np.testing.assert_allclose(laws[0].slope, laws[1].slope, 1e-3)


def test_too_little_to_fit(x64):
    best = uncensored(optima(spread=0.3, num_seeds=1))
    law = fit_power_law(SIZES, best)
    assert np.isfinite(law.slope) and np.isnan(law.slope_interval).all()
    assert not law.is_falling
    one_size = jnp.ones((6, 1), bool).at[2].set(False)
    law = fit_power_law(SIZES, best._replace(is_censored=one_size))
    assert np.isnan(law.slope) and law.num_points == 1


def test_curves_without_information_do_not_count(x64):
    strength = optima(spread=0.3, num_seeds=3)
    holes = BestStrength(jnp.asarray(strength), jnp.zeros((6, 3), bool))
    holes = holes._replace(
        strength=holes.strength.at[2, 1].set(jnp.nan),
        is_censored=holes.is_censored.at[2, 1].set(True),
    )
    assert np.isfinite(fit_power_law(SIZES, holes).slope_interval).all()


def test_a_strength_that_rises_is_flagged():
    best = uncensored(optima(slope=0.4, intercept=-9.0).astype("f4"))
    with pytest.warns(UserWarning, match="does not fall"):
        law = fit_power_law(SIZES, best)
    assert not law.is_falling


@pytest.mark.parametrize("level", [95, 1.0, 0, -0.1])
def test_confidence_is_a_probability(level):
    best = uncensored(np.ones((6, 2), np.float32))
    with pytest.raises(ValueError, match="confidence_level"):
        fit_power_law(SIZES, best, confidence_level=level)
    with pytest.raises(TypeError, match="confidence_level"):
        fit_power_law(SIZES, best, confidence_level="95%")  # pyright: ignore


@pytest.mark.parametrize(
    "grid", [[0, 1e-3, 1], [1, 1e-3, 1e-4], [1, 1, 2], [-1, 1, 2], [1, 2, np.inf]]
)
def test_strengths_are_a_grid(grid):
    with pytest.raises(ValueError, match="positive and strictly increasing"):
        best_strength(np.ones((3, 5)), grid)


def test_mistakes_are_named():
    best = uncensored(np.ones((6, 2), np.float32))
    with pytest.raises(ValueError, match="sizes"):
        fit_power_law(SIZES[:4], best)
    with pytest.raises(ValueError, match="positive numbers"):
        fit_power_law(SIZES - 100, best)
    with pytest.raises(ValueError, match="three"):
        best_strength(np.ones((2, 5)), np.arange(1.0, 3.0))
