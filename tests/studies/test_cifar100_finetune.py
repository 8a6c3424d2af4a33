"""Fine-tuning a whole network on CIFAR-100: the smoke run, its images, its table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import record
from experiments.common.corruptions import CORRUPTIONS, corrupt
from experiments.studies.cifar100_finetune import figures, run, training
from experiments.studies.cifar100_finetune.config import Config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on images of four colours, with a network that has learnt nothing."""
    path = tmp_path_factory.mktemp("finetune")
    # Optax's Adam relies on JAX's usual promotion.
    with jax.numpy_dtype_promotion("standard"):
        run.run(Config.smoke(), path)
    return path


def test_rows_and_curves(folder):
    rows, arrays = record.read_rows(folder), record.read_arrays(folder)
    kaiming, solved, resolved, probed = rows
    assert [row["head"] for row in rows] == [*Config.smoke().heads]
    # The colours are the classes: the solved head knows them before training.
    assert kaiming["initial_test_accuracy"] < 0.8
    assert solved["initial_test_accuracy"] == 1.0
    assert resolved["initial_test_loss"] == solved["initial_test_loss"]
    # Probing trains a zero head, and that alone, before the network.
    assert probed["initial_test_accuracy"] > 0.9 and probed["probe_epochs"] > 0
    assert probed["norm_sq"] > 0
    for row in rows:
        curve = {k: arrays[f"{row['name']}/{k}"] for k in training.Curve._fields}
        np.testing.assert_allclose(curve["epochs"], [0, 1, 2])
        assert np.isnan(curve["train_loss"][0])
        assert np.isfinite(curve["train_loss"][1:]).all()
        assert ((curve["validation_accuracy"] >= 0) & (curve["epochs"] >= 0)).all()
    for row in (kaiming, resolved):
        losses = arrays[f"{row['name']}/train_loss"]
        assert losses[2] < losses[1]


def test_finished_run_is_not_repeated(folder):
    before = (folder / "rows.jsonl").read_bytes()
    run.run(Config.smoke(), folder)
    assert (folder / "rows.jsonl").read_bytes() == before


def test_other_settings_are_refused(folder):
    config = dataclasses.replace(Config.smoke(), epochs=3)
    with pytest.raises(ValueError, match="epochs was 2 and is 3"):
        run.run(config, folder)
    with pytest.raises(ValueError, match="unknown heads nothing; there are kaiming"):
        run.run(dataclasses.replace(config, heads=("nothing",)), folder)


def test_table_compares_with_the_baseline_of_the_same_seed(folder):
    table = figures.draw(folder)
    assert (folder / "table.md").read_text() == table
    assert (folder / "curves.png").stat().st_size > 10_000
    header, _, *lines = figures.make_table(folder).splitlines()
    assert "epochs to Kaiming's best validation loss" in header
    cells = [[x.strip() for x in line.split("|")[1:-1]] for line in lines]
    assert [line[0] for line in cells] == [
        "Kaiming",
        "least squares, cross-validation (GCV), calibrated",
        "zeros, probed by training first",
        "least squares, cross-validation (GCV), calibrated, re-solved every step",
    ]
    first, second, *_ = record.read_rows(folder)
    gain = 100 * (second["test_accuracy"] - first["test_accuracy"])
    points = [x.strip() for x in header.split("|")[1:-1]].index("points above Kaiming")
    assert cells[0][points] == "+0.00"
    assert float(cells[1][points]) == pytest.approx(gain, abs=0.01)


def test_shifted_images_are_measured_as_they_are_and_made_worse(folder):
    for row in record.read_rows(folder):
        assert [*row["shifted"]] == ["clean", "blur", "contrast"]
        assert row["shifted"]["clean"]["accuracy"] == row["test_accuracy"]
        assert row["shifted"]["clean"] == row["calibration"]  # all test images here
        # The temperature was fitted on some of the test images, which are few here.
        assert row["calibration"]["scaled_loss"] < row["test_loss"] + 0.05
    assert "**Test calibration error, %**" in figures.draw(folder)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_the_one_that_its_name_says(name):
    random = np.random.default_rng(0)
    images = random.integers(60, 200, (20, 8, 8, 3)).astype(np.uint8)
    worse = corrupt(images, name)
    assert worse.shape == images.shape and worse.dtype == np.uint8
    change = worse.astype(float) - images
    spread = worse.std((1, 2)).mean() / images.std((1, 2)).mean()
    if name == "noise":
        assert change.std() == pytest.approx(0.08 * 255, rel=0.05)
    elif name == "brightness":
        np.testing.assert_allclose(change, 0.15 * 255, atol=0.51)
    else:
        least, most = {"blur": (0.3, 0.5), "contrast": (0.39, 0.41)}.get(
            name, (0.45, 0.55)
        )
        assert least < spread < most
        np.testing.assert_allclose(worse.mean((1, 2)), images.mean((1, 2)), atol=4)


def test_images_are_balanced_and_apart():
    task, config = run._load("random", None), Config.smoke()
    train, validation = run._draw_images(task, config, 0)
    assert np.bincount(train.labels).tolist() == [8] * 4
    assert np.bincount(validation.labels).tolist() == [4] * 4
    seen = {image.tobytes() for image in train.images}
    assert len(seen) == 32
    assert not any(image.tobytes() in seen for image in validation.images)
    again, _ = run._draw_images(task, config, 0)
    np.testing.assert_array_equal(again.images, train.images)
    other, _ = run._draw_images(task, config, 1)
    assert (other.images != train.images).any()


def test_augmentation_flips_and_shifts(key):
    x = 1 + np.arange(16 * 12 * 12 * 3, dtype=np.float32).reshape(16, 12, 12, 3)
    augmented = np.asarray(jax.jit(training.augment_images)(key, jnp.asarray(x)))
    found = []
    for image, result in zip(x, augmented, strict=True):
        for flip in (False, True):
            padded = np.pad(image[:, ::-1] if flip else image, ((4, 4), (4, 4), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (12, 12, 3))
            matches = (windows[:, :, 0] == result).all((2, 3, 4))
            found += [(flip, *place) for place in np.argwhere(matches).tolist()]
    # Every image is one of the 162 that it can become, and they are not all alike.
    assert len(found) == 16
    assert len(set(found)) > 8
    assert {flip for flip, *_ in found} == {False, True}
