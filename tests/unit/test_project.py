"""What is written in two places is the same in both."""

import re
import tomllib
from pathlib import Path

import pytest

import lagrange_jax as lj

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_cited_and_has_its_section_in_the_changelog():
    citation = (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {lj.__version__}\n" in citation
    dated = re.search(r"^## \[(.+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert dated and dated[1] == lj.__version__
    assert f"\ndate-released: {dated[2]}\n" in citation


def test_pre_commit_pins_the_linters_of_the_project():
    pins = set(PROJECT["dependency-groups"]["lint"])
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    used = set(re.findall(r'additional_dependencies: \["(.+?)"\]', hooks))
    assert used and used <= pins


@pytest.mark.parametrize(
    "group", [PROJECT["project"]["dependencies"], PROJECT["dependency-groups"]["test"]]
)
def test_there_are_lower_bounds_and_no_upper_ones(group):
    assert all(">=" in one and "<" not in one and "==" not in one for one in group)
