"""The initialisations that the RUL study compares, by name."""

from jax.nn import initializers

import lagrange_jax as lj
from lagrange_jax.constraints import variance_scaling

__all__ = ["BASELINES", "LABELS", "MAIN", "METHODS"]

TANH_GAIN = 5 / 3
"""The gain usual for tanh layers, for the constraint of Kaiming's form."""

BASELINES = {
    "kaiming": lj.chain(lj.reinitialize(initializers.he_normal())),
    "xavier": lj.chain(lj.reinitialize(initializers.glorot_normal())),
    "lecun": lj.chain(lj.reinitialize(initializers.lecun_normal())),
    "orthogonal": lj.chain(lj.reinitialize(initializers.orthogonal())),
    "negative_mean": lj.chain(lj.reinitialize(lj.initializers.negative_mean())),
    "lsuv": lj.chain(lj.lsuv()),
}


def _lagrange(constraint: lj.Constraint) -> lj.InitTransform:
    """The solved head on the body of the method "kaiming"."""
    return lj.chain(lj.reinitialize(initializers.he_normal()), lj.lagrange(constraint))


def _both_relations(name, constraint, **options):
    return {
        f"{name}_{relation}": _lagrange(constraint(relation=relation, **options))
        for relation in ("equality", "at_most")
    }


LAGRANGE = {
    "unconstrained": _lagrange(lj.constraints.fixed_norm(1e9, relation="at_most")),
    **_both_relations("forward", variance_scaling),
    **_both_relations("backward", variance_scaling, mode="fan_out"),
    **_both_relations("glorot", variance_scaling, mode="fan_avg"),
    **_both_relations("kaiming_norm", variance_scaling, scale=TANH_GAIN**2),
    "evidence": _lagrange(lj.constraints.at_strength("evidence")),
    "loss_within_10": _lagrange(lj.loss_within(1.1)),
    "loss_within_50": _lagrange(lj.loss_within(1.5)),
    **_both_relations("exact_forward", variance_scaling, metric="output_variance"),
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
