"""Printed overrides have the intended value after the shell and Hydra have parsed them."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from frostline.records.result import Result
from frostline.report.command_line import command, typed

ODD = ("|", " ", "/a b/ü (1), c.csv", 'a\'s "x" \\', 'x\\"y', "007", "null", "1e3", "train-{0..3}.tar", "C:\\x", "a=b")


def plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(plain_value, value)]
    return value.text if isinstance(value, QuotedString) else value


@pytest.mark.parametrize("value", [*ODD, "splits.csv", "/a/b-1.csv", [*ODD, "plain"], True, 3, 0.5])
def test_value_survives_shell_and_hydra(value: object) -> None:
    [argument] = shlex.split(typed("key", value))
    assert plain_value(OverridesParser.create().parse_override(argument).value()) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [("s3://bucket/x", "s3://bucket/x"), ("C:\\x y", None), ("a:b c", None), ("${oc.env:X}", None)],
)
def test_command_has_no_needless_backslash(value: str, expected: str | None) -> None:
    recorded = OverridesParser.create().parse_override(f"tracking.artifacts={value}").get_value_element_as_str()
    result = Result(0, "head", "0", None, "FINISHED", None, {}, {}, command=[f"tracking.artifacts={recorded}"])
    given = shlex.split(command(result, {"lr": [0.1]}) or "")
    assert f"tracking.artifacts={recorded if expected is None else expected}" in given
    [argument] = [one for one in given if one.startswith("tracking.artifacts=")]
    assert OverridesParser.create().parse_override(argument).value() == value


def test_keys_are_typed_as_before() -> None:
    """Hydra wants the plus that adds a key again; a key that it was typed for would else be in the command twice."""
    before = ["+optimizer.options.eps=1e-8", "++lr=0.1", "++resume=false"]
    result = Result(0, "head", "0", None, "FINISHED", None, {}, {}, command=before)
    given = shlex.split(command(result, {"optimizer.options.eps": [1e-8, 1e-6], "lr": [0.1]}) or "")
    assert given[3:] == ["+optimizer.options.eps=1e-08,1e-06", "++lr=0.1"]
