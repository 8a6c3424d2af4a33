"""Constraints by name: the norm that each asks for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj
from lagrange_jax.constraints import fixed_norm, variance_scaling

D, K = 12, 3
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, D)) @ rng.normal(size=(D, D))
    targets = features @ rng.normal(size=(D, K)) + rng.normal(size=(200, K))
    return features.astype(np.float32), targets.astype(np.float32)


@pytest.fixture(scope="module")
def spectrum(data):
    return jax.jit(lambda *data: lj.decompose(lj.compute_moments(*data)))(*data)


def radius(constraint, spectrum):
    return constraint.radius_sq(lj.constraints.Problem(spectrum))


MODES = {"fan_in": 1.0, "fan_out": D / K, "fan_avg": 2 * D / (D + K)}  # E[w^2] d
FACTORIES = pytest.mark.parametrize("make", [variance_scaling, fixed_norm])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [0.25, 9.0])
def test_the_squared_norm_of_an_output_and_of_all(spectrum, mode, scale):
    wanted = scale * MODES[mode]
    each = radius(variance_scaling(scale, mode), spectrum)
    total = radius(variance_scaling(scale, mode, per_output=False), spectrum)
    assert each.shape == (K,) and total.shape == ()
    np.testing.assert_allclose(each, wanted, rtol=1e-6)
    np.testing.assert_allclose(total, K * wanted, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_mean_square_is_that_of_jax_initializers(spectrum, mode):
    init = jax.nn.initializers.variance_scaling(2.0, mode, "normal")
    drawn = jax.vmap(lambda key: init(key, (D, K)))(jax.random.split(KEY, 2000))
    wanted = radius(variance_scaling(2.0, mode), spectrum)
    np.testing.assert_allclose((drawn**2).sum(1).mean(0), wanted, rtol=0.03)


def test_explicit_norms(spectrum):
    np.testing.assert_allclose(radius(fixed_norm(3.0), spectrum), [3.0] * K)
    each = radius(fixed_norm([1.0, 2.0, 3.0]), spectrum)
    np.testing.assert_allclose(each, [1, 2, 3])
    total = radius(fixed_norm(3.0, per_output=False), spectrum)
    assert total.shape == () and total == 3


@FACTORIES
def test_relation_and_metric_are_passed_on(make):
    assert make(1.0)[1:] == ("equality", "euclidean")
    wanted = ("at_most", "output_variance")
    assert make(1.0, relation="at_most", metric="output_variance")[1:] == wanted


def test_equal_constraints_are_equal_and_hash_alike():
    for make in (
        lambda: variance_scaling(2.0, "fan_avg"),
        lambda: fixed_norm(np.array([1.0, 2.0, 3.0])),
        lambda: lj.loss_within(jnp.float32(1.5)),
        lambda: lj.constraints.at_strength("gcv"),
        lambda: lj.constraints.cross_validated_norm([1.0, 2.0, 4.0]),
    ):
        assert make() == make() and hash(make()) == hash(make())
    assert variance_scaling(2.0) != variance_scaling(1.0)


def test_the_forward_constraint_keeps_the_signal():
    # What it is for: white inputs of any mean, outputs with the inputs' raw second
    # moment for each output, whatever the mean of the weights.
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(400, 5)) - 0.5
    kernel /= np.linalg.norm(kernel, axis=0)
    outputs = rng.normal(size=(20_000, 400)) @ kernel
    np.testing.assert_allclose((outputs**2).mean(0), 1, rtol=0.05)


def test_the_exact_form_holds_the_output_variance_on_real_features(data, spectrum):
    constraint = variance_scaling(1.5**2, metric="output_variance")
    solution = lj.solve_least_squares(spectrum, constraint)
    features = data[0].astype(np.float64)
    variance = (features @ np.asarray(solution.kernel, np.float64)).var(0)
    np.testing.assert_allclose(variance, 1.5**2 * features.var(0).mean(), rtol=1e-5)


def test_a_scale_may_be_traced(spectrum):
    norm = lambda scale: radius(variance_scaling(scale), spectrum)  # noqa: E731
    np.testing.assert_allclose(jax.vmap(norm)(jnp.arange(3.0))[:, 0], [0, 1, 2])


def test_the_data_may_choose_the_norm(data, spectrum):
    constraint = lj.Constraint(lambda problem: 2 * problem.spectrum.variance)
    solution = lj.solve_least_squares(spectrum, constraint)
    np.testing.assert_allclose(solution.norm_sq, 2 * data[1].var(0), rtol=1e-4)


def test_a_radius_of_zero_is_the_zero_kernel(data, spectrum):
    def without_the_second(problem):
        return problem.spectrum.variance.at[1].set(0.0)

    solution = lj.solve_least_squares(spectrum, lj.Constraint(without_the_second))
    assert solution.status == lj.Status.SUCCESS
    assert not np.any(solution.kernel[:, 1]) and np.all(solution.norm_sq[::2] > 0)
    np.testing.assert_allclose(solution.bias[1], data[1][:, 1].mean(), atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match="expected scale > 0"):
        variance_scaling(scale)


@pytest.mark.parametrize("norm_sq", [0.0, -2.0, [1.0, np.nan, 1.0]])
def test_a_norm_that_is_not_positive_is_refused(norm_sq):
    with pytest.raises(ValueError, match="expected norm_sq > 0"):
        fixed_norm(norm_sq)


def test_norms_of_the_wrong_shape_are_refused(spectrum):
    with pytest.raises(ValueError, match=r"one sphere an output; got \(2,\)"):
        radius(fixed_norm([1.0, 2.0]), spectrum)
    with pytest.raises(ValueError, match="scalar norm_sq with per_output=False"):
        radius(fixed_norm([1.0, 2.0, 3.0], per_output=False), spectrum)


@FACTORIES
def test_unknown_options_are_refused(make):
    with pytest.raises(ValueError, match=r"relation to be one of.*got 'less'"):
        make(1.0, relation="less")
    with pytest.raises(ValueError, match=r"metric to be one of.*got 'exact'"):
        make(1.0, metric="exact")
    with pytest.raises(ValueError, match=r"mode to be one of.*got 'fan'"):
        make_of_text: Any = variance_scaling
        make_of_text(1.0, "fan")
