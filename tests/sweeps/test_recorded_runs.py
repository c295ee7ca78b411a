"""The config that runs again is the recorded one, whatever the defaults have in its sections."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from frostline.core.config_keys import digest
from frostline.sweeps import recorded_runs
from frostline.sweeps.recorded_runs import config_of
from small import compose


@pytest.mark.parametrize("chosen", ["optimizer=sgd", "freeze=lora", "freeze=probe", "data=glyphs"])
def test_a_section_of_a_record_replaces_that_of_the_defaults(chosen: str) -> None:
    recorded = compose(chosen, "lr=0.123")
    assert digest(config_of(asdict(recorded), ["device=cpu"])) == digest(recorded)


def test_data_lie_where_the_sweep_found_them_wherever_the_rerun_is_typed(tmp_path: Path) -> None:
    (run := tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "labels.csv").write_text("path,label\n")
    recorded = asdict(compose("data=table", "data.root=labels.csv"))
    facts: dict[str, Any] = {"name": "head", "choices": {}, "folder": "0"}
    for place, expected in (
        (str(tmp_path / "labels.csv"), str(tmp_path / "labels.csv")),
        (str(tmp_path / "gone.csv"), "labels.csv"),
        (None, "labels.csv"),
    ):
        (tmp_path / "sweep" / "sweep.json").write_text(
            json.dumps({"tracker": None, "runs": [{**facts, "data": place}]})
        )
        assert recorded_runs._with_place(recorded, run)["data"]["root"] == expected
    assert recorded_runs._with_place(recorded, tmp_path) == recorded
