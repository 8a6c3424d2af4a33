"""Programs compiled for a TPU v5e and an H100 that are not there, against ceilings.

`make test-accelerators` installs the compilers, which are 1.4 GB, `make test-all` that
of the H100 alone; without them these tests are skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks.compiled import TARGETS

ROOT = Path(__file__).parents[2]
COMPILERS = Path(os.environ.get("LAGRANGE_JAX_COMPILERS", ROOT / ".accelerators"))
# Processor time of the compiler: a guard against programs that unroll. Twice what was
# measured or more, since threads that share a core's caches count longer.
MAX_SECONDS = 20.0
MB = 2**20

on_v5e = pytest.mark.parametrize("compiled", ["v5e"], indirect=True)
on_each = pytest.mark.parametrize("compiled", TARGETS, indirect=True)


@pytest.fixture(scope="module")
def compiled(request, tmp_path_factory):
    """What the compiler of one target tells of each program, by name."""
    target = request.param
    folder = COMPILERS / target
    if not folder.exists():
        pytest.skip(f"no compiler for {target}: run make test-accelerators")
    record = tmp_path_factory.mktemp(target) / "record.json"
    command = [sys.executable, "-m", "experiments.benchmarks.compiled", target]
    # A process of its own: compilers are found when JAX starts.
    path = os.pathsep.join(map(str, (ROOT, folder)))
    done = subprocess.run(
        [*command, "--out", str(record)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(record.read_text())[target]["rows"]
    return {row["program"]: row for row in rows}


@on_v5e
@pytest.mark.parametrize(
    ("program", "code", "seconds"),
    [
        ("1,000 heads, d=15", 6 * MB, 2 * MAX_SECONDS),
        ("head, d=512", 5 * MB, MAX_SECONDS),
        ("head, d=2048, k=100", 10 * MB, 6 * MAX_SECONDS),
        ("initialize, small CNN", 5 * MB, MAX_SECONDS),
        ("grid of 560 networks", 2 * MB, MAX_SECONDS),
    ],
)
def test_programs_are_small_and_soon_compiled(compiled, program, code, seconds):
    row = compiled[program]
    assert row["code_bytes"] <= code
    assert row["compile_cpu_seconds"] <= seconds


@on_each
def test_moments_are_all_reduced_and_nothing_else_moves(compiled):
    moved = compiled["sharded moments, d=512"]["collective_bytes"]
    d, k = 512, 10
    assert moved == {"all-reduce": 4 * (d * d + d * k + 2 * d + 3 * k + 1)}


@on_each
@pytest.mark.parametrize("program", ["grid of 560 networks", "grid of 128 small CNNs"])
def test_members_of_a_grid_neither_speak_nor_copy_the_data(compiled, program):
    row = compiled[program]
    assert row["collective_bytes"] == {}
    assert row["temporary_bytes_per_member"] < row["data_bytes"] / 2


@on_each
def test_heads_need_no_memory_beyond_some_matrices(compiled):
    row = compiled["head, d=2048, k=100"]
    matrix = 4 * 2048**2
    # Rotations of graded columns turn two matrices into two others.
    assert row["temporary_bytes"] <= 7 * matrix
