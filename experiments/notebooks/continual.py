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
# # One Gram matrix, many lives
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/lagrange_jax/blob/main/experiments/notebooks/continual.ipynb)
#
# The moments of features and targets add up. So a head of tasks that come one after the
# other, of clients that keep their data, and of all data at once are the same head; what
# was added can be taken away again; and the strength of its penalty is chosen by the
# evidence, without a validation set, where continual and federated learning set it by
# hand. With CIFAR-100 and pretrained weights in `LAGRANGE_JAX_DATA` this uses ten tasks
# of ten classes on the features of a CIFAR-10 ResNet; otherwise digits, five tasks of
# two.

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

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import lagrange_jax as lj

SMOKE = "LAGRANGE_JAX_SMOKE" in os.environ  # the tests run this notebook in seconds
IMAGES_PER_CLASS = 100


# %%
def digits_features():
    """Random features of digits: 200 hyperbolic tangents of the pixels."""
    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    order = random.permutation(len(labels))
    kernel = random.normal(size=(64, 50 if SMOKE else 200)) / 8
    features = np.tanh(images[order] / 4 @ kernel).astype(np.float32)
    parts = slice(None, 1300), slice(1300, None)
    return [(features[rows], labels[order][rows]) for rows in parts], 10, 5


def cifar100_features():
    """CIFAR-100 through a ResNet-20 that was trained on CIFAR-10, cached on disk."""
    from experiments.backbones.problem import load_problem

    problem = load_problem(
        "resnet20",
        resolution=32,
        images_per_class=IMAGES_PER_CLASS,
        data_dir=None,
        cache="runs/features",
    )
    return [(x.features, x.labels) for x in (problem.train, problem.test)], 100, 10


try:
    if SMOKE or "LAGRANGE_JAX_DATA" not in os.environ:
        raise FileNotFoundError("no data folder")
    (train, test), num_classes, num_tasks = cifar100_features()
except (ImportError, FileNotFoundError) as error:
    print(f"digits instead of CIFAR-100: {error}")
    (train, test), num_classes, num_tasks = digits_features()
features, labels = jnp.asarray(train[0]), jnp.asarray(train[1], jnp.int32)
print("features", features.shape, "test", test[0].shape, "classes", num_classes)


def moments_of(rows, num_outputs):
    """The moments of some examples, their classes as one-hot targets."""
    return lj.compute_moments(features[rows], jax.nn.one_hot(labels[rows], num_outputs))


@jax.jit
def head_of(moments):
    """Ridge regression at the strength of most evidence."""
    spectrum = lj.decompose(moments)
    return lj.ridge.solve_ridge(spectrum, lj.choose_strength(spectrum).strength)


def accuracy(head, known=num_classes):
    """On the test examples of the classes known so far."""
    rows = np.asarray(test[1]) < known
    found = np.asarray(test[0])[rows] @ np.asarray(head.kernel) + np.asarray(head.bias)
    return float((found.argmax(1) == np.asarray(test[1])[rows]).mean())


def gap(found, wanted):
    """Largest difference, in units of the largest number."""
    return float(jnp.abs(found - wanted).max() / jnp.abs(wanted).max())


def compare(name, found, wanted):
    """Covariances, and kernels of one strength."""
    spectra = [lj.decompose(moments) for moments in (found, wanted)]
    strength = lj.choose_strength(spectra[1]).strength
    kernels = [lj.ridge.solve_ridge(spectrum, strength).kernel for spectrum in spectra]
    print(
        f"{name:18} covariances differ by {gap(found.cov_xx, wanted.cov_xx):.0e}, "
        f"kernels by {gap(*kernels):.0e}"
    )


# %% [markdown]
# ## Tasks one after the other, classes that appear later
#
# A class without examples yet is a column of zeros: moments of few classes become those
# of more by padding. Nothing of a past task is kept but its share of the sums.


# %%
def with_outputs(moments, num_outputs):
    """Moments in which further classes have been zero so far."""
    missing = num_outputs - len(moments.var_t)
    pad = lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])  # noqa: E731
    targets = ("origin_t", "offset_t", "cov_xt", "var_t")
    return moments._replace(**{name: pad(getattr(moments, name)) for name in targets})


per_task = num_classes // num_tasks
seen, so_far, forgetful = None, [], []
for task in range(num_tasks):
    known = (task + 1) * per_task
    rows = np.flatnonzero(np.asarray(labels) // per_task == task)
    new = moments_of(rows, known)
    if seen is None:
        seen = new
    else:
        seen = lj.statistics.merge_moments(with_outputs(seen, known), new)
    so_far.append(accuracy(head_of(seen), known))
    forgetful.append(accuracy(head_of(new), known))

joint = moments_of(slice(None), num_classes)
for name, moments in {"task by task": seen, "all at once": joint}.items():
    print(f"{name:14} {accuracy(head_of(moments)):.2%} of all classes")
compare("task by task", seen, joint)

# %% [markdown]
# ## Clients, and one that leaves
#
# Each client computes its own moments; a server adds them up, in any order. To forget a
# client, take its moments away: the head is that of the others, to rounding.

# %%
owners = np.random.default_rng(1).integers(0, 8, len(labels))
clients = [moments_of(np.flatnonzero(owners == i), num_classes) for i in range(8)]
total = lj.statistics.init_moments(features.shape[1], num_classes)
for client in clients[::-1]:
    total = lj.statistics.merge_moments(total, client)
without_first = lj.statistics.subtract_moments(total, clients[0])
others = moments_of(np.flatnonzero(owners != 0), num_classes)
compare("all clients", total, joint)
compare("without the first", without_first, others)

# %% [markdown]
# ## The strength by the evidence, or by hand
#
# For few and for many examples the strength that is best on the test set is another
# one. The evidence reads it off the moments, without a test set. With many examples it
# is near the best; with a handful of a hundred classes it is too careful, since one-hot
# targets have no normal noise.

# %%
strengths = jnp.geomspace(1e-5, 10.0, 25) * jnp.trace(joint.cov_xx) / len(joint.cov_xx)
for count in (len(labels) // 20, len(labels)):
    order = np.random.default_rng(2).permutation(len(labels))[:count]
    spectrum = lj.decompose(moments_of(order, num_classes))
    path = lj.ridge_path(spectrum, strengths)
    reached = [
        accuracy(lj.ridge.RidgeHead(*head))
        for head in zip(path.kernel, path.bias, strict=True)
    ]
    chosen = lj.choose_strength(spectrum).strength
    by_evidence = accuracy(lj.ridge.solve_ridge(spectrum, chosen))
    print(
        f"{count:6} examples: evidence {by_evidence:.2%} at strength {chosen:.1e}, "
        f"best of {len(strengths)} on the test set {max(reached):.2%} at "
        f"{strengths[int(np.argmax(reached))]:.1e}"
    )

# %% [markdown]
# ## How many labels does it take?
#
# Heads for 1 to 100 % of the labels and several draws in one compiled call. With a
# folder (`run_grid(..., folder="runs/labels")`) the grid goes on after a stop.

# %%
unseen = jnp.asarray(test[0]), jnp.asarray(test[1], jnp.int32)


def probe(share, key):
    """Test accuracy of the head of a random share of the labels."""
    weights = (jax.random.uniform(key, labels.shape) < share).astype(features.dtype)
    targets = jax.nn.one_hot(labels, num_classes)
    head = head_of(lj.compute_moments(features, targets, weights))
    found = jnp.argmax(unseen[0] @ head.kernel + head.bias, axis=1)
    return jnp.mean(found == unseen[1])


shares = jnp.array([0.1, 1.0]) if SMOKE else jnp.geomspace(0.01, 1, 9)
axes = {"share": shares, "key": jax.random.split(jax.random.key(0), 2 if SMOKE else 5)}
grid = lj.run_grid(probe, axes, vmap_axes=())
curve = grid.values.mean(1)
for share, value in zip(shares, curve, strict=True):
    print(f"{share:6.1%} of the labels: {value:.2%}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
tasks = np.arange(1, num_tasks + 1)
panels[0].plot(tasks, so_far, ".-", label="moments added up")
panels[0].plot(tasks, forgetful, ".-", label="last task alone")
panels[0].set(xlabel="tasks seen", ylabel="accuracy on classes seen", ylim=(0, 1))
panels[0].legend()
panels[1].plot(100 * shares, curve, ".-")
panels[1].fill_between(
    100 * shares, grid.values.min(1), grid.values.max(1), alpha=0.2, lw=0
)
panels[1].set(xscale="log", xlabel="labels, %", ylabel="test accuracy")
