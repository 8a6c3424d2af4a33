"""Trains Kaiming, Xavier and the Lagrangian head side by side."""

from pathlib import Path

import flax.linen as nn
import jax
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
METHODS = ("Kaiming", "Xavier", "Lagrangian")


def make_init(task: str, method: str) -> lj.InitTransform:
    """Returns the start of a network."""
    if method == "Xavier":
        return lj.reinitialize(jax.nn.initializers.glorot_normal())
    kaiming = lj.reinitialize(jax.nn.initializers.he_normal())
    return kaiming if method == "Kaiming" else lj.chain(kaiming, LOSSES[task][1])


class MLP(nn.Module):
    """One hidden layer of ReLU units."""

    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(self.outputs)(nn.relu(nn.Dense(self.hidden)(inputs)))


def _train(config: Config, name: str, task: Task, method: str) -> lj.TrainResult:
    """Trains all seeds in one call."""
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
    return jax.jit(jax.vmap(lambda key: train(key, config.learning_rate)))(keys)


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet; the data need no download."""
    del data_dir
    folder = record.open_run(folder, config)
    finished = {row["name"] for row in record.read_rows(folder)}
    for name in config.tasks:
        task = load_task(name)
        for method in METHODS:
            row = {"name": f"{name}/{method}", "task": name, "method": method}
            if row["name"] in finished:
                continue
            result = _train(config, name, task, method)
            lj.check(result.info)
            curves = {
                f"{row['name']}/train": result.train_loss,
                f"{row['name']}/validation": result.validation_loss,
            }
            record.save_arrays(folder, **curves)
            record.append_row(folder, row | {"target": task.target})
            losses = np.mean(np.asarray(result.validation_loss), axis=0)
            print(
                f"{row['name']:22} {config.seeds} seeds: validation loss "
                f"{losses[0]:7.3f} -> {losses[-1]:.3f}",
                flush=True,
            )
