"""The README's Python is run, not only shown."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def _names() -> dict[str, Any]:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(96, 12)).astype(np.float32)
    targets = np.eye(10, dtype=np.float32)[random.integers(0, 10, 96)]
    return {"inputs": inputs, "targets": targets}


def test_there_is_code():
    assert len(BLOCKS) >= 2


def test_blocks_run_in_order():
    names = _names()
    # A README is written for JAX as it comes, without the tests' strictness.
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for block in BLOCKS:
            exec(compile(block, str(README), "exec"), names)
    assert names["variables"]["params"]


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"\]\(([^)#]+)", README.read_text())))
)
def test_links_lead_somewhere(target):
    assert target.startswith("http") or (README.parent / target).exists()
