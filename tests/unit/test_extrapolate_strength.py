"""Strengths for runs that were not swept, from curves whose law is known."""

import jax
import numpy as np
import pytest

import lagrange_jax as lj
from lagrange_jax.strengths import Advice, Exponent, Recipe, loss_curves

STRENGTHS = np.geomspace(1e-4, 1.0, 17)
SIZES = np.array([50, 100, 200, 400])
TRUE = 2.0 * 1600**-0.7


def curves(slope=-0.7, num_seeds=8, depth=0.01, sizes=SIZES, bend=0.0, at=2.0, seed=0):
    """Parabolas about `at` N^slope, and a loss that falls with N."""
    rng = np.random.default_rng(seed)
    log = np.log(sizes)[:, None]
    best = np.log(at) + slope * log + bend * (log - np.log(200)) ** 2
    best = best + 0.1 * rng.normal(size=(len(sizes), num_seeds))
    distance = np.log(STRENGTHS)[:, None, None] - best
    noise = 0.02 * rng.normal(size=(1, len(sizes), num_seeds))
    losses = 0.5 + 2 * sizes[:, None] ** -0.5 + depth * distance**2 + noise
    return loss_curves(losses, STRENGTHS, sizes)


def test_many_sizes_find_the_law():
    found = lj.extrapolate_strength(curves(), 1600)
    assert found.status is Advice.PENALTY_HELPS
    assert found.warnings == ()
    assert found.interval[0] < TRUE < found.interval[1]
    assert found.strength == pytest.approx(TRUE, rel=0.15)
    assert found.exponent == pytest.approx(-0.7, abs=0.05)
    assert found.loss == pytest.approx(0.55, abs=0.02)


def test_one_size_follows_the_prior():
    one = curves(sizes=SIZES[-1:])
    found = lj.extrapolate_strength(one, 1600, exponent=Exponent(-0.5, 0.1))
    best = 2 * 400**-0.7
    assert found.strength == pytest.approx(best * 4**-0.5, rel=0.1)
    assert found.exponent == pytest.approx(-0.5)
    # The prior's error over a factor 4, and that of the sweep.
    half = np.log(found.interval[1] / found.strength)
    assert 1.96 * 0.1 * np.log(4) < half < 3 * 1.96 * 0.1 * np.log(4)
    fixed = lj.extrapolate_strength(one, 1600, exponent=Exponent(-1.0, 0.0))
    assert fixed.strength == pytest.approx(best / 4, rel=0.1)


def test_the_prior_steadies_sizes_that_do_not_agree():
    wild = curves(slope=0.3, depth=1e-4, num_seeds=4)
    wild = wild._replace(sizes=np.array([350, 370, 390, 400]))
    found = lj.extrapolate_strength(wild, 3000)
    assert -0.8 < found.exponent < 0


def test_from_folds_to_all_examples():
    fold = curves(sizes=np.array([320]))
    found = lj.extrapolate_strength(fold, 400, exponent=Exponent(-1.0, 0.0))
    same = lj.extrapolate_strength(fold, 320)
    assert found.strength == pytest.approx(0.8 * same.strength, rel=1e-6)


def test_no_dip_means_no_penalty():
    rng = np.random.default_rng(0)
    losses = 1 + 0.1 * rng.normal(size=(1, 4, 8)) + 1e-3 * rng.normal(size=(17, 4, 8))
    flat = loss_curves(losses + 0.01 * np.arange(17)[:, None, None], STRENGTHS, SIZES)
    found = lj.extrapolate_strength(flat, 1600)
    assert found.status is Advice.NO_PENALTY_NEEDED
    assert found.strength == STRENGTHS[0] and np.isnan(found.interval).all()
    with_zero = loss_curves(
        np.concatenate([flat.losses[:1], flat.losses]), [0.0, *STRENGTHS], SIZES
    )
    assert lj.extrapolate_strength(with_zero, 1600).strength == 0.0


@pytest.mark.parametrize("num_seeds", [3, 8])
def test_noise_alone_is_seldom_taken_for_a_dip(num_seeds):
    rng, dips = np.random.default_rng(1), 0
    for _ in range(60):
        losses = 1 + 0.01 * rng.normal(size=(17, 1, num_seeds))
        found = lj.extrapolate_strength(loss_curves(losses, STRENGTHS, 100), 400)
        dips += found.status is Advice.PENALTY_HELPS
    assert dips <= 13  # 0.1 of 60, and three standard deviations


def test_one_seed_says_that_it_cannot_tell():
    found = lj.extrapolate_strength(curves(num_seeds=1), 1600)
    assert found.status is Advice.UNTESTED and np.isnan(found.interval).all()
    assert found.strength == pytest.approx(TRUE, rel=0.5)


def test_zero_in_the_grid_is_a_loss_and_no_point_of_the_curve():
    some = curves()
    worse = some.losses[:1] + 0.3
    zero = loss_curves(np.concatenate([worse, some.losses]), [0, *STRENGTHS], SIZES)
    found = [lj.extrapolate_strength(x, 1600) for x in (some, zero)]
    assert found[0].strength == found[1].strength


def test_another_recipe():
    some = curves()
    here, there = Recipe(32, 0.01, 50), Recipe(128, 0.002, 50)
    plain = lj.extrapolate_strength(some, 1600, penalty="decoupled")
    moved = lj.extrapolate_strength(
        some, 1600, penalty="decoupled", recipe=here, to_recipe=there
    )
    assert moved.strength == pytest.approx(4**0.4 * plain.strength)
    errors = [np.log(x.interval[1] / x.strength) / 1.96 for x in (plain, moved)]
    added = (0.25 * np.log(4)) ** 2 + (0.25 * np.log(5)) ** 2
    assert errors[1] ** 2 == pytest.approx(errors[0] ** 2 + added, rel=1e-3)
    coupled = lj.extrapolate_strength(some, 1600, recipe=here, to_recipe=there)
    assert coupled.strength == lj.extrapolate_strength(some, 1600).strength
    longer = lj.extrapolate_strength(
        some, 1600, recipe=here, to_recipe=here._replace(num_epochs=500)
    )
    assert "500 epochs" in longer.warnings[0]


def test_doubts_are_said():
    far = lj.extrapolate_strength(curves(), 1e5)
    assert any("factor of 250" in x for x in far.warnings)
    bent = lj.extrapolate_strength(curves(bend=0.5, sizes=SIZES.repeat(2)[::2]), 800)
    assert any("not straight" in x for x in bent.warnings)
    rising = lj.extrapolate_strength(
        curves(slope=0.5, at=1e-3), 800, exponent=Exponent(-0.6, 10.0)
    )
    assert any("does not fall" in x for x in rising.warnings)
    some = curves()
    cut = loss_curves(some.losses[:12], STRENGTHS[:12], SIZES)
    found = lj.extrapolate_strength(cut, 1600)
    assert any("upper edge" in x and "N = 50, 100" in x for x in found.warnings)
    assert found.strength == pytest.approx(TRUE, rel=0.3)


def test_a_grid_of_trainings_is_read():
    axes = {
        "key": jax.random.split(jax.random.key(0), 8),
        "strength": STRENGTHS,
        "num_examples": SIZES,
    }
    some = curves()
    result = lj.GridResult(axes, np.transpose(some.losses, (2, 0, 1)))
    read = loss_curves(result)
    np.testing.assert_array_equal(read.losses, some.losses)
    found = [lj.extrapolate_strength(x, 1600).strength for x in (result, some)]
    assert found[0] == found[1]


def test_mistakes_are_named():
    some = curves()
    with pytest.raises(ValueError, match="penalty"):
        lj.extrapolate_strength(some, 1600, penalty="adamw")  # pyright: ignore
    with pytest.raises(ValueError, match="to_examples"):
        lj.extrapolate_strength(some, -1)
    with pytest.raises(ValueError, match="confidence_level"):
        lj.extrapolate_strength(some, 1600, confidence_level=95)
    with pytest.raises(ValueError, match="together"):
        lj.extrapolate_strength(some, 1600, recipe=Recipe(1, 1, 1))
    with pytest.raises(ValueError, match="increasing"):
        loss_curves(some.losses, STRENGTHS[::-1], SIZES)
    with pytest.raises(ValueError, match="increasing"):
        loss_curves(some.losses, STRENGTHS, SIZES[::-1])
    with pytest.raises(ValueError, match=r"losses \[strengths, sizes, seeds\]"):
        loss_curves(some.losses[1:], STRENGTHS, SIZES)
    with pytest.raises(TypeError, match="curves"):
        lj.extrapolate_strength(some.losses, 1600)  # pyright: ignore
