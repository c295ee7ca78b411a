"""Rules of imports beyond the contracts in pyproject.toml."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "frostline"
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
PLAIN = sorted(set(ROOMS) - {"api", "assets", "commands"})  # entry points, and data files
LOWER = ("store", "data", "models", "training", "records", "tracking", "report")


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports at any time."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", PLAIN)
def test_package_init_has_a_docstring_and_no_code(room: str) -> None:
    """Code there would run at every import of a module of the package, and no key of the store would include it."""
    module = ast.parse((SOURCE / room / "__init__.py").read_text())
    (only,) = module.body
    assert isinstance(only, ast.Expr) and len((ast.get_docstring(module) or "").splitlines()) == 4


def test_no_two_classes_have_one_name() -> None:
    """Private ones aside, and `Classifier`: what the API calls so is what MLflow serves."""
    texts = (path.read_text() for path in SOURCE.rglob("*.py"))
    found = Counter(name for text in texts for name in re.findall(r"^class ([A-Z]\w*)", text, re.MULTILINE))
    assert [name for name, count in found.items() if count > 1] == ["Classifier"]


def test_config_imports_only_the_standard_library() -> None:
    outside = {name.split(".")[0] for name in imports(SOURCE / "core" / "config.py")} - sys.stdlib_module_names
    assert not outside


def test_packages_below_runs_do_not_import_config() -> None:
    for path in (path for room in LOWER for path in (SOURCE / room).glob("*.py")):
        assert "frostline.core.config.Config" not in set(imports(path)), path


@pytest.mark.parametrize(
    "module",
    [
        *("frostline.core.config", "frostline.cli", "frostline.core.driver", "hydra_plugins.frostline_sweeper"),
        ", ".join(f"frostline.commands.{file.stem}" for file in (SOURCE / "commands").glob("[a-z]*.py")),
    ],
)
def test_entry_points_import_no_heavy_libraries(module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'torchvision', 'mlflow', 'sklearn', 'pandas'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE.parent)
    assert done.stdout.strip() == ""
