"""Fine-tunes the network from every head, seed and learning rate, and records it."""

import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.backbones import CifarResNet, problem
from experiments.common import record
from experiments.common.class_heads import Head, make_heads, require_heads
from experiments.common.class_metrics import score
from experiments.common.corruptions import corrupt
from experiments.studies.cifar100_finetune.config import Config
from experiments.studies.cifar100_finetune.probe import PROBED, probe
from experiments.studies.cifar100_finetune.training import (
    RESOLVED,
    Images,
    Task,
    compute_features,
    measure_calibration,
    score_images,
    train_network,
)
from lagrange_jax.datasets import load_cifar100

__all__ = ["run", "split_head"]

_WAYS = {"": 0, PROBED: 0, **RESOLVED}
"""What may stand before the name of a head, and how often it is solved anew."""


def _load(network: str, data_dir: str | None) -> Task:
    if network == "random":
        return _random_task()
    body = problem.load_backbone(network, data_dir, 32).variables
    archive = data_dir if problem.has_archive(data_dir) else None
    splits = load_cifar100(manual_dir=archive)
    depth = int(network.removeprefix("resnet"))
    train, test = Images(*splits.train[:2]), Images(*splits.test[:2])
    return Task(depth, body, train, test, len(splits.label_names))


def _random_task() -> Task:
    """Classes of different colours, and a network that has learnt nothing."""
    random, classes = np.random.default_rng(0), 4
    labels = np.tile(np.arange(classes, dtype=np.int32), 16)
    colours = random.integers(60, 200, (classes, 1, 1, 3))
    noise = random.integers(-50, 50, (len(labels), 32, 32, 3))
    images = Images((colours[labels] + noise).astype(np.uint8), labels)
    module = CifarResNet(8, num_classes=None)
    example = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), example)

    def draw(array):
        is_kernel = len(array.shape) == 4
        return random.normal(0, 0.2, array.shape) if is_kernel else np.ones(array.shape)

    body = jax.tree.map(lambda a: jnp.asarray(draw(a), jnp.float32), shapes)
    return Task(8, body, images, images, classes)


def _draw_images(task: Task, config: Config, seed: int) -> tuple[Images, Images]:
    """Returns images to train on and to validate with, equally many of each class."""
    order = np.random.default_rng(seed).permutation(len(task.train.labels))
    labels, end = task.train.labels[order], config.images_per_class
    drawn = [order[labels == label] for label in range(task.num_classes)]
    here = np.sort([some[:end] for some in drawn], axis=None)
    there = [some[end : end + config.held_out_per_class] for some in drawn]
    there = np.sort(there, axis=None)
    return Images(*(x[here] for x in task.train)), Images(
        *(x[there] for x in task.train)
    )


def _run_row(config: Config, task: Task, test: Any, folder: Path, row: Any) -> Any:
    """Solves the head and trains all from it.

    Args:
      config: the settings.
      task: network and images.
      test: features of the test images before training.
      folder: the run folder.
      row: name, head, seed and learning rate.
    """
    begin = time.perf_counter()
    parts = _draw_images(task, config, row["seed"])
    kernel, bias, info = jax.block_until_ready(_make_head(config, task, parts, row))
    solved = {"seconds_init": time.perf_counter() - begin}
    first = score(test, kernel, bias)
    variables, curve = train_network(
        task,
        {"kernel": kernel, "bias": bias},
        *parts,
        seed=row["seed"],
        learning_rate=row["learning_rate"],
        epochs=config.epochs,
        evaluations=config.evaluations,
        batch_size=config.batch_size,
        augment=config.augment,
        every=_WAYS[split_head(row["head"])[0]],
    )
    last = score_images(task, variables, task.test)
    arrays = {f"{row['name']}/{k}": v for k, v in curve._asdict().items()}
    record.save_arrays(folder, **{k: v.astype(np.float32) for k, v in arrays.items()})
    return {
        **info,
        **solved,
        "norm_sq": float(np.sum(np.square(kernel))),
        "initial_test_accuracy": first.accuracy,
        "initial_test_loss": first.loss,
        "test_accuracy": last.accuracy,
        "test_loss": last.loss,
        **_calibrations(config, task, variables, parts[1]),
    }


def _make_head(config: Config, task: Task, parts: Any, row: Any) -> Head:
    """The head to begin with, solved or probed on features of the images."""

    def features(part):
        return problem.Split(compute_features(task, part.images), part.labels)

    train, seed = features(parts[0]), row["seed"]
    head = make_heads(train, task.num_classes, seed)(split_head(row["head"])[1])
    if not row["head"].startswith(PROBED):
        return head
    return probe(head, train, features(parts[1]), config.batch_size, seed)


def split_head(head: str) -> tuple[str, str]:
    """Returns what is done with a head, and what it starts from."""
    way = max(filter(head.startswith, _WAYS), key=len)
    return way, head.removeprefix(way)


def _calibrations(
    config: Config, task: Task, variables: Any, held_out: Images
) -> dict[str, Any]:
    """How sure the network is, and what it is worth where images are made worse."""
    measure = functools.partial(measure_calibration, task, variables, held_out)
    everything = {"calibration": measure({"": task.test})[""]}
    if not config.corruptions:
        return everything
    some = Images(*(x[: config.corrupted] for x in task.test))
    worse = {
        name: Images(corrupt(some.images, name), some.labels)
        for name in config.corruptions
    }
    return everything | {"shifted": measure({"clean": some, **worse})}


def _rows(config: Config) -> Iterator[dict[str, Any]]:
    """Yields the rows to run: all of one rate, and of one seed, before the next."""
    for rate, seed, head in itertools.product(
        config.learning_rates, config.seeds, config.heads
    ):
        name = f"{head}/rate={rate:g}/seed={seed}"
        yield {"name": name, "head": head, "seed": seed, "learning_rate": rate}


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet.

    Args:
      config: what to run.
      folder: the run folder.
      data_dir: folder with the archive of CIFAR-100 and the weights; None takes
        LAGRANGE_JAX_DATA.

    Raises:
      FileNotFoundError: data are missing; the message says what to fetch.
      ValueError: a head is unknown, or the folder holds another configuration.
    """
    require_heads([split_head(name)[1] for name in config.heads])
    folder = record.open_run(folder, config)

    @functools.cache
    def load() -> tuple[Task, problem.Split]:
        task = _load(config.network, data_dir)
        return task, problem.Split(
            compute_features(task, task.test.images), task.test.labels
        )

    record.run_rows(
        folder,
        _rows(config),
        lambda row: _run_row(config, *load(), folder, row),
        lambda row: f"{row['initial_test_accuracy']:.1%} to {row['test_accuracy']:.1%}",
    )
