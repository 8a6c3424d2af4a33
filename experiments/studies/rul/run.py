"""Trains every method on every seed and records the curves."""

import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lagrange_jax as lj
from experiments.backbones import RulCNN
from experiments.common import record
from experiments.common.curves import shuffled_batches
from experiments.studies.rul.config import Config
from experiments.studies.rul.landscape import measure_landscape
from experiments.studies.rul.methods import BASELINES, METHODS, STANDARDIZED
from experiments.studies.rul.metrics import nasa_score, rmse
from experiments.studies.rul.signal import make_spread
from experiments.studies.rul.training import (
    Curve,
    make_fit,
    make_predict,
)
from lagrange_jax.datasets import Dataset, load_cmapss
from lagrange_jax.datasets.cmapss import USUAL_SENSORS
from lagrange_jax.models.linen import as_model

__all__ = ["run"]

WINDOW = 30


class Problem(NamedTuple):
    """One split of the engines, the network, and its compiled functions.

    Attributes:
      train: windows to train on, first, and zeros up to the number of windows in
        NASA's training file: the same shapes, and one compilation, for every split.
      is_train: `[n]` 1 for windows to train on, 0 for what fills up.
      validation: windows of the engines held out.
      test: the last window of each test engine.
      model: the network.
      optimizer: Adam, whose state holds the learning rate.
      fit: from `make_fit`.
      predict: from `make_predict`.
      spread: from `make_spread`.
    """

    train: Dataset
    is_train: Any
    validation: Dataset
    test: Dataset
    model: lj.Model
    optimizer: optax.GradientTransformation
    fit: Any
    predict: Any
    spread: Any


class Units(NamedTuple):
    """What the network's output is in: cycles are `scale * output + shift`."""

    scale: float
    shift: float = 0.0


@functools.cache
def _make_compiled() -> dict[str, Any]:
    model = as_model(RulCNN(), np.zeros((2, WINDOW, len(USUAL_SENSORS)), np.float32))
    # The rate is a part of the state: one program serves all rates.
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
    return {
        "model": model,
        "optimizer": optimizer,
        "fit": make_fit(model, optimizer),
        "predict": make_predict(model),
        "spread": make_spread(model),
    }


def _load(config: Config, seed: int, *, data_dir: str | None) -> Problem:
    """Returns the problem of one seed."""
    splits = load_cmapss(
        config.subset, manual_dir=data_dir, split_seed=seed, window=WINDOW
    )
    engines = np.unique(splits.train.groups)[: config.max_engines or None]
    keep = np.isin(splits.train.groups, engines)
    fill = len(keep) + len(splits.validation.targets) - keep.sum()

    def select(array):
        return np.pad(array[keep], ((0, fill), *[(0, 0)] * (array.ndim - 1)))

    train = Dataset(*map(select, splits.train))
    is_train = (np.arange(len(train.targets)) < keep.sum()).astype(np.float32)
    train, is_train, validation = jax.tree.map(
        jnp.asarray, (train, is_train, splits.validation)
    )
    return Problem(train, is_train, validation, splits.test, **_make_compiled())


def _units(problem: Problem, method: str, scale: float) -> Units:
    if method not in STANDARDIZED:
        return Units(scale)
    targets = np.asarray(problem.train.targets)[np.asarray(problem.is_train) > 0]
    return Units(float(targets.std()), float(targets.mean()))


def _initialize(problem: Problem, method: str, seed: int, units: Units):
    """The same seed gives the same body to every method that draws it alike."""
    targets = (problem.train.targets[:, None] - units.shift) / units.scale
    batches = (problem.train.inputs, targets, problem.is_train)
    if method in BASELINES:  # LSUV looks at one batch, the others at no data
        batches = (problem.train.inputs[:1024], targets[:1024])
    return lj.initialize(jax.random.key(seed), problem.model, METHODS[method], batches)


def _head(params: Any) -> np.ndarray:
    return np.concatenate([np.ravel(params["head"][x]) for x in ("kernel", "bias")])


def _layers(params: Any) -> list[np.ndarray]:
    """The parameters of each layer in one vector, by the layers' names."""
    return [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(params[name])])
        for name in sorted(params)
    ]


def _loss(problem: Problem, params, data: Dataset, units: Units, weights=None):
    """Mean squared error in cycles squared."""
    outputs = problem.predict({"params": params}, data.inputs)
    predicted = units.scale * outputs + units.shift
    return float(jnp.average((predicted - data.targets) ** 2, weights=weights))


def _train(config: Config, problem: Problem, params: Any, row: dict[str, Any]):
    """Returns the trained parameters and the curve."""
    seed, units = row["seed"], _units(problem, row["method"], row["scale"])
    n, size = int(problem.is_train.sum()), config.batch_size
    stretch = max(round(n / size / config.evaluations), 1)
    stretches = -(-config.epochs * n // (size * stretch))
    batches = shuffled_batches(seed, n, size, stretches * stretch)
    windows = problem.train.inputs
    targets = (problem.train.targets - units.shift) / units.scale
    state: Any = problem.optimizer.init(params)
    state.hyperparams["learning_rate"] = jnp.float32(row["rate"])

    def measure(epochs, train_loss):
        validation = _loss(problem, params, problem.validation, units)
        spread = problem.spread(params, problem.validation.inputs)
        return epochs, validation, train_loss, _head(params), spread

    initial = _loss(problem, params, problem.train, units, problem.is_train)
    points, on_the_way = [measure(0.0, initial)], [_layers(params)]
    for i in range(stretches):
        some = batches[i * stretch : (i + 1) * stretch]
        params, state, loss = problem.fit(params, state, windows, targets, some)
        points.append(
            measure((i + 1) * stretch * size / n, float(loss) * units.scale**2)
        )
        on_the_way.append(_layers(params))
    distance = [
        [np.linalg.norm(x - y) for x, y in zip(some, on_the_way[-1], strict=True)]
        for some in on_the_way
    ]
    curve = map(np.array, zip(*points, strict=True))
    return params, Curve(*curve, distance=np.array(distance))


def _solution(info: Any) -> dict[str, float]:
    """Returns multiplier and squared norm of a solved head."""

    def is_solution(x):
        return isinstance(x, lj.HeadSolution)

    for leaf in jax.tree.leaves(info, is_leaf=is_solution):
        if is_solution(leaf):
            lj.check(leaf)
            return {"multiplier": float(leaf.multiplier.squeeze())}
    return {}


def _test_results(problem: Problem, params: Any, units: Units) -> dict[str, float]:
    outputs = problem.predict({"params": params}, jnp.asarray(problem.test.inputs))
    predicted = units.scale * np.asarray(outputs) + units.shift
    return {
        "test_rmse": rmse(predicted, problem.test.targets),
        "nasa_score": nasa_score(predicted, problem.test.targets),
    }


def _find_twin(folder: Path, row: dict[str, Any], head: np.ndarray) -> str | None:
    """Returns the method whose solved head is this one, if it has been trained."""
    arrays = record.read_arrays(folder)
    for other in record.read_rows(folder):
        same = all(other[x] == row[x] for x in ("seed", "scale", "rate"))
        if not same or "multiplier" not in other or other["same_as"]:
            continue
        first = arrays[f"{other['name']}/head"][0]
        if np.abs(first - head).max() <= 1e-5 * np.abs(head).max():
            return other["name"]
    return None


def _run_row(config: Config, problem: Problem, folder: Path, row: dict[str, Any]):
    """Trains one method, or refers to a row that began alike."""
    begin = time.perf_counter()
    units = _units(problem, row["method"], row["scale"])
    variables, info = _initialize(problem, row["method"], row["seed"], units)
    params = jax.block_until_ready(variables["params"])
    row = row | _solution(info) | {"seconds_init": time.perf_counter() - begin}
    row["norm_sq"] = float(jnp.sum(params["head"]["kernel"] ** 2))
    row["same_as"] = "multiplier" in row and _find_twin(folder, row, _head(params))
    if row["same_as"]:
        return row
    params, curve = _train(config, problem, params, row)
    arrays = {
        f"{row['name']}/{field}": array.astype(np.float32)
        for field, array in curve._asdict().items()
    }
    record.save_arrays(folder, **arrays)
    return row | _test_results(problem, params, units)


def _record_landscape(problem: Problem, folder: Path, seed: int) -> None:
    """The body that all Lagrangian heads of this seed stand on; raw targets."""
    variables, _ = _initialize(problem, "kaiming", seed, Units(1.0))
    n = int(problem.is_train.sum())
    train = jax.tree.map(lambda x: x[:n], problem.train)
    arrays = measure_landscape(problem.model, variables, train, problem.validation)
    record.save_arrays(folder, **{f"landscape/{k}": v for k, v in arrays.items()})


def _rows(config: Config) -> Iterator[dict[str, Any]]:
    """Yields the rows: all methods on one seed before the next seed."""
    for seed, method, scale, rate in itertools.product(
        config.seeds, config.methods, config.target_scales, config.learning_rates
    ):
        if method in STANDARDIZED and scale != config.target_scales[0]:
            continue
        name = f"{method}/scale={scale:g}/rate={rate:g}/seed={seed}"
        row = {"method": method, "scale": scale, "rate": rate, "seed": seed}
        yield {"name": name, **row}


def _check_methods(config: Config) -> None:
    unknown = sorted(set(config.methods) - METHODS.keys())
    if unknown:
        raise ValueError(
            f"unknown methods {', '.join(unknown)}; there are {', '.join(METHODS)}."
        )


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet.

    Args:
      config: what to run.
      folder: the run folder.
      data_dir: folder with NASA's files; None takes LAGRANGE_JAX_DATA.

    Raises:
      FileNotFoundError: the data are missing; the message says what to fetch.
      ValueError: a method is unknown, or the folder holds another configuration.
    """
    _check_methods(config)
    folder = record.open_run(folder, config)
    load = functools.cache(functools.partial(_load, config, data_dir=data_dir))
    record.run_rows(
        folder,
        _rows(config),
        lambda row: _run_row(config, load(row["seed"]), folder, row),
        lambda row: (
            f"as {row['same_as']}" if row["same_as"] else f"{row['test_rmse']:.2f}"
        ),
    )
    if "landscape/train_sum_zero" not in record.read_arrays(folder):
        _record_landscape(load(config.seeds[0]), folder, config.seeds[0])
