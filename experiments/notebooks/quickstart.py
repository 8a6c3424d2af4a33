# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: a solved head in Flax Linen and Flax NNX
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/lagrange_jax/blob/main/experiments/notebooks/quickstart.ipynb)
#
# Start the last layer where the data say it should: the best weights and bias under a
# bound on their norm, provably the global optimum, from one eigendecomposition. Then
# train with the loop that you have.

# %%
# Installs lagrange_jax, where it is missing, without touching the JAX that is here:
# the pins make pip stop with a sentence rather than replace it.
import importlib.util
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

REPOSITORY = "git+https://github.com/OWNER/lagrange_jax"  # or file:///path/of/checkout
if importlib.util.find_spec("lagrange_jax") is None:
    if "/OWNER/" in REPOSITORY:
        raise SystemExit(
            "lagrange_jax is not installed here, and this notebook does not know its "
            "address. Set REPOSITORY, in this cell, and run the cell again."
        )
    found = {x.name: x.version for x in distributions() if x.name in ("jax", "jaxlib")}
    pins = Path("jax-pins.txt")
    pins.write_text("".join(f"{name}=={there}\n" for name, there in found.items()))
    pip = [sys.executable, "-m", "pip", "install", "--constraint", str(pins)]
    command = [*pip, f"lagrange-jax[plots] @ {REPOSITORY}", "scikit-learn"]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, **both)
    if done.returncode:
        end = done.stdout[-1500:]
        raise SystemExit(f"pip could not install {REPOSITORY}:\n...{end}")

# %%
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import lagrange_jax as lj
from lagrange_jax import plots
from lagrange_jax.training import tables as results

SMOKE = "LAGRANGE_JAX_SMOKE" in os.environ  # the tests run this notebook in seconds
EPOCHS = 1 if SMOKE else 30

# %% [markdown]
# 1,797 digits of 8 x 8 pixels. Squared error wants one-hot targets.

# %%
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(images))
inputs = jnp.asarray(images[order] / 16, jnp.float32)
targets = jax.nn.one_hot(labels[order], 10)
train, held_out = (inputs[:1300], targets[:1300]), (inputs[1300:], targets[1300:])

# %% [markdown]
# ## Linen
#
# `as_model` finds the head, the dense layer called last, and checks that the output is
# affine in it. An init transform is a function; `chain` puts them one after the other:
# Kaiming for every layer, then the head solved for.

# %%
network = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
model = lj.linen.as_model(network, inputs[:1])
init = lj.chain(lj.reinitialize(jax.nn.initializers.he_normal()), lj.lagrange())
variables, info = lj.initialize(jax.random.key(0), model, init, train)
lj.check(info)  # raises, naming the cause, if a head could not be solved
print(results.summarize(info))

# %% [markdown]
# `variables` is what `network.init` returns, with the head replaced. Nothing from
# here on knows of the library.

# %%
optimizer = optax.adam(1e-3)


def loss(params, data):
    errors = network.apply({"params": params}, data[0]) - data[1]
    return jnp.mean(jnp.sum(errors**2, axis=1))


@jax.jit
def epoch(params, state, key):
    def step(carry, rows):
        params, state = carry
        gradient = jax.grad(loss)(params, (train[0][rows], train[1][rows]))
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    rows = jax.random.permutation(key, len(train[0]))[:1280].reshape(40, 32)
    (params, state), _ = jax.lax.scan(step, (params, state), rows)
    return params, state, loss(params, held_out)


def fit(params):
    state, losses = optimizer.init(params), [float(loss(params, held_out))]
    for key in jax.random.split(jax.random.key(1), EPOCHS):
        params, state, value = epoch(params, state, key)
        losses.append(float(value))
    return losses


kaiming, _ = lj.initialize(
    jax.random.key(0), model, lj.reinitialize(jax.nn.initializers.he_normal())
)
starts = {"Kaiming": kaiming, "Lagrangian": variables}
curves = {name: fit(start["params"]) for name, start in starts.items()}

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for name, values in curves.items():
    axes[0].plot(values, label=name)
axes[0].set(xlabel="epoch", ylabel="held-out squared error", yscale="log")
axes[0].legend()

# The least loss of a head of every norm on these features, and the one that was taken:
# the smallest head whose loss is at most one and a half times the least possible.
taps = model.taps(variables, train[0], jax.random.key(0))
spectrum = lj.decompose(lj.compute_moments(taps[model.head].inputs, train[1]))
plots.plot_norm_landscape(axes[1], spectrum, info[1])
legend = axes[1].legend()

# %% [markdown]
# ## NNX
#
# The same with an NNX module: `as_model` takes how to build it, and `lj.nnx.update`
# writes the variables into a module, in place.


# %%
class MLP(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, inputs):
        return self.head(nnx.relu(self.hidden(inputs)))


nnx_model = lj.nnx.as_model(lambda rngs: MLP(rngs), inputs[:1])
nnx_variables, nnx_info = lj.initialize(jax.random.key(0), nnx_model, init, train)
lj.check(nnx_info)

module = MLP(nnx.Rngs(0))
lj.nnx.update(module, nnx_variables)


@nnx.jit
def nnx_step(module, adam, inputs, targets):
    def loss(module):
        return jnp.mean(jnp.sum((module(inputs) - targets) ** 2, axis=1))

    adam.update(module, nnx.grad(loss)(module))


def error_rate(module):
    return float(jnp.mean(module(held_out[0]).argmax(1) != held_out[1].argmax(1)))


print(f"errors before the first step: {error_rate(module):.1%}")
adam = nnx.Optimizer(module, optax.adam(1e-3), wrt=nnx.Param)
for key in jax.random.split(jax.random.key(1), EPOCHS):
    for rows in jax.random.permutation(key, 1300)[:1280].reshape(40, 32):
        nnx_step(module, adam, train[0][rows], train[1][rows])
print(f"errors after {EPOCHS} epochs: {error_rate(module):.1%}")
