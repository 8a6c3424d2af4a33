"""Every public entry that is compiled, as a function of shapes: nothing is computed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import lagrange_jax as lj
from lagrange_jax import (
    constraints,
    losses,
    ridge,
    solvers,
    statistics,
    strengths,
    transforms,
)
from lagrange_jax.initializers import class_means, heads, negative_mean
from lagrange_jax.training import mlp_objective, resolve_head, resolved_objective

__all__ = ["ELSEWHERE", "ENTRIES"]

N, D, K = 20, 6, 2


def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


X, T, W = shape(N, D), shape(N, K), shape(N)
LABELS, COUNTS = shape(N, dtype=jnp.int32), shape(N, 1)
FEW, LOGITS, NUMBER = (shape(4, D), shape(4, K)), shape(N, 1), shape()
KEY = jax.eval_shape(lambda: jax.random.key(0))
KERNEL, KERNELS = shape(D, K), {"hidden": {"kernel": shape(D, K), "bias": shape(K)}}
MOMENTS = jax.eval_shape(partial(statistics.init_moments, D, K))
SPECTRUM = jax.eval_shape(lj.decompose, MOMENTS)
STRENGTHS = shape(5)
SEARCH = solvers.SearchOptions(max_steps=5)


class MLP(nn.Module):
    """One hidden layer."""

    num_outputs: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_outputs)(jnp.tanh(nn.Dense(4)(x)))


MODEL, CLASSES = (lj.linen.as_model(MLP(k), jnp.zeros((2, D))) for k in (1, 3))

TAPPED = lj.linen.as_model(MLP(), jnp.zeros((2, D)), tap_mode="training")


def head(constraint, data):
    return lj.solve_least_squares(data, constraint)


def searched(loss, features, targets, outputs=None):
    bound = constraints.fixed_norm(1.0, per_output=False)
    outputs = outputs or (3 if targets.ndim == 1 else targets.shape[1])
    examples = features, targets
    return lj.solve_convex(
        examples, bound, loss=loss, num_outputs=outputs, search=SEARCH
    )


def initialized(init, key, inputs, targets):
    return lj.initialize(key, MODEL, init, (inputs, targets))


def trained(optimizer, key, strength, inputs, targets, objective=None):
    train = lj.make_train(
        MODEL,
        optax.losses.squared_error,
        optimizer,
        lj.lagrange(),
        lj.Batch(inputs, targets),
        num_epochs=2,
        batch_size=None if objective else 10,
        objective=objective,
    )
    return train(key, strength)


def resolved(key, strength, inputs, targets):
    parts = resolved_objective(TAPPED, resolve_head(0.1))
    train = lj.make_train(
        TAPPED,
        optax.losses.squared_error,
        lambda strength: optax.masked(l2(strength), parts.mask),
        parts.init,
        lj.Batch(inputs, targets),
        num_epochs=2,
        batch_size=10,
        objective=parts.objective,
    )
    return train(key, strength)


def updated(transform, params):
    state = transform.init(params)
    extra = optax.with_extra_args_support(transform)
    return extra.update(params, state, params, value=jnp.zeros(()))


def chosen(criterion, spectrum):
    return ridge.choose_strength(spectrum, criterion)


def left_out(features, targets, weights, strength):
    moments = lj.compute_moments(features, targets, weights)
    criterion = ridge.leave_one_out(features, targets, weights)
    return criterion(lj.decompose(moments), strength)


def predicted(spectrum, strength, features):
    head = ridge.posterior(spectrum, strength)
    return ridge.predict(head, features), ridge.kernel_covariance(head)


def laplace(features, labels):
    solution = searched(losses.softmax(), features, labels)
    head = solvers.laplace((features, labels), solution)
    return solvers.predict_logits(head, features)


def laplace_evidence(key, strength, *data):
    loss, variables = optax.losses.squared_error, MODEL.init(key)
    return strengths.negative_log_laplace_evidence(
        MODEL, loss, variables, lj.Batch(*data), strength
    )


def l2(strength):
    return optax.chain(lj.add_l2_penalty(strength), optax.adam(1e-3))


def proximal(strength):
    return optax.chain(optax.sgd(0.1), lj.prox_l1(strength, 0.1))


def line_searched(params):
    penalty = partial(transforms.l2_penalty, strength=0.1)
    optimizer = transforms.with_penalty(optax.lbfgs(), penalty)
    loss = optax.tree.norm
    value, slope = jax.value_and_grad(loss)(params)
    state, more = optimizer.init(params), dict(value=value, grad=slope, value_fn=loss)
    return optimizer.update(slope, state, params, **more)


tanh_mlp = partial(mlp_objective, MODEL, optax.losses.squared_error, jnp.tanh)
TRAINED = KEY, NUMBER, X, COUNTS

ENTRIES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "statistics.compute_moments": (lj.compute_moments, (X, T, W)),
    "statistics.update_moments": (statistics.update_moments, (MOMENTS, X, T, W)),
    "statistics.merge_moments": (statistics.merge_moments, (MOMENTS, MOMENTS)),
    "statistics.decompose": (lj.decompose, (MOMENTS,)),
    "statistics.decompose_gram": (statistics.decompose_gram, FEW),
    "statistics.subtract_moments": (statistics.subtract_moments, (MOMENTS, MOMENTS)),
    "statistics.residual_spectrum": (statistics.residual_spectrum, (SPECTRUM, KERNEL)),
    "ridge.posterior": (predicted, (SPECTRUM, NUMBER, X)),
    "ridge.choose_strength": (partial(chosen, ridge.gcv), (SPECTRUM,)),
    "ridge.degrees_of_freedom": (ridge.degrees_of_freedom, (SPECTRUM, NUMBER)),
    "ridge.evidence": (ridge.evidence, (SPECTRUM, NUMBER)),
    "ridge.gcv": (ridge.gcv, (SPECTRUM, NUMBER)),
    "ridge.leave_one_out": (left_out, (X, T, W, NUMBER)),
    "ridge.leave_one_out_errors": (
        ridge.leave_one_out_errors,
        (SPECTRUM, X, T, NUMBER, W),
    ),
    "ridge.negative_log_evidence": (ridge.negative_log_evidence, (SPECTRUM, NUMBER)),
    "ridge.norm_of_strength": (ridge.norm_of_strength, (SPECTRUM, NUMBER)),
    "ridge.ridge_loss": (ridge.ridge_loss, (SPECTRUM, NUMBER)),
    "ridge.ridge_path": (ridge.ridge_path, (SPECTRUM, STRENGTHS)),
    "ridge.solve_ridge": (ridge.solve_ridge, (SPECTRUM, NUMBER)),
    "ridge.strength_of_norm": (ridge.strength_of_norm, (SPECTRUM, NUMBER)),
    "losses.softmax": (partial(searched, losses.softmax()), (X, LABELS)),
    "losses.sigmoid": (partial(searched, losses.sigmoid()), (X, T)),
    "losses.poisson": (partial(searched, losses.poisson()), (X, COUNTS)),
    "losses.huber": (partial(searched, losses.huber()), (X, T)),
    "losses.quantile": (partial(searched, losses.quantile(smoothing=0.1)), (X, T)),
    "losses.ordinal": (
        partial(searched, losses.ordinal(jnp.array([-1.0, 1.0]))),
        (X, COUNTS),
    ),
    "losses.gaussian": (partial(searched, losses.gaussian(), outputs=2), (X, COUNTS)),
    "losses.squared_error": (partial(searched, losses.squared_error()), (X, T)),
    "losses.from_function": (
        partial(searched, losses.from_function(lambda z, t: (z - t) ** 4)),
        (X, T),
    ),
    "solvers.convex_path": (
        lambda x, t, norms: solvers.convex_path(
            (x, t), norms, num_outputs=3, search=SEARCH
        ),
        (X, LABELS, STRENGTHS),
    ),
    "solvers.laplace": (laplace, (X, LABELS)),
    "solvers.is_usable": (solvers.is_usable, (shape(dtype=jnp.int32),)),
    "constraints.fixed_norm": (partial(head, constraints.fixed_norm(1.0)), (MOMENTS,)),
    "constraints.variance_scaling": (
        partial(head, constraints.variance_scaling(metric="output_variance")),
        (MOMENTS,),
    ),
    "constraints.loss_within": (partial(head, lj.loss_within()), (MOMENTS,)),
    "constraints.at_strength": (
        partial(head, constraints.at_strength("evidence")),
        (MOMENTS,),
    ),
    "constraints.choose_norm": (
        lambda key, *data: constraints.choose_norm(
            key, lj.Batch(*data), None, losses.softmax(), num_outputs=3, num_folds=2
        ),
        (KEY, X, LABELS),
    ),
    "initializers.lagrange": (partial(initialized, lj.lagrange()), (KEY, X, COUNTS)),
    "initializers.zero_head": (partial(initialized, lj.zero_head()), (KEY, X, COUNTS)),
    "initializers.lsuv": (partial(initialized, lj.lsuv()), (KEY, X, COUNTS)),
    "initializers.reinitialize": (
        partial(initialized, lj.reinitialize(negative_mean())),
        (KEY, X, COUNTS),
    ),
    "initializers.class_means": (
        lambda key, *data: lj.initialize(key, CLASSES, class_means(), data),
        (KEY, X, LABELS),
    ),
    "initializers.heads": (
        lambda key, x, t: lj.initialize(
            key, MODEL, heads({"y": (MODEL, lj.lagrange())}), (x, {"y": t})
        ),
        (KEY, X, COUNTS),
    ),
    "training.make_train": (partial(trained, l2), TRAINED),
    "training.mlp_objective": (
        lambda *arguments: trained(l2, *arguments, objective=tanh_mlp()),
        TRAINED,
    ),
    "training.resolved_objective": (resolved, TRAINED),
    "transforms.prox_l1": (partial(trained, proximal), TRAINED),
    "transforms.prox_elastic_net": (
        partial(updated, transforms.prox_elastic_net(0.1, 0.1, 0.1)),
        (KERNELS,),
    ),
    "transforms.proximal_adam": (
        partial(updated, transforms.proximal_adam(0.1, 0.1)),
        (KERNELS,),
    ),
    "transforms.add_l1_penalty": (
        partial(updated, transforms.add_l1_penalty(0.1)),
        (KERNELS,),
    ),
    "transforms.add_elastic_net_penalty": (
        partial(updated, transforms.add_elastic_net_penalty(0.1, 0.1)),
        (KERNELS,),
    ),
    "transforms.elastic_net_penalty": (
        lambda params: transforms.elastic_net_penalty(params, 0.1, 0.1),
        (KERNELS,),
    ),
    "transforms.with_penalty": (line_searched, (KERNELS,)),
    "strengths.negative_log_laplace_evidence": (laplace_evidence, TRAINED),
    "strengths.best_strength": (strengths.best_strength, (STRENGTHS, STRENGTHS)),
    "strengths.stein_risk": (
        partial(strengths.stein_risk, num_examples=N),
        (NUMBER, NUMBER, NUMBER),
    ),
}
"""By name: a function and the shapes of its arguments."""

ELSEWHERE = {
    # Parts of entries and of `experiments.benchmarks.programs`.
    "statistics.init_moments",
    "statistics.all_reduce_moments",
    "ridge.predict",
    "ridge.kernel_covariance",
    "ridge.multiplier_to_strength",
    "ridge.strength_to_multiplier",
    "losses.ordinal_thresholds",
    "solvers.predict_logits",
    "solvers.solve_convex",
    "solvers.solve_least_squares",
    "constraints.cross_validated_norm",
    "transforms.add_l2_penalty",
    "transforms.by_path",
    "transforms.head_only",
    "transforms.kernels_only",
    "transforms.l1_penalty",
    "transforms.l2_penalty",
    "distributed.all_reduce_processes",
    "distributed.shard_batch",
    "distributed.sharded_moments",
    "initializers.chain",
    "initializers.initialize",
    "initializers.negative_mean",
    "training.make_objective",
    "training.resolve_head",
    "training.run_grid",
    # Read and written on the host.
    "solvers.check",
    "training.disable_scheduler",
    "training.grid_mesh",
    "training.summarize",
    "training.to_rows",
    "training.to_xarray",
    "training.write_csv",
    "strengths.choose_without_validation",
    "strengths.convert_strength",
    "strengths.extrapolate_strength",
    "strengths.fit_power_law",
    "strengths.loss_curves",
}
"""Public functions without an entry of their own."""
