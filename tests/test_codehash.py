"""What is kept is computed anew when the code that decides its bits changes, and only then."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from frostline import codehash, environment, pixel_cache, sharing

DECIDING = {
    "features": {
        *("sharing", "sight", "views", "features", "cut", "families", "freezing", "inference", "models"),
        *("augment", "trivial", "recolor", "resample", "randomness"),
    },
    "pixels": {
        *("decoding", "icc", "image_formats", "levels", "perceptual_hash", "pixels", "resample"),
        *("sources", "glyphs", "randomness", "value_range"),
    },
}
"""A module that is new here either decides bits, and stands here, or stands in `DECIDE_NONE` with the reason."""
ROOTS = {"features": sharing._CODE, "pixels": pixel_cache._CODE}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which is looked at instead of it."""
    here = shutil.copytree(environment.PACKAGE, tmp_path / "frostline", ignore=shutil.ignore_patterns("assets"))
    monkeypatch.setattr(environment, "PACKAGE", here)
    codehash.of.cache_clear()
    return here


def hash_of(kind: str) -> str:
    codehash.of.cache_clear()
    return codehash.of(*ROOTS[kind])


@pytest.mark.parametrize("kind", DECIDING)
def test_whatever_a_computation_imports_is_known_to_decide_bits_or_not_to(kind: str) -> None:
    assert codehash.deciding(*ROOTS[kind]) == DECIDING[kind]


def test_what_decides_nothing_is_there() -> None:
    modules = {path.stem for path in environment.PACKAGE.glob("*.py")}
    assert codehash.DECIDE_NONE.keys() <= modules
    assert all(codehash.DECIDE_NONE.values())


@pytest.mark.parametrize("kind", DECIDING)
def test_the_hash_changes_with_what_decides_and_with_nothing_else(package: Path, kind: str) -> None:
    before = {hash_of(kind)}
    for path in sorted(package.glob("*.py")):
        path.write_text(path.read_text() + "# another\n")
        assert (hash_of(kind) in before) == (path.stem not in DECIDING[kind]), path.stem
        before.add(hash_of(kind))


def test_imports_inside_functions_and_of_sub_packages_count(package: Path) -> None:
    (package / "inner").mkdir()
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "deep.py").write_text("a = 1\n")
    first = hash_of("pixels")
    (package / "pixels.py").write_text("def f():\n    from frostline.inner import (\n        deep,\n    )\n")
    second = hash_of("pixels")
    (package / "inner" / "deep.py").write_text("a = 2\n")
    assert len({first, second, hash_of("pixels")}) == 3
    assert "inner.deep" in codehash.deciding("pixels")


def test_every_import_of_every_module_is_found() -> None:
    for path in environment.PACKAGE.rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        expected = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        expected |= {str(node.module) for node in nodes}
        files = {name.removeprefix("frostline.") for name in expected if name.startswith("frostline.")}
        assert set(codehash._imports(path)) == {name for name in files if codehash._file(name).is_file()}, path
