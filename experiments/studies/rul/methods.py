"""The initialisations that the RUL study compares, by name."""

import jax.numpy as jnp
from jax.nn import initializers

import lagrange_jax as lj
from experiments.common.methods import both_relations, optimal_bias, relation_label
from lagrange_jax.constraints import variance_scaling

__all__ = [
    "BASELINES",
    "BIAS_ONLY",
    "LABELS",
    "LAGRANGE",
    "MAIN",
    "METHODS",
    "STANDARDIZED",
]

TANH_GAIN = 5 / 3
"""The gain usual for tanh layers, for the constraint of Kaiming's form."""

NO_BOUND = lj.constraints.fixed_norm(1e9, relation="at_most")

BASELINES = {
    "kaiming": lj.chain(lj.reinitialize(initializers.he_normal())),
    "xavier": lj.chain(lj.reinitialize(initializers.glorot_normal())),
    "lecun": lj.chain(lj.reinitialize(initializers.lecun_normal())),
    "orthogonal": lj.chain(lj.reinitialize(initializers.orthogonal())),
    "negative_mean": lj.chain(lj.reinitialize(lj.initializers.negative_mean())),
    "lsuv": lj.chain(lj.lsuv()),
    "kaiming_standardized": lj.chain(lj.reinitialize(initializers.he_normal())),
}
"""Random heads, which look at one batch of the data at most."""

STANDARDIZED = ("kaiming_standardized",)
"""Trained on targets of mean zero and unit variance, whatever the target scale is."""


def _random_of_the_norm(constraint: lj.Constraint) -> lj.InitTransform:
    """A random head as long as the solved one would be, its bias where it is best."""
    solve, settle = lj.lagrange(constraint), optimal_bias(keep_kernel=True)

    def init(key, model, variables, batches):
        norm_sq = solve(key, model, variables, batches)[1].norm_sq
        kernel = lj.models.get_layer(variables, model.head)["kernel"]
        kernel = kernel * jnp.sqrt(norm_sq / jnp.sum(kernel**2))
        variables = lj.models.set_layer(variables, model.head, kernel=kernel)
        return settle(key, model, variables, batches)

    return lj.chain(lj.reinitialize(initializers.he_normal()), init)


BIAS_ONLY = {
    "zero_bias": lj.chain(
        lj.reinitialize(initializers.he_normal()), optimal_bias(keep_kernel=False)
    ),
    "kaiming_bias": lj.chain(
        lj.reinitialize(initializers.he_normal()), optimal_bias(keep_kernel=True)
    ),
    "small_random": _random_of_the_norm(lj.loss_within(1.5)),
    "random_no_bound": _random_of_the_norm(NO_BOUND),
    "random_forward": _random_of_the_norm(variance_scaling()),
}
"""The kernel is not solved for; the bias is where the data want it."""


def _lagrange(constraint: lj.Constraint) -> lj.InitTransform:
    """The solved head on the body of the method "kaiming"."""
    return lj.chain(lj.reinitialize(initializers.he_normal()), lj.lagrange(constraint))


def _relations(name, constraint, **options):
    pair = both_relations(name, constraint, **options)
    return {method: _lagrange(constraint) for method, constraint in pair.items()}


LAGRANGE = {
    "unconstrained": _lagrange(NO_BOUND),
    **_relations("forward", variance_scaling),
    **_relations("backward", variance_scaling, mode="fan_out"),
    **_relations("glorot", variance_scaling, mode="fan_avg"),
    **_relations("kaiming_norm", variance_scaling, scale=TANH_GAIN**2),
    "evidence": _lagrange(lj.constraints.at_strength("evidence")),
    "loss_within_10": _lagrange(lj.loss_within(1.1)),
    "loss_within_50": _lagrange(lj.loss_within(1.5)),
    **_relations("exact_forward", variance_scaling, metric="output_variance"),
}

METHODS = BASELINES | BIAS_ONLY | LAGRANGE

MAIN = (
    *("kaiming", "zero_bias", "kaiming_bias", "xavier", "unconstrained"),
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
    "kaiming_standardized": "Kaiming, standardised targets",
    "zero_bias": "zero head, bias at the mean",
    "small_random": "random, norm of loss within 50%",
    "random_no_bound": "random, norm of no bound",
    "random_forward": "random, norm of forward =",
    "kaiming_bias": "Kaiming, optimal bias",
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


LABELS = {method: relation_label(method, _NAMES) for method in METHODS}
"""How tables and figures call the methods; "=" on the sphere, "≤" in the ball."""
