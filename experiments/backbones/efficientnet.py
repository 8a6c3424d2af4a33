"""EfficientNet-Lite0 with depthwise convolutions fast on a CPU."""

import re
from os import PathLike

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from experiments.backbones.features import Backbone
from experiments.backbones.preprocessing import resize
from experiments.backbones.weights import load_variables, read_state

__all__ = ["DepthwiseConv", "EfficientNetLite0", "efficientnet_lite0"]

STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride of the first block, width, blocks."""


def _relu6(x):
    return jnp.clip(x, 0, 6)


class DepthwiseConv(nn.Module):
    """A depthwise convolution as a sum of shifted, scaled images.

    Equal to `flax.linen.Conv(c, (size, size), strides, feature_group_count=c,
    use_bias=False)` with "SAME" padding, and to its parameters. XLA fuses the sum into
    one loop that runs over the channels at a CPU's vector width.

    Attributes:
      size: height and width of the kernel.
      stride: pixels from one output to the next.
    """

    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        """Convolves every channel with its own kernel."""
        _, *extent, channels = x.shape
        shape = (self.size, self.size, 1, channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        strides = (self.stride, self.stride)
        padding = jax.lax.padtype_to_pads(extent, shape[:2], strides, "SAME")
        # A padded copy in memory: without it every tap would test for the border.
        x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
        taps = [
            x[:, row, column] * kernel[i, j][None, None]
            for i, row in enumerate(self._windows(x.shape[1]))
            for j, column in enumerate(self._windows(x.shape[2]))
        ]
        return sum(taps[1:], taps[0])

    def _windows(self, padded: int) -> list[slice]:
        """Returns the inputs that each tap of the kernel meets."""
        end = padded - self.size + 1
        return [slice(i, i + end, self.stride) for i in range(self.size)]


class _InvertedResidual(nn.Module):
    """Expand, filter every channel, project; plus the input where shapes agree."""

    expansion: int
    size: int
    stride: int
    width: int

    @nn.compact
    def __call__(self, x, train):
        def norm(name, y):
            return _norm(name, train)(y)

        y, channels = x, x.shape[-1]
        if self.expansion > 1:
            y = _pointwise(self.expansion * channels, "expand_conv")(y)
            y = _relu6(norm("bn0", y))
        y = DepthwiseConv(self.size, self.stride, name="depthwise_conv")(y)
        y = _relu6(norm("bn1", y))
        y = norm("bn2", _pointwise(self.width, "project_conv")(y))
        return x + y if self.stride == 1 and channels == self.width else y


def _norm(name: str, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(not train, momentum=0.99, epsilon=1e-3, name=name)


def _pointwise(width: int, name: str) -> nn.Conv:
    return nn.Conv(width, (1, 1), use_bias=False, name=name)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: no squeeze-and-excitation, ReLU6 throughout.

    Attributes:
      num_classes: outputs of the head `fc`; None for the 1280 features themselves.

    References:
      M. Tan, Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
      Networks", ICML 2019; the Lite variants are the authors' for mobile devices.
    """

    num_classes: int | None = 1000

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w 3"], train: bool = False
    ) -> Float[Array, "n outputs"]:
        """Returns logits or features of images as `preprocess` makes them."""
        stem = nn.Conv(32, (3, 3), 2, use_bias=False, name="conv_stem")
        x = _relu6(_norm("bn0", train)(stem(images)))
        block = 0
        for expansion, size, stride, width, repeats in STAGES:
            for i in range(repeats):
                options = (expansion, size, stride if i == 0 else 1, width)
                x = _InvertedResidual(*options, name=f"blocks_{block}")(x, train)
                block += 1
        x = _relu6(_norm("bn1", train)(_pointwise(1280, "conv_head")(x)))
        x = x.mean((1, 2))
        return (
            x if self.num_classes is None else nn.Dense(self.num_classes, name="fc")(x)
        )


def preprocess(
    images: UInt8[Array, "n h w 3"], resolution: int
) -> Float[Array, "n resolution resolution 3"]:
    """Returns images as the network was trained on: bilinear, (x - 127) / 128."""
    return (resize(images, resolution) - 127) / 128


def efficientnet_lite0(path: str | PathLike, resolution: int = 128) -> Backbone:
    """Returns the network trained on ImageNet, as a source of 1280 features.

    Args:
      path: npz or safetensors file with the weights under the names of the PyTorch
        package `efficientnet_lite_pytorch`.
      resolution: pixels that images are resized to.

    Raises:
      ValueError: the file holds other weights.
    """
    module = EfficientNetLite0(num_classes=None)
    # The source's names begin with an underscore.
    state = {re.sub(r"(^|\.)_", r"\1", k): v for k, v in read_state(path).items()}
    example = np.zeros((1, 32, 32, 3), np.float32)
    template = jax.eval_shape(module.init, jax.random.key(0), example)
    variables = load_variables(template, state, except_layers=("fc",))

    def apply(variables, images):
        return module.apply(variables, preprocess(images, resolution))

    return Backbone("efficientnet_lite0", resolution, apply, variables)
