"""The command line: a sweep through Hydra, or a command; every user error is one line and exit status 2."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import hydra
from omegaconf import DictConfig

from frostline import __version__, commands
from frostline.core import garbage, interrupts, project, streams
from frostline.core.errors import UserError
from frostline.core.hydra_errors import FOUND_WRONG, explain
from frostline.sweeps import hydra_flags, hydra_keys, hydra_overrides, hydra_parser, torchrun
from frostline.tracking import server

_QUIET = ("-q", "--quiet")
_PLACES = ("--config-dir", "-cd")  # Hydra's flags that go together with --multirun


def main() -> None:
    """Run the command line of this process; exit with 0 only if every run of the sweep finished."""
    streams.prepare()
    project.ensure_home()
    atexit.register(garbage.leave)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises exceptions instead of printing them
    project.register_resolver()
    interrupts.install(apart=1.0)
    sys.argv[1:] = [hydra_overrides.as_read(project.at_home(argument)) for argument in sys.argv[1:]]
    with _one_line():
        _carry_out(sys.argv[1:])


def _carry_out(arguments: Sequence[str]) -> None:
    """Run a command or repeat a run, and exit; or tell the version, or let Hydra start a sweep."""
    if arguments and commands.is_one(arguments[0]):
        sys.exit(commands.run(arguments[0], arguments[1:]))
    overrides = [argument for argument in arguments if argument not in _QUIET]
    if len(overrides) < len(arguments):
        streams.be_quiet()
    if "--version" in overrides:
        print(f"frostline {__version__}")
        return
    overrides = torchrun.once(overrides, os.environ)
    if again := [one for one in overrides if one.startswith("rerun=")]:
        others = [one for one in overrides if one not in (*again, "-m", "--multirun")]
        sys.exit(commands.run("rerun", [*(one.removeprefix("rerun=") for one in again), *others]))
    overrides = hydra_flags.for_help(hydra_flags.for_config(hydra_flags.flags_first(overrides)))
    hydra_keys.check_typed(overrides, commands.names)
    if not any(one.startswith("-") and one.partition("=")[0] not in _PLACES for one in overrides):
        overrides = ["--multirun", *overrides]  # else Hydra complains of commas in place of any other mistake
    sys.argv[1:] = overrides
    hydra_parser.use()
    hydra.main(version_base="1.3", config_path=str(project.config_folder()), config_name="config")(_job)()


@contextmanager
def _one_line() -> Iterator[None]:
    """End the program with one line and an exit status on a user error, a failing machine or an interrupt."""
    try:
        with _heard():
            yield
    except UserError as error:
        _refuse(str(error))
    except server.Unreachable as problem:
        _refuse(f"MLflow does not answer as expected: {problem}")
    except FOUND_WRONG as error:
        _refuse(str(explain(error, sys.argv[1:], commands.names())))
    except OSError as error:
        if error.errno is None:
            raise
        _give_up(error)
    except KeyboardInterrupt as interrupt:
        _complain(f"ended by {interrupts.name(interrupt)}")
        sys.exit(interrupts.status(interrupt))


@contextmanager
def _heard() -> Iterator[None]:
    """Ignore a closed stdout, as after `| head`: the rest of the output is dropped, and the exit status stays."""
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


def _job(composed: DictConfig) -> object:
    from frostline.sweeps.job import run_job

    return run_job(composed)


def _refuse(line: str) -> NoReturn:
    _complain(line)
    sys.exit(2)


def _complain(line: str) -> None:
    """Print the line to stderr, if stderr is open."""
    with suppress(OSError):
        print(f"frostline: {line}", file=sys.stderr, flush=True)


def _give_up(error: OSError) -> NoReturn:
    """Exit with 1 where a disk is full, read-only or gone; what is on disk stays, and the sweep can be resumed."""
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    _complain(f"{what}; once this is fixed, the same command continues from here")
    sys.exit(1)
