"""A training step of the RUL network: our temporal convolution against Flax's.

One pinned core, float32, Adam, batches of 512 windows of 30 time steps and 14
sensors. Contestants take turns within a round; reported is the median CPU time.

    python -m experiments.benchmarks.temporal_conv [--rounds 7] [--out FILE]
"""

import os

# Before JAX starts: one core.
if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.backbones import RulCNN
from experiments.studies.rul import training
from lagrange_jax.models.linen import as_model

BATCH, WINDOW, SENSORS = 512, 30, 14


class PlainCNN(nn.Module):
    """`RulCNN` from Flax's convolutions, with the same parameters."""

    @nn.compact
    def __call__(self, windows):
        """Returns the prediction of every window."""
        x = windows[..., None]
        for i in range(4):
            x = jnp.tanh(nn.Conv(10, (10, 1), name=f"TemporalConv_{i}")(x))
        x = jnp.tanh(nn.Conv(1, (3, 1), name="TemporalConv_4")(x))
        x = jnp.tanh(nn.Dense(100, name="Dense_0")(x.reshape(len(windows), -1)))
        return nn.Dense(1, name="head")(x)


def _whole_batch_step(module, optimizer):
    """A step as one writes it: the gradient of the whole batch at once."""

    def loss(params, windows, targets):
        outputs = module.apply({"params": params}, windows)[:, 0]
        return jnp.mean((outputs - targets) ** 2)

    @jax.jit
    def step(params, state, windows, targets):
        value, gradient = jax.value_and_grad(loss)(params, windows, targets)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def _study_step(module, optimizer, windows):
    """The study's step: gradients are added up over slices that fit the cache."""
    fit = training.make_fit(as_model(module, windows[:2]), optimizer)
    batches = jnp.arange(BATCH)[None]
    return lambda *arguments: fit(*arguments, batches)


def measure(rounds: int) -> dict[str, float]:
    """Returns the median CPU seconds of a step for each contestant."""
    random = np.random.default_rng(0)
    windows = jnp.asarray(random.normal(size=(BATCH, WINDOW, SENSORS)), jnp.float32)
    targets = jnp.asarray(random.normal(size=BATCH), jnp.float32)
    optimizer = optax.adam(1e-3)
    params = RulCNN().init(jax.random.key(0), windows[:2])["params"]
    arguments = params, optimizer.init(params), windows, targets
    steps = {
        "flax.linen.Conv": _whole_batch_step(PlainCNN(), optimizer),
        "TemporalConv, dense band": _whole_batch_step(RulCNN(block=30), optimizer),
        "TemporalConv": _whole_batch_step(RulCNN(), optimizer),
        "TemporalConv, slices of 32": _study_step(RulCNN(), optimizer, windows),
    }
    losses = {name: float(step(*arguments)[2]) for name, step in steps.items()}
    np.testing.assert_allclose(list(losses.values()), losses["TemporalConv"], rtol=1e-5)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begin = time.process_time()
            jax.block_until_ready(step(*arguments))
            times[name].append(time.process_time() - begin)
    return {name: statistics.median(some) for name, some in times.items()}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Times the temporal convolution.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where to write the times as JSON")
    arguments = parser.parse_args()
    times = measure(arguments.rounds)
    for name, seconds in times.items():
        ratio = times["flax.linen.Conv"] / seconds
        print(f"{name:28} {1e3 * seconds:8.1f} ms {ratio:6.1f} x")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(times, indent=2) + "\n")


if __name__ == "__main__":
    main()
