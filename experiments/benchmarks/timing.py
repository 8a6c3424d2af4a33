"""Timing on a shared machine: one core, processor time, interleaved rounds, medians.

Import this before any numerical library and call `use_one_core` first of all.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.environment import cores, environment

__all__ = [
    "Times",
    "cold",
    "measure",
    "ratio",
    "two_calls",
    "use_one_core",
    "write_rows",
]

Times = dict[str, list[float]]

PEERS = ("galahad-optrove", "pymanopt", "fracridge")


def use_one_core() -> None:
    """Pins this process to one core and every library to one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(cores())})
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    # Without these GALAHAD warns at every problem.
    os.environ["OMP_CANCELLATION"] = os.environ["OMP_PROC_BIND"] = "TRUE"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


def measure(ways: Mapping[str, Callable[[], Any]], rounds: int) -> Times:
    """Returns the processor time of each way in each round, in seconds.

    The ways take turns within a round, so that a ratio within a round compares what
    ran under the same load. Each runs twice in a turn and the second time counts: the
    first one compiles, and takes from the system the memory that others gave back. A
    way must return only when its result is there.
    """
    times: Times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            run()
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return times


def ratio(times: Times, name: str, base: str | Sequence[str], scale=1.0) -> float:
    """Returns the median over rounds of `scale` times a way over the sum of others."""
    bases = [base] if isinstance(base, str) else base
    columns = zip(*(times[x] for x in bases), strict=True)
    below = [sum(column) for column in columns]
    pairs = zip(times[name], below, strict=True)
    return scale * statistics.median(a / b for a, b in pairs)


def two_calls(run: Callable[[], Any]) -> dict[str, float]:
    """Returns seconds of the first call, which compiles, and of the second."""
    seconds = []
    for _ in range(2):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        seconds += [time.perf_counter() - wall, time.process_time() - processor]
    names = "first", "first_cpu", "second", "second_cpu"
    return dict(zip(names, seconds, strict=True))


def cold(module: str, name: str) -> dict[str, Any]:
    """Returns what `module --cold name` prints, nothing being compiled yet."""
    command = [sys.executable, "-m", module, "--cold", name]
    without_cache = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        command, env=without_cache, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def write_rows(path: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes how and where it was measured, and the rows, a line each, as JSON."""
    record = {"command": command, "environment": environment(PEERS)}
    start = json.dumps(record, indent=1).removesuffix("\n}")
    lines = ",\n  ".join(map(json.dumps, rows))
    text = f'{start},\n "rows": [\n  {lines}\n ]\n}}'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
