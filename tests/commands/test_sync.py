"""`frostline sync`: which sweeps it completes."""

from __future__ import annotations

from pathlib import Path

import pytest

from frostline.commands import sync as command
from frostline.core import project
from frostline.records import journal
from frostline.tracking import pending_sweeps, server, sync, tracking_uri
from frostline.tracking.sync import SweepMirror


def test_sync_includes_sweeps_of_a_server_that_was_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(project, "project_root", lambda: tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder := tmp_path / "multirun" / "day" / "time").mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    place = pending_sweeps.RecordPlace("http://127.0.0.1:9", "frostline")
    journal.append(folder, "run", uid="a" * 32, name="sweep", host="here", uri=place.uri, experiment=place.experiment)
    pending_sweeps.remember(folder, place)
    asked: list[str] = []

    def refuse(sweep: SweepMirror) -> bool:
        asked.append(sweep.place.uri)
        raise server.Unreachable("refused")

    monkeypatch.setattr(sync, "complete", refuse)
    assert command.main([]) == 1
    assert asked == [place.uri] and f"{folder}: still pending, refused\n" in capsys.readouterr().out
    assert command.main(["--uri", tracking_uri.resolved(None)]) == 0
    assert len(asked) == 1 and capsys.readouterr().out == "Nothing is pending.\n"
