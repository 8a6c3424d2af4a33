"""The strength and the norm that the data choose."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.optimize import minimize_scalar
from sklearn.linear_model import RidgeCV

import lagrange_jax.models.linen
from lagrange_jax.bounds import Problem
from lagrange_jax.constraints.from_data import at_strength
from lagrange_jax.initializers.apply import initialize
from lagrange_jax.initializers.lagrange import lagrange
from lagrange_jax.numerics.parabola import parabola_minimum
from lagrange_jax.ridge.criteria import gcv, leave_one_out
from lagrange_jax.ridge.marginal_likelihood import negative_log_evidence
from lagrange_jax.ridge.path import solve_ridge
from lagrange_jax.ridge.selection import choose_strength
from lagrange_jax.solvers.least_squares import solve_least_squares
from lagrange_jax.solvers.solution import Status, check
from lagrange_jax.statistics.moments import compute_moments
from lagrange_jax.statistics.spectrum import decompose
from lagrange_jax.types import Batch
from tests.unit.test_ridge import BIAS, ROUTES, spectrum_of

PER_OUTPUT = pytest.mark.parametrize("per_output", [True, False])
CRITERIA = pytest.mark.parametrize(
    "name, criterion", [("evidence", negative_log_evidence), ("gcv", gcv)]
)


def wide_noise(n=40, d=6, noise=3.0, seed=0, dtype: Any = np.float64) -> Any:
    """Weak signal: every criterion has its minimum well inside the range."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d))
    targets = features @ rng.normal(size=(d, 3)) + noise * rng.normal(size=(n, 3)) + 2
    return features.astype(dtype), targets.astype(dtype)


@PER_OUTPUT
@ROUTES
@pytest.mark.parametrize("name", ["evidence", "gcv", "leave_one_out"])
def test_choice_is_the_minimum(x64, name, per_output, route):
    arrays = wide_noise()
    spectrum = spectrum_of(*arrays, route=route)
    criterion = {
        "evidence": negative_log_evidence,
        "gcv": gcv,
        "leave_one_out": leave_one_out(*arrays),
    }[name]
    choice = choose_strength(spectrum, criterion, per_output=per_output)
    assert choice.strength.shape == ((3,) if per_output else ())
    assert not np.any(choice.edge)
    evaluate = jax.jit(criterion)
    for j in range(3 if per_output else 1):
        part = j if per_output else slice(None)
        best: Any = minimize_scalar(
            lambda x, part=part: float(np.sum(evaluate(spectrum, np.exp(x))[part])),
            bounds=(-8, 8),
            method="bounded",
            options={"xatol": 1e-9},
        )
        np.testing.assert_allclose(choice.strength.reshape(-1)[j], np.exp(best.x), 1e-4)
        np.testing.assert_allclose(choice.value.reshape(-1)[j], best.fun, 1e-9)


def test_choice_is_that_of_scikit_learn(x64):
    features, targets = wide_noise()
    strengths = np.geomspace(0.01, 100, 400)
    choice = choose_strength(
        spectrum_of(features, targets), leave_one_out(features, targets)
    )
    model: Any = RidgeCV(alphas=len(features) * strengths / 2).fit(features, targets)
    step = strengths[1] / strengths[0]
    assert 1 / step < choice.strength * len(features) / 2 / model.alpha_ < step


@CRITERIA
@PER_OUTPUT
@BIAS
def test_constraint_gives_the_ridge_head(x64, name, criterion, per_output, use_bias):
    spectrum = spectrum_of(*wide_noise(), None, use_bias)
    constraint = at_strength(name, per_output=per_output)
    solution = solve_least_squares(spectrum, constraint)
    assert solution.norm_sq.shape == ((3,) if per_output else ())
    assert solution.status == Status.SUCCESS
    choice = choose_strength(spectrum, criterion, per_output=per_output)
    np.testing.assert_allclose(2 * solution.multiplier, choice.strength, 1e-8)
    head = solve_ridge(spectrum, choice.strength)
    np.testing.assert_allclose(solution.kernel, head.kernel, 1e-8)
    np.testing.assert_allclose(solution.bias, head.bias, 1e-8)


def test_head_of_a_network():
    inputs, targets = wide_noise(60, dtype=np.float32)
    model = lagrange_jax.models.linen.as_model(nn.Dense(3), inputs[:1])
    init = lagrange(at_strength("evidence", per_output=False))
    variables, info = initialize(jax.random.key(0), model, init, (inputs, targets))
    choice = choose_strength(spectrum_of(inputs, targets))
    assert info.status == Status.SUCCESS and choice.edge == 0
    np.testing.assert_allclose(2 * info.multiplier, choice.strength, 1e-2)
    outputs = model.apply(variables, inputs)
    head = solve_ridge(spectrum_of(inputs, targets), choice.strength)
    wanted = inputs @ np.asarray(head.kernel) + np.asarray(head.bias)
    np.testing.assert_allclose(outputs, wanted, 1e-2, 1e-2)


def test_edges_are_told(x64):
    features, targets = wide_noise()
    exact = features @ np.ones((6, 1))
    assert choose_strength(spectrum_of(features, exact), gcv).edge == -1
    nothing = np.tile([[1.0], [-1.0]], (20, 1))
    signal = np.repeat(features[:20], 2, axis=0)
    empty = spectrum_of(signal, nothing)
    for criterion in (gcv, negative_log_evidence):
        assert choose_strength(empty, criterion).edge == 1
    spectrum = spectrum_of(features, targets)
    inside = choose_strength(spectrum)
    for factor, edge in ((0.01, 1), (100.0, -1)):
        ends = float(inside.strength) * np.array([factor, factor**2])
        cut = choose_strength(spectrum, bounds=(ends.min(), ends.max()))
        assert cut.edge == edge
        np.testing.assert_allclose(cut.strength, ends[0], 1e-12)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0, np.inf)])
def test_bounds_that_cannot_be_searched_are_refused(x64, bounds):
    with pytest.raises(ValueError, match="two rising strengths"):
        choose_strength(spectrum_of(*wide_noise()), bounds=bounds)


def test_data_that_call_for_no_head_get_a_kernel_of_zero():
    rng = np.random.default_rng(0)
    signal = np.repeat(rng.normal(size=(20, 4)), 2, axis=0).astype(np.float32)
    nothing = np.tile([[1.0], [-1.0]], (20, 1)).astype(np.float32)
    spectrum = spectrum_of(signal, nothing)
    solution = solve_least_squares(spectrum, at_strength("evidence"))
    assert solution.status == Status.SUCCESS
    assert not np.any(solution.kernel) and not np.any(solution.gap_bound)
    np.testing.assert_allclose(solution.bias, nothing.mean(0), atol=1e-6)


@CRITERIA
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_that_add_up_to_one_count_no_examples(x64, name, criterion, dtype):
    features, targets = map(jnp.asarray, wide_noise(dtype=dtype))
    shares = jnp.full(len(features), 1 / len(features), dtype)
    counts = jnp.full(len(features), 2, dtype)
    spectra = [
        decompose(compute_moments(features, targets, weights))
        for weights in (shares, counts)
    ]
    assert np.isnan(choose_strength(spectra[0], criterion).value)
    head = solve_least_squares(spectra[0], at_strength(name))
    assert head.status == Status.INVALID_NORM
    with pytest.raises(ValueError, match="counts examples"):
        check(head)
    # Leaving one out needs no number of examples: shares are as good as counts.
    strengths = [
        choose_strength(spectrum, leave_one_out(features, targets, weights)).strength
        for spectrum, weights in zip(spectra, (shares, counts), strict=True)
    ]
    np.testing.assert_allclose(*strengths, rtol=1e-2)


def test_leave_one_out_needs_the_examples(x64):
    arrays = wide_noise()
    spectrum = spectrum_of(*arrays)
    constraint = at_strength("leave_one_out", per_output=False)
    assert constraint.needs_examples and not at_strength("gcv").needs_examples
    with pytest.raises(ValueError, match="needs the examples"):
        solve_least_squares(spectrum, constraint)
    problem = Problem(spectrum, examples=Batch(*arrays))
    choice = choose_strength(spectrum, leave_one_out(*arrays))
    solution = solve_least_squares(problem, constraint)
    np.testing.assert_allclose(2 * solution.multiplier, choice.strength, 1e-7)


def test_strength_falls_as_one_over_the_number_of_examples(x64):
    sizes = np.array([100, 400, 1600, 6400])
    chosen = []
    for n in sizes:
        strengths = [
            choose_strength(spectrum_of(*wide_noise(n, 20, seed=seed))).strength
            for seed in range(4)
        ]
        chosen.append(np.mean(strengths))
    slope = np.polyfit(np.log(sizes), np.log(chosen), 1)[0]
    assert -1.1 < slope < -0.9


def test_jit_vmap_and_single_precision():
    data = [wide_noise(seed=seed, dtype=np.float32) for seed in range(3)]
    stacked = [jnp.stack(arrays) for arrays in zip(*data, strict=True)]

    @jax.jit
    def choose(features, targets):
        spectrum = spectrum_of(features, targets)
        return choose_strength(spectrum, leave_one_out(features, targets))

    many = jax.vmap(choose)(*stacked)
    assert not np.any(many.edge)
    with jax.enable_x64(True):
        for i in range(3):
            arrays = wide_noise(seed=i)
            exact = choose_strength(spectrum_of(*arrays), leave_one_out(*arrays))
            np.testing.assert_allclose(many.strength[i], exact.strength, 2e-2)


def test_parabola(x64):
    x = jnp.array([-1.0, 0.0, 0.7, 2.0, 2.5])
    found = parabola_minimum(x, 3 + 2 * (x - 0.8) ** 2)
    np.testing.assert_allclose(found.position, 0.8, 1e-14)
    assert found.index == 2 and not found.is_edge
    flat = parabola_minimum(x, jnp.ones(5).at[0].set(2.0))
    assert not flat.is_edge and flat.position >= 0 and flat.position <= 0.7
    for y in (x, -x, (x - 0.8) ** 2 + jnp.where(x > 1, jnp.nan, 0)):
        edge = parabola_minimum(x, y)
        assert edge.is_edge and edge.position == x[edge.index]
    with pytest.raises(ValueError, match="three"):
        parabola_minimum(x[:2], x[:2])
