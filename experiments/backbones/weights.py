"""PyTorch weights as variables of a Flax Linen module.

A Linen module that is to be loaded has its layers under PyTorch's names, with "_" for
the dot before a number: `layer1_0/conv1` for `layer1.0.conv1`.
"""

import re
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.common.record import read_npz

__all__ = ["load_variables", "read_state"]

State = Mapping[str, np.ndarray]

_NAMES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
"""Linen's collection and name of an array, and PyTorch's name."""

_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}
"""PyTorch's axes in Linen's order: OIHW to HWIO, (out, in) to (in, out)."""


def read_state(path: str | PathLike) -> dict[str, np.ndarray]:
    """Reads a PyTorch state dict from an npz or a safetensors file.

    Args:
      path: the file; its suffix says what it is.

    Returns:
      Arrays by name, without the counters `num_batches_tracked`, which only a
      cumulative running average would need.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the suffix is another one, or the file is damaged or no plain npz.
      ImportError: the file needs the package `safetensors`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}; fetch them and put them there.")
    if path.suffix == ".npz":
        state = read_npz(path)
    elif path.suffix == ".safetensors":
        state = _read_safetensors(path)
    else:
        raise ValueError(f"expected a .npz or .safetensors file, got {path.name}.")
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            f"reading {path.name} needs the package safetensors: "
            "`pip install safetensors`."
        ) from error
    return load_file(path)


def _state_name(path: tuple[str, ...]) -> str:
    """Returns PyTorch's name of an array of Linen's variables."""
    collection, *modules, leaf = path
    modules = [re.sub(r"_(\d+)$", r".\1", name) for name in modules]
    return ".".join([*modules, _NAMES[collection, leaf]])


def load_variables(
    template: Mapping[str, Any], state: State, *, except_layers: Collection[str] = ()
) -> dict[str, Any]:
    """Puts a state dict's arrays in the place of a module's variables.

    Every array of the state dict is used exactly once.

    Args:
      template: variables, or their shapes from `jax.eval_shape`, of a module whose
        layers are named as this module's docstring says.
      state: arrays in PyTorch's layout by PyTorch's name.
      except_layers: layers that are not loaded, by PyTorch's name (`"fc"`): arrays
        of the state dict are left out, and those of `template` are kept.

    Returns:
      Variables like `template`.

    Raises:
      ValueError: arrays are missing, left over or of another shape; all are named.
    """

    def is_loaded(name):
        return name.rpartition(".")[0] not in except_layers

    flat: dict[tuple[str, ...], Any] = flatten_dict(template)
    targets = {name: path for path in flat if is_loaded(name := _state_name(path))}
    sources = {name: a for name, a in state.items() if is_loaded(name)}
    arrays = {
        name: a.transpose(_AXES.get(a.ndim, range(a.ndim)))
        for name, a in sources.items()
    }
    _check(arrays, {name: flat[path].shape for name, path in targets.items()})
    loaded = {
        path: jnp.asarray(arrays[name], flat[path].dtype)
        for name, path in targets.items()
    }
    return unflatten_dict({**flat, **loaded})


def _check(arrays: State, shapes: Mapping[str, tuple[int, ...]]) -> None:
    faults = [f"{name} is missing" for name in shapes if name not in arrays] + [
        f"{name} is left over" for name in arrays if name not in shapes
    ]
    faults += [
        f"{name} has shape {arrays[name].shape} in Flax's layout, expected {shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if faults:
        raise ValueError(
            f"the weights are not this network's: {'; '.join(faults)}. Load weights of "
            "the same architecture, or leave a layer out with except_layers."
        )
