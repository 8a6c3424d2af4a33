"""Random kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj


@pytest.mark.parametrize(
    ("shape", "mean"),
    [((100, 400), -0.08), ((4, 4000), -1.0), ((5, 5, 4, 400), -0.08)],
)
def test_the_mean_falls_with_the_width_and_stops_at_minus_one(key, shape, mean):
    kernel = lj.initializers.negative_mean(scale=8.0, std=0.1)(key, shape, jnp.float32)
    assert kernel.shape == shape and kernel.dtype == jnp.float32
    standard_error = 0.1 / np.sqrt(kernel.size)
    np.testing.assert_allclose(kernel.mean(), mean, atol=5 * standard_error)
    np.testing.assert_allclose(kernel.std(), 0.1, atol=5 * standard_error)


def test_the_default_dtype_and_the_key_decide(key):
    init = lj.initializers.negative_mean()
    first, again = init(key, (3, 2)), init(key, (3, 2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == jnp.float32
    assert np.any(first != init(jax.random.key(1), (3, 2)))
    assert init(key, (3, 2), jnp.bfloat16).dtype == jnp.bfloat16
