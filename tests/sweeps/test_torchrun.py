"""A command started by torchrun runs once, on all devices."""

from __future__ import annotations

import pytest

from frostline.core.errors import UserError
from frostline.sweeps.torchrun import once

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"}
TYPED = ["-m", "freeze=head,full"]


def test_command_without_torchrun_is_unchanged() -> None:
    assert once(TYPED, {"RANK": "1", "WORLD_SIZE": "4"}) == TYPED


@pytest.mark.parametrize("typed", [TYPED, [*TYPED, "devices=4"]])
def test_first_process_gets_all_devices_and_others_exit(typed: list[str]) -> None:
    assert once(typed, {**TORCHRUN, "RANK": "0"}) == [*TYPED, "devices=4"]
    with pytest.raises(SystemExit) as end:
        once(typed, {**TORCHRUN, "RANK": "3"})
    assert end.value.code == 0


def test_contradicting_torchrun_arguments_are_refused() -> None:
    with pytest.raises(UserError, match=r"^devices=2: expected 4, as torchrun --nproc-per-node says, or no torchrun$"):
        once(["devices=2"], {**TORCHRUN, "RANK": "0"})
    with pytest.raises(UserError, match=r"^torchrun --nnodes: expected one machine, on whose devices a run trains"):
        once(TYPED, {**TORCHRUN, "RANK": "0", "GROUP_WORLD_SIZE": "2"})
