"""The convolutional network of the RUL study, with convolutions fast on a CPU."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

__all__ = ["RulCNN", "TemporalConv", "fold_time", "unfold_time"]


def fold_time(
    windows: Float[Array, "n time sensors"], steps: int
) -> Float[Array, "steps 1 blocks columns"]:
    """Cuts windows into blocks of `steps` time steps, the layout of `TemporalConv`.

    Args:
      windows: one channel, time before sensors.
      steps: length of a block; it divides the length of a window.

    Returns:
      `[steps, channels, blocks, columns]`, a column for each sensor of each example.

    Raises:
      ValueError: the blocks do not fill the window.
    """
    n, time, sensors = windows.shape
    if time % steps:
        raise ValueError(
            f"a window of {time} time steps does not divide into blocks of {steps}; "
            "choose a block length that divides it."
        )
    blocks = windows.reshape(n, time // steps, steps, sensors)
    return blocks.transpose(2, 1, 0, 3).reshape(steps, 1, time // steps, n * sensors)


def unfold_time(
    folded: Float[Array, "steps channels blocks columns"], sensors: int
) -> Float[Array, "n time sensors channels"]:
    """Puts blocks back together, in the axis order of `flax.linen.Conv`.

    Args:
      folded: what a `TemporalConv` returned.
      sensors: sensors in an example.

    Returns:
      `[n, time, sensors, channels]`.
    """
    steps, channels, blocks, columns = folded.shape
    n = columns // sensors
    split = folded.reshape(steps, channels, blocks, n, sensors)
    return split.transpose(3, 2, 0, 4, 1).reshape(n, blocks * steps, sensors, channels)


def _banded_matrix(
    kernel: Float[Array, "width 1 c_in c_out"], steps: int
) -> Float[Array, "rows columns"]:
    """Returns the matrix that maps `steps + width - 1` time steps to `steps`.

    Output o takes tap k from input o + k: a band of the kernel's taps.
    """
    width, c_out = kernel.shape[0], kernel.shape[-1]
    i, o, k = np.ogrid[: steps + width - 1, :steps, :width]
    band = jnp.asarray(i == o + k, kernel.dtype)
    matrix = jnp.einsum("iok,kcd->icod", band, kernel[:, 0])
    return matrix.reshape(-1, steps * c_out)


def _add_neighbours(
    x: Float[Array, "steps c blocks columns"], before: int, after: int
) -> Float[Array, "longer c blocks columns"]:
    """Adds to each block the time steps next to it, zeros beyond the window."""
    earlier = jnp.pad(x[len(x) - before :, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
    later = jnp.pad(x[:after, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    return jnp.concatenate([earlier, x, later])


class TemporalConv(nn.Conv):
    """A convolution over time alone, as one matrix product.

    Equal to `flax.linen.Conv(features, (width, 1))` with "SAME" padding and to its
    parameters, but takes and returns `[steps, channels, blocks, columns]` as
    `fold_time` makes it. Every block, with the neighbouring time steps that the
    kernel reaches, is multiplied by the same banded (Toeplitz) matrix. Most of the
    band's zeros stay outside the product when blocks are short, and the product is
    large enough to run at the speed of a matrix product, forward and backward.
    """

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "steps c_in blocks columns"]
    ) -> Float[Array, "steps c_out blocks columns"]:
        """Convolves every column.

        Args:
          inputs: time blocks, as from `fold_time`.

        Returns:
          The same layout with `features` channels.

        Raises:
          ValueError: the kernel is not over time alone, or longer than a block
            allows, or an option of `flax.linen.Conv` is set that is not supported.
        """
        steps, c_in, blocks, _ = inputs.shape
        width = self._check_options(steps)
        kernel = self.param(
            "kernel", self.kernel_init, (width, 1, c_in, self.features), jnp.float32
        )
        before = (width - 1) // 2
        rows = _add_neighbours(inputs, before, width - 1 - before)
        matrix = _banded_matrix(kernel, steps)
        product = matrix.T @ rows.reshape(len(matrix), -1)
        outputs = product.reshape(steps, self.features, blocks, -1)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            outputs += bias[None, :, None, None]
        return outputs

    def _check_options(self, steps: int) -> int:
        """Returns the kernel's width."""
        size = tuple(np.atleast_1d(self.kernel_size))
        if len(size) != 2 or size[1] != 1 or size[0] // 2 > steps:
            raise ValueError(
                f"kernel_size must be (width, 1) with width <= {2 * steps + 1} for "
                f"blocks of {steps} time steps, got {self.kernel_size}."
            )
        plain = nn.Conv(self.features, self.kernel_size)
        for name in ("strides", "padding", "input_dilation", "kernel_dilation"):
            if getattr(self, name) != getattr(plain, name):
                raise ValueError(
                    f"TemporalConv has no option {name}; use flax.linen.Conv."
                )
        return int(size[0])


class RulCNN(nn.Module):
    """Temporal CNN for remaining useful life from a window of sensor values.

    Attributes:
      filters: channels of each of the first layers.
      num_layers: number of those layers.
      width: their kernel's length in time steps.
      hidden: units of the dense layer in front of the head.
      block: time steps in a block of `TemporalConv`; it divides the window.
    """

    filters: int = 10
    num_layers: int = 4
    width: int = 10
    hidden: int = 100
    block: int = 10

    @nn.compact
    def __call__(self, windows: Float[Array, "n time sensors"]) -> Float[Array, "n 1"]:
        """Returns the predicted remaining useful life, in units of the targets."""
        n, _, sensors = windows.shape
        x = fold_time(windows, self.block)
        for _ in range(self.num_layers):
            x = jnp.tanh(TemporalConv(self.filters, (self.width, 1))(x))
        x = jnp.tanh(TemporalConv(1, (3, 1))(x))
        x = unfold_time(x, sensors).reshape(n, -1)
        x = jnp.tanh(nn.Dense(self.hidden)(x))
        return nn.Dense(1, name="head")(x)
