"""What a head costs as data, features, outputs, grids and devices grow.

    python -m experiments.benchmarks.scaling [--smoke] [--rounds 3] [--out FILE]

One pinned core, processor time, rounds interleaved, medians; exponents are slopes of
log time on log size. Peak memory and virtual devices are measured in processes of
their own.
"""

from experiments.benchmarks import timing

if __name__ == "__main__":
    timing.use_one_core()

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lagrange_jax as lj
from experiments.benchmarks.solver import call, device_data, row, timed
from lagrange_jax.constraints import fixed_norm

DEFAULT_OUT = Path("experiments/results/benchmarks/scaling.json")
MODULE = "experiments.benchmarks.scaling"


def moments_of(x, t):
    return lj.compute_moments(x, t)


def head_of(x, t):
    return lj.solve_least_squares(lj.compute_moments(x, t), fixed_norm(1.0))


def thin_head(x, t):
    return lj.solve_least_squares(lj.statistics.decompose_gram(x, t), fixed_norm(1.0))


def cholesky_solve(covariance, cross):
    factor = jax.scipy.linalg.cho_factor(covariance)
    return jax.scipy.linalg.cho_solve(factor, cross)


def exponents(sizes, times):
    """Slope of log time on log size of each way, through the medians."""
    logs = np.log(sizes)
    medians = {name: [np.median(x[name]) for x in times] for name in times[0]}
    return {name: np.polyfit(logs, np.log(x), 1)[0] for name, x in medians.items()}


def along(axis, sizes, rounds, **fixed):
    """All stages at every size of one axis, N, d or k."""
    rows, found = [], []
    for size in sizes:
        shape = {**fixed, axis: size}
        x, t = device_data(shape["n"], shape["d"], shape["k"])
        moments = jax.jit(moments_of)(x, t)
        solve = lambda m: lj.solve_least_squares(m, fixed_norm(1.0))  # noqa: E731
        ways = {
            "product": call(lambda x: x.T @ x, x),
            "eigh": call(jnp.linalg.eigh, moments.cov_xx),
            "moments": call(moments_of, x, t),
            "solve": call(solve, moments),
            "total": call(head_of, x, t),
        }
        found.append(timing.measure(ways, rounds))
        name = f"total / (product + eigh), {axis}={size} of {fixed}"
        value = timing.ratio(found[-1], "total", ("product", "eigh"))
        rows.append(row(name, value, **timed(found[-1])))
    for name, slope in exponents(sizes, found).items():
        rows.append(row(f"exponent in {axis} of {name}, {fixed}, {sizes}", slope))
    return rows


def routes(rounds, n, d, k):
    """The whole head and its parts against the floor, side by side."""
    x, t = device_data(n, d, k)
    moments = jax.jit(moments_of)(x, t)
    ways = {
        "product": call(lambda x: x.T @ x, x),
        "eigh": call(jnp.linalg.eigh, moments.cov_xx),
        "moments": call(moments_of, x, t),
        "reduction": call(lambda s: jax.lax.linalg.tridiagonal(s), moments.cov_xx),
        "cholesky": call(jax.scipy.linalg.cho_factor, moments.cov_xx),
        "cholesky and solve": call(cholesky_solve, moments.cov_xx, moments.cov_xt),
        "total_eigh": call(head_of, x, t),
    }
    times, floor = timing.measure(ways, rounds), ("product", "eigh")
    shape = f"d={d} n={n} k={k} float32"
    return [
        row(f"total by eigh / (product + eigh), {shape}",
            timing.ratio(times, "total_eigh", floor), **timed(times)),
        row(f"moments / product, {shape}", timing.ratio(times, "moments", "product")),
        row(f"reduction alone / eigh, {shape}",
            timing.ratio(times, "reduction", "eigh")),
        row(f"one Cholesky factorisation / eigh, {shape}",
            timing.ratio(times, "cholesky", "eigh")),
        row(f"one Cholesky factorisation and solve / eigh, {shape}",
            timing.ratio(times, "cholesky and solve", "eigh")),
    ]  # fmt: skip


def few_examples(rounds, n, d, k):
    """The dual route where there are fewer examples than features."""
    x, t = device_data(n, d, k)
    ways = {"dual": call(thin_head, x, t), "primal": call(head_of, x, t)}
    times = timing.measure(ways, rounds)
    value = timing.ratio(times, "primal", "dual")
    return [row(f"primal / dual head, d={d} n={n} k={k}", value, **timed(times))]


def grid_of(num_strengths, num_seeds=4):
    """Seconds of a family of small networks, each with its own optimal head."""
    import flax.linen as nn
    import optax

    import lagrange_jax.models.linen

    x, t = device_data(256, 8, 1)
    network = nn.Sequential([nn.Dense(16), nn.tanh, nn.Dense(1)])
    train = lj.make_train(
        lagrange_jax.models.linen.as_model(network, x[:1]),
        optax.losses.squared_error,
        lambda strength: optax.chain(lj.add_l2_penalty(strength), optax.sgd(0.01)),
        lj.lagrange(),
        lj.Batch(x, t),
        num_epochs=50,
    )
    strengths = np.geomspace(1e-4, 1e-1, num_strengths).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), num_seeds)
    axes = {"strength": strengths, "num_examples": [256], "key": keys}
    return lambda: lj.run_grid(train, axes).values


def grids(rounds, sizes):
    found = [timing.measure({"grid": grid_of(size)}, rounds) for size in sizes]
    members = [4 * size for size in sizes]
    rows = [
        row(f"milliseconds a member, grid of {count}",
            1e3 * np.median(x["grid"]) / count)
        for count, x in zip(members, found, strict=True)
    ]  # fmt: skip
    slope = exponents(members, found)["grid"]
    return [*rows, row(f"exponent in members of a grid, {members}", slope)]


def in_process(task, *arguments, devices=1):
    """Runs a task of this module in a new process; what it prints last is its row."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    text = subprocess.run(
        [sys.executable, "-m", MODULE, "--task", task, *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(text.strip().split("\n")[-1])


def stream(n, d, k, size):
    """A data set that exists one batch at a time, and what its head takes."""
    mix = jax.random.normal(jax.random.key(0), (d, k)) / d**0.5

    @jax.jit
    def make(key):
        features = jax.random.normal(key, (size, d))
        noise = jax.random.normal(jax.random.fold_in(key, 1), (size, k))
        return features, features @ mix + noise

    update = jax.jit(lj.statistics.update_moments, donate_argnums=0)
    moments = lj.statistics.init_moments(d, k)
    before = peak_mebibytes()
    for i in range(-(-n // size)):
        moments = update(moments, *make(jax.random.key(i)))
    jax.block_until_ready(moments)
    streamed = peak_mebibytes()
    solution = lj.solve_least_squares(moments, fixed_norm(0.5))
    lj.check(solution)
    return {"start": before, "moments": streamed, "peak": peak_mebibytes()}


def peak_mebibytes():
    """Of this program alone: `getrusage` may tell the parent's, from the fork."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory(n, d, k, size):
    found = in_process("stream", n, d, k, size)
    name = f"peak MiB of a process, d={d} n={n} k={k}, batches of {size}"
    return [row(name, found["peak"], **found)]


def device_seconds(num_strengths):
    run = grid_of(num_strengths)
    times = timing.measure({"grid": run}, 3)
    return {"seconds": float(np.median(times["grid"]))}


def devices(counts, num_strengths):
    rows = []
    for count in counts:
        found = in_process("devices", num_strengths, devices=count)["seconds"]
        name = f"processor seconds, grid of {4 * num_strengths} on {count} devices"
        rows.append(row(name, found))
    return rows


def sections(rounds):
    yield lambda: routes(rounds, 8192, 2048, 100)
    yield lambda: along("n", [2048, 8192, 32_768], rounds, d=256, k=10)
    yield lambda: along("d", [128, 256, 512, 1024], rounds, n=4096, k=10)
    yield lambda: along("k", [1, 10, 100, 1000], rounds, n=4096, d=256)
    yield lambda: few_examples(rounds, 400, 2000, 10)
    yield lambda: grids(rounds, [1, 4, 16, 64])
    yield lambda: devices([1, 2, 4, 8], 16)
    yield lambda: memory(50_000, 2048, 1000, 1000)


def smoke_sections():
    yield lambda: routes(1, 64, 16, 2)
    yield lambda: along("n", [32, 64], 1, d=8, k=2)
    yield lambda: few_examples(1, 8, 16, 2)


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, no record")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.task:
        name, *rest = arguments.task
        sizes = [int(x) if x.isdigit() else x for x in rest]
        print(json.dumps({"stream": stream, "devices": device_seconds}[name](*sizes)))
        return 0
    chosen = smoke_sections() if arguments.smoke else sections(arguments.rounds)
    command = f"python -m {MODULE} --rounds {arguments.rounds}"
    rows = []
    for section in chosen:
        rows += section()
        if not arguments.smoke:
            timing.write_rows(arguments.out, command, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
