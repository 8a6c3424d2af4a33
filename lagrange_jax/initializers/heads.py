"""Several heads of one network, from one pass over the examples."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from lagrange_jax._checks import require_kind
from lagrange_jax.initializers.plan import collect
from lagrange_jax.initializers.transforms import require_batches
from lagrange_jax.solvers.substitution import map_batches
from lagrange_jax.types import Batch, InitTransform, Model

__all__ = ["heads"]


def heads(transforms: Mapping[str, tuple[Model, InitTransform]]) -> InitTransform:
    """Solves for several heads of one network at once.

    Each head has a model of its own, made of the same module by
    `as_model(module, inputs, head=..., output=...)`, and its own loss. Heads of squared
    error and `class_means` share one pass over the examples, those whose features are
    kept another one; the body is computed once for all in either, since the passes
    through it are the same. Heads must not depend on one another.

    Args:
      transforms: by name, the model of the head, and `lagrange(...)`, `zero_head(...)`
        or `class_means(...)`.

    Returns:
      An init transform for data whose targets are a dictionary with these names, and
      whose weights may be one too. Its info is a dictionary of the heads' infos.

    Raises:
      TypeError: if the models are none.
      ValueError: if there is no head, or a transform is none of a single head.

    Example:
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         hidden = nn.tanh(nn.Dense(8)(x))
      ...         return {"size": nn.Dense(1)(hidden), "kind": nn.Dense(3)(hidden)}
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> size, kind = (
      ...     lj.linen.as_model(Net(), x, head=head, output=output)
      ...     for head, output in (("Dense_1", "size"), ("Dense_2", "kind"))
      ... )
      >>> means = lj.initializers.class_means()
      >>> init = lj.initializers.heads(
      ...     {"size": (size, lj.lagrange()), "kind": (kind, means)}
      ... )
      >>> targets = {"size": x[:, :1], "kind": x[:, :3].argmax(1)}
      >>> variables, info = lj.initialize(jax.random.key(1), size, init, (x, targets))
      >>> lj.check(info)
    """
    if not isinstance(transforms, Mapping) or not transforms:
        raise ValueError(
            "expected a dictionary {name: (model, transform)} of heads; got "
            f"{transforms!r}."
        )
    entries = []
    for name, entry in transforms.items():
        model, transform = entry
        require_kind("model", model, Model)
        if not hasattr(transform, "plan"):
            raise ValueError(
                f"expected the head {name!r} to have a transform that solves for it: "
                f"lagrange(), zero_head() or class_means(); got {transform!r}."
            )
        entries.append((name, model, transform))
    return _Heads(tuple(entries))


@dataclasses.dataclass(frozen=True)
class _Heads:
    entries: tuple[tuple[str, Model, Any], ...]
    by_head = True

    def __call__(self, key, model, variables, batches):
        del model
        batches = require_batches(batches, "heads")
        self._require_names(batches.first)
        # One key: passes that draw alike are computed once.
        plans = {
            name: transform.plan(key, own, variables, _pick(batches.first, name))
            for name, own, transform in self.entries
        }
        found = _fold(plans, batches, variables) | _collect(plans, batches, variables)
        infos = {}
        for name, plan in plans.items():
            own = map_batches(batches, lambda _, batch, name=name: _pick(batch, name))
            variables, infos[name] = plan.finish(found.get(name), variables, own)
        return variables, infos

    def _require_names(self, first):
        names = sorted(name for name, *_ in self.entries)
        if not isinstance(first.targets, Mapping) or sorted(first.targets) != names:
            found = first.targets
            found = sorted(found) if isinstance(found, Mapping) else "one array"
            raise ValueError(f"expected targets as a dict of {names}; got {found}.")


def _pick(batch: Batch, name: str) -> Batch:
    """Returns the batch of one head."""
    weights = batch.weights
    if isinstance(weights, Mapping):
        weights = weights.get(name)
    return Batch(batch.inputs, batch.targets[name], weights)


def _fold(plans, batches, variables):
    steps = {name: plan.fold for name, plan in plans.items() if plan.fold is not None}
    if not steps:
        return {}

    def step(states, batch, variables):
        return {
            name: own(states[name], _pick(batch, name), variables)
            for name, (_, own) in steps.items()
        }

    return batches.fold(step, {n: state for n, (state, _) in steps.items()}, variables)


def _collect(plans, batches, variables):
    wanted = {name: plan.collect for name, plan in plans.items() if plan.collect}
    if not wanted:
        return {}
    joint = partial(_collect_all, wanted)
    return collect(batches, joint, variables)


def _collect_all(wanted, index, batch, variables):
    return {
        name: own(index, _pick(batch, name), variables) for name, own in wanted.items()
    }
