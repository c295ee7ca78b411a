"""The command line: Hydra's for sweeps, or a command; every mistake of the person's is one line and exit status 2."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from frostline import commands
from frostline.core import interrupts, project, streams
from frostline.core.errors import UserError, unknown_key, user_error
from frostline.sweeps import hydra_keys
from frostline.tracking import server


def main() -> None:
    """Run the command line of this process; exits with 0 only if every run of the sweep finished."""
    streams.prepare()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come here instead of being printed
    OmegaConf.register_new_resolver("project_root", lambda: str(project.project_root()), replace=True)
    interrupts.install()
    sys.argv[1:] = map(_at_home, sys.argv[1:])
    with _one_line():
        if len(sys.argv) > 1 and sys.argv[1] in commands.names():
            sys.exit(commands.run(sys.argv[1], sys.argv[2:]))
        if again := [argument for argument in sys.argv[1:] if argument.startswith("rerun=")]:
            others = [argument for argument in sys.argv[1:] if argument not in again]
            named = [argument.removeprefix("rerun=") for argument in again]
            sys.exit(commands.run("rerun", [*named, *others]))
        if stray := [argument for argument in sys.argv[1:] if argument.startswith("=")]:
            _refuse(_unreadable(stray[0]))  # Hydra takes the missing key for a group
        hydra_keys.check_typed(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(project.config_folder()), config_name="config")(_job)()


@contextmanager
def _one_line() -> Iterator[None]:
    """End the program with one line and an exit status where the person, the machine or an interrupt ends the block."""
    try:
        with _heard():
            yield
    except UserError as error:
        _refuse(str(error))
    except server.Unreachable as problem:
        _refuse(f"MLflow does not answer as it should: {problem}")
    except (HydraException, OmegaConfBaseException) as error:
        _refuse(explain(error))
    except ValueError as error:
        if not _raised_by_hydra(error):
            raise
        _refuse(explain(error))
    except OSError as error:
        if error.errno is None:
            raise
        _give_up(error)
    except KeyboardInterrupt as interrupt:
        _complain(f"ended by {interrupts.name(interrupt)}")
        sys.exit(interrupts.status(interrupt))


@contextmanager
def _heard() -> Iterator[None]:
    """Let whoever reads the output leave early, as in `| head`: the rest is printed to nobody, and nothing is wrong."""
    status = None
    try:
        try:
            yield
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if status is not None:
        sys.exit(status)


def _at_home(argument: str) -> str:
    """Return `argument` with the home folder for each `~/` that begins a value: shells leave it, Hydra refuses it."""
    return re.sub(r"(?<=[=,])~(?=/)", lambda _: os.path.expanduser("~"), argument)  # noqa: PTH111


def _job(composed: DictConfig) -> object:
    from frostline.sweeps.job import run_job

    return run_job(composed)


def _refuse(line: str) -> NoReturn:
    _complain(line)
    sys.exit(2)


def _complain(line: str) -> None:
    """Print the line to stderr, if that is there: the exit status says it too."""
    with suppress(OSError):
        print(f"frostline: {line}", file=sys.stderr, flush=True)


def _give_up(error: OSError) -> NoReturn:
    """End where a disk is full, read-only or gone: nothing is wrong with the program, and nothing is lost."""
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    _complain(f"{what}; once that is mended the same command goes on from here")
    sys.exit(1)


def _raised_by_hydra(error: Exception) -> bool:
    """Return whether Hydra itself found fault with the command line, in the plain ValueError that it sometimes uses."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("hydra.")


def explain(error: Exception) -> str:
    """Return what Hydra or OmegaConf found wrong as one line: key, value, what was expected, and the nearest name."""
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if "resolving interpolation '${freeze}'" in text:  # a list, or nothing at all
        return str(
            user_error("freeze", _given("freeze"), "one option, or several with commas between: freeze=head,full")
        )
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)/([^/']*)'", text)):
        options = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        expected = "one of " + ", ".join(options) if len(options) <= 20 else f"one of the {len(options)} of --help"
        return str(user_error(found[1], found[2], expected, options))
    if found := re.search(r"Could not override '([^']+)'", text):
        return str(unknown_key(found[1], _given(found[1])))
    if found := re.search(r"field '([^']+)' is not Optional", text):
        return str(user_error(found[1], "null", "a value"))
    key = found[1] if (found := re.search(r"full_key: (\S+)", text)) else "?"
    if "Missing mandatory value" in text:
        return str(user_error(key, "???", f"a value, as in {key}=<value>"))
    if found := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        return str(user_error(key, found[1], f"a value of type {found[2].lower()}"))
    if found := re.search(r"Value '(.*)' is not a valid bool", text):
        return str(user_error(key, found[1], "true or false"))
    if re.search(r"Invalid type assigned|Cannot assign \w+ to Dict", text):
        return str(user_error(key, _given(key), f"keys within it, as in {key}.<key>=<value>"))
    if "Config group override must be a string" in text:
        group = next((a.partition("=")[0] for a in sys.argv[1:] if a.lower().endswith("=null")), "?")
        return str(user_error(group, "null", "one of the options of --help"))
    return " ".join(text.split())


def _unreadable(override: str) -> str:
    """Return what to say of an argument that Hydra's grammar cannot read."""
    key, equals, value = override.partition("=")
    if equals and key:
        quoted = shlex.quote(f'{key}="{value}"')
        expected = f"one value, or several with commas between; as one with other signs: {quoted}"
        return str(user_error(key, value, expected))
    known = commands.names()
    near = difflib.get_close_matches(override, known, n=1)
    return f"{override}: expected key=value, or a command first ({', '.join(known)})" + (
        f"; did you mean {near[0]}?" if near else ""
    )


def _given(key: str) -> str:
    """Return the value that the command line gives to `key`."""
    return next((a.partition("=")[2] for a in sys.argv[1:] if a.partition("=")[0].lstrip("+~") == key), "?")
