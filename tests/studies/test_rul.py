"""The RUL study: its measures, and the smoke run on the real data."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import launch
from experiments.common import curves, record, tables
from experiments.studies.rul import course, figures, metrics, results, signal

DATA = os.environ.get("LAGRANGE_JAX_DATA", "")


def test_nasa_score_by_hand():
    true = np.array([10.0, 10.0, 10.0])
    predicted = np.array([20.0, 10.0, -3.0])
    assert metrics.nasa_score(predicted, true) == pytest.approx(2 * (np.e - 1))
    assert metrics.rmse(predicted, true) == pytest.approx((269 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("target", "epochs"), [(9.0, 0.0), (6.0, 0.5), (4.0, 1.0), (1.0, 3.5), (-1.0, None)]
)
def test_epochs_to_target_are_interpolated(target, epochs):
    losses = np.array([8.0, 4.0, 5.0, 2.0, 0.0])
    found = curves.epochs_to(target, np.array([0, 1, 2, 3, 4.0]), losses)
    assert found == (np.inf if epochs is None else pytest.approx(epochs))


def test_shuffled_batches_see_every_example_once_a_pass():
    batches = curves.shuffled_batches(3, n=20, batch_size=8, num_batches=5)
    assert batches.shape == (5, 8)
    for some in batches.reshape(2, 20):
        np.testing.assert_array_equal(np.sort(some), np.arange(20))
    again = curves.shuffled_batches(3, n=20, batch_size=8, num_batches=5)
    np.testing.assert_array_equal(batches, again)


def make_result(seed, validation, method="kaiming"):
    count = len(validation)
    return results.Result(
        method=method,
        scale=1.0,
        rate=1e-3,
        seed=seed,
        twin="",
        norm_sq=1.0,
        multiplier=np.nan,
        test_rmse=10.0 + seed,
        nasa_score=100.0,
        epochs=np.arange(count, dtype=float),
        validation=np.array(validation),
        train=np.array(validation),
        head=np.zeros((count, 3)),
        spread=np.empty(0),
        distance=np.empty(0),
    )


def test_table_compares_seed_by_seed_and_never_averages_what_was_not_reached():
    curves = {
        "kaiming": [[9.0, 5.0, 4.0], [9.0, 7.0, 6.0], [9.0, 8.0, 7.0]],
        "xavier": [[8.0, 4.0, 1.0], [8.0, 6.0, 3.0], [8.5, 7.0, 3.0]],
        "lecun": [[8.0, 4.0, 1.0], [8.0, 7.0, 6.5], [9.0, 7.0, 5.0]],
        "zero_bias": [[9.0, 2.5, 3.0], [9.0, 4.5, 5.0], [9.0, 5.0, 6.0]],
    }
    table = results.make_table(
        {
            (method, 1.0): [make_result(i, x, method) for i, x in enumerate(some)]
            for method, some in curves.items()
        }
    )
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    cells = {line.split(" | ")[0]: line.split(" | ") for line in lines}
    assert cells["| Kaiming"][6:8] == ["2.00 ± 0.00", "0 ± 0"]
    assert cells["| Xavier"][6:8] == ["1.00 ± 0.00", "50 ± 0"]
    assert cells["| LeCun"][6:8] == ["not reached (1 of 3)"] * 2
    against_zero = [cells[f"| {name}"][9] for name in ("Kaiming", "Xavier")]
    assert against_zero == ["not reached (3 of 3)", "-50 ± 0"]
    # Student's t for 10, 11 and 12: 11 +- 4.303 / sqrt 3.
    assert cells["| Xavier"][-2] == "11.0 ± 2.5"


def test_savings_are_those_to_the_best_loss_of_the_reference_so_far():
    reference = make_result(0, [9.0, 5.0, 6.0, 3.0, 1.0])
    # At 5 after half an epoch of 1, still so of 2; at 3 after 1 epoch of 3; never at 1.
    saved = course.savings(make_result(0, [8.0, 3.0, 2.0, 2.0, 2.0]), reference)
    needed = np.array([0.6, 0.6, 1.0, np.inf])
    np.testing.assert_allclose(saved[1:], 1 - needed / [1, 1, 3, 4])
    nothing_to_save = results.saved(reference, make_result(0, [1.0, 2.0]))
    assert tables.interval([50.0, nothing_to_save], ".0f") == "NaN (1 of 2)"


def test_savings_are_drawn_against_the_norm_by_kind_of_direction():
    def heads(method, norm_sq, *curves):
        some = [make_result(i, x, method) for i, x in enumerate(curves)]
        return [one._replace(norm_sq=norm_sq) for one in some]

    slow, fast, never = [9.0, 5.0, 4.0], [8.0, 4.0, 1.0], [9.0, 8.0, 7.0]
    found = {
        ("kaiming", 1.0): heads("kaiming", 2.0, slow, slow, slow),
        ("lecun", 1.0): heads("lecun", 1.0, never, never, fast),
        ("zero_bias", 1.0): heads("zero_bias", 0.0, fast, fast),
        ("small_random", 1.0): heads("small_random", 0.1, fast, slow, fast),
        ("unconstrained", 1.0): heads("unconstrained", 0.3, slow, slow, slow),
    }
    assert course.draw_mechanism(found, 1.0) is None
    found["loss_within_50", 1.0] = heads("loss_within_50", 0.1, fast)
    figure = course.draw_mechanism(found, 1.0)
    assert figure is not None
    saving, best = (
        {x.get_label(): np.asarray(x.get_xydata()).tolist() for x in ax.lines}
        for ax in figure.axes
    )
    assert saving["solved direction"] == [[0.1, 50.0], [0.3, 0.0]]
    assert saving["random direction, best bias"] == [[0, 50], [0.1, 50]]
    # What is not reached on two of three saves nothing in the median.
    assert saving["random direction, bias zero"] == [[1, 0], [2, 0]]
    assert best["random direction, bias zero"] == [[1, 7**0.5], [2, 2]]


def test_a_stop_leaves_a_table_of_the_seeds_that_both_have():
    one = [9.0, 5.0, 4.0]
    found = {
        ("kaiming", 1.0): [make_result(0, one), make_result(1, one)],
        ("xavier", 1.0): [make_result(i, [8.0, 4.0, 1.0], "xavier") for i in range(3)],
        ("lecun", 1.0): [make_result(0, [9.0, 6.0, 5.0], "lecun")],
    }

    def cells(results_so_far):
        table = results.make_table(results_so_far)
        lines = [line for line in table.splitlines() if line.startswith("| ")]
        return {line.split(" | ")[0]: line.split(" | ") for line in lines}

    xavier = cells(found)["| Xavier"]
    assert xavier[6:9] == ["1.00 / 1.00", "50 / 50", "0"]  # LeCun has one seed yet
    assert xavier[-2] == "11.0 ± 2.5"  # all three
    del found["kaiming", 1.0]
    assert cells(found)["| Xavier"][6:9] == ["", "", "0"]


def test_rates_are_judged_on_the_seeds_that_all_have():
    slow = [make_result(0, [9.0, 5.0]), make_result(1, [9.0, 1.0])]
    fast = [make_result(0, [9.0, 4.0])]
    assert results._best_rate([slow, fast]) is fast
    assert results._best_rate([fast, [make_result(1, [9.0, 3.0])]])[0].seed == 1


def test_gains_are_ratios_of_variances():
    random = np.random.default_rng(0)
    features, head = random.normal(size=(5000, 3)), np.array([[0.3, -0.4, 1.2, 7.0]])
    outputs = features @ head[0, :3] + 7
    spread = np.array([[outputs.var(), features.var(0).mean()]])
    one = make_result(0, [1.0])._replace(head=head, spread=spread)
    assert signal.forward_gain(one) == pytest.approx([1.69], rel=0.05)
    # d loss / d feature = (d loss / d output) times the weight.
    back = random.normal(size=(5000, 1)) * head[:, :3]
    expected = (back**2).mean() / (back[:, 0] ** 2).mean() * 0.09
    assert signal.backward_gain(one) == pytest.approx([expected], rel=0.05)


def test_missing_data_are_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    arguments = ["rul", "--smoke", "--out", str(tmp_path / "run")]
    assert launch.main([*arguments, "--data-dir", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_unknown_method_is_named(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert launch.main(["rul", "--smoke", "methods=kaimin", "--out", out]) == 2
    assert "unknown methods kaimin; there are kaiming" in capsys.readouterr().err


@pytest.mark.skipif(
    not Path(DATA, "cmapss").is_dir(),
    reason="LAGRANGE_JAX_DATA names no folder with cmapss/",
)
def test_smoke_run_is_recorded_resumed_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    out = tmp_path / "run"
    arguments = ["rul", "--smoke", "--out", str(out), "--data-dir", DATA]
    with jax.numpy_dtype_promotion("standard"):  # for Optax's Adam
        assert launch.main(arguments) == 0
    assert "1/2 kaiming" in capsys.readouterr().out

    rows = record.read_rows(out)
    kaiming, lagrange = (results.read_results(out)[x["method"], 125.0] for x in rows)
    assert lagrange[0].norm_sq == pytest.approx(1, rel=1e-5)
    # The head is the least-squares one: far better than random before training.
    assert lagrange[0].train[0] < 0.3 * kaiming[0].train[0]
    assert kaiming[0].validation.min() < 0.5 * kaiming[0].validation[0]
    assert lagrange[0].head.shape == (len(lagrange[0].epochs), 101)
    # The norm of "forward =" is 1, and its features are far from independent.
    assert signal.backward_gain(lagrange[0])[0] == pytest.approx(0.01, rel=1e-5)
    assert 0.01 < signal.forward_gain(lagrange[0])[0] < 100

    assert launch.main(arguments) == 0  # nothing is run again
    assert record.read_rows(out) == rows
    drawn = [out / name for name in ("curves.png", "weights.png", "norm.png")]
    for path in drawn:
        path.unlink()
    assert figures.draw(out) == (out / "table.md").read_text()
    assert all(path.stat().st_size > 10_000 for path in drawn)
