"""Worker processes."""

from __future__ import annotations

import os
from collections import deque

import pytest

from frostline.sweeps.pool import Pool


def test_worker_and_its_replacement_see_their_gpu() -> None:
    workers = Pool([{"CUDA_VISIBLE_DEVICES": "MIG-a"}], limit=None)
    found = []
    for task in ((os.getenv, "CUDA_VISIBLE_DEVICES"), (os._exit, 1), (os.getenv, "CUDA_VISIBLE_DEVICES")):
        run = workers.run(deque([0]), lambda _, task=task: task, stacks={}, retries=0, say=pytest.fail)
        found += [answer.value for _, answer in run]
    workers.close(now=True)
    assert found == ["MIG-a", None, "MIG-a"]
