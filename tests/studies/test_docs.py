"""Everything that is promised has its place in the API reference, and formulas draw."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import lagrange_jax as lj

ROOT = Path(lj.__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_extensions"))

api_pages = importlib.import_module("api_pages")
mathml = importlib.import_module("mathml")

PACKAGES = [path.parent.name for path in Path(lj.__file__).parent.glob("*/__init__.py")]
PROMISED = {
    (package, name)
    for package in PACKAGES
    for name in importlib.import_module(f"lagrange_jax.{package}").__all__
}


def test_every_package_has_a_page():
    assert {*PACKAGES} <= {*api_pages.PAGES}
    index = (DOCS / "api" / "index.md").read_text()
    assert all(f"\n{page}\n" in index for page in api_pages.PAGES)


@pytest.mark.parametrize("page", api_pages.PAGES)
def test_a_page_has_what_the_package_promises(page):
    found = [name for names in api_pages.promised_by(page).values() for name in names]
    promised = {name for package, name in PROMISED if package == page}
    assert promised <= {*found}
    text = api_pages.make_page(page)
    assert all(re.search(rf"\b{name}\b", text) for name in promised)


def test_the_readme_names_what_there_is():
    """Each chapter in the table of names, and no name that is gone."""
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `lj\.(\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert {page for page, _ in rows} == {*api_pages.PAGES} - {"numerics", "types"}
    for page, cells in rows:
        for name in re.findall(r"`([\w.]+)`", cells):
            head, _, rest = name.partition(".")
            owner = getattr(lj, head) if rest else getattr(lj, page)
            assert hasattr(owner, rest or head), name


def formulas() -> list[tuple[str, bool]]:
    """Returns the formulas of pages and docstrings, and whether they are blocks."""
    paths = [*DOCS.rglob("*.md"), *(ROOT / "experiments").rglob("*.md")]
    paths += (ROOT / "lagrange_jax").rglob("*.py")
    found = set()
    for path in paths:
        text = path.read_text()
        found |= {(x, True) for x in re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)}
        text = re.sub(r"\$\$(.+?)\$\$", "", text, flags=re.DOTALL)
        found |= {(x, False) for x in re.findall(r"\$([^$\n`]+?)\$", text)}
        found |= {(x, False) for x in re.findall(r":math:`(.+?)`", text, re.DOTALL)}
    return sorted(found)


def test_every_formula_is_drawn_without_a_network():
    found = formulas()
    assert len(found) > 200
    for latex, is_block in found:
        element = mathml.to_mathml(latex, is_block=is_block)
        assert element.startswith("<math") and element.rstrip().endswith("</math>")
