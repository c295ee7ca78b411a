"""Commands to run next: the command line of a run with some of its keys changed, quoted for the shell and Hydra."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from frostline.core import project
from frostline.core.config_keys import is_semantic
from frostline.records import provenance, trial_tags
from frostline.records.result import Result, value_text

CONTINUE = "To continue"
"""Begins the sentence on how an interrupted sweep goes on."""
_PLAIN = re.compile(r"[A-Za-z_/.~][\w/.~@+-]*", re.ASCII)
_PLAIN_IF_UNESCAPED = re.compile(r"[\w/.~@+:-]*|\$\{[\w.]+\}", re.ASCII)
_WORDS = ("null", "true", "false", "nan", "inf")


def command(result: Result, changes: Mapping[str, Sequence[object]]) -> str | None:
    """Return the command that repeats the run of `result` as a sweep over `changes`: one or several values per key.

    None for a rerun, which accepts no keys that affect metrics, and for combined sweeps that one command line cannot
    express: with two freeze modes of one name, or an option of the optimizer that only some runs set.
    """
    if any(" (" in str(value) for value in changes.get("freeze_mode", ())):
        return None
    if any("null" in of for key, of in changes.items() if key.startswith("optimizer.options.")):
        return None
    pairs = [override.split("=", 1) for override in _overrides(result) if "=" in override]
    as_typed = {key.lstrip("+"): key for key, _ in pairs}
    given = {key.lstrip("+"): _unescaped(value) for key, value in pairs}
    if "rerun" in given:
        return None
    given.pop("resume", None)  # resume=false was for the runs of this sweep, which are finished now
    if trial_tags.STUDY in result.choices:  # searched keys have fixed values now
        given = {key: value for key, value in given.items() if key != "trials" and key.split(".")[0] != "search"}
    if "data.folds" in given:
        given.pop("data.fold", None)  # a sweep runs all folds
    if "freeze_mode" in changes:
        given.pop("freeze", None), given.pop("freeze_mode", None)
    names = {"freeze_mode": "freeze", **{key: f"{key}.name" for key in changes if f"{key}.name" in given}}
    swept = {names.get(key, key): ",".join(map(_exact, of)) for key, of in changes.items()}
    return of_sweep({as_typed.get(key, key): value for key, value in (given | swept).items()})


def of_sweep(values: Mapping[str, str]) -> str:
    """Return the command of a sweep, given the text to type for each key."""
    told = [("--config-dir", folder) for folder in project.further_configs]
    given = (shlex.quote(f"{key}={value}") for key, value in (*told, *values.items()))
    return " ".join([f"{_program()} -m", *given])


def typed(key: str, value: object) -> str:
    """Return `key=value` as it is typed in a shell, quoted for the shell and for Hydra where necessary."""
    return shlex.quote(f"{key}={for_hydra(value)}")


def for_hydra(value: object) -> str:
    """Return a value in Hydra's syntax; text is quoted if Hydra could read it as something else."""
    if isinstance(value, list):
        return f"[{','.join(map(for_hydra, value))}]"
    if not isinstance(value, str) or (_PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return _exact(value)
    return str(QuotedString(value, Quote.double).with_quotes())


def _exact(value: object) -> str:
    """Return a choice as text that parses back to the same value, with all digits of a float."""
    short = value_text(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short


def _unescaped(value: str) -> str:
    """Return a recorded value without the backslashes that Hydra puts before colons, e.g. of a URL, and braces."""
    plain = re.sub(r"\\([:{}])", r"\1", value)
    return plain if _PLAIN_IF_UNESCAPED.fullmatch(plain) else value


def _program() -> str:
    """Return the command that starts the program; an installed package has no train.py."""
    return "python train.py" if (project.project_root() / "train.py").is_file() else "python -m frostline"


def _overrides(result: Result) -> list[str]:
    """Return the overrides typed for a run, launcher keys included; empty where they cannot be read.

    References to environment variables are kept as references. The command of the sweep comes first: an earlier one,
    with other options, may have finished the run.
    """
    if result.command is not None:
        return result.command
    found = provenance.read(Path(result.folder)).get("command")
    return [str(override) for override in found] if isinstance(found, list) else []


def deciding(result: Result) -> list[str]:
    """Return the typed options that decide the result of a run; where it runs and is recorded is left out."""
    return [one for one in _overrides(result) if _decides(one.partition("=")[0].lstrip("+"))]


def _decides(key: str) -> bool:
    return key in ("--config-dir", "data.root", "rerun") or (is_semantic(key) and not key.startswith("hydra"))


def rerun(result: Result) -> str:
    """Return the command that repeats exactly this run."""
    return f"{_program()} rerun={result.run_id or shlex.quote(result.folder)}"
