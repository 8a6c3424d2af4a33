"""Each picture shows the numbers that it claims to, on the axes that it was given."""

import ast
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

import lagrange_jax as lj
from lagrange_jax import plots
from tests.heads import solve_norm

solve = jax.jit(solve_norm)


@pytest.fixture
def axes() -> Any:
    return Figure().subplots()


@pytest.fixture(scope="module")
def spectrum():
    features, noise = (jax.random.normal(jax.random.key(i), (60, 5)) for i in (0, 1))
    targets = features[:, :2] + 0.3 * noise[:, :2] + jnp.array([[1.0, 2.0]])
    return jax.jit(lambda *data: lj.decompose(lj.compute_moments(*data)))(
        features, targets
    )


def test_pyplot_is_not_imported():
    sources = [path.read_text() for path in Path(plots.__file__).parent.glob("*.py")]
    statements = [node for text in sources for node in ast.walk(ast.parse(text))]
    names = {s.module for s in statements if isinstance(s, ast.ImportFrom)}
    assert "matplotlib.axes" in names
    assert not names & {"matplotlib", "matplotlib.pyplot"}


@pytest.mark.parametrize("n", [2, 5, 40])
def test_mean_interval_is_students(n):
    values = np.random.default_rng(0).normal(size=(n, 3))
    mean, half = plots.mean_interval(values)
    low, high = stats.t.interval(0.95, n - 1, values.mean(0), stats.sem(values))
    np.testing.assert_allclose(mean - half, low)
    np.testing.assert_allclose(mean + half, high)


def test_one_value_has_no_interval():
    assert np.isnan(plots.mean_interval([[1.0]])[1]).all()


def test_five_curves_have_a_band_and_fewer_are_drawn_each(axes):
    curves = [[1.0, 2.0], [3.0, 6.0], [2.0, 4.0], [1.5, 3.0], [2.5, 5.0]]
    line: Any = plots.plot_band(axes, [0, 1], curves[:2], label="two")
    np.testing.assert_allclose(line.get_ydata(), [2, 4])
    drawn = [np.asarray(one.get_ydata()).tolist() for one in axes.lines[1:]]
    assert drawn == curves[:2] and not axes.collections
    assert axes.get_legend_handles_labels()[1] == ["two"]
    plots.plot_band(axes, [0, 1], curves)
    band: Any = axes.collections[0].get_paths()[0].vertices
    half = stats.t.ppf(0.975, 4) * stats.sem([1.0, 3.0, 2.0, 1.5, 2.5])
    left = band[band[:, 0] == 0, 1]
    np.testing.assert_allclose([left.min(), left.max()], [2 - half, 2 + half])
    assert len(axes.lines) == 4


def test_landscape_has_its_least_loss_at_least_squares(axes, spectrum):
    head = solve(spectrum, 0.7)
    line: Any = plots.plot_norm_landscape(axes, spectrum, head)
    norms, losses = (np.asarray(x, float) for x in line.get_data())
    kernel = np.linalg.solve(spectrum.covariance, spectrum.cross)
    best = norms[losses.argmin()]
    np.testing.assert_allclose(best, (kernel**2).sum(), rtol=0.1)
    np.testing.assert_allclose(
        losses.min(), lj.ridge.ridge_loss(spectrum, 0.0).sum(), rtol=1e-5
    )
    dot: Any = axes.lines[-1]
    assert dot.get_label() == "solved"
    np.testing.assert_allclose(dot.get_xdata(), [0.7], rtol=1e-5)
    on_curve = np.exp(np.interp(np.log(0.7), np.log(norms), np.log(losses)))
    np.testing.assert_allclose(dot.get_ydata(), [on_curve], rtol=0.02)


def test_named_heads_are_told_apart(axes, spectrum):
    heads = [solve(spectrum, norm_sq) for norm_sq in (0.3, 0.7, 1.5)]
    plots.plot_norm_landscape(axes, spectrum, *heads, names=["a", "b", "c"])
    marks: Any = axes.lines[-3:]
    assert [mark.get_label() for mark in marks] == ["a", "b", "c"]
    assert len({mark.get_marker() for mark in marks}) == 3
    assert len({mark.get_color() for mark in marks}) == 3
    with pytest.raises(ValueError, match="a name for each of 3 heads; got 1"):
        plots.plot_norm_landscape(axes, spectrum, *heads, names=["a"])


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ((0.04, 1.2), ["0.05", "0.1", "0.2", "0.5", "1"]),
        ((0.02, 3000.0), ["0.1", "1", "10", "100", "1000"]),
        ((20.0, 70.0), ["20", "30", "40", "50", "60"]),
        ((1e-7, 1e-1), ["0.1"]),
    ],
)
def test_logarithmic_axes_have_plain_numbers(axes, limits, wanted):
    axes.set(yscale="log", ylim=limits)
    plots.plain_log_axes(axes)
    axes.figure.canvas.draw()
    low, high = limits
    ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    shown = [x.get_text() for at, x in ticks if low * 0.999 <= at <= high * 1.001]
    assert {*wanted} <= {*shown}
    assert len(shown) <= 10


@pytest.mark.parametrize("output", [None, 1])
def test_the_root_is_on_the_secular_function(axes, spectrum, output):
    norm_sq: Any = 1.0 if output is None else jnp.array([2.0, 1.0])
    head = solve(spectrum, norm_sq)
    line: Any = plots.plot_secular_function(axes, spectrum, head, output=output)
    x, y = axes.lines[-1].get_data()
    np.testing.assert_allclose(y, [1.0], rtol=1e-5)
    value = np.exp(np.interp(x, line.get_xdata(), np.log(line.get_ydata())))
    np.testing.assert_allclose(value, y, rtol=0.01)
    assert x[0] > -spectrum.eigenvalues[0]


def test_all_roots_are_in_the_picture(axes, spectrum):
    heads = [solve(spectrum, norm_sq) for norm_sq in (0.01, 1.0, 30.0)]
    plots.plot_secular_function(axes, spectrum, *heads)
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), [0.01, 1, 30], rtol=1e-5)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = axes.lines[-1].get_data()
    assert left < min(x) < max(x) < right and bottom < min(y) < max(y) < top


def test_spectrum_is_descending_without_what_is_zero(axes):
    features = jax.random.normal(jax.random.key(0), (30, 3))
    features = jnp.concatenate([features, jnp.zeros((30, 2))], axis=1)
    spectrum = lj.decompose(lj.compute_moments(features, features[:, :1]))
    line: Any = plots.plot_spectrum(axes, spectrum)
    expected = np.sort(np.linalg.eigvalsh(np.cov(features[:, :3].T, bias=True)))
    np.testing.assert_allclose(line.get_ydata(), expected[::-1], rtol=1e-5)
    shares = [bar.get_height() for bar in axes.figure.axes[1].patches]
    np.testing.assert_allclose(sum(shares), 1, rtol=1e-5)  # a feature explains itself


def test_strength_map_follows_the_best_strength(axes):
    strengths, sizes = np.logspace(-4, 0, 9), np.array([10, 100, 1000])
    middle = np.log([1e-1, 1e-2, 1e-4])
    losses = 1 + (np.log(strengths)[:, None] - middle) ** 2
    losses = np.stack([losses, losses], axis=-1)
    losses[0, 0, 0] = np.nan  # diverged
    mesh: Any = plots.plot_strength_map(axes, losses, strengths, sizes)
    assert mesh.get_array().shape == (9, 3)
    np.testing.assert_allclose(mesh.get_array().min(0), 0, atol=1e-12)
    inside, censored = axes.lines
    np.testing.assert_allclose(inside.get_ydata()[:2], [1e-1, 1e-2], rtol=1e-4)
    assert np.isnan(inside.get_ydata()[2])
    np.testing.assert_allclose(censored.get_ydata()[2], 1e-4)


@pytest.mark.parametrize(("count", "labels"), [(3, 3), (6, 6), (14, 5)])
def test_labels_of_sizes_do_not_crowd(axes, count, labels):
    sizes = np.geomspace(8, 3240, count).astype(int)
    losses = np.abs(np.arange(5.0) - 2)[:, None] + np.ones(count)
    plots.plot_strength_map(axes, losses, np.logspace(-4, 0, 5), sizes)
    texts = [label.get_text() for label in axes.get_xticklabels()]
    assert len(texts) == labels and texts[0] == "8"
    assert len(axes.get_xticks(minor=True)) == 0
