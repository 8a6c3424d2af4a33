"""How often the intervals of `fit_power_law` hold the truth, in simulation."""

import jax
import jax.numpy as jnp
import numpy as np

import lagrange_jax as lj
from lagrange_jax.strengths import BestStrength

__all__ = ["SEEDS", "WORLDS", "simulate"]

SIZES = np.array([32.0, 64.0, 128.0, 256.0, 512.0, 1024.0])
SLOPE, SCATTER, STEP = -0.8, 0.3, 0.3
SEEDS = (4, 8, 16)

WORLDS = {
    "even scatter": (0.0, 0.0, 0.0),
    "scatter grows with N (x 5.7)": (0.5, 0.0, 0.0),
    "8 % beyond the upper edge": (0.0, 0.08, 0.0),
    "8 % beyond the lower edge": (0.0, -0.08, 0.0),
    "growing, 8 % beyond the upper edge": (0.5, 0.08, 0.0),
    "growing, 8 % beyond the lower edge": (0.5, -0.08, 0.0),
    "20 % beyond the upper edge": (0.0, 0.2, 0.0),
    "every seed has its own slope": (0.0, 0.0, 0.3),
}
"""Growth of the scatter's logarithm with log N, share of censored curves (negative at
the lower edge), standard deviation of the slopes of the seeds."""


def simulate(repetitions: int) -> np.ndarray:
    """Returns the coverage of slope and intercept `[worlds, seeds, 2]`."""
    fit = jax.jit(jax.vmap(lambda best: lj.fit_power_law(SIZES, best)))
    found = []
    for world in WORLDS.values():
        for num_seeds in SEEDS:
            law = fit(_draw(world, num_seeds, repetitions))
            ends = law.slope_interval, law.intercept_interval
            for x, truth in zip(ends, (SLOPE, 0.0), strict=True):
                found.append(((x[:, 0] <= truth) & (truth <= x[:, 1])).mean())
    return np.array(found, float).reshape(len(WORLDS), len(SEEDS), 2)


def _draw(world, num_seeds, repetitions) -> BestStrength:
    growth, share, lean = world
    random, x = np.random.default_rng(num_seeds), np.log(SIZES)[:, None]
    centred, shape = x - x.mean(), (repetitions, len(SIZES), num_seeds)
    y = SLOPE * x + SCATTER * np.exp(growth * centred) * random.normal(size=shape)
    y = y + lean * centred * random.normal(size=(repetitions, 1, num_seeds))
    edge = np.quantile(y, 1 - share if share > 0 else -share) if share else np.inf
    is_censored = y > edge if share >= 0 else y < edge
    at = np.where(is_censored, edge + STEP * np.sign(share), y)
    bound = np.where(is_censored, edge, y)
    at, bound = (jnp.asarray(np.exp(z), jnp.float32) for z in (at, bound))
    return BestStrength(at, jnp.asarray(is_censored), bound)
