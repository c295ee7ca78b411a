"""Hydra's parser of the command line on newer Pythons."""

from __future__ import annotations

import sys
from argparse import Action, ArgumentParser
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser

from frostline.sweeps import hydra_parser


def test_python_that_checks_help_texts_has_hydras_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    add = ArgumentParser.add_argument

    def check(self: Any, action: Action) -> None:
        assert action.help is None or "%" not in action.help or action.help % vars(action)

    def add_checked(self: Any, *names: str, **options: Any) -> Action:
        action = add(self, *names, **options)
        self._check_help(action)
        return action

    monkeypatch.setattr(ArgumentParser, "_check_help", check, raising=False)
    monkeypatch.setattr(ArgumentParser, "add_argument", add_checked)
    with pytest.raises(TypeError, match="LazyCompletionHelp"):
        get_args_parser()
    flags = hydra_parser.parser().parse_args(["--multirun", "lr=1"])
    assert flags.multirun and flags.overrides == ["lr=1"]
    assert ArgumentParser._check_help is check


def test_hydra_main_takes_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["hydra.main"], "get_args_parser", get_args_parser)
    hydra_parser.use()
    assert sys.modules["hydra.main"].get_args_parser is hydra_parser.parser
