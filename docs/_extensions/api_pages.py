"""The API reference: one page a package, what its `__all__` promises and no more."""

import importlib
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import lagrange_jax

__all__ = ["PAGES", "make_page", "promised_by", "write_pages"]

# Package or module, its title, and modules that are a chapter of it as a whole.
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "models": ("Networks", ("models.linen", "models.nnx")),
    "initializers": ("Init transforms", ()),
    "constraints": ("Constraints", ()),
    "solvers": ("Solvers", ()),
    "losses": ("Losses", ()),
    "statistics": ("Statistics", ()),
    "ridge": ("Ridge: every strength at once", ()),
    "transforms": ("Penalties and proximal steps", ()),
    "training": ("Training and grids", ()),
    "strengths": ("Strengths by law", ()),
    "distributed": ("Devices and hosts", ()),
    "datasets": ("Data sets", ()),
    "plots": ("Pictures", ()),
    "numerics": ("Numerics", ()),
    "types": ("Records and aliases", ("batches",)),
}


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"lagrange_jax.{name}")


def promised_by(page: str) -> dict[str, list[str]]:
    """Returns what a page documents: names by the module that defines them.

    Args:
      page: a name in `PAGES`.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in _module(page).__all__:
        value = getattr(_module(page), name)
        home = getattr(value, "__module__", None) or f"lagrange_jax.{page}"
        if not home.startswith("lagrange_jax."):  # an alias of a foreign type
            home = f"lagrange_jax.{page}"
        found[home].append(name)
    for chapter in PAGES[page][1]:
        found[f"lagrange_jax.{chapter}"] = list(_module(chapter).__all__)
    return {home: names for home, names in found.items() if names}


def _earlier(page: str) -> set[str]:
    """Returns the modules that pages before this one document."""
    pages = list(PAGES)
    return {home for x in pages[: pages.index(page)] for home in promised_by(x)}


def make_page(page: str) -> str:
    """Returns the page as MyST Markdown."""
    module = _module(page)
    about = (module.__doc__ or "").strip().splitlines()[0]
    parts = [f"# {PAGES[page][0]}", f"`lagrange_jax.{page}`: {about}"]
    for home, names in promised_by(page).items():
        single = len(promised_by(page)) == 1
        if not single:
            title = home.removeprefix("lagrange_jax.")
            parts.append(f"## {title}")
        options = f"   :members: {', '.join(names)}\n"
        if home in _earlier(page):
            options += "   :no-index:\n"
        parts.append(f"```{{eval-rst}}\n.. automodule:: {home}\n{options}```")
    return "\n\n".join(parts) + "\n"


def _daily() -> str:
    """Returns the table of the names at the top, by the room that they are from."""
    rooms: dict[str, list[str]] = defaultdict(list)
    for name in lagrange_jax.__all__:
        value = getattr(lagrange_jax, name)
        if not isinstance(value, ModuleType):
            home = getattr(value, "__module__", "")
            room = home.split(".")[1] if home.startswith("lagrange_jax.") else "types"
            rooms[room].append(f"`{name}`")
    order = {page: place for place, page in enumerate(PAGES)}
    lines = [
        f"| {{doc}}`{room if room in PAGES else 'types'}` | {', '.join(names)} |"
        for room, names in sorted(rooms.items(), key=lambda x: order.get(x[0], 99))
    ]
    return "\n".join(["| page | at the top, as `lj.` |", "| --- | --- |", *lines])


def write_pages(folder: Path) -> None:
    """Writes a page for each package, and the table of the names at the top."""
    folder.mkdir(exist_ok=True)
    for page in PAGES:
        (folder / f"{page}.md").write_text(make_page(page))
    (folder / "daily.txt").write_text(_daily() + "\n")
