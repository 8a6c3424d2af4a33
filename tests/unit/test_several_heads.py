"""Class means, several heads from one pass, labels that do not count."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import lagrange_jax as lj
from lagrange_jax.initializers import class_means, heads

WINE: Any = load_wine()
X: Any = np.float32((WINE.data - WINE.data.mean(0)) / WINE.data.std(0))
LABELS: Any = np.int32(WINE.target)
NORM = lj.constraints.fixed_norm(2.0, per_output=False)


class Net(nn.Module):
    """A body with a head for the class and one for two numbers."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.tanh(nn.Dense(6, name="body")(x))
        return {
            "kind": nn.Dense(3, name="kind")(hidden),
            "size": nn.Dense(2, name="size")(hidden),
        }


@pytest.fixture(scope="module")
def models():
    return {
        name: lj.linen.as_model(Net(), X[:2], head=name, output=name)
        for name in ("kind", "size")
    }


@pytest.fixture(scope="module")
def linear():
    return lj.linen.as_model(nn.Dense(3), X[:2])


def logits_of(model, variables, x=X):
    logits = np.asarray(model.apply(variables, x), float)
    return logits - logits[:, :1]


def test_class_means_are_those_of_discriminant_analysis(key, linear):
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(X, LABELS)
    init = class_means("full", log_prior=True)
    variables, info = lj.initialize(key, linear, init, (X, LABELS))
    lj.check(info)
    wanted = oracle.decision_function(X)
    wanted = wanted - wanted[:, :1]
    np.testing.assert_allclose(
        logits_of(linear, variables), wanted, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(info.shares, oracle.priors_, rtol=1e-5)


@pytest.mark.parametrize("covariance", ["identity", "spherical"])
def test_the_nearest_mean_has_the_largest_logit(key, linear, covariance):
    # Rows that do not count hold another class, and one class is absent.
    labels = np.where(np.arange(len(X)) % 7, LABELS, 255).astype(np.uint8)
    labels = np.where(labels == 2, 255, labels)
    init = class_means(covariance, ignore_index=255)
    batches = [(X[i : i + 89], labels[i : i + 89]) for i in (0, 89)]
    variables, info = lj.initialize(key, linear, init, batches)
    lj.check(info)
    means = np.stack([X[labels == c].mean(0) for c in (0, 1)])
    distances = np.sum((X[:, None] - means[None]) ** 2, axis=2)
    found = np.asarray(linear.apply(variables, X))[:, :2].argmax(1)
    np.testing.assert_array_equal(found, distances.argmin(1))
    assert info.shares[2] == 0 and np.isfinite(info.bias).all()


def test_one_output_has_the_difference_of_two_means(key):
    model = lj.linen.as_model(nn.Dense(1), X[:2])
    two = LABELS < 2
    x, labels = X[two], LABELS[two]
    variables, info = lj.initialize(key, model, class_means(), (x, labels))
    lj.check(info)
    means = [x[labels == c].mean(0) for c in (0, 1)]
    nearer = np.sum((x - means[1]) ** 2, 1) < np.sum((x - means[0]) ** 2, 1)
    np.testing.assert_array_equal(model.apply(variables, x)[:, 0] > 0, nearer)


def test_wrong_labels_leave_the_head_alone(key, linear):
    variables, info = lj.initialize(key, linear, class_means(), (X, LABELS + 1))
    assert info.status == lj.Status.INVALID_TARGETS
    jax.tree.map(np.testing.assert_array_equal, dict(variables), dict(linear.init(key)))


def test_several_heads_are_those_solved_one_by_one(key, models):
    sizes = np.float32(X[:, :2] ** 2)
    weights = np.float32(np.arange(len(X)) % 3 > 0)
    transforms: Any = {
        "kind": lj.lagrange(NORM, loss="cross_entropy"),
        "size": lj.lagrange(NORM),
    }
    joint = heads({name: (models[name], init) for name, init in transforms.items()})
    targets: Any = {"kind": LABELS, "size": sizes}
    data = (X, targets, {"size": weights})
    variables, infos = lj.initialize(key, models["kind"], joint, data)
    lj.check(infos)
    single: Any = {"kind": (X, LABELS), "size": (X, sizes, weights)}
    for name, init in transforms.items():
        alone, info = lj.initialize(key, models[name], init, single[name])
        found, wanted = (v["params"][name]["kernel"] for v in (variables, alone))
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(infos[name].objective, info.objective, rtol=1e-5)


def test_the_body_is_computed_once_for_all_heads(key, models):
    """Floating-point operations of the pass, as the compiler counts them."""
    width = 6 * X.shape[1]

    def flops(**inits):
        init = heads({name: (models[name], x) for name, x in inits.items()})
        targets = {name: {"kind": LABELS, "size": X[:, :2]}[name] for name in inits}
        call = lambda key: lj.initialize(key, models["kind"], init, (X, targets))[0]  # noqa: E731
        cost: Any = jax.jit(call).lower(key).compile().cost_analysis()
        return cost["flops"]

    one = [flops(kind=class_means()), flops(size=lj.lagrange(NORM))]
    both = flops(kind=class_means(), size=lj.lagrange(NORM))
    # Each head alone takes the body once for its pass and twice to see that it fits.
    assert both < sum(one) - 2 * width * len(X)


wrong: Any = "diagonal"


class Segmenter(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), name="backbone")(x))
        return nn.Conv(3, (1, 1), name="head")(x)


def test_pixels_are_rows_of_a_flat_problem(key):
    """A frozen backbone, a 1x1 head, labels with holes, images in a stream."""
    random = np.random.default_rng(0)
    images = random.normal(size=(6, 16, 12, 2)).astype(np.float32)
    labels = np.where(images[..., 0] > 0.5, 2, images[..., 1] > 0).astype(np.uint8)
    labels[random.random(labels.shape) < 0.2] = 255
    model = lj.linen.as_model(Segmenter(), images[:1])
    stream = [(images[i : i + 2], labels[i : i + 2]) for i in (0, 2, 4)]
    init = lj.lagrange(NORM, loss="cross_entropy", ignore_index=255)
    variables, info = lj.initialize(key, model, init, stream)
    lj.check(info)
    tap = model.taps(model.init(key), images, key)[model.head]
    rows = np.asarray(tap.inputs).reshape(-1, 5)[labels.ravel() != 255]
    flat = labels.ravel()[labels.ravel() != 255].astype(np.int32)
    head = lj.solve_convex((rows, flat), NORM, num_outputs=3)
    np.testing.assert_allclose(info.objective, head.objective, rtol=1e-5)
    found = variables["params"]["head"]["kernel"].reshape(5, 3)
    np.testing.assert_allclose(found, head.kernel, rtol=1e-2, atol=1e-3)
    kept = variables["params"]["backbone"]["kernel"]
    np.testing.assert_array_equal(kept, model.init(key)["params"]["backbone"]["kernel"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: heads({}), "dictionary"),
        (
            lambda m: heads({"kind": (m["kind"], lj.lsuv())}),
            r"'kind' to have a transform that solves for it",
        ),
        (lambda m: class_means(wrong), "covariance to be one of"),
        (
            lambda m: lj.initialize(
                jax.random.key(0),
                m["kind"],
                heads({"kind": (m["kind"], class_means())}),
                (X, {"other": LABELS}),
            ),
            r"dict of \['kind'\]; got \['other'\]",
        ),
        (
            lambda m: lj.initialize(
                jax.random.key(0), m["kind"], class_means(), (X, {"kind": LABELS})
            ),
            "initializers.heads",
        ),
    ],
)
def test_mistakes_are_named(models, call, message):
    with pytest.raises(ValueError, match=message):
        call(models)
