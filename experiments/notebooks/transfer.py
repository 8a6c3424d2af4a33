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
# # Transfer learning with cached features
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/lagrange_jax/blob/main/experiments/notebooks/transfer.ipynb)
#
# A frozen backbone, its features computed once, and the best head on them before any
# training step. With CIFAR-100 and pretrained weights in `LAGRANGE_JAX_DATA` (in a
# checkout) this uses a CIFAR-10 ResNet; otherwise digits: a small network learns 0 to
# 4, and its features serve for 5 to 9.

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
from sklearn.datasets import load_digits

import lagrange_jax as lj
from lagrange_jax import plots
from lagrange_jax.training import tables as results

SMOKE = "LAGRANGE_JAX_SMOKE" in os.environ  # the tests run this notebook in seconds


# %%
def digits_features():
    """Digits 5 to 9 through the hidden layer of a network trained on 0 to 4."""
    digits = load_digits(return_X_y=True)
    images, labels = np.asarray(digits[0], np.float32) / 16, np.asarray(digits[1])
    old, new = labels < 5, labels >= 5
    network = nn.Sequential(
        [nn.Dense(128), nn.relu, nn.Dense(128), nn.relu, nn.Dense(5)]
    )
    model = lj.linen.as_model(network, images[:1])
    train = lj.make_train(
        model,
        optax.losses.squared_error,
        lambda rate: optax.adam(rate),
        lj.chain(lj.reinitialize(jax.nn.initializers.he_normal()), lj.lagrange()),
        lj.Batch(images[old], np.eye(5, dtype=np.float32)[labels[old]]),
        num_epochs=1 if SMOKE else 20,
        batch_size=32,
    )
    variables = jax.jit(train)(jax.random.key(0), 1e-3).variables
    features = model.taps(variables, images[new], jax.random.key(0))[model.head].inputs
    order = np.random.default_rng(0).permutation(int(new.sum()))
    parts = order[:600], order[600:]
    classes = labels[new] - 5
    return [(np.asarray(features)[rows], classes[rows]) for rows in parts], 5


def cifar100_features():
    """CIFAR-100 through a ResNet-20 that was trained on CIFAR-10, cached on disk."""
    from experiments.backbones.problem import load_problem

    problem = load_problem(
        "resnet20",
        resolution=32,
        images_per_class=0,
        data_dir=None,
        cache="runs/features",
    )
    return [(x.features, x.labels) for x in (problem.train, problem.test)], 100


try:
    if SMOKE or "LAGRANGE_JAX_DATA" not in os.environ:
        raise FileNotFoundError("no data folder")
    (train, test), num_classes = cifar100_features()
except (ImportError, FileNotFoundError) as error:
    print(f"digits instead of CIFAR-100: {error}")
    (train, test), num_classes = digits_features()
print(
    "training features", train[0].shape, "test", test[0].shape, "classes", num_classes
)

# %% [markdown]
# ## Least squares on one-hot targets, for every norm at once
#
# One pass over the features, one eigendecomposition; every norm and every strength
# after that is a division.

# %%
features, targets = jnp.asarray(train[0]), jax.nn.one_hot(train[1], num_classes)
spectrum = lj.decompose(lj.compute_moments(features, targets))


def solve(constraint):
    return lj.solve_least_squares(spectrum, constraint)


@jax.jit
def accuracy(kernel, bias, data):
    return jnp.mean((data[0] @ kernel + bias).argmax(1) == data[1])


constraints = {
    "loss within 50 %": lj.loss_within(1.5),
    "forward variance, at most": lj.constraints.variance_scaling(relation="at_most"),
    "generalised cross-validation": lj.constraints.at_strength("gcv"),
}
random = jax.nn.initializers.he_normal()(
    jax.random.key(0), (features.shape[1], num_classes), jnp.float32
)
print(f"{'random':30} {accuracy(random, jnp.zeros(num_classes), test):.1%}")
for name, constraint in constraints.items():
    head = solve(constraint)
    lj.check(head)
    print(f"{name:30} {accuracy(head.kernel, head.bias, test):.1%}")

# %% [markdown]
# ## The whole ridge path
#
# Test accuracy against what can be known without test data: the evidence and
# generalised cross-validation.

# %%
strengths = jnp.geomspace(1e-6, 10.0, 60) * spectrum.eigenvalues[-1]
path = lj.ridge_path(spectrum, strengths)
over_path = jax.vmap(accuracy, (0, 0, None))
choices = {
    "evidence": lj.choose_strength(spectrum),
    "cross-validation": lj.choose_strength(spectrum, lj.ridge.gcv),
}

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
axes[0].plot(strengths, over_path(path.kernel, path.bias, train), label="training")
axes[0].plot(strengths, over_path(path.kernel, path.bias, test), label="test")
for (name, choice), style in zip(choices.items(), ("--", ":"), strict=True):
    axes[0].axvline(float(choice.strength), color="0.4", ls=style, label=name)
axes[0].set(xscale="log", xlabel="strength", ylabel="accuracy")
axes[0].legend()
plots.plot_spectrum(axes[1], spectrum)

# %% [markdown]
# ## Cross-entropy
#
# The heads of least cross-entropy for many norms in one call, each converged, with the
# loss on a tenth of the training examples that was held out. Norm and L2 strength are
# two names of one path: strength = 2 x multiplier.

# %%
norms = jnp.array([3.0, 30.0, 300.0]) if SMOKE else jnp.geomspace(1.0, 1e4, 9)
num_held_out = len(features) // 10
held_out = features[:num_held_out], train[1][:num_held_out]
rest = features[num_held_out:], train[1][num_held_out:]
heads = lj.solvers.convex_path(
    rest, norms, validation=held_out, num_outputs=num_classes
)
lj.check(heads.heads)

losses_held_out = np.asarray(heads.validation_loss)
chosen = int(losses_held_out.argmin())
head = jax.tree.map(lambda x: x[chosen], heads.heads)
reached = accuracy(head.kernel, head.bias, test)
print(f"squared norm {norms[chosen]:.0f}: test accuracy {reached:.1%}")
print(results.summarize(head))

# %%
figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
axes.plot(norms, heads.loss, ".-", label="training")
axes.plot(norms, losses_held_out, ".-", label="held out")
axes.set(xscale="log", yscale="log", xlabel="squared norm", ylabel="cross-entropy")
legend = axes.legend()

# %% [markdown]
# `lj.lagrange(loss="cross_entropy")` does all of this inside `initialize`, for any network:
# the norm that cross-validates best, then the head.
