"""A small sweep, and a process that runs it until something goes wrong.

python -m tests.processes.sweep_worker kill|full FOLDER
"""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lagrange_jax.training.grid import grid_mesh, run_grid

STRENGTHS, SIZES = np.array([0.0, 0.01, 0.1], np.float32), [5, 12]
# A contraction: what one program rounds otherwise than another does not grow.
MATRIX = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
MATRIX /= np.linalg.norm(MATRIX, 2)
CHUNK = 4  # of 30: the last one is short


class Result(NamedTuple):
    """Every kind of array that a network or its record may hold."""

    trace: Any
    noise: Any
    half: Any
    size: Any
    positive: Any
    key: Any
    empty: Any
    nothing: Any = None


def make_train(matrix=MATRIX, length=20):
    def train(key, strength, num_examples):
        def step(x, _):
            x = jnp.tanh(jnp.asarray(matrix) @ x) * (1 - strength)
            return x, x.sum()

        x, trace = lax.scan(step, jax.random.normal(key, (8,)), length=length)
        noise = jax.random.normal(key, (500,))  # a file of its own
        half, empty = x.astype(jnp.bfloat16), jnp.zeros((0, 2))
        return Result(trace, noise, half, num_examples, trace > 0, key, empty)

    return train


def make_grid(strengths=STRENGTHS, seed=7):
    keys = jax.random.split(jax.random.key(seed), 5)
    return {"strength": strengths, "num_examples": SIZES, "key": keys}


def run_sweep(folder, train=None, axes=None, chunk_size=CHUNK, **options):
    train, axes = train or make_train(), axes or make_grid()
    options = {"mesh": grid_mesh(jax.devices()[:4]), **options}
    return run_grid(train, axes, folder=folder, chunk_size=chunk_size, **options)


def die_in_the_middle_of_a_save():
    """Lets all of the next chunk be written, and kills before it is given its name."""

    def rename(self, target):
        os.kill(os.getpid(), signal.SIGKILL)

    mock.patch.object(Path, "rename", rename).start()


def kill(folder):
    def progress(done, total):
        if done == 3 * CHUNK:
            print("at work", flush=True)
            sys.stdin.readline()
            die_in_the_middle_of_a_save()

    run_sweep(folder, progress=progress)


def full(folder):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def progress(done, total):
        if done == 2 * CHUNK:  # from here on no file may have more bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, limit[1]))

    def run(**options):
        try:
            run_sweep(folder, **options)
        except OSError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            print(str(error).replace("\n", " "), flush=True)

    run(progress=progress)
    print(len(list(folder.glob("0*-0*"))), flush=True)
    folder.chmod(0o500)
    if os.geteuid() == 0:
        os.chmod(folder.parent, 0o755)
        os.seteuid(65534)  # root may write anywhere
    run()


if __name__ == "__main__":
    {"kill": kill, "full": full}[sys.argv[1]](Path(sys.argv[2]))
