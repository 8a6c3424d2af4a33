"""What is exported is documented, exact, and in modules of readable size."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import lagrange_jax as lj

ROOT = Path(lj.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "lagrange_jax.")
    if "tfds" not in module.name  # needs an extra
)
EXPORTS = sorted(
    node.asname
    for statement in ast.parse((ROOT / "__init__.py").read_text()).body
    if isinstance(statement, ast.ImportFrom)
    for node in statement.names
    if node.asname
)


def test_there_is_something_to_test():
    assert len(MODULES) > 15 and len(EXPORTS) > 30


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_has_a_docstring(name):
    value = getattr(lj, name)
    if not inspect.isclass(value) and not inspect.isfunction(value):  # an alias
        return
    lines = (inspect.getdoc(value) or "").strip()
    assert lines, name
    generated = f"{name}("  # what NamedTuple and dataclass write by themselves
    assert not lines.startswith(generated), name


IMPORTED = {
    (statement.module, node.name)
    for path in ROOT.rglob("*.py")
    for statement in ast.walk(ast.parse(path.read_text()))
    if isinstance(statement, ast.ImportFrom)
    for node in statement.names
}


@pytest.mark.parametrize("name", MODULES)
def test_all_is_exact(name):
    """What is not promised is private, or shared with another module here."""
    module: Any = importlib.import_module(name)
    if Path(module.__file__).name == "__init__.py":
        return
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, item) for item in module.__all__)
    defined = {
        node.name
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }
    used_here = {item for source, item in IMPORTED if source == name}
    assert defined <= set(module.__all__) | used_here


def test_what_the_package_re_exports_is_in_all_of_its_module():
    for statement in ast.parse((ROOT / "__init__.py").read_text()).body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            if statement.module.startswith("lagrange_jax."):
                module: Any = importlib.import_module(statement.module)
                for node in statement.names:
                    assert node.name in module.__all__, node.name


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.stem)
def test_modules_are_short_and_say_what_they_are(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(source)), "no module docstring"


def test_flax_and_data_are_imported_only_when_asked_for():
    statements = ast.parse((ROOT / "__init__.py").read_text()).body
    imported = {s.module for s in statements if isinstance(s, ast.ImportFrom)}
    assert not imported & {"lagrange_jax.models.linen", "lagrange_jax.models.nnx"}
