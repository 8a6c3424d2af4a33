"""Every program lowers for every platform: no operation that one of them lacks."""

import jax
import numpy as np
import pytest

from experiments.benchmarks.programs import PROGRAMS

PLATFORMS = ("tpu", "cuda", "rocm")


@pytest.fixture(scope="module")
def mesh():
    return jax.sharding.Mesh(np.asarray(jax.devices()[:4]), ("data",))


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_lowers(mesh, name, platform):
    program = PROGRAMS[name](mesh)
    lower = jax.export.export(jax.jit(program.function), platforms=[platform])
    assert lower(*program.arguments).platforms == (platform,)
