"""Adam on the cross-entropy of a whole residual network for small images.

Not `lj.make_train`, whose loop is compiled: XLA's gradients of convolutions are slow
inside a loop of its own on a CPU (see `_make_step`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from experiments.backbones import CifarResNet
from experiments.backbones.preprocessing import standardize
from experiments.common.class_metrics import Score, calibrate, mean_loss
from experiments.common.curves import shuffled_batches
from lagrange_jax.models.linen import as_model
from lagrange_jax.training import resolve_head, resolved_objective
from lagrange_jax.types import Batch

__all__ = [
    "RESOLVED",
    "Curve",
    "Images",
    "Task",
    "augment_images",
    "compute_features",
    "measure_calibration",
    "score_images",
    "train_network",
]

RESOLVED = {"resolved/": 1, "resolved_every_5/": 5}
"""Before the name of a head: it begins so, and is solved anew after so many steps."""

RIDGE, DECAY = 1e-3, 0.9
"""Of a re-solved head: the best of a few on frozen features of another seed."""

FEATURE_BATCH = 10
"""Images looked at together without training: their activations fit a CPU's cache."""


class Images(NamedTuple):
    """Images and their classes."""

    images: UInt8[np.ndarray, "n 32 32 3"]
    labels: Int[np.ndarray, " n"]


class Task(NamedTuple):
    """What is fine-tuned: a pretrained network without its head, and the images."""

    depth: int
    body: Any
    train: Images
    test: Images
    num_classes: int


class Curve(NamedTuple):
    """Measurements before training and after each stretch of it.

    Attributes:
      epochs: `[m]` passes over the images so far.
      validation_loss: `[m]` mean cross-entropy of the images held out.
      validation_accuracy: `[m]` of the same images.
      train_loss: `[m]` mean over the batches of the stretch that ends here, each before
        its own step and augmented; NaN before training.
    """

    epochs: np.ndarray
    validation_loss: np.ndarray
    validation_accuracy: np.ndarray
    train_loss: np.ndarray


def augment_images(
    key: jax.Array, x: Float[Array, "n h w 3"]
) -> Float[Array, "n h w 3"]:
    """Flips half of the images and shifts them by up to 4 pixels."""
    for_flip, for_shift = jax.random.split(key)
    flip = jax.random.bernoulli(for_flip, shape=(len(x), 1, 1, 1))
    x = jnp.where(flip, x[:, :, ::-1], x)
    padded = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    corners = jax.random.randint(for_shift, (len(x), 2), 0, 9)

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (*corner, 0), x.shape[1:])

    return jax.vmap(crop)(padded, corners)


@functools.cache
def _make_predict(depth: int, num_classes: int | None) -> Any:
    """Returns `predict(variables, images)`: logits, or features."""
    module = CifarResNet(depth, num_classes)

    @jax.jit
    def apply(variables, images):
        return module.apply(variables, standardize(images.astype(jnp.float32)))

    def predict(variables, images):
        fill = -len(images) % FEATURE_BATCH
        padded = np.pad(images, ((0, fill), *[(0, 0)] * 3))
        batches = padded.reshape(-1, FEATURE_BATCH, *images.shape[1:])
        outputs = [np.asarray(apply(variables, some)) for some in batches]
        return np.concatenate(outputs)[: len(images)]

    return predict


def _plain_gradient(depth: int, num_classes: int) -> Any:
    """Returns `gradient(variables, batch, key) -> (loss, variables, gradient)`."""
    module = CifarResNet(depth, num_classes)

    def loss(params, state, batch):
        variables = {"params": params, **state}
        logits, state = module.apply(variables, batch.inputs, True, mutable=[*state])
        return mean_loss(logits, batch.targets), state

    def gradient(variables, batch, key):
        params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
        value_and_grad = jax.value_and_grad(loss, has_aux=True)
        (value, state), found = value_and_grad(params, state, batch)
        return value, {"params": params, **state}, found

    return gradient


@functools.cache
def _make_resolved(depth: int, num_classes: int, every: int) -> Any:
    """Returns the network, and the parts of its training with a re-solved head."""
    module = CifarResNet(depth, num_classes)
    model = as_model(
        module, (2, 32, 32, 3), tap_mode="training", train_kwargs={"train": True}
    )
    resolver = resolve_head(RIDGE, loss="cross_entropy", every=every, decay=DECAY)
    return model, resolved_objective(model, resolver)


@functools.cache
def _make_step(
    depth: int, num_classes: int, optimizer: Any, augment: bool, every: int
) -> Any:
    """Returns a training step, to be called in a loop of Python's.

    XLA runs the gradients of convolutions 20 times slower inside a loop of its own, on
    a CPU.
    """
    if every:
        gradient = _make_resolved(depth, num_classes, every)[1].objective.gradient
    else:
        gradient = _plain_gradient(depth, num_classes)

    @jax.jit
    def step(variables, moments, key, images, labels):
        x = standardize(images.astype(jnp.float32))
        x = augment_images(key, x) if augment else x
        value, variables, found = gradient(variables, Batch(x, labels), key)
        updates, moments = optimizer.update(found, moments, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {**variables, "params": params}, moments, value

    return step


@functools.cache
def _make_optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def _logits(task: Task, variables: Any, data: Images) -> Any:
    """Logits of a network with its head, whatever else its variables hold."""
    network = {name: variables[name] for name in task.body}
    return _make_predict(task.depth, task.num_classes)(network, data.images)


def score_images(task: Task, variables: Any, data: Images) -> Score:
    """Returns accuracy and mean cross-entropy of a network with its head."""
    logits = _logits(task, variables, data)
    accuracy = np.mean(logits.argmax(1) == data.labels)
    return Score(float(accuracy), float(mean_loss(logits, data.labels)))


def measure_calibration(
    task: Task, variables: Any, held_out: Images, parts: dict[str, Images]
) -> dict[str, dict[str, float]]:
    """Returns accuracy and calibration of a network with its head, of each part.

    Args:
      task: the pretrained network.
      variables: the trained ones.
      held_out: images that the temperature is fitted on.
      parts: images to measure, by name.
    """
    first = _logits(task, variables, held_out)
    found = {}
    for name, data in parts.items():
        logits = _logits(task, variables, data)
        measured = calibrate(first, held_out.labels, logits, data.labels)
        accuracy = float(np.mean(logits.argmax(1) == data.labels))
        found[name] = {"accuracy": accuracy, **measured}
    return found


def train_network(
    task: Task,
    head: dict[str, Any],
    train: Images,
    validation: Images,
    *,
    seed: int,
    learning_rate: float,
    epochs: int,
    evaluations: int,
    batch_size: int,
    augment: bool,
    every: int = 0,
) -> tuple[Any, Curve]:
    """Trains body and head.

    Args:
      task: the pretrained network.
      head: kernel and bias to start from.
      train: images to train on.
      validation: images held out.
      seed: of the order of the images and their augmentation.
      learning_rate: of Adam at the start; it falls to 0 along a cosine.
      epochs: passes over the images.
      evaluations: measurements in an epoch.
      batch_size: images in a training step.
      augment: whether to flip and shift images at random.
      every: steps after which the head is solved anew; 0 trains it instead.

    Returns:
      The trained variables and the curve.
    """
    n = len(train.labels)
    stretch = max(round(n / batch_size / evaluations), 1)
    stretches = epochs * evaluations
    batches = shuffled_batches(seed, n, batch_size, stretches * stretch)
    optimizer = _make_optimizer(learning_rate, len(batches))
    step = _make_step(task.depth, task.num_classes, optimizer, augment, every)
    params = {**task.body["params"], "linear": jax.tree.map(jnp.asarray, head)}
    variables, moments = {**task.body, "params": params}, optimizer.init(params)
    key = jax.random.key(seed)
    if every:
        model, parts = _make_resolved(task.depth, task.num_classes, every)
        variables, _ = parts.init(key, model, variables, None)
    points = [(0.0, *score_images(task, variables, validation), np.nan)]
    for i in range(stretches):
        losses = []
        for j in range(i * stretch, (i + 1) * stretch):
            some, step_key = batches[j], jax.random.fold_in(key, j)
            variables, moments, loss = step(
                variables, moments, step_key, train.images[some], train.labels[some]
            )
            losses.append(loss)
        done = (i + 1) * stretch * batch_size / n
        measured = score_images(task, variables, validation)
        points.append((done, *measured, float(np.mean(losses))))
    done, accuracy, loss, train_loss = map(np.array, zip(*points, strict=True))
    return variables, Curve(done, loss, accuracy, train_loss)


def compute_features(task: Task, images: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Returns what the head sees before training."""
    return _make_predict(task.depth, None)(task.body, images)
