"""The house beyond the contracts in pyproject.toml: rooms hold no code, what must start fast loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "frostline"
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
PLAIN = sorted(set(ROOMS) - {"api", "assets", "commands"})  # doors, and what is no code
LOWER = ("store", "data", "models", "training", "records", "tracking", "report")


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports at any time."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", PLAIN)
def test_a_room_says_in_three_sentences_what_it_is_for_and_does_nothing(room: str) -> None:
    """Code in it would run in every process that imports a module of the room, and would be in no key of the store."""
    module = ast.parse((SOURCE / room / "__init__.py").read_text())
    (only,) = module.body
    assert isinstance(only, ast.Expr) and len((ast.get_docstring(module) or "").splitlines()) == 4


def test_config_needs_the_standard_library_alone() -> None:
    outside = {name.split(".")[0] for name in imports(SOURCE / "core" / "config.py")} - sys.stdlib_module_names
    assert not outside


def test_below_a_run_functions_take_plain_arguments_and_no_config() -> None:
    for path in (path for room in LOWER for path in (SOURCE / room).glob("*.py")):
        assert "frostline.core.config.Config" not in set(imports(path)), path


@pytest.mark.parametrize(
    "module",
    ["frostline.core.config", "frostline.cli", "frostline.core.machine", "hydra_plugins.frostline_sweeper"],
)
def test_a_mistake_is_answered_without_loading_what_trains_or_records(module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'torchvision', 'mlflow', 'sklearn', 'pandas'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE.parent)
    assert done.stdout.strip() == ""
