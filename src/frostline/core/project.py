"""Where the project lies, and which source of it is running."""

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
"""Folders that hold options, too, as `look_into` was told."""
_SOURCES = (":/src", ":/conf", ":/train.py")  # paths from the top of the checkout


def project_root() -> Path:
    """Return the folder that holds `multirun/` and `mlruns/`: the checkout, else the working directory."""
    checkout = PACKAGE.parent.parent
    return checkout if (checkout / "train.py").is_file() and (checkout / "conf").is_dir() else Path.cwd()


def multirun() -> Path:
    """Return the folder of all sweeps that were not told to lie elsewhere."""
    return project_root() / "multirun"


def new_sweep() -> Path:
    """Return where a sweep that begins now lies, as `hydra.sweep.dir` says it, to the microsecond."""
    return multirun() / f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}"


def config_folder() -> Path:
    """Return the folder of the config groups: inside an installed package, else at the top of the checkout."""
    packaged = PACKAGE / "conf"
    return packaged if packaged.is_dir() else PACKAGE.parent.parent / "conf"


def register_resolver() -> None:
    """Have `${project_root:}` in configs stand for the folder that it is now, `${minutes:4}` for those of 4 hours."""
    OmegaConf.register_new_resolver("project_root", lambda: str(project_root()), replace=True)
    OmegaConf.register_new_resolver("minutes", lambda hours: math.ceil(60 * hours), replace=True)


def at_home(argument: str) -> str:
    """Return `argument` with the home folder for each `~/` that begins a value: shells leave it, Hydra refuses it."""
    return re.sub(r"(?<=[=,])~(?=/)", lambda _: os.path.expanduser("~"), argument)  # noqa: PTH111


def own_configs(arguments: Sequence[str]) -> list[Path]:
    """Return where a person has options: in `conf/` where the command is typed, and in Hydra's `--config-dir`.

    To commands that are not Hydra's the latter is told by `look_into`.
    """
    told = [value for key, value in pairwise(arguments) if key in ("--config-dir", "-cd")]
    told += [argument.partition("=")[2] for argument in arguments if argument.startswith("--config-dir=")]
    here = Path("conf").absolute()
    own = [here] if here.is_dir() and here.resolve() != config_folder().resolve() else []
    return [*own, *further_configs, *map(Path, told)]


def look_into(folder: str) -> None:
    """Have Hydra look into a folder, too, for options; UserError where there is none."""
    if not os.path.isdir(files.expanded(folder)):
        raise user_error("--config-dir", folder, "a folder that exists")
    further_configs.append(files.expanded(folder).absolute())


@dataclass(frozen=True)
class SourceCode:
    """The code of a run."""

    sha256: str
    """Over the package's own Python files, as `source_sha256` returns it."""
    commit: str | None
    """Of the checkout, None outside one."""
    patch: str
    """What differs from the commit, tracked files only; empty where nothing does."""


def source_sha256() -> str:
    """Return the sha256 (hex) over the package's own Python files, with their paths in it, in the order of these.

    It is of what runs in this process: what is edited later is not that.
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
    """Return the files of source and config that git does not know and does not ignore: name in the checkout, path."""
    top = PACKAGE.parent.parent
    names = _git("ls-files", "--others", "--exclude-standard", "-z", "--full-name", "--", *_SOURCES).split("\0")
    return [(name, top / name) for name in names if name]


def _git(*arguments: str) -> str:
    """Return what git prints about the checkout of this package, or nothing where there is none."""
    if not (PACKAGE.parent.parent / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # A space at the end of a patch is a line of it.
    return done.stdout.decode(errors="replace").rstrip("\n") if done.returncode == 0 else ""
