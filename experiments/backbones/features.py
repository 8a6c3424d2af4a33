"""Features of a frozen backbone, computed once and kept on disk."""

import hashlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from experiments.common import record

__all__ = ["Backbone", "cache_name", "extract_features"]

BLOCK = 1000
"""Images in a file of the cache: what a stop can cost."""


class Backbone(NamedTuple):
    """A pretrained network without its head.

    Attributes:
      name: of the network, in file names.
      resolution: pixels that it sees in height and width.
      apply: `apply(variables, images) -> [n, d]` features of uint8 images.
      variables: the pretrained weights.
    """

    name: str
    resolution: int
    apply: Callable[[Any, Any], Any]
    variables: Any


def cache_name(backbone: Backbone, images: UInt8[np.ndarray, "n h w 3"]) -> str:
    """Returns what the features depend on: network, resolution, weights and data."""
    digest = hashlib.sha256(repr((images.shape, str(images.dtype))).encode())
    for array in (*jax.tree.leaves(backbone.variables), images):
        digest.update(np.asarray(array).tobytes())
    return f"{backbone.name}-{backbone.resolution}px-{digest.hexdigest()[:16]}"


def extract_features(
    backbone: Backbone,
    images: UInt8[np.ndarray, "n h w 3"],
    folder: str | PathLike,
    *,
    batch_size: int = 4,
    progress: bool = True,
) -> Float[np.ndarray, "n d"]:
    """Returns the features of every image, from the cache where it holds them.

    A stopped run resumes: every block of rows is a file of its own, written whole or
    not at all, in a folder named by `cache_name`.

    Args:
      backbone: the network.
      images: RGB images.
      folder: where caches are kept.
      batch_size: images worked on at a time. Activations of a few images stay in a
        CPU's cache; an accelerator wants hundreds.
      progress: whether to show a progress bar.

    Raises:
      ValueError: a file of the cache is damaged.
    """
    cache = Path(folder) / cache_name(backbone, images)
    cache.mkdir(parents=True, exist_ok=True)
    run = _make_run(backbone, batch_size)
    starts = range(0, len(images), BLOCK)
    blocks = []
    for start in tqdm(starts, desc=cache.name, unit="block", disable=not progress):
        path, some = cache / f"rows_{start:07d}.npz", images[start : start + BLOCK]
        if not path.exists():
            _write_block(path, run(some))
        blocks.append(_read_block(path, len(some)))
    return np.concatenate(blocks)


def _make_run(backbone: Backbone, batch_size: int) -> Callable[..., np.ndarray]:
    """Returns a function that maps a block batch by batch; zeros fill the last one."""

    @jax.jit
    def run_batches(variables, batches):
        return jax.lax.map(lambda some: backbone.apply(variables, some), batches)

    def run(images):
        fill = -len(images) % batch_size
        padded = np.pad(images, ((0, fill), *[(0, 0)] * 3))
        batches = padded.reshape(-1, batch_size, *images.shape[1:])
        features = np.asarray(run_batches(backbone.variables, batches))
        return features.reshape(-1, features.shape[-1])[: len(images)]

    return run


def _write_block(path: Path, features: np.ndarray) -> None:
    record.write_atomically(path, lambda file: np.savez(file, features=features))


def _read_block(path: Path, rows: int) -> np.ndarray:
    """Reads a block; the zip format's checksum tells a damaged one."""
    try:
        features = record.read_npz(path)["features"]
    except (ValueError, KeyError) as error:
        raise _damaged(path) from error
    if features.ndim != 2 or len(features) != rows:
        raise _damaged(path)
    return features


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged; delete it, and it is computed again.")
