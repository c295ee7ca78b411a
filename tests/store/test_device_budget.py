"""What lies on a device is let go of elsewhere, and its room comes back."""

from __future__ import annotations

import weakref

import torch

from frostline.store.device_budget import DeviceBudget
from frostline.store.rows import Rows


def test_what_was_moved_to_a_device_is_not_kept_in_memory_too() -> None:
    room = DeviceBudget(torch.device("meta"), 1000)
    held = torch.ones(100)
    kept = weakref.ref(held)
    there = room.take(held)
    del held
    assert kept() is None
    assert there.device.type == "meta"
    assert room.free == 600
    del there
    assert room.free == 1000


def test_what_is_on_the_device_already_takes_room_for_as_long_as_it_is_used() -> None:
    room = DeviceBudget(torch.device("cpu"), 1000)
    held = Rows(torch.ones(100), torch.arange(50))
    there = room.take(held)
    assert there is not held
    assert room.free == 800
    assert isinstance(room.take(torch.ones(300)), Rows)
    del there
    assert room.free == 1000
