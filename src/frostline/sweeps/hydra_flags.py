"""Flags of Hydra on the command line: their order, and those that Hydra would misread or a sweep cannot honour."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from frostline.core.errors import NOTHING, UserError, user_error

_SHORT = {
    **{"-h": "--help", "-c": "--cfg", "-p": "--package", "-r": "--run", "-m": "--multirun", "-i": "--info"},
    **{"-sc": "--shell-completion", "-cp": "--config-path", "-cn": "--config-name", "-cd": "--config-dir"},
}
_ALONE = ("--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun", "--shell-completion")
_WITH_VALUES = (
    *("--cfg", "--info", "--package", "--config-dir", "--config-name", "--config-path"),
    "--experimental-rerun",
)
_OURS = ("--quiet", "--detach")
_SHOWN = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
"""What Hydra can show, by its flag."""
_INSTEAD = {
    "--config-path": "--config-dir=<folder>, which adds a folder of config files",
    "--experimental-rerun": "rerun=<run>, which repeats a recorded run",
}


def check(arguments: Sequence[str]) -> None:
    """Raise `UserError` for a flag that Hydra does not have, would misread or lacks the value of.

    Abbreviations are refused, too: Hydra would answer `--vers` with its own version.
    """
    found = [*_flags(arguments)]
    for typed, flag, value in found:
        if flag not in (*_ALONE, *_WITH_VALUES):
            own = f"{typed.lstrip('-').replace('-', '_')}={value or '<value>'}"
            hint = f"; did you mean {near}?" if (near := _nearest(typed)) else ""
            argument = typed if value is None else f"{typed}={value}"
            raise UserError(f"{argument}: expected a key without dashes, {own}, or a flag of --hydra-help{hint}")
        if flag in _ALONE and value is not None:
            raise user_error(typed, value, f"{typed} without a value")
        if (choices := _SHOWN.get(flag)) and value not in choices and (flag, value) != ("--info", None):
            raise user_error(typed, value or "", f"one of {', '.join(choices)}", choices)
        if flag in _WITH_VALUES and not value and flag != "--info":
            raise user_error(typed, "", NOTHING)
        if flag in _INSTEAD:
            raise user_error(typed, value, _INSTEAD[flag])
        if flag == "--package" and all(other != "--cfg" for _, other, _ in found):
            raise user_error(typed, value, "--cfg job beside it, of whose config it shows a part")


def _nearest(typed: str) -> str | None:
    """Return the flag that `typed` abbreviates, or one that is spelt nearly so; None if there is none."""
    known = (*_ALONE, *_WITH_VALUES, *_OURS)
    whole = [flag for flag in known if flag.startswith(typed) and typed.strip("-")]
    return next(iter(whole or difflib.get_close_matches(typed, known, n=1, cutoff=0.85)), None)


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Yield each flag as typed, its long name and its value, None without one."""
    rest = [*arguments]
    while rest:
        typed, equals, value = rest.pop(0).partition("=")
        flag = _SHORT.get(typed, typed)
        if not equals and flag in _WITH_VALUES and rest and not rest[0].startswith("-"):
            equals, value = "=", rest.pop(0)
        if flag.startswith("-"):
            yield typed, flag, value if equals else None


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with flags before overrides: Hydra cannot parse overrides on both sides of a flag."""
    places = itertools.pairwise(["", *arguments])
    flags = [one.startswith("-") or _SHORT.get(before, before) in _WITH_VALUES for before, one in places]
    return [*itertools.compress(arguments, flags), *itertools.compress(arguments, (not flag for flag in flags))]


def for_help(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without overrides that list several values or a range, if they ask for help.

    The help shows the config of one run.
    """
    if not {"-h", "--help"} & {*arguments}:
        return [*arguments]
    parser = OverridesParser.create()
    return [one for one in arguments if one.startswith("-") or not _is_swept(parser, one)]


def for_config(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without `-m` if they ask for the config of one run: Hydra takes no two of these flags."""
    shown = {_SHORT.get(flag, flag) for flag in (one.partition("=")[0] for one in arguments)} & _SHOWN.keys()
    return [one for one in arguments if not (shown and one in ("-m", "--multirun"))]


def _is_swept(parser: OverridesParser, argument: str) -> bool:
    try:
        return parser.parse_override(argument).is_sweep_override()
    except HydraException:
        return False
