"""Convert plain values, as from YAML or JSON, to the typed dataclasses of a config."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from frostline.core.errors import deleted_key, means_null, unknown_key, user_error


def section(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    """Return an instance of the (nested) dataclass `cls`; `UserError` for unknown or missing keys and wrong types."""
    if not isinstance(values, Mapping):
        raise user_error(prefix.rstrip(".") or "config", values, "keys with values")
    hints = _hints(cls)
    for key in values:
        if key not in hints:
            raise unknown_key(f"{prefix}{key}", values[key])
    for item in fields(cls):
        if item.name not in values and item.default is MISSING:
            raise deleted_key(f"{prefix}{item.name}")
    return cls(**{key: _value(hints[key], value, f"{prefix}{key}") for key, value in values.items()})


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields; cached, since evaluating the annotations takes half of the time."""
    return get_type_hints(cls)


def _value(hint: Any, value: Any, key: str) -> Any:
    if is_dataclass(hint):
        return section(hint, value, f"{key}.")  # type: ignore[arg-type]
    items = get_args(hint)
    if isinstance(value, list) and items and is_dataclass(items[0]):
        return [section(items[0], item, f"{key}[{i}].") for i, item in enumerate(value)]  # type: ignore[arg-type]
    if not fits(hint, value) or (type(None) in items and means_null(value)):
        kind = items[0] if type(None) in items else hint
        raise user_error(key, value, "a text" if kind is str else f"a value of type {getattr(kind, '__name__', kind)}")
    return value


def fits(hint: Any, value: Any) -> bool:
    """Return whether `value` has the type `hint`; Hydra checks types on the command line, but not in a record."""
    kind, items = get_origin(hint) or hint, get_args(hint)
    if kind in (Any, Union, UnionType):
        return kind is Any or any(fits(item, value) for item in items)
    if isinstance(value, list) and kind is list:
        return all(fits(items[0], item) for item in value)
    if isinstance(value, dict) and kind is dict:
        return all(fits(items[0], key) and fits(items[1], item) for key, item in value.items())
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)
