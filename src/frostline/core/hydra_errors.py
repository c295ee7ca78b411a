"""Turn errors of Hydra and OmegaConf into one line: key, value, what was expected, and the nearest right name."""

from __future__ import annotations

import difflib
import re
import shlex
import traceback
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from frostline.core import config, project
from frostline.core.errors import UserError, keys, one_line, unknown_key, unknown_option, user_error
from frostline.core.open_options import OPTIONS
from frostline.core.value_errors import given, key_of, no_name, no_such_option, of_value

_OPEN = ("optimizer.options", "search.options", "data.options", "data.splits", "freeze_mode.space")
"""Mappings to which the user may add keys."""
_THERE = re.compile(
    r"An item is already at '([^']+)'|Multiple values for ([\w/]+)\. To override|^([\w/]+) appears more than once"
    r"|force-add of config groups is not supported: '\+\+([^=]+)="
)
"""What Hydra says of a + before a key, or the name of a group, that the config has."""
_SEVERAL = r"(Ambiguous value for argument|Sweep parameters) '([^=]+)=(.*)'(?:$| requires)"
"""What Hydra says of several values, or a range, for a single run."""
_WITHOUT_OPTIONS = ("digits", "folder")
"""Values of `data.source` with which `data.options` must be empty."""
FOUND_WRONG = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError)
"""The types of the exceptions that Hydra raises while it composes a config."""


def explain(error: Exception, arguments: Sequence[str], commands: Sequence[str] = ()) -> UserError:
    """Return the user error in `arguments`, which may lack one of `commands`, or in the user's own config files.

    `error` is one of `FOUND_WRONG`; one that is about neither is raised again.
    """
    if not _is_mistake(error):
        raise error
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, yaml.YAMLError | UnicodeDecodeError):
        files = [file for folder in project.own_configs(arguments) for file in sorted(folder.rglob("*.yaml"))]
        files.sort(key=lambda file: not any(file.stem in one for one in arguments))  # named options first
        return UserError(next(filter(None, map(_no_yaml, files)), " ".join(text.split())))
    if found := re.match(r"In '(.+/.+)': \w+ raised while composing config:", text):
        return _in_file(f"{found[1]}.yaml", text, arguments)
    blamed_last = sorted(arguments, key=lambda one: one.lstrip("+") in text)  # a key may be typed twice
    return _explained(error, text, blamed_last, commands)


def _is_mistake(error: Exception) -> bool:
    """Return whether `error` is about the command line or a config file; a general one is if Hydra raised it."""
    if isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        return True
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [name for name in modules if name.partition(".")[0] not in ("codecs", "omegaconf")]
    return bool(own) and own[-1].startswith("hydra.")


def _no_yaml(file: Path) -> str | None:
    """Return the message for a file that is not YAML, which the error does not always name; None if it is YAML."""
    try:
        OmegaConf.load(file)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return f"{file}{line}: expected YAML, and this is none ({error.problem})"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return f"{file}: expected YAML, a text in UTF-8 ({one_line(error)})"
    except (OSError, OmegaConfBaseException):
        return None
    return None


def _in_file(file: str, text: str, arguments: Sequence[str]) -> UserError:
    """Return the user error in the config file of an option."""
    if key := re.search(r"Key '(.+)' not in '(\w+)'", text):
        if file.startswith(f"{key[1]}/"):
            return UserError(f"{file}: expected to begin with `# @package _global_`, since it sets keys of every group")
        known = [item.name for item in fields(getattr(config, key[2], config.Config))]
        return user_error(f"{file}: {key[1]}", "?", f"a key, one of {', '.join(known)}", known)
    if "Invalid type assigned: list" in text:
        return UserError(f"{file}: expected keys and values, key: value, and not a list")
    return UserError(f"{file}: {_explained(UserError(''), text, arguments, ())}")


def _explained(error: Exception, text: str, arguments: Sequence[str], commands: Sequence[str]) -> UserError:
    """Return the user error behind an error of Hydra or OmegaConf with the message `text`."""
    if isinstance(error, OverrideParseException):
        return unreadable(error.override, commands)
    if found := re.search(r"Cannot find primary config '([^']*)'", text):
        return user_error("--config-name", found[1], "the name of a config, which is config unless you have your own")
    if "resolving interpolation '${freeze}'" in text:  # a list, or nothing at all
        expected = "one option, or several with commas between: freeze=head,full"
        return user_error("freeze", given("freeze", arguments), expected)
    if found := re.search(r"Could not find '(.+)/([^/']*)'", text):
        return _not_found(found[1], found[2], text)
    if found := re.search(_SEVERAL, text, re.MULTILINE):
        return _not_single(found[1], found[2], found[3], arguments)
    if "hydra.searchpath must be a list" in text:
        expected = "a list of folders in brackets, as [file:///home/me/conf]"
        return user_error("hydra.searchpath", given("hydra.searchpath", arguments), expected)
    added = [argument for argument in arguments if argument.startswith("+")]
    if (found := re.search(_THERE, text)) and (key := next(filter(None, found.groups()))) in map(key_of, added):
        value = given(key, added)
        return user_error(key, value, f"no + before it, as the config has this key: {shlex.quote(f'{key}={value}')}")
    if found := re.search(r"Could not override '([^']+)'", text):
        return _not_there(found[1], text, arguments)
    return of_value(text, arguments)


def _not_found(group: str, name: str, text: str) -> UserError:
    """Return the user error for the option `name` of a config group, of which Hydra has no file."""
    launcher = name.removeprefix("submitit_")
    if group == "hydra/launcher" and launcher in ("slurm", "ray"):
        return user_error("cluster", launcher, f"its launcher, installed by `pip install 'frostline[{launcher}]'`")
    if group == "search" and name in ("median", "hyperband", "asha", "wilcoxon"):
        expected = "a sampler; the rule that stops trials early is another key: search=tpe search.prune="
        return user_error("search", name, expected + name.replace("asha", "hyperband"))
    return no_such_option(group, name, re.findall(r"^\t(\S+)$", text, re.MULTILINE))


def _not_single(said: str, key: str, value: str, arguments: Sequence[str]) -> UserError:
    """Return the user error for several values of a key, or a range, where there is one run."""
    if {"--cfg", "-c"} & {argument.partition("=")[0] for argument in arguments}:
        value = value.replace("choice(auto)", "auto")  # as typed
        return user_error(key, value, "one value, since --cfg shows the config of one run")
    hint = "a sweep searches a range with search=tpe" if said == "Sweep parameters" else "write a list in brackets"
    return user_error(key, value, f"one value, for one run; {hint}")


def _not_there(key: str, text: str, arguments: Sequence[str]) -> UserError:
    """Return the user error for a key that the config lacks: unknown, or one to add with a +."""
    value = given(key, arguments)
    if key.startswith("search.space."):
        return user_error(key, value, "search=tpe and a range, as 'interval(1e-5,1)'")
    data, known = _data_options(arguments)
    within = next((one for one in _OPEN if f"{key}.".startswith(f"{one}.")), None)
    if within == "data.options" and known == []:
        return user_error(key, value, f"no such key, since data={data} has no options")
    if within is None or (within == "data.options" and known):
        further = _further_options("optimizer.options", arguments)[1] or ()
        same = [one for one in further if one.rpartition(".")[2] == key.rpartition(".")[2]]  # such as optimizer.eps
        as_group = no_name(text, [one for one in arguments if key_of(one) == key])
        return as_group or unknown_key(key, value, [*(known or ()), *same])
    owner, its = _further_options(within, arguments)
    if its is not None and key != within and f"+{key}" not in its:
        return unknown_option(key, value, owner, its)
    expected = f"a + before it, as {within} has no such key yet: {shlex.quote(f'+{key}={value}')}"
    return user_error(key, value, expected)


def unreadable(override: str, commands: Sequence[str]) -> UserError:
    """Return the user error for an argument that Hydra's grammar cannot parse."""
    key, equals, value = override.partition("=")
    if equals and key != key.strip():
        return user_error(key, value, f"no blanks around the key: {shlex.quote(f'{key.strip()}={value.strip()}')}")
    if equals and key:
        if value.endswith(","):
            return user_error(key, value, "no comma at the end of a list, and no blank after a comma")
        if re.search(r"\s[\w.]+=", value):
            return user_error(key, value, "one key in an argument, and these are several")
        quoted = shlex.quote(f'{key}="{value}"')
        expected = f"one value, or several with commas between; to use special characters, quote it: {quoted}"
        return user_error(key, value, expected)
    if override in commands:
        return UserError(f"{override}: expected as the first word, since it is a command (frostline {override} --help)")
    key, _, value = override.partition(":")
    in_section = any(one.startswith(f"{key}.") for one in keys())
    if key in keys() and (not in_section or (project.config_folder() / key).is_dir()):
        return UserError(f"{override}: expected {key}={value or '<value>'}")
    near = difflib.get_close_matches(override, [*commands, "--help", "--version"], n=1)
    command = f", or a command first ({', '.join(commands)})" if commands else ""
    blank = "without blanks around =" if equals else "a value with a blank in it is quoted: 'key=\"a b\"'"
    hint = f"; did you mean {near[0]}?" if near else f"; {blank}" if commands else ""
    return UserError(f"{override}: expected key=value{command}{hint}")


def _data_options(arguments: Sequence[str]) -> tuple[str, list[str] | None]:
    """Return the chosen data set, and its keys of `data.options`.

    None if any key is possible: for a data set of torchvision, a source that was typed (of a plugin), and a data set
    whose config does not come with frostline.
    """
    name = _chosen("data", arguments)
    file = project.config_folder() / "data" / f"{name}.yaml"
    if not file.is_file() or given("data.source", arguments) != "?":
        return name, None
    of_data: Any = OmegaConf.load(file)
    if "options" not in of_data and of_data.source not in _WITHOUT_OPTIONS:
        return name, None
    return name, [f"data.options.{key}" for key in of_data.get("options", ())]


def _further_options(within: str, arguments: Sequence[str]) -> tuple[str, list[str] | None]:
    """Return the chosen optimizer or way to search, and the keys of its options as they are typed.

    None if any key is possible: in another mapping, and for an optimizer whose config does not come with frostline.
    """
    group = within.partition(".")[0]
    name = _chosen(group, arguments) if group in OPTIONS else "?"
    known = OPTIONS.get(group, {}).get(name)
    if known is None or given(f"{group}.name", arguments) != "?":
        return name, None
    in_file: Any = OmegaConf.load(project.config_folder() / group / f"{name}.yaml")
    keys = [f"{'' if key in in_file.get('options', ()) else '+'}{within}.{key}" for key in known.split()]
    return f"{group}={name}", keys


def _chosen(group: str, arguments: Sequence[str]) -> str:
    """Return the chosen option of a config group, `?` if an experiment may choose it."""
    name = given(group, arguments)
    if name == "?" and given("experiment", arguments) == "?":
        return str(next(one[group] for one in _defaults() if group in one))
    return name


def _defaults() -> Sequence[Any]:
    whole: Any = OmegaConf.load(project.config_folder() / "config.yaml")
    return [one for one in whole.defaults if not isinstance(one, str)]
