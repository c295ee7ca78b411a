"""The commands of `python -m frostline <command>`: one module per command, imported only when its command runs.

Each module has `main(arguments) -> int`, which returns the exit status. The first line of its docstring is its help.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

from frostline.core import plugins, project
from frostline.core.errors import NOTHING, UserError, keys, user_error

CALLED = "a folder, an MLflow id or its beginning, or the name of a sweep or experiment"
"""How a run or sweep can be named (see `sweeps.catalog`)."""


class Parser(argparse.ArgumentParser):
    """Parser of a command's arguments, which reports a mistake as a `UserError` of one line."""

    def __init__(self, command: str = "", about: str | None = None, **options: Any) -> None:
        """Take the command's name, and as `about` the docstring of its module, whose first line is its help."""
        options.setdefault("prog", f"frostline {command}")
        super().__init__(description=(about or "").partition("\n")[0], **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; `UserError` for an empty value, and for a config key where the command takes none."""
        self._check(args or ())
        return super().parse_known_args(args, namespace)

    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, with the same checks."""
        self._check(args or ())
        return super().parse_known_intermixed_args(args, namespace)

    def _check(self, arguments: Sequence[str]) -> None:
        values = [action for action in self._actions if action.option_strings and action.nargs is None]
        flags = [flag for action in values for flag in action.option_strings]
        keyed = any(action.dest == "overrides" for action in self._actions)
        for before, one in pairwise(["", *arguments]):
            flag, equals, value = one.partition("=")
            if (flag in flags and equals and not value) or (before in flags and not one):
                raise user_error(flag or before, "", NOTHING)
            if keyed or before in flags or not equals or flag not in keys() or os.path.exists(one):
                continue
            near = difflib.get_close_matches(f"--{flag.rpartition('.')[2]}", flags, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{one}: expected no config key, since {self.prog} takes none{hint} (see {self.prog} --help)"
            )

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with argparse's `message`, which names the argument."""
        raise UserError(f"{message} (see {self.prog} --help)")


def with_overrides(parser: Parser, arguments: Sequence[str], kind: str) -> argparse.Namespace:
    """Parse the arguments of a command that also takes the overrides of `kind` ("a run" or "the sweep")."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"the overrides of {kind}, as for train.py")
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="folder with more config files, as for train.py")
    asked = parser.parse_intermixed_args(arguments)
    if asked.config_dir is not None:
        project.look_into(asked.config_dir)
    return asked


def positive(text: str) -> int:
    """Parse a whole number of at least 1, for `add_argument(type=...)`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text}")
    return int(text)


def tell(line: str) -> None:
    """Print a note to stderr as one line; stdout is for the answer."""
    print(f"frostline: {' '.join(line.split())}", file=sys.stderr)


def names() -> list[str]:
    """Return the names of all commands, including those of other packages."""
    return sorted({*(module.name for module in pkgutil.iter_modules(__path__)), *plugins.names(plugins.COMMANDS)})


def is_one(word: str) -> bool:
    """Return whether a word of the command line is a command; reads the entry points of all packages if it may be."""
    return "=" not in word and not word.startswith("-") and word in names()


def run(name: str, arguments: Sequence[str]) -> int:
    """Run the command called `name` and return its exit status; `UserError` for a mistake in its arguments."""
    own = importlib.util.find_spec(f"{__name__}.{name}") is not None
    if own and (package := plugins.distribution(plugins.COMMANDS, name)) is not None:
        print(f"frostline: {name} is a built-in command; the one of {package} is ignored", file=sys.stderr)
    module = importlib.import_module(f"{__name__}.{name}") if own else plugins.load(plugins.COMMANDS, name)
    if not callable(getattr(module, "main", None)):
        raise UserError(f"{name}: expected a plugin of {plugins.COMMANDS} that is a module with main(arguments)")
    status: int = module.main(list(arguments))
    return status
