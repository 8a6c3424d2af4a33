"""The problems: regression of tables and windows, and linear differential equations."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import initializers
from sklearn import datasets

import lagrange_jax as lj
from experiments.backbones import RulCNN
from lagrange_jax.datasets import load_cmapss
from lagrange_jax.datasets.cmapss import USUAL_SENSORS
from lagrange_jax.models.linen import as_model

__all__ = ["PROBLEMS", "SQUARED", "Data", "Problem"]

WINDOW = 30
HELD_OUT_STRIDE = 4
"""Of the windows held out every fourth is measured: neighbours are nearly alike."""

WINDOWS_RATES = (1e-3, 3e-3, 1e-2)
WINDOWS_ARMS = ("zero", "once", "zero, penalised", "decay 0.9, ridge 0.1")
"""Without Kaiming's head, which the study `rul` has far behind a zero one."""
SLICE = 32
"""Windows worked on at a time: their activations stay in a core's cache."""

ADAM_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SGD_RATES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0)
MAIN_ARMS = 7
"""The baselines and three re-solved heads; see `training.make_arms`."""


SQUARED = lj.losses.squared_error()


class Data(NamedTuple):
    """Examples of one seed; rows of weight zero fill up.

    Attributes:
      inputs: to train on, what counts first.
      targets: `[n, k]`; probabilities where the outputs are classes.
      weights: `[n]`, 1 or 0.
      held_out: inputs to validate with.
      held_out_targets: `[m, k]`.
      held_out_weights: `[m]`, 1 or 0.
    """

    inputs: Any
    targets: Any
    weights: Any
    held_out: Any
    held_out_targets: Any
    held_out_weights: Any


class Problem(NamedTuple):
    """A problem that is convex in a network's last layer.

    Attributes:
      load: `load(seed, data_dir) -> Data`.
      init: `init(key) -> body`, the parameters below the head.
      features: `features(body, inputs) -> [n, d]`, what the head multiplies in the
        loss that is trained.
      predict: the same of what is validated; differs for differential equations.
      width: d.
      num_outputs: k.
      loss: of outputs and targets.
      use_bias: whether the head has a bias of its own; a differential operator makes
        a feature of it.
      optimizer: of a learning rate.
      rates: learning rates to choose from.
      more_rates: further ones, where the best was at the edge.
      batch_size: examples in a step.
      num_steps: steps in all.
      evaluations: measurements of the validation loss, evenly spaced.
      decays: memories of the re-solved heads.
      ridges: strengths of the re-solved heads, largest first.
      in_parallel: whether all networks of an arm are trained side by side.
      num_arms: the first so many of `training.make_arms` are run.
      arms: their names instead.
      cost_of: the problem whose timings hold for this one; empty for its own.
      is_double: whether in double precision.
      unit: the validation loss's root is multiplied by this for the tables.
    """

    load: Callable[..., Data]
    init: Callable[..., Any]
    features: Callable[..., Any]
    predict: Callable[..., Any]
    width: int
    num_outputs: int = 1
    loss: lj.losses.Loss = SQUARED
    use_bias: bool = True
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam
    rates: tuple[float, ...] = ADAM_RATES
    more_rates: tuple[float, ...] = ()
    batch_size: int = 64
    num_steps: int = 2000
    evaluations: int = 40
    decays: tuple[float, float] = (0.9, 0.99)
    ridges: tuple[float, float] = (0.1, 1e-3)
    in_parallel: bool = True
    num_arms: int = MAIN_ARMS
    arms: tuple[str, ...] = ()
    cost_of: str = ""
    is_double: bool = False
    unit: float = 1.0


def _init_mlp(sizes, bias, key):
    """Kaiming's normal kernels; biases uniform in [-bias, bias]."""
    body = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        key, kernel_key, bias_key = jax.random.split(key, 3)
        kernel = initializers.he_normal()(kernel_key, (fan_in, fan_out), float)
        body.append(
            (kernel, bias * jax.random.uniform(bias_key, (fan_out,), float, -1))
        )
    return body


def _apply_mlp(activation, body, x):
    for kernel, bias in body:
        x = activation(x @ kernel + bias[None])
    return x


def _mlp(load, num_inputs, **options) -> Problem:
    apply = partial(_apply_mlp, jax.nn.relu)
    init = partial(_init_mlp, (num_inputs, 64, 64), 0.0)
    return Problem(load, init, apply, apply, 64, **options)


# Tables


def _standardised(x, count):
    mean, std = x[:count].mean(0), x[:count].std(0)
    return ((x - mean) / np.where(std > 0, std, 1)).astype("f4")


def _split(inputs, targets, count) -> Data:
    inputs, targets = _standardised(inputs, count), _standardised(targets, count)
    held_out = inputs[count:], targets[count:]
    here = inputs[:count], targets[:count], np.ones(count, "f4")
    return Data(*here, *held_out, np.ones(len(held_out[0]), "f4"))


def _load_table(make, count, seed, data_dir) -> Data:
    inputs, targets = make(seed)
    order = np.random.default_rng(seed).permutation(len(inputs))
    return _split(inputs[order], targets[order][:, None], count)


def _load_classes(make, count, seed, data_dir) -> Data:
    inputs, labels = make(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(inputs))
    inputs = _standardised(inputs[order], count)
    targets = np.eye(labels.max() + 1, dtype="f4")[labels[order]]
    here = inputs[:count], targets[:count], np.ones(count, "f4")
    held_out = inputs[count:], targets[count:]
    return Data(*here, *held_out, np.ones(len(held_out[0]), "f4"))


def _diabetes(seed):
    return datasets.load_diabetes(return_X_y=True)


def _friedman1(seed):
    return datasets.make_friedman1(1500, noise=1.0, random_state=seed)


def _friedman3(seed):
    return datasets.make_friedman3(1500, noise=0.1, random_state=seed)


def _load_rows(subset, seed, data_dir) -> Data:
    """Single rows of C-MAPSS; the engines held out are not trained on."""
    splits = load_cmapss(subset, manual_dir=data_dir, split_seed=seed, window=1)
    random = np.random.default_rng(seed)
    parts = []
    for part, count in ((splits.train, 4096), (splits.validation, 1024)):
        rows = random.choice(len(part.targets), count, replace=False)
        parts.append((part.inputs[rows, 0], part.targets[rows, None]))
    inputs, targets = (np.concatenate(x) for x in zip(*parts, strict=True))
    return _split(inputs, targets, 4096)


# Windows of C-MAPSS: the network and splits of the study `rul`


def _load_windows(subset, seed, data_dir) -> Data:
    splits = load_cmapss(subset, manual_dir=data_dir, split_seed=seed, window=WINDOW)
    total = len(splits.train.targets) + len(splits.validation.targets)
    # The same shapes, and one compilation, for every split.
    sizes = total, int(0.26 * total / HELD_OUT_STRIDE)

    def fill(part, size, stride=1):
        inputs, targets = part.inputs[::stride], part.targets[::stride]
        n = len(targets)
        room = size - n
        if room < 0:
            raise ValueError(f"{n} windows do not fit into {size}.")
        inputs = np.pad(inputs, ((0, room), (0, 0), (0, 0)))
        targets = np.pad(targets, (0, room))[:, None] / 125
        return inputs, targets, np.pad(np.ones(n, "f4"), (0, room))

    held_out = fill(splits.validation, sizes[1], HELD_OUT_STRIDE)
    return Data(*fill(splits.train, sizes[0]), *held_out)


def _windows(subset, num_steps) -> Problem:
    module = RulCNN()
    model = as_model(module, (2, WINDOW, len(USUAL_SENSORS)))
    kaiming = lj.chain(lj.reinitialize(initializers.he_normal()))

    def init(key):
        variables, _ = lj.initialize(key, model, kaiming, None)
        return variables["params"]

    def tap(body, windows):
        # The head's own arrays take no part in its inputs.
        key = jax.random.key(0)
        return model.taps({"params": body}, windows, key)[model.head].inputs

    def features(body, windows):
        sliced = windows.reshape(-1, SLICE, *windows.shape[1:])
        rows = jax.lax.map(lambda some: tap(body, some), sliced)
        return rows.reshape(len(windows), -1)

    def predict(body, windows):
        n = len(windows)
        padded = jnp.pad(windows, ((0, -n % SLICE), (0, 0), (0, 0)))
        return features(body, padded)[:n]

    options: dict[str, Any] = dict(batch_size=128, num_steps=num_steps, evaluations=20)
    return Problem(
        partial(_load_windows, subset), init, features, predict, 100,
        in_parallel=False, arms=WINDOWS_ARMS, rates=WINDOWS_RATES, unit=125.0,
        **options,
    )  # fmt: skip


# Differential equations -a u'' + b u' = f on [0, 1], u(0) = u(1) = 0

NUM_POINTS = 126
BOUNDARY_WEIGHT = 10.0


class Equation(NamedTuple):
    """A linear equation with a known solution.

    Attributes:
      diffusion: a.
      advection: b.
      source: f(x).
      solution: u(x).
    """

    diffusion: float
    advection: float
    source: Callable[[Any], Any]
    solution: Callable[[Any], Any]


def _load_equation(equation, seed, data_dir) -> Data:
    """Points at random behind the two of the boundary; a batch is all of them."""
    inside = np.random.default_rng(seed).uniform(0, 1, NUM_POINTS)
    x = np.concatenate([[0.0, 1.0], inside])
    is_boundary = np.arange(len(x)) < 2
    source = equation.source(x) / _scale(equation)
    targets = np.where(is_boundary, 0.0, source)[:, None]
    grid = np.linspace(0, 1, 257)
    exact = equation.solution(grid)
    size = np.sqrt(np.mean(exact**2))
    ones = np.ones(len(x)), np.ones(len(grid)) / size**2
    inputs = np.stack([x, is_boundary], 1)
    held_out = np.stack([grid, np.zeros_like(grid)], 1)
    return Data(inputs, targets, ones[0], held_out, exact[:, None], ones[1])


def _scale(equation):
    return float(np.sqrt(np.mean(equation.source(np.linspace(0, 1, 1001)) ** 2)))


def _equation(equation: Equation, **options) -> Problem:
    """The operator applied to each unit and to the bias are the features."""
    scale = _scale(equation)

    def hidden(body, x):
        return _apply_mlp(jnp.tanh, body, (2 * x - 1)[:, None])

    def predict(body, inputs):
        units = hidden(body, inputs[:, 0])
        return jnp.concatenate([units, jnp.ones_like(units[:, :1])], 1)

    def features(body, inputs):
        x, is_boundary = inputs[:, 0], inputs[:, 1:] > 0
        derivative = lambda f: lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]  # noqa: E731
        first = derivative(partial(hidden, body))
        operator = equation.advection * first(x)
        operator = operator - equation.diffusion * derivative(first)(x)
        operator = jnp.pad(operator / scale, ((0, 0), (0, 1)))
        return jnp.where(is_boundary, BOUNDARY_WEIGHT * predict(body, inputs), operator)

    return Problem(
        partial(_load_equation, equation), partial(_init_mlp, (1, 32, 32), 1.0),
        features, predict, 33, use_bias=False, num_arms=6,
        is_double=True, ridges=(1e-8, 1e-12),
        decays=(0.9, 0.0), batch_size=128,
        **options,
    )  # fmt: skip


_TAU = 2 * np.pi
_POISSON = Equation(
    diffusion=1.0,
    advection=0.0,
    source=lambda x: (
        _TAU**2 * np.sin(_TAU * x) + 0.2 * (5 * _TAU) ** 2 * np.sin(5 * _TAU * x)
    ),
    solution=lambda x: np.sin(_TAU * x) + 0.2 * np.sin(5 * _TAU * x),
)
_THIN = 0.02
_BOUNDARY_LAYER = Equation(
    diffusion=_THIN,
    advection=1.0,
    source=np.ones_like,
    solution=lambda x: x - np.expm1(x / _THIN) / np.expm1(1 / _THIN),
)

_friedman1_table = partial(_load_table, _friedman1, 1000)
_fd002_rows = partial(_load_rows, "FD002")
_mlp_cost: dict[str, Any] = dict(cost_of="friedman1")
_sgd: dict[str, Any] = dict(optimizer=optax.sgd, rates=SGD_RATES, **_mlp_cost)

_classes: dict[str, Any] = dict(loss=lj.losses.softmax(), cost_of="digits")
_digits = partial(_load_classes, datasets.load_digits, 1200)
_cancer = partial(_load_classes, datasets.load_breast_cancer, 400)

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "diabetes": lambda: _mlp(
        partial(_load_table, _diabetes, 300),
        10,
        batch_size=32,
        num_steps=800,
        num_arms=10,
        more_rates=(3e-5, 1e-4),
        **_mlp_cost,
    ),
    "friedman1": lambda: _mlp(_friedman1_table, 10, more_rates=(0.1,)),
    "friedman3": lambda: _mlp(partial(_load_table, _friedman3, 1000), 4, **_mlp_cost),
    "fd002_rows": lambda: _mlp(_fd002_rows, 14, batch_size=128, **_mlp_cost),
    "friedman1_sgd": lambda: _mlp(_friedman1_table, 10, **_sgd),
    "fd002_rows_sgd": lambda: _mlp(_fd002_rows, 14, batch_size=128, **_sgd),
    "digits": lambda: _mlp(_digits, 64, num_outputs=10, **_classes | dict(cost_of="")),
    "digits_sgd": lambda: _mlp(_digits, 64, num_outputs=10, **_sgd | _classes),
    "breast_cancer": lambda: _mlp(_cancer, 30, num_outputs=2, **_classes),
    "breast_cancer_sgd": lambda: _mlp(_cancer, 30, num_outputs=2, **_sgd | _classes),
    "poisson": lambda: _equation(_POISSON),
    "boundary_layer": lambda: _equation(_BOUNDARY_LAYER, cost_of="poisson"),
    "FD001": lambda: _windows("FD001", 280),
    "FD003": lambda: _windows("FD003", 280)._replace(cost_of="FD001"),
}
"""By name; made when asked for."""
