"""The config that runs again is the recorded one, whatever the defaults have in its sections."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from frostline.core.config_keys import digest
from frostline.sweeps.recorded_runs import config_of
from small import compose


@pytest.mark.parametrize("chosen", ["optimizer=sgd", "freeze=lora", "freeze=probe", "data=glyphs"])
def test_a_section_of_a_record_replaces_that_of_the_defaults(chosen: str) -> None:
    recorded = compose(chosen, "lr=0.123")
    assert digest(config_of(asdict(recorded), ["device=cpu"])) == digest(recorded)
