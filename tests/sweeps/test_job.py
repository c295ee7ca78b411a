"""A job leaves nothing behind that only an interrupted run needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from frostline.core import interrupts
from frostline.records import layout, liveness
from frostline.records.result import Result
from frostline.records.sweep_record import RunFacts, SweepFile, Tracker
from frostline.runs import train
from frostline.sweeps import job
from frostline.sweeps.job_config import JobConfig
from small import compose

QUICK = (
    *("freeze=head", "epochs=2", "batch_size=20", "model.image_size=32", "model.weights=null"),
    *("data.limit=60", "data.val_fraction=0.02", "data.test_fraction=0.01"),
)


def carried_out(sweep: Path, before: Path | None = None, *, overrides: Sequence[str] = QUICK) -> Result:
    """Return how the only run of a sweep ends that goes on with the one in the folder `before`."""
    (sweep / "0").mkdir(parents=True, exist_ok=True)
    liveness.write(sweep / layout.OWNER)
    config = compose(*overrides)
    previous = {"run_id": None, "folder": str(before)} if before else None
    tracker = Tracker("sqlite:///none.db", "frostline", str(sweep), None, None)
    SweepFile(sweep, tracker).add([RunFacts("head", {}, "0", previous=previous)])
    return job.carry_out(
        lambda: JobConfig(config, asdict(config), overrides), number=0, sweep=sweep, folder=sweep / "0"
    )


def interrupted(sweep: Path, monkeypatch: pytest.MonkeyPatch, before: Path | None = None) -> Path:
    """Return the folder of a run that was interrupted after its first epoch, where its checkpoint is."""
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
            carried_out(sweep, before)
    assert any((sweep / "0" / layout.CHECKPOINT).glob("*.safetensors"))
    return sweep / "0"


def test_when_a_run_ends_no_checkpoint_of_it_is_left_wherever_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = interrupted(tmp_path / "before", monkeypatch)
    assert carried_out(tmp_path / "after", before).status == "FINISHED"
    run = tmp_path / "after" / "0"
    assert len((run / layout.METRICS).read_text().splitlines()) == 2
    assert not (before / layout.CHECKPOINT).exists() and not (run / layout.CHECKPOINT).exists()


def test_when_a_run_ends_what_was_downloaded_for_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = interrupted(tmp_path / "before", monkeypatch)
    run = tmp_path / "after" / "0"
    before.rename(downloaded := tmp_path / "before" / layout.PREVIOUS)
    (tmp_path / "after").mkdir()
    run.mkdir()
    downloaded.rename(run / layout.PREVIOUS)
    assert carried_out(tmp_path / "after", run / layout.PREVIOUS).status == "FINISHED"
    assert len((run / layout.METRICS).read_text().splitlines()) == 2
    assert not (run / layout.PREVIOUS).exists()


def test_a_run_that_fails_leaves_what_it_went_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = interrupted(tmp_path / "before", monkeypatch)
    failing = (*QUICK, "model.name=resnet18", "data.source=folder", f"data.root={tmp_path / 'nothing'}")
    assert carried_out(tmp_path / "after", before, overrides=failing).status == "FAILED"
    assert any((before / layout.CHECKPOINT).glob("*.safetensors"))
