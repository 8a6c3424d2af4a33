"""The network's own loss is compared with the one that was solved for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
T = (X[:, :2] - 0.5 * X[:, 1:]).astype(np.float32) + 1


def linear_model(scale=1.0, dtype=jnp.float32):
    """One affine layer by hand; `scale` of the output is not in its taps."""

    def init(key):
        kernel = 0.1 * jax.random.normal(key, (3, 2), dtype)
        return {"params": {"head": {"kernel": kernel, "bias": jnp.zeros(2, dtype)}}}

    def head(variables, inputs):
        layer = variables["params"]["head"]
        outputs = inputs.astype(dtype) @ layer["kernel"] + layer["bias"][None]
        return outputs.astype(jnp.float32)

    def taps(variables, inputs, key) -> dict[Any, Any]:
        return {("head",): lj.types.Tap(inputs, head(variables, inputs))}

    def apply(variables, inputs):
        return scale * head(variables, inputs)

    return lj.Model(
        init=init,
        apply=apply,
        apply_train=lambda variables, inputs, key: (
            apply(variables, inputs),
            variables,
        ),
        taps=taps,
        layers=(("head",),),
        head=("head",),
    )


INIT = lj.lagrange(lj.constraints.fixed_norm(0.5))


@pytest.mark.parametrize("data", [(X, T), [(X[:30], T[:30]), (X[30:], T[30:])]])
def test_a_network_with_another_output_ends_in_a_status(data, key):
    model = linear_model(1.01)
    variables, info = lj.initialize(key, model, INIT, data)
    assert info.status == lj.Status.MISMATCH
    drawn = model.init(key)["params"]["head"]
    np.testing.assert_allclose(
        variables["params"]["head"]["kernel"], drawn["kernel"], rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"MISMATCH.*network's own loss"):
        lj.check(info)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rounding_is_no_mismatch(dtype, key):
    model = linear_model(dtype=dtype)
    variables, info = lj.initialize(key, model, INIT, (X, T))
    assert info.status == lj.Status.SUCCESS
    loss = ((np.asarray(model.apply(variables, X)) - T) ** 2).sum(1).mean()
    tolerance = 1e-3 if dtype == jnp.float32 else 1e-1
    np.testing.assert_allclose(loss, info.objective, rtol=tolerance)


def test_equal_options_are_one_transform():
    normal = jax.nn.initializers.he_normal
    makers = [
        lambda: lj.lagrange(),
        lambda: lj.lagrange(lj.constraints.fixed_norm(2.0)),
        lambda: lj.lagrange(loss="cross_entropy"),
        lambda: lj.lsuv(std=2.0),
        lambda: lj.chain(lj.reinitialize(normal()), lj.lagrange()),
        lambda: lj.reinitialize(lj.initializers.negative_mean()),
        lambda: lj.reinitialize(normal(), head_only=True),
    ]
    for make in makers:
        assert make() == make() and hash(make()) == hash(make())
    assert len({make() for make in makers}) == len(makers)


def test_a_loop_of_equal_transforms_compiles_once(key):
    model, traces, first = linear_model(), [], 0

    def counted(variables, inputs, key):
        traces.append(key)
        return model.taps(variables, inputs, key)

    counting = model._replace(taps=counted)
    for seed in range(3):
        init = lj.lagrange(lj.constraints.fixed_norm(0.5))
        lj.initialize(jax.random.key(seed), counting, init, (X, T))
        first = len(traces) if seed == 0 else first
    assert len(traces) == first
