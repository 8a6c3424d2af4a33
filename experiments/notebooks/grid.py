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
# # A strength x N grid in one call
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/lagrange_jax/blob/main/experiments/notebooks/grid.ipynb)
#
# How does the best L2 strength fall with the number of examples? A whole grid of
# training runs, strengths x sizes x seeds, is one compiled call on all devices; every
# seed has its own data and its own random network.

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
import matplotlib.pyplot as plt
import numpy as np
import optax

import lagrange_jax as lj
from lagrange_jax import plots
from lagrange_jax.datasets import gaussian_clouds
from lagrange_jax.training import tables as results

SMOKE = "LAGRANGE_JAX_SMOKE" in os.environ  # the tests run this notebook in seconds
SIZES = np.array([32, 64]) if SMOKE else np.array([50, 100, 200, 400, 800])
NUM_STRENGTHS, NUM_SEEDS, NUM_EPOCHS = (4, 2, 5) if SMOKE else (10, 6, 400)

# %% [markdown]
# Two overlapping Gaussian clouds in ten dimensions, a network of 15 tanh units, both
# layers penalised, Adam until it is nearly converged.
#
# `draw` is a function of a key, so that every seed has data of its own. The size
# enters as example weights, not as a shape: all sizes share one program. The strength
# may be traced, because the optimiser is built inside the trace.


# %%
def draw(key, count=int(SIZES[-1])):
    clouds = gaussian_clouds(key, count)
    return lj.Batch(clouds.inputs / 8, clouds.targets)


def draw_validation(key):
    return draw(key, 200 if SMOKE else 5000)


network = nn.Sequential([nn.Dense(15), nn.tanh, nn.Dense(1)])
model = lj.linen.as_model(network, np.zeros((1, 10), np.float32))
loss = optax.losses.sigmoid_binary_cross_entropy
train = lj.make_train(
    model,
    loss,
    lambda strength: optax.chain(
        lj.add_l2_penalty(strength),
        optax.adam(optax.cosine_decay_schedule(0.02, NUM_EPOCHS)),
    ),
    None,
    draw,
    objective=lj.training.mlp_objective(model, loss, nn.tanh),
    validation=draw_validation,
    num_epochs=NUM_EPOCHS,
)
strengths = np.geomspace(1e-3, 1.0, NUM_STRENGTHS).astype(np.float32)
keys = jax.random.split(jax.random.key(0), NUM_SEEDS)

# %% [markdown]
# One call. `mlp_objective` and `vmap_axes` are for networks of one hidden layer, with the
# same numbers, faster on a CPU. Leave both out for any other network.

# %%
result = lj.run_grid(
    train,
    {"strength": strengths, "num_examples": SIZES, "key": keys},
    vmap_axes=("strength",),
    progress=lambda done, total: print(f"{done}/{total}", flush=True),
)
losses = result.values.validation_loss[..., -1]
print(f"{losses.size} networks, losses {losses.shape}: strengths, sizes, seeds")

# %% [markdown]
# Colour: by how much the mean loss exceeds the best of its N. Line: the best
# strength, with open circles where it lies at the edge of the grid (censored, and
# never averaged).

# %%
# The optimum of the mean over seeds: best for data not yet seen.
best = lj.best_strength(losses.mean(-1, keepdims=True), strengths)
law = lj.fit_power_law(SIZES, best)

figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
mesh = plots.plot_strength_map(axes[0], losses, strengths, SIZES, largest=0.2)
figure.colorbar(mesh, ax=axes[0], label="loss above the best of its N, relative")
axes[0].set_title(f"slope {law.slope:.2f}")
for i, size in enumerate(SIZES):
    colour = plots.COLOURS[i % len(plots.COLOURS)]
    plots.plot_band(
        axes[1], strengths, losses[:, i].T, label=f"N = {size}", color=colour
    )
axes[1].set(xscale="log", xlabel="strength", ylabel="validation loss")
axes[1].legend()
# %% [markdown]
# As a table for other tools: one row a run, or an xarray `Dataset`.

# %%
results.write_csv(result, "grid.csv", ["validation_loss", "diverged"])
print(next(results.to_rows(result, ["validation_loss"])))
