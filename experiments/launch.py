"""Runs a study: `python -m experiments.launch NAME [--smoke] [field=value ...]`.

A study is a folder `experiments/studies/NAME` with
  config.py: `Config`, a frozen dataclass, with `full()` and `smoke()`;
  run.py: `run(config, folder, data_dir)`, which records its results in `folder` and
    resumes from what it finds there;
  figures.py: `draw(folder)`, which draws from the record and returns a table.
"""

import argparse
import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main", "override", "study_names"]

# Before JAX starts. XLA's scheduler for concurrency on the CPU (jaxlib 0.10.2) makes
# some programs wait for ever, a vmapped training with a cross-entropy head among them.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_enable_concurrency_optimized_scheduler=false "
    + os.environ.get("XLA_FLAGS", "")
)


def study_names() -> list[str]:
    """Returns the names of all studies."""
    here = Path(__file__).parent / "studies"
    return sorted(path.parent.name for path in here.glob("*/run.py"))


def _parse(text: str, like: Any) -> Any:
    """Reads a value of the type of `like`; tuples are separated by commas."""
    if isinstance(like, tuple):
        element = like[0] if like else ""
        return tuple(_parse(part, element) for part in text.split(",") if part)
    if isinstance(like, bool):
        return {"true": True, "false": False}[text.lower()]
    return type(like)(text)


def override(config: Any, assignments: Sequence[str]) -> Any:
    """Returns a configuration with some fields replaced.

    Args:
      config: a dataclass instance.
      assignments: "field=value"; the field's present value says the type.

    Raises:
      ValueError: a field is unknown or its value cannot be read.
    """
    names = [field.name for field in dataclasses.fields(config)]
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in names:
            raise ValueError(
                f"{assignment!r} does not set a field; write field=value with one of: "
                f"{', '.join(names)}."
            )
        try:
            value = _parse(text, getattr(config, name))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{text!r} is no value for {name}, which is like "
                f"{getattr(config, name)!r}."
            ) from error
        config = dataclasses.replace(config, **{name: value})
    return config


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.launch", description="Runs a study and draws it."
    )
    parser.add_argument("name", choices=study_names(), help="which study")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    parser.add_argument("--out", help="run folder; runs/NAME if not given")
    parser.add_argument("--data-dir", help="folder of data fetched by hand")
    parser.add_argument("fields", nargs="*", metavar="field=value")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = _arguments(argv)
    study = f"experiments.studies.{arguments.name}"
    config_type = importlib.import_module(f"{study}.config").Config
    default = f"runs/{arguments.name}{'-smoke' if arguments.smoke else ''}"
    folder = Path(arguments.out or default)
    try:
        config = config_type.smoke() if arguments.smoke else config_type.full()
        config = override(config, arguments.fields)
        run = importlib.import_module(f"{study}.run").run
        run(config, folder, arguments.data_dir)
    except (ValueError, FileNotFoundError) as error:
        print(f"{arguments.name}: {error}", file=sys.stderr)
        return 2
    print(importlib.import_module(f"{study}.figures").draw(folder))
    print(f"Recorded in {folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
