"""The house: imports point downward only, and what must start fast loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "frostline"
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__", "cli"),
    ("commands",),
    ("sweep", "composing", "templates", "crew", "job", "winner", "recorded", "unused_keys"),
    ("claim", "ledger"),
    (
        *("experiment", "learning", "setup", "sight", "sharing"),
        *("robustness", "predictor", "formats", "serving"),
    ),
    ("recall", "gather", "webpage", "pagedata", "evidence", "plots"),
    (
        *("tracking", "follower", "pending", "mirror", "news", "server", "relocation", "journal", "run_folders"),
        *("registry", "lookup", "browse", "sampling", "report", "tables", "outcome", "draft"),
    ),
    (
        *("verdict", "edges", "summary", "contest", "rerun", "comparison", "suggest", "results", "statistics"),
        "baseline",
        *("pictures", "looks", "confusion", "confusion_matrix"),
    ),
    (
        *("plan", "resume", "features", "compiling"),
        "portable",
    ),
    ("views", "training", "stepping", "evaluation", "gradient", "mixing", "timeline"),
    (
        *("checkpoint", "hashing"),
        *("models", "families", "weights", "state_dicts", "freezing", "cut", "inference", "optim"),
        *("data", "splitting", "decoding", "sources", "pixels", "glyphs", "augment", "resample", "recolor", "trivial"),
        *("pixel_cache", "undecoded", "value_range", "levels", "icc", "image_formats"),
        *("corruptions", "layouts", "classnames", "duplicates", "near_duplicates", "perceptual_hash"),
        *("findings", "leftovers"),
    ),
    ("store", "entries", "mapped", "room", "ragged", "prefetch"),
    ("workers",),
    ("worker",),
    ("heartbeat",),
    ("alive", "locks", "background"),
    ("environment", "codehash", "provenance", "credentials", "randomness", "interrupts", "hydra_keys"),
    ("config", "validation", "records", "files", "notices", "streams"),
    ("__init__",),
)
"""Top to bottom; a module imports from lower layers, and from its own without a circle."""

DEPTH = {module: depth for depth, layer in enumerate(LAYERS) for module in layer}
KNOWN_TO = {"mlflow": {"server", "mirror", "registry", "serving", "recall"}, "rich": {"report", "tables"}}
"""Who may know a library."""


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports at any time, those for type checking left out."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def own(path: Path) -> set[str]:
    """Return the modules of frostline that a file imports."""
    names = [name.split(".") for name in imports(path)]
    return {parts[1] for parts in names if parts[0] == "frostline" and len(parts) > 1}


MODULES = {path.stem: own(path) for path in sorted(SOURCE.glob("*.py"))}
COMMANDS = SOURCE / "commands"
MODULES["commands"] = {module for path in COMMANDS.glob("*.py") for module in own(path)} - {"commands"}


def test_every_module_has_its_place_in_the_house() -> None:
    assert set(MODULES) <= set(DEPTH)
    assert len(DEPTH) == sum(map(len, LAYERS))


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward_only(module: str) -> None:
    wrong = {other for other in MODULES[module] if DEPTH[other] < DEPTH[module]}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))} from above"


def test_no_modules_import_each_other_in_a_circle() -> None:
    list(TopologicalSorter(MODULES).static_order())  # raises CycleError


@pytest.mark.parametrize("library", KNOWN_TO)
def test_a_library_is_known_to_its_rooms_only(library: str) -> None:
    users = {path.stem for path in SOURCE.glob("*.py") for name in imports(path) if name.split(".")[0] == library}
    assert users <= KNOWN_TO[library]


def test_config_needs_the_standard_library_alone() -> None:
    outside = {name.split(".")[0] for name in imports(SOURCE / "config.py")} - sys.stdlib_module_names
    assert not outside


def test_what_lies_below_the_composition_root_knows_no_config_but_what_it_is_given() -> None:
    """`Config` as a whole ends at the experiment; below it functions take plain arguments."""
    for module in (module for layer in LAYERS[5:-2] for module in layer if (SOURCE / f"{module}.py").exists()):
        assert "frostline.config.Config" not in set(imports(SOURCE / f"{module}.py")), module


@pytest.mark.parametrize(
    "module", ["frostline.config", "frostline.cli", "frostline.environment", "hydra_plugins.frostline_sweeper"]
)
def test_a_mistake_is_answered_without_loading_what_trains_or_records(module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'torchvision', 'mlflow', 'sklearn', 'pandas'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE.parent)
    assert done.stdout.strip() == ""
