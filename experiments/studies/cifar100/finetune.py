"""Fine-tunes the whole ResNet-20 from CIFAR-10 to CIFAR-100, from several first heads.

python -m experiments.studies.cifar100.finetune [--smoke] [--out FOLDER] [field=value]
"""

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.backbones import CifarResNet
from experiments.common import record
from experiments.launch import override
from experiments.studies.cifar100 import problem
from experiments.studies.cifar100.finetune_results import draw
from experiments.studies.cifar100.finetune_training import (
    Images,
    Task,
    compute_features,
    score_images,
    train_network,
)
from experiments.studies.cifar100.heads import make_heads, require_heads
from experiments.studies.cifar100.metrics import score
from lagrange_jax.datasets import load_cifar100

__all__ = ["Finetuning", "main", "run"]


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """Settings of a run.

    On one core with AVX-512 a training step takes 6 ms an image: an epoch of `full()`
    five minutes, and a row two and a half hours.

    Attributes:
      network: "resnet20", or "random" for a small one that needs no data.
      heads: names in `heads.HEADS`, solved on the features of the training images.
      seeds: each seed draws the images to train on and to validate with, the random
        heads, the order of the images and their augmentation.
      learning_rates: of Adam at the start; it falls to 0 along a cosine.
      images_per_class: to train on.
      held_out_per_class: to validate with.
      epochs: passes over the images to train on.
      evaluations: measurements in an epoch.
      batch_size: images in a training step.
      augment: whether to flip and shift images at random.
    """

    network: str = "resnet20"
    heads: tuple[str, ...] = (
        *("kaiming", "ce_chosen", "forward_at_most/standardized"),
        *("xavier", "loss_within_50/one_hot", "orthogonal"),
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rates: tuple[float, ...] = (1e-3,)
    images_per_class: int = 450
    held_out_per_class: int = 50
    epochs: int = 30
    evaluations: int = 1
    batch_size: int = 32
    augment: bool = True

    @classmethod
    def full(cls) -> "Finetuning":
        """All images."""
        return cls()

    @classmethod
    def smoke(cls) -> "Finetuning":
        """Seconds, and no data."""
        return cls(
            network="random",
            heads=("kaiming", "gcv/calibrated"),
            seeds=(0,),
            images_per_class=8,
            held_out_per_class=4,
            epochs=2,
            batch_size=16,
        )


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


def _draw_images(task: Task, config: Finetuning, seed: int) -> tuple[Images, Images]:
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


def _run_row(config: Finetuning, task: Task, test: Any, folder: Path, row: Any) -> None:
    """Solves the head, trains all from it, and records both.

    Args:
      config: the settings.
      task: network and images.
      test: features of the test images before training.
      folder: the run folder.
      row: name, head, seed and learning rate.
    """
    begin = time.perf_counter()
    parts = _draw_images(task, config, row["seed"])
    features = compute_features(task, parts[0].images)
    split = problem.Split(features, parts[0].labels)
    make = make_heads(split, task.num_classes, row["seed"])
    kernel, bias, info = jax.block_until_ready(make(row["head"]))
    row |= info | {"seconds_init": time.perf_counter() - begin}
    row["norm_sq"] = float(np.sum(np.square(kernel)))
    first = score(test, kernel, bias)
    row |= {"initial_test_accuracy": first.accuracy, "initial_test_loss": first.loss}
    head = {"kernel": kernel, "bias": bias}
    variables, curve = train_network(
        task,
        head,
        *parts,
        seed=row["seed"],
        learning_rate=row["learning_rate"],
        epochs=config.epochs,
        evaluations=config.evaluations,
        batch_size=config.batch_size,
        augment=config.augment,
    )
    last = score_images(task, variables, task.test)
    row |= {"test_accuracy": last.accuracy, "test_loss": last.loss}
    arrays = {f"{row['name']}/{k}": v for k, v in curve._asdict().items()}
    record.save_arrays(folder, **{k: v.astype(np.float32) for k, v in arrays.items()})
    row["seconds"] = time.perf_counter() - begin
    record.append_row(folder, row)


def _unfinished(config: Finetuning, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows to run: all heads of one seed before the next seed."""
    finished = {row["name"] for row in record.read_rows(folder)}
    for seed, head, rate in itertools.product(
        config.seeds, config.heads, config.learning_rates
    ):
        name = f"{head}/rate={rate:g}/seed={seed}"
        if name not in finished:
            yield {"name": name, "head": head, "seed": seed, "learning_rate": rate}


def run(config: Finetuning, folder: str | Path, data_dir: str | None = None) -> None:
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
    require_heads(config.heads)
    folder = record.open_run(folder, config)
    rows = list(_unfinished(config, folder))
    if not rows:
        return
    task = _load(config.network, data_dir)
    features = compute_features(task, task.test.images)
    test = problem.Split(features, task.test.labels)
    for row in rows:
        _run_row(config, task, test, folder, row)
        accuracies = f"{row['initial_test_accuracy']:.1%} to {row['test_accuracy']:.1%}"
        print(f"{row['name']}: {accuracies} ({row['seconds']:.0f} s)", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", default="runs/cifar100-finetune", help="run folder")
    parser.add_argument("--data-dir", help="folder of data fetched by hand")
    parser.add_argument("fields", nargs="*", metavar="field=value")
    arguments = parser.parse_intermixed_args(argv)
    try:
        config = Finetuning.smoke() if arguments.smoke else Finetuning.full()
        run(override(config, arguments.fields), arguments.out, arguments.data_dir)
        print(draw(arguments.out))
    except (ValueError, FileNotFoundError) as error:
        print(f"finetune: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
