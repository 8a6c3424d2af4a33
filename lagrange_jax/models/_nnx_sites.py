"""Affine layers inside NNX modules, made to say what they receive and return."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
from flax import nnx

from lagrange_jax.models import _affine as affine
from lagrange_jax.models import linen
from lagrange_jax.types import Path

__all__ = ["LinenTap", "is_site", "record", "shield", "sites_of", "tapped"]

# Linen layers behind nnx.bridge.ToNNX leave their taps in variables of this type.
LinenTap = nnx.variable_type_from_name(affine.TAPS, allow_register=True)


def _is_affine(layer: Any) -> bool:
    return isinstance(layer, nnx.Linear | nnx.LinearGeneral | nnx.Conv)


def _kernel_rank(layer: Any) -> int:
    if isinstance(layer, nnx.Conv):
        return len(layer.kernel_size) + 2
    if isinstance(layer, nnx.LinearGeneral):
        axes = layer.axis, layer.out_features, layer.batch_axis
        return sum(1 if isinstance(x, int) else len(x) for x in axes)
    return 2


def is_site(child: Any) -> bool:
    """Whether taps are made here: one affine layer, no stack, or a Linen module."""
    is_bridge = isinstance(child, nnx.bridge.ToNNX)
    return is_bridge or child.kernel.ndim == _kernel_rank(child)


def _override_call(module: nnx.Module, call: Callable[..., Any]) -> None:
    """Gives one module a `__call__` of its own; `split` and `merge` keep it."""
    cls = type(module)
    module.__class__ = type(cls.__name__, (cls,), {"__call__": call})


def shield(module: nnx.Module) -> None:
    """Hides the store of nnx.capture from ToNNX, which takes it for a variable."""
    for bridge in sites_of(module).values():
        if isinstance(bridge, nnx.bridge.ToNNX):
            cls = type(bridge)

            def call(self, *args, cls=cls, **kwargs):
                captures = vars(self).get("__captures__")
                if captures is None:
                    return cls.__call__(self, *args, **kwargs)
                del self.__captures__
                outputs = cls.__call__(self, *args, **kwargs)
                self.__captures__ = nnx.data(captures)
                return outputs

            _override_call(bridge, call)


def record(module: nnx.Module, path: Path, calls: affine.Calls) -> None:
    cls = type(module)

    def call(self, *args, **kwargs):
        calls.pop(path, None)
        calls[path] = (not isinstance(self, nnx.Conv), _kernel_rank(self))
        return cls.__call__(self, *args, **kwargs)

    def call_linen(self, *args, **kwargs):
        with nn.intercept_methods(linen.record_calls(calls, path)):
            return cls.__call__(self, *args, **kwargs)

    is_bridge = isinstance(module, nnx.bridge.ToNNX)
    _override_call(module, call_linen if is_bridge else call)


def _tap(module: nnx.Module) -> None:
    cls = type(module)

    def call(self, inputs, *args, **kwargs):
        outputs = cls.__call__(self, inputs, *args, **kwargs)
        self.sow(nnx.Intermediate, affine.INPUTS, inputs)
        self.sow(nnx.Intermediate, affine.OUTPUTS, outputs)
        return outputs

    def call_linen(self, *args, mutable=None, **kwargs):
        mutable = [*(mutable or ()), affine.TAPS]
        with nn.intercept_methods(linen.sow_call):
            return cls.__call__(self, *args, mutable=mutable, **kwargs)

    is_bridge = isinstance(module, nnx.bridge.ToNNX)
    _override_call(module, call_linen if is_bridge else call)


def sites_of(module: nnx.Module) -> dict[Any, Any]:
    """Returns the affine layers and bridged Linen modules inside a module."""
    return {
        path: child
        for path, child in nnx.iter_modules(module)
        if isinstance(child, nnx.bridge.ToNNX) or _is_affine(child)
    }


def tapped(module: nnx.Module, paths: Sequence[Any]) -> nnx.Module:
    module = nnx.clone(module)
    for path, site in sites_of(module).items():
        if path in paths:
            _tap(site)
    return module
