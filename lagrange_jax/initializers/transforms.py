"""Init transforms: random baselines and LSUV, and how they are composed.

An `InitTransform` is a pure function `(key, model, variables, batches) ->
(variables, info)`.
"""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, orthogonal

from lagrange_jax._checks import (
    require_callable,
    require_shapes,
)
from lagrange_jax.initializers.rows import at_least_float32
from lagrange_jax.initializers.static import Function
from lagrange_jax.models.params import (
    HeadArrays,
    get_head,
    get_layer,
    set_head,
    set_layer,
)
from lagrange_jax.types import Batches, InitTransform

__all__ = [
    "by_head",
    "chain",
    "lsuv",
    "reinitialize",
    "require_batches",
    "require_transform",
]


def chain(*transforms: InitTransform) -> InitTransform:
    """Applies init transforms one after the other.

    Args:
      *transforms: any number of init transforms.

    Returns:
      An init transform whose info is the tuple of their infos, in order.
    """
    for transform in transforms:
        require_transform("transform", transform)
    return _Chain(transforms)


@dataclasses.dataclass(frozen=True)
class _Chain:
    transforms: tuple[InitTransform, ...]

    @property
    def by_head(self):
        return any(map(by_head, self.transforms))

    def __call__(self, key, model, variables, batches):
        infos = []
        for i, transform in enumerate(self.transforms):
            step_key = jax.random.fold_in(key, i)
            variables, info = transform(step_key, model, variables, batches)
            infos.append(info)
        return variables, tuple(infos)


def reinitialize(kernel_init: Initializer, *, head_only: bool = False) -> InitTransform:
    """Draws the kernels of affine layers anew and sets their biases to zero.

    Args:
      kernel_init: any of `jax.nn.initializers` (`lecun_normal()`, `glorot_normal()`,
        `he_normal()`, `orthogonal()`) or `negative_mean()`.
      head_only: whether to touch the head alone instead of every layer in
        `model.layers`.

    Returns:
      An init transform without info (None).
    """
    require_callable("kernel_init", kernel_init)
    return _Reinitialize(Function(kernel_init), head_only)


@dataclasses.dataclass(frozen=True)
class _Reinitialize:
    kernel_init: "Function"
    head_only: bool

    def __call__(self, key, model, variables, batches):
        del batches
        paths = (model.head,) if self.head_only else _paths(model)
        for i, path in enumerate(paths):
            layer = _read(model, variables, path)
            # Half precision is rounded once, after a draw in float32.
            dtype = at_least_float32(layer.kernel)
            part = jax.random.fold_in(key, i)
            kernel = self.kernel_init.function(part, layer.kernel.shape, dtype)
            bias = None if layer.bias is None else jnp.zeros_like(layer.bias)
            variables = _write(model, variables, path, kernel, bias)
        return variables, None


def lsuv(kernel_init: Initializer | None = None, *, std: float = 1.0) -> InitTransform:
    r"""Layer-sequential unit variance.

    Draws orthonormal kernels, then goes through the layers in call order and divides
    each kernel by the standard deviation of the layer's output on the first batch.

    Args:
      kernel_init: how the kernels are drawn; None for `orthogonal()`.
      std: the wanted standard deviation of every layer's output.

    Returns:
      An init transform; its info holds the standard deviation that each layer had
      before it was scaled, by path joined with "/".

    References:
      D. Mishkin, J. Matas, "All you need is a good init", ICLR 2016.
    """
    require_shapes({"std": ""}, {"std": std})
    draw = reinitialize(orthogonal() if kernel_init is None else kernel_init)
    return _Lsuv(draw, std)


@dataclasses.dataclass(frozen=True)
class _Lsuv:
    draw: InitTransform
    std: Any

    def __call__(self, key, model, variables, batches):
        first, info = require_batches(batches, "lsuv").first, {}
        variables, _ = self.draw(key, model, variables, batches)
        for path in _paths(model):
            outputs = model.taps(variables, first.inputs, key)[path].outputs
            found = _weighted_std(outputs.astype(jnp.float32), first.weights)
            usable = jnp.isfinite(found) & (found > 0)
            scale = jnp.where(usable, self.std / jnp.where(usable, found, 1), 1)
            kernel, _ = _read(model, variables, path)
            kernel = kernel * scale.astype(kernel.dtype)
            variables = _write(model, variables, path, kernel)
            info["/".join(map(str, path))] = found
        return variables, info


def _paths(model):
    """The affine layers, and the head where it is no layer that is called once."""
    is_listed = model.head in model.layers
    return model.layers if is_listed else (*model.layers, model.head)


def _read(model, variables, path):
    if path == model.head:
        return get_head(model, variables)
    layer = get_layer(variables, path)
    return HeadArrays(layer["kernel"], layer.get("bias"))


def _write(model, variables, path, kernel, bias=None):
    if path == model.head:
        return set_head(model, variables, kernel, bias)
    arrays = dict(kernel=kernel) if bias is None else dict(kernel=kernel, bias=bias)
    return set_layer(variables, path, **arrays)


def _weighted_std(values, weights):
    if weights is None:
        return jnp.std(values)
    if values.shape[: weights.ndim] != weights.shape:
        raise ValueError(
            f"expected {len(weights)} examples along the first axis of a layer's "
            f"output, to weigh them; got shape {values.shape}. Use lsuv without "
            "example weights for a network that folds examples into another axis."
        )
    rest = (1,) * (values.ndim - weights.ndim)
    weights = weights.reshape(weights.shape + rest).astype(values.dtype)
    weights = jnp.broadcast_to(weights, values.shape)
    values = jnp.where(weights > 0, values, 0)
    mean = jnp.average(values, weights=weights)
    return jnp.sqrt(jnp.average((values - mean) ** 2, weights=weights))


def require_batches(batches: Batches | None, name: str) -> Batches:
    """Refuses a transform that needs data and got none."""
    if batches is None:
        raise ValueError(
            f"{name} needs data: pass initialize(key, model, init, (inputs, targets))."
        )
    return batches


def require_transform(what, init):
    """Refuses what is no transform, `lagrange` without its parentheses say."""
    require_callable(what, init)
    try:
        inspect.signature(init).bind(None, None, None, None)
    except TypeError:
        name = getattr(init, "__name__", repr(init))
        raise TypeError(
            f"expected {what} as an init transform, a function of (key, model, "
            f"variables, batches); got {name}, which takes other arguments. Is it "
            f"{name}(...), with parentheses?"
        ) from None
    except ValueError:  # a signature that Python does not know
        return


def by_head(init):
    """Whether a transform reads a dictionary of targets."""
    return getattr(init, "by_head", False)
