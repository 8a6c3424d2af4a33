"""Trains random heads, a zero head and the Lagrangian head side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lagrange_jax as lj
import lagrange_jax.models.linen
from experiments.common import record
from experiments.studies.demo.config import Config
from experiments.studies.demo.tasks import Task, load_task

__all__ = ["LOSSES", "METHODS", "make_init", "run"]

LOSSES = {
    "digits": (
        optax.losses.softmax_cross_entropy_with_integer_labels,
        lj.lagrange(loss="cross_entropy"),
    ),
    "diabetes": (optax.losses.squared_error, lj.lagrange()),
}
METHODS = ("Kaiming", "Xavier", "zero head", "Lagrangian")


def make_init(task: str, method: str) -> lj.InitTransform:
    """Returns the start of a network."""
    if method == "Xavier":
        return lj.reinitialize(jax.nn.initializers.glorot_normal())
    kaiming = lj.reinitialize(jax.nn.initializers.he_normal())
    loss = "cross_entropy" if task == "digits" else "squared_error"
    heads = {"zero head": lj.zero_head(loss=loss), "Lagrangian": LOSSES[task][1]}
    return lj.chain(kaiming, heads[method]) if method in heads else kaiming


class MLP(nn.Module):
    """One hidden layer of ReLU units."""

    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(self.outputs)(nn.relu(nn.Dense(self.hidden)(inputs)))


def _train(config: Config, name: str, task: Task, method: str) -> lj.TrainResult:
    """Trains all learning rates and seeds in one call, `[rate, seed]`."""
    module = MLP(config.hidden, task.outputs)
    model = lj.linen.as_model(module, task.train.inputs[:2])
    train = lj.make_train(
        model,
        LOSSES[name][0],
        lambda strength: optax.adam(strength),
        make_init(name, method),
        task.train,
        validation=task.validation,
        num_epochs=config.epochs,
        batch_size=config.batch_size,
        record_every=1,
    )
    keys = jax.random.split(jax.random.key(0), config.seeds)
    rates = jnp.asarray(config.learning_rates)
    seeds = jax.vmap(train, (0, None))
    # One rate after the other: the solve is traced once, and a member stays small.
    return jax.jit(lambda: jax.lax.map(lambda rate: seeds(keys, rate), rates))()


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet; the data need no download."""
    del data_dir
    folder = record.open_run(folder, config)
    tasks = {name: load_task(name) for name in config.tasks}

    def run_row(row: dict[str, Any]) -> dict[str, Any]:
        result = _train(config, row["task"], tasks[row["task"]], row["method"])
        lj.check(result.info)
        curves = {"train": result.train_loss, "validation": result.validation_loss}
        record.save_arrays(
            folder, **{f"{row['name']}/{k}": v for k, v in curves.items()}
        )
        best = np.asarray(result.validation_loss).min(-1).mean(-1).min()
        return {"target": tasks[row["task"]].target, "best_validation": float(best)}

    def summarize(row: Mapping[str, Any]) -> str:
        return f"best validation loss {row['best_validation']:.3f}"

    rows = [
        {"name": f"{name}/{method}", "task": name, "method": method}
        for name in config.tasks
        for method in METHODS
    ]
    record.run_rows(folder, rows, run_row, summarize)
