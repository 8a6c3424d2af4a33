"""The path over norms and the norm that cross-validates best."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict

import lagrange_jax as lj
from lagrange_jax import Batch
from lagrange_jax.constraints.cross_validation import choose_norm


@functools.cache
def digits() -> tuple[Any, Any]:
    dataset: Any = load_digits()
    noise = np.random.default_rng(0).normal(size=dataset.data.shape)
    images = (dataset.data / 16 + noise / 3).astype(np.float32)
    labels = dataset.target.astype(np.int32)
    return (images[:400], labels[:400]), (images[400:], labels[400:])


def fixed(norm):
    return lj.constraints.fixed_norm(norm, per_output=False)


def test_path_equals_single_solves():
    train, unseen = digits()
    norms = jnp.array([3.0, 30.0, 300.0])
    path = lj.solvers.convex_path(train, norms, validation=unseen, num_outputs=10)
    lj.check(path.heads)
    for i, norm in enumerate(norms):
        head = lj.solve_convex(train, fixed(norm), num_outputs=10)
        np.testing.assert_allclose(path.loss[i], head.objective, rtol=2e-5)
        logits = np.asarray(unseen[0] @ head.kernel + head.bias[None])
        accuracy = np.mean(logits.argmax(1) == unseen[1])
        assert path.validation_accuracy is not None
        assert abs(path.validation_accuracy[i] - accuracy) < 2e-3
        loss = log_loss(unseen[1], jax.nn.softmax(logits))
        assert path.validation_loss is not None
        np.testing.assert_allclose(path.validation_loss[i], loss, rtol=1e-3)
    assert (np.diff(path.loss) < 0).all() and (np.diff(path.heads.multiplier) < 0).all()
    without = lj.solvers.convex_path(train, norms, num_outputs=10)
    assert without.validation_loss is None


def test_chosen_norm_validates_as_well_as_scikit_learns_best_strength():
    train, unseen = digits()
    norm = choose_norm(
        jax.random.key(0), Batch(*train), None, lj.losses.softmax(), num_outputs=10
    )
    head = lj.solve_convex(train, fixed(norm), num_outputs=10)
    ours = log_loss(
        unseen[1], jax.nn.softmax(unseen[0] @ head.kernel + head.bias[None])
    )
    fits = [
        LogisticRegression(C=c, max_iter=5000) for c in np.geomspace(2**-8, 2**5, 14)
    ]
    scores = [
        log_loss(train[1], cross_val_predict(fit, *train, method="predict_proba"))
        for fit in fits
    ]
    best = fits[int(np.argmin(scores))].fit(*train)
    assert ours <= 1.02 * log_loss(unseen[1], best.predict_proba(unseen[0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(norm_sq=[1.0, 2.0]), "at least three"),
        (dict(norm_sq=[1.0, -2.0, 3.0]), "norm_sq"),
        (dict(num_folds=1), "num_folds"),
        (dict(relation="near"), "relation"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        lj.constraints.cross_validated_norm(**arguments)


def test_norms_of_a_path_are_a_row():
    with pytest.raises(ValueError, match=r"norm_sq of shape \[m\]"):
        lj.solvers.convex_path(digits()[0], jnp.array(1.0), num_outputs=10)
