"""Safe reading of YAML and JSON records from untrusted sources: plain values of bounded size, nothing is executed.

A recorded config is already resolved. A record that contains interpolations, object constructors or aliases is refused
as a whole.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from frostline.core.errors import UserError, first_line

_SMALL = 1_000_000  # bytes of a config: ours have about 2,000
_LARGE = 64_000_000  # bytes of any other text: a journal of 100,000 epochs has about 20,000,000
_DEEP = 20  # levels of nesting: ours have 5
_RESERVED = re.compile(r"_\w+_")  # Hydra's own keys: _target_, _partial_, _args_, ...


def config(path: Path) -> dict[str, Any]:
    """Return the values of a recorded config file: plain scalars in lists and mappings.

    UserError for anything else: tags, aliases, interpolations, Hydra's `_target_`, infinite numbers and nan.
    """
    values = mapping_of(path)
    require_plain(values, path)
    return values


def mapping_of(path: Path) -> dict[str, Any]:
    """Return the mapping in a config file, read as by `plain`; UserError if it is no mapping."""
    values = plain(path)
    if not isinstance(values, dict):
        raise _refused(path, "the config of a run")
    return values


def plain(path: Path) -> Any:
    """Return the content of a small YAML file, interpolations as plain text; UserError for tags and aliases."""
    text = _text(path, _SMALL)
    try:
        return yaml.load(text, _Plain)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as problem:
        raise _refused(path, f"plain YAML ({first_line(problem)})") from None


def value(path: Path) -> Any:
    """Return the content of a JSON file; UserError if it is not valid, too large, or has nan or infinite numbers."""
    return _json(_text(path, _LARGE), path)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file; UserError as for `value`."""
    found = [_json(line, path) for line in _text(path, _LARGE).splitlines()]
    if not all(isinstance(line, dict) for line in found):
        raise _refused(path, "an object in every line")
    return found


def mapping(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; UserError as for `value`."""
    found = value(path)
    if not isinstance(found, dict):
        raise _refused(path, "a JSON object")
    return found


class _Plain(yaml.SafeLoader):  # type: ignore[misc]
    """A YAML loader for JSON's types, without aliases, by which a few lines can expand to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def _text(path: Path, limit: int) -> str:
    try:
        if not path.is_file():
            raise _refused(path, "a file that is there")
        if path.stat().st_size > limit:
            raise _refused(path, f"at most {limit:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise _refused(path, f"a readable text ({first_line(problem)})") from None


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as problem:
        raise _refused(path, f"JSON ({first_line(problem)})") from None


def _finite(number: str) -> float:
    if not math.isfinite(found := float(number)):
        raise ValueError(f"{number} is not a finite number")
    return found


def require_plain(found: Any, path: Path | str, key: str = "", depth: int = _DEEP) -> None:
    """Raise a `UserError` that names `path`, unless `found` is plain scalars in lists and mappings."""
    if depth == 0:
        raise _refused(path, f"at most {_DEEP} levels")
    if isinstance(found, Mapping):
        for name, inner in found.items():
            if not isinstance(name, str) or _RESERVED.fullmatch(name) or "${" in name:
                raise _refused(path, f"plain values, and {name!s:.50} is none")
            require_plain(inner, path, f"{key}.{name}", depth - 1)
    elif isinstance(found, list):
        for inner in found:
            require_plain(inner, path, key, depth - 1)
    elif not _is_plain(found):
        raise _refused(path, f"plain values, and {key[1:]} is none ({found!s:.100})")


def _is_plain(found: Any) -> bool:
    """Return whether `found` is a scalar without interpolation: a text, a finite number, a bool or None."""
    if isinstance(found, str):
        return "${" not in found
    return found is None or (isinstance(found, int | float) and math.isfinite(found))


def _refused(path: Path | str, expected: str) -> UserError:
    return UserError(f"{path}: expected {expected}")
