"""Heads on a fixed random hidden layer: where theory is exact, nothing is trained.

The head of least squares is ridge regression, whose whole path and whose evidence
come from one spectrum; the head of cross-entropy is a convex problem, solved by
Newton's method. Neither leaves anything unconverged.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

import lagrange_jax as lj
from experiments.studies.lambda_scaling.networks import (
    cross_entropy,
    draw_clouds,
    make_model,
    random_weights,
)
from lagrange_jax.ridge.criteria import leave_one_out
from lagrange_jax.ridge.marginal_likelihood import evidence
from lagrange_jax.ridge.path import ridge_path
from lagrange_jax.ridge.selection import choose_strength

__all__ = [
    "LOGISTIC_STRENGTHS",
    "RIDGE_STRENGTHS",
    "run_fixed",
    "run_linear",
    "solve_logistic",
]

RIDGE_STRENGTHS = np.geomspace(1e-6, 10.0, 57)
"""Eight a decade."""

LOGISTIC_STRENGTHS = np.geomspace(1e-6, 1.0, 25)
"""Four a decade."""

NEWTON_STEPS = 12
"""Gradients of all heads of this study are below 1e-6 after eight."""


def solve_logistic(
    features: Float[Array, "n d"],
    targets: Float[Array, " n"],
    weights: Float[Array, " n"],
    strength: Float[Array, ""],
) -> Float[Array, " d+1"]:
    r"""Minimises the weighted mean cross-entropy plus $\frac12 s \|w\|^2$.

    Args:
      features: inputs of the head.
      targets: -1 or 1.
      weights: of the examples.
      strength: s; the bias is not penalised.

    Returns:
      The kernel, and the bias as its last element.
    """
    n, d = features.shape
    affine = jnp.concatenate([features, jnp.ones((n, 1))], axis=1)
    share = weights / weights.sum()
    penalty = strength * (jnp.arange(d + 1) < d)
    dot = partial(jnp.dot, precision=lax.Precision.HIGHEST)

    def step(_, head):
        margin = jax.nn.sigmoid(-targets * dot(affine, head))
        gradient = penalty * head - dot(affine.T, share * targets * margin)
        curvature = share * margin * (1 - margin)
        hessian = dot(affine.T, curvature[:, None] * affine) + jnp.diag(penalty)
        return head - jnp.linalg.solve(hessian, gradient)

    return lax.fori_loop(0, NEWTON_STEPS, step, jnp.zeros(d + 1))


def _one_size(
    features, targets, held_out, held_out_targets, num_examples, *, with_logistic
):
    """Validation losses of both paths, and what the data choose, at one size."""
    used = (jnp.arange(len(targets)) < num_examples).astype(features.dtype)
    moments = lj.compute_moments(features, targets[:, None], used)
    spectrum = lj.decompose(moments)
    path = ridge_path(spectrum, jnp.asarray(RIDGE_STRENGTHS, features.dtype))
    outputs = jnp.dot(held_out, path.kernel[:, :, 0].T) + path.bias[:, 0][None]
    squares = jnp.mean((outputs - held_out_targets[:, None]) ** 2, axis=0)
    logistic = {}
    if with_logistic:
        solve = partial(solve_logistic, features, targets, used)
        heads = jax.vmap(solve)(jnp.asarray(LOGISTIC_STRENGTHS, features.dtype))
        logits = jnp.dot(held_out, heads[:, :-1].T) + heads[:, -1][None]
        losses = cross_entropy(logits, held_out_targets[:, None])
        logistic["logistic"] = jnp.mean(losses, axis=0)
    by_evidence = choose_strength(spectrum)
    left_out = leave_one_out(features, targets[:, None], used)
    by_errors = choose_strength(spectrum, left_out)
    noise = evidence(spectrum, by_evidence.strength).noise_variance[0]
    return {
        "ridge": squares,
        **logistic,
        "evidence": by_evidence.strength,
        "evidence_edge": by_evidence.edge,
        "leave_one_out": by_errors.strength,
        "leave_one_out_edge": by_errors.edge,
        "noise": noise,
    }


@partial(jax.jit, static_argnames=("model", "sizes", "num_validation", "with_logistic"))
def _one_seed(key, divisor, model, sizes, num_validation, with_logistic):
    keys = jax.random.split(key, 3)
    variables, _ = lj.initialize(keys[0], model, random_weights(1.0))
    parts = []
    for part, n in zip(keys[1:], (max(sizes), num_validation), strict=True):
        batch = draw_clouds(part, n, divisor)
        tap = model.taps(variables, batch.inputs, part)[model.head]
        parts += [tap.inputs, batch.targets]
    one_size = partial(_one_size, *parts, with_logistic=with_logistic)
    return lax.map(one_size, jnp.asarray(sizes))


def run_fixed(
    reading: str,
    sizes: tuple[int, ...],
    num_validation: int,
    seeds: int,
    with_logistic: bool = True,
) -> dict[str, np.ndarray]:
    """Solves heads on random hidden layers for all strengths, sizes and seeds.

    Args:
      reading: its activation and divisor are used, see `Config`.
      sizes: numbers of examples.
      num_validation: held-out examples of each seed.
      seeds: each draws data and a hidden layer.
      with_logistic: whether the heads of cross-entropy are solved too.

    Returns:
      Validation losses "ridge" (squared error, targets -1 and 1) and "logistic"
      `[strengths, sizes, seeds]`; and `[sizes, seeds]` the strengths that
      "evidence" and "leave_one_out" choose, each with its "_edge", and the "noise"
      variance of the evidence.
    """
    activation, divisor, *_ = reading.split("/")
    one = partial(
        _one_seed,
        divisor=float(divisor),
        model=make_model(activation),
        sizes=tuple(sizes),
        num_validation=num_validation,
        with_logistic=with_logistic,
    )
    found = [jax.device_get(one(jax.random.key(1000 + seed))) for seed in range(seeds)]
    stacked = jax.tree.map(lambda *x: np.stack(x, -1), *found)
    for name in ("ridge", "logistic") if with_logistic else ("ridge",):
        stacked[name] = np.moveaxis(stacked[name], 1, 0)
    return stacked


@partial(jax.jit, static_argnames=("sizes", "num_validation"))
def _linear_seed(key, divisor, sizes, num_validation):
    keys = jax.random.split(key)
    batch = draw_clouds(keys[0], max(sizes), divisor)
    held_out = draw_clouds(keys[1], num_validation, divisor)
    multipliers = jnp.asarray(RIDGE_STRENGTHS, jnp.float32)
    wanted = jnp.log(jnp.asarray(LOGISTIC_STRENGTHS, jnp.float32))

    def one_size(num_examples):
        used = (jnp.arange(max(sizes)) < num_examples).astype(jnp.float32)
        solve = partial(solve_logistic, *batch[:2], used)
        heads = jax.vmap(solve)(multipliers)
        logits = jnp.dot(held_out.inputs, heads[:, :-1].T) + heads[:, -1][None]
        losses = cross_entropy(logits, held_out.targets[:, None]).mean(0)
        strengths = multipliers * jnp.linalg.norm(heads[:, :-1], axis=1)
        return jnp.interp(wanted, jnp.log(strengths), losses)

    return lax.map(one_size, jnp.asarray(sizes))


def run_linear(
    divisor: float, sizes: tuple[int, ...], num_validation: int, seeds: int
) -> Float[np.ndarray, "strengths sizes seeds"]:
    r"""Solves networks of linear units with both layers penalised, exactly.

    The product of the layers is one vector $\beta$, and the least
    $\frac{s}{2} (\|W\|^2 + \|a\|^2)$ with that product is $s \|\beta\|$. The optimum is
    also that of the penalty $\frac{m}{2} \|\beta\|^2$ with $m \|\beta\| = s$: one path
    of logistic regression holds all of them.

    Args:
      divisor: what the inputs are divided by.
      sizes: numbers of examples.
      num_validation: held-out examples of each seed.
      seeds: each draws data.

    Returns:
      Validation losses at `LOGISTIC_STRENGTHS`.
    """
    one = partial(_linear_seed, sizes=tuple(sizes), num_validation=num_validation)
    keys = [jax.random.key(1000 + seed) for seed in range(seeds)]
    found = [jax.device_get(one(key, divisor)) for key in keys]
    return np.moveaxis(np.stack(found, -1), 1, 0)
