"""Initialisations that several studies compare, and what tables call them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

import lagrange_jax as lj

__all__ = ["both_relations", "optimal_bias", "relation_label"]


def optimal_bias(*, keep_kernel: bool) -> lj.InitTransform:
    r"""Returns the transform that solves for the head's bias alone.

    The least squared error over b of $W^T \phi + b$ is at the targets' mean minus
    $W^T$ times the features' mean. With a kernel of zeros that is the targets' mean:
    one line, no solve, and the baseline that a solved head has to beat.

    Args:
      keep_kernel: whether the random kernel stays; else it is zero.
    """

    def init(key, model, variables, batches):
        kernel = lj.models.get_layer(variables, model.head)["kernel"]
        kernel = kernel if keep_kernel else jnp.zeros_like(kernel)

        d, k = kernel.shape

        def step(moments, batch):
            features = model.taps(variables, batch.inputs, key)[model.head].inputs
            return lj.statistics.update_moments(
                moments, features, batch.targets, batch.weights
            )

        moments = batches.fold(step, lj.statistics.init_moments(d, k))
        bias = moments.mean_t - moments.mean_x @ kernel
        return lj.models.set_layer(
            variables, model.head, kernel=kernel, bias=bias.astype(kernel.dtype)
        ), None

    return init


def both_relations(
    name: str, constraint: Callable[..., lj.Constraint], **options: Any
) -> dict[str, lj.Constraint]:
    """Returns a constraint on the sphere and in the ball, by name."""
    return {
        f"{name}_{relation}": constraint(relation=relation, **options)
        for relation in ("equality", "at_most")
    }


def relation_label(method: str, labels: Mapping[str, str]) -> str:
    """Returns a method's label: "=" on the sphere, "≤" in the ball."""
    for suffix, sign in (("_equality", " ="), ("_at_most", " ≤")):
        if method.endswith(suffix):
            return labels[method.removesuffix(suffix)] + sign
    return labels[method]
