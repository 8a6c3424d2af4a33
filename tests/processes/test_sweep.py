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
    data = jax.random.key_data
    for name in ("trace", "noise", "half", "positive", "size", "empty"):
        a, b = (np.asarray(getattr(x.values, name), float) for x in (found, wanted))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(data(found.values.key), data(wanted.values.key))


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
    three, told = sweep(tmp_path, mesh=grid_mesh(jax.devices()[:3]), stop_at=16)
    assert three is None and told == [12, 16]
    found, told = sweep(tmp_path, mesh=grid_mesh(jax.devices()[:1]), chunk_size=10)
    assert told == [26, 30]
    assert_close(found, finished[1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def files_of(chunk):
    """In the same order for every chunk: some of their names are random."""
    files = [x for x in chunk.rglob("*") if x.is_file()]
    return sorted(files, key=lambda x: (x.parent.relative_to(chunk), x.stat().st_size))


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damaged_files_are_found_out(tmp_path, finished, damage):
    """Every file of a chunk in turn, in seven chunks at a time; one stays whole."""
    folder, result = finished
    chunks = sorted(x.name for x in folder.glob("0*-0*"))[:-1]
    turns, damaged = len(files_of(folder / chunks[0])), 0
    assert turns > 10
    for i in range(0, turns, len(chunks)):
        copy = tmp_path / str(i)
        shutil.copytree(folder, copy)
        for j, name in enumerate(chunks[: turns - i]):
            damage(files_of(copy / name)[i + j])
            damaged += 1
        with pytest.warns(RuntimeWarning, match="will be computed again") as told:
            found, done = sweep(copy)
        assert_same_bits(found, result)
        assert len(told) == len(done) == len(list(copy.glob("damaged-*")))
        assert len(told) == min(len(chunks), turns - i)
    assert damaged == turns


def test_another_sweep_is_refused(finished):
    folder, result = finished
    others = {
        "axis 'strength'": dict(grid=make_grid(STRENGTHS * 2)),
        "axis 'key'": dict(grid=make_grid(seed=8)),
        "the order of the axes": dict(vmap_axes=["strength"]),
        "the function": dict(train=make_train(length=21)),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"differs in {name}"):
            sweep(folder, **other)
    with pytest.raises(ValueError, match="the function"):  # an array that it holds
        sweep(folder, train=make_train(MATRIX + 1e-6))
    again, told = sweep(folder, train=make_train())  # the same, made anew
    assert told == []
    assert_same_bits(again, result)
    with pytest.raises(ValueError, match="at least 1"):
        sweep(folder, chunk_size=0)
