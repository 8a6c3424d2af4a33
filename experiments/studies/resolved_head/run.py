"""Trains every arm at every rate on every seed and records the curves."""

import contextlib
import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import record
from experiments.common.curves import shuffled_batches
from experiments.studies.resolved_head.config import Config
from experiments.studies.resolved_head.problems import (
    PROBLEMS,
    Data,
    Problem,
)
from experiments.studies.resolved_head.tables import best_rate
from experiments.studies.resolved_head.training import (
    make_arms,
    make_fit,
    make_train,
)

__all__ = ["run"]


def _schedule(problem: Problem, length: float) -> tuple[int, int]:
    """Returns the number of evaluations and of steps before each."""
    evaluations = problem.evaluations if length == 1 else 2
    return evaluations, max(round(length * problem.num_steps / evaluations), 1)


def _batches(problem: Problem, data: Data, seed: int, count: int):
    """Indices `[count, batch]`."""
    n = int(data.weights.sum())
    return shuffled_batches(seed, n, problem.batch_size, count)


def _arms(config: Config, problem: Problem) -> dict[str, Any]:
    arms = make_arms(problem)
    names = config.arms or problem.arms or list(arms)[: problem.num_arms]
    return {name: arms[name] for name in names}


def _precision(problem: Problem):
    return jax.enable_x64(True) if problem.is_double else contextlib.nullcontext()


class _Work:
    """One problem with its data and compiled functions, made once."""

    def __init__(self, config: Config, name: str, data_dir: str | None):
        self.config, self.name = config, name
        self.problem = PROBLEMS[name]()
        self.arms = _arms(config, self.problem)
        self.load = functools.cache(lambda s: self.problem.load(s, data_dir))
        self.compiled = functools.cache(self._compile)

    def _compile(self, arm: str):
        train = make_train(self.problem, self.arms[arm])
        if not self.problem.in_parallel:  # a mapped axis of one would cost time
            single = jax.jit(train)

            def first(data, keys, rates, batches):
                data = jax.tree.map(lambda x: x[0], data)
                curves = single(data, keys[0], rates[0], batches[0])
                return jax.tree.map(lambda x: x[None, None], curves)

            return first
        over_rates = jax.vmap(train, (None, None, 0, None))
        return jax.jit(jax.vmap(over_rates, (0, 0, None, 0)))

    def train(self, row: dict[str, Any], folder: Path) -> dict[str, Any]:
        """All seeds and rates of a row in one call."""
        evaluations, steps = _schedule(self.problem, self.config.length)
        if not self.problem.in_parallel and row["seeds"][0] not in self.config.seeds:
            evaluations //= 2  # rates are chosen at half length
        data = [self.load(seed) for seed in row["seeds"]]
        batches = [
            _batches(self.problem, some, seed, evaluations * steps)
            for some, seed in zip(data, row["seeds"], strict=True)
        ]
        batches = np.stack(batches).reshape(len(data), evaluations, steps, -1)
        with _precision(self.problem):
            keys = jax.vmap(jax.random.key)(np.array(row["seeds"]))
            data = Data(*(np.stack(x) for x in zip(*data, strict=True)))
            rates = np.array(row["rates"])
            found = self.compiled(row["arm"])(data, keys, rates, batches)
            curves = np.asarray(found["validation"]).swapaxes(0, 1)
        record.save_arrays(folder, **{f"{row['name']}/validation": np.float32(curves)})
        lowest = np.nanmin(np.where(np.isfinite(curves), curves, np.inf), axis=2)
        return {"steps": steps, "lowest": lowest.tolist()}

    def train_into(self, folder: Path):
        """Returns `train` with its folder."""
        return functools.partial(self.train, folder=folder)

    def time(self) -> dict[str, Any]:
        """Time of a step of each arm over that of an optimised head, arms in turns."""
        problem, seed = self.problem, self.config.seeds[0]
        with _precision(problem):
            data = jax.tree.map(jax.numpy.asarray, self.load(seed))
            count = 100 if problem.in_parallel else 2
            batches = jax.numpy.asarray(_batches(problem, data, seed, count))
            calls = {}
            for name, arm in self.arms.items():
                if name != "zero" and not arm.resolver:  # they cost the same
                    continue
                begin, fit = make_fit(problem, arm, problem.rates[0])
                state = begin(data, jax.random.key(seed))
                calls[name] = functools.partial(fit, state, data, batches)
                jax.block_until_ready(calls[name]())
            seconds = [
                {name: _seconds(call) for name, call in calls.items()}
                for _ in range(self.config.rounds)
            ]
        first = next(iter(calls))
        ratios = {name: [one[name] / one[first] for one in seconds] for name in calls}
        return {
            "cost": {name: float(np.median(x)) for name, x in ratios.items()},
            "cost_quartiles": {
                name: np.quantile(x, [0.25, 0.75]).tolist()
                for name, x in ratios.items()
            },
            "step_seconds": min(one[first] for one in seconds) / count,
        }


def _seconds(call) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def _row(problem: str, arm: str, rates, seeds) -> dict[str, Any]:
    row = {"problem": problem, "arm": arm, "rates": [*rates], "seeds": [*seeds]}
    detail = f"/rate={rates[0]:g}/seed={seeds[0]}" if len(seeds) == 1 else ""
    return {"name": f"{problem}/{arm}{detail}"} | row


def _rows(config: Config, work: _Work) -> Iterator[dict[str, Any]]:
    """The rows that need no result: all of a problem whose networks run together."""
    problem = work.problem
    if problem.in_parallel:
        seeds = (*config.tuning_seeds, *config.seeds)
        for arm in work.arms:
            yield _row(work.name, arm, problem.rates, seeds)
        return
    order = itertools.product(config.windows_tuning_seeds, problem.rates, work.arms)
    for seed, rate, arm in order:
        yield _row(work.name, arm, (rate,), (seed,))


def _more_rows(config: Config, work: _Work) -> Iterator[dict[str, Any]]:
    """Further rates of a problem whose networks run together."""
    seeds = (*config.tuning_seeds, *config.seeds)
    for arm in work.arms if work.problem.more_rates else ():
        row = _row(work.name, arm, work.problem.more_rates, seeds)
        yield row | {"name": f"{row['name']}/more rates"}


def _chosen_rows(config: Config, work: _Work, folder: Path):
    """Networks that run one after the other: each arm's best rate alone."""
    for seed, arm in itertools.product(config.seeds, work.arms):
        rate = best_rate(folder, work.name, arm, config.windows_tuning_seeds)
        yield _row(work.name, arm, (rate,), (seed,))


def run(config: Config, folder: str | Path, data_dir: str | None = None) -> None:
    """Runs what the folder does not hold yet.

    Args:
      config: what to run.
      folder: the run folder.
      data_dir: folder with NASA's files; None takes LAGRANGE_JAX_DATA.

    Raises:
      FileNotFoundError: the data are missing; the message says what to fetch.
      ValueError: a problem is unknown, or the folder holds another configuration.
    """
    unknown = sorted({*config.problems} - {*PROBLEMS})
    if unknown:
        raise ValueError(
            f"unknown problems {', '.join(unknown)}; there are {', '.join(PROBLEMS)}."
        )
    folder = record.open_run(folder, config)
    works = {name: _Work(config, name, data_dir) for name in config.problems}
    for work in works.values():
        _run_problem(config, work, folder)
    for work in works.values():
        record.run_rows(folder, _more_rows(config, work), work.train_into(folder), _say)


def _time(work: _Work, row: dict[str, Any]) -> dict[str, Any]:
    return work.time()


def _say(row) -> str:
    return f"lowest {np.min(row['lowest']):.4g}"


def _run_problem(config: Config, work: _Work, folder: Path) -> None:
    train = work.train_into(folder)
    record.run_rows(folder, _rows(config, work), train, _say)
    if config.rounds and not work.problem.cost_of:
        row = {"name": f"{work.name}/cost", "problem": work.name}
        time_row = functools.partial(_time, work)
        record.run_rows(folder, [row], time_row, lambda _: "timed")
    if not work.problem.in_parallel:
        record.run_rows(folder, _chosen_rows(config, work, folder), train, _say)
