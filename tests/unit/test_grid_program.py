"""One program for a grid: data are its arguments, sizes are known, waits are told."""

import logging
import time
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lagrange_jax as lj
from lagrange_jax._progress import announce
from lagrange_jax.training import _plan, _program
from lagrange_jax.training.train import make_train
from tests.unit.test_objective import linear_model, squared_error

N = 50
RNG = np.random.default_rng(1)
INPUTS = RNG.normal(size=(N, 3)).astype(np.float32)
TARGETS = INPUTS[:, :1] + RNG.normal(size=(N, 1)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 2)
MESH = lj.training.grid_mesh(jax.devices()[:2])


def make(inputs=INPUTS, targets=TARGETS, init=None, **options):
    options = {"num_steps": 3, **options}
    data: Any = inputs, targets
    return make_train(linear_model(), squared_error, optax.sgd, init, data, **options)


def curves(train):
    """What a user writes to leave out the networks: a closure."""
    return lambda **axes: train(**axes).train_loss


def run(train, sizes=(10, N), **options):
    axes = {"strength": [0.1, 0.2], "num_examples": list(sizes), "key": KEYS}
    return lj.run_grid(train, axes, mesh=MESH, **options)


@pytest.fixture
def compilations(monkeypatch):
    """The programs that are compiled, as they are handed to the compiler."""
    found, compile_program = [], _program._compile.__wrapped__

    def count(program):
        found.append(program.lowered.as_text())
        return compile_program(program)

    _program._compile.cache_clear()
    cached = _program.functools.lru_cache(maxsize=8)(count)
    monkeypatch.setattr(_program, "_compile", cached)
    return found


def test_other_data_of_the_same_shape_compile_nothing(compilations):
    first = run(curves(make())).values
    second = run(curves(make(2 * INPUTS))).values
    assert len(compilations) == 1
    # The data are arguments: no constant of their size is in the program.
    largest = max(
        len(line) for line in compilations[0].splitlines() if "constant dense" in line
    )
    assert largest < 200
    for values, inputs in ((first, INPUTS), (second, 2 * INPUTS)):
        alone = make(inputs)(KEYS[1], 0.2, 10).train_loss
        np.testing.assert_allclose(values[1, 0, 1], alone, rtol=1e-5)
    run(curves(make(np.tile(INPUTS, (2, 1)), np.tile(TARGETS, (2, 1)))), [10, 2 * N])
    assert len(compilations) == 2


def test_one_program_serves_the_question_of_memory_and_the_run(compilations):
    run(curves(make()), memory_limit=1e9)
    run(curves(make()), memory_limit=1e9, chunk_size=8)
    assert len(compilations) == 1


def test_convolutions_keep_what_the_last_level_gains_them(monkeypatch):
    def options(function):
        lowered = jax.jit(function).lower(jnp.ones((2, 8, 3)))
        asked = []
        monkeypatch.setattr(
            lowered, "compile", lambda **x: asked.append(x), raising=False
        )
        _program.compile_once(lowered, (jax.devices()[0],))
        return asked[0]["compiler_options"]

    level = "xla_backend_optimization_level"
    dense = options(lambda x: jnp.tanh(x @ jnp.ones((3, 4))))
    convolved = options(lambda x: jax.lax.conv(x, jnp.ones((5, 8, 2)), (1,), "SAME"))
    assert dense[level] == 2 and level not in convolved


def test_functions_that_call_python_share_no_program(compilations):
    def calling(factor):
        like = jax.ShapeDtypeStruct((), jnp.float32)
        host = lambda x: np.float32(factor) * x  # noqa: E731
        return lambda strength: jax.pure_callback(
            host, like, strength, vmap_method="expand_dims"
        )

    for factor in (2, 3):
        found = lj.run_grid(calling(factor), {"strength": [1.0, 2.0]}, mesh=MESH)
        np.testing.assert_allclose(found.values, [factor, 2 * factor])
    assert len(compilations) == 2


@pytest.mark.parametrize("batch_size", [None, 4])
def test_sizes_in_groups_give_the_same(batch_size, tmp_path):
    options: Any = dict(num_epochs=3, num_steps=None, batch_size=batch_size)
    sizes, told = [5, 50, 7, 16, 3], []
    whole = run(curves(make(**options)), sizes)
    grouped = run(
        curves(make(**options)),
        sizes,
        group_sizes=True,
        folder=tmp_path,
        chunk_size=8,
        progress=lambda done, total: told.append((done, total)),
    )
    chex.assert_trees_all_equal(grouped.axes, whole.axes)
    np.testing.assert_allclose(grouped.values, whole.values, rtol=1e-4, atol=1e-6)
    assert told == [(4, 20), (12, 20), (16, 20), (20, 20)]
    assert sorted(x.name for x in tmp_path.iterdir()) == [
        "sizes-16",
        "sizes-4",
        "sizes-64",
        "sizes-8",
    ]


def test_a_group_holds_no_more_examples_than_it_uses():
    axes = {"num_examples": jnp.array([3, 7]), "strength": jnp.ones(2), "key": KEYS}
    plan = _plan.plan_grid(curves(make()), axes, MESH)
    program = str(plan.layout.program.jaxpr)
    assert "f32[7,3]" in program and program.count("f32[50,3]") == 1  # cut at once


@pytest.mark.parametrize("sizes", [[25, 500], [0, 25], [-3, 25]])
def test_sizes_beyond_the_data_are_refused(sizes):
    with pytest.raises(ValueError, match=f"num_examples between 1 and the {N} "):
        run(curves(make()), sizes)
    with pytest.raises(ValueError, match="num_examples between 1"):
        make()(KEYS[0], 0.1, max(sizes, key=lambda n: abs(n - 25)))


def test_fractions_are_refused():
    with pytest.raises(ValueError, match="num_examples as an integer"):
        run(curves(make()), [0.5, 1.0])


def test_a_size_that_nobody_could_know_is_a_failed_run():
    result = jax.jit(make())(KEYS[0], 0.1, 500)
    assert result.diverged and np.isnan(result.train_loss).all()


def test_a_seed_is_a_key():
    train = curves(make())
    seeds = lj.run_grid(train, {"strength": [0.1], "key": [0, 3]}, mesh=MESH)
    wanted = train(strength=jnp.float32(0.1), key=jax.random.key(3))
    np.testing.assert_allclose(seeds.values[0, 1], wanted, rtol=1e-6)


def test_members_without_a_solved_head_are_told(caplog):
    """One example has no variance: there is nothing to solve."""
    train = make(init=lj.lagrange(lj.constraints.fixed_norm(1.0)))
    with caplog.at_level(logging.WARNING, "lagrange_jax"):
        result = run(train, [1, N])
    np.testing.assert_array_equal(result.values.is_solved[:, 0], False)
    np.testing.assert_array_equal(result.values.is_solved[:, 1], True)
    assert "4 of 8 heads of the grid were not solved as asked" in caplog.text
    caplog.clear()
    run(train, [N])
    assert "heads" not in caplog.text


def test_whoever_waits_is_told(caplog):
    with caplog.at_level(logging.WARNING, "lagrange_jax"):
        with announce(lambda: "compiling", after=0.05):
            time.sleep(0.3)
        told = [record.message.split(" for ")[0] for record in caplog.records]
        time.sleep(0.2)
    assert told == ["compiling"] * len(told) and 2 <= len(told) <= 3
    assert len(caplog.records) == len(told)


def test_the_scheduler_that_wedges_is_off_or_named(caplog, monkeypatch):
    import lagrange_jax.training.scheduler as scheduler
    from lagrange_jax import _compile

    init = lj.lagrange(lj.constraints.fixed_norm(1.0))
    train = make(init=init)
    arguments = KEYS[0], jnp.float32(0.1)
    monkeypatch.setenv("XLA_FLAGS", "--one=1")
    _compile._warn.cache_clear()
    with caplog.at_level(logging.WARNING, "lagrange_jax"):
        axes = {"strength": [0.1], "key": KEYS}
        _plan.plan_grid(
            train, jax.tree.map(jnp.asarray, {**axes, "strength": jnp.ones(1)}), MESH
        )
        assert "scheduler" not in caplog.text  # run_grid compiles without it
        jax.eval_shape(train, *arguments)
        assert caplog.text.count("scheduler is on") == 1
        scheduler.disable_scheduler()
        _compile._warn.cache_clear()
        jax.eval_shape(train, *arguments)
    assert caplog.text.count("scheduler is on") == 1
    flags = scheduler.os.environ["XLA_FLAGS"]
    scheduler.disable_scheduler()
    assert flags == scheduler.os.environ["XLA_FLAGS"]
    assert flags.startswith(
        "--one=1 --xla_cpu_enable_concurrency_optimized_scheduler=f"
    )
