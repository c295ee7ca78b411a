"""Hydra's parser of the command line, a private interface, which Hydra 1.3 cannot make with Python 3.14."""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from hydra._internal.utils import get_args_parser


def parser() -> ArgumentParser:
    """Return Hydra's parser.

    Python 3.14 checks a help text when it is added, and refuses one of Hydra 1.3 that is made only when it is shown.
    """
    if (check := getattr(ArgumentParser, "_check_help", None)) is None:
        return get_args_parser()
    ArgumentParser._check_help = lambda self, action: None  # type: ignore[attr-defined]
    try:
        return get_args_parser()
    finally:
        ArgumentParser._check_help = check  # type: ignore[attr-defined]


def use() -> None:
    """Let `hydra.main` take this parser."""
    sys.modules["hydra.main"].get_args_parser = parser  # type: ignore[attr-defined]
