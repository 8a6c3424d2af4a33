"""Every public module has its place in the API reference."""

import importlib
import re
from pathlib import Path

import pytest

import lagrange_jax as lj

DOCS = Path(__file__).parents[2] / "docs"
PAGES = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
DOCUMENTED = re.findall(r"automodule:: ([\w.]+)", PAGES)
PROMISED = {
    (package, name)
    for path in Path(lj.__file__).parent.glob("*/__init__.py")
    for package in [f"lagrange_jax.{path.parent.name}"]
    for name in importlib.import_module(package).__all__
}
EXPORTING = sorted(
    {getattr(importlib.import_module(p), n).__module__ for p, n in PROMISED}
)


def test_no_module_is_documented_twice():
    assert len(DOCUMENTED) == len(set(DOCUMENTED)) > 20


@pytest.mark.parametrize("module", EXPORTING)
def test_what_is_exported_is_in_the_reference(module):
    assert module in DOCUMENTED, f"add automodule:: {module} to a page of docs/api"


@pytest.mark.parametrize(
    "page", sorted((DOCS / "api").glob("*.md")), ids=lambda x: x.stem
)
def test_pages_are_in_the_index(page):
    assert (
        page.stem == "index"
        or f"\n{page.stem}\n" in (DOCS / "api" / "index.md").read_text()
    )
