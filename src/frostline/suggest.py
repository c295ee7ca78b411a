"""Commands that a person can run next: the command line of a run, with some of its keys changed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from frostline import environment
from frostline.results import Result, value_text


def command(result: Result, changes: Mapping[str, Sequence[object]]) -> str:
    """Return the command that does `result` again as a sweep over `changes`: values by key, one or several."""
    given = dict(override.split("=", 1) for override in _overrides(result) if "=" in override)
    if "freeze_mode" in changes:
        given.pop("freeze", None), given.pop("freeze_mode", None)
    swept = {_short(key): ",".join(map(value_text, values)) for key, values in changes.items()}
    return " ".join([f"{_program()} -m", *(shlex.quote(f"{key}={value}") for key, value in (given | swept).items())])


def _program() -> str:
    """Return what is typed to start the program; an installed package has no train.py."""
    return "python train.py" if (environment.project_root() / "train.py").is_file() else "python -m frostline"


def _short(key: str) -> str:
    return "freeze" if key == "freeze_mode" else key


def _overrides(result: Result) -> list[str]:
    """Return what the command line said of a run, as Hydra or the record has it; nothing where that is gone."""
    from omegaconf import OmegaConf

    folder = Path(result.folder)
    with suppress(OSError):
        return [str(override) for override in OmegaConf.load(folder / ".hydra" / "overrides.yaml")]
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [str(override) for override in json.loads((folder / "provenance.json").read_text())["command"]]
    return []


def rerun(result: Result) -> str:
    """Return the command that does exactly this run again."""
    return f"{_program()} rerun={result.run_id or shlex.quote(result.folder)}"
