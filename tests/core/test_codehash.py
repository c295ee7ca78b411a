"""Stored results are recomputed if, and only if, the code that decides their bits changes."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from frostline.core import codehash, project
from frostline.data import pixel_cache
from frostline.runs import frost_line

DECIDING = {
    "features": {
        *("runs.frost_line", "runs.split_views", "data.views", "training.features", "models.cut", "models.shapes"),
        *("models.stages", "models.freezing", "models.fuse", "models.build", "models.lookup"),
        *("models.load_weights", "models.meta_device", "models.architecture", "models.torchvision_models"),
        *("models.timm_models", "models.timm_stages", "models.timm_weights", "models.state_dicts", "core.files"),
        *("core.input_spec", "models.pooling", "models.adapters", "models.adapter_kinds"),
        *("models.kept_adapters", "models.kept_adapter_kinds"),
        *("data.augment", "data.trivial_augment", "data.resize", "data.resize_by_matrices", "core.randomness"),
    },
    "pixels": {
        *("data.decode_all", "data.icc", "data.image_formats", "data.bit_depth", "data.perceptual_hash"),
        *("data.decode_image", "data.open_image", "data.pixel_form", "data.resize", "data.resize_by_matrices"),
        *("data.source", "data.sources", "data.torchvision_data", "data.glyphs"),
        *("core.randomness", "core.files", "core.input_spec", "data.value_range"),
    },
}
"""A new module belongs here if it decides bits, else into `_REASONS` of `core/codehash.py` with the reason."""
ROOTS = {"features": frost_line._CODE, "pixels": pixel_cache._CODE}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the package, which is hashed instead of it."""
    here = shutil.copytree(project.PACKAGE, tmp_path / "frostline", ignore=shutil.ignore_patterns("assets"))
    monkeypatch.setattr(project, "PACKAGE", here)
    codehash.of.cache_clear()
    return here


def names(package: Path) -> dict[str, Path]:
    """Return the files of all modules except `__init__` by their name within the package."""
    files = {path.relative_to(package).with_suffix("").parts: path for path in package.rglob("*.py")}
    return {".".join(parts): path for parts, path in files.items() if parts[-1] != "__init__"}


def hash_of(kind: str) -> str:
    codehash.of.cache_clear()
    return codehash.of(*ROOTS[kind])


@pytest.mark.parametrize("kind", DECIDING)
def test_deciding_modules_are_the_expected_ones(kind: str) -> None:
    assert codehash.deciding(*ROOTS[kind]) == DECIDING[kind]


def test_excluded_modules_exist_with_a_reason() -> None:
    modules = set(names(project.PACKAGE))
    assert codehash.DECIDE_NONE.keys() <= modules
    assert all(codehash.DECIDE_NONE.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", DECIDING)
def test_hash_changes_only_with_deciding_modules(package: Path, kind: str) -> None:
    before = {hash_of(kind)}
    files = names(package)
    for name in sorted(DECIDING[kind]):
        files[name].write_text(files[name].read_text() + "# another\n")
        assert hash_of(kind) not in before, name
        before.add(hash_of(kind))
    for name in files.keys() - DECIDING[kind]:
        files[name].write_text(files[name].read_text() + "# another\n")
    assert hash_of(kind) in before


def test_imports_in_functions_and_subpackages_count(package: Path) -> None:
    (package / "data" / "inner").mkdir()
    (package / "data" / "inner" / "__init__.py").write_text("")
    (package / "data" / "inner" / "deep.py").write_text("a = 1\n")
    first = hash_of("pixels")
    (package / "data" / "decode_image.py").write_text(
        "def f():\n    from frostline.data.inner import (\n        deep,\n    )\n"
    )
    second = hash_of("pixels")
    (package / "data" / "inner" / "deep.py").write_text("a = 2\n")
    assert len({first, second, hash_of("pixels")}) == 3
    assert "data.inner.deep" in codehash.deciding("data.decode_image")


@pytest.mark.slow
def test_every_import_is_found() -> None:
    for path in project.PACKAGE.rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        expected = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        expected |= {str(node.module) for node in nodes}
        files = {name.removeprefix("frostline.") for name in expected if name.startswith("frostline.")}
        assert set(codehash._imports(path)) == {name for name in files if codehash._file(name).is_file()}, path
