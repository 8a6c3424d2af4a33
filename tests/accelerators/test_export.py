"""Every program lowers for every platform: no operation that one of them lacks."""

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


def lower(function, arguments):
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_lower(name):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]), ("data",))
    program = PROGRAMS[name](mesh)
    lower(program.function, program.arguments)


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_lower(name):
    lower(*ENTRIES[name])


def test_every_public_function_is_an_entry():
    packages = ((package, getattr(lj, package)) for package in PACKAGES)
    public = {
        f"{package}.{name}"
        for package, module in packages
        for name in module.__all__
        if name.islower() and callable(getattr(module, name))
    }
    assert public == ENTRIES.keys() | ELSEWHERE
