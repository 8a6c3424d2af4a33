r"""Three closed rules for ridge regression on inputs that stay, against the optimum.

The in-sample error of ridge regression at the multiplier $\mu$ is least where

$$ \mu = \frac{\sigma^2}{N} \sum_i \frac{s_i^2}{(s_i + \mu)^3} \Big/
   \sum_i \frac{s_i^2 a_i^2}{(s_i + \mu)^3}, $$

with $s_i$ the eigenvalues of the covariance and $a_i$ the coefficients in its
eigenbasis: a fixed point, iterated with estimates in place of $\sigma^2$ and $a_i^2$.

References:
  J. Timmermans and S. Alvarez, "Optimal ridge regularization revisited", arXiv
  2605.28679, whose abstract describes such an iteration. The estimates here are ours:
  least squares, its noise taken out of $a_i^2$.
"""

import numpy as np

__all__ = ["PROBLEMS", "RULES", "compare"]

PROBLEMS = ((10, 40, 1.0), (10, 40, 3.0), (10, 200, 1.0), (30, 60, 1.0), (5, 400, 1.0))
"""Features, examples, standard deviation of the noise."""

RULES = ("iteration", "evidence", "gcv")

GRID = np.geomspace(1e-6, 1e3, 400)


def compare(repetitions: int) -> np.ndarray:
    """Returns the excess in-sample error over the best, `[problems, rules, draws]`."""
    found = []
    for place, (d, n, noise) in enumerate(PROBLEMS):
        random = np.random.default_rng(place)
        draws = [_one(random, d, n, noise) for _ in range(repetitions)]
        found.append(np.transpose(draws))
    return np.array(found)


def _one(random, d, n, noise):
    inputs = random.normal(size=(n, d)) * np.geomspace(1, 0.1, d)
    inputs = inputs - inputs.mean(0)
    truth = random.normal(size=d)
    targets = inputs @ truth + noise * random.normal(size=n)
    targets = targets - targets.mean()
    s, basis = np.linalg.eigh(inputs.T @ inputs / n)
    loads, coefficients = basis.T @ (inputs.T @ targets / n), basis.T @ truth

    def risk(mu):
        shrunk = np.asarray(mu)[..., None] / (s + np.asarray(mu)[..., None])
        bias = (s * (shrunk * coefficients) ** 2).sum(-1)
        return bias + noise**2 / n * ((1 - shrunk) ** 2).sum(-1)

    residual = (targets**2).mean() - (loads**2 / (s + GRID[:, None])).sum(1)
    evidence = n * np.log(residual) + np.log1p(s / GRID[:, None]).sum(1)
    kept = 1 - (s / (s + GRID[:, None])).sum(1) / n - 1 / n
    shrunk = GRID[:, None] / (s + GRID[:, None])
    left = (targets**2).mean() - (loads**2 / s * (1 - shrunk**2)).sum(1)
    chosen = [_iterate(s, loads, (targets**2).mean(), n)]
    chosen += [GRID[evidence.argmin()], GRID[(left / kept**2).argmin()]]
    return risk(np.array(chosen)) / risk(GRID).min() - 1


def _iterate(s, loads, variance, n):
    residual = variance - (loads**2 / s).sum()
    noise = residual * n / (n - len(s) - 1) / n
    signal = np.maximum((loads / s) ** 2 - noise / s, 0)
    mu = noise / max(signal.mean(), 1e-12)
    for _ in range(100):
        weights = s**2 / (s + mu) ** 3
        mu = noise * weights.sum() / max((weights * signal).sum(), 1e-12)
        mu = min(mu, GRID[-1])
    return mu
