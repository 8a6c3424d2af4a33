"""Every public function with arguments that are not what it takes.

One argument at a time is bent: another rank, length or dtype, text, nothing, NaN,
infinity. What has the wrong shape or is no array is refused in our own words, with the
argument's name; what has the wrong values gives a result.
"""

import importlib
import itertools
import traceback
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lagrange_jax as lj

ROOT = str(Path(lj.__file__).parent)
N, D, K = 8, 4, 2
KEY = jax.random.key(0)


def floats(*values):
    return np.array(values, np.float32)


RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(N, D)).astype(np.float32)
TARGETS = RNG.normal(size=(N, K)).astype(np.float32)
CLASSES = np.eye(K, dtype=np.float32)[np.arange(N) % K]
WEIGHTS = np.ones(N, np.float32)
KERNEL = np.ones((D, K), np.float32)
MOMENTS = lj.compute_moments(*map(jnp.asarray, (FEATURES, TARGETS, WEIGHTS)))
SPECTRUM = lj.decompose(MOMENTS)
STRENGTHS = floats(0.1, 1, 10)
SIZES = np.array([4, 8])
LOSSES = RNG.uniform(1, 2, (3, 4, 2)).astype(np.float32)
BEST = lj.best_strength(jnp.asarray(LOSSES), jnp.asarray(STRENGTHS), refine=False)
PARAMS = {"layer": {"kernel": KERNEL, "bias": np.ones(K, np.float32)}}
VARIABLES = {"params": PARAMS}
MESH = lj.training.grid_mesh()
RESULT = lj.GridResult({"strength": STRENGTHS}, {"loss": LOSSES[:, 0, 0]})
INIT = lj.lagrange(lj.constraints.fixed_norm(1.0))


def linear(variables, inputs):
    """The inputs may be complex, as those of any network; the features are real."""
    layer = variables["params"]["layer"]
    return jnp.real(inputs) @ layer["kernel"] + layer["bias"][None]


def tap(variables, inputs, key) -> dict[Any, lj.types.Tap]:
    return {("layer",): lj.types.Tap(jnp.real(inputs), linear(variables, inputs))}


LINEAR = lj.Model(
    init=lambda key: jax.tree.map(jnp.asarray, VARIABLES),
    apply=linear,
    apply_train=lambda variables, inputs, key: (linear(variables, inputs), variables),
    taps=tap,
    layers=(("layer",),),
    head=("layer",),
)
MLP = lj.linen.as_model(
    nn.Sequential([nn.Dense(3), nn.tanh, nn.Dense(K)]), jnp.asarray(FEATURES)
)


# What is made is used as well, and data are given part by part.


def norm_of(constraint):
    return constraint.radius_sq(lj.constraints.Problem(SPECTRUM))


def update_of(transform):
    return transform.update(PARAMS, transform.init(PARAMS), PARAMS)


def kernel_of(initializer):
    return initializer(KEY, (D, K))


def head_of(init):
    return lj.initialize(KEY, LINEAR, init, (FEATURES, TARGETS))


def traced(train):
    return jax.eval_shape(train, KEY, 0.1, 4)


def total(data, batch_size):
    batches = lj.batches.as_batches(data, batch_size)
    return batches.fold(lambda x, batch: x + batch.targets.sum(), jnp.zeros(()))


PUBLIC = {
    name: value
    for path in (Path(lj.__file__).parent).glob("*/__init__.py")
    for package in [importlib.import_module(f"lagrange_jax.{path.parent.name}")]
    for name in package.__all__
    for value in [getattr(package, name)]
    if path.parent.name not in ("datasets", "plots", "numerics")
}


def used(name, use, **fixed):
    return lambda **options: use(PUBLIC[name](**options, **fixed))


def on_data(function):
    def call(inputs, targets, weights=None, **options):
        return function((inputs, targets, weights), **options)

    return call


def run_grid(strength_axis, num_axis, key_axis, **options):
    axes = {"strength": strength_axis, "num_examples": num_axis, "key": key_axis}
    return lj.run_grid(member, axes, **options)


def initialize(data, key, model, init, **options):
    return lj.initialize(key, model, init, data, **options)


def trace_train(data, **options):
    return traced(lj.make_train(data=data, **options))


def path_on_data(data, validation, **options):
    return lj.solvers.convex_path(data, validation=(validation, CLASSES), **options)


def solve_on_data(data, norm_sq, relation, **options):
    constraint = lj.constraints.fixed_norm(norm_sq, per_output=False, relation=relation)
    return lj.solve_convex(data, constraint, **options)


def searched(use):
    """Options of the search and of the loss, given one by one."""

    def call(*data, label_smoothing, tolerance, max_steps, batch_size, **options):
        return use(
            *data,
            loss=lj.losses.softmax(label_smoothing=label_smoothing),
            search=lj.solvers.SearchOptions(tolerance, max_steps, batch_size),
            **options,
        )

    return call


def member(key, strength, num_examples):
    return jnp.real(strength) * jnp.real(num_examples).astype(float)


DATA = dict(features=FEATURES, targets=TARGETS, weights=WEIGHTS)
EXAMPLES = dict(inputs=FEATURES, targets=TARGETS, weights=WEIGHTS)
CLASSIFIED = dict(inputs=FEATURES, targets=CLASSES, weights=WEIGHTS)
RIDGE = dict(spectrum=SPECTRUM, strength=floats(0.1, 0.2))
NORM = dict(norm_sq=floats(1, 2), tie_break=KERNEL)
SEARCH: dict[str, Any] = dict(
    num_outputs=K,
    relation="at_most",
    label_smoothing=0.1,
    tolerance=0.1,
    max_steps=9,
    batch_size=4,
)
FIT = dict(
    loss_fn=optax.losses.squared_error,
    optimizer_fn=optax.sgd,
    init=INIT,
    num_epochs=2,
    batch_size=4,
    record_every=1,
    eval_batch_size=4,
)
AXES = dict(strength_axis=STRENGTHS, num_axis=SIZES, key_axis=jax.random.split(KEY, 2))
ELASTIC = dict(strength_l1=0.1, strength_l2=0.1)

FUNCTIONS: dict[str, dict[str, Any]] = {
    "all_reduce_processes": dict(moments=MOMENTS),
    "best_strength": dict(losses=LOSSES[:, 0], strengths=STRENGTHS),
    "choose_strength": dict(spectrum=SPECTRUM),
    "compute_moments": DATA,
    "cross_validated_norm": dict(
        norm_sq=floats(1, 2, 4), num_folds=2, relation="at_most"
    ),
    "decompose": dict(moments=MOMENTS),
    "decompose_gram": DATA,
    "degrees_of_freedom": RIDGE,
    "elastic_net_penalty": dict(params=PARAMS, **ELASTIC),
    "evidence": RIDGE,
    "fit_power_law": dict(sizes=floats(1, 2, 3, 4), best=BEST),
    "gcv": RIDGE,
    "get_layer": dict(variables=VARIABLES, path=("layer",)),
    "init_moments": dict(d=3, k=2),
    "l1_penalty": dict(params=PARAMS, strength=0.1),
    "l2_penalty": dict(params=PARAMS, strength=0.1),
    "leave_one_out": DATA,
    "leave_one_out_errors": {**DATA, **RIDGE},
    "merge_moments": dict(a=MOMENTS, b=MOMENTS),
    "negative_log_evidence": RIDGE,
    "norm_of_strength": RIDGE,
    "ridge_loss": RIDGE,
    "ridge_path": dict(spectrum=SPECTRUM, strengths=STRENGTHS),
    "set_layer": dict(variables=VARIABLES, path=("layer",), kernel=KERNEL),
    "sharded_moments": dict(**DATA, mesh=MESH),
    "solve_least_squares": dict(
        data=MOMENTS, constraint=lj.constraints.fixed_norm(1.0), tie_break=KERNEL
    ),
    "posterior": RIDGE,
    "residual_spectrum": dict(spectrum=SPECTRUM, kernel=KERNEL),
    "solve_ridge": RIDGE,
    "subtract_moments": dict(whole=MOMENTS, part=MOMENTS),
    "strength_of_norm": dict(spectrum=SPECTRUM, norm_sq=floats(1, 2)),
    "to_xarray": dict(result=RESULT),
    "update_moments": dict(moments=MOMENTS, **DATA),
}
FACTORIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "add_elastic_net_penalty": (update_of, ELASTIC),
    "add_l1_penalty": (update_of, dict(strength=0.1)),
    "add_l2_penalty": (update_of, dict(strength=0.1)),
    "at_strength": (
        norm_of,
        dict(criterion="gcv", relation="at_most", metric="euclidean"),
    ),
    "lagrange": (
        head_of,
        dict(constraint=lj.constraints.fixed_norm(1.0), loss="squared_error"),
    ),
    "loss_within": (norm_of, dict(factor=1.5)),
    "lsuv": (head_of, dict(kernel_init=jax.nn.initializers.orthogonal(), std=1.0)),
    "negative_mean": (kernel_of, dict(scale=8.0, std=0.1)),
    "prox_elastic_net": (update_of, dict(**ELASTIC, learning_rate=0.1)),
    "prox_l1": (update_of, dict(strength=0.1, learning_rate=0.1)),
    "proximal_adam": (update_of, dict(**ELASTIC, learning_rate=0.1)),
    "reinitialize": (head_of, dict(kernel_init=jax.nn.initializers.orthogonal())),
    "variance_scaling": (norm_of, dict(scale=1.0, mode="fan_in", metric="euclidean")),
    "to_rows": (list, dict(result=RESULT)),
    "fixed_norm": (norm_of, dict(norm_sq=floats(1, 2))),
}
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "as_batches": (on_data(total), dict(**EXAMPLES, batch_size=4)),
    "chain": (lambda transform: head_of(lj.chain(transform)), dict(transform=INIT)),
    "convex_path": (
        on_data(searched(path_on_data)),
        dict(**CLASSIFIED, validation=FEATURES, norm_sq=floats(1), **SEARCH),
    ),
    "initialize": (
        on_data(initialize),
        dict(**EXAMPLES, key=KEY, model=LINEAR, init=INIT, eval_batch_size=4),
    ),
    "initialize on a mesh": (
        on_data(initialize),
        dict(
            **EXAMPLES, key=KEY, model=LINEAR, init=INIT, mesh=MESH, eval_batch_size=4
        ),
    ),
    "lagrange of classes": (
        searched(lj.lagrange),
        dict(label_smoothing=0.1, tolerance=0.1, max_steps=9, batch_size=4),
    ),
    "mlp_objective": (
        lambda **options: lj.training.mlp_objective(**options),
        dict(model=MLP, loss_fn=optax.losses.squared_error, activation=nn.tanh),
    ),
    "make_train": (
        on_data(trace_train),
        dict(**EXAMPLES, model=LINEAR, **FIT),
    ),
    "run_grid": (
        run_grid,
        dict(**AXES, vmap_axes=("key",), mesh=MESH, chunk_size=8, memory_limit=1e6),
    ),
    "shard_batch": (on_data(lj.distributed.shard_batch), dict(**EXAMPLES, mesh=MESH)),
    "solve_convex": (
        on_data(searched(solve_on_data)),
        dict(**CLASSIFIED, norm_sq=1.0, tie_break=KERNEL, **SEARCH),
    ),
}


CASES = {name: (PUBLIC[name], given) for name, given in FUNCTIONS.items()}
CASES |= {name: (used(name, use), given) for name, (use, given) in FACTORIES.items()}
CASES |= CALLS


# Shapes that have a meaning of their own: one number for all outputs, a shorter grid.
ALSO_VALID = {
    ("strength", "rank_down"),
    ("norm_sq", "rank_down"),
    ("strengths", "length"),
    ("params", "nothing"),
    ("params", "array"),
    ("inputs", "complex"),
    ("init", "nothing"),
    ("mesh", "nothing"),
    ("vmap_axes", "nothing"),
    ("constraint", "nothing"),
    ("kernel_init", "nothing"),
    ("key_axis", "array"),
    *itertools.product(("strength_axis", "num_axis"), ("rank_up", "length", "complex")),
}
SHAPES = {"rank_up": lambda a: a[None], "rank_down": lambda a: a[0],
          "length": lambda a: a[:-1]}  # fmt: skip
KINDS = {
    "text": lambda a: "text",
    "text_array": lambda a: np.full(np.shape(a), "text"),
    "object": lambda a: object(),
    "complex": lambda a: np.asarray(a, np.complex64),
}
VALUES = {
    "nan": lambda a: np.full_like(a, np.nan),
    "infinity": lambda a: np.full_like(a, np.inf),
    "negative": lambda a: np.negative(a),
}


def bends(value: Any):
    """Bent forms of a value, `(name, value, whether it must be refused)`."""
    if isinstance(value, np.ndarray):
        values = VALUES if np.issubdtype(value.dtype, np.floating) else {}
        for name, bend in (SHAPES | KINDS | values).items():
            yield name, bend(value), name not in VALUES
        yield "lists", value.tolist(), False
    elif isinstance(value, int):  # a number of something
        for name, bend in (KINDS | VALUES).items():
            yield name, bend(float(value)), True
        yield "zero", 0, True
        yield "array", np.ones((1, 7), np.float32), True
    elif isinstance(value, float):
        for name, bend in KINDS.items():
            yield name, bend(value), True
        for name, bend in VALUES.items():
            yield name, float(bend(value)), False
        yield "array", np.ones((1, 7), np.float32), True
    else:
        yield "object", object(), True
        yield "nothing", None, True
        yield "array", np.ones((2, 2), np.float32), True
        if isinstance(value, str):
            yield "text", "text", True
            return
        for field in getattr(value, "_fields", ()):
            array = getattr(value, field)
            if isinstance(array, jax.Array) and array.ndim:
                for name in ("rank_up", "length", "text", "nan"):
                    bent = (SHAPES | KINDS | VALUES)[name](np.asarray(array))
                    yield name, value._replace(**{field: bent}), name != "nan"


# Results that are NumPy's, or made of loops on the host: they are run and not traced.
ON_HOST = {"run_grid", "to_rows", "to_xarray"}


def trace(name: str, call: Any, arguments: dict[str, Any]) -> Any:
    """Traces a call: all checks are made on the values, and nothing is compiled."""
    if name in ON_HOST:
        return call(**arguments)

    def arrays():
        leaves = jax.tree.leaves(call(**arguments))
        return [x for x in leaves if isinstance(x, jax.Array)]

    return jax.eval_shape(arrays)


@pytest.fixture
def all_frames():
    """Else what is raised in JAX seems to be raised where we call it."""
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", "auto")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("all_frames")
@pytest.mark.filterwarnings("ignore:.*(invalid|divide|overflow)")
def test_bent_arguments_are_refused_by_name_or_served(name):
    call, arguments = CASES[name]
    trace(name, call, arguments)
    for argument, value in arguments.items():
        for bend, bent, is_wrong in bends(value):
            what = f"{name}({argument}={bend})"
            try:
                trace(name, call, {**arguments, argument: bent})
            except (TypeError, ValueError) as error:
                raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
                assert raised_in.startswith(ROOT), f"{what}: {error}"
                names = [*arguments, *(["moments"] if "data" in arguments else [])]
                named = (known.split("_")[0] in str(error) for known in names)
                assert any(named), f"{what}: {error}"
            else:
                assert not is_wrong or (argument, bend) in ALSO_VALID, what


# What is not fuzzed here, and why.
RECORDS = {name for name, value in PUBLIC.items() if isinstance(value, type)}
ELSEWHERE = {
    "JAX's own": "glorot_ he_ lecun_ orthogonal",
    "read any tree, and a pattern or a path": "by_path head_only kernels_only",
    "take devices as they are": "grid_mesh",
    "take nothing": "disable_scheduler",
    "take functions and optimisers": "make_objective with_penalty",
    "an inner step, of cross_validated_norm": "choose_norm",
    "losses, tested with theirs": "from_function gaussian huber ordinal poisson "
    "quantile sigmoid softmax squared_error ordinal_thresholds",
    "as get_layer and set_layer": "get_head set_head",
    "as lagrange": "zero_head",
    "without arguments": "disable_scheduler",
    "have refusals of their own": "choose_without_validation stein_risk",
    "have tests of their refusals": "convert_strength extrapolate_strength loss_curves "
    "class_means heads kernel_covariance laplace predict predict_logits "
    "negative_log_laplace_evidence resolve_head resolved_objective",
    "inside a mapped axis only": "all_reduce_moments",
    "writes what to_rows yields": "write_csv",
    "read any pytree": "check summarize",
    "a type": "InitTransform",
    "no number is wrong": "is_usable strength_to_multiplier multiplier_to_strength",
}


def test_every_public_function_is_fuzzed_or_excused():
    excused = " ".join(ELSEWHERE.values()).split()
    functions = {
        name
        for name, value in PUBLIC.items()
        if callable(value) and name not in RECORDS
    }
    fuzzed = {name.split()[0] for name in CASES}
    prefixes = tuple(name for name in excused if name.endswith("_"))
    unknown = functions - fuzzed - set(excused)
    assert not {name for name in unknown if not name.startswith(prefixes)}
    assert not fuzzed & set(excused)
