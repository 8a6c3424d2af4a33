import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagrange_jax.datasets import gaussian_clouds


def test_the_clouds_have_the_stated_centres_and_width(key):
    data = gaussian_clouds(key, 40_000)
    inputs, targets = np.asarray(data.inputs), np.asarray(data.targets)
    assert inputs.shape == (40_000, 10)
    centres = [inputs[targets == t].mean(axis=0) for t in (0, 1)]
    residuals = inputs - np.stack(centres)[targets.astype(int)]
    # Standard errors: 8 / sqrt(20000) = 0.06 a coordinate, 8 / sqrt(80000) a width.
    assert np.linalg.norm(centres[1] - centres[0]) == pytest.approx(13.86, abs=0.3)
    np.testing.assert_allclose(residuals.std(axis=0), 8.0, atol=0.15)
    correlation = np.corrcoef(residuals.T) - np.eye(10)
    assert np.abs(correlation).max() < 0.03


def test_the_best_classifier_errs_as_often_as_theory_says(key):
    data = gaussian_clouds(key, 40_000)
    guesses = np.asarray(data.inputs).sum(axis=1) > 0
    error = np.mean(guesses != np.asarray(data.targets))
    assert error == pytest.approx(math.erfc(13.86 / 16 / 2**0.5) / 2, abs=0.008)


@pytest.mark.parametrize("num_examples", [1, 2, 7, 108])
def test_every_even_prefix_is_balanced(key, num_examples):
    targets = np.asarray(gaussian_clouds(key, num_examples).targets)
    assert targets.shape == (num_examples,)
    assert set(targets) <= {0.0, 1.0}
    for n in range(2, num_examples + 1, 2):
        assert targets[:n].sum() == n / 2
    assert targets.sum() == num_examples // 2


def test_distance_and_width_may_be_traced(key):
    distances = jnp.array([0.0, 4.0, 100.0])

    @jax.jit
    def means(distance):
        data = gaussian_clouds(key, 2_000, dimension=3, distance=distance, std=0.5)
        return data.inputs[1::2].mean(axis=0) - data.inputs[::2].mean(axis=0)

    found = np.linalg.norm(jax.vmap(means)(distances), axis=1)
    np.testing.assert_allclose(found, distances, atol=0.1)


def test_the_key_decides(key):
    first, again = gaussian_clouds(key, 8), gaussian_clouds(key, 8)
    other = gaussian_clouds(jax.random.key(1), 8)
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert not np.any(first.inputs == other.inputs)


def test_double_precision_is_kept(key, x64):
    data = gaussian_clouds(key, 4)
    assert data.inputs.dtype == data.targets.dtype == jnp.float64


@pytest.mark.parametrize("sizes", [{"num_examples": 0}, {"dimension": 0}])
def test_empty_clouds_are_refused(key, sizes):
    with pytest.raises(ValueError, match="num_examples >= 1 and dimension >= 1"):
        gaussian_clouds(key, **{"num_examples": 4, **sizes})
