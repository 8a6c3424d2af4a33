"""Two processes on one machine, joined as hosts are: what one alone would give."""

import contextlib
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import lagrange_jax as lj
from experiments.benchmarks.pod import moments_bytes
from lagrange_jax.training.grid import grid_mesh, run_grid
from tests.processes import multihost_worker as worker
from tests.unit.test_moments import assert_close, data

ROOT = Path(__file__).parents[2]
RANKS = (0, 1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(stack, rank, port, folder):
    """Starts one process; leaving the stack ends it, whatever became of the test."""
    log = stack.enter_context((folder / f"{rank}.log").open("w"))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.processes.multihost_worker"),
            *(str(rank), str(port), str(folder)),
        ],
        cwd=ROOT,
        # One device each: on a CPU, devices of one process share its few threads.
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the two processes found."""
    folder, port = tmp_path_factory.mktemp("hosts"), free_port()
    with contextlib.ExitStack() as stack:
        processes = [start(stack, rank, port, folder) for rank in RANKS]
        for rank, process in zip(RANKS, processes, strict=True):
            process.wait(timeout=600)
            output = (folder / f"{rank}.log").read_text()
            assert process.returncode == 0, output[-3000:]
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in RANKS]


GIVEN = data(mean=3.0, n=worker.N)


@pytest.mark.parametrize("route", ["laid", "streamed"])
@pytest.mark.parametrize("rank", RANKS)
def test_moments_are_those_of_all_examples(found, route, rank):
    assert_close(found[rank][route], *GIVEN)


def test_heads_are_those_of_one_device(found):
    key, model = jax.random.key(0), worker.make_model()
    one = lj.initialize(key, model, worker.SOLVE, GIVEN, eval_batch_size=64)
    wanted, wanted_info = worker.to_numpy(one)
    for rank in RANKS:
        variables, info = found[rank]["head"]
        for a, b in zip(*map(jax.tree.leaves, (variables, wanted)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(info.objective, wanted_info.objective, rtol=1e-5)
        features = worker.head_inputs(wanted, GIVEN[0])
        assert_close(found[rank]["tapped"], features, *GIVEN[1:])
    first, second = (jax.tree.leaves(found[rank]["head"]) for rank in RANKS)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_features_do_not_leave_their_host(found):
    for rank in RANKS:
        expected = {"all-reduce": moments_bytes(worker.D, worker.K)}
        assert found[rank]["moved"] == expected


@pytest.mark.parametrize("name", ["whole", "alone", "swept"])
def test_grids_are_those_of_one_device(found, name):
    """30 combinations in chunks of 7; the first process alone has what was saved."""
    one = grid_mesh(jax.devices()[:1])
    wanted = worker.to_numpy(
        run_grid(worker.TRAIN, worker.make_grid(), mesh=one).values
    )
    for rank in RANKS:
        for a, b in zip(
            *map(jax.tree.leaves, (found[rank][name], wanted)), strict=True
        ):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(*map(np.float64, (a, b)), rtol=1e-4, atol=1e-5)


def test_a_sweep_goes_on_and_a_refusal_reaches_all(found):
    for rank in RANKS:
        assert found[rank]["told"] == [8, 16, 24, 30]
    # Texts of programs have no addresses and no order of hashes in them.
    names = [found[rank]["configuration"] for rank in RANKS]
    assert names[0] == names[1] and len(names[0]["the function"]) == 16
    assert "holds results of another sweep" in str(found[0]["refusal"])
    assert "process 0 could not go on" in str(found[1]["refusal"])
