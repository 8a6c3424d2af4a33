"""Pretrained networks: ports against NumPy, weights against key lists, the cache."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.backbones import (
    Backbone,
    CifarResNet,
    ImageNetResNet,
    cifar_resnet,
    efficientnet_lite0,
    extract_features,
    features,
    imagenet_resnet,
)
from experiments.backbones.efficientnet import DepthwiseConv
from experiments.backbones.preprocessing import resize, standardize
from experiments.backbones.resnet_imagenet import Bottleneck
from experiments.backbones.weights import load_variables, read_state
from tests.studies import resnet_oracle as oracle

TORCHVISION = {18: ((2, 2, 2, 2), 2, 11_689_512), 50: ((3, 4, 6, 3), 3, 25_557_032)}
"""Blocks, convolutions in a block, and torchvision's number of parameters."""


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def shapes_of(module):
    example = np.zeros((1, 32, 32, 3), np.float32)
    return jax.eval_shape(module.init, jax.random.key(0), example)


def load(module, state, **options):
    return load_variables(shapes_of(module), state, **options)


def assert_close(actual, expected, tolerance=1e-5):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=tolerance)


def pretrained(name):
    folder = os.environ.get("LAGRANGE_JAX_DATA")
    path = Path(folder or "") / "pretrained" / name
    if not folder or not path.exists():
        pytest.skip(f"LAGRANGE_JAX_DATA has no pretrained/{name}")
    return path


# --- CIFAR ResNets ----------------------------------------------------------


def test_cifar_network_is_the_papers(images, tmp_path):
    state = oracle.random_state(oracle.cifar_shapes(1))
    np.savez(tmp_path / "weights.npz", **state)
    backbone = cifar_resnet(tmp_path / "weights.npz", depth=8)
    expected, logits = oracle.cifar_resnet(oracle.Layers(state), images, 1)
    assert_close(jax.jit(backbone.apply)(backbone.variables, images), expected)

    module = CifarResNet(8)
    x = standardize(images.astype(jnp.float32))
    assert_close(jax.jit(module.apply)(load(module, state), x), logits)


def test_cifar_network_in_training(images):
    state = oracle.random_state(oracle.cifar_shapes(1))
    layers = oracle.Layers(state, train=True)
    _, expected = oracle.cifar_resnet(layers, images, 1)
    module = CifarResNet(8)
    variables = load(module, state)
    x = standardize(images.astype(jnp.float32))

    @jax.jit
    def apply(variables):
        return module.apply(variables, x, True, mutable=["batch_stats"])

    logits, updated = apply(variables)
    assert_close(logits, expected)
    expected = load(module, state | layers.updated)["batch_stats"]
    jax.tree.map(assert_close, updated["batch_stats"], expected)
    different = jax.tree.map(
        lambda a, b: jnp.abs(a - b).max() > 1e-3, expected, variables["batch_stats"]
    )
    assert all(jax.tree.leaves(different))


@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (56, 853_018)])
def test_cifar_key_lists(depth, count):
    module, state = CifarResNet(depth), oracle.cifar_shapes(depth // 6)
    shapes = shapes_of(module)
    assert sum(a.size for a in jax.tree.leaves(shapes["params"])) == count
    load(module, {name: np.zeros(shape) for name, shape in state.items()})


@pytest.mark.parametrize("depth", [20, 56])
def test_cifar_weights_that_were_trained(images, depth):
    path = pretrained(f"resnet{depth}_cifar10.npz")
    backbone = cifar_resnet(path, depth)
    expected, _ = oracle.cifar_resnet(
        oracle.Layers(read_state(path)), images, depth // 6
    )
    # Many layers of few shapes: each compiles once outside jit.
    assert_close(backbone.apply(backbone.variables, images), expected)


def test_new_head_on_a_pretrained_body():
    template = jax.tree.map(
        lambda a: jnp.full(a.shape, 7.0), shapes_of(CifarResNet(8, num_classes=100))
    )
    state = oracle.random_state(oracle.cifar_shapes(1))
    variables: Any = load_variables(template, state, except_layers=("linear",))
    assert variables["params"]["linear"]["kernel"].shape == (64, 100)
    assert all((a == 7).all() for a in variables["params"].pop("linear").values())
    expected: Any = load(CifarResNet(8), state)
    del expected["params"]["linear"]
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


# --- ResNets in torchvision's format ----------------------------------------


@pytest.mark.parametrize("depth", TORCHVISION)
def test_torchvision_key_lists(depth):
    blocks, convolutions, count = TORCHVISION[depth]
    names = oracle.torchvision_shapes(blocks, convolutions)
    assert len(names) == {18: 122, 50: 320}[depth]
    module = ImageNetResNet(depth)
    variables = load(
        module,
        {
            name: np.broadcast_to(np.float32(0), shape)
            for name, shape in names.items()
            if "num_batches" not in name
        },
    )
    assert sum(a.size for a in jax.tree.leaves(variables["params"])) == count


def test_torchvision_network(images, tmp_path):
    shapes = oracle.torchvision_shapes((2, 2, 2, 2), 2)
    state = oracle.random_state(shapes)
    np.savez(tmp_path / "weights.npz", **state)
    backbone = imagenet_resnet(tmp_path / "weights.npz", 18, resolution=32)
    layers = oracle.Layers(state)
    expected, _ = oracle.imagenet_resnet(layers, images, (2, 2, 2, 2), 2)
    assert expected.shape == (3, 512)
    assert_close(jax.jit(backbone.apply)(backbone.variables, images), expected)


def test_bottlenecks(images):
    """All of depth 50 would compile for long; a block stands for it."""

    shapes = oracle.torchvision_shapes((1, 1), 3)
    state = oracle.random_state(shapes)
    prefix = "layer2.0."
    state = {
        k.removeprefix(prefix): v
        for k, v in state.items()
        if k.startswith(prefix) and "num_batches" not in k
    }
    x = np.random.default_rng(1).normal(size=(2, 9, 9, 256)).astype(np.float32)
    module = Bottleneck(128, 2)
    init = functools.partial(module.init, train=False)
    template = jax.eval_shape(init, jax.random.key(0), x)
    layers = oracle.Layers(state)
    y, shortcut = (x.transpose(0, 3, 1, 2),) * 2
    y = oracle.relu(layers.norm("bn1", layers.conv("conv1", y)))
    y = oracle.relu(layers.norm("bn2", layers.conv("conv2", y, 2)))
    y = layers.norm("bn3", layers.conv("conv3", y))
    shortcut = layers.norm("downsample.1", layers.conv("downsample.0", shortcut, 2))
    expected = oracle.relu(y + shortcut).transpose(0, 2, 3, 1)
    assert_close(module.apply(load_variables(template, state), x, False), expected)


# --- EfficientNet-Lite0 -----------------------------------------------------


def both_convolutions(key, size, stride, extent):
    """Returns ours, Flax's, their common variables and inputs."""
    x = jax.random.normal(key, (2, extent, extent + 1, 6))
    fast = DepthwiseConv(size, stride)
    plain = nn.Conv(6, (size, size), stride, feature_group_count=6, use_bias=False)
    shapes = jax.eval_shape(fast.init, key, x)
    assert shapes == jax.eval_shape(plain.init, key, x)
    random = np.random.default_rng(3)
    variables = jax.tree.map(
        lambda a: random.normal(size=a.shape).astype(np.float32), shapes
    )
    return fast, plain, variables, x


@pytest.mark.parametrize(("size", "stride", "extent"), [(5, 2, 9), (3, 1, 7)])
def test_depthwise_convolution_is_flax_conv(key, size, stride, extent):
    fast, plain, variables, x = both_convolutions(key, size, stride, extent)
    assert_close(jax.jit(fast.apply)(variables, x), plain.apply(variables, x))


def test_gradients_of_depthwise_convolution(key):
    fast, plain, variables, x = both_convolutions(key, 3, 2, 8)

    @functools.partial(jax.jit, static_argnums=0)
    def run(module):
        outputs, pullback = jax.vjp(module.apply, variables, x)
        return outputs, pullback(jnp.sin(outputs))

    jax.tree.map(assert_close, run(fast), run(plain))


def test_efficientnet_reproduces_the_original_features():
    path = pretrained("efficientnet_lite0_imagenet.npz")
    with np.load(pretrained("efficientnet_lite0_reference.npz")) as reference:
        images, expected = reference["images"][:4], reference["features_128px"][:4]
    backbone = efficientnet_lite0(path, 128)
    actual = jax.jit(backbone.apply)(backbone.variables, images)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_resnet18_reproduces_the_original_features():
    path = pretrained("resnet18_imagenet.npz")
    with np.load(pretrained("resnet18_reference.npz")) as reference:
        images, expected = reference["images"][:4], reference["features_128"][:4]
    backbone = imagenet_resnet(path, 20, 128)
    actual = jax.jit(backbone.apply)(backbone.variables, images)
    assert_close(actual, expected, 1e-4)


# --- preprocessing ----------------------------------------------------------


def test_resizing_is_bilinear_with_half_pixel_centres():
    image = np.array([[0, 40], [80, 240]], np.uint8)[None, :, :, None]
    rows = np.array([0, 0.25, 0.75, 1])[:, None]
    corners = image[0, :, :, 0].astype(float)
    left = corners[0, 0] * (1 - rows) + corners[1, 0] * rows
    right = corners[0, 1] * (1 - rows) + corners[1, 1] * rows
    expected = left * (1 - rows.T) + right * rows.T
    actual = resize(jnp.asarray(np.repeat(image, 3, -1)), 4)
    np.testing.assert_allclose(actual[0, :, :, 1], expected, atol=1e-4)


# --- weights ----------------------------------------------------------------


def test_wrong_weights_are_named():
    module = CifarResNet(8)
    state = oracle.random_state(oracle.cifar_shapes(1))
    del state["layer2.0.bn1.running_var"]
    state["layer9.0.conv1.weight"] = np.zeros((1, 1, 3, 3))
    state["conv1.weight"] = np.zeros((16, 1, 3, 3))
    with pytest.raises(ValueError) as error:
        load(module, state)
    message = str(error.value)
    assert "layer2.0.bn1.running_var is missing" in message
    assert "layer9.0.conv1.weight is left over" in message
    assert "conv1.weight has shape (3, 3, 1, 16)" in message
    assert "expected (3, 3, 3, 16)" in message
    assert message.count("; ") == 2


def test_another_depth_or_number_of_classes_is_refused():
    state = oracle.random_state(oracle.cifar_shapes(1))
    with pytest.raises(ValueError, match=r"linear\.weight has shape \(64, 10\)"):
        load(CifarResNet(8, num_classes=100), state)
    with pytest.raises(ValueError, match=r"layer1\.1\.conv1\.weight is missing"):
        load(CifarResNet(14), state)
    with pytest.raises(ValueError, match="6 m"):
        shapes_of(CifarResNet(21))
    with pytest.raises(ValueError, match=r"\[18, 20, 34, 50\], got 101"):
        shapes_of(ImageNetResNet(101))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_state_files(tmp_path, suffix):
    state = {"a.weight": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    stored: dict[str, Any] = state | {"a.num_batches_tracked": np.array(7)}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "npz":
        np.savez(path, **stored)
    else:
        safetensors = pytest.importorskip("safetensors.numpy")
        safetensors.save_file(stored, path)
    found = read_state(path)
    assert found.keys() == state.keys()
    np.testing.assert_array_equal(found["a.weight"], state["a.weight"])


def test_state_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        read_state(tmp_path / "none.npz")
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ValueError, match=r"\.npz or \.safetensors.*weights\.pth"):
        read_state(tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(ImportError, match="pip install safetensors"):
        read_state(tmp_path / "weights.safetensors")


# --- the cache of features --------------------------------------------------


def make_backbone(factor=1.0, name="net", resolution=32, applied=1.0):
    """Features are the mean colour times `factor` and `applied`, which is not named."""

    def apply(variables, images):
        colour = images.astype(jnp.float32).mean((1, 2))
        return applied * variables["factor"] * colour

    return Backbone(name, resolution, apply, {"factor": jnp.float32(factor)})


@pytest.fixture
def some(monkeypatch):
    """Ten images in blocks of four rows."""
    monkeypatch.setattr(features, "BLOCK", 4)
    return np.random.default_rng(2).integers(0, 256, (10, 2, 2, 3), np.uint8)


def extract(backbone, images, folder):
    return extract_features(backbone, images, folder, batch_size=3, progress=False)


def test_features_are_those_of_every_image(some, tmp_path):
    expected = some.mean((1, 2))
    found = extract(make_backbone(), some, tmp_path)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    (cache,) = tmp_path.iterdir()
    assert len(list(cache.iterdir())) == 3
    again = extract(make_backbone(applied=np.nan), some, tmp_path)
    np.testing.assert_array_equal(again, found)


def test_extraction_resumes_where_it_stopped(some, tmp_path):
    found = extract(make_backbone(), some, tmp_path)
    (cache,) = tmp_path.iterdir()
    blocks = sorted(cache.iterdir())
    blocks[1].rename(f"{blocks[1]}half-written")
    again = extract(make_backbone(applied=2.0), some, tmp_path)
    np.testing.assert_array_equal(again[4:8], 2 * found[4:8])
    np.testing.assert_array_equal(again[:4], found[:4])
    np.testing.assert_array_equal(again[8:], found[8:])


def test_cache_is_of_one_network_and_data(some, tmp_path):
    changed = some.copy()
    changed[7, 0, 0, 0] ^= 1
    cases = [
        (make_backbone(), some),
        (make_backbone(factor=2.0), some),
        (make_backbone(name="other"), some),
        (make_backbone(resolution=64), some),
        (make_backbone(), changed),
        (make_backbone(), some[:9]),
    ]
    for number, (backbone, images) in enumerate(cases, start=1):
        extract(backbone, images, tmp_path)
        assert len(list(tmp_path.iterdir())) == number


def _cut(content):
    return content[: len(content) // 2]


def _flip(content):
    content = bytearray(content)
    content[content.index(b"\n", content.index(b"NUMPY")) + 5] ^= 1
    return bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda content: b""])
def test_damaged_cache_is_refused(some, tmp_path, damage):
    extract(make_backbone(), some, tmp_path)
    (cache,) = tmp_path.iterdir()
    block = sorted(cache.iterdir())[2]
    block.write_bytes(damage(block.read_bytes()))
    with pytest.raises(ValueError, match=rf"{block.name} is damaged; delete"):
        extract(make_backbone(), some, tmp_path)


def test_block_of_other_rows_is_refused(some, tmp_path):
    extract(make_backbone(), some, tmp_path)
    (cache,) = tmp_path.iterdir()
    blocks = sorted(cache.iterdir())
    blocks[2].write_bytes(blocks[0].read_bytes())
    with pytest.raises(ValueError, match="is damaged"):
        extract(make_backbone(), some, tmp_path)
