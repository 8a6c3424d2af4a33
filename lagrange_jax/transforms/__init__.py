"""Penalties and proximal steps as Optax transformations. Imports Optax alone."""

from lagrange_jax.transforms.line_search import with_penalty
from lagrange_jax.transforms.masks import by_path, head_only, kernels_only
from lagrange_jax.transforms.penalties import (
    add_elastic_net_penalty,
    add_l1_penalty,
    add_l2_penalty,
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
)
from lagrange_jax.transforms.proximal import prox_elastic_net, prox_l1, proximal_adam

__all__ = [
    "add_elastic_net_penalty",
    "add_l1_penalty",
    "add_l2_penalty",
    "by_path",
    "elastic_net_penalty",
    "head_only",
    "kernels_only",
    "l1_penalty",
    "l2_penalty",
    "prox_elastic_net",
    "prox_l1",
    "proximal_adam",
    "with_penalty",
]
