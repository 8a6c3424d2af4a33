"""Networks of one hidden layer, trained for all strengths and sizes of one seed."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import lagrange_jax as lj
from experiments.studies.strength_regret.config import Config
from experiments.studies.strength_regret.tasks import TASKS, draw, sizes_of

__all__ = [
    "PENALTIES",
    "Case",
    "make_cases",
    "strengths_of",
    "train",
]


class Penalty(NamedTuple):
    """An optimiser and how strength enters it; biases are never penalised.

    Attributes:
      optimizer: `optimizer(schedule, strength)`.
      rate: its first learning rate; it falls to zero on a cosine.
      strengths: exponents of ten of the least and the largest.
      kind: what the library calls it: "l2", "l1" or "decoupled".
      default: the strength that people set without looking.
    """

    optimizer: Callable[..., optax.GradientTransformation]
    rate: float
    strengths: tuple[float, float]
    kind: Literal["l2", "l1", "decoupled"]
    default: float


def _mask(params):
    return lj.transforms.kernels_only(params)


def _sgd_l2(schedule, strength):
    penalty = lj.add_l2_penalty(strength, mask=_mask)
    return optax.chain(penalty, optax.sgd(schedule, momentum=0.9))


def _adam_l2(schedule, strength):
    penalty = lj.add_l2_penalty(strength, mask=_mask)
    return optax.chain(penalty, optax.adam(schedule))


def _adam_l1(schedule, strength):
    return lj.proximal_adam(schedule, strength, mask=_mask)


def _adamw(schedule, strength):
    return optax.adamw(schedule, weight_decay=strength, mask=_mask)


PENALTIES = {
    "sgd l2": Penalty(_sgd_l2, 0.02, (-5, 0), "l2", 1e-4),
    "adam l2": Penalty(_adam_l2, 0.01, (-5, 0), "l2", 1e-4),
    "adam l1": Penalty(_adam_l1, 0.01, (-5, 0), "l1", 1e-4),
    "adamw": Penalty(_adamw, 0.01, (-3, 2), "decoupled", 1e-2),
}
NUM_STRENGTHS = 21


class Case(NamedTuple):
    """One row of the record.

    Attributes:
      name: "task/penalty/recipe/seed".
      task: name in `TASKS`.
      penalty: name in `PENALTIES`.
      recipe: change of the recipe, see `Config`.
      seed: draws everything.
      sizes: numbers of examples.
    """

    name: str
    task: str
    penalty: str
    recipe: str
    seed: int
    sizes: tuple[int, ...]


def strengths_of(penalty: str) -> np.ndarray:
    """The grid of strengths of a penalty, four a decade."""
    return np.logspace(*PENALTIES[penalty].strengths, NUM_STRENGTHS)


def make_cases(config: Config) -> list[Case]:
    """Returns all rows, in an order that leaves whole tables wherever it stops.

    All tasks with four seeds, then with the rest, then four of the other recipes.
    """
    recipes = [x for x in config.recipes if x != "base"]
    few = range(min(4, config.seeds))
    cases = [
        _case(config, task, penalty, "base", seed)
        for seeds in (few, range(len(few), config.seeds))
        for seed in seeds
        for task in config.tasks
        for penalty in config.penalties
    ]
    changed = [
        _case(config, task, penalty, recipe, seed)
        for seed in few
        for recipe in recipes
        for task in config.recipe_tasks
        for penalty in config.recipe_penalties
    ]
    return [*cases, *changed]


def _case(config, task, penalty, recipe, seed) -> Case:
    sizes = sizes_of(task, config.smallest, config.most_sizes)
    sizes = sizes if recipe == "base" else sizes[-3:-2]
    return Case(f"{task}/{penalty}/{recipe}/{seed}", task, penalty, recipe, seed, sizes)


class MLP(nn.Module):
    """One hidden layer of rectified units."""

    width: int
    outputs: int

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(nn.Dense(self.width, name="hidden")(inputs))
        return nn.Dense(self.outputs, name="head")(hidden)


@functools.cache
def _make_train(task, penalty, features, width, num_epochs, batch_size):
    """One function, and so one compiled program, for all seeds and rates."""
    classes = TASKS[task].classes
    network = MLP(width, classes or 1)
    model = lj.linen.as_model(network, np.zeros((1, features), "f4"))
    loss = optax.losses.softmax_cross_entropy if classes else optax.losses.squared_error
    objective = lj.training.mlp_objective(model, loss, jax.nn.relu)
    optimizer = PENALTIES[penalty].optimizer

    def train(key, strength, num_examples, rate, examples, held_out):
        steps = num_epochs * jnp.ceil(num_examples / batch_size)

        def schedule(count):
            share = jnp.minimum(count / steps, 1.0)
            return rate * 0.5 * (1 + jnp.cos(jnp.pi * share))

        fit = lj.make_train(
            model,
            loss,
            lambda strength: optimizer(schedule, strength),
            lj.reinitialize(jax.nn.initializers.he_normal()),
            lj.Batch(*examples),
            objective=objective,
            validation=lj.Batch(*held_out),
            num_epochs=num_epochs,
            batch_size=batch_size,
        )
        result = fit(key, strength, num_examples)
        norm = jnp.sqrt((result.kernel_norm[-1] ** 2).sum())
        last = result.train_loss[-1], jnp.asarray(result.validation_loss)[-1], norm
        return jnp.where(result.diverged, jnp.inf, jnp.stack(last))

    return train


def train(config: Config, case: Case) -> np.ndarray:
    """Trains one seed for all strengths and sizes.

    Returns:
      Training loss, held-out loss and norm of all kernels `[3, strengths, sizes]`,
      infinite where training diverged.
    """
    examples, held_out = draw(case.task, case.seed)
    what, number = [*case.recipe.split(), "1"][:2]

    def times(name):
        return float(number) if what == name else 1

    run = _make_train(
        case.task,
        case.penalty,
        examples.inputs.shape[1],
        round(config.width * times("width")),
        round(config.num_epochs * times("epochs")),
        round(config.batch_size * times("batch")),
    )
    rate = PENALTIES[case.penalty].rate * times("rate")
    axes = {
        "strength": strengths_of(case.penalty).astype("f4"),
        "num_examples": np.asarray(case.sizes, np.int32),
        "key": jax.random.key(case.seed)[None],
        "rate": np.asarray([rate], "f4"),
        "examples": tuple(x[None] for x in examples[:2]),
        "held_out": tuple(x[None] for x in held_out[:2]),
    }
    values = lj.run_grid(run, axes, vmap_axes=("strength",)).values
    return np.moveaxis(values.reshape(NUM_STRENGTHS, len(case.sizes), 3), -1, 0)
