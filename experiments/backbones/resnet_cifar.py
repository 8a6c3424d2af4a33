"""Residual networks for 32 x 32 images, with shortcuts that have no parameters."""

from os import PathLike

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from experiments.backbones.features import Backbone
from experiments.backbones.preprocessing import standardize
from experiments.backbones.weights import load_variables, read_state

__all__ = ["CifarResNet", "cifar_resnet"]


def _conv(width: int, name: str, stride: int = 1) -> nn.Conv:
    # "SAME" would pad even sizes at the end alone where the stride is 2.
    padding = ((1, 1), (1, 1))
    return nn.Conv(
        width,
        (3, 3),
        stride,
        padding,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
        name=name,
    )


def _shortcut(x: Float[Array, "n h w c"], width: int) -> Float[Array, "n h2 w2 width"]:
    """Drops every other pixel and adds channels of zeros on both sides (option A)."""
    if x.shape[-1] == width:
        return x
    more = (width - x.shape[-1]) // 2
    return jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (more, more)))


class _Block(nn.Module):
    """Two convolutions plus the shortcut."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        y = _conv(self.width, "conv1", self.stride)(x)
        y = nn.relu(nn.BatchNorm(not train, momentum=0.9, name="bn1")(y))
        y = _conv(self.width, "conv2")(y)
        y = nn.BatchNorm(not train, momentum=0.9, name="bn2")(y)
        return nn.relu(y + _shortcut(x, self.width))


class CifarResNet(nn.Module):
    """CIFAR ResNet of 6 m + 2 layers, shortcut option A.

    Attributes:
      depth: number of layers: 20, 32, 44, 56, 110.
      num_classes: outputs of the head `linear`; None for the 64 features themselves.

    References:
      K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
      CVPR 2016, section 4.2.
    """

    depth: int = 20
    num_classes: int | None = 10

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w 3"], train: bool = False
    ) -> Float[Array, "n outputs"]:
        """Returns logits or features of standardised images.

        Args:
          images: from `preprocessing.standardize`.
          train: whether to normalise with the batch's statistics and to update the
            running ones.

        Raises:
          ValueError: there is no such depth.
        """
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"depth must be 6 m + 2 with m >= 1, got {self.depth}.")
        x = _conv(16, "conv1")(images)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name="bn1")(x))
        for layer, width in enumerate((16, 32, 64), start=1):
            for block in range(self.depth // 6):
                stride = 2 if layer > 1 and block == 0 else 1
                x = _Block(width, stride, name=f"layer{layer}_{block}")(x, train)
        x = x.mean((1, 2))
        if self.num_classes is None:
            return x
        return nn.Dense(self.num_classes, name="linear")(x)


def cifar_resnet(path: str | PathLike, depth: int = 20) -> Backbone:
    """Returns the network trained on CIFAR-10, as a source of 64 features.

    Args:
      path: npz or safetensors file with the weights under the names of the PyTorch
        implementation `akamaster/pytorch_resnet_cifar10`.
      depth: number of layers.

    Raises:
      ValueError: the file holds other weights.
    """
    module = CifarResNet(depth, num_classes=None)
    example = np.zeros((1, 32, 32, 3), np.float32)
    template = jax.eval_shape(module.init, jax.random.key(0), example)
    variables = load_variables(template, read_state(path), except_layers=("linear",))

    def apply(variables, images):
        return module.apply(variables, standardize(images.astype(jnp.float32)))

    return Backbone(f"cifar_resnet{depth}", 32, apply, variables)
