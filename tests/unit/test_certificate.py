"""The certificate is a bound, whatever the columns, the metric and the route."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj
from lagrange_jax.constraints import at_strength, fixed_norm, variance_scaling
from lagrange_jax.solvers.certificate import gap_bound
from tests import adversarial
from tests.unit.test_ridge import spectrum_of

Configuration = adversarial.Configuration
EUCLIDEAN, VARIANCE = "euclidean", "output_variance"
# One of each kind here; `python -m tests.adversarial` solves 5,000 over all of them.
SOME = [
    Configuration("eigh", EUCLIDEAN, "equality", True, np.float32),
    Configuration("eigh", VARIANCE, "at_most", True, np.float32),
    Configuration("gram", EUCLIDEAN, "at_most", False, np.float32),
    Configuration("few_rows", VARIANCE, "equality", False, np.float64),
]


@pytest.mark.parametrize("configuration", SOME, ids=str)
def test_no_gap_exceeds_its_bound(configuration):
    found = adversarial.measure(configuration, range(100))
    usable = np.asarray(lj.solvers.is_usable(found["status"]))
    assert usable.mean() > 0.8
    assert np.all((found["gap"] <= found["bound"])[usable])
    right = found["status"] == lj.Status.SUCCESS
    assert right.mean() > 0.4
    assert np.all((found["gap"] <= 1e-2 * found["unit"])[right])


def test_a_general_convex_loss():
    # 2 sqrt(c) ||g|| + 4 c max(0, -mu), and ||g||^2 / 4 mu where that is less.
    residual, norm_sq = jnp.array([[3.0], [4.0]]), jnp.array([[4.0]])
    for mu, wanted in ((0.0, 20.0 * 2), (-0.5, 40.0 + 8), (10.0, 2.5)):
        found = gap_bound(residual, jnp.full((1, 1), mu), norm_sq)
        np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize(
    ("slip", "dtype", "status"),
    [
        (1e-2, np.float32, lj.Status.SUCCESS),
        (1e-4, np.float64, lj.Status.SUCCESS),
        (1e-4, np.float32, lj.Status.INACCURATE),
    ],
)
def test_nearly_collinear_columns_and_the_variance_of_outputs(x64, slip, dtype, status):
    # What tells two columns apart is half of the targets, however little it is.
    rng = np.random.default_rng(0)
    columns, noise = rng.normal(size=(200, 4)), rng.normal(size=(200, 1))
    features = np.c_[columns, columns[:, :1] + slip * noise].astype(dtype)
    targets = (columns[:, 1:2] + noise).astype(dtype)
    moments = lj.compute_moments(jnp.asarray(features), jnp.asarray(targets))
    norm_sq = 0.5
    head = lj.solve_least_squares(moments, fixed_norm(norm_sq, metric=VARIANCE))
    assert head.status == status

    x, t = (np.asarray(a, float) - np.mean(a, 0, float) for a in (features, targets))
    best = x @ np.linalg.lstsq(x, t, rcond=None)[0]
    wanted = norm_sq * x.var(0).mean()
    scale = np.sqrt(wanted / best.var())
    least = ((t - scale * best) ** 2).mean()
    gap = ((t - x @ np.asarray(head.kernel, float)) ** 2).mean() - least
    assert gap <= float(head.gap_bound[0])
    if status == lj.Status.INACCURATE:
        assert gap > 1e-2 * t.var()
    else:
        np.testing.assert_allclose(gap, 0, atol=1e-3 * t.var())


def table(dtype):
    """Columns like those of a housing table; deviations over four decades."""
    rng = np.random.default_rng(0)
    mean = np.array([3.87, 28.6, 5.43, 1.10, 1425.0, 3.07, 35.6, -119.6])
    deviation = np.array([1.9, 12.6, 2.47, 0.0474, 1132.0, 10.4, 2.14, 2.0])
    mix = np.eye(8) + 0.4 * rng.normal(size=(8, 8))
    z = rng.normal(size=(3000, 8)) @ mix
    noise = 0.3 * rng.normal(size=(3000, 1))
    targets = z[:, :1] - 0.5 * z[:, 3:4] - 0.1 * z[:, 6:7] + noise
    features = (mean + deviation * z).astype(np.float32)
    return features.astype(dtype), targets.astype(np.float32).astype(dtype)


def heads_of(features, targets):
    spectrum = spectrum_of(features, targets)
    free = float(lj.ridge.norm_of_strength(spectrum, 0.0)[0])
    constraints = [
        lj.loss_within(1.5),
        lj.loss_within(1.05),
        at_strength("evidence"),
        at_strength("gcv"),
        fixed_norm(2 * free, relation="at_most"),
        fixed_norm(0.3 * free),
        fixed_norm(2 * free),
        variance_scaling(1e-5, metric=VARIANCE),
    ]
    return [lj.solve_least_squares(spectrum, constraint) for constraint in constraints]


def test_raw_columns_in_single_precision_are_as_in_double():
    single = heads_of(*table(np.float32))
    with jax.enable_x64(True):
        double = heads_of(*table(np.float64))
    features, targets = table(np.float64)
    for found, wanted in zip(single, double, strict=True):
        assert found.status == wanted.status == lj.Status.SUCCESS
        losses = []
        for head in (found, wanted):
            outputs = features @ np.asarray(head.kernel, float) + np.asarray(head.bias)
            losses.append(np.mean((outputs - targets) ** 2))
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)
        np.testing.assert_allclose(found.objective, wanted.objective, rtol=1e-2)


def test_the_loss_of_a_large_norm_does_not_cancel():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(3, 8)).astype(np.float32)
        targets = (features @ rng.normal(size=(8, 1))).astype(np.float32)
        spectrum = spectrum_of(features, targets)
        free = lj.ridge.norm_of_strength(spectrum, 0.0)[0]
        for factor in (1e4, 1e8):
            head = lj.solve_least_squares(spectrum, fixed_norm(factor * free))
            assert -1e-6 <= head.objective / targets.var() <= 1e-3


@pytest.mark.parametrize("constraint", [lj.loss_within(), at_strength("evidence")])
@pytest.mark.parametrize("route", ["moments", "gram"])
def test_an_output_that_does_not_vary_costs_the_others_nothing(constraint, route):
    rng = np.random.default_rng(0)
    n, d = (60, 5) if route == "moments" else (8, 12)
    features = rng.normal(size=(n, d)).astype(np.float32)
    targets = features @ rng.normal(size=(d, 3)) + 0.5 * rng.normal(size=(n, 3))
    targets[:, 1] = 0.1
    targets = targets.astype(np.float32)
    # Fewer rows than columns leave a direction free: the same fills it in both.
    tie_break = rng.normal(size=(d, 3)).astype(np.float32)
    whole = spectrum_of(features, targets, route=route)
    head = lj.solve_least_squares(whole, constraint, tie_break=tie_break)
    rest = spectrum_of(features, targets[:, ::2], route=route)
    wanted = lj.solve_least_squares(rest, constraint, tie_break=tie_break[:, ::2])
    assert head.status == lj.Status.SUCCESS
    np.testing.assert_allclose(head.kernel[:, ::2], wanted.kernel, atol=1e-4)
    assert not np.any(head.kernel[:, 1])
    np.testing.assert_allclose(head.bias[1], 0.1, rtol=1e-6)


def test_an_inaccurate_head_is_usable_and_warned_of():
    found = adversarial.measure(SOME[0], range(30))
    assert np.any(found["status"] == lj.Status.INACCURATE)
    status = jnp.array([lj.Status.SUCCESS, lj.Status.INACCURATE, lj.Status.NO_DATA])
    np.testing.assert_array_equal(lj.solvers.is_usable(status), [True, True, False])
    head = lj.solve_least_squares(spectrum_of(*table(np.float32)), lj.loss_within())
    with pytest.warns(UserWarning, match="INACCURATE: 1 of 1"):
        lj.check(head._replace(status=np.int32(lj.Status.INACCURATE)))


def test_eigenpairs_of_few_digits_are_noticed(monkeypatch):
    """Some accelerators' `eigh` is good to 1e-6 of the largest eigenvalue."""
    exact, calls = jnp.linalg.eigh, []

    def rough(matrix):
        calls.append(matrix.shape)
        noise = jax.random.normal(jax.random.key(3), matrix.shape, matrix.dtype)
        top = jnp.max(jnp.abs(matrix))
        return exact(matrix + 1e-6 * top * (noise + noise.T))

    jax.clear_caches()
    monkeypatch.setattr(jnp.linalg, "eigh", rough)
    for configuration in (SOME[0], SOME[1]):
        found = adversarial.measure(configuration, range(60))
        usable = np.asarray(lj.solvers.is_usable(found["status"]))
        assert usable.mean() > 0.7
        assert np.all((found["gap"] <= found["bound"])[usable])
        right = found["status"] == lj.Status.SUCCESS
        assert right.mean() > 0.5
        assert np.all((found["gap"] <= 1e-2 * found["unit"])[right])
    assert calls
    monkeypatch.undo()
    jax.clear_caches()


@pytest.mark.parametrize("criterion", ["evidence", "gcv"])
def test_the_norm_of_a_head_without_bias_is_that_of_brute_force(x64, criterion):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)) + 1.5
    t = x @ rng.normal(size=(5, 1)) + 3 + 2 * rng.normal(size=(60, 1))
    n, (u, s, vt) = len(x), np.linalg.svd(x, full_matrices=False)
    best = None
    for mu in np.geomspace(1e-4, 1e2, 4001):  # of the mean over examples
        w = vt.T @ (s[:, None] / (s[:, None] ** 2 + n * mu) * (u.T @ t))
        error = ((t - x @ w) ** 2).sum()
        if criterion == "gcv":
            value = error / (n - (s**2 / (s**2 + n * mu)).sum()) ** 2
        else:
            energy = error + n * mu * (w**2).sum()
            value = n * np.log(energy) + np.log1p(s**2 / (n * mu)).sum()
        if best is None or value < best[0]:
            best = value, (w**2).sum()
    assert best is not None
    spectrum = spectrum_of(x, t, None, use_bias=False)
    head = lj.solve_least_squares(spectrum, at_strength(criterion))
    assert head.status == lj.Status.SUCCESS
    np.testing.assert_allclose(head.norm_sq[0], best[1], rtol=1e-3)


def test_dead_features_do_not_loosen_the_bound():
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(500, 32)) - 0.5, 0).astype(np.float32)
    features[:, ::8] = 0
    targets = features @ rng.normal(size=(32, 3)) + rng.normal(size=(500, 3)) / 2
    head = lj.solve_least_squares(
        spectrum_of(features, targets.astype(np.float32)), lj.loss_within()
    )
    assert head.status == lj.Status.SUCCESS
    assert np.all(head.gap_bound <= 1e-5 * targets.var(0))
