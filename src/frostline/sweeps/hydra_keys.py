"""Checks of Hydra's own keys.

Hydra accepts every key of its own; the few that a sweep cannot honour are refused here, before anything starts. All
others work as Hydra's documentation says.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from frostline.core.errors import user_error
from frostline.core.hydra_errors import unreadable
from frostline.core.project import config_folder
from frostline.sweeps import hydra_flags

_ONE = "since a single run is a sweep of one"
_TYPED = {  # keys to check before Hydra acts on them: the only value allowed, and what the error expects
    "hydra.mode": ("MULTIRUN", f"MULTIRUN, {_ONE}"),
    "hydra/sweeper": ("frostline", "frostline, which checks every run before the first starts"),
    "hydra.run.dir": (None, f"nothing, {_ONE}; hydra.sweep.dir=<folder> sets its folder"),
}
_SUBDIR = "${hydra:job.num}"  # the default
_LONGEST = 250  # bytes of an option's name, which is a file name: a longer one raises OSError inside Hydra
_OUTPUT = re.compile(r"\.\w[\w.-]*")


def check_typed(arguments: Sequence[str], commands: Callable[[], Sequence[str]] = tuple) -> None:
    """Raise `UserError` for arguments that would bypass our sweeper or have no effect.

    The `commands` are suggested for a word that is no key.
    """
    hydra_flags.check(arguments)
    for before, argument in itertools.pairwise(["", *arguments]):
        key, equals, value = argument.lstrip("+").partition("=")
        if equals and not key:
            raise unreadable(argument, commands())  # Hydra would take the missing key for a group
        is_group = "/" in key or key == "freeze" or (key.isidentifier() and (config_folder() / key).is_dir())
        if is_group and any(len(os.fsencode(option)) > _LONGEST for option in value.split(",")):
            raise user_error(key, value, "the name of an option, see --help")
        if key in _TYPED and value != _TYPED[key][0]:
            raise user_error(key, value, _TYPED[key][1])
        if key == "hydra.launcher":
            expected = f"a slash, hydra/launcher={value}, or keys within it, as hydra.launcher.workers"
            raise user_error(key, value, expected)
        if value.endswith(".tar") and before.endswith(".tar") and before.startswith(f"{key}="):
            quoted = shlex.quote(f'{key}="train-{{000..099}}.tar"')
            raise user_error(
                key, value, f"one pattern of shards; the shell expands braces that are not quoted: {quoted}"
            )


def hydra_options(hydra: Any) -> list[str]:
    """Return what was typed for Hydra, given its config: config folders and keys of the launcher."""
    folders = [f"--config-dir={one.path}" for one in hydra.runtime.config_sources if one.provider == "command-line"]
    launcher = ("hydra/launcher", "hydra.launcher.")
    return [*folders, *(one for one in hydra.overrides.hydra if one.lstrip("+").startswith(launcher))]


def check(config: DictConfig, *, own_launcher: bool) -> None:
    """Raise `UserError` for a value of Hydra's own config that a sweep cannot honour."""
    hydra = config.hydra
    if hydra.job.chdir:
        expected = "false: a run has its own folder; relative paths start at the working directory of the command"
        raise user_error("hydra.job.chdir", "true", expected)
    if config.cluster.detach and own_launcher:
        raise user_error("cluster.detach", "true", "to be given with cluster=slurm: here runs end with their command")
    if hydra.output_subdir is not None and not _OUTPUT.fullmatch(str(hydra.output_subdir)):
        expected = "null, or a name that begins with a dot, as .hydra, for a folder beside a run's own files"
        raise user_error("hydra.output_subdir", hydra.output_subdir, expected)
    batch = hydra.sweeper.max_batch_size
    if batch is not None and own_launcher:
        expected = "null with hydra/launcher=frostline, which runs hydra.launcher.workers jobs at the same time"
        raise user_error("hydra.sweeper.max_batch_size", batch, expected)
    if batch is not None and batch < 1:
        raise user_error("hydra.sweeper.max_batch_size", batch, "a whole number of at least 1, or null")


def subdir(config: DictConfig) -> str | None:
    """Return the pattern for the folders of runs, unresolved, if the user set one; else None."""
    told = str(OmegaConf.to_container(config.hydra.sweep)["subdir"])  # type: ignore[index, call-overload]
    return None if told == _SUBDIR else told
