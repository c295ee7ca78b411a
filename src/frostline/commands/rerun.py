"""Repeat a recorded run or sweep and compare the results bit for bit: identical, or what differs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from frostline.commands import CALLED, Parser
from frostline.core import files, project
from frostline.core.config import Config
from frostline.core.config_keys import choices, differing, flatten, is_implied, semantic
from frostline.core.errors import user_error
from frostline.records import layout, provenance
from frostline.records.recording import Record
from frostline.report import terminal
from frostline.sweeps import hydra_overrides, job, recorded_runs, rerun, sweep
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.executor import Executor, Further
from frostline.sweeps.job_config import JobConfig
from frostline.sweeps.pool import Jobs
from frostline.sweeps.recorded_configs import configs_of
from frostline.sweeps.recorded_runs import Recorded
from frostline.sweeps.rerun import RerunComparison, Verdict
from frostline.tracking import tracking_uri

_STATUS = f"exit status: {', '.join(f'{verdict.value} {verdict.text}' for verdict in Verdict)}; 1 if it does not finish"


def main(arguments: list[str]) -> int:
    """Repeat and compare; the exit status is that of the worst verdict, or of the sweep if a run did not finish."""
    parser = Parser("rerun", __doc__, epilog=_STATUS)
    parser.add_argument("run", help=f"a run, or a sweep (all of its finished runs): {CALLED}")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="where to run, read and write: device=, data.root=, model.weights=, …"
    )
    options = parser.parse_args(arguments)
    overrides = [one for one in options.overrides if not one.startswith("hydra.sweep.dir=")]
    given = hydra_overrides.typed_values(options.overrides)
    named = given.get("hydra.sweep.dir")
    if named == "":
        raise user_error("hydra.sweep.dir", "", "a folder")
    folder = files.absolute(named) if named else project.new_sweep()
    uri = tracking_uri.resolved(given.get("tracking.uri"))
    with tempfile.TemporaryDirectory() as fetched:
        found = recorded_runs.find(options.run, uri=uri, folder=Path(fetched))
        planned = _planned(found, configs_of([run.config for run in found], overrides))
        again = _Again(found)
        status = sweep.run_planned(planned, executor=again, folder=folder, folder_named=bool(named))
    for number, report in again.reports.items():
        print(f"{found[number].name}: {report.verdict.text}")
    return status or max(report.verdict.value for report in again.reports.values())


def _planned(found: Sequence[Recorded], configs: Sequence[Config]) -> list[PlannedRun]:
    """Return the runs of the new sweep; their choices have the short names and every other key that differs."""
    settings, names = [semantic(config) for config in configs], [choices(config) for config in configs]
    untold = [key for key in differing(settings) if not is_implied(key, names, settings)]
    return [
        PlannedRun(
            config,
            run.name,
            {**short, **{key: values[key] for key in untold if key in values}},
            str(number),
            [f"rerun={run.identity}"],
        )
        for number, (run, config, values, short) in enumerate(zip(found, configs, settings, names, strict=True))
    ]


class _Again(Executor):
    """Repeats the recorded runs in this process, one after the other, and compares each when it ends.

    Each run trains alone, even if the original trained in lockstep with others: equal bits prove lockstep, too.
    """

    def __init__(self, found: Sequence[Recorded]) -> None:
        self._found = found
        self.reports: dict[int, RerunComparison] = {}

    def run(self, folder: Path, planned: Sequence[PlannedRun], jobs: Jobs, further: Further) -> Mapping[int, Exception]:
        """Repeat and compare the runs."""
        for number in jobs:
            (own := folder / planned[number].folder).mkdir()
            self._repeat(number, self._found[number], planned[number].config, own)
        return {}

    def _repeat(self, number: int, old: Recorded, config: Config, own: Path) -> None:
        here, then = _here(config), old.comparable.environment
        topics = {key.split(".")[0] for key in here}
        known = {key: value for key, value in then.items() if key.split(".")[0] in topics or key == "environment"}
        shown = rerun.differences(known, here if known.keys() != {"environment"} else {}, shown=True)
        for line in shown:
            terminal.say(f"  differs now: {line}")
        ours = JobConfig(config, asdict(config), [f"rerun={old.identity}"])
        result = job.SweepJob(own.parent, number).carry_out(lambda: ours)
        record = Record(own)
        record.tag(layout.RERUN_TAG, old.identity)
        if result.status != "FINISHED":
            return
        report = rerun.compare(old.comparable, recorded_runs.comparable(own, result.metrics), old.seeds)
        self.reports[number] = report
        told = {"rerun_of": old.identity, **asdict(report), "verdict": report.verdict.text}
        files.write_json(own / layout.RERUN, told)
        record.artifact(own / layout.RERUN)
        record.tag(layout.VERDICT_TAG, report.verdict.text)
        for line in report.lines(shown):
            terminal.say(f"  {line.strip()}")


def _here(config: Config) -> dict[str, object]:
    """Return the software and hardware that a run of this config would use, as flat keys."""
    from frostline.core import machine  # loads torch

    device = machine.device(config.device)
    machine.prepare_torch(
        deterministic=config.deterministic,
        threads=config.threads,
        processes=config.devices if device.type == "cpu" else 1,
    )
    return flatten({**provenance.software([]), **provenance.hardware(device, config.devices)})
