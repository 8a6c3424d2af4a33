"""From images of bytes to what a pretrained network was trained on."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "resize", "standardize"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of each channel (R, G, B) of ImageNet's training images, in 0..1."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of each channel, likewise."""


def resize(
    images: UInt8[Array, "n h w 3"], resolution: int
) -> Float[Array, "n resolution resolution 3"]:
    """Resizes bilinearly with half-pixel centres; values stay in 0..255.

    Args:
      images: RGB images.
      resolution: height and width of the result in pixels.

    Returns:
      float32 images; shrunk images are smoothed first.
    """
    n, *size, channels = images.shape
    images = images.astype(jnp.float32)
    if size == [resolution, resolution]:
        return images
    shape = (n, resolution, resolution, channels)
    return jax.image.resize(images, shape, "bilinear")


def standardize(
    images: Float[Array, "n h w 3"],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Array, "n h w 3"]:
    """Maps 0..255 to 0..1, subtracts `mean` and divides by `std`, by channel."""
    scale = 1 / (255 * jnp.asarray(std, images.dtype))
    shift = -jnp.asarray(mean, images.dtype) / jnp.asarray(std, images.dtype)
    return images * scale[None, None, None] + shift[None, None, None]
