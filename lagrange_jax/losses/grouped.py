"""A loss of the last of several output axes, summed over the others."""

import functools
import math

import jax.numpy as jnp

from lagrange_jax.losses.named import as_loss
from lagrange_jax.losses.record import Kind, Loss, Start, TargetMeans, Targets, bend

__all__ = ["along_last_axis"]


def along_last_axis(loss: Loss | str, output_shape: tuple[int, ...]) -> Loss:
    r"""Returns the loss of a head whose network puts out `[..., *output_shape]`.

    Such a head has $k = \prod$ `output_shape` outputs. The loss sees the last axis, as
    a loss of Optax does, and is summed over the others: with the axes (2, 3) a softmax
    is two softmaxes of three classes each.

    Args:
      loss: a loss of one row of outputs.
      output_shape: the axes.

    Returns:
      The `Loss` of k outputs. Its targets are `[n, k]`, or labels `[n, k // c]` for a
      last axis of length c.
    """
    *others, last = output_shape or (1,)
    loss = as_loss(loss, last)
    if not others:
        return loss
    return loss._replace(kind=_grouped(loss.kind, math.prod(others)))


@functools.cache
def _grouped(kind: Kind, groups: int) -> Kind:
    def split(x):
        return x.reshape(-1, x.shape[1] // groups)

    def joined(x, n):
        return x.reshape(n, -1)

    def value(p, logits, targets):
        return joined(kind.value(p, split(logits), split(targets)), len(logits)).sum(1)

    def slope(p, logits, targets):
        assert kind.slope is not None
        return joined(kind.slope(p, split(logits), split(targets)), len(logits))

    def bend_(p, logits, targets, direction):
        parts = map(split, (logits, targets, direction))
        return joined(bend(Loss(kind, p), *parts), len(logits))

    def read(p, targets, k, dtype):
        is_label = targets.shape[1:] == (groups,) != (k,)
        rows = targets.reshape(-1) if is_label else split(targets)
        found = kind.read(p, rows, k // groups, dtype)
        values, is_valid = (joined(x, len(targets)) for x in found)
        return Targets(values, is_valid.all(1))

    def start(p, means, k):
        columns = zip(split(means.mean[None]), split(means.variance[None]), strict=True)
        each = [TargetMeans(*x, means.count) for x in columns]
        parts = [kind.start(p, x, k // groups) for x in each]
        return Start(*(jnp.concatenate(x) for x in zip(*parts, strict=True)))

    def num_targets(k):
        each = kind.num_targets(k // groups)
        return None if each is None else groups * each

    def is_right(p, logits, targets):
        assert kind.is_right is not None
        hits = kind.is_right(p, split(logits), split(targets))
        return joined(hits, len(logits)).mean(1)

    return Kind(
        kind.name,
        value=value,
        slope=None if kind.slope is None else slope,
        bend=bend_,
        smooth=kind.smooth,
        read=read,
        start=start,
        is_right=None if kind.is_right is None else is_right,
        num_targets=num_targets,
        takes_labels=kind.takes_labels,
        is_shift_invariant=kind.is_shift_invariant,
        convexity=kind.convexity,
    )
