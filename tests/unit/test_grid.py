"""Grids: the same as a loop, labelled, one trace, chunked and sharded."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import lagrange_jax.models.linen
from lagrange_jax.constraints.propagation import variance_scaling
from lagrange_jax.initializers.lagrange import lagrange
from lagrange_jax.initializers.transforms import chain, reinitialize
from lagrange_jax.training import _plan as grid_plan
from lagrange_jax.training._memory import choose_size
from lagrange_jax.training.grid import grid_mesh, run_grid
from lagrange_jax.training.train import make_train
from lagrange_jax.types import Batch

STRENGTHS = np.array([0.0, 0.01, 0.1])
SIZES = [5, 12]


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(jnp.tanh(nn.Dense(3)(x)))


INPUTS = jax.random.normal(jax.random.key(3), (12, 2))
MODEL = lagrange_jax.models.linen.as_model(MLP(), INPUTS[:1])


def keys(count=3):
    return jax.random.split(jax.random.key(7), count)


def ridge_sgd(strength):
    return optax.chain(optax.add_decayed_weights(strength), optax.sgd(0.1))


def axes_of(strengths, sizes, keys, **extra):
    return {"strength": strengths, "num_examples": sizes, "key": keys, **extra}


def train_mlp(init=None, optimizer_fn=ridge_sgd, **schedule):
    data = Batch(INPUTS, jnp.sin(INPUTS[:, :1]))
    schedule = schedule or {"num_epochs": 4}
    loss = optax.losses.squared_error
    return make_train(MODEL, loss, optimizer_fn, init, data, **schedule)


def draw(key, strength, num_examples):
    """Cheap stand-in for training, with an array, a scalar and a key in its result."""
    noise = jax.random.normal(key, (2,))
    value = strength * num_examples.astype(jnp.float32)
    return {"vector": noise + value, "size": num_examples, "key": key}


@pytest.mark.parametrize("vmap_axes", [None, ["strength"], ["num_examples", "key"]])
@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_every_combination_lands_in_its_place(vmap_axes, chunk_size):
    result = run_grid(
        draw,
        axes_of(STRENGTHS, SIZES, keys()),
        vmap_axes=vmap_axes,
        chunk_size=chunk_size,
    )
    assert list(result.axes) == ["strength", "num_examples", "key"]
    assert result.values["vector"].shape == (3, 2, 3, 2)
    for i, j, k in itertools.product(range(3), range(2), range(3)):
        expected = np.asarray(jax.random.normal(keys()[k], (2,)))
        found = result.values["vector"][i, j, k]
        np.testing.assert_allclose(found, expected + STRENGTHS[i] * SIZES[j], rtol=1e-6)
        assert result.values["size"][i, j, k] == SIZES[j]
        assert result.values["key"][i, j, k] == keys()[k]


def test_a_grid_of_training_runs_is_a_loop_over_them():
    draw_body = reinitialize(jax.nn.initializers.he_normal())
    train = train_mlp(chain(draw_body, lagrange(variance_scaling())))
    result = run_grid(train, axes_of(STRENGTHS, SIZES, keys(2)))
    one = jax.jit(train)
    for i, j, k in itertools.product(range(3), range(2), range(2)):
        alone = one(keys(2)[k], jnp.float32(STRENGTHS[i]), jnp.int32(SIZES[j]))
        member = jax.tree.map(lambda x, at=(i, j, k): x[at], result.values)
        # A loss of 1e-4 is what cancellation leaves of outputs of order one.
        chex.assert_trees_all_close(member.train_loss, alone.train_loss, rtol=1e-4)
        chex.assert_trees_all_close(member.variables, alone.variables, atol=1e-5)
    assert not result.values.diverged.any()


@pytest.mark.parametrize("chunk_size", [None, 8])
def test_one_trace_for_the_whole_grid(chunk_size):
    chex.clear_trace_counter()
    train = chex.assert_max_traces(train_mlp(), n=1)
    grid = axes_of(STRENGTHS, SIZES, keys())
    first = run_grid(train, grid, chunk_size=chunk_size)
    chex.assert_trees_all_equal(first, run_grid(train, grid, chunk_size=chunk_size))


def test_progress_is_told_after_every_chunk():
    told = []
    mesh = grid_mesh(jax.devices()[:2])
    run_grid(
        draw,
        axes_of(STRENGTHS, SIZES, keys()),
        mesh=mesh,
        chunk_size=7,  # rounded up to the two devices: 8
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(8, 18), (16, 18), (18, 18)]


def test_a_memory_limit_gives_a_chunk_size():
    def train(key, strength, num_examples):
        x = jnp.exp(jax.random.normal(key, (32, 32)) * strength)
        return jnp.sort(x @ x, axis=0)[num_examples]

    mesh = grid_mesh(jax.devices()[:2])
    strengths = jnp.linspace(0, 1, 20)
    axes = axes_of(strengths, jnp.array(SIZES), keys(4))
    plan = grid_plan.plan_grid(train, axes, mesh)

    def need(size):
        found = grid_plan.bytes_per_device(plan, size)
        assert found is not None
        return found

    least, most = need(1), need(plan.total // 2)
    assert most > 4 * least
    limit = (least + most) / 3
    size = choose_size(plan, None, limit, in_steps=False)
    assert need(size) <= limit
    assert need(size + plan.total // 20) > limit  # no more than 10 % too small
    assert choose_size(plan, None, most, in_steps=False) == plan.total // 2
    told = []
    run_grid(
        train, axes, mesh=mesh, memory_limit=limit, progress=lambda n, _: told.append(n)
    )
    assert told[0] == min(2 * size, 16)  # a tenth, or what fits
    with pytest.raises(ValueError, match=f"at least {least} bytes"):
        run_grid(train, axes, mesh=mesh, memory_limit=least - 1)


def test_devices_and_chunks_change_no_result():
    train = train_mlp(num_epochs=3, batch_size=4)
    grid = axes_of(STRENGTHS, SIZES, keys())
    one = run_grid(train, grid, mesh=grid_mesh(jax.devices()[:1]))
    all_of_them = run_grid(train, grid)
    chunked = run_grid(train, grid, mesh=grid_mesh(jax.devices()[:3]), chunk_size=4)
    chex.assert_trees_all_close(one.values, all_of_them.values, atol=1e-6)
    chex.assert_trees_all_close(one.values, chunked.values, atol=1e-6)


@pytest.mark.parametrize("inner", [(), ("strength", "num_examples")])
def test_devices_never_speak_to_each_other(inner):
    # Mini-batches of traced sizes: a loop whose length depends on the member.
    train = train_mlp(chain(lagrange()), num_epochs=2, batch_size=4)
    axes = jax.tree.map(jnp.asarray, axes_of(jnp.array(STRENGTHS), SIZES, keys(8)))
    axes["num_examples"] = jnp.array(SIZES)
    plan = grid_plan.plan_grid(train, axes, grid_mesh(), inner)
    assert plan.num_devices == 8
    compiled = grid_plan.compile_part(plan, 1)
    text = str(compiled.as_text())
    words = "all-reduce", "all-gather", "all-to-all", "collective-permute"
    assert "while" in text and not any(word in text for word in words)
    for sharding in jax.tree.leaves(compiled.output_shardings):
        assert sharding.spec[0] == "grid"


def test_further_axes_are_arguments_by_name():
    def train(key, strength, num_examples, scale, method, rates):
        def scaled(key, model, variables, batches):
            solved, _ = lagrange()(key, model, variables, batches)

            def pick(random, solved):
                return jnp.where(method == 0, scale * random, solved)

            return jax.tree.map(pick, variables, solved), None

        def optimizer_fn(strength):
            return optax.chain(
                optax.add_decayed_weights(strength * rates["decay"]),
                optax.sgd(rates["step"]),
            )

        return train_mlp(scaled, optimizer_fn)(key, strength, num_examples)

    extra = {
        "scale": jnp.array([0.1, 1.0, 10.0]),
        "method": jnp.arange(2),
        "rates": {"decay": jnp.ones(1), "step": jnp.full(1, 0.1)},
    }
    result = run_grid(train, axes_of(STRENGTHS[:1], SIZES, keys(2), **extra))
    assert result.values.train_loss.shape == (1, 2, 2, 3, 2, 1, 2)
    start = result.select(strength=0, rates=0).values.kernel_norm[..., 0, :]
    random, solved = start[:, :, :, 0], start[:, :, :, 1]
    np.testing.assert_allclose(random[:, :, 2], 100 * random[:, :, 0], rtol=1e-5)
    np.testing.assert_allclose(solved[:, :, 2], solved[:, :, 0], rtol=1e-5)


def test_select_drops_the_chosen_axes():
    result = run_grid(draw, axes_of(STRENGTHS, SIZES, keys()))
    part = result.select(num_examples=1, strength=2)
    assert list(part.axes) == ["key"]
    np.testing.assert_array_equal(part.values["vector"], result.values["vector"][2, 1])
    with pytest.raises(ValueError, match="among"):
        result.select(sizes=0)


def test_a_result_may_leave_out_the_networks():
    train = train_mlp()

    def curves(**arguments):
        return train(**arguments)._replace(variables=None)

    grid = axes_of(STRENGTHS, SIZES, keys(1))
    full, thin = run_grid(train, grid), run_grid(curves, grid)
    assert thin.values.variables is None
    chex.assert_trees_all_close(thin.values.train_loss, full.values.train_loss)


def test_mistakes_in_the_axes_are_refused():
    with pytest.raises(ValueError, match="share the length"):
        run_grid(draw, axes_of({"a": np.ones(2), "b": np.ones(3)}, SIZES, keys()))
    with pytest.raises(ValueError, match="at least one"):
        run_grid(draw, axes_of(0.1, SIZES, keys()))
    with pytest.raises(ValueError, match="among"):
        run_grid(draw, axes_of(STRENGTHS, SIZES, keys()), vmap_axes=["strengths"])
