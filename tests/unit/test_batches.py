"""Arrays and streams as one fold."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj
from lagrange_jax.batches import is_arrays

INPUTS = np.arange(20, dtype=np.float32).reshape(10, 2)
TARGETS = np.arange(10, dtype=np.float32)[:, None]
WEIGHTS = np.linspace(0, 1, 10, dtype=np.float32)


def total(state, batch, factor):
    weights = jnp.ones(len(batch.targets)) if batch.weights is None else batch.weights
    return (
        state[0] + factor * (weights @ batch.inputs),
        state[1] + weights @ batch.targets,
        state[2] + len(batch.targets),
    )


START: Any = (jnp.zeros(2), jnp.zeros(1), 0)


def fold(batches):
    return batches.fold(total, START, 2.0)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 64])
def test_arrays_are_folded_whole_whatever_the_batch_size(batch_size):
    batches = lj.batches.as_batches((INPUTS, TARGETS, WEIGHTS), batch_size)
    inputs, targets, count = fold(batches)
    np.testing.assert_allclose(inputs, 2 * WEIGHTS @ INPUTS, rtol=1e-6)
    np.testing.assert_allclose(targets, WEIGHTS @ TARGETS, rtol=1e-6)
    assert count == 10
    np.testing.assert_array_equal(batches.first.inputs, INPUTS[:batch_size])


def parts():
    return [(INPUTS[:4], TARGETS[:4]), (INPUTS[4:], TARGETS[4:])]


def test_a_list_may_be_folded_over_often():
    batches = lj.batches.as_batches(parts())
    for _ in range(2):
        np.testing.assert_allclose(fold(batches)[0], 2 * INPUTS.sum(0))
    np.testing.assert_array_equal(batches.first.targets, TARGETS[:4])


def test_an_iterator_is_good_for_one_pass():
    batches = lj.batches.as_batches(iter(parts()))
    np.testing.assert_allclose(fold(batches)[0], 2 * INPUTS.sum(0))
    with pytest.raises(ValueError, match="used up, and a second pass was asked for"):
        fold(batches)


class Record(NamedTuple):
    inputs: Any
    targets: Any
    engine: Any  # other fields of a data set are not weights


def test_records_are_read_by_name():
    batches = lj.batches.as_batches(Record(INPUTS, TARGETS, np.arange(10)))
    assert batches.first.weights is None
    np.testing.assert_allclose(fold(batches)[1], TARGETS.sum(0))


def test_inputs_may_be_any_tree():
    batches = lj.batches.as_batches(({"a": INPUTS, "b": (TARGETS,)}, TARGETS), 4)
    found = batches.fold(lambda s, b: s + b.inputs["b"][0].sum(), jnp.zeros(()))
    assert found == TARGETS.sum() and batches.first.inputs["a"].shape == (4, 2)


def test_a_boolean_mask_is_a_weight():
    mask = np.arange(10) < 3
    np.testing.assert_allclose(
        fold(lj.batches.as_batches((INPUTS, TARGETS, mask)))[1], TARGETS[:3].sum(0)
    )


def test_arrays_are_told_from_iterables():
    assert is_arrays((INPUTS, TARGETS)) and is_arrays((INPUTS, TARGETS, WEIGHTS))
    assert not is_arrays(parts()) and not is_arrays(INPUTS)
    assert not is_arrays(tuple(parts()))


BAD: dict[str, Any] = {
    "same number of examples": (INPUTS, TARGETS[:9]),
    "same number of examples, at least one": (INPUTS[:0], TARGETS[:0]),
    r"leading axes \[\(9,\), \(10,\)\]": (INPUTS, TARGETS, WEIGHTS[:9]),
    "the iterable is empty": [],
    r"expected a batch \(inputs, targets\)": [INPUTS],
    r"weights \[n\], floating-point or a boolean": (INPUTS, TARGETS, np.arange(10)),
    r"one a position of targets \[10, 1\]; got float32": (
        INPUTS,
        TARGETS,
        np.ones((10, 3), np.float32),
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_mistakes_are_refused(message):
    with pytest.raises(ValueError, match=message):
        lj.batches.as_batches(BAD[message])


def test_a_single_array_is_refused():
    with pytest.raises(TypeError, match=r"expected .*got ndarray"):
        lj.batches.as_batches(INPUTS)


def test_a_later_batch_is_checked_too():
    batches = lj.batches.as_batches([parts()[0], (INPUTS, TARGETS[:3])])
    with pytest.raises(ValueError, match="same number of examples"):
        fold(batches)


def test_arrays_fold_inside_a_trace():
    found = jax.jit(lambda *data: fold(lj.batches.as_batches(data, 4)))(INPUTS, TARGETS)
    np.testing.assert_allclose(found[0], 2 * INPUTS.sum(0))
