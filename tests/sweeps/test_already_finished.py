"""The answer from an earlier sweep holds only if its runs had the data that the new ones have."""

from __future__ import annotations

from pathlib import Path

import pytest

from frostline.core import project
from frostline.records import layout, liveness
from frostline.sweeps import already_finished
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.past_runs import PastRun
from small import compose


@pytest.mark.parametrize(
    "damage", ['{"tracker": null', '{"tracker": null, "runs": [{"name": "head", "later": 1}]}', "[]"]
)
def test_sweep_with_a_damaged_file_answers_nothing(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "multirun", lambda: tmp_path)
    (folder := tmp_path / "2026-01-01" / "12-00-00").mkdir(parents=True)
    liveness.write(folder / layout.OWNER)
    (folder / layout.DATA).write_text("{}")
    (folder / layout.SWEEP).write_text(damage)
    assert already_finished.begun_with(compose("resume=true"), 1, None) == []


@pytest.mark.parametrize(
    ("prints", "same"),
    [(("a", "a", "b"), True), (("a", "a", "a"), True), (("a", "c", "b"), False), (("a", None, "b"), False)],
)
def test_runs_with_the_same_data_section_need_one_fingerprint(prints: tuple[str | None, ...], same: bool) -> None:
    sections = ("data.limit=60", "data.limit=60", "data.limit=70")
    planned = [PlannedRun(compose(section), section, {}, str(number)) for number, section in enumerate(sections)]
    pasts = [PastRun(None, "FINISHED", {layout.FINGERPRINT_TAG: one} if one else {}) for one in prints]
    assert already_finished._on_same_data(planned, pasts) is same
