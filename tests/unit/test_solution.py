"""What a solve reports when the data, or the norm, are no good."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj
from tests.heads import solve_norm

D, K = 4, 2


def data() -> Any:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, D)).astype(np.float32)
    return features, rng.normal(size=(30, K)).astype(np.float32), np.ones(30, "f4")


@jax.jit
def solve(features, targets, weights, norm_sq):
    moments = lj.compute_moments(features, targets, weights)
    return solve_norm(moments, norm_sq)


def broken(cause) -> Any:
    features, targets, weights = data()
    norm_sq = np.ones(K, np.float32)
    if cause == "NO_DATA":
        weights[:] = 0
    elif cause == "NONFINITE_FEATURES":
        features[3, 1] = np.nan
    elif cause == "NONFINITE_TARGETS":
        targets[3, 1] = np.inf
    elif cause == "INVALID_NORM":
        norm_sq[1] = -1
    return features, targets, weights, norm_sq


CAUSES = {
    "NO_DATA": "All example weights are zero",
    "NONFINITE_FEATURES": "inputs hold NaN or infinity",
    "NONFINITE_TARGETS": "targets hold NaN or infinity",
    "INVALID_NORM": "not a positive finite number",
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_status_names_the_cause_and_check_raises_it(cause):
    solution = solve(*broken(cause))
    assert solution.status == lj.Status[cause]
    with pytest.raises(ValueError, match=f"{cause}: 1 of 1 .*{CAUSES[cause]}"):
        lj.check(solution)


@pytest.mark.parametrize("norm", [0.0, -1.0, np.nan, np.inf])
def test_a_traced_norm_that_is_no_norm(norm):
    solution = solve(*data(), np.full(K, norm, np.float32))
    assert solution.status == lj.Status.INVALID_NORM


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_every_kind_of_nonfinite_value(value, which):
    arrays = data()
    arrays[which][5, 0] = value
    status = solve(*arrays, np.ones(K, np.float32)).status
    assert status == (lj.Status.NONFINITE_FEATURES, lj.Status.NONFINITE_TARGETS)[which]


def test_a_masked_nonfinite_row_does_no_harm():
    features, targets, weights = data()
    features[3], targets[3], weights[3] = np.nan, np.nan, 0
    assert solve(features, targets, weights, np.ones(K, "f4")).status == 0


def test_check_counts_in_batches_and_reads_any_tree():
    batch = [np.stack(p) for p in zip(broken(None), broken("NO_DATA"), strict=True)]
    batch = jax.vmap(solve)(*batch)
    good = jax.tree.map(lambda leaf: leaf[0], batch)
    lj.check((None, {"head": good}, jnp.ones(3)))
    with pytest.raises(ValueError, match="NO_DATA: 1 of 2 heads"):
        lj.check((None, {"head": batch}))


def test_a_kernel_that_is_not_a_number_is_never_a_success():
    # Moments that are finite, and an eigendecomposition that failed.
    moments = lj.compute_moments(*data())
    spectrum = jax.jit(lj.decompose)(moments)
    kinds: Any = ({}, {"relation": "at_most"}, {"metric": "output_variance"})
    for options in kinds:
        solve = jax.jit(lambda bad, o=options: solve_norm(bad, 1.0, **o).status)
        for name in ("eigenvectors", "projections", "eigenvalues"):
            bad = spectrum._replace(**{name: getattr(spectrum, name) * jnp.nan})
            assert solve(bad) != lj.Status.SUCCESS, (name, options)


def test_every_status_has_a_sentence():
    for status in lj.Status:
        assert status.message.endswith(".") and len(status.message) > 10
