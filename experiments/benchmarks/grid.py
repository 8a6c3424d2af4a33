"""The grid of small networks: `run_mlp_grid` against the ways others train it.

    python -m experiments.benchmarks.grid [--smoke] [--out FILE]

A 10-15-1 network, tanh, logistic loss and L2 penalty, full batch, rate 0.1, for each
of 14 strengths, 10 sizes and 4 seeds. One core, processor time (what other programs
take on a shared machine does not count), rounds interleaved, medians. A way that would
take minutes runs fewer epochs and fewer networks of each size, and its time is scaled
to the whole grid: the record says from what. PyTorch and scikit-learn are used where
they are installed.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from lagrange_jax.grid import Grid, make_mesh
from lagrange_jax.mlp_grid import make_mlp_train, run_mlp_grid
from lagrange_jax.types import Batch, Model

RATE = 0.1
INPUTS, HIDDEN = 10, 15
# At least how many times faster `run_mlp_grid` must be.
DEMANDS = {
    "torch_loop": 20.0,
    "sklearn_loop": 9.0,
    "torch_func_vmap": 6.0,
    "jax_naive_vmap": 8.0,
    "jax_scan_per_model": 2.3,
}
MAX_COMPILE_SECONDS = 5.0
MAX_WEIGHT_DIFFERENCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    num_strengths: int = 14
    sizes: tuple[int, ...] = (108, 158, 231, 338, 494, 722, 1056, 1544, 2257, 3300)
    num_seeds: int = 4
    num_epochs: int = 500
    rounds: int = 5


SMOKE = Config(num_strengths=2, sizes=(20, 300), num_seeds=1, num_epochs=20, rounds=1)


class Problem(NamedTuple):
    config: Config
    strengths: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray


class Way(NamedTuple):
    """One way to train the grid, or a part of it of all sizes.

    Attributes:
      run: trains, and returns when the result is there.
      models: networks of each size that it trains.
      epochs: epochs it trains them for.
    """

    run: Callable[[], Any]
    models: int
    epochs: int


def make_problem(config: Config) -> Problem:
    """Two Gaussian clouds as in the study, the inputs divided by their spread."""
    rng = np.random.default_rng(0)
    labels = rng.random(max(config.sizes)) < 0.5
    shift = 13.86 / 8 / np.sqrt(INPUTS) * (labels[:, None] - 0.5)
    inputs = rng.normal(size=(len(labels), INPUTS)) + shift
    digits = np.array([m * 10.0**e for e in range(-5, -1) for m in (1, 2, 4, 8)])
    strengths = digits[: config.num_strengths].astype(np.float32)
    targets = labels[:, None].astype(np.float32)
    return Problem(config, strengths, inputs.astype(np.float32), targets)


def forward(params, inputs):
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def init_params(key):
    draw = jax.nn.initializers.lecun_normal()
    layers = {"hidden": (INPUTS, HIDDEN), "head": (HIDDEN, 1)}
    return {
        name: {"kernel": draw(layer_key, shape), "bias": jnp.zeros(shape[1])}
        for layer_key, (name, shape) in zip(
            jax.random.split(key), layers.items(), strict=True
        )
    }


def make_model() -> Model:
    def apply(variables, inputs):
        return forward(variables["params"], inputs)

    return Model(
        init=lambda key: {"params": init_params(key)},
        apply=apply,
        apply_train=lambda variables, inputs, key: (
            apply(variables, inputs),
            variables,
        ),
        taps=lambda variables, inputs, key: {},
        layers=(("hidden",), ("head",)),
        head=("head",),
    )


def tiled_grid(problem: Problem):
    """Returns this library's way: the whole grid, every epoch, nothing scaled."""
    config = problem.config

    def keep_start(key, model, variables, batches):
        return variables, variables["params"]

    def optimizer(strength):
        return optax.chain(optax.add_decayed_weights(strength), optax.sgd(RATE))

    train = make_mlp_train(
        make_model(),
        optax.losses.sigmoid_binary_cross_entropy,
        optimizer,
        keep_start,
        Batch(jnp.asarray(problem.inputs), jnp.asarray(problem.targets)),
        activation=jnp.tanh,
        num_epochs=config.num_epochs,
    )
    keys = jax.random.split(jax.random.key(0), config.num_seeds)
    grid = Grid(problem.strengths, list(config.sizes), keys)
    mesh = make_mesh(jax.devices()[:1])
    models = config.num_strengths * config.num_seeds
    return Way(lambda: run_mlp_grid(train, grid, mesh=mesh), models, config.num_epochs)


def descend(params, inputs, targets, weights, strength, num_epochs):
    """Plain full-batch gradient descent, as one writes it first."""

    def loss(params):
        losses = optax.losses.sigmoid_binary_cross_entropy(
            forward(params, inputs), targets
        )
        return jnp.sum(weights[:, None] * losses) / jnp.sum(weights)

    def step(params, _):
        gradient = jax.grad(loss)(params)
        move = lambda w, g: w - RATE * (g + strength * w)  # noqa: E731
        return jax.tree.map(move, params, gradient), None

    return lax.scan(step, params, length=num_epochs)[0]


_descend = jax.jit(descend, static_argnames="num_epochs")


def scan_per_model(problem: Problem, start, at=(-1, 0)):
    """One compiled training run a network, its own shape for every size."""
    config, (i, k) = problem.config, at

    def run():
        return jax.block_until_ready(
            [
                _descend(
                    jax.tree.map(lambda x, j=j: x[i, j, k], start),
                    problem.inputs[:size],
                    problem.targets[:size],
                    np.ones(size, np.float32),
                    problem.strengths[i],
                    num_epochs=config.num_epochs,
                )
                for j, size in enumerate(config.sizes)
            ]
        )

    return Way(run, 1, config.num_epochs)


def naive_vmap(problem: Problem, start):
    """`vmap` over everything, every network masked to its number of examples."""
    epochs = max(1, problem.config.num_epochs // 100)
    train = jax.jit(
        jax.vmap(
            lambda params, weights, strength: descend(
                params, problem.inputs, problem.targets, weights, strength, epochs
            )
        )
    )
    shape = start["head"]["bias"].shape[:3]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), start)
    strengths, sizes, _ = np.meshgrid(
        problem.strengths, problem.config.sizes, np.arange(shape[2]), indexing="ij"
    )
    mask = np.arange(len(problem.inputs)) < sizes.reshape(-1, 1)
    arguments = flat, mask.astype(np.float32), strengths.ravel()
    models = shape[0] * shape[2]
    return Way(lambda: jax.block_until_ready(train(*arguments)), models, epochs)


def torch_loop(problem: Problem, start):
    """`torch.nn` and `torch.optim.SGD`, one network after another."""
    import torch

    epochs = max(1, problem.config.num_epochs // 10)
    inputs, targets = map(torch.from_numpy, (problem.inputs, problem.targets))
    decay = float(problem.strengths[-1])

    def train(size):
        network = torch.nn.Sequential(
            torch.nn.Linear(INPUTS, HIDDEN),
            torch.nn.Tanh(),
            torch.nn.Linear(HIDDEN, 1),
        )
        optimizer = torch.optim.SGD(network.parameters(), RATE, weight_decay=decay)
        loss_fn = torch.nn.BCEWithLogitsLoss()
        for _ in range(epochs):
            optimizer.zero_grad()
            loss_fn(network(inputs[:size]), targets[:size]).backward()
            optimizer.step()

    return Way(lambda: [train(size) for size in problem.config.sizes], 1, epochs)


def torch_func_vmap(problem: Problem, start):
    """`torch.func.vmap(grad)` over strengths and seeds, grouped by size."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    epochs = max(1, problem.config.num_epochs // 50)
    inputs, targets = map(torch.from_numpy, (problem.inputs, problem.targets))
    models = problem.config.num_strengths * problem.config.num_seeds
    strengths = torch.from_numpy(np.repeat(problem.strengths, problem.config.num_seeds))

    def loss(params, inputs, targets):
        hidden = torch.tanh(inputs @ params[0] + params[1])
        return binary_cross_entropy_with_logits(hidden @ params[2] + params[3], targets)

    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None))

    def train(j, size):
        layers = start["hidden"], start["head"]
        arrays = [layer[name][:, j] for layer in layers for name in ("kernel", "bias")]
        params = [torch.tensor(x.reshape(models, *x.shape[2:])) for x in arrays]
        for _ in range(epochs):
            moves = gradient(params, inputs[:size], targets[:size])
            for param, move in zip(params, moves, strict=True):
                decay = strengths.reshape(-1, *[1] * (param.ndim - 1))
                param -= RATE * (move + decay * param)

    def run():
        return [train(j, size) for j, size in enumerate(problem.config.sizes)]

    return Way(run, models, epochs)


def sklearn_loop(problem: Problem, start):
    """scikit-learn's `MLPClassifier` with plain full-batch SGD."""
    from sklearn.neural_network import MLPClassifier

    epochs = max(1, problem.config.num_epochs // 10)

    def train(size):
        MLPClassifier(
            HIDDEN,
            activation="tanh",
            solver="sgd",
            alpha=float(problem.strengths[-1]) * size,  # it divides by the batch
            batch_size=size,
            learning_rate_init=RATE,
            momentum=0.0,
            max_iter=epochs,
            n_iter_no_change=epochs + 1,
        ).fit(problem.inputs[:size], problem.targets[:size, 0])

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has not converged, as intended
            return [train(size) for size in problem.config.sizes]

    return Way(run, 1, epochs)


PEERS = {
    "torch_loop": torch_loop,
    "sklearn_loop": sklearn_loop,
    "torch_func_vmap": torch_func_vmap,
    "jax_naive_vmap": naive_vmap,
    "jax_scan_per_model": scan_per_model,
}


def seconds(run: Callable[[], Any]) -> float:
    """Returns the processor time of one call, of all threads."""
    start = time.process_time()
    run()
    return time.process_time() - start


def gemm_rate() -> float:
    """Returns the float32 rate of a large product on this core, in flop/s."""
    n = 2048
    matrix = jnp.ones((n, n))
    product = jax.jit(lambda a: a @ a)
    run = lambda: product(matrix).block_until_ready()  # noqa: E731
    run()
    return 2 * n**3 / min(seconds(run) for _ in range(5))


def max_difference(result, problem: Problem) -> float:
    """Returns the largest difference in any weight from per-model training."""
    worst = 0.0
    for i, k in ((-1, 0), (0, -1)):
        finals = scan_per_model(problem, result.values.info, (i, k)).run()
        params = result.values.variables["params"]
        for j, final in enumerate(finals):
            tiled = jax.tree.map(lambda x, at=(i, j, k): x[at], params)
            gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), tiled, final)
            worst = max(worst, *map(float, jax.tree.leaves(gaps)))
    return worst


def environment() -> dict[str, Any]:
    packages = {}
    for name in ("jax", "jaxlib", "numpy", "optax", "scikit-learn", "torch"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "packages": packages,
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)),
        "cores_of_machine": os.cpu_count(),
    }


def use_one_core() -> None:
    """Pins this process to one core, and PyTorch to one thread, before they start."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)


def measure(config: Config) -> list[dict[str, Any]]:
    """Returns one row a way of training, with its time for the whole grid."""
    problem, results = make_problem(config), []
    ours = tiled_grid(problem)
    first_call = seconds(lambda: results.append(ours.run()))
    ways = {"run_mlp_grid": ours}
    for name, make in PEERS.items():
        try:
            ways[name] = make(problem, results[0].values.info)
        except ImportError:
            print(f"{name}: not installed, left out")
    for name in list(ways)[1:]:
        ways[name].run()  # compiles
    models = config.num_strengths * config.num_seeds
    times = {name: [] for name in ways}
    for _ in range(config.rounds):
        for name, way in ways.items():
            scale = models / way.models * config.num_epochs / way.epochs
            times[name].append(scale * seconds(way.run))
    medians = {name: statistics.median(rounds) for name, rounds in times.items()}
    rows = [
        {
            "way": name,
            "seconds": medians[name],
            "times_ours": medians[name] / medians["run_mlp_grid"],
            "demanded": DEMANDS.get(name),
            "rounds": times[name],
            "models_a_size": way.models,
            "epochs": way.epochs,
        }
        for name, way in ways.items()
    ]
    flop = 690 * models * config.num_epochs * sum(config.sizes)
    rows[0] |= {
        "compile_seconds": first_call - medians["run_mlp_grid"],
        "max_weight_difference": max_difference(results[0], problem),
        "share_of_gemm_rate": flop / medians["run_mlp_grid"] / gemm_rate(),
    }
    return rows


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Returns what was demanded and not reached."""
    ours, *peers = rows
    found = [
        f"{row['way']}: {row['times_ours']:.1f} times, demanded {row['demanded']}"
        for row in peers
        if row["times_ours"] < row["demanded"]
    ]
    if ours["compile_seconds"] > MAX_COMPILE_SECONDS:
        found.append(f"compilation took {ours['compile_seconds']:.1f} s")
    if not ours["max_weight_difference"] <= MAX_WEIGHT_DIFFERENCE:
        found.append(f"weights differ by {ours['max_weight_difference']:.1e}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds, no record")
    parser.add_argument(
        "--out", type=Path, default="experiments/results/benchmarks/grid.jsonl"
    )
    arguments = parser.parse_args()
    use_one_core()
    config = SMOKE if arguments.smoke else Config()
    rows = measure(config)
    for row in rows:
        print(f"{row['way']:20} {row['seconds']:8.2f} s {row['times_ours']:6.1f} times")
    named = ("compile_seconds", "max_weight_difference", "share_of_gemm_rate")
    print(*(f"{name}: {rows[0][name]:.2g}" for name in named), sep="\n")
    if arguments.smoke:
        return
    head = {"config": dataclasses.asdict(config), "environment": environment()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("".join(json.dumps(x) + "\n" for x in [head, *rows]))
    raise SystemExit("\n".join(failures(rows)) or 0)


if __name__ == "__main__":
    main()
