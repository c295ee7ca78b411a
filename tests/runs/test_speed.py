"""The cost metrics of a run: bytes per task, adapter size and inference speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from frostline.records.result import ADAPTER_BYTES, ADAPTER_PARAMETERS, BYTES, MERGE_ERROR, PARAMETERS, SPEED
from frostline.report.terminal import Screen
from frostline.runs import final_weights, speed
from frostline.runs.setup import assemble
from small import SMALL, TINY, FakeScreen, compose, execute_run

MODES = ("head", "full", "lora", "knn")
CLASSES, IMAGES = 10, 24


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, float]]]:
    """Return the folder and metrics of a run of each mode."""
    found = {}
    for mode in MODES:
        folder = tmp_path_factory.mktemp(mode)
        found[mode] = folder, execute_run(compose(*SMALL, f"freeze={mode}", "epochs=1"), folder)[0]
    return found


@pytest.mark.slow
def test_bytes_per_task_count_what_a_mode_learns(runs: Any) -> None:
    of_head, of_full, of_lora, of_knn = (runs[mode][1][BYTES] for mode in MODES)
    assert of_head == 4 * runs["head"][1][PARAMETERS]
    assert of_full == sum(tensor.nbytes for tensor in load_file(runs["full"][0] / "best.safetensors").values())
    assert of_lora == sum(file.stat().st_size for file in (runs["lora"][0] / "adapter").iterdir())
    features = runs["head"][1][PARAMETERS] / CLASSES - 1
    assert of_knn == IMAGES * (4 * features + 8) and of_head < of_lora < of_full


def test_adapter_size_and_merge_error_are_recorded(runs: Any) -> None:
    folder, metrics = runs["lora"]
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    own = sum(tensor.numel() for name, tensor in tensors.items() if ".lora_" in name)
    assert metrics[ADAPTER_PARAMETERS] == own and 0 <= metrics[MERGE_ERROR] < 1e-3
    assert metrics[ADAPTER_BYTES] == (folder / "adapter" / "adapter_model.safetensors").stat().st_size
    assert not {ADAPTER_PARAMETERS, ADAPTER_BYTES, MERGE_ERROR} & runs["full"][1].keys()


@torch.no_grad()
def test_adapters_are_merged_into_a_network_whose_logits_are_all_zero(tmp_path: Path) -> None:
    config = compose(*SMALL, *TINY, "freeze=ia3")
    setup = assemble(config, tmp_path, meta=False, screen=cast(Screen, FakeScreen()))
    for parameter in setup.model.module.get_submodule("fc").parameters():
        parameter.zero_()
    assert final_weights.merge(setup)[1] == 0


def test_speed_is_measured_once_per_network(runs: Any) -> None:
    assert runs["head"][1][SPEED] == runs["full"][1][SPEED] > 0  # the same network in one process
    assert runs["lora"][1][SPEED] == runs["head"][1][SPEED]  # the adapter is merged
    assert SPEED not in runs["knn"][1]


def test_speed_of_kept_adapters_depends_on_their_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter((1.0, 2.0))
    monkeypatch.setattr(speed, "_KNOWN", {})
    monkeypatch.setattr(speed, "_measured", lambda setup, side: next(speeds))
    found = []
    for rank in (4, 16, 4):
        options = (*SMALL, "freeze=adapter", f"freeze_mode.adapter.rank={rank}")
        found.append(speed.images_per_second(assemble(compose(*options), Path(), meta=True, screen=FakeScreen())))
    assert found == [1.0, 2.0, 1.0]
