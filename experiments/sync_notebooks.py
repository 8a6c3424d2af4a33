"""Brings the notebooks up to date: `make notebooks`.

Each is a py:percent script, which is edited, and an ipynb without outputs, which is
opened. Both name the address of the repository, in a Colab badge and in the cell that
installs the library. The one place to change it is `[project.urls]` in pyproject.toml.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

__all__ = ["FOLDER", "name_repository", "repository"]

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "experiments" / "notebooks"


def repository() -> str:
    """Returns OWNER/NAME, the path of the repository on GitHub."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


def name_repository(text: str, repository: str) -> str:
    """Returns a notebook's text with the repository in its badge and its address."""
    return re.sub(r"(github(?:\.com)?/)[\w.-]+/[\w.-]+", rf"\g<1>{repository}", text)


def main() -> None:
    """Writes the address into every script, and every script into its notebook."""
    scripts = sorted(FOLDER.glob("*.py"))
    for script in scripts:
        script.write_text(name_repository(script.read_text(), repository()))
    sync = [sys.executable, "-m", "jupytext", "--sync", *map(str, scripts)]
    subprocess.run(sync, check=True)


if __name__ == "__main__":
    main()
