"""Every public function with arguments that are not what it takes.

One argument at a time is bent: another rank, length or dtype, text, nothing, NaN,
infinity. What has the wrong shape or is no array is refused in our own words, with the
argument's name; what has the wrong values gives a result.
"""

import traceback
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj

ROOT = str(Path(lj.__file__).parent)
N, D, K = 6, 4, 2


def floats(*values):
    return np.array(values, np.float32)


RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(N, D)).astype(np.float32)
TARGETS = RNG.normal(size=(N, K)).astype(np.float32)
WEIGHTS = np.ones(N, np.float32)
KERNEL = np.ones((D, K), np.float32)
MOMENTS = lj.compute_moments(*map(jnp.asarray, (FEATURES, TARGETS, WEIGHTS)))
SPECTRUM = lj.decompose(MOMENTS)
STRENGTHS = floats(0.1, 1, 10)
LOSSES = RNG.uniform(1, 2, (3, 4, 2)).astype(np.float32)
BEST = lj.best_strength(jnp.asarray(LOSSES), jnp.asarray(STRENGTHS), refine=False)
PARAMS = {"layer": {"kernel": KERNEL, "bias": np.ones(K, np.float32)}}
VARIABLES = {"params": PARAMS}
DATA = dict(features=FEATURES, targets=TARGETS, weights=WEIGHTS)
RIDGE = dict(spectrum=SPECTRUM, strength=floats(0.1, 0.2))
NORM = dict(norm_sq=floats(1, 2), tie_break=KERNEL)


def norm_of(constraint):
    """A constraint is used, not only made."""
    return constraint.norm_sq(SPECTRUM)


def update_of(transform):
    """So is a gradient transform."""
    return transform.update(PARAMS, transform.init(PARAMS), PARAMS)


FUNCTIONS: dict[str, dict[str, Any]] = {
    "choose_strength": dict(spectrum=SPECTRUM),
    "compute_moments": DATA,
    "decompose": dict(moments=MOMENTS),
    "decompose_gram": DATA,
    "degrees_of_freedom": RIDGE,
    "evidence": RIDGE,
    "fit_power_law": dict(sizes=floats(1, 2, 3, 4), best=BEST),
    "best_strength": dict(losses=LOSSES[:, 0], strengths=STRENGTHS),
    "gcv": RIDGE,
    "get_layer": dict(variables=VARIABLES, path=("layer",)),
    "init_moments": dict(d=3, k=2),
    "leave_one_out": {name: DATA[name] for name in ("features", "targets", "weights")},
    "leave_one_out_errors": {**DATA, **RIDGE},
    "merge_moments": dict(a=MOMENTS, b=MOMENTS),
    "negative_log_evidence": RIDGE,
    "norm_of_strength": RIDGE,
    "ridge_loss": RIDGE,
    "ridge_path": dict(spectrum=SPECTRUM, strengths=STRENGTHS),
    "set_layer": dict(variables=VARIABLES, path=("layer",), kernel=KERNEL),
    "solve_least_squares": dict(moments=MOMENTS, **NORM),
    "solve_ridge": RIDGE,
    "solve_spectrum": dict(spectrum=SPECTRUM, **NORM),
    "stationarity": dict(
        covariance=np.eye(D, dtype=np.float32),
        cross=KERNEL,
        kernel=KERNEL,
        multiplier=np.ones((1, K), np.float32),
    ),
    "strength_of_norm": dict(spectrum=SPECTRUM, norm_sq=floats(1, 2)),
    "update_moments": dict(moments=MOMENTS, **DATA),
}
FACTORIES: dict[str, tuple[dict[str, Any], Any]] = {
    "backward_variance": (dict(gain=1.0), norm_of),
    "forward_variance": (dict(gain=1.0), norm_of),
    "glorot_variance": (dict(gain=1.0), norm_of),
    "kaiming_variance": (dict(gain=1.0), norm_of),
    "loss_within": (dict(factor=1.5), norm_of),
    "weight_norm": (dict(norm_sq=floats(1, 2)), norm_of),
    "add_l2_penalty": (dict(strength=0.1), update_of),
    "add_l1_penalty": (dict(strength=0.1), update_of),
    "add_elastic_net_penalty": (dict(strength_l1=0.1, strength_l2=0.1), update_of),
    "prox_l1": (dict(strength=0.1, learning_rate=0.1), update_of),
    "prox_elastic_net": (
        dict(strength_l1=0.1, strength_l2=0.1, learning_rate=0.1),
        update_of,
    ),
    "l1_penalty": (dict(params=PARAMS, strength=0.1), float),
    "l2_penalty": (dict(params=PARAMS, strength=0.1), float),
    "elastic_net_penalty": (
        dict(params=PARAMS, strength_l1=0.1, strength_l2=0.1),
        float,
    ),
}
CASES = {name: (arguments, lambda x: x) for name, arguments in FUNCTIONS.items()}
CASES |= FACTORIES


# Shapes that have a meaning of their own: one number for all outputs, a shorter grid.
ALSO_VALID = {
    ("strength", "rank_down"),
    ("norm_sq", "rank_down"),
    ("strengths", "length"),
    ("params", "nothing"),
    ("params", "array"),
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


def bends(value):
    """Bent forms of a value, `(name, value, whether it must be refused)`."""
    if isinstance(value, np.ndarray):
        for name, bend in (SHAPES | KINDS | VALUES).items():
            yield name, bend(value), name not in VALUES
    elif isinstance(value, int | float):
        for name, bend in (KINDS | VALUES).items():
            yield name, bend(float(value)), name not in VALUES
        yield "array", np.ones((1, 7), np.float32), True
    else:
        yield "object", object(), True
        yield "nothing", None, True
        yield "array", np.ones((2, 2), np.float32), True
        for field in getattr(value, "_fields", ()):
            array = np.asarray(getattr(value, field))
            for name in ("rank_up", "length", "text", "nan"):
                if array.ndim:
                    bent = (SHAPES | KINDS | VALUES)[name](array)
                    yield name, value._replace(**{field: bent}), name != "nan"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*(invalid|divide|overflow)")
def test_bent_arguments_are_refused_by_name_or_served(name):
    arguments, use = CASES[name]
    function = getattr(lj, name)
    use(function(**arguments))
    for argument, value in arguments.items():
        for bend, bent, is_wrong in bends(value):
            what = f"{name}({argument}={bend})"
            try:
                use(function(**{**arguments, argument: bent}))
            except (TypeError, ValueError) as error:
                raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
                assert raised_in.startswith(ROOT), f"{what}: {error}"
                named = (known.split("_")[0] in str(error) for known in arguments)
                assert any(named), f"{what}: {error}"
            else:
                assert not is_wrong or (argument, bend) in ALSO_VALID, what


# What is not fuzzed here, and why.
RECORDS = {name for name, value in vars(lj).items() if isinstance(value, type)}
ELSEWHERE = {
    "JAX's own": "glorot_ he_ lecun_ orthogonal",
    "a model, data or a training function come first; their own tests refuse them": (
        "as_batches chain initialize lagrange lsuv reinitialize make_ run_ "
        "InitTransform negative_mean proximal_adam solve_cross_entropy cross_"
    ),
    "masks and paths, tested in test_masks": "by_path head_only kernels_only",
    "inside a mapped axis only": "all_reduce_moments",
    "over devices and hosts, tested in test_sharding and test_grid": (
        "all_reduce_processes chunk_size_for shard_batch sharded_moments"
    ),
    "results as they are, tested in test_results": "summarize to_ write_csv",
    "reads any pytree": "check",
    "no number is wrong": "strength_to_multiplier multiplier_to_strength",
    "options only": "evidence_norm gcv_norm",
}


def test_every_public_function_is_fuzzed_or_excused():
    excused = tuple(" ".join(ELSEWHERE.values()).split())
    functions = {
        name
        for name, value in vars(lj).items()
        if callable(value) and not name.startswith("_") and name not in RECORDS
    }
    missing = {x for x in functions if x not in CASES and not x.startswith(excused)}
    assert not missing
