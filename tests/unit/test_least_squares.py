"""The solved head against independent answers, over every kind of problem.

How far from optimal a kernel is, is measured in extended precision on the data as
rounded to the dtype under test, without cancellation; see `oracles.optimality_gap`.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sklearn.linear_model import Ridge

import lagrange_jax as lj
from tests import oracles, problems
from tests.heads import solve_norm

SEEDS, N, D, K = 3, 160, 16, 3
RATIOS = np.array([0.1, 0.5, 1.0, 4.0, 30.0, 300.0])  # of the unconstrained norm
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# What rounding the moments may hide. Moments in precision eps cannot tell the data
# from others whose S is off by eps * s_max, and that moves the loss on the sphere by
# eps * c * s_max: the unit of families whose flattest direction is below rounding.
LIMIT = {np.float32: 2e-6, np.float64: 1e-13}
BELOW_ROUNDING = {
    np.float32: (
        *(name for name, size in problems.NEAR_HARD.items() if size < 1e-5),
        "condition_1e4",
        "condition_1e8",
    ),
    np.float64: ("condition_1e8",),
}
# Families whose certificate is loose in this precision at 300 times the free norm.
UNCERTAIN = {
    np.float32: (*BELOW_ROUNDING[np.float32], "few_rows"),
    np.float64: BELOW_ROUNDING[np.float64],
}
# The tie-break may act on directions below rounding: an extra factor, measured 2e-6.
SLACK = {"condition_1e4": 2, "condition_1e8": 2}


@jax.jit
def solve_all(features, targets, mask, norm_sq, tie_break):
    def solve_ratios(features, targets, mask, norm_sq):
        moments = lj.compute_moments(features, targets, mask)
        spectrum = lj.decompose(moments)
        solve = functools.partial(solve_norm, spectrum, tie_break=tie_break)
        return jax.vmap(solve)(norm_sq)

    return jax.vmap(solve_ratios)(features, targets, mask, norm_sq)


@jax.jit
def solve_together(features, targets, mask, norm_sq, tie_break):
    """The same heads, each with a covariance of its own: a batch of small heads."""
    moments = jax.vmap(lj.compute_moments)(features, targets, mask)
    moments = jax.tree.map(lambda x: jnp.repeat(x, len(RATIOS), 0), moments)
    solve = functools.partial(solve_norm, tie_break=tie_break)
    solution = jax.vmap(lambda m, c: solve(lj.decompose(m), norm_sq=c))(
        moments, norm_sq.reshape(-1, *norm_sq.shape[2:])
    )
    split = lambda x: x.reshape(*norm_sq.shape[:2], *x.shape[1:])  # noqa: E731
    return jax.tree.map(split, solution)


@functools.cache
def solved(dtype, per_output, solve: Any = solve_all) -> Any:
    """Every family, seed and ratio at once: data, norms, solutions, gaps, units."""
    pairs = [(family, seed) for family in problems.FAMILIES for seed in range(SEEDS)]
    data = problems.stack([problems.make(*pair) for pair in pairs], dtype)
    free = np.stack([oracles.minimum_norm(*row) for row in zip(*data, strict=True)])
    norm_sq = (free**2).sum(1 if per_output else (1, 2))
    scale = RATIOS.reshape(-1, *[1] * (norm_sq.ndim - 1))
    norm_sq = (scale * norm_sq[:, None]).astype(dtype)
    tie_break = np.random.default_rng(0).normal(size=(D, K)).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        solution = solve(*data, norm_sq, tie_break)
        solution = jax.tree.map(np.asarray, solution)
    moments = oracles.moments(*data)
    quadratic = oracles.diagonalise(moments.cov_xx, moments.cov_xt)
    each_ratio = oracles.Quadratic(*(part[:, None] for part in quadratic))
    gap = oracles.optimality_gap(each_ratio, solution.kernel, per_output)
    variance = moments.var_t if per_output else moments.var_t.sum(-1)
    largest = quadratic.eigenvalues[:, -1].reshape(-1, *[1] * (norm_sq.ndim - 1))
    unit = np.broadcast_to(variance[:, None], gap.shape)
    rounding = np.maximum(unit, norm_sq * largest)
    return data, norm_sq, solution, gap, unit, rounding, tie_break


def rows(family):
    start = SEEDS * problems.FAMILIES.index(family)
    return slice(start, start + SEEDS)


needs_extended_precision = pytest.mark.skipif(
    bool(np.finfo(np.longdouble).eps > 1e-18), reason="long double is double here"
)
FAMILY = pytest.mark.parametrize("family", problems.FAMILIES)
SPHERES = pytest.mark.parametrize("per_output", [True, False])
WAYS = pytest.mark.parametrize("solve", [solve_all, solve_together])


@needs_extended_precision
@DTYPES
@SPHERES
@WAYS
class TestFamilies:
    @FAMILY
    def test_the_gap_is_rounding(self, family, per_output, dtype, solve):
        _, _, solution, gap, unit, rounding, _ = solved(dtype, per_output, solve)
        if family in BELOW_ROUNDING[dtype]:
            unit = rounding * SLACK.get(family, 1)
        assert (gap / unit)[rows(family)].max() <= LIMIT[dtype]
        status = solution.status[rows(family)]
        assert np.all(lj.solvers.is_usable(status))
        if family in UNCERTAIN[dtype]:  # at huge norms, and told
            status = status[:, :4]
        assert np.all(status == lj.Status.SUCCESS)
        assert np.all(solution.is_global[rows(family)])

    def test_the_norm_is_met(self, per_output, dtype, solve):
        _, norm_sq, solution, *_ = solved(dtype, per_output, solve)
        kernel = solution.kernel.astype(np.longdouble)
        found = (kernel**2).sum(-2 if per_output else (-2, -1))
        eps = np.finfo(dtype).eps
        assert np.abs(found / norm_sq - 1).max() <= 16 * eps
        assert np.abs(solution.norm_sq / norm_sq - 1).max() <= 16 * eps
        assert solution.norm_error.max() <= 16 * eps

    def test_the_certificate_bounds_the_gap_every_time(self, per_output, dtype, solve):
        _, _, solution, gap, unit, rounding, _ = solved(dtype, per_output, solve)
        assert np.all(gap <= solution.gap_bound)
        # And it says something: it is rounding too, though a looser kind.
        assert (solution.gap_bound / rounding).max() <= 2000 * np.finfo(dtype).eps
        well_posed = solution.gap_bound / unit
        if dtype == np.float64:
            assert well_posed[rows("gaussian")].max() <= 1e-11

    def test_the_multiplier_has_the_sign_of_the_pull(self, per_output, dtype, solve):
        _, _, solution, *_ = solved(dtype, per_output, solve)
        multiplier = solution.multiplier[rows("gaussian")]
        assert np.all(multiplier[:, :2] > 0) and np.all(multiplier[:, 3:] < 0)


@DTYPES
@WAYS
def test_the_free_part_follows_the_tie_break(dtype, solve):
    data, _, solution, *_, tie_break = solved(dtype, True, solve)
    tie_break = tie_break / np.linalg.norm(tie_break, axis=0)
    for family in ("duplicated", "dead_and_constant", "few_rows", "one_hot"):
        for i in range(len(data.features))[rows(family)]:
            basis = problems.free_directions(
                problems.Problem(*(part[i] for part in data))
            )
            wanted = basis.T @ tie_break
            for j in (3, 4, 5):
                found = basis.T @ solution.kernel[i, j]
                lengths = np.linalg.norm(found, axis=0) * np.linalg.norm(wanted, axis=0)
                assert ((found * wanted).sum(0) / lengths).min() >= 0.99, family
                assert np.all(solution.is_hard_case[i, j])


@WAYS
def test_well_posed_problems_are_not_called_hard(solve):
    _, _, solution, *_ = solved(np.float64, True, solve)
    for family in ("gaussian", "mean_100_sigma", *problems.NEAR_HARD):
        assert not np.any(solution.is_hard_case[rows(family)]), family
    assert np.all(solution.is_hard_case[rows("hard"), 4:].sum() >= 12)


def gaussian(seed=0, n=40, d=6, k=2, dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 1
    targets = features @ rng.normal(size=(d, k)) + rng.normal(size=(n, k))
    return features.astype(dtype), targets.astype(dtype)


def quadratic_of(features, targets):
    moments = oracles.moments(features, targets)
    return moments.cov_xx.astype(float), moments.cov_xt.astype(float)


solve_data = jax.jit(
    lambda x, t, c, tie=None, **options: solve_norm(
        lj.compute_moments(x, t), c, tie_break=tie, **options
    ),
    static_argnames=("relation", "metric", "use_bias"),
)


@pytest.mark.parametrize(("n", "k"), [(12, 100), (60, 1)])  # n < d, and n > d
def test_one_and_a_hundred_outputs_with_few_and_many_rows(x64, n, k):
    features, targets = gaussian(n=n, d=30, k=k)
    free = oracles.minimum_norm(features, targets)
    for norm_sq in (2 * (free**2).sum(0), 0.5 * (free**2).sum()):
        solution = solve_data(features, targets, norm_sq)
        moments = oracles.moments(features, targets)
        quadratic = oracles.diagonalise(moments.cov_xx, moments.cov_xt, sweeps=1)
        per_output = norm_sq.ndim == 1
        gap = oracles.optimality_gap(quadratic, solution.kernel, per_output)
        assert np.all(gap / moments.var_t.max() <= 1e-13)
        assert solution.status == lj.Status.SUCCESS
        wanted = oracles.objective(features, targets, solution.kernel, solution.bias)
        unit = moments.var_t.sum()  # twelve rows are met exactly: nothing is left
        np.testing.assert_allclose(solution.objective, wanted, atol=1e-11 * unit)


def test_the_multiplier_is_the_smallest_real_eigenvalue(x64):
    features, targets = gaussian()
    covariance, cross = quadratic_of(features, targets)
    for norm_sq in (0.1, 1.0, 50.0):
        solution = solve_data(features, targets, np.full(2, norm_sq))
        for j in range(2):
            wanted = oracles.eigenproblem_multiplier(covariance, cross[:, j], norm_sq)
            np.testing.assert_allclose(solution.multiplier[j], wanted, rtol=1e-7)


def test_no_wrong_basin_where_a_local_solver_has_many(x64):
    d, ratios = 15, np.array([4.0, 30.0, 300.0])
    data = problems.stack(
        [problems.make("gaussian", 100 + i, n=60, d=d, k=1) for i in range(20)],
        np.float64,
    )
    moments = oracles.moments(*data)
    quadratic = oracles.diagonalise(moments.cov_xx, moments.cov_xt)
    each_ratio = oracles.Quadratic(*(part[:, None] for part in quadratic))
    variance = moments.var_t[:, None]
    free = [oracles.minimum_norm(*row) for row in zip(*data, strict=True)]
    norm_sq = ratios[:, None] * (np.stack(free) ** 2).sum(1)[:, None]
    rng, ours, theirs = np.random.default_rng(0), [], []
    for _ in range(3):
        tie_break = rng.normal(size=(d, 1))
        solution = solve_all(*data, norm_sq, tie_break)
        ours.append(oracles.optimality_gap(each_ratio, solution.kernel) / variance)
        kernels = np.zeros((20, 3, d, 1))
        for i, j in np.ndindex(20, 3):
            start = rng.normal(size=d)
            start *= np.sqrt(norm_sq[i, j, 0]) / np.linalg.norm(start)
            covariance = moments.cov_xx[i].astype(float)
            cross = moments.cov_xt[i, :, 0].astype(float)
            kernels[i, j, :, 0] = oracles.slsqp(
                covariance, cross, norm_sq[i, j, 0], start
            )
        theirs.append(oracles.optimality_gap(each_ratio, kernels) / variance)
    assert np.max(ours) <= 1e-13  # 180 runs
    wrong = np.asarray(theirs) > 1e-4
    assert wrong[:, :, 1:].mean() > 0.2


class TestAtMost:
    @pytest.mark.parametrize(("n", "per_output"), [(5, True), (40, False)])
    def test_inside_the_ball_is_the_minimum_norm_solution(self, x64, n, per_output):
        features, targets = gaussian(n=n)
        free = oracles.minimum_norm(features, targets)
        norm_sq = 1.5 * (free**2).sum(0 if per_output else None)
        solution = solve_data(features, targets, norm_sq, relation="at_most")
        np.testing.assert_allclose(solution.kernel, free, rtol=1e-8, atol=1e-10)
        assert not np.any(solution.multiplier) and not np.any(solution.is_hard_case)
        assert not np.any(solution.norm_error)
        assert solution.status == lj.Status.SUCCESS and np.all(solution.is_global)

    @SPHERES
    def test_on_the_sphere_it_is_the_equality(self, x64, per_output):
        features, targets = gaussian()
        free = oracles.minimum_norm(features, targets)
        norm_sq = 0.3 * (free**2).sum(0 if per_output else None)
        ball = solve_data(features, targets, norm_sq, relation="at_most")
        sphere = solve_data(features, targets, norm_sq)
        chex.assert_trees_all_close(ball, sphere, rtol=1e-12, atol=1e-14)

    def test_each_output_decides_for_itself(self, x64):
        features, targets = gaussian()
        free = (oracles.minimum_norm(features, targets) ** 2).sum(0)
        solution = solve_data(
            features, targets, free * np.array([0.5, 2]), relation="at_most"
        )
        assert solution.multiplier[0] > 0 and solution.multiplier[1] == 0

    def test_slsqp_finds_nothing_better(self, x64):
        features, targets = gaussian(k=1)
        covariance, cross = quadratic_of(features, targets)
        free = (oracles.minimum_norm(features, targets) ** 2).sum()
        for ratio in (0.2, 0.9, 3.0):
            solution = solve_data(
                features, targets, np.array([ratio * free]), relation="at_most"
            )
            wanted = oracles.slsqp(
                covariance, cross[:, 0], ratio * free, np.zeros(6), "at_most"
            )
            np.testing.assert_allclose(solution.kernel[:, 0], wanted, atol=1e-5)


class TestExact:
    @pytest.mark.parametrize("relation", ["equality", "at_most"])
    @pytest.mark.parametrize("ratio", [0.25, 9.0])
    @SPHERES
    def test_the_output_variance_is_as_wanted(self, x64, relation, ratio, per_output):
        features, targets = gaussian()
        free = oracles.minimum_norm(features, targets)
        mean_variance = features.var(0).mean()
        reached = (features @ free).var(0) / mean_variance
        norm_sq = ratio * (reached if per_output else reached.sum())
        solution = solve_data(
            features, targets, norm_sq, metric="output_variance", relation=relation
        )
        variance = (features @ solution.kernel).var(0) / mean_variance
        variance = variance if per_output else variance.sum()
        binds = relation == "equality" or ratio < 1
        wanted = norm_sq if binds else norm_sq / ratio
        np.testing.assert_allclose(variance, wanted, rtol=1e-12)
        np.testing.assert_allclose(solution.norm_sq, wanted, rtol=1e-12)
        assert solution.status == lj.Status.SUCCESS and np.all(solution.is_global)
        if not binds:
            np.testing.assert_allclose(solution.kernel, free, rtol=1e-9)

    @pytest.mark.parametrize("norm_sq", [0.05, 20.0])
    def test_slsqp_finds_nothing_better(self, x64, norm_sq):
        features, targets = gaussian(k=1)
        covariance, cross = quadratic_of(features, targets)
        metric = covariance / np.trace(covariance) * 6
        solution = solve_data(
            features, targets, np.array([norm_sq]), metric="output_variance"
        )
        value = lambda w: w @ covariance @ w - 2 * cross[:, 0] @ w  # noqa: E731
        ours = value(np.asarray(solution.kernel)[:, 0])
        rng = np.random.default_rng(0)
        starts = rng.normal(size=(10, 6))
        found = []
        for start in starts * np.sqrt(norm_sq):
            w = oracles.slsqp(covariance, cross[:, 0], norm_sq, start, metric=metric)
            found.append(value(w * np.sqrt(norm_sq / (w @ metric @ w))))
        np.testing.assert_allclose(ours, min(found), rtol=1e-9)
        pull = covariance + float(solution.multiplier[0]) * metric
        kkt = cross - pull @ np.asarray(solution.kernel)
        np.testing.assert_allclose(kkt, 0, atol=1e-12 * np.abs(cross).max())

    @SPHERES
    @pytest.mark.parametrize("relation", ["equality", "at_most"])
    def test_a_target_without_covariance(self, x64, relation, per_output):
        features, _ = gaussian()
        solution = solve_data(
            features,
            np.full((40, 2), 3.0),
            np.ones(2) if per_output else 1.0,
            metric="output_variance",
            relation=relation,
        )
        assert solution.status == lj.Status.SUCCESS
        assert np.any(solution.kernel) == (relation == "equality")


class TestHardCase:
    def test_no_load_at_all_takes_the_tie_break_to_the_bottom(self, x64):
        rng = np.random.default_rng(0)
        features, tie_break = rng.normal(size=(50, 4)), rng.normal(size=(4, 2))
        features[:, 2:] = 0
        for scale in (1e-6, 1.0, 1e6):  # of no unit: the data's own counts
            targets = np.full((50, 2), 7.0)
            solution = solve_data(scale * features, targets, np.ones(2), tie_break)
            wanted = tie_break[2:] / np.linalg.norm(tie_break[2:], axis=0)
            np.testing.assert_allclose(solution.kernel[2:], wanted, atol=1e-6)
            np.testing.assert_allclose(solution.bias, 7.0, rtol=1e-6)
            assert solution.status == lj.Status.SUCCESS
            assert np.all(solution.is_hard_case)

    def test_features_without_variance(self):
        features = np.full((50, 4), 2.0, np.float32)
        targets = np.linspace(0, 1, 100, dtype=np.float32).reshape(50, 2)
        for relation in ("equality", "at_most"):
            solution = solve_data(features, targets, np.float32(1), relation=relation)
            assert solution.status == lj.Status.SUCCESS
            outputs = features[0] @ np.asarray(solution.kernel) + solution.bias
            np.testing.assert_allclose(outputs, targets.mean(0), rtol=1e-5)
        exact = solve_data(features, targets, np.float32(1), metric="output_variance")
        assert exact.status == lj.Status.NOT_CONVERGED  # no kernel has that variance
        assert np.all(np.isfinite(exact.kernel))

    def test_a_zero_tie_break_is_replaced(self, x64):
        features, targets = gaussian(n=4)
        zero = solve_data(features, targets, np.full(2, 1e3), np.zeros((6, 2)))
        default = solve_data(features, targets, np.full(2, 1e3))
        np.testing.assert_allclose(zero.kernel, default.kernel, rtol=1e-12)
        assert zero.status == lj.Status.SUCCESS

    def test_a_rotation_of_the_features_rotates_the_kernel(self, x64):
        # Another basis of the free space must not change what is put into it.
        features, targets = gaussian(n=4)
        rng = np.random.default_rng(2)
        rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
        tie_break = rng.normal(size=(6, 2))
        plain = solve_data(features, targets, np.full(2, 1e3), tie_break)
        rotated = solve_data(
            features @ rotation, targets, np.full(2, 1e3), rotation.T @ tie_break
        )
        cosine = (np.asarray(plain.kernel) * (rotation @ rotated.kernel)).sum(0) / 1e3
        assert cosine.min() >= 0.999


GRADIENT_CASES: dict[str, Any] = {
    "shrinking": (0.2, {}),
    "inflating": (6.0, {}),
    "at_most_on_the_sphere": (0.2, {"relation": "at_most"}),
    "at_most_inside": (6.0, {"relation": "at_most"}),
    "exact": (0.4, {"metric": "output_variance"}),
    "exact_at_most_inside": (6.0, {"metric": "output_variance", "relation": "at_most"}),
    "without_bias": (0.2, {"use_bias": False}),
}


class TestGradients:
    """Reverse mode against central differences of fourth order, every entry."""

    @staticmethod
    def check(features, targets, norm_sq, weights=None, live=slice(None), **options):
        rng = np.random.default_rng(5)
        probe = rng.normal(size=(features.shape[1], targets.shape[1]))
        weights = rng.uniform(0.5, 1.5, len(features)) if weights is None else weights
        parts = dict(
            features=features, targets=targets, weights=weights, norm_sq=norm_sq
        )
        point, unravel = ravel_pytree(parts)

        def value(point):
            parts = unravel(point)
            norm_sq = parts.pop("norm_sq")
            solution = solve_norm(
                lj.compute_moments(**parts), norm_sq, tie_break=probe, **options
            )
            total = jnp.vdot(probe, solution.kernel) + jnp.cos(solution.bias).sum()
            return total + solution.multiplier.sum() + 0.3 * solution.objective

        both = jax.jit(lambda x, xs: (jax.grad(value)(x), jax.vmap(value)(xs)))
        gradient: Any = None

        def values(points):
            nonlocal gradient
            gradient, found = both(point, points)
            return found

        wanted = oracles.central_difference(values, point, step=2e-4)
        wanted = unravel(jnp.asarray(wanted))
        found: Any = unravel(gradient)
        for name in parts:
            a, b = np.asarray(found[name]), np.asarray(wanted[name])
            if name == "features":
                a, b = a[:, live], b[:, live]
            assert np.abs(a - b).max() <= 1e-6 * (np.abs(b).max() + 1e-3), name

    @pytest.mark.parametrize(
        ("case", "per_output"),
        [
            *((case, True) for case in GRADIENT_CASES),
            ("inflating", False),
            ("at_most_on_the_sphere", False),
            ("exact", False),
        ],
    )
    def test_features_targets_weights_and_norm(self, x64, case, per_output):
        ratio, options = GRADIENT_CASES[case]
        features, targets = gaussian(n=8, d=3)
        free = oracles.minimum_norm(features, targets)
        if options.get("metric"):
            free = (features @ free).std(0, keepdims=True)
            free = free / np.sqrt(features.var(0).mean())
        norm_sq = ratio * (free**2).sum(0 if per_output else None)
        self.check(features, targets, np.asarray(norm_sq), **options)

    @pytest.mark.parametrize("norm_sq", [0.1, 5.0])
    def test_all_eigenvalues_equal(self, x64, norm_sq):
        # S is the identity exactly: Walsh functions. Automatic differentiation
        # through an eigendecomposition gives NaN here.
        walsh = np.array([[1.0]])
        for _ in range(3):
            walsh = np.block([[walsh, walsh], [walsh, -walsh]])
        targets = np.random.default_rng(0).normal(size=(8, 2))
        self.check(walsh[:, 1:4], targets, np.full(2, norm_sq), np.ones(8))

    @pytest.mark.parametrize("ratio", [0.3, 4.0])  # the second is the hard case
    def test_two_dead_features(self, x64, ratio):
        features, targets = gaussian(n=8, d=5)
        features[:, 3:] = 0
        free = oracles.minimum_norm(features, targets)
        # In the hard case a dead feature that wakes up changes the problem.
        live = slice(None) if ratio < 1 else slice(3)
        self.check(features, targets, ratio * (free**2).sum(0), live=live)

    @pytest.mark.parametrize(
        ("ratio", "options"),
        [
            (0.3, {}),
            (3.0, {"relation": "at_most"}),
            (0.4, {"metric": "output_variance"}),
        ],
    )
    def test_fewer_rows_than_features(self, x64, ratio, options):
        # The minimum-norm solution turns with the space that the rows span.
        features, targets = gaussian(n=4, d=5, k=1)
        free = oracles.minimum_norm(features, targets)
        norm_sq = ratio * (free**2).sum(0)
        self.check(features, targets, norm_sq, **options)

    def test_the_price_of_norm_is_the_multiplier(self, x64):
        features, targets = gaussian()
        loss = lambda c: solve_data(features, targets, c).objective  # noqa: E731
        norm_sq = jnp.array([0.5, 20.0])
        multiplier = solve_data(features, targets, norm_sq).multiplier
        np.testing.assert_allclose(jax.grad(loss)(norm_sq), -multiplier, rtol=1e-9)


class TestTransforms:
    def test_jit_equals_eager(self):
        features, targets = gaussian(dtype=np.float32)
        moments = lj.compute_moments(features, targets)
        with jax.disable_jit():
            eager = solve_norm(moments, jnp.ones(2))
        jitted = solve_norm(moments, jnp.ones(2))
        chex.assert_trees_all_close(eager, jitted, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(eager.kernel, jitted.kernel, atol=2e-5)

    def test_vmap_equals_a_loop(self, x64):
        data, norm_sq, *_, tie_break = solved(np.float64, True)
        some = slice(0, 3 * SEEDS, SEEDS)
        batched = solve_all(*(part[some] for part in data), norm_sq[some], tie_break)
        for i, row in enumerate(range(*some.indices(3 * SEEDS))):
            moments = jax.jit(lj.compute_moments)(*(part[row] for part in data))
            for j in (0, 4):
                single = solve_norm(moments, norm_sq[row, j], tie_break=tie_break)
                np.testing.assert_allclose(
                    batched.kernel[i, j], single.kernel, rtol=1e-6, atol=1e-8
                )
                np.testing.assert_allclose(
                    batched.multiplier[i, j], single.multiplier, rtol=1e-6, atol=1e-9
                )

    def test_sharded_rows_give_the_whole_solution(self):
        features, targets = gaussian(dtype=np.float32)
        mesh = jax.make_mesh((8,), ("rows",), (AxisType.Auto,))
        put = functools.partial(
            jax.device_put, device=NamedSharding(mesh, PartitionSpec("rows"))
        )
        norm_sq = np.ones(2, np.float32)
        sharded = solve_data(put(features), put(targets), norm_sq)
        whole = solve_data(features, targets, norm_sq)
        np.testing.assert_allclose(sharded.kernel, whole.kernel, atol=1e-5)
        np.testing.assert_allclose(sharded.objective, whole.objective, rtol=1e-5)

    def test_one_trace_serves_all_norms(self):
        chex.clear_trace_counter()
        moments = lj.compute_moments(*gaussian(dtype=np.float32))

        @jax.jit
        @chex.assert_max_traces(n=1)
        def once(moments, norm_sq):
            return solve_norm(lj.decompose(moments), norm_sq)

        for norm_sq in (0.1, 1.0, 10.0):
            once(moments, jnp.full(2, norm_sq))

    def test_one_spectrum_serves_many_norms(self, x64):
        features, targets = gaussian()
        spectrum = lj.decompose(lj.compute_moments(features, targets))
        norms = jnp.array([[0.1, 0.2], [3.0, 4.0]])
        many = jax.jit(jax.vmap(functools.partial(solve_norm, spectrum)))(norms)
        for i in range(2):
            one = solve_data(features, targets, norms[i])
            np.testing.assert_allclose(many.kernel[i], one.kernel, rtol=1e-9)

    def test_ridge_of_twice_the_multiplier(self, x64):
        features, targets = gaussian()
        solution = solve_data(features, targets, 0.4)
        # Strength s adds s / 2 ||W||^2 to the mean squared error; scikit-learn's
        # alpha multiplies ||W||^2 beside the sum over examples.
        strength = 2 * float(solution.multiplier)
        ridge = Ridge(alpha=len(features) * strength / 2).fit(features, targets)
        np.testing.assert_allclose(solution.kernel, ridge.coef_.T, rtol=1e-8)
        np.testing.assert_allclose(solution.bias, ridge.intercept_, rtol=1e-8)

    def test_a_head_without_bias(self, x64):
        features, targets = gaussian()
        solution = solve_data(features, targets, 0.4, use_bias=False)
        ridge = Ridge(alpha=40 * float(solution.multiplier), fit_intercept=False)
        wanted = ridge.fit(features, targets).coef_.T
        np.testing.assert_allclose(solution.kernel, wanted, rtol=1e-8)
        assert not np.any(solution.bias)
        value = oracles.objective(features, targets, solution.kernel, 0.0)
        np.testing.assert_allclose(solution.objective, value, rtol=1e-10)


def moments_of_nothing_special():
    return lj.compute_moments(*gaussian(dtype=np.float32))


@pytest.mark.parametrize(
    ("norm_sq", "options", "message"),
    [
        (0.0, {}, "norm_sq > 0"),
        (-1.0, {}, "norm_sq > 0"),
        (np.inf, {}, "norm_sq > 0"),
        (np.ones(3), {}, r"or \(2,\) for one sphere an output; got \(3,\)"),
        (1.0, {"relation": "at least"}, "relation to be one of"),
        (1.0, {"tie_break": np.ones((6, 1))}, r"tie_break of shape \(6, 2\)"),
    ],
)
def test_mistakes_are_refused(norm_sq, options, message):
    spectrum = lj.decompose(moments_of_nothing_special())
    with pytest.raises(ValueError, match=message):
        solve_norm(spectrum, norm_sq, **options)
