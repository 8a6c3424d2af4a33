"""What is exported is documented, exact, and in modules of readable size."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

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
    if not callable(value):  # an alias says what it is in its module
        return
    lines = (inspect.getdoc(value) or "").strip()
    assert lines, name
    generated = f"{name}("  # what NamedTuple and dataclass write by themselves
    assert not lines.startswith(generated), name


@pytest.mark.parametrize("name", MODULES)
def test_all_is_exact(name):
    """`__all__` is sorted, real, and holds what other code is meant to use."""
    module = importlib.import_module(name)
    if Path(module.__file__ or "").name == "__init__.py":
        return
    exported = module.__all__
    assert exported == sorted(exported), "not sorted"
    defined = {
        node.name
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }
    assert set(exported) >= defined, defined - set(exported)
    assert all(hasattr(module, item) for item in exported)


def test_what_the_package_re_exports_is_in_all_of_its_module():
    for statement in ast.parse((ROOT / "__init__.py").read_text()).body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            if statement.module.startswith("lagrange_jax."):
                module = importlib.import_module(statement.module)
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
    assert not imported & {"lagrange_jax.linen", "lagrange_jax.nnx"}
