"""Rules that look at the training data alone."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from sklearn.linear_model import Lasso

import lagrange_jax as lj
from lagrange_jax.strengths import choose_without_validation, stein_risk


class Run(NamedTuple):
    train_loss: Any
    kernel_norm: Any


def grid(losses, norms, **axes):
    """Records of two times and two layers, of which the last record counts."""
    losses, norms = np.asarray(losses, float), np.asarray(norms, float)
    records = np.stack([losses + 9, losses], -1)
    layers = np.stack([0.6 * norms, 0.8 * norms], -1)
    norms = np.stack([layers + 9, layers], -2)
    return lj.GridResult(axes, Run(records, norms))


def test_of_those_that_fit_the_smallest_norm_is_taken():
    losses: Any = [[0.01, 0.02, 0.5, 1.0], [0.02, 0.03, 0.6, 1.0]]
    norms: Any = [[9.0, 8.0, 2.0, 0.1], [7.0, 5.0, 1.0, 0.1]]
    axes = {"rate": np.array([0.1, 0.2]), "strength": np.geomspace(1e-3, 1.0, 4)}
    found = choose_without_validation(grid(losses, norms, **axes))
    assert found.index == {"rate": 1, "strength": 1} and found.is_separable
    assert found.values["strength"] == pytest.approx(0.01)
    plain = lj.GridResult(axes, None)
    same = choose_without_validation(plain, train_loss=losses, norm=norms)
    assert same.index == found.index


def test_without_a_fit_the_training_loss_decides():
    strengths = np.geomspace(1e-3, 1.0, 4)
    found = choose_without_validation(
        grid([0.4, 0.3, 0.7, 1.0], [9.0, 8.0, 2.0, 0.1], strength=strengths)
    )
    assert found.index == {"strength": 1} and not found.is_separable


def test_seeds_are_averaged_and_diverged_runs_never_chosen():
    keys = jax.random.split(jax.random.key(0), 2)
    losses = [[0.0, 0.1], [0.04, 0.06], [np.inf, 0.0], [1.0, 1.0]]
    norms = [[3.0, 3.0], [2.0, 2.0], [0.1, 0.1], [0.0, 0.0]]
    axes = {"strength": np.geomspace(1e-3, 1.0, 4), "key": keys}
    assert choose_without_validation(grid(losses, norms, **axes)).index == {
        "strength": 1
    }
    with pytest.raises(ValueError, match="every run diverged"):
        choose_without_validation(grid(np.full((4, 2), np.nan), norms, **axes))


def test_stein_risk_is_that_of_new_noise(x64):
    """Averaged over noise, for lasso fits of scikit-learn on fixed inputs."""
    rng, n, sigma = np.random.default_rng(0), 60, 0.7
    features = rng.normal(size=(n, 8))
    truth = features[:, :2] @ np.array([1.0, -0.5])
    found, wanted = [], []
    for _ in range(400):
        targets, again = truth + sigma * rng.normal(size=(2, n))
        for strength in (0.05, 0.2, 0.6):
            alpha = lj.convert_strength(
                *(strength, "mean_loss", "sklearn_Lasso_alpha"),
                penalty="l1",
                loss="squared_error",
            )
            fit = Lasso(alpha).fit(features, targets)
            outputs = fit.predict(features)
            nonzero = (fit.coef_ != 0).sum() + 1
            loss = ((targets - outputs) ** 2).mean()
            found.append(loss + 2 * sigma**2 * nonzero / n)
            wanted.append(((again - outputs) ** 2).mean())
            if len(found) == 1:
                risk = stein_risk(loss, nonzero, sigma**2, n)
                np.testing.assert_allclose(risk, found[0], 1e-12)
    gaps = np.reshape(np.subtract(found, wanted), (-1, 3))
    error = gaps.std(0) / len(gaps) ** 0.5
    assert (np.abs(gaps.mean(0)) < 3 * error).all() and (error < 0.02).all()


def test_mistakes_are_named():
    axes = {"strength": np.geomspace(1e-3, 1.0, 4)}
    with pytest.raises(ValueError, match="a training loss and a norm"):
        choose_without_validation(lj.GridResult(axes, None))
    with pytest.raises(ValueError, match="within"):
        choose_without_validation(grid(np.ones(4), np.ones(4), **axes), within=5)
    with pytest.raises(TypeError, match="result"):
        choose_without_validation(axes)  # pyright: ignore
    with pytest.raises(ValueError, match="noise variance"):
        stein_risk(1.0, 3, -1.0, 10)
