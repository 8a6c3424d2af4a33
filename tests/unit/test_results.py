"""Rows, CSV and xarray hold the numbers of the grid, each at its coordinates."""

import csv
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj
from lagrange_jax.training.tables import summarize, to_rows, to_xarray, write_csv

STRENGTHS, SIZES = np.array([0.1, 0.2, 0.3], np.float32), np.array([8, 16])


class Values(NamedTuple):
    variables: Any
    validation_loss: Any
    info: Any


@pytest.fixture
def result():
    shape = (3, 2, 4)
    loss = np.random.default_rng(0).normal(size=(*shape, 5)).astype(np.float32)
    values = Values(
        {
            "kernel": np.zeros((*shape, 7, 7)),
            "key": jax.random.split(jax.random.key(0)),
        },
        loss,
        {"objective": loss[..., 0] + 1},
    )
    axes = {
        "strength": jnp.asarray(STRENGTHS),
        "num_examples": jnp.asarray(SIZES),
        "key": jax.random.split(jax.random.key(0), 4),
    }
    return lj.GridResult(axes, values)


def test_rows_are_the_grid_in_order(result):
    rows = list(to_rows(result))
    columns = ["strength", "num_examples", "key"]
    assert list(rows[0]) == columns + [f"validation_loss[{i}]" for i in range(5)]
    expected = itertools.product(STRENGTHS, SIZES, range(4))
    assert [tuple(row[c] for c in columns) for row in rows] == list(expected)
    np.testing.assert_array_equal(
        [row["validation_loss[2]"] for row in rows],
        result.values.validation_loss[..., 2].ravel(),
    )


def test_fields_are_chosen_by_name_or_branch(result):
    row = next(to_rows(result, ["info"]))
    assert list(row)[3:] == ["info.objective"]
    with pytest.raises(ValueError, match="expected fields among"):
        next(to_rows(result, ["los"]))


def test_csv_is_exact(result, tmp_path):
    write_csv(result, tmp_path / "grid.csv")
    with open(tmp_path / "grid.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 and rows[8]["strength"] == "0.2"
    read = [np.float32(row["validation_loss[4]"]) for row in rows]
    np.testing.assert_array_equal(read, result.values.validation_loss[..., 4].ravel())


def test_float64_is_a_bare_number(tmp_path):
    axes = {"strength": np.array([0.1])}
    write_csv(lj.GridResult(axes, {"loss": np.array([1 / 3])}), tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == f"strength,loss\n0.1,{1 / 3}\n"


def test_xarray_selects_by_value(result):
    pytest.importorskip("xarray")
    data = to_xarray(result)
    assert data.validation_loss.dims == ("strength", "num_examples", "key", "record")
    found = data.validation_loss.sel(strength=STRENGTHS[1], num_examples=16, key=3)
    np.testing.assert_array_equal(found, result.values.validation_loss[1, 1, 3])
    assert list(data.data_vars) == ["validation_loss"]


def _solution(batch, status: Any):
    numbers: Any = np.full((*batch, 2), 0.5)
    return lj.HeadSolution(
        kernel=numbers[..., None, :] * np.ones((4, 1)),
        bias=numbers,
        multiplier=numbers * [1, 2],
        norm_sq=numbers,
        objective=numbers[..., 0],
        stationarity=numbers,
        norm_error=numbers,
        gap_bound=numbers,
        is_global=numbers > 0,
        is_hard_case=numbers < 0,
        status=status,
    )


def test_summary_of_one_and_of_many():
    one = summarize((None, _solution((), lj.Status.SUCCESS)))
    assert one.startswith("head 4 x 2: SUCCESS\n")
    assert "multiplier         0.5 to 1\n" in one and "squared norm       0.5\n" in one
    assert "hard case" not in one
    many = [lj.Status.SUCCESS, lj.Status.INVALID_NORM, lj.Status.SUCCESS]
    text = summarize(_solution((3,), many))
    assert text.startswith("head 4 x 2, 3 of them: SUCCESS 2, INVALID_NORM 1\n")
    assert summarize(None) == "no solved heads"
