"""ResNet-18 and ResNet-50 for ImageNet, in the format of torchvision's weights."""

from os import PathLike

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from experiments.backbones.features import Backbone
from experiments.backbones.preprocessing import resize, standardize
from experiments.backbones.weights import load_variables, read_state

__all__ = ["BasicBlock", "Bottleneck", "ImageNetResNet", "imagenet_resnet"]

BLOCKS = {18: (2, 2, 2, 2), 20: (2, 2, 2, 3), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each of the four layers, by depth; 20 is CNTK's ResNet-18."""


def _conv(x, width: int, size: int, name: str, stride: int = 1):
    # "SAME" would pad even sizes at the end alone where the stride is 2.
    padding = [(size // 2, size // 2)] * 2
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    options = {"use_bias": False, "kernel_init": init, "name": name}
    return nn.Conv(width, (size, size), stride, padding, **options)(x)


def _norm(x, name: str, train: bool):
    return nn.BatchNorm(not train, momentum=0.9, name=name)(x)


def _shortcut(x, width: int, stride: int, train: bool):
    """Projects where the shape changes (option B)."""
    if stride == 1 and x.shape[-1] == width:
        return x
    x = _conv(x, width, 1, "downsample_0", stride)
    return _norm(x, "downsample_1", train)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions plus the shortcut.

    Attributes:
      width: channels of the result.
      stride: of the first convolution.
    """

    width: int
    stride: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], train: bool
    ) -> Float[Array, "n h2 w2 c2"]:
        """Returns the block's output, after its last ReLU."""
        y = _conv(x, self.width, 3, "conv1", self.stride)
        y = nn.relu(_norm(y, "bn1", train))
        y = _norm(_conv(y, self.width, 3, "conv2"), "bn2", train)
        return nn.relu(y + _shortcut(x, self.width, self.stride, train))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions plus the shortcut.

    The stride is the 3 x 3 convolution's, as in torchvision, and not the first one's,
    as in the paper.

    Attributes:
      width: channels of the 3 x 3 convolution; the result has 4 times as many.
      stride: of that convolution.
    """

    width: int
    stride: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], train: bool
    ) -> Float[Array, "n h2 w2 c2"]:
        """Returns the block's output, after its last ReLU."""
        y = nn.relu(_norm(_conv(x, self.width, 1, "conv1"), "bn1", train))
        y = _conv(y, self.width, 3, "conv2", self.stride)
        y = nn.relu(_norm(y, "bn2", train))
        y = _norm(_conv(y, 4 * self.width, 1, "conv3"), "bn3", train)
        return nn.relu(y + _shortcut(x, 4 * self.width, self.stride, train))


class ImageNetResNet(nn.Module):
    """ResNet-18, 34 or 50 as torchvision defines it, layer by layer under its names.

    Attributes:
      depth: number of layers: 18, 20, 34 or 50.
      num_classes: outputs of the head `fc`; None for the features themselves, 512
        or, at depth 50, 2048.

    References:
      K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
      CVPR 2016.
    """

    depth: int = 18
    num_classes: int | None = 1000

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w 3"], train: bool = False
    ) -> Float[Array, "n outputs"]:
        """Returns logits or features of standardised images.

        Args:
          images: from `preprocessing.standardize`; torchvision's weights are for 224
            pixels.
          train: whether to normalise with the batch's statistics and to update the
            running ones.

        Raises:
          ValueError: there is no such depth.
        """
        if self.depth not in BLOCKS:
            raise ValueError(f"depth must be one of {[*BLOCKS]}, got {self.depth}.")
        block_type = Bottleneck if self.depth == 50 else BasicBlock
        x = nn.relu(_norm(_conv(images, 64, 7, "conv1", 2), "bn1", train))
        # After a ReLU, zeros beyond the border change no maximum.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = nn.max_pool(x, (3, 3), (2, 2))
        for layer, count in enumerate(BLOCKS[self.depth], start=1):
            for i in range(count):
                stride = 2 if layer > 1 and i == 0 else 1
                block = block_type(32 * 2**layer, stride, name=f"layer{layer}_{i}")
                x = block(x, train)
        x = x.mean((1, 2))
        if self.num_classes is None:
            return x
        return nn.Dense(self.num_classes, name="fc")(x)


def imagenet_resnet(
    path: str | PathLike, depth: int = 18, resolution: int = 224
) -> Backbone:
    """Returns the network trained on ImageNet, as a source of 512 or 2048 features.

    Images are resized bilinearly to `resolution`, mapped to 0..1 and standardised
    with the constants that torchvision documents for its weights,
    `preprocessing.IMAGENET_MEAN` and `IMAGENET_STD`. For photographs torchvision cuts
    224 pixels out of the middle of 256; small images are used whole. Where the file
    has an array `mean_rgb`, it is subtracted from 0..255 instead.

    Args:
      path: safetensors or npz file with torchvision's state dict. From a .pth file:
        `numpy.savez(path, **{k: v.numpy() for k, v in torch.load(pth).items()})`.
      depth: number of layers.
      resolution: pixels that images are resized to.

    Raises:
      ValueError: the file holds other weights.
    """
    module = ImageNetResNet(depth, num_classes=None)
    example = np.zeros((1, 64, 64, 3), np.float32)
    template = jax.eval_shape(module.init, jax.random.key(0), example)
    state = read_state(path)
    mean = state.pop("mean_rgb", None)
    variables = load_variables(template, state, except_layers=("fc",))

    def apply(variables, images):
        images = resize(jnp.asarray(images), resolution)
        if mean is None:
            return module.apply(variables, standardize(images))
        return module.apply(variables, images - mean[None, None, None])

    return Backbone(f"imagenet_resnet{depth}", resolution, apply, variables)
