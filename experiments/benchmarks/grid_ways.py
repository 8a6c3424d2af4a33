"""The ways to train the grid that `experiments.benchmarks.grid` compares."""

# Peers are installed by hand, for the benchmark only.
# pyright: reportMissingImports=false

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from lagrange_jax.training.grid import grid_mesh, run_grid
from lagrange_jax.training.mlp_objective import mlp_objective
from lagrange_jax.training.train import make_train
from lagrange_jax.types import Batch, Model

__all__ = [
    "PEERS",
    "Config",
    "Problem",
    "Way",
    "make_problem",
    "scan_per_model",
    "tiled_grid",
    "tiled_train",
    "torch_func_vmap",
]

RATE = 0.1
INPUTS, HIDDEN = 10, 15


@dataclasses.dataclass(frozen=True)
class Config:
    num_strengths: int = 14
    sizes: tuple[int, ...] = (108, 158, 231, 338, 494, 722, 1056, 1544, 2257, 3300)
    num_seeds: int = 4
    num_epochs: int = 500
    rounds: int = 5


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
    hidden, head = params["hidden"], params["head"]
    values = jnp.tanh(inputs @ hidden["kernel"] + hidden["bias"][None])
    return values @ head["kernel"] + head["bias"][None]


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


def tiled_train(problem: Problem):
    """Returns this library's training function, all strengths side by side."""

    def keep_start(key, model, variables, batches):
        return variables, variables["params"]

    def optimizer(strength):
        return optax.chain(optax.add_decayed_weights(strength), optax.sgd(RATE))

    model, loss = make_model(), optax.losses.sigmoid_binary_cross_entropy
    return make_train(
        model,
        loss,
        optimizer,
        keep_start,
        Batch(jnp.asarray(problem.inputs), jnp.asarray(problem.targets)),
        objective=mlp_objective(model, loss, jnp.tanh),
        num_epochs=problem.config.num_epochs,
    )


def grid_axes(problem: Problem) -> dict[str, Any]:
    """Returns the axes of the whole grid."""
    config = problem.config
    return {
        "strength": problem.strengths,
        "num_examples": np.array(config.sizes),
        "key": jax.random.split(jax.random.key(0), config.num_seeds),
    }


def tiled_grid(problem: Problem):
    """Returns this library's way: the whole grid, every epoch, nothing scaled."""
    config, train = problem.config, tiled_train(problem)
    axes = grid_axes(problem)
    mesh = grid_mesh(jax.devices()[:1])
    models = config.num_strengths * config.num_seeds

    def run():
        return run_grid(train, axes, vmap_axes=("strength",), mesh=mesh)

    return Way(run, models, config.num_epochs)


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

    epochs = max(1, problem.config.num_epochs // 5)
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


def torch_func_vmap(problem: Problem, start, device: str = "cpu"):
    """`torch.func.vmap(grad)` over strengths and seeds, grouped by size."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    epochs = max(1, problem.config.num_epochs // 50)
    place = lambda x: torch.tensor(x, device=device)  # noqa: E731
    inputs, targets = map(place, (problem.inputs, problem.targets))
    models = problem.config.num_strengths * problem.config.num_seeds
    strengths = place(np.repeat(problem.strengths, problem.config.num_seeds))

    def loss(params, inputs, targets):
        hidden = torch.tanh(inputs @ params[0] + params[1])
        return binary_cross_entropy_with_logits(hidden @ params[2] + params[3], targets)

    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None))

    def train(j, size):
        layers = start["hidden"], start["head"]
        arrays = [layer[name][:, j] for layer in layers for name in ("kernel", "bias")]
        params = [place(x.reshape(models, *x.shape[2:])) for x in arrays]
        for _ in range(epochs):
            moves = gradient(params, inputs[:size], targets[:size])
            for param, move in zip(params, moves, strict=True):
                decay = strengths.reshape(-1, *[1] * (param.ndim - 1))
                param -= RATE * (move + decay * param)
        return [param.cpu() for param in params]  # waits for the device

    def run():
        return [train(j, size) for j, size in enumerate(problem.config.sizes)]

    return Way(run, models, epochs)


def sklearn_loop(problem: Problem, start):
    """scikit-learn's `MLPClassifier` with plain full-batch SGD."""
    from sklearn.neural_network import MLPClassifier

    epochs = max(1, problem.config.num_epochs // 5)

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
