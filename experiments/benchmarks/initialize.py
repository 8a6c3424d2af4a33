"""What `initialize` costs: its check of the network, and its first call.

    python -m experiments.benchmarks.initialize [--rounds 5]

After every solve the network is run once more on the first batch, with the new head;
its share of the whole is measured in turns, compiled. The first call, which compiles,
is measured in a process of its own without a cache of compiled programs.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from experiments.benchmarks import timing

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
MODULE = "experiments.benchmarks.initialize"
BATCH = 1024


class CNN(nn.Module):
    """Three convolutions and a pooled head."""

    @nn.compact
    def __call__(self, x):
        """Returns logits of images."""
        for width in (16, 32, 64):
            x = nn.relu(nn.Conv(width, (3, 3), strides=(2, 2))(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Case(NamedTuple):
    """A network, and how many examples of what shape it is initialised with."""

    network: Any
    shape: tuple[int, ...]
    loss: str


def mlp(num_outputs: int) -> nn.Module:
    layers = [nn.Dense(64), nn.relu, nn.Dense(64), nn.relu, nn.Dense(num_outputs)]
    return nn.Sequential(layers)


THRESHOLDS = (-1.0, 0.0, 1.0)
# What is to be predicted, from ten scores an example.
TARGETS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "cross_entropy": lambda rng, scores: scores.argmax(1).astype(np.int32),
    "squared_error": lambda rng, scores: np.eye(10)[scores.argmax(1)],
    "sigmoid": lambda rng, scores: scores > 0,
    "poisson": lambda rng, scores: rng.poisson(np.exp(scores / 2)),
    "huber": lambda rng, scores: scores,
    "quantile": lambda rng, scores: scores,
    "ordinal": lambda rng, scores: np.digitize(scores[:, 0], THRESHOLDS),
    "gaussian": lambda rng, scores: scores[:, :5],
}
MLP = mlp(10)
CASES = {
    "MLP, N=1,000, cross-entropy": Case(MLP, (1_000, 20), "cross_entropy"),
    "MLP, N=20,000, cross-entropy": Case(MLP, (20_000, 20), "cross_entropy"),
    "MLP, N=1,000, squared error": Case(MLP, (1_000, 20), "squared_error"),
    "MLP, N=20,000, squared error": Case(MLP, (20_000, 20), "squared_error"),
    **{
        f"MLP, N=1,000, {name}": Case(
            mlp(1) if name == "ordinal" else MLP, (1_000, 20), name
        )
        for name in list(TARGETS)[2:]
    },
    "CNN, N=1,000, cross-entropy": Case(CNN(), (1_000, 32, 32, 3), "cross_entropy"),
    "CNN, N=4,000, squared error": Case(CNN(), (4_000, 32, 32, 3), "squared_error"),
}


def loss_of(case: Case) -> Any:
    """Returns the loss by name, or with the numbers that it needs."""
    from lagrange_jax import losses

    made = {
        "sigmoid": losses.sigmoid,
        "poisson": losses.poisson,
        "huber": losses.huber,
        "quantile": partial(losses.quantile, 0.5, smoothing=0.1),
        "ordinal": partial(losses.ordinal, THRESHOLDS),
        "gaussian": losses.gaussian,
    }
    return made[case.loss]() if case.loss in made else case.loss


def prepare(case: Case):
    """Returns `(key, model, init, data)`: targets that inputs tell in part."""
    import jax

    import lagrange_jax as lj

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=case.shape).astype(np.float32)
    scores = inputs.reshape(len(inputs), -1)[:, :10] + rng.normal(
        size=(len(inputs), 10)
    )
    targets = TARGETS[case.loss](rng, scores)
    if case.loss != "cross_entropy":
        targets = targets.astype(np.float32)
    model = lj.linen.as_model(case.network, inputs[:2])
    init = lj.lagrange(loss=loss_of(case))
    data = jax.device_put((inputs, targets))
    return jax.random.key(0), model, init, data


def cold(name: str) -> dict[str, float]:
    """Returns seconds of the first `initialize` of a process and of the second."""
    import jax

    import lagrange_jax as lj

    jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
    arguments = prepare(CASES[name])
    return timing.two_calls(lambda: jax.block_until_ready(lj.initialize(*arguments)))


def share(case: Case, rounds: int) -> dict[str, float]:
    """Returns processor time of the whole and of the check alone, in turns."""
    import jax

    import lagrange_jax as lj
    from lagrange_jax.initializers.verify import place_head
    from lagrange_jax.losses.named import as_loss

    key, model, init, data = prepare(case)
    variables, info = lj.initialize(key, model, init, data)
    lj.check(info)
    first = lj.Batch(*(x[:BATCH] for x in data))
    loss = None if case.loss == "squared_error" else as_loss(loss_of(case))
    check = jax.jit(partial(place_head, model, first=first, key=key, loss=loss))
    whole = lambda: lj.initialize(key, model, init, data)  # noqa: E731
    ways = {
        "whole": lambda: jax.block_until_ready(whole()),
        "check": lambda: jax.block_until_ready(check(variables, info)),
    }
    times = timing.measure(ways, rounds)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return {**medians, "share": timing.ratio(times, "check", "whole")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", choices=CASES)
    parser.add_argument("--out", default=RESULTS / "initialize.json", type=Path)
    options = parser.parse_args()
    timing.use_one_core()
    if options.cold is not None:
        print(json.dumps(cold(options.cold)))
        return
    rows = []
    for name, case in CASES.items():
        first = timing.cold(MODULE, name)
        rows.append({"case": name, **first, **share(case, options.rounds)})
        print(json.dumps(rows[-1]), flush=True)
        command = f"python -m {MODULE} --rounds {options.rounds}"
        timing.write_rows(options.out, command, rows)


if __name__ == "__main__":
    main()
