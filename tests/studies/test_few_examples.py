"""The study of few examples: what is drawn, its peer, and the smoke run."""

from typing import Any

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegressionCV

from experiments import launch
from experiments.backbones.problem import Split
from experiments.common import class_baselines, record
from experiments.studies.few_examples.sources import draw, numbers_of

RATES = 2


@pytest.fixture
def standard_promotion():
    """Optax's Adam relies on JAX's usual promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def make_split(n=60, d=3, k=3):
    random = np.random.default_rng(0)
    labels = np.arange(n, dtype=np.int32) % k
    features = random.normal(size=(k, d))[labels] + random.normal(size=(n, d))
    return Split(features.astype(np.float32), labels)


def test_every_class_has_its_share_and_no_example_is_drawn_twice():
    split = make_split()
    split = Split(np.arange(60, dtype=np.float32)[:, None], split.labels)
    here, there = draw(split, 24, seed=1)
    assert np.bincount(here.labels).tolist() == [8, 8, 8]
    both = np.concatenate([here.features, there.features])
    np.testing.assert_array_equal(np.sort(both, axis=0), split.features)


def test_numbers_leave_ten_of_a_class_and_a_quarter_to_test_with():
    assert numbers_of(make_split(), (10, 29, 30, 45, 46)) == [30, 45]


def test_frequencies_are_those_of_the_labels():
    split = Split(np.ones((4, 2), np.float32), np.array([0, 0, 0, 1]))
    kernel, bias = class_baselines.frequencies(split, 3)
    assert not kernel.any() and kernel.shape == (2, 3)
    np.testing.assert_allclose(np.exp(bias), np.array([4, 2, 1]) / 7, rtol=1e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_the_peer_is_scikit_learns(k):
    split = make_split(k=k)
    kernel, bias = class_baselines.cross_validate_logistic_regression(split, k)
    logits = split.features @ kernel + bias
    found = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    settings: Any = {"l1_ratios": (0,), "use_legacy_attributes": False}
    peer = LogisticRegressionCV(Cs=10, cv=3, scoring="neg_log_loss", **settings)
    peer.fit(*split)
    np.testing.assert_allclose(found, peer.predict_proba(split.features), atol=2e-3)


def test_the_smoke_run_records_draws_and_resumes(tmp_path, capsys, standard_promotion):
    arguments = ["few_examples", "--smoke", "--out", str(tmp_path)]
    assert launch.main(arguments) == 0
    rows = {row["name"]: row for row in record.read_rows(tmp_path)}
    start = rows["breast_cancer/100/frequencies/0"]
    solved = rows["breast_cancer/100/gcv/calibrated/0"]
    peer = rows["breast_cancer/100/logistic_cv/0"]
    assert len(rows) == 3 and len(start["test_loss"]) == RATES
    # Two classes, 63 % of one: what is solved for knows more than their shares.
    assert start["loss_solved"] == pytest.approx(0.66, abs=0.01)
    assert solved["loss_solved"] < 0.3 and peer["loss_solved"] < 0.3
    assert min(start["test_loss"]) < start["loss_before"]
    assert "LogisticRegressionCV" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "accuracy.png").stat().st_size > 100
    assert "100 labelled examples" in capsys.readouterr().out
    assert launch.main(arguments) == 0
    assert len(record.read_rows(tmp_path)) == len(rows)


def test_an_unknown_source_is_refused(capsys):
    assert launch.main(["few_examples", "--smoke", "sources=mnist"]) == 2
    assert "expected sources of ['digits'" in capsys.readouterr().err
