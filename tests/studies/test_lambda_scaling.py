"""The study of the best strength, in small: its record, figures and known laws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from experiments.studies.lambda_scaling import cases, figures, laws
from experiments.studies.lambda_scaling.config import Config
from experiments.studies.lambda_scaling.fixed_layer import run_fixed, solve_logistic
from experiments.studies.lambda_scaling.networks import train
from experiments.studies.lambda_scaling.run import run

PARTS = ("converged",)


@pytest.fixture(autouse=True)
def standard_promotion():
    # Optax's schedules and bias correction mix types.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def known_curves(slope, num_seeds=6):
    """Losses that are parabolas about 3 N^slope, with noise by seed."""
    strengths, sizes = np.geomspace(1e-5, 1.0, 41), np.array([50, 200, 800])
    noise = 0.1 * np.random.default_rng(0).normal(size=(3, num_seeds))
    best = np.log(3.0) + slope * np.log(sizes)[:, None] + noise
    losses = 1 + 0.01 * (np.log(strengths)[:, None, None] - best) ** 2
    return laws.Curves(strengths, sizes, losses, losses)


@pytest.mark.parametrize("rule", laws.RULES)
@pytest.mark.parametrize("slope", [-1.0, -0.5])
def test_every_rule_finds_a_known_law(rule, slope):
    law = laws.fit_law(known_curves(slope), rule)
    assert law.slope == pytest.approx(slope, abs=0.08)
    assert law.interval[0] < law.slope < law.interval[1]
    assert law.num_low == law.num_high == 0


def test_an_optimum_beyond_the_grid_is_counted():
    curves = known_curves(-1.0)
    kept = curves.strengths < 0.03
    curves = curves._replace(
        strengths=curves.strengths[kept], validation=curves.validation[kept]
    )
    thesis, seeds = (laws.fit_law(curves, rule) for rule in laws.RULES[:2])
    assert (thesis.num_low, thesis.num_high, thesis.num_curves) == (0, 6, 18)
    assert np.isfinite(thesis.strength[0]) and np.isnan(seeds.strength[0])
    assert thesis.slope > seeds.slope


def test_the_law_of_ridge_on_a_fixed_layer_is_one_over_n():
    config = Config.smoke()
    sizes, num_validation = config.fixed_sizes, config.num_validation
    found = run_fixed(config.converged_networks[0], sizes, num_validation, 100)
    strength = np.exp(np.log(found["evidence"]).mean(1))
    slope = np.diff(np.log(strength)) / np.diff(np.log(sizes))
    assert slope == pytest.approx(-1.0, abs=0.12)


def test_the_logistic_head_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 4)).astype(np.float32)
    targets = np.where(features[:, 0] + random.normal(size=200) > 0.5, 1.0, -1.0)
    strength, weights = 0.02, (np.arange(200) < 150).astype(np.float32)
    head = solve_logistic(
        jnp.asarray(features),
        jnp.asarray(targets, jnp.float32),
        jnp.asarray(weights),
        jnp.float32(strength),
    )
    oracle = LogisticRegression(C=1 / (150 * strength), tol=1e-8, max_iter=1000)
    oracle.fit(features[:150], targets[:150])
    expected = np.append(oracle.coef_[0], oracle.intercept_)
    np.testing.assert_allclose(head, expected, atol=2e-4)


def test_too_strong_a_penalty_leaves_only_the_bias():
    *_, case = cases.make_cases(dataclasses.replace(Config.smoke(), parts=PARTS))
    losses = train(case.network, case.schedule, case.strengths, case.sizes, 0)
    assert losses[0, 0, 1] < 0.6
    assert losses[0, -1, 1] == pytest.approx(np.log(2), abs=0.02)


def test_the_thesis_strengths():
    strengths = cases.PAPER_STRENGTHS
    assert len(strengths) == 14
    assert strengths[[0, 1, 4, -1]] == pytest.approx([1e-5, 2e-5, 1e-4, 2e-2])


def test_smoke_run_resumes_and_redraws_from_the_record(tmp_path, capsys):
    config = Config.smoke()
    run(config, tmp_path)
    assert "converged/tanh/8/full/all/1" in capsys.readouterr().out
    table = figures.draw(tmp_path)
    for word in ("thesis", "ridge", "ratio 10", "lagrange 1", "reading"):
        assert word in table
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {
        *("errors.png", "first.png", "scales.png", "penalties.png"),
        *("fixed.png", "converged.png", "heads.png"),
    }
    run(config, tmp_path)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="unknown parts"):
        run(dataclasses.replace(config, parts=("all",)), tmp_path)
