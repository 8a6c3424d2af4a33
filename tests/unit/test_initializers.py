"""Init transforms on Flax models, from one array pair or a stream."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lagrange_jax as lj
import lagrange_jax.models.linen
from tests import oracles

N, K = 40, 2


class MLP(nn.Module):
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        options = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        x = nn.tanh(nn.Dense(6, **options)(x))
        return nn.Dense(K, use_bias=self.use_bias, **options)(x)


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x))
        return nn.Dense(K)(x)


INPUTS = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
TARGETS = np.stack([np.sin(INPUTS[:, 0]), INPUTS[:, 1] * INPUTS[:, 2]], 1)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, N).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return lagrange_jax.models.linen.as_model(MLP(), INPUTS[:1])


SOLVE = lj.lagrange(lj.constraints.variance_scaling())


def loss(model, variables, inputs=INPUTS, targets=TARGETS, weights=None):
    errors = np.asarray(model.apply(variables, inputs), np.float64) - targets
    errors = (errors**2).reshape(-1, targets.shape[-1]).sum(1)
    return np.average(errors, weights=weights)


def norms(variables, model):
    return (np.asarray(lj.models.get_layer(variables, model.head)["kernel"]) ** 2).sum(
        0
    )


class TestLagrange:
    def test_the_network_starts_at_the_loss_that_was_promised(self, key, model):
        variables, info = lj.initialize(key, model, SOLVE, (INPUTS, TARGETS))
        np.testing.assert_allclose(loss(model, variables), info.objective, rtol=1e-5)
        np.testing.assert_allclose(norms(variables, model), 1, rtol=1e-6)
        lj.check(info)

    def test_no_head_of_that_norm_is_better(self, key, model):
        variables, info = lj.initialize(key, model, SOLVE, (INPUTS, TARGETS))
        taps = model.taps(variables, INPUTS, key)
        features = np.asarray(taps[model.head].inputs, np.float64)
        moments = oracles.moments(features, TARGETS)
        quadratic = oracles.diagonalise(moments.cov_xx, moments.cov_xt)
        gap = oracles.optimality_gap(quadratic, info.kernel)
        assert np.all(gap <= 2e-6 * moments.var_t)

    def test_only_the_head_is_touched(self, key, model):
        variables, _ = lj.initialize(key, model, SOLVE, (INPUTS, TARGETS))
        drawn = MLP().init(key, INPUTS[:1])
        layer = ("Dense_0",)
        chex.assert_trees_all_equal(
            lj.models.get_layer(variables, layer), lj.models.get_layer(drawn, layer)
        )

    def test_the_default_lets_the_data_choose_the_norm(self, key, model):
        default = lj.initialize(key, model, lj.lagrange(), (INPUTS, TARGETS))
        init = lj.lagrange(lj.loss_within())
        chosen = lj.initialize(key, model, init, (INPUTS, TARGETS))
        chex.assert_trees_all_equal(default, chosen)

    @pytest.mark.parametrize("batch_size", [7, 40])
    def test_weights_and_batch_sizes(self, key, model, batch_size):
        data = INPUTS, TARGETS, WEIGHTS
        variables, info = lj.initialize(
            key, model, SOLVE, data, eval_batch_size=batch_size
        )
        promised = loss(model, variables, weights=WEIGHTS)
        np.testing.assert_allclose(info.objective, promised, rtol=1e-5)

    def test_a_mask_is_a_subset(self, key, model):
        mask = np.arange(N) < 25
        inputs = np.where(mask[:, None], INPUTS, np.nan)
        _, masked = lj.initialize(key, model, SOLVE, (inputs, TARGETS, mask))
        _, subset = lj.initialize(key, model, SOLVE, (INPUTS[:25], TARGETS[:25]))
        np.testing.assert_allclose(masked.kernel, subset.kernel, atol=2e-4)
        np.testing.assert_allclose(masked.objective, subset.objective, rtol=1e-5)

    def test_a_head_without_bias(self, key):
        model = lagrange_jax.models.linen.as_model(MLP(use_bias=False), INPUTS[:1])
        variables, info = lj.initialize(key, model, SOLVE, (INPUTS, TARGETS + 1))
        promised = loss(model, variables, targets=TARGETS + 1)
        np.testing.assert_allclose(info.objective, promised, rtol=1e-5)
        assert not np.any(info.bias)

    def test_a_bfloat16_model_has_float32_statistics(self, key):
        module = MLP(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
        inputs = INPUTS.astype(jnp.bfloat16)
        model = lagrange_jax.models.linen.as_model(module, inputs[:1])
        variables, info = lj.initialize(key, model, SOLVE, (inputs, TARGETS))
        assert info.kernel.dtype == jnp.float32
        head = lj.models.get_layer(variables, model.head)
        assert head["kernel"].dtype == head["bias"].dtype == jnp.bfloat16
        np.testing.assert_allclose(
            loss(model, variables, inputs), info.objective, rtol=0.02
        )
        lj.check(info)

    def test_batch_normalisation_as_the_user_chose(self, key):
        objectives = []
        # Small enough to bind: else both find the least-squares solution.
        solve = lj.lagrange(lj.constraints.fixed_norm(0.01))
        for features in ("inference", "training"):
            model = lagrange_jax.models.linen.as_model(
                Normalised(),
                INPUTS[:1],
                tap_mode=features,
                train_kwargs={"train": True},
            )
            variables, info = lj.initialize(key, model, solve, (INPUTS, TARGETS))
            outputs = model.apply(variables, INPUTS)
            if features == "training":
                outputs, _ = model.apply_train(variables, INPUTS, key)
            promised = ((np.asarray(outputs) - TARGETS) ** 2).sum(1).mean()
            np.testing.assert_allclose(info.objective, promised, rtol=1e-5)
            objectives.append(float(info.objective))
        assert abs(objectives[0] - objectives[1]) > 1e-4

    def test_every_position_of_a_sequence_is_an_example(self, key, model):
        inputs = INPUTS.reshape(10, 4, 3)
        targets, weights = TARGETS.reshape(10, 4, K), WEIGHTS[:10]
        _, sequences = lj.initialize(key, model, SOLVE, (inputs, targets, weights))
        flat = INPUTS, TARGETS, np.repeat(weights, 4)
        _, rows = lj.initialize(key, model, SOLVE, flat)
        np.testing.assert_allclose(sequences.kernel, rows.kernel, atol=2e-4)
        np.testing.assert_allclose(sequences.objective, rows.objective, rtol=1e-5)

    def test_a_single_output_takes_targets_without_an_axis(self, key):
        model = lagrange_jax.models.linen.as_model(nn.Dense(1), INPUTS[:1])
        _, vector = lj.initialize(key, model, SOLVE, (INPUTS, TARGETS[:, 0]))
        _, column = lj.initialize(key, model, SOLVE, (INPUTS, TARGETS[:, :1]))
        chex.assert_trees_all_equal(vector, column)

    @pytest.mark.parametrize("metric", ["euclidean", "output_variance"])
    def test_a_constant_target_keeps_the_random_direction(self, key, model, metric):
        targets = np.stack([TARGETS[:, 0], np.full(N, 5.0, np.float32)], 1)
        init = lj.lagrange(lj.constraints.variance_scaling(metric=metric))
        variables, info = lj.initialize(key, model, init, (INPUTS, targets))
        lj.check(info)
        np.testing.assert_array_equal(info.is_hard_case, [False, True])
        found = loss(model, variables, targets=targets)
        np.testing.assert_allclose(info.objective, found, rtol=1e-4, atol=1e-6)


class Dataset(NamedTuple):
    inputs: Any
    targets: Any
    weights: Any = None


class TestData:
    def test_a_stream_equals_arrays(self, key, model):
        rows = np.split(np.arange(N), [10, 20])
        parts = [(INPUTS[r], TARGETS[r], WEIGHTS[r]) for r in rows]
        data = INPUTS, TARGETS, WEIGHTS
        _, whole = lj.initialize(key, model, SOLVE, data)
        for stream in (parts, iter(parts)):
            variables, info = lj.initialize(key, model, SOLVE, stream)
            np.testing.assert_allclose(info.kernel, whole.kernel, atol=2e-4)
            np.testing.assert_allclose(info.objective, whole.objective, rtol=1e-5)
            found = lj.models.get_layer(variables, model.head)["kernel"]
            np.testing.assert_array_equal(found, info.kernel)

    def test_records_with_inputs_and_targets(self, key, model):
        data = Dataset(INPUTS, TARGETS)
        found = lj.initialize(key, model, SOLVE, data)
        wanted = lj.initialize(key, model, SOLVE, (INPUTS, TARGETS))
        chex.assert_trees_all_equal(found, wanted)

    def test_lsuv_then_lagrange_need_two_passes(self, key, model):
        init = lj.chain(SOLVE, SOLVE)
        with pytest.raises(ValueError, match="used up, and a second pass"):
            lj.initialize(key, model, init, iter([(INPUTS, TARGETS)]))
        lj.initialize(key, model, init, [(INPUTS, TARGETS)])


class TestReinitialize:
    @pytest.mark.parametrize(
        "make",
        [
            jax.nn.initializers.lecun_normal,
            jax.nn.initializers.glorot_normal,
            jax.nn.initializers.glorot_uniform,
            jax.nn.initializers.he_normal,
            jax.nn.initializers.orthogonal,
            lj.initializers.negative_mean,
        ],
    )
    def test_any_initializer_serves(self, key, model, make):
        variables, info = lj.initialize(key, model, lj.reinitialize(make()))
        assert info is None
        drawn = MLP().init(key, INPUTS[:1])
        for path in model.layers:
            layer, old = (lj.models.get_layer(v, path) for v in (variables, drawn))
            assert np.any(layer["kernel"] != old["kernel"])
            assert not np.any(layer["bias"])
            chex.assert_trees_all_equal_shapes_and_dtypes(layer, old)

    def test_its_kernels_are_the_initializers_own(self, key, model):
        ones: Any = lambda key, shape, dtype: jnp.ones(shape, dtype)  # noqa: E731
        variables, _ = lj.initialize(key, model, lj.reinitialize(ones, head_only=True))
        assert np.all(lj.models.get_layer(variables, model.head)["kernel"] == 1)
        drawn = MLP().init(key, INPUTS[:1])
        chex.assert_trees_all_equal(
            lj.models.get_layer(variables, ("Dense_0",)),
            lj.models.get_layer(drawn, ("Dense_0",)),
        )

    def test_layers_draw_different_numbers(self, key):
        model = lagrange_jax.models.linen.as_model(
            nn.Sequential([nn.Dense(3), nn.Dense(3)]), INPUTS[:1]
        )
        variables, _ = lj.initialize(
            key, model, lj.reinitialize(jax.nn.initializers.he_normal())
        )
        first, second = (
            lj.models.get_layer(variables, p)["kernel"] for p in model.layers
        )
        assert np.all(first != second)


class TestLsuv:
    @pytest.mark.parametrize("std", [1.0, 0.5])
    def test_every_layer_puts_out_the_wanted_deviation(self, key, model, std):
        init = lj.lsuv(std=std)
        variables, info = lj.initialize(key, model, init, (INPUTS, TARGETS))
        for path, tap in model.taps(variables, INPUTS, key).items():
            np.testing.assert_allclose(np.std(tap.outputs), std, rtol=1e-4)
            assert info["/".join(map(str, path))] > 0

    def test_kernels_are_orthogonal_up_to_their_scale(self, key, model):
        variables, _ = lj.initialize(key, model, lj.lsuv(), (INPUTS, TARGETS))
        kernel = np.asarray(lj.models.get_layer(variables, ("Dense_0",))["kernel"])
        gram = kernel @ kernel.T
        np.testing.assert_allclose(gram / gram[0, 0], np.eye(3), atol=1e-5)

    def test_masked_examples_do_not_count(self, key, model):
        mask = np.arange(N) < 20
        inputs = np.where(mask[:, None], INPUTS, 1e3).astype(np.float32)
        masked, _ = lj.initialize(key, model, lj.lsuv(), (inputs, TARGETS, mask))
        subset, _ = lj.initialize(key, model, lj.lsuv(), (INPUTS[:20], TARGETS[:20]))
        chex.assert_trees_all_close(masked, subset, rtol=1e-4, atol=1e-5)

    def test_a_dead_layer_keeps_its_kernel(self, key, model):
        zero: Any = lambda key, shape, dtype: jnp.zeros(shape, dtype)  # noqa: E731
        variables, _ = lj.initialize(key, model, lj.lsuv(zero), (INPUTS, TARGETS))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(variables))


def test_chain_applies_in_order_and_collects_infos(key, model):
    init = lj.chain(lj.reinitialize(jax.nn.initializers.he_normal()), lj.lsuv(), SOLVE)
    variables, infos = lj.initialize(key, model, init, (INPUTS, TARGETS))
    assert infos[0] is None and set(infos[1]) == {"Dense_0", "Dense_1"}
    np.testing.assert_allclose(loss(model, variables), infos[2].objective, rtol=1e-5)
    hidden = model.taps(variables, INPUTS, key)[("Dense_0",)].outputs
    np.testing.assert_allclose(np.std(hidden), 1, rtol=1e-4)


def test_an_ensemble_by_vmap_is_a_loop_over_seeds(model):
    init = lj.chain(lj.reinitialize(jax.nn.initializers.he_normal()), SOLVE)
    keys = jax.random.split(jax.random.key(7), 4)
    run = lambda key: lj.initialize(key, model, init, (INPUTS, TARGETS))  # noqa: E731
    variables, (_, infos) = jax.vmap(run)(keys)
    for i, key in enumerate(keys):
        single, (_, info) = run(key)
        member = jax.tree.map(lambda leaf, i=i: leaf[i], variables)
        chex.assert_trees_all_close(member, single, rtol=1e-3, atol=2e-4)
        np.testing.assert_allclose(infos.objective[i], info.objective, rtol=1e-5)
        assert infos.status[i] == info.status == lj.Status.SUCCESS
    assert len({float(value) for value in infos.objective}) == 4


def test_the_head_is_the_same_however_it_is_compiled(key, model, monkeypatch):
    """A network over many numbers is optimised in full."""
    solve = lambda: lj.initialize(key, model, lj.lagrange(), (INPUTS, TARGETS))[1]  # noqa: E731
    quick = solve()
    for limit in ("_FEW_NUMBERS", "_MANY_NUMBERS"):
        monkeypatch.setattr(f"lagrange_jax._compile.{limit}", 0)
        chex.assert_trees_all_close(solve(), quick, rtol=1e-4, atol=1e-5)


def test_one_trace_serves_all_seeds(model):
    chex.clear_trace_counter()
    init: Any = chex.assert_max_traces(lambda *args: SOLVE(*args), n=1)
    for seed in range(3):
        lj.initialize(jax.random.key(seed), model, init, (INPUTS, TARGETS))


@pytest.mark.parametrize(
    "cause", ["NONFINITE_FEATURES", "NONFINITE_TARGETS", "NO_DATA"]
)
def test_a_failed_solve_keeps_the_models_own_parameters(key, model, cause):
    inputs, targets, weights = INPUTS.copy(), TARGETS.copy(), WEIGHTS.copy()
    if cause == "NO_DATA":
        weights[:] = 0
    else:
        (inputs if cause == "NONFINITE_FEATURES" else targets)[3, 1] = np.nan
    variables, info = lj.initialize(key, model, SOLVE, (inputs, targets, weights))
    chex.assert_trees_all_equal(variables, model.init(key))
    assert info.status == lj.Status[cause]
    with pytest.raises(ValueError, match=cause):
        lj.check(info)


@pytest.mark.parametrize(
    "draw", ["lecun_normal", "he_uniform", "orthogonal", "truncated_normal"]
)
def test_the_body_is_drawn_to_the_bit_as_flax_draws_it(key, draw):
    network = nn.Sequential(
        [nn.Dense(9, kernel_init=getattr(nn.initializers, draw)()), nn.Dense(K)]
    )
    model = lj.linen.as_model(network, INPUTS[:2])
    variables, _ = lj.initialize(key, model, SOLVE, (INPUTS, TARGETS))
    drawn = jax.jit(network.init)(key, INPUTS[:2])
    chex.assert_trees_all_equal(
        variables["params"]["layers_0"], drawn["params"]["layers_0"]
    )


LABELS = np.arange(N) % K
BAD: dict[str, Any] = {
    "needs data": None,
    "floating-point targets for squared error; got int.*one_hot": (INPUTS, LABELS),
    r"targets of shape \(40, 2\), as the head puts out": (INPUTS, TARGETS[:, :1]),
    r"got \(40,\)": (INPUTS, TARGETS[:, 0]),
    "same number of examples": (INPUTS, TARGETS[:7]),
    "at least one": (INPUTS[:0], TARGETS[:0]),
    "the iterable is empty": [],
}


@pytest.mark.parametrize("message", BAD)
def test_mistakes_are_refused(key, model, message):
    with pytest.raises(ValueError, match=message):
        lj.initialize(key, model, SOLVE, BAD[message])


@pytest.mark.parametrize("use_bias", [True, False])
def test_few_examples_of_many_features_take_the_gram_matrix(use_bias, key):
    network = nn.Sequential([nn.Dense(80), nn.tanh, nn.Dense(K, use_bias=use_bias)])
    model = lagrange_jax.models.linen.as_model(network, INPUTS[:1])
    init = lj.lagrange(lj.constraints.fixed_norm(0.1))

    def solve(data):
        return lj.initialize(key, model, init, data)

    assert f"f32[{N},{N}]" in str(jax.make_jaxpr(solve)((INPUTS, TARGETS)))
    stream = [(INPUTS[:25], TARGETS[:25]), (INPUTS[25:], TARGETS[25:])]
    (by_gram, info), (by_moments, _) = solve((INPUTS, TARGETS)), solve(stream)
    lj.check(info)
    np.testing.assert_allclose(
        *(model.apply(x, INPUTS) for x in (by_gram, by_moments)), rtol=1e-3, atol=1e-3
    )
