"""What torchrun starts as often as there are devices is done once, on all of them."""

from __future__ import annotations

import pytest

from frostline.core.errors import UserError
from frostline.sweeps.torchrun import once

OURS = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"}
TYPED = ["-m", "freeze=head,full"]


def test_without_torchrun_a_command_stays_as_it_is() -> None:
    assert once(TYPED, {"RANK": "1", "WORLD_SIZE": "4"}) == TYPED


@pytest.mark.parametrize("typed", [TYPED, [*TYPED, "devices=4"]])
def test_the_first_process_has_all_devices_and_the_others_end_well(typed: list[str]) -> None:
    assert once(typed, {**OURS, "RANK": "0"}) == [*TYPED, "devices=4"]
    with pytest.raises(SystemExit) as end:
        once(typed, {**OURS, "RANK": "3"})
    assert end.value.code == 0


def test_what_torchrun_says_otherwise_or_of_other_machines_is_refused() -> None:
    with pytest.raises(UserError, match=r"^devices=2: expected 4, as torchrun --nproc-per-node says, or no torchrun$"):
        once(["devices=2"], {**OURS, "RANK": "0"})
    with pytest.raises(UserError, match=r"^torchrun --nnodes: expected one machine, on whose devices a run trains"):
        once(TYPED, {**OURS, "RANK": "0", "GROUP_WORLD_SIZE": "2"})
