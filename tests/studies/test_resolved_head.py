"""The study of re-solved heads in small: its record, figure and verdicts."""

from functools import partial

import jax
import numpy as np
import pytest

from experiments import launch
from experiments.common import record
from experiments.studies.resolved_head import tables
from experiments.studies.resolved_head.config import Config


@pytest.fixture
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.usefixtures("standard_promotion")
def test_smoke(tmp_path, capsys):
    arguments = ["resolved_head", "--smoke", "--out", str(tmp_path)]
    assert launch.main(arguments) == 0
    table = capsys.readouterr().out
    assert "diabetes" in table and "decay 0.99" in table
    assert (tmp_path / "verdicts.png").stat().st_size > 1000
    rows = record.read_rows(tmp_path)
    assert launch.main(arguments) == 0
    assert record.read_rows(tmp_path) == rows
    assert len(tables.read_verdicts(tmp_path)[0].loss) == len(Config.smoke().seeds)


def verdict(time, loss):
    time, loss = np.array(time), np.array(loss)
    make = partial(tables.Verdict, "p", "zero", 1e-3, "decay 0.9", 1e-3, 1.0)
    return make(time, time, loss, loss)


def test_verdicts():
    assert tables.is_faster(verdict([0.7, 0.8, 0.9], [1, 1, 1]))
    assert not tables.is_faster(verdict([0.1, 0.1, np.inf], [1, 1, 1]))
    assert tables.tell_apart(np.array([0.9, 0.91, 0.92])) == "lower"
    assert tables.tell_apart(np.array([1.1, 1.11, 1.12])) == "higher"
    assert tables.tell_apart(np.array([0.5, 1.0, 1.2])) == ""
    assert tables.tell_apart(np.array([0.1, 0.1, np.inf])) == "higher"
    assert tables.tell_apart(np.array([0.1, 0.1])) == ""
