"""The Python of the README and of CONTRIBUTING is run, not only shown."""

import importlib
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md")
PACKAGES = re.findall(r"`lj\.(\w+)` \|", (ROOT / "README.md").read_text())


def _names() -> dict[str, Any]:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(96, 12)).astype(np.float32)
    targets = np.eye(10, dtype=np.float32)[random.integers(0, 10, 96)]
    spectrum = lj.decompose(lj.compute_moments(*map(jnp.asarray, (inputs, targets))))
    return {
        "inputs": inputs,
        "features": inputs,
        "targets": targets,
        "spectrum": spectrum,
    }


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run_in_order(page):
    names = _names()
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL
    )
    assert len(blocks) >= 2
    # A page is written for JAX as it comes, without the tests' strictness.
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for block in blocks:
            exec(compile(block, page, "exec"), names)
    assert names["variables"]["params"]


@pytest.mark.parametrize("page", (*PAGES, "CHANGELOG.md"))
def test_links_lead_somewhere(page):
    targets = set(re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()))
    missing = {x for x in targets if not (x.startswith("http") or (ROOT / x).exists())}
    assert targets and not missing


@pytest.mark.parametrize("package", PACKAGES)
def test_table_of_names_is_whole(package):
    """Functions; the types that they take and return stand in the reference."""
    (row,) = re.findall(
        rf"^\|.*\| `lj\.{package}` \|(.*)\|$", (ROOT / "README.md").read_text(), re.M
    )
    told = {x for x in re.findall(r"`([\w.]+)`", row) if "." not in x}
    public = importlib.import_module(f"lagrange_jax.{package}").__all__
    functions = {x for x in public if x.islower()}
    assert functions <= told <= {*public}
