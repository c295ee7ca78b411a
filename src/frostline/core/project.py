"""Paths of the project and its config folders, and the identity of the running source code."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from omegaconf import OmegaConf

from frostline.core import files
from frostline.core.errors import user_error

PACKAGE = Path(__file__).parents[1]
further_configs: list[Path] = []
"""Config folders added by `look_into`."""
_SOURCES = (":/src", ":/conf", ":/train.py")  # paths from the top of the checkout


def project_root() -> Path:
    """Return the folder that holds `multirun/` and `mlruns/`: the checkout, else the working directory."""
    checkout = PACKAGE.parent.parent
    return checkout if (checkout / "train.py").is_file() and (checkout / "conf").is_dir() else Path.cwd()


def multirun() -> Path:
    """Return the default parent folder of sweeps."""
    return project_root() / "multirun"


def new_sweep() -> Path:
    """Return the folder of a sweep that starts now, named by the time to the microsecond as in `hydra.sweep.dir`."""
    return multirun() / f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}"


def config_folder() -> Path:
    """Return the folder of the config groups: in the package if it is installed, else at the top of the checkout."""
    packaged = PACKAGE / "conf"
    return packaged if packaged.is_dir() else PACKAGE.parent.parent / "conf"


def register_resolver() -> None:
    """Register the resolvers `${project_root:}`, the current root, and `${minutes:4}`, the minutes of 4 hours."""
    OmegaConf.register_new_resolver("project_root", lambda: str(project_root()), replace=True)
    OmegaConf.register_new_resolver("minutes", lambda hours: math.ceil(60 * hours), replace=True)


def ensure_home() -> None:
    """Set HOME to /, as container engines do, for a user whom the system does not know: MLflow requires a home."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def at_home(argument: str) -> str:
    """Return `argument` with each `~/` at the start of a value expanded: shells leave it, Hydra refuses it."""
    return re.sub(r"(?<=[=,])~(?=/)", lambda _: os.path.expanduser("~"), argument)  # noqa: PTH111


def own_configs(arguments: Sequence[str]) -> list[Path]:
    """Return the user's own config folders: `conf/` in the working directory, and those of Hydra's `--config-dir`.

    Commands that do not run through Hydra pass the latter to `look_into`.
    """
    told = [value for key, value in pairwise(arguments) if key in ("--config-dir", "-cd")]
    told += [argument.partition("=")[2] for argument in arguments if argument.startswith("--config-dir=")]
    here = Path("conf").absolute()
    own = [here] if here.is_dir() and here.resolve() != config_folder().resolve() else []
    return [*own, *further_configs, *map(Path, told)]


def look_into(folder: str) -> None:
    """Add a folder to Hydra's search path for options; UserError if it does not exist."""
    if not os.path.isdir(files.absolute(folder)):
        raise user_error("--config-dir", folder, "a folder that exists")
    further_configs.append(files.absolute(folder))


@dataclass(frozen=True)
class SourceCode:
    """The code of a run."""

    sha256: str
    """Hash of the package's Python files, see `source_sha256`."""
    commit: str | None
    """Git commit of the checkout, None outside one."""
    patch: str
    """`git diff` of tracked files against the commit; empty if there is no difference."""


def source_sha256() -> str:
    """Return the sha256 (hex) over paths and content of the package's Python files, in path order.

    It is computed once per process, so that later edits do not change it.
    """
    return _sha256_of(PACKAGE)


@functools.cache
def _sha256_of(package: Path) -> str:
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return code.hexdigest()


def source() -> SourceCode:
    """Return the code that is running."""
    return SourceCode(source_sha256(), _git("rev-parse", "HEAD") or None, _git("diff", "HEAD"))


def untracked_files() -> list[tuple[str, Path]]:
    """Return name in the checkout and path of each source or config file that git neither tracks nor ignores."""
    top = PACKAGE.parent.parent
    names = _git("ls-files", "--others", "--exclude-standard", "-z", "--full-name", "--", *_SOURCES).split("\0")
    return [(name, top / name) for name in names if name]


def _git(*arguments: str) -> str:
    """Return the output of git in the checkout of this package; empty outside one, and on any failure."""
    if not (PACKAGE.parent.parent / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # Strip line feeds only: a line of a patch may be a single space.
    return done.stdout.decode(errors="replace").rstrip("\n") if done.returncode == 0 else ""
