"""The budget of device memory."""

from __future__ import annotations

import weakref

import torch

from frostline.store.device_budget import DeviceBudget
from frostline.store.rows import Rows


def test_moved_tensor_is_released_on_the_host() -> None:
    room = DeviceBudget(torch.device("meta"), 1000)
    held = torch.ones(100)
    kept = weakref.ref(held)
    moved = room.take(held)
    del held
    assert kept() is None
    assert moved.device.type == "meta"
    assert room.free == 600
    del moved
    assert room.free == 1000


def test_tensor_on_the_device_takes_room_while_in_use() -> None:
    room = DeviceBudget(torch.device("cpu"), 1000)
    held = Rows(torch.ones(100), torch.arange(50))
    taken = room.take(held)
    assert taken is not held
    assert room.free == 800
    assert isinstance(room.take(torch.ones(300)), Rows)
    del taken
    assert room.free == 1000
