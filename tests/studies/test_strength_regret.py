"""The study of regret in small: its record, figures and rules."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.studies.strength_regret import figures, fixed_design, rules, tables
from experiments.studies.strength_regret.config import Config
from experiments.studies.strength_regret.networks import make_cases
from experiments.studies.strength_regret.run import run
from experiments.studies.strength_regret.tasks import (
    FETCHED,
    TASKS,
    draw,
    sizes_of,
)
from lagrange_jax.strengths import Exponent, LossCurves

DATA = os.environ.get("LAGRANGE_JAX_DATA", "nowhere")


@pytest.fixture(autouse=True)
def standard_promotion():
    # Optax's schedules and bias correction mix types.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def family(slope, num_seeds=6, depth=0.01):
    """Parabolas about 3 N^slope with a little noise by seed."""
    strengths, sizes = np.logspace(-5, 0, 21), 16.0 * 2 ** np.arange(8)
    random = np.random.default_rng(0)
    noise = 0.05 * random.normal(size=(8, num_seeds))
    best = np.log(1.0) + slope * np.log(sizes)[:, None] + noise
    losses = 1 + depth * (np.log(strengths)[:, None, None] - best) ** 2
    curves = LossCurves(losses, strengths, sizes)
    return rules.Family("clouds", "adam l2", curves, losses, losses, None)


def test_the_law_has_no_regret_where_it_holds():
    some = family(-0.7)
    found = rules.regrets(some, Exponent(-0.7, 0.1))
    law = found["law, one sweep at N/4"]
    assert abs(law.percent) < 1 and law.compute == 25
    assert found["smallest"].percent == pytest.approx(100)
    assert found["1/N from N/4"].percent > law.percent
    slope = rules.fit_slope(some.curves)
    assert slope.low < slope.value < slope.high
    assert slope.value == pytest.approx(-0.7, abs=0.02)
    assert rules.has_dip(some)


def test_priors_leave_their_own_task_out():
    slopes = {
        (task, penalty): rules.Slope(value, -9, 9)
        for task, value in {"a": -0.5, "b": -0.6, "c": -0.7, "d": 5.0}.items()
        for penalty in ("sgd l2", "adamw")
    }
    prior = rules.prior_without(slopes, "d", "l2")
    assert prior is not None
    assert prior.mean == pytest.approx(-0.6) and prior.std == pytest.approx(0.1)


@pytest.mark.parametrize("task", TASKS)
def test_examples(task):
    if task in FETCHED and not Path(DATA, FETCHED[task]).exists():
        pytest.skip(f"LAGRANGE_JAX_DATA names no folder with {FETCHED[task]}")
    examples, held_out = draw(task, 0)
    assert len(examples.inputs) == TASKS[task].largest
    assert len(held_out.inputs) > 50 and np.isfinite(held_out.inputs).all()
    np.testing.assert_allclose(examples.inputs.mean(0), 0, atol=1e-5)
    again, _ = draw(task, 1)
    assert not np.array_equal(examples.inputs, again.inputs)
    assert sizes_of(task, 8, 8)[-1] == TASKS[task].largest


def test_the_iteration_is_near_the_optimum_where_noise_is_small():
    excess = np.median(fixed_design.compare(40), axis=-1)
    assert excess[2].max() < 0.03  # 10 features, 200 examples


def test_rows_leave_whole_tables():
    config = Config.full()
    names = [case.name for case in make_cases(config)]
    assert len(names) == len(set(names))
    whole = len(config.tasks) * len(config.penalties)
    tasks = {name.split("/")[0] for name in names[:whole]}
    assert tasks == set(config.tasks)


def test_smoke_run_resumes_and_redraws_from_the_record(tmp_path, capsys):
    config = Config.smoke()
    run(config, tmp_path)
    assert "wine/adamw/base/2" in capsys.readouterr().out
    text = figures.draw(tmp_path)
    for word in ("full sweep", "law, one sweep", "evidence of the head", "adamw"):
        assert word in text
    assert {x.name for x in tmp_path.glob("*.png")} == {
        *("regret.png", "strengths.png", "slopes.png"),
    }
    run(config, tmp_path)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="another configuration"):
        run(dataclasses.replace(config, width=5), tmp_path)
    assert tables.make_tables(tmp_path, tables.read_study(tmp_path)) == text
