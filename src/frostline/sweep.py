"""A sweep, from its cells to its answer: every run is composed and checked before the first one starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from frostline import environment, job, tracking
from frostline.config import Config, UserError, choices, digest, user_error
from frostline.interrupts import Terminated
from frostline.results import Result, value_text
from frostline.tracking import Tracker
from frostline.verdict import answer

_NAMED = ("freeze", "freeze_mode", "lr", "seed")  # overrides that a run's name states anyway

Overrides = Sequence[str]
"""What the command line says of one run, e.g. `["freeze=head", "lr=0.001"]`."""


@dataclass(frozen=True)
class Cell:
    """One run of the sweep before it starts."""

    config: Config
    name: str
    """e.g. `head lr=0.001 seed=0`."""
    choices: dict[str, Any]
    """The short names, and what else differs within the sweep."""


def run_sweep(
    batches: Sequence[Sequence[Overrides]],
    *,
    compose: Callable[[Overrides], DictConfig],
    launch: Callable[[Sequence[Overrides], int], object],
    folder: Path,
) -> int:
    """Check and run every job, draw the result, and return the exit status: 0 if every run is FINISHED.

    `compose` returns the config of a job, `launch` runs some jobs given the number of the first. Raises `UserError`
    before any run starts.
    """
    cells = compose_cells([overrides for batch in batches for overrides in batch], compose)
    config = cells[0].config
    root = environment.project_root()
    uri = tracking.tracking_uri(config.tracking.uri, root)
    _check(cells)
    _claim(folder)
    tracker = None if config.dry_run else _open(config, uri, root, folder)
    runs = tuple(job.Facts(cell.name, cell.choices) for cell in cells)
    job.Shared(tracker, runs).write(folder)
    interrupt = _launch(batches, launch)
    results = [_result(folder, number, cell) for number, cell in enumerate(cells)]
    _close(folder, tracker, results, interrupt)
    if interrupt is not None:
        return 143 if isinstance(interrupt, Terminated) else 130
    return 0 if all(result.status in ("FINISHED", "PLANNED") for result in results) else 1


def compose_cells(jobs: Sequence[Overrides], compose: Callable[[Overrides], DictConfig]) -> list[Cell]:
    """Return the cells of the jobs; raises `UserError` for values that no run can have, and for a cell given twice."""
    settings = [dict(override.split("=", 1) for override in overrides) for overrides in jobs]
    varied = [key for key in settings[0] if len({setting[key] for setting in settings}) > 1]
    cells: list[Cell] = []
    seen: dict[tuple[str, str], int] = {}
    for number, (overrides, setting) in enumerate(zip(jobs, settings, strict=True)):
        config = _compose(overrides, compose)
        extras = {key.lstrip("+"): setting[key] for key in varied if key not in _NAMED}
        short = choices(config)
        name = " ".join([short["freeze_mode"], *_assignments({"lr": config.lr, "seed": config.seed, **extras})])
        if (twin := seen.setdefault((digest(config), config.data.root), number)) != number:
            raise UserError(f"{name}: expected once in a sweep, but its runs {twin} and {number} are both this one")
        cells.append(Cell(config, name, {**short, **extras}))
    return cells


def _assignments(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value_text(value)}" for key, value in values.items()]


def _compose(overrides: Overrides, compose: Callable[[Overrides], DictConfig]) -> Config:
    composed = compose(overrides)
    chosen = composed.hydra.runtime.choices
    if any(override.startswith("freeze=") for override in overrides) and chosen.freeze != chosen.freeze_mode:
        raise user_error(
            "freeze", chosen.freeze, f"one of the two only, or the same as freeze_mode={chosen.freeze_mode}"
        )
    return job.config_of(composed)


def _check(cells: Sequence[Cell]) -> None:
    """Raise the `UserError` of the first cell that cannot run; looks at each model, mode, optimizer and data once."""
    from frostline import setup

    seen = set()
    for config in (cell.config for cell in cells):
        key = repr((config.device, config.model, config.freeze_mode, config.optimizer, config.data))
        if key not in seen:
            seen.add(key)
            setup.check(config)


def _claim(folder: Path) -> None:
    """Create the sweep's folder; raises `UserError` if it is there, since two sweeps must not share one."""
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        if not folder.exists():
            raise user_error("hydra.sweep.dir", folder, f"a folder that can be created ({error.strerror})") from None
        raise user_error("hydra.sweep.dir", folder, "a new folder; this one is another sweep's") from None


def _open(config: Config, uri: str, root: Path, folder: Path) -> Tracker:
    name = f"{folder.parent.name} {folder.name}"
    tags = {"frostline.sweep": str(folder.relative_to(root) if folder.is_relative_to(root) else folder)}
    return tracking.open_sweep(
        uri,
        folder=folder,
        root=root,
        experiment_name=config.experiment_name,
        name=name,
        tags=tags,
        say=job.screen().say,
    )


def _launch(
    batches: Sequence[Sequence[Overrides]], launch: Callable[[Sequence[Overrides], int], object]
) -> KeyboardInterrupt | None:
    """Run all batches; returns the interrupt if there was one. What the runs came to is in their folders."""
    first = 0
    try:
        for batch in batches:
            launch(batch, first)
            first += len(batch)
    except KeyboardInterrupt as interrupt:
        return interrupt
    return None


def _result(folder: Path, number: int, cell: Cell) -> Result:
    """Return what a run wrote, or that it never came to writing."""
    own = folder / str(number)
    written = job.read_result(own)
    if written is not None:
        return written
    reason = "ended without a result" if own.exists() else "not started"
    return Result(number, cell.name, str(own), None, "KILLED", reason, cell.choices, {})


def _close(
    folder: Path, tracker: Tracker | None, results: Sequence[Result], interrupt: KeyboardInterrupt | None
) -> None:
    """End the sweep's record, and draw the results."""
    terminal, sentence = job.screen(), answer(results)
    page = None
    if tracker is not None:
        page = _report(folder, tracker, results)
        finished = all(result.status == "FINISHED" for result in results)
        status = "FINISHED" if finished else "KILLED" if interrupt is not None else "FAILED"
        tracking.close_sweep(tracker, status=status, description=sentence, results=results, say=terminal.say)
    terminal.say("")
    terminal.table(results)
    terminal.say(sentence)
    if page is not None:
        terminal.say(f"Report: {page}")
    if tracker is not None:
        terminal.say(f"See it in MLflow: {tracking.ui_command(tracker.uri)}")


def _report(folder: Path, tracker: Tracker, results: Sequence[Result]) -> Path | None:
    """Write the report and keep it in the sweep's record; what goes wrong there must not cost the record its end."""
    from frostline import webpage

    try:
        page = webpage.write(
            folder / webpage.PAGE,
            results,
            title=f"Sweep {folder.parent.name} {folder.name}",
            tracker=asdict(tracker),
        )
    except Exception as error:
        job.screen().say(f"The report could not be written: {tracking.reason(error)}", "yellow")
        return None
    tracking.Record(folder).artifact(page)
    return page
