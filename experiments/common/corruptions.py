"""Images made worse in one documented way each, as CIFAR-10-C does it.

After D. Hendrycks, T. Dietterich, "Benchmarking neural network robustness to common
corruptions and perturbations", ICLR 2019: five of its kinds, each at one strength from
the middle of its range. The code is ours: do not compare with numbers on its files.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

__all__ = ["CORRUPTIONS", "corrupt"]

Images = Float[np.ndarray, "n h w 3"]


def _noise(x: Images) -> Images:
    """Gaussian noise with a deviation of 0.08, the same for every network."""
    return x + np.random.default_rng(0).normal(scale=0.08, size=x.shape)


def _blur(x: Images) -> Images:
    """A Gaussian kernel with a deviation of 0.7 pixels, the border repeated."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (0, 0.7, 0.7, 0), mode="nearest")


def _contrast(x: Images) -> Images:
    """What differs from the image's mean colour, times 0.4."""
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * 0.4 + mean


def _brightness(x: Images) -> Images:
    """0.15 more of every channel."""
    return x + 0.15


def _pixelate(x: Images) -> Images:
    """Squares of 2 x 2 pixels of one colour, their mean."""
    n, height, width, channels = x.shape
    squares = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    return squares.repeat(2, 1).repeat(2, 2)


CORRUPTIONS: dict[str, Callable[[Images], Images]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
}
"""What is done to images in [0, 1]; what leaves that range is clipped."""


def corrupt(
    images: UInt8[np.ndarray, "n h w 3"], name: str
) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns the images, made worse.

    Args:
      images: RGB images of even height and width.
      name: one of `CORRUPTIONS`.
    """
    worse = CORRUPTIONS[name](images.astype(np.float32) / 255)
    return np.rint(255 * np.clip(worse, 0, 1)).astype(np.uint8)
