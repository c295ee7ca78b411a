"""Flags of Hydra on the command line: their order, and those that Hydra would misread or a sweep cannot honour."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from frostline.core import files
from frostline.core.errors import NOTHING, UserError, user_error
from frostline.sweeps import hydra_parser

_FLAGS = {flag: action for action in hydra_parser.parser()._actions for flag in action.option_strings}
"""Hydra's flags, long and short."""
_OURS = ("--quiet", "--detach")
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
        if (action := _FLAGS.get(flag)) is None:
            own = f"{typed.lstrip('-').replace('-', '_')}={value or '<value>'}"
            hint = f"; did you mean {near}?" if (near := _nearest(typed)) else ""
            argument = typed if value is None else f"{typed}={value}"
            raise UserError(f"{argument}: expected a key without dashes, {own}, or a flag of --hydra-help{hint}")
        if action.nargs == 0 and value is not None:
            raise user_error(typed, value, f"{typed} without a value")
        if action.choices and value not in action.choices and not (value is None and action.nargs == "?"):
            raise user_error(typed, value or "", f"one of {', '.join(action.choices)}", action.choices)
        if action.nargs is None and not value:
            raise user_error(typed, "", NOTHING)
        if flag == "--config-dir" and not os.path.isdir(files.absolute(str(value))):
            raise user_error(typed, value, "a folder that exists")
        if flag in _INSTEAD:
            raise user_error(typed, value, _INSTEAD[flag])
        if flag == "--package" and all(other != "--cfg" for _, other, _ in found):
            raise user_error(typed, value, "--cfg job beside it, of whose config it shows a part")


def _nearest(typed: str) -> str | None:
    """Return the flag that `typed` abbreviates, or one that is spelt nearly so; None if there is none."""
    known = sorted([*(flag for flag in _FLAGS if flag.startswith("--")), *_OURS])
    whole = [flag for flag in known if flag.startswith(typed) and typed.strip("-")]
    return next(iter(whole or difflib.get_close_matches(typed, known, n=1, cutoff=0.85)), None)


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Yield each flag as typed, its long name and its value, None without one."""
    rest = [*arguments]
    while rest:
        typed, equals, value = rest.pop(0).partition("=")
        flag = _FLAGS[typed].option_strings[0] if typed in _FLAGS else typed
        if not equals and _takes_value(typed) and rest and not rest[0].startswith("-"):
            equals, value = "=", rest.pop(0)
        if flag.startswith("-"):
            yield typed, flag, value if equals else None


def _takes_value(argument: str) -> bool:
    return argument in _FLAGS and _FLAGS[argument].nargs != 0


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with flags before overrides: Hydra cannot parse overrides on both sides of a flag."""
    places = itertools.pairwise(["", *arguments])
    flags = [one.startswith("-") or _takes_value(before) for before, one in places]
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
    shown = {"-c", "--cfg", "-i", "--info"} & {one.partition("=")[0] for one in arguments}
    return [one for one in arguments if not (shown and one in ("-m", "--multirun"))]


def _is_swept(parser: OverridesParser, argument: str) -> bool:
    try:
        return parser.parse_override(argument).is_sweep_override()
    except HydraException:
        return False
