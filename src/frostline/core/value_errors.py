"""User errors behind the messages of OmegaConf about a value, and of Hydra about the option of a config group."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Sweep

from frostline.core import project
from frostline.core.errors import UserError, deleted_key, user_error

_NO_MAPPING = r"Invalid type assigned|Cannot assign \w+ to Dict|type hint 'typing.Dict|merge DictConfig with ListConfig"
"""What OmegaConf says of a value for a key that has keys within it."""
_UNDELETED = r"Could not delete from config\. (?:The value of )?'([^']+)'|override ~([^\s=]+)\S*\s.* deletion"
"""What Hydra and OmegaConf say of a ~ before a key that is not there, has another value, or belongs to the schema."""


def of_value(text: str, arguments: Sequence[str]) -> UserError:
    """Return the user error behind a message of OmegaConf about a value; other messages stay as they are."""
    if found := re.search(r"field '([^']+)' is not Optional", text):
        return user_error(found[1], "null", "a value")
    key = found[1] if (found := re.search(r"full_key: (\S+)", text)) else "?"
    if "Missing mandatory value" in text:
        return user_error(key, "???", f"a value, as in {key}=<value>{_or_in_own_file(key, arguments)}")
    if found := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        several = ", or several without brackets" if found[1].startswith("[") else ""
        return user_error(key, found[1], f"a value of type {found[2].lower()}{several}")
    if found := re.search(r"Value '(.*)' is not a valid bool", text):
        return user_error(key, found[1], "true or false")
    if "is not a ListConfig, list or tuple" in text:
        return user_error(key, given(key, arguments), "a list in brackets")
    if found := re.search(r"Cannot convert '\w+' to string: '(.*)'", text):
        return user_error(key, found[1], "a value of type string")
    if found := re.search(_UNDELETED, text):
        return deleted_key(found[1] or found[2])
    if found := re.search(r"Interpolation key '(.+)' not found", text):
        return user_error(key, given(key, arguments), f"the name of a key in the braces, and {found[1]} is none")
    if found := re.search(r"Environment variable '(.+)' not found", text):
        return user_error(key, given(key, arguments), f"an environment variable that is set, and {found[1]} is not")
    if re.search(_NO_MAPPING, text):
        key = next((one for one in map(key_of, arguments) if one.endswith(f".{key}")), key)  # of `+data.splits.train=x`
        return user_error(key, given(key, arguments), f"keys within it, as in {key}.<key>=<value>")
    return no_name(text, arguments) or UserError(" ".join(text.split()))


def _or_in_own_file(key: str, arguments: Sequence[str]) -> str:
    """Return the advice to add the missing `key` to the file of the option of its group; empty if it has none.

    The only option of ours without a value is `model=timm`, which needs a name.
    """
    group = key.partition(".")[0]
    chosen = next((argument for argument in arguments if argument.startswith(f"{group}=")), "")
    return f", or in the file of {chosen}" if chosen and key != "model.name" and given(key, arguments) == "?" else ""


def no_such_option(group: str, value: str, options: Sequence[str]) -> UserError:
    """Return the user error for a `value` that is none of the `options` of a config group."""
    expected = "one of " + ", ".join(options) if len(options) <= 20 else f"one of the {len(options)} of --help"
    expected += ", or any of timm as model=timm model.name=<name>" if group == "model" else ""
    return user_error(group, value, expected, options)


def no_name(text: str, arguments: Sequence[str]) -> UserError | None:
    """Return the user error for a config group whose option is no name but a number, null, a mapping or a reference.

    A reference that Hydra's message `text` does not name is none of its mistakes.
    """
    parser = OverridesParser.create()
    for argument in arguments:
        group, _, typed = argument.lstrip("+").partition("=")
        if options := _options(group, arguments):
            value = parser.parse_override(argument).value()
            of_jobs = value.list if isinstance(value, ChoiceSweep) else [value]
            for one in itertools.chain.from_iterable(it if isinstance(it, list) else [it] for it in of_jobs):
                if not isinstance(one, str):
                    return no_such_option(group, typed if isinstance(one, Sweep) else json.dumps(one), options)
                if one == "???" or ("${" in one and one in text):
                    return no_such_option(group, one, options)
    return None


def _options(group: str, arguments: Sequence[str]) -> list[str]:
    """Return the options of a config group, those of the user included; empty for a key that is no group of ours."""
    name = "freeze_mode" if group == "freeze" else group
    folders = [folder / name for folder in (project.config_folder(), *project.own_configs(arguments))]
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")}) if name else []


def given(key: str, arguments: Sequence[str]) -> str:
    """Return the last value of `key` on the command line, which counts, `?` if it is not there."""
    return next((argument.partition("=")[2] for argument in reversed(arguments) if key_of(argument) == key), "?")


def key_of(argument: str) -> str:
    """Return the key that an argument sets, adds or deletes."""
    return argument.partition("=")[0].lstrip("+~")
