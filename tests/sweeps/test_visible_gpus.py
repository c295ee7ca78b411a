"""Which GPUs or MIG parts each worker sees."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from frostline.core import driver
from frostline.core.driver import SHARING
from frostline.core.errors import UserError
from frostline.sweeps import visible_gpus
from frostline.sweeps.executor import Workers
from small import compose

H100 = "NVIDIA H100 80GB HBM3"
LISTS = {
    "one": (f"GPU 0: {H100} (UUID: GPU-a)\n", ["0"]),
    "four": ("".join(f"GPU {i}: {H100} (UUID: GPU-{i})\n" for i in range(4)), ["0", "1", "2", "3"]),
    "one of two divided": (
        f"GPU 0: {H100} (UUID: GPU-a)\n  MIG 3g.40gb     Device  0: (UUID: MIG-1)\n"
        f"  MIG 3g.40gb     Device  1: (UUID: MIG-2)\nGPU 1: {H100} (UUID: GPU-b)\n",
        ["MIG-1", "MIG-2", "1"],
    ),
}
"""Output of `nvidia-smi -L` as in NVIDIA's guide to MIG, and the device names that CUDA takes."""


@pytest.mark.parametrize("which", LISTS)
def test_each_gpu_and_each_mig_part_gets_a_worker(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, names = LISTS[which]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=text))
    assert visible_gpus.places(None, gpus=True) == [{"CUDA_VISIBLE_DEVICES": name} for name in names]


@pytest.mark.parametrize("problem", [FileNotFoundError("nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 20)])
def test_without_nvidia_smi_the_driver_lists_gpus(
    problem: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "run", fails)
    monkeypatch.setattr(visible_gpus, "_DRIVER", tmp_path)
    assert visible_gpus.places(None, gpus=True) == [{}]
    for slot in ("0000:17:00.0", "0000:65:00.0"):
        (tmp_path / slot).mkdir()
    assert visible_gpus.places(None, gpus=True) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("MIG-1, GPU-b", ["MIG-1", "GPU-b"]),
        ("0,-1,1", ["0"]),
        ("", [None]),
        ("void", [None]),
        ("none", [None]),
        ("NoDevFiles", [None]),
    ],
)
def test_visible_devices_are_read_as_by_cuda(
    visible: str, names: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus.places(None, gpus=True) == [
        {} if name is None else {"CUDA_VISIBLE_DEVICES": name} for name in names
    ]


def test_cpu_build_of_torch_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert len(visible_gpus.places(None, gpus=True)) == 2
    monkeypatch.setattr(metadata, "version", {"torch": "2.11.0+cpu"}.__getitem__)
    assert visible_gpus.places(None, gpus=True) == [{}]


def test_old_driver_has_one_cpu_worker_and_refuses_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = "NVIDIA's driver 550.54 knows CUDA up to 12.4, and torch 2.15 needs one for CUDA 13.2"
    messages: list[str] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(driver, "too_old", lambda: old)
    assert visible_gpus.places(None, gpus=True, say=messages.append) == [{}]
    assert messages == [f"no GPU is used: {old}"]
    with pytest.raises(UserError, match=rf"^devices=2: expected 1, as {old}; with device=cpu it trains in as"):
        visible_gpus.places(None, gpus=True, each=2, say=messages.append)
    for device in ("cuda", "cuda:1"):
        workers = Workers(SimpleNamespace(start=pytest.fail), compose)
        with pytest.raises(UserError, match=rf"^device={device}: expected cpu, or a newer driver: {old}$"):
            workers.start(replace(compose(), device=device))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus.places(None, gpus=True, say=pytest.fail) == [{}]


def test_named_gpu_is_shared_by_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(driver, "_of_driver", lambda: (99, 0))
    started: list[dict[str, Any]] = []
    for device in ("cuda:1", "cpu", "cuda", "auto"):
        Workers(SimpleNamespace(start=lambda **how: started.append(how)), compose).start(
            replace(compose(), device=device)
        )
    assert [how["gpus"] for how in started] == [False, False, True, True]
    assert visible_gpus.places(2, gpus=False) == [{SHARING: "2"}] * 2  # both see all GPUs and share one's memory


def test_runs_on_several_gpus_get_that_many_per_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    one, other = visible_gpus.places(None, gpus=True, each=2)
    assert (one, other) == ({"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"})
    assert visible_gpus.places(1, gpus=False, each=2) == [{}]
    with pytest.raises(UserError, match=r"^devices=8: expected at most 5, the GPUs that a run may use; with device="):
        visible_gpus.places(None, gpus=True, each=8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"^devices=2: expected 1, as there is no GPU; with device=cpu it trains in as"):
        visible_gpus.places(2, gpus=True, each=2)


@pytest.mark.parametrize(
    ("visible", "workers", "expected"),
    [
        ("0,1", None, [("0", None), ("1", None)]),
        ("0,1", 3, [("0", "2"), ("1", None), ("0", "2")]),
        ("5", 2, [("5", "2")] * 2),
        ("", 2, [(None, "2")] * 2),
        ("", None, [(None, None)]),
    ],
)
def test_workers_know_how_many_share_their_gpu(
    visible: str, workers: int | None, expected: list[tuple[str | None, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = visible_gpus.places(workers, gpus=True)
    assert all(place.keys() <= {"CUDA_VISIBLE_DEVICES", SHARING} for place in found)
    assert [(place.get("CUDA_VISIBLE_DEVICES"), place.get(SHARING)) for place in found] == expected
