"""Every program lowers for every platform: no operation that one of them lacks."""

import re

import jax
import numpy as np
import pytest

import lagrange_jax as lj
from experiments.benchmarks.programs import PROGRAMS
from tests.accelerators.entries import ELSEWHERE, ENTRIES

PLATFORMS = ("tpu", "cuda", "rocm")
PACKAGES = (
    "statistics ridge losses solvers constraints transforms distributed initializers "
    "training strengths"
).split()


# What is computed to full precision whatever the platform's default.
EXACT = {"statistics", "ridge", "losses", "solvers", "constraints", "strengths"}
NETWORKS = {"strengths.negative_log_laplace_evidence"}


def lower(function, arguments):
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    return exported.mlir_module()


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_lower(name):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]), ("data",))
    program = PROGRAMS[name](mesh)
    lower(program.function, program.arguments)


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_lower(name):
    text = lower(*ENTRIES[name])
    if name.split(".")[0] in EXACT and name not in NETWORKS:
        products = re.findall(r"stablehlo.dot_general .*", text)
        assert all("HIGHEST, HIGHEST" in product for product in products)


def test_every_public_function_is_an_entry():
    packages = ((package, getattr(lj, package)) for package in PACKAGES)
    public = {
        f"{package}.{name}"
        for package, module in packages
        for name in module.__all__
        if name.islower() and callable(getattr(module, name))
    }
    named = ENTRIES.keys() | ELSEWHERE
    assert public == named, f"in entries.py: {sorted(public ^ named)}"
