"""Constraints by name: the norm that each asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj

D, K = 12, 3


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, D)) @ rng.normal(size=(D, D))
    targets = features @ rng.normal(size=(D, K)) + rng.normal(size=(200, K))
    return features.astype(np.float32), targets.astype(np.float32)


@pytest.fixture(scope="module")
def spectrum(data):
    return jax.jit(lambda *data: lj.decompose(lj.compute_moments(*data)))(*data)


solve = jax.jit(lj.solvers.solve_spectrum, static_argnames=("relation", "exact"))


NAMED = {  # E[w^2] d for a gain of one
    lj.constraints.forward_variance: 1.0,
    lj.constraints.backward_variance: D / K,
    lj.constraints.glorot_variance: 2 * D / (D + K),
    lj.constraints.kaiming_variance: 1.0,
}
CONSTRAINTS = pytest.mark.parametrize("make", NAMED)


@CONSTRAINTS
@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_the_squared_norm_of_an_output_and_of_all(spectrum, make, gain):
    wanted = gain**2 * NAMED[make]
    each = make(gain).norm_sq(spectrum)
    total = make(gain, per_output=False).norm_sq(spectrum)
    assert each.shape == (K,) and total.shape == ()
    np.testing.assert_allclose(each, wanted, rtol=1e-6)
    np.testing.assert_allclose(total, K * wanted, rtol=1e-6)


def test_default_gains(spectrum):
    np.testing.assert_allclose(lj.constraints.forward_variance().norm_sq(spectrum), 1)
    np.testing.assert_allclose(
        lj.constraints.kaiming_variance().norm_sq(spectrum), 2, rtol=1e-6
    )


def test_explicit_norms(spectrum):
    np.testing.assert_allclose(
        lj.constraints.weight_norm(3.0).norm_sq(spectrum), [3.0] * K
    )
    each = lj.constraints.weight_norm([1.0, 2.0, 3.0]).norm_sq(spectrum)
    np.testing.assert_allclose(each, [1, 2, 3])
    total = lj.constraints.weight_norm(3.0, per_output=False).norm_sq(spectrum)
    assert total.shape == () and total == 3


@CONSTRAINTS
def test_relation_and_metric_are_passed_on(make):
    assert make()[1:] == ("equality", False)
    assert make(relation="at_most", exact=True)[1:] == ("at_most", True)
    assert lj.constraints.weight_norm(1.0, relation="at_most", exact=True)[1:] == (
        "at_most",
        True,
    )


def test_the_forward_constraint_keeps_the_signal():
    # What it is for: white inputs of any mean, outputs with the inputs' raw second
    # moment for each output, whatever the mean of the weights.
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(400, 5)) - 0.5
    kernel /= np.linalg.norm(kernel, axis=0)
    outputs = rng.normal(size=(20_000, 400)) @ kernel
    np.testing.assert_allclose((outputs**2).mean(0), 1, rtol=0.05)


def test_the_exact_form_holds_the_output_variance_on_real_features(data, spectrum):
    constraint = lj.constraints.forward_variance(1.5, exact=True)
    solution = solve(spectrum, constraint.norm_sq(spectrum), exact=True)
    features = data[0].astype(np.float64)
    variance = (features @ np.asarray(solution.kernel, np.float64)).var(0)
    np.testing.assert_allclose(variance, 1.5**2 * features.var(0).mean(), rtol=1e-5)


def test_a_gain_may_be_traced(spectrum):
    norm = lambda gain: lj.constraints.forward_variance(gain).norm_sq(spectrum)  # noqa: E731
    np.testing.assert_allclose(jax.vmap(norm)(jnp.arange(3.0))[:, 0], [0, 1, 4])


def test_the_data_may_choose_the_norm(data, spectrum):
    constraint = lj.Constraint(lambda spectrum: 2 * spectrum.variance)
    solution = solve(spectrum, constraint.norm_sq(spectrum))
    np.testing.assert_allclose(solution.norm_sq, 2 * data[1].var(0), rtol=1e-4)


@CONSTRAINTS
@pytest.mark.parametrize("gain", [0.0, -1.0, np.nan, np.inf])
def test_a_gain_that_is_not_positive_is_refused(make, gain):
    with pytest.raises(ValueError, match="expected gain > 0"):
        make(gain)


@pytest.mark.parametrize("norm_sq", [0.0, -2.0, [1.0, np.nan, 1.0]])
def test_a_norm_that_is_not_positive_is_refused(norm_sq):
    with pytest.raises(ValueError, match="expected norm_sq > 0"):
        lj.constraints.weight_norm(norm_sq)


def test_norms_of_the_wrong_shape_are_refused(spectrum):
    with pytest.raises(ValueError, match=r"one sphere an output; got \(2,\)"):
        lj.constraints.weight_norm([1.0, 2.0]).norm_sq(spectrum)
    with pytest.raises(ValueError, match="scalar norm_sq with per_output=False"):
        lj.constraints.weight_norm([1.0, 2.0, 3.0], per_output=False).norm_sq(spectrum)


@pytest.mark.parametrize("make", [*NAMED, lj.constraints.weight_norm])
def test_an_unknown_relation_is_refused(make):
    with pytest.raises(ValueError, match=r"relation to be one of.*got 'less'"):
        make(1.0, relation="less")
