"""What a training step costs with a head that is solved for, over a plain one.

    python -m experiments.benchmarks.resolved_head [--rounds 5]

One core, processor time, the ways in turns; a turn is twenty steps, so that a solve at
every twentieth is counted once.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from experiments.backbones import CifarResNet, RulCNN
from experiments.benchmarks import timing

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
MODULE = "experiments.benchmarks.resolved_head"
STEPS = 20


class Case(NamedTuple):
    """A network and what it is trained on.

    Attributes:
      network: its features' number is d.
      shape: of a batch of inputs.
      num_outputs: k.
      loss: "squared_error" or "cross_entropy".
      every: steps between solves, one way each.
    """

    network: Any
    shape: tuple[int, ...]
    num_outputs: int
    loss: str
    every: tuple[int, ...] = (1,)


def mlp(outputs: int) -> nn.Module:
    hidden = [f for _ in range(3) for f in (nn.Dense(512), nn.relu)]
    return nn.Sequential([*hidden, nn.Dense(outputs)])


SWEEP = (1, 5, 20)
CASES = {
    "RUL network, batch 128, d=100, k=1": Case(
        RulCNN(), (128, 30, 14), 1, "squared_error"
    ),
    "three layers of 512, batch 256, d=512, k=100": Case(
        mlp(100), (256, 512), 100, "squared_error", SWEEP
    ),
    "the same, cross-entropy": Case(mlp(100), (256, 512), 100, "cross_entropy", SWEEP),
    "ResNet-20, batch 32, d=64, k=100, cross-entropy": Case(
        CifarResNet(20, 100), (32, 32, 32, 3), 100, "cross_entropy"
    ),
}


def make_batch(case: Case) -> Any:
    """Returns inputs and targets without meaning."""
    import jax

    import lagrange_jax as lj

    random = np.random.default_rng(0)
    inputs = random.normal(size=case.shape).astype(np.float32)
    targets = random.normal(size=(len(inputs), case.num_outputs)).astype(np.float32)
    labels = targets.argmax(1).astype(np.int32)
    is_class = case.loss == "cross_entropy"
    return jax.device_put(lj.Batch(inputs, labels if is_class else targets))


def make_ways(case: Case) -> dict[str, Any]:
    """Returns twenty compiled steps of each way, from the same network."""
    import optax

    import lagrange_jax as lj
    from lagrange_jax.training import resolve_head, resolved_objective

    batch = make_batch(case)
    trains = {"train": True} if isinstance(case.network, CifarResNet) else None
    model = lj.linen.as_model(
        case.network, batch.inputs[:2], tap_mode="training", train_kwargs=trains
    )
    if case.loss == "cross_entropy":
        loss_fn = optax.softmax_cross_entropy_with_integer_labels
    else:
        loss_fn = optax.squared_error
    plain = lj.training.make_objective(model, loss_fn)
    ways = {"plain": steps_of(model, plain, lj.chain(), batch)}
    for every in case.every:
        resolver = resolve_head(0.1, loss=case.loss, every=every)
        parts = resolved_objective(model, resolver)
        init = lj.chain(parts.init)
        ways[f"every {every}"] = steps_of(model, parts.objective, init, batch)
    return ways


def steps_of(model, objective, init, batch):
    """Returns twenty steps of Adam, which begin anew at each call."""
    import jax
    import optax

    import lagrange_jax as lj

    optimizer = optax.adam(1e-3)
    start, _ = lj.initialize(jax.random.key(0), model, init, batch)
    moments = optimizer.init(start["params"])

    @jax.jit
    def step(variables, moments, key):
        _, variables, found = objective.gradient(variables, batch, key)
        updates, moments = optimizer.update(found, moments, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {**variables, "params": params}, moments

    def run(variables, moments, key):
        for _ in range(STEPS):
            variables, moments = step(variables, moments, key)
        return jax.block_until_ready(variables)

    return partial(run, start, moments, jax.random.key(1))


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Returns milliseconds of a plain step, and the ratios of the others to it."""
    times = timing.measure(make_ways(case), rounds)
    row = {"plain_ms": 1000 * float(np.median(times["plain"])) / STEPS}
    for name in times:
        if name != "plain":
            pairs = zip(times[name], times["plain"], strict=True)
            ratios = [a / b for a, b in pairs]
            row[name] = float(np.median(ratios))
            row[f"{name}, quartiles"] = np.quantile(ratios, [0.25, 0.75]).tolist()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=RESULTS / "resolved_head.json", type=Path)
    options = parser.parse_args()
    timing.use_one_core()
    rows = []
    for name, case in CASES.items():
        rows.append({"case": name, **measure(case, options.rounds)})
        print(json.dumps(rows[-1]), flush=True)
        command = f"python -m {MODULE} --rounds {options.rounds}"
        timing.write_rows(options.out, command, rows)


if __name__ == "__main__":
    main()
