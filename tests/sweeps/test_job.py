"""A finished job removes its checkpoints and downloads; a failed one keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from frostline.core import interrupts
from frostline.records import layout, liveness
from frostline.records.result import Result
from frostline.records.sweep_facts import Interrupted, RunFacts, SweepFile, Tracker
from frostline.runs import train
from frostline.sweeps import job
from frostline.sweeps.job_config import JobConfig
from small import compose

QUICK = (
    *("freeze=head", "epochs=2", "batch_size=20", "model.image_size=32", "model.weights=null"),
    *("data.limit=60", "data.val_fraction=0.02", "data.test_fraction=0.01"),
)


def carry_out(sweep: Path, before: Path | None = None, *, overrides: Sequence[str] = QUICK) -> Result:
    """Carry out the only run of a sweep, resuming the run in the folder `before`, and return its result."""
    (sweep / "0").mkdir(parents=True, exist_ok=True)
    liveness.write(sweep / layout.OWNER)
    config = compose(*overrides)
    previous = Interrupted(None, str(before)) if before else None
    tracker = Tracker("sqlite:///none.db", "frostline", str(sweep), None, None)
    SweepFile(sweep, tracker).add([RunFacts("head", {}, "0", previous=previous)])
    return job.SweepJob(sweep, 0).carry_out(lambda: JobConfig(config, asdict(config), overrides))


def interrupt(sweep: Path, monkeypatch: pytest.MonkeyPatch, before: Path | None = None) -> Path:
    """Interrupt a run after its first epoch and return its folder, which has a checkpoint."""
    record_epoch = train.record_epoch

    def last(*arguments: object) -> None:
        record_epoch(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(interrupts, "pending", lambda: True)
        monkeypatch.setattr(interrupts, "raise_deferred", stop)

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as monkeypatch:
        monkeypatch.setattr(train, "record_epoch", last)
        with pytest.raises(KeyboardInterrupt):
            carry_out(sweep, before)
    assert any((sweep / "0" / layout.CHECKPOINT).glob("*.safetensors"))
    return sweep / "0"


def test_finished_run_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = interrupt(tmp_path / "before", monkeypatch)
    assert carry_out(tmp_path / "after", before).status == "FINISHED"
    run = tmp_path / "after" / "0"
    assert len((run / layout.METRICS).read_text().splitlines()) == 2
    assert not (before / layout.CHECKPOINT).exists() and not (run / layout.CHECKPOINT).exists()


def test_finished_run_removes_its_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = interrupt(tmp_path / "before", monkeypatch)
    run = tmp_path / "after" / "0"
    before.rename(downloaded := tmp_path / "before" / layout.PREVIOUS)
    (tmp_path / "after").mkdir()
    run.mkdir()
    downloaded.rename(run / layout.PREVIOUS)
    assert carry_out(tmp_path / "after", run / layout.PREVIOUS).status == "FINISHED"
    assert len((run / layout.METRICS).read_text().splitlines()) == 2
    assert not (run / layout.PREVIOUS).exists()


def test_failed_run_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = interrupt(tmp_path / "before", monkeypatch)
    failing = (*QUICK, "model.name=resnet18", "data.source=folder", f"data.root={tmp_path / 'nothing'}")
    assert carry_out(tmp_path / "after", before, overrides=failing).status == "FAILED"
    assert any((before / layout.CHECKPOINT).glob("*.safetensors"))
