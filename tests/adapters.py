"""What both adapters promise of a model, whatever the kind of module."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lagrange_jax.models.params import get_layer, set_layer


def as_rows(x):
    return np.asarray(x.reshape(-1, x.shape[-1]).astype(jnp.float32))


def features_by_derivative(model, variables, x):
    """Recovers the head's inputs from the derivative of the outputs by its kernel.

    d outputs[n, 0] / d kernel[:, 0] = features[n]: no hooks, no taps.
    """
    kernel = get_layer(variables, model.head)["kernel"]

    def first_outputs(column):
        moved = set_layer(variables, model.head, kernel=kernel.at[:, 0].set(column))
        outputs = model.apply(moved, x).reshape(-1, kernel.shape[1])
        return outputs[:, 0].astype(jnp.float32)

    return jax.jit(jax.jacrev(first_outputs))(kernel[:, 0])


def check_head_tap(model, variables, x, outputs, tolerance=1e-5):
    """The tap has the inputs of the head, and its outputs are those of the network."""
    tap = jax.jit(model.taps)(variables, x, jax.random.key(0))[model.head]
    expected = features_by_derivative(model, variables, x)
    outputs = outputs.reshape(tap.outputs.shape)
    pairs = (as_rows(tap.inputs), expected), (as_rows(tap.outputs), as_rows(outputs))
    for found, wanted in pairs:
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def check_training_mode(model, inference, variables, x, hidden, statistics):
    """Dropout is drawn by key, and batch statistics move half of the way.

    Args:
      model: batch normalisation with momentum 0.5 behind the layer `hidden`, then
        dropout of one half, then the head; taps of the training mode.
      inference: the same network with taps of the inference mode.
      variables: of both.
      x: inputs.
      hidden: path of the layer.
      statistics: takes the variables to the statistics of the batch normalisation.
    """
    key = jax.random.key(0)
    outputs, updated = jax.jit(model.apply_train)(variables, x, key)
    again, _ = model.apply_train(variables, x, key)
    other, _ = model.apply_train(variables, x, jax.random.key(9))
    np.testing.assert_allclose(outputs, again, rtol=1e-5, atol=1e-6)
    assert jnp.max(jnp.abs(outputs - other)) > 0.1
    layer = get_layer(variables, hidden)
    mean = jnp.mean(x @ layer["kernel"], axis=0) + layer["bias"]
    np.testing.assert_allclose(statistics(updated)["mean"], mean / 2, atol=1e-6)
    chex.assert_trees_all_equal_structs(variables, updated)
    tap = model.taps(variables, x, key)[model.head]
    np.testing.assert_allclose(tap.outputs, outputs, rtol=1e-5, atol=1e-6)
    taps, once = model.tap_train(variables, x, key)
    chex.assert_trees_all_close(taps[model.head], tap, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(once, updated, rtol=1e-5, atol=1e-6)
    assert inference.tap_train is None
    assert 0.2 < jnp.mean(tap.inputs == 0) < 0.8
    assert not jnp.any(inference.taps(variables, x, key)[model.head].inputs == 0)


def check_static_argument(model, variables, x):
    run = jax.jit(lambda model, v, x: model.apply(v, x), static_argnums=0)
    expected = model.apply(variables, x)
    np.testing.assert_allclose(run(model, variables, x), expected, rtol=1e-5)
