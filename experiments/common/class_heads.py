"""Heads of classes by name, none of them trained by steps; what the studies compare."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import lagrange_jax as lj
from experiments.backbones.problem import Split
from experiments.common.class_baselines import class_means, frequencies, imprinted
from experiments.common.class_metrics import temperature
from experiments.common.methods import both_relations, relation_label
from lagrange_jax.constraints import Problem, choose_norm, variance_scaling

__all__ = [
    "HEADS",
    "RANDOM",
    "TRAINED",
    "Head",
    "label_of",
    "make_heads",
    "require_heads",
    "solve_path",
]


class Head(NamedTuple):
    """A linear head, and what is known of how it came about.

    Attributes:
      kernel: `[d, k]` weights.
      bias: `[k]` bias.
      info: numbers for the record.
    """

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]
    info: dict[str, Any]


RANDOM = {
    "kaiming": jax.nn.initializers.he_normal(),
    "xavier": jax.nn.initializers.glorot_normal(),
    "lecun": jax.nn.initializers.lecun_normal(),
    "orthogonal": jax.nn.initializers.orthogonal(),
    "zeros": jax.nn.initializers.zeros,
}

MEANS: dict[str, Callable[..., Any]] = {
    "frequencies": frequencies,
    "class_means": class_means,
    "imprinted": imprinted,
}


PROPAGATION = {
    **both_relations("forward", variance_scaling),
    **both_relations("backward", variance_scaling, mode="fan_out"),
    **both_relations("glorot", variance_scaling, mode="fan_avg"),
    **both_relations("kaiming_norm", variance_scaling, scale=2.0),
    **both_relations("exact_forward", variance_scaling, metric="output_variance"),
}
"""Constraints of a fixed size, which the scale of the targets matters to."""

FROM_DATA = {
    "unconstrained": lj.constraints.fixed_norm(1e9, relation="at_most"),
    "loss_within_2": lj.loss_within(1.02),
    "loss_within_10": lj.loss_within(1.1),
    "loss_within_50": lj.loss_within(1.5),
    "gcv": lj.constraints.at_strength("gcv"),
    "evidence": lj.constraints.at_strength("evidence"),
}
"""Constraints that follow the scale of the targets."""

CODINGS = ("one_hot", "standardized")
"""Targets 0 and 1, or the same divided by their standard deviation. What is added to
the targets does not matter, for the bias is free."""

CALIBRATED = "calibrated"
"""The head of 0/1 targets times the one number that minimises the cross-entropy."""


def _least_squares_names() -> list[str]:
    fixed = [f"{name}/{coding}" for name in PROPAGATION for coding in CODINGS]
    codings = (*CODINGS, CALIBRATED)
    return fixed + [f"{name}/{coding}" for name in FROM_DATA for coding in codings]


HEADS = (*RANDOM, *MEANS, *_least_squares_names(), "ce_forward", "ce_chosen")
"""All names, in the order of the tables."""

TRAINED = (
    *("kaiming", "xavier", "zeros", "imprinted", "forward_equality/one_hot"),
    *("exact_forward_equality/standardized", "gcv/one_hot", "gcv/calibrated"),
    *("ce_forward", "ce_chosen"),
)
"""Those from which the head is also trained."""

_LABELS = {
    "kaiming": "Kaiming",
    "xavier": "Xavier",
    "lecun": "LeCun",
    "orthogonal": "orthogonal",
    "zeros": "zeros",
    "frequencies": "zeros, bias at the class frequencies",
    "class_means": "nearest class mean",
    "imprinted": "unit class means",
    "forward": "forward",
    "backward": "backward",
    "glorot": "Glorot",
    "kaiming_norm": "Kaiming gain",
    "exact_forward": "exact forward",
    "unconstrained": "no bound",
    "loss_within_2": "loss within 2%",
    "loss_within_10": "loss within 10%",
    "loss_within_50": "loss within 50%",
    "gcv": "cross-validation (GCV)",
    "evidence": "evidence",
    "ce_forward": "cross-entropy, forward =",
    "ce_chosen": "cross-entropy, cross-validated norm",
    "one_hot": "0/1 targets",
    "standardized": "unit-variance targets",
    "calibrated": "calibrated",
}


def require_heads(names: Sequence[str]) -> None:
    """Refuses names that are no heads."""
    unknown = sorted({*names} - {*HEADS})
    if unknown:
        raise ValueError(
            f"unknown heads {', '.join(unknown)}; there are {', '.join(HEADS)}."
        )


def label_of(name: str) -> str:
    """Returns what tables and figures call a head: "=" on the sphere, "≤" inside."""
    constraint, slash, coding = name.partition("/")
    label = relation_label(constraint, _LABELS)
    return f"least squares, {label}, {_LABELS[coding]}" if slash else label


def make_heads(
    split: Split, num_classes: int, seed: int, chosen_norm: float | None = None
) -> Callable[[str], Head]:
    """Returns `make(name) -> Head` on some examples; what heads share is kept.

    Args:
      split: the examples that heads are solved on.
      num_classes: number of classes.
      seed: of the random heads.
      chosen_norm: squared norm of "ce_chosen"; None: chosen on these examples.
    """
    shape = split.features.shape[1], num_classes
    one_hot = jax.nn.one_hot(split.labels, num_classes)
    deviation = jnp.std(one_hot, axis=0).mean()

    @functools.cache
    def spectrum(coding: str) -> lj.Spectrum:
        targets = one_hot / deviation if coding == "standardized" else one_hot
        return lj.decompose(lj.compute_moments(jnp.asarray(split.features), targets))

    def make(name: str) -> Head:
        if name in RANDOM:
            kernel = RANDOM[name](jax.random.key(seed), shape, jnp.float32)
            return Head(kernel, jnp.zeros(num_classes), {})
        if name in MEANS:
            kernel, bias = MEANS[name](split, num_classes)
            return Head(jnp.asarray(kernel), jnp.asarray(bias), {})
        if name == "ce_forward":  # mean squared weight 1 / d, as for least squares
            return _cross_entropy(split, num_classes, float(num_classes))
        if name == "ce_chosen":
            norm_sq = chosen_norm or _choose(split, num_classes)
            return _cross_entropy(split, num_classes, norm_sq)
        return _least_squares(split, name, spectrum)

    return make


def _least_squares(split: Split, name: str, spectrum) -> Head:
    constraint_name, _, coding = name.partition("/")
    constraint = (PROPAGATION | FROM_DATA)[constraint_name]
    known = Problem(spectrum(coding if coding in CODINGS else "one_hot"))
    solution = lj.solve_least_squares(
        spectrum("standardized" if coding == "standardized" else "one_hot"),
        constraint._replace(radius_sq=lambda _: constraint.radius_sq(known)),
    )
    lj.check(solution)
    kernel, bias = solution.kernel, solution.bias
    info = {"multiplier": float(np.mean(solution.multiplier))}
    if coding == CALIBRATED:
        scale = temperature(split.features @ kernel + bias[None], split.labels)
        kernel, bias, info = scale * kernel, scale * bias, {"scale": float(scale)}
    return Head(kernel, bias, info)


def _cross_entropy(split: Split, num_classes: int, norm_sq: float) -> Head:
    examples = tuple(map(jnp.asarray, split))
    constraint = lj.constraints.fixed_norm(norm_sq, per_output=False)
    solution = lj.solve_convex(examples, constraint, num_outputs=num_classes)
    lj.check(solution)
    info = {
        "multiplier": float(solution.multiplier),
        "stationarity": float(solution.stationarity),
    }
    return Head(solution.kernel, solution.bias, info)


def _choose(split: Split, num_classes: int) -> float:
    """The norm that cross-validates best in three folds."""
    batch = lj.Batch(*map(jnp.asarray, split))
    key = jax.random.key(0)
    loss = lj.losses.softmax()
    norm = choose_norm(key, batch, None, loss, num_outputs=num_classes, num_folds=3)
    return float(norm)


def solve_path(
    train: Split, test: Split, norm_sq: Sequence[float], num_classes: int
) -> dict[str, np.ndarray]:
    """Returns what cross-entropy heads of many norms are worth, one value a norm.

    Args:
      train: the examples that heads are solved on.
      test: the examples that they are measured on as well.
      norm_sq: the norms, ascending.
      num_classes: number of classes.
    """
    path = lj.solvers.convex_path(
        tuple(map(jnp.asarray, train)),
        jnp.asarray(norm_sq, jnp.float32),
        validation=tuple(map(jnp.asarray, test)),
        num_outputs=num_classes,
    )
    arrays = {
        "norm_sq": path.norm_sq,
        "multiplier": path.heads.multiplier,
        "status": path.heads.status,
        "train_loss": path.loss,
        "train_accuracy": path.accuracy,
        "test_loss": path.validation_loss,
        "test_accuracy": path.validation_accuracy,
    }
    return {name: np.asarray(array) for name, array in arrays.items()}
