"""Sweeps that are killed, damaged, run twice and out of disk: no chunk is lost."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagrange_jax.training.grid import grid_mesh, run_grid
from tests.processes.sweep_worker import (
    MATRIX,
    STRENGTHS,
    make_grid,
    make_train,
    run_sweep,
)

ROOT = Path(__file__).parents[2]
TRAIN, GRID, TOTAL = make_train(), make_grid(), 30


class Stop(Exception):
    pass


def sweep(folder, train=TRAIN, grid=GRID, stop_at=None, **options: Any) -> Any:
    """The result, and how much was done after each chunk."""
    told = []

    def progress(done, total):
        told.append(done)
        if done == stop_at:
            raise Stop

    with contextlib.suppress(Stop):
        return run_sweep(folder, train, grid, progress=progress, **options), told
    return None, told


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, sweep(folder)[0]


def assert_same_bits(found, wanted):
    found, wanted = jax.tree.map(jnp.asarray, (found.values, wanted.values))
    chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
    chex.assert_trees_all_equal(found, wanted)


def assert_close(found, wanted):
    """Another chunk size or device is another program, which may round otherwise.

    Twenty contracting steps of sums of eight terms: some eps, of float32 or of
    bfloat16, whatever the processor.
    """
    tolerances = dict(trace=1e-5, noise=1e-6, half=2**-7, size=0, empty=0)
    for name, tolerance in tolerances.items():
        a, b = (np.asarray(getattr(x.values, name), float) for x in (found, wanted))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    a, b = (jax.random.key_data(x.values.key) for x in (found, wanted))
    np.testing.assert_array_equal(a, b)


def start(mode, folder):
    command = [sys.executable, "-m", "tests.processes.sweep_worker", mode, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def test_it_is_the_grid_and_a_finished_sweep_is_only_read(finished):
    folder, result = finished
    assert_close(result, run_grid(TRAIN, GRID))
    again, told = sweep(folder)
    assert told == []
    assert_same_bits(again, result)
    assert list(result.select(key=0).axes) == ["strength", "num_examples"]


def test_killed_while_saving_and_started_again(tmp_path, finished):
    worker = start("kill", tmp_path)
    try:
        assert worker.stdout is not None and worker.stdin is not None
        assert worker.stdout.readline() == "at work\n"
        with pytest.raises(BlockingIOError, match="another run is at work"):
            sweep(tmp_path)
        worker.communicate("go on\n", timeout=60)
    finally:
        worker.kill()
    assert worker.returncode == -9
    assert (tmp_path / "lock").exists()
    assert list(tmp_path.glob("unfinished-*"))
    found, told = sweep(tmp_path)
    assert told == [16, 20, 24, 28, 30]  # three chunks were finished
    assert_same_bits(found, finished[1])
    assert not list(tmp_path.glob("unfinished-*"))


def test_disk_full_and_folder_not_writable(tmp_path, finished):
    worker = start("full", tmp_path / "sweep")
    output, _ = worker.communicate(timeout=60)
    full, chunks, unwritable = output.splitlines()
    assert "from 8 to 12 could not be saved" in full and "are safe" in full
    assert chunks == "2"
    assert "must be a folder that can be written" in unwritable
    (tmp_path / "sweep").chmod(0o700)
    found, told = sweep(tmp_path / "sweep")
    assert told == [12, 16, 20, 24, 28, 30]
    assert_same_bits(found, finished[1])


def test_a_full_file_system_loses_no_chunk(tmp_path, finished):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        sweep(tmp_path, stop_at=8)
        filler = tmp_path / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(OSError, match="Make room"):
            sweep(tmp_path)
        filler.unlink()
        found, told = sweep(tmp_path)
        assert told[0] == 12
        assert_same_bits(found, finished[1])
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_other_devices_and_another_chunk_size_may_go_on(tmp_path, finished):
    sweep(tmp_path, stop_at=8)
    three, told = sweep(tmp_path, mesh=grid_mesh(jax.devices()[:3]), stop_at=14)
    assert three is None and told == [14]  # chunks of 4, rounded up to the devices: 6
    found, told = sweep(tmp_path, mesh=grid_mesh(jax.devices()[:1]), chunk_size=10)
    assert told == [24, 30]
    assert_close(found, finished[1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate])
def test_damaged_files_are_found_out(tmp_path, finished, damage):
    """All chunks but one are damaged; one stays whole."""
    folder, result = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    chunks = sorted(copy.glob("0*.npz"))[:-1]
    assert len(chunks) == 7
    for chunk in chunks:
        damage(chunk)
    with pytest.warns(RuntimeWarning, match="will be computed again") as told:
        found, done = sweep(copy)
    assert_same_bits(found, result)
    assert len(told) == len(done) == len(list(copy.glob("damaged-*"))) == len(chunks)


def test_a_chunk_under_the_name_of_another_is_found_out(tmp_path, finished):
    folder, result = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    first, second, *_ = sorted(copy.glob("0*.npz"))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="will be computed again"):
        found, done = sweep(copy)
    assert len(done) == 2
    assert_same_bits(found, result)


def test_files_of_others_are_left_alone(tmp_path, finished):
    folder, result = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "2024-11-notes.txt").write_text("mine")
    (copy / "000000000-000000004.bak").write_text("mine")
    (copy / "000000000-000000008").mkdir()
    found, done = sweep(copy)
    assert done == []
    assert_same_bits(found, result)
    assert (copy / "2024-11-notes.txt").read_text() == "mine"


def make_calling(factor):
    """A function whose result a callback to Python decides."""

    def host(x):
        return np.asarray(x * np.float32(factor))

    def train(key, strength, num_examples):
        x = strength * jax.random.normal(key, (3,))
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(host, like, x, vmap_method="expand_dims")

    return train


def test_what_calls_python_is_named_by_the_caller(tmp_path):
    with pytest.raises(ValueError, match="expected a configuration"):
        sweep(tmp_path / "a", train=make_calling(2))
    known = dict(chunk_size=30, configuration={"factor": 2})
    two, _ = sweep(tmp_path / "a", train=make_calling(2), **known)
    again, told = sweep(tmp_path / "a", train=make_calling(2), **known)
    assert told == []
    np.testing.assert_array_equal(again.values, two.values)
    known["configuration"] = {"factor": 3}
    with pytest.raises(ValueError, match="differs in configuration"):
        sweep(tmp_path / "a", train=make_calling(3), **known)
    three, _ = sweep(tmp_path / "b", train=make_calling(3), **known)
    np.testing.assert_allclose(three.values, 1.5 * two.values, rtol=1e-6)
    with pytest.raises(TypeError, match="that JSON can hold"):
        sweep(tmp_path / "c", configuration={"network": object()})


def test_another_sweep_is_refused(finished):
    folder, result = finished
    others = {
        "axis 'strength'": dict(grid=make_grid(STRENGTHS * 2)),
        "axis 'key'": dict(grid=make_grid(seed=8)),
        "the order of the axes": dict(vmap_axes=["strength"]),
        "the function": dict(train=make_train(length=21)),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"differs in .*{name}"):
            sweep(folder, **other)
    with pytest.raises(ValueError, match="the function"):  # an array that it holds
        sweep(folder, train=make_train(MATRIX + 1e-6))
    again, told = sweep(folder, train=make_train())  # the same, made anew
    assert told == []
    assert_same_bits(again, result)
    with pytest.raises(ValueError, match="at least 1"):
        sweep(folder, chunk_size=0)
