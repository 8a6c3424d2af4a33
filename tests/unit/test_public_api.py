"""What a package promises is documented and exact, and imports run one way."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lagrange_jax as lj

ROOT = Path(lj.__file__).parent
# Floors of the house: a room imports from those named before it, and from itself.
FLOORS = (
    "types",
    "_checks",
    "_compile",
    "_progress",
    "_passes",
    "numerics",
    "batches",
    "statistics",
    "bounds",
    "ridge",
    "losses",
    "solvers",
    "constraints",
    "transforms",
    "models",
    "distributed",
    "initializers",
    "training",
    "strengths",
    "datasets",
    "plots",
)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "lagrange_jax.")
    if "tfds" not in module.name  # needs an extra
)
PACKAGES = [
    f"lagrange_jax.{path.name}"
    for path in sorted(ROOT.iterdir())
    if path.is_dir()
    if (path / "__init__.py").exists()
]
EXPORTS = [
    (package, name)
    for package in ["lagrange_jax", *PACKAGES]
    for name in importlib.import_module(package).__all__
]


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    """Returns the modules of this library that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "lagrange_jax":
                found |= {f"lagrange_jax.{name.name}" for name in node.names}
            elif node.module.startswith("lagrange_jax."):
                found.add(node.module)
    return found


def test_there_is_something_to_test():
    assert len(MODULES) > 40 and len(PACKAGES) > 8 and len(EXPORTS) > 80


def test_every_room_has_a_floor():
    rooms = {room_of(name) for name in MODULES}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=str)
def test_no_import_runs_up(path):
    if path == ROOT / "__init__.py":
        return
    room = path.relative_to(ROOT).with_suffix("").parts[0]
    for module in imports_of(path):
        assert FLOORS.index(room_of(module)) <= FLOORS.index(room), module


def test_only_the_adapters_import_flax():
    """Whoever uses no network need not have it loaded."""
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or node.names[0].name]
        if name.split(".")[0] == "flax"
    }
    owned = {"models/_nnx_sites.py"}
    assert importing <= {"models/linen.py", "models/nnx.py", *owned}


def test_what_is_heavy_is_imported_where_it_is_used():
    heavy = {"flax", "matplotlib", "orbax", "pandas", "scipy.optimize", "scipy.stats"}
    heavy |= {"scipy.special", "sklearn", "tensorflow_datasets", "xarray"}
    code = f"import sys, lagrange_jax; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("package, name", EXPORTS)
def test_every_export_has_a_docstring(package, name):
    value = getattr(importlib.import_module(package), name)
    if not inspect.isclass(value) and not inspect.isfunction(value):  # an alias
        return
    lines = (inspect.getdoc(value) or "").strip()
    assert lines, name
    generated = f"{name}("  # what NamedTuple and dataclass write by themselves
    assert not lines.startswith(generated), name


@pytest.mark.parametrize("package", ["lagrange_jax", *PACKAGES])
def test_what_a_package_imports_it_promises(package):
    module: Any = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    statements = ast.parse(Path(module.__file__).read_text()).body
    imported = {
        node.name
        for statement in statements
        if isinstance(statement, ast.ImportFrom)
        and str(statement.module).startswith("lagrange_jax")
        for node in statement.names
    }
    assert imported <= set(module.__all__)


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


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.stem)
def test_modules_are_short_and_say_what_they_are(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(source)), "no module docstring"
