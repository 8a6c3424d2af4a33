"""The arms, and one training step that serves all of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.nn import initializers

import lagrange_jax as lj
from experiments.studies.resolved_head.problems import SQUARED, Data, Problem
from experiments.studies.resolved_head.proximal import proximal_head
from lagrange_jax.constraints import at_strength, cross_validated_norm
from lagrange_jax.losses.record import TargetMeans, losses_and_slopes, start
from lagrange_jax.models import HeadArrays
from lagrange_jax.training import Resolver, resolve_head

__all__ = ["BASELINES", "STARTS", "Arm", "make_arms", "make_fit", "make_train"]

STARTS = ("kaiming", "zero", "once")
"""Heads that the optimiser trains, by how they begin."""

BASELINES = (*STARTS, "zero, penalised")
"""The same, and one that is trained on the re-solved head's own objective."""


class Head(NamedTuple):
    """A linear head; its bias is zero where the features hold one.

    Attributes:
      kernel: `[d, k]`.
      bias: `[k]`.
    """

    kernel: Any
    bias: Any


def _as_head(head: HeadArrays) -> Head:
    bias = jnp.zeros_like(head.kernel[0]) if head.bias is None else head.bias
    return Head(head.kernel, bias)


class Arm(NamedTuple):
    """How the head begins, and how it goes on.

    Attributes:
      init: `init(key, problem, body, data) -> Head`.
      resolver: solves for the head at every step; None leaves it to the optimiser.
      ridge: of the penalty on a head that the optimiser trains, as `resolve_head` has
        it: the same objective without the solve.
    """

    init: Callable[..., Head]
    resolver: Resolver | None = None
    ridge: float = 0.0


def _kaiming(key, problem, body, data) -> Head:
    shape = problem.width, problem.num_outputs
    kernel = initializers.he_normal()(key, shape, float)
    return Head(kernel, jnp.zeros(problem.num_outputs, float))


def _zero(key, problem, body, data) -> Head:
    """The best of all constants."""
    weights = data.weights if problem.use_bias else 0 * data.weights
    mean = weights @ data.targets / data.weights.sum()
    means = TargetMeans(mean, jnp.zeros_like(mean), data.weights.sum())
    bias = start(problem.loss, means, problem.num_outputs).bias
    shape = problem.width, problem.num_outputs
    return Head(jnp.zeros(shape, float), bias.astype(float))


def _once(key, problem, body, data) -> Head:
    """`lj.lagrange()`, with the constraint that is its default for the loss."""
    features = _all_features(problem, body, data.inputs)
    if problem.loss != SQUARED:
        examples = features, data.targets, data.weights
        norm = cross_validated_norm()
        solved = lj.solve_convex(examples, norm, loss=problem.loss, key=key)
        return Head(solved.kernel, solved.bias)
    moments = lj.compute_moments(features, data.targets, data.weights)
    spectrum = lj.decompose(moments, use_bias=problem.use_bias)
    solved = lj.solve_least_squares(spectrum, lj.loss_within(1.5))
    return Head(solved.kernel, solved.bias)


def _all_features(problem, body, inputs):
    """Of any number of rows, where batches are cut in slices."""
    size = problem.batch_size
    padded = jnp.pad(inputs, ((0, -len(inputs) % size), *[(0, 0)] * (inputs.ndim - 1)))
    return problem.features(body, padded)[: len(inputs)]


def make_arms(problem: Problem) -> dict[str, Arm]:
    """Returns the arms by name, baselines first; a re-solved head begins as zero."""
    (large, small), (short, long) = problem.ridges, problem.decays
    resolve = partial(resolve_head, loss=problem.loss)
    solved = {
        f"decay {short:g}, ridge {large:g}": resolve(large, decay=short),
        f"decay {long:g}, ridge {large:g}": resolve(large, decay=long),
        f"decay {long:g}, ridge {small:g}": resolve(small, decay=long),
        f"decay {long:g}, gcv, every 10": resolve(
            at_strength("gcv"), decay=long, every=10
        ),
        f"decay {long:g}, ridge {large:g}, every 5": resolve(
            large, decay=long, every=5
        ),
        "proximal 1": proximal_head(1.0),
    }
    arms = {"kaiming": Arm(_kaiming), "zero": Arm(_zero), "once": Arm(_once)}
    if problem.use_bias:  # beside an equation such a penalty is nothing
        arms["zero, penalised"] = Arm(_zero, ridge=large)
    return arms | {name: Arm(_zero, x) for name, x in solved.items()}


class State(NamedTuple):
    """One network in training.

    Attributes:
      body: parameters below the head.
      head: the head.
      optimizer: the optimiser's memory.
      resolver: the re-solved head's memory, or None.
    """

    body: Any
    head: Head
    optimizer: Any
    resolver: Any


def _make_step(problem: Problem, arm: Arm, optimizer):
    """Returns `step(state, inputs, targets) -> (state, loss)`; one forward pass."""
    bound: Any = problem.loss.kind.curvature
    curvature = bound(problem.loss.parameters)

    def step(state: State, inputs, targets):
        features, pull = jax.vjp(lambda b: problem.features(b, inputs), state.body)
        head, memory = state.head, state.resolver
        if arm.resolver:
            memory = arm.resolver.update(memory, features, targets)
            head = _as_head(memory.head)
        outputs = features @ head.kernel + head.bias[None]
        losses, slopes = losses_and_slopes(problem.loss, outputs, targets)
        slopes = slopes / len(slopes)
        (body_gradient,) = pull(slopes @ head.kernel.T)
        head_gradient = Head(features.T @ slopes, problem.use_bias * slopes.sum(0))
        if arm.ridge:
            strength = curvature * arm.ridge * jnp.var(features, 0).mean()
            kernel = head_gradient.kernel + strength * head.kernel
            head_gradient = Head(kernel, head_gradient.bias)
        params: Any = (state.body, head)
        gradient: Any = (body_gradient, head_gradient)
        if arm.resolver:
            params, gradient = state.body, body_gradient
        updates, momentum = optimizer.update(gradient, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        body, head = (params, head) if arm.resolver else params
        return State(body, head, momentum, memory), losses.mean()

    return step


def _begin(problem: Problem, arm: Arm, optimizer, data: Data, key) -> State:
    body_key, head_key = jax.random.split(key)
    body = problem.init(body_key)
    head = arm.init(head_key, problem, body, data)
    if arm.resolver:
        bias = head.bias if problem.use_bias else None
        memory = arm.resolver.init(HeadArrays(head.kernel, bias))
        return State(body, head, optimizer.init(body), memory)
    return State(body, head, optimizer.init((body, head)), None)


def make_train(problem: Problem, arm: Arm) -> Callable[..., dict[str, Any]]:
    """Returns `train(data, key, rate, batches) -> curves`, a pure function.

    `batches` are indices `[evaluations, steps, batch]`. The curves are the validation
    loss before training and after each stretch of steps, and the mean over a stretch
    of the losses of its batches.
    """

    def train(data: Data, key, rate, batches):
        optimizer = problem.optimizer(rate)
        step = _make_step(problem, arm, optimizer)

        def validate(state: State):
            features = problem.predict(state.body, data.held_out)
            outputs = features @ state.head.kernel + state.head.bias[None]
            targets = data.held_out_targets
            losses, _ = losses_and_slopes(problem.loss, outputs, targets)
            # For a differential equation the weights hold the solution's size.
            count = jnp.sum(data.held_out_weights > 0)
            return data.held_out_weights @ losses / count

        def one(state, rows):
            return step(state, data.inputs[rows], data.targets[rows])

        def stretch(state, rows):
            state, losses = jax.lax.scan(one, state, rows)
            return state, (validate(state), losses.mean())

        state = _begin(problem, arm, optimizer, data, key)
        first = validate(state)
        _, (validation, loss) = jax.lax.scan(stretch, state, batches)
        return {"validation": jnp.append(first, validation), "train": loss}

    return train


def make_fit(problem: Problem, arm: Arm, rate: float):
    """Returns jitted `begin(data, key)` and `fit(state, data, batches)`, for timing."""
    optimizer = problem.optimizer(rate)
    step = _make_step(problem, arm, optimizer)

    @jax.jit
    def begin(data, key):
        return _begin(problem, arm, optimizer, data, key)

    @jax.jit
    def fit(state, data, batches):
        def one(state, rows):
            return step(state, data.inputs[rows], data.targets[rows])

        return jax.lax.scan(one, state, batches)

    return begin, fit
