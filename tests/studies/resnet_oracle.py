"""Residual networks in NumPy, from state dicts in PyTorch's layout, in float64."""

import numpy as np

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def standardized(images):
    """Returns uint8 images `[n, h, w, 3]` as `[n, 3, h, w]`."""
    return ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)


def conv(x, kernel, stride=1):
    size = kernel.shape[-1]
    pad = size // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)


class Layers:
    """A state dict applied layer by layer.

    With `train` normalisation is by the batch, and `updated` gets the running values.
    """

    def __init__(self, state, train=False):
        self.state = {name: a.astype(np.float64) for name, a in state.items()}
        self.train, self.updated = train, {}

    def conv(self, name, x, stride=1):
        return conv(x, self.state[f"{name}.weight"], stride)

    def norm(self, name, x):
        mean = self.state[f"{name}.running_mean"]
        var = self.state[f"{name}.running_var"]
        if self.train:
            batch = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.updated[f"{name}.running_mean"] = 0.9 * mean + 0.1 * batch[0]
            self.updated[f"{name}.running_var"] = 0.9 * var + 0.1 * batch[1]
            mean, var = batch
        scale = self.state[f"{name}.weight"] / np.sqrt(var + 1e-5)
        shift = self.state[f"{name}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def dense(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


def cifar_resnet(layers, images, blocks):
    """Returns features and logits of the CIFAR network, shortcut option A."""
    x = relu(layers.norm("bn1", layers.conv("conv1", standardized(images))))
    for stage in (1, 2, 3):
        for i in range(blocks):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = layers.conv(f"{block}.conv1", x, stride)
            y = layers.conv(f"{block}.conv2", relu(layers.norm(f"{block}.bn1", y)))
            y = layers.norm(f"{block}.bn2", y)
            if stride == 2:
                quarter = y.shape[1] // 4
                x = x[:, :, ::2, ::2]
                x = np.pad(x, ((0, 0), (quarter, quarter), (0, 0), (0, 0)))
            x = relu(x + y)
    features = x.mean((2, 3))
    return features, layers.dense("linear", features)


def imagenet_resnet(layers, images, blocks, convolutions):
    """Returns features and logits; a block has two 3 x 3 or three convolutions."""
    x = relu(layers.norm("bn1", layers.conv("conv1", standardized(images), 2)))
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    x = windows[:, :, ::2, ::2].max((-1, -2))
    for stage, count in enumerate(blocks, start=1):
        for i in range(count):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = x
            for j in range(1, convolutions + 1):
                strided = j == convolutions - 1  # the 3 x 3 one that comes first
                y = layers.conv(f"{block}.conv{j}", y, stride if strided else 1)
                y = layers.norm(f"{block}.bn{j}", y)
                y = relu(y) if j < convolutions else y
            if f"{block}.downsample.0.weight" in layers.state:
                x = layers.conv(f"{block}.downsample.0", x, stride)
                x = layers.norm(f"{block}.downsample.1", x)
            x = relu(x + y)
    features = x.mean((2, 3))
    return features, layers.dense("fc", features)


def cifar_shapes(blocks, classes=10):
    """Returns the shape of every array of the CIFAR network's state dict."""
    shapes = {"conv1.weight": (16, 3, 3, 3), **_norm_shapes("bn1", 16)}
    before = 16
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for i in range(blocks):
            name = f"layer{stage}.{i}"
            shapes[f"{name}.conv1.weight"] = (width, before, 3, 3)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes |= _norm_shapes(f"{name}.bn1", width)
            shapes |= _norm_shapes(f"{name}.bn2", width)
            before = width
    return shapes | {"linear.weight": (classes, 64), "linear.bias": (classes,)}


def torchvision_shapes(blocks, convolutions, classes=1000):
    """Returns the shape of every array of torchvision's state dict, counters too."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **_norm_shapes("bn1", 64)}
    before = 64
    for stage, count in enumerate(blocks, start=1):
        width = 32 * 2**stage
        out = width if convolutions == 2 else 4 * width
        for i in range(count):
            name = f"layer{stage}.{i}"
            sizes = {2: [(width, 3), (width, 3)]}.get(
                convolutions, [(width, 1), (width, 3), (out, 1)]
            )
            channels = before
            for j, (filters, size) in enumerate(sizes, start=1):
                shapes[f"{name}.conv{j}.weight"] = (filters, channels, size, size)
                shapes |= _norm_shapes(f"{name}.bn{j}", filters)
                channels = filters
            if i == 0 and (stage > 1 or out != before):
                shapes[f"{name}.downsample.0.weight"] = (out, before, 1, 1)
                shapes |= _norm_shapes(f"{name}.downsample.1", out)
            before = out
    counters = {
        name.replace("running_var", "num_batches_tracked"): ()
        for name in shapes
        if name.endswith("running_var")
    }
    return shapes | counters | {"fc.weight": (classes, before), "fc.bias": (classes,)}


def _norm_shapes(name, width):
    fields = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{field}": (width,) for field in fields}


def random_state(shapes, seed=0):
    """Returns arrays with activations of order one, each array unlike the others."""
    random = np.random.default_rng(seed)

    def draw(name, shape):
        if name.endswith("running_var") or (
            name.endswith("weight") and len(shape) == 1
        ):
            return random.uniform(0.5, 1.5, shape)
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 25
        return random.normal(0, np.sqrt(2 / fan_in), shape)

    return {
        name: draw(name, shape).astype(np.float32) for name, shape in shapes.items()
    }
