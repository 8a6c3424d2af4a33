"""The initialisations that the RUL study compares, by name."""

import jax.numpy as jnp
from jax.nn import initializers

import lagrange_jax as lj
from lagrange_jax.strength_choice import evidence_norm

__all__ = ["BASELINES", "LABELS", "MAIN", "METHODS", "loss_within"]

TANH_GAIN = 5 / 3
"""The gain usual for tanh layers, for the constraint of Kaiming's form."""

BASELINES = {
    "kaiming": lj.chain(lj.reinitialize(initializers.he_normal())),
    "xavier": lj.chain(lj.reinitialize(initializers.glorot_normal())),
    "lecun": lj.chain(lj.reinitialize(initializers.lecun_normal())),
    "orthogonal": lj.chain(lj.reinitialize(initializers.orthogonal())),
    "negative_mean": lj.chain(lj.reinitialize(lj.negative_mean())),
    "lsuv": lj.chain(lj.lsuv()),
}


def _lagrange(constraint: lj.Constraint) -> lj.InitTransform:
    """The solved head on the body of the method "kaiming"."""
    return lj.chain(lj.reinitialize(initializers.he_normal()), lj.lagrange(constraint))


def loss_within(factor: float) -> lj.Constraint:
    r"""The smallest head whose loss is at most `factor` times the least one.

    The data choose the norm: along the ridge path
    $w(\mu) = (S + \mu I)^{-1} r$ the loss rises with the multiplier $\mu$ and the
    norm falls; this takes the largest of 128 multipliers that keep the bound.
    """

    def norm_sq(spectrum: lj.Spectrum):
        values, projections = spectrum.eigenvalues, spectrum.projections[:, 0]
        multipliers = values[-1] * jnp.logspace(-7, 3, 128, dtype=values.dtype)
        weights = projections[None] / (values[None] + multipliers[:, None])
        explained = (2 * projections[None] - values[None] * weights) * weights
        losses = spectrum.variance[0] - explained.sum(1)
        kept = losses <= factor * losses[0]
        last = jnp.max(jnp.where(kept, jnp.arange(128), 0))
        return jnp.sum(weights[last] ** 2)[None]

    return lj.Constraint(norm_sq)


def _both_relations(name, constraint, **options):
    return {
        f"{name}_{relation}": _lagrange(constraint(relation=relation, **options))
        for relation in ("equality", "at_most")
    }


LAGRANGE = {
    "unconstrained": _lagrange(lj.weight_norm(1e9, relation="at_most")),
    **_both_relations("forward", lj.forward_variance),
    **_both_relations("backward", lj.backward_variance),
    **_both_relations("glorot", lj.glorot_variance),
    **_both_relations("kaiming_norm", lj.kaiming_variance, gain=TANH_GAIN),
    "evidence": _lagrange(evidence_norm()),
    "loss_within_10": _lagrange(loss_within(1.1)),
    "loss_within_50": _lagrange(loss_within(1.5)),
    **_both_relations("exact_forward", lj.forward_variance, exact=True),
}

METHODS = BASELINES | LAGRANGE

MAIN = (
    *("kaiming", "xavier", "unconstrained"),
    *("forward_equality", "backward_equality", "loss_within_50"),
)
"""The methods that are run first, and on every subset."""

_NAMES = {
    "kaiming": "Kaiming",
    "xavier": "Xavier",
    "lecun": "LeCun",
    "orthogonal": "orthogonal",
    "negative_mean": "negative mean",
    "lsuv": "LSUV",
    "unconstrained": "Lagrange, no bound",
    "forward": "Lagrange, forward",
    "backward": "Lagrange, backward",
    "glorot": "Lagrange, Glorot",
    "kaiming_norm": "Lagrange, Kaiming gain",
    "evidence": "Lagrange, evidence",
    "loss_within_10": "Lagrange, loss within 10%",
    "loss_within_50": "Lagrange, loss within 50%",
    "exact_forward": "Lagrange, exact forward",
}


def _label(method: str) -> str:
    for suffix, sign in (("_equality", " ="), ("_at_most", " ≤")):
        if method.endswith(suffix):
            return _NAMES[method.removesuffix(suffix)] + sign
    return _NAMES[method]


LABELS = {method: _label(method) for method in METHODS}
"""How tables and figures call the methods; "=" on the sphere, "≤" in the ball."""
