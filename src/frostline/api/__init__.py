"""The Python API: sweeps, runs and networks as objects, for notebooks and programs; the commands use it, too.

`import frostline` loads these names on first use, and loads neither torch nor MLflow itself.
"""

from __future__ import annotations

import atexit
import os
import reprlib
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.api import arguments
from frostline.api.advice import Advice
from frostline.api.classifier import Classifier
from frostline.api.results import Report as Report
from frostline.api.results import Run, Sweep
from frostline.core import files, project, torch_settings
from frostline.core.config import Config
from frostline.core.errors import UserError, named, user_error
from frostline.core.validation import parse
from frostline.records import layout
from frostline.tracking import server

if TYPE_CHECKING:
    import torch

    from frostline.runs.plan import Plan


_OURS = "frostline: "  # prefix of error messages of the command line


def compose(*overrides: str) -> Config:
    """Return the checked config of one run, as `python train.py` composes it: `compose("freeze=head", "lr=1e-3")`.

    Imports no torch, and restores Hydra's global state. UserError for settings that no run can have.
    """
    from frostline.sweeps.compose import compose_one

    return compose_one(arguments.texts(overrides))


def plan(config: Config) -> Plan:
    """Return the plan of a run of `config`, stage by stage; opens its data and trains nothing."""
    if not isinstance(config, Config):
        raise user_error("config", reprlib.repr(config), 'what compose("freeze=head") returns')
    checked = parse(asdict(config))  # values may have been replaced after `compose`
    from frostline.report.terminal import Screen
    from frostline.runs.plan import describe
    from frostline.runs.setup import assemble
    from frostline.sweeps import find_weights

    with server.isolated_settings(), torch_settings.isolated(), tempfile.TemporaryDirectory() as folder:
        screen = Screen.silent()
        setup = assemble(checked, Path(folder), meta=True, screen=screen, fetch=find_weights.weights)
        return describe(setup, checked.freeze_mode.name)


def advise(*overrides: str, images: int = 2000) -> Advice:
    """Estimate the worth and cost of backbones before a sweep: `advise("model=resnet18,resnet50", "data=cifar10")`.

    Uses at most `images` images, and times a few steps of each freeze mode in this process. No network is
    fine-tuned, and nothing is recorded. UserError for what a sweep refuses.
    """
    from frostline.report.terminal import Screen
    from frostline.sweeps import advice

    count = arguments.whole("images", images)
    with server.isolated_settings(), torch_settings.isolated():
        return Advice(advice.advise(arguments.texts(overrides), images=count, screen=Screen.silent()))


def sweep(*overrides: str, folder: Path | str | None = None) -> Sweep:
    """Run a sweep, as `python train.py -m` does, and return it: `sweep("freeze=head,full", "lr=1e-3,1e-4")`.

    The sweep runs in processes of its own, and their output is printed as it comes. `folder` is the folder of the
    sweep, by default a new one in `multirun/`. The results include failed runs. UserError for a mistake in
    `overrides`; KeyboardInterrupt on an interrupt, after which the same call resumes the sweep.
    """
    from frostline.report.command_line import for_hydra

    if told := [one for one in arguments.texts(overrides) if one.startswith("hydra.sweep.dir=")]:
        raise UserError(f"{told[0]}: expected as the argument `folder`")
    if told := [one for one in overrides if one.startswith("rerun=")]:
        raise UserError(f"{told[0]}: expected on the command line, as python -m frostline rerun")
    place = project.new_sweep() if folder is None else arguments.place("folder", folder)
    first = next((i for i, one in enumerate(overrides) if "=" in one and one[0] != "-"), len(overrides))
    status, lines = _process("-m", *overrides[:first], f"hydra.sweep.dir={for_hydra(str(place))}", *overrides[first:])
    if status in (0, 1) and os.path.isfile(place / layout.SWEEP):
        return open(place)
    if status == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if status == 0:
        raise user_error("overrides", " ".join(overrides), "overrides that run a sweep, and these ended without one")
    lines = lines or [f"the sweep ended with {status}"]
    line = next((one for one in reversed(lines) if one.startswith(_OURS)), lines[-1]).removeprefix(_OURS)
    with named(**{"hydra.sweep.dir": "folder"}):
        raise UserError(line.partition(", or a command first (")[0])  # only the command line has commands


def _process(*typed: str) -> tuple[int, list[str]]:
    """Run `python -m frostline`, pass its stdout on, and return its exit status and the lines of its stderr."""
    command = [sys.executable, "-m", "frostline", *typed]
    with (
        tempfile.TemporaryFile("w+", encoding="locale", errors="replace") as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, errors="replace") as process,
    ):
        said = process.stdout or ()
        try:
            sys.stdout.writelines(said)
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            sys.stdout.writelines(said)  # the process prints a summary, and would block without a reader
            process.wait()
            raise
        complaints.seek(0)
        return status, complaints.read().strip().splitlines()


def open(*names: str | Path) -> Sweep:
    """Open a recorded sweep by name; several are combined into one, and keys that differ between them become choices.

    A name is a folder, the MLflow id of a run or sweep or its beginning, or the name of a sweep or an experiment.
    UserError if there is no such sweep.
    """
    from frostline.report import combine
    from frostline.sweeps import catalog

    scratch = Path(tempfile.mkdtemp(prefix="frostline-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    with server.isolated_settings():
        found = catalog.sweeps([str(name) for name in names], scratch)
    if not found:
        raise user_error("sweep", "", "the name of a sweep")
    alone = found[0] if len(found) == 1 else None
    name = f"Sweep {alone.name}" if alone else f"{len(found)} sweeps"
    own = alone.folder if alone and not alone.folder.is_relative_to(scratch) else None
    return Sweep(name, tuple(combine.merged(found)), own, found[0].tracker, scratch)


def load(name: str | Path | Run | Sweep, *, device: str | torch.device = "auto") -> Classifier:
    """Load the trained network of a run; a sweep stands for its best cell by validation, first seed.

    `name` is as for `open`. Torch's threads and determinism are set to those of the run while the network computes,
    and restored afterwards. UserError if there is no such run, or none that kept its weights.
    """
    from frostline.runs import predict
    from frostline.sweeps import find_weights
    from frostline.sweeps.catalog import TypedName

    note = ""
    if isinstance(name, Sweep):
        result, note = find_weights.best(TypedName(name.name, "sweep"), name.results)
        name = Run(result)
    if isinstance(name, Run):
        name = name.result.run_id if name.result.run_id and not files.readable(name.folder) else name.folder
    with server.isolated_settings(), torch_settings.isolated(), find_weights.found(str(name)) as run:
        return Classifier(predict.load(run.folder, device=str(device)), note or run.note)
