"""The evidence of a network against the exact one of a linear model."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lagrange_jax as lj
from lagrange_jax.strengths import negative_log_laplace_evidence

N, D = 40, 3
STRENGTHS = (1e-3, 0.1, 3.0)


@functools.cache
def problem(outputs, use_bias=False):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(N, D))
    targets = inputs @ random.normal(size=(D, outputs))
    targets += 0.5 * random.normal(size=targets.shape)
    model = lj.linen.as_model(nn.Dense(outputs, use_bias=use_bias), inputs[:1])
    return inputs, targets, model


def variables_of(**arrays):
    return {"params": {k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()}}


def as_batch(inputs, targets, weights=None):
    arrays = [inputs, targets] if weights is None else [inputs, targets, weights]
    return lj.Batch(*(jnp.asarray(x, jnp.float32) for x in arrays))


def test_squared_error_is_the_marginal_likelihood_of_a_gaussian():
    inputs, targets, model = problem(1)

    def oracle(s):
        covariance = np.eye(N) + 2 / (N * s) * inputs @ inputs.T
        noise = (targets.T @ np.linalg.solve(covariance, targets)).item() / N
        return np.log(noise) / 2 + np.linalg.slogdet(covariance)[1] / (2 * N)

    for s in STRENGTHS:
        gram = inputs.T @ inputs / N + s / 2 * np.eye(D)
        kernel = np.linalg.solve(gram, inputs.T @ targets / N)
        found = negative_log_laplace_evidence(
            model,
            optax.losses.squared_error,
            variables_of(kernel=kernel),
            as_batch(inputs, targets),
            s,
            estimate_noise=True,
            eval_batch_size=7,
        )
        np.testing.assert_allclose(found, oracle(s), rtol=1e-4, atol=1e-5)


def test_logistic_evidence_has_the_hessian_of_the_loss():
    inputs, targets, model = problem(1, use_bias=True)
    labels = (targets > 0).astype(float)
    kernel, bias, s = np.array([[0.5], [-1.0], [0.2]]), np.array([0.3]), 0.1
    logits = inputs @ kernel + bias
    share = 1 / (1 + np.exp(-logits))
    loss = (
        np.mean(np.log1p(np.exp(logits)) - labels * logits) + s / 2 * (kernel**2).sum()
    )
    hessian = inputs.T @ (share * (1 - share) * inputs) / N
    expected = loss + np.linalg.slogdet(np.eye(D) + hessian / s)[1] / (2 * N)
    evaluate = functools.partial(
        negative_log_laplace_evidence,
        model,
        optax.losses.sigmoid_binary_cross_entropy,
        variables_of(kernel=kernel, bias=bias),
        strength=s,
        mask=lj.transforms.kernels_only,
    )
    found = evaluate(batch=as_batch(inputs, labels))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    twice = np.concatenate([inputs, np.full((2, D), np.nan)])
    padded = np.concatenate([labels, np.zeros((2, 1))])
    weights = np.concatenate([np.ones(N), np.zeros(2)])
    found = evaluate(batch=as_batch(twice, padded, weights))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_members_of_a_grid_are_a_loop():
    inputs, targets, model = problem(2)
    batch = as_batch(inputs, targets)
    keys = jax.random.split(jax.random.key(0), 2)

    def value(key, s):
        loss = optax.losses.squared_error
        return negative_log_laplace_evidence(model, loss, model.init(key), batch, s)

    strengths = jnp.array([0.1, 1.0])
    loop = [value(key, s) for key, s in zip(keys, strengths, strict=True)]
    np.testing.assert_allclose(
        jax.jit(jax.vmap(value))(keys, strengths), loop, rtol=1e-5
    )


def test_an_empty_mask_is_refused():
    inputs, targets, model = problem(1)
    with pytest.raises(ValueError, match="selects none"):
        negative_log_laplace_evidence(
            model,
            optax.losses.squared_error,
            model.init(jax.random.key(0)),
            as_batch(inputs, targets),
            0.1,
            mask=False,
        )
