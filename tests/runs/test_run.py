"""A run that exceeds GPU memory, meets nan or finds a damaged store entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from emulated_card import EmulatedMachine
from frostline.core.errors import UserError
from frostline.data import loading
from frostline.data.views import Views
from frostline.records.result import VAL
from frostline.runs import frost_line
from frostline.runs.setup import Setup
from frostline.store.device_budget import DeviceBudget
from frostline.training import gradient
from frostline.training.evaluation import Evaluation, evaluate_logits
from frostline.training.features import Backbone
from frostline.training.loop import Diverged
from small import SMALL, TINY, FakeScreen, compose, execute_run


def run(folder: Path) -> tuple[dict[str, float], list[str]]:
    """Return the metrics and messages of a run on a GPU."""
    screen = FakeScreen()
    with EmulatedMachine().running():
        config = compose(*SMALL, *TINY, "device=cuda", "freeze=full", "precision=fp32", "epochs=1", "data.limit=16")
        metrics, _ = execute_run(config, folder, screen=screen)
    return metrics, screen.lines


@pytest.mark.slow
def test_out_of_memory_retries_with_pixels_in_host_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, messages = run(tmp_path / "whole")
    assert not [line for line in messages if "out of memory" in line]
    take = DeviceBudget.take

    def out_of_memory(room: DeviceBudget, tensor: Any) -> Any:
        if tensor.nbytes <= room.free:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return take(room, tensor)

    monkeypatch.setattr(DeviceBudget, "take", out_of_memory)
    again, messages = run(tmp_path / "again")
    assert "  out of GPU memory: trying once more with pixels and features in host memory" in messages
    assert {key: again[key] for key in ("test/loss", "best/val_accuracy")} == {
        key: whole[key] for key in ("test/loss", "best/val_accuracy")
    }


@pytest.mark.slow
def test_out_of_memory_in_a_step_names_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(gradient, "by_autograd", out_of_memory)
    with pytest.raises(UserError, match=r"^batch_size=8: expected a size whose steps fit into GPU memory; "):
        run(tmp_path / "never")


def test_frozen_stages_compute_no_more_images_at_once_than_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Backbone.__call__

    def call_or_run_out(backbone: Backbone, views: Tensor) -> Tensor:
        if len(views) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call(backbone, views)

    monkeypatch.setattr(Backbone, "__call__", call_or_run_out)
    options = (*SMALL, *TINY, "freeze=head", "epochs=1", "device=cpu")
    with pytest.raises(UserError, match=r"^batch_size=8: .* a smaller eval_batch_size "):
        execute_run(compose(*options), tmp_path / "more")
    execute_run(compose(*options, "eval_batch_size=8"), tmp_path / "fewer")


@pytest.mark.slow
def test_nan_test_logits_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score = frost_line.score

    def score_with_nan(setup: Setup, line: frost_line.Line, views: Views, *voters: Any) -> Evaluation:
        logits = score(setup, line, views, *voters).logits.clone()
        logits[0] = torch.nan
        return evaluate_logits(logits, views.labels)

    monkeypatch.setattr(frost_line, "score", score_with_nan)
    config = compose(*SMALL, *TINY, "freeze=head", "epochs=1", "data.limit=16", "device=cpu")
    with pytest.raises(Diverged, match="the test loss is nan"):
        execute_run(config, tmp_path / "run")


def test_divergence_is_found_before_a_checkpoint_is_written_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    options = ("lr=1e30", "checkpoint.every_seconds=1e-9", "batch_size=2", "device=cpu")
    with pytest.raises(Diverged, match=r"^the training loss is (nan|inf) in epoch 1;"):
        execute_run(compose(*SMALL, *TINY, "freeze=full", *options), tmp_path / "run")


@pytest.mark.parametrize(
    ("freeze", "damaged"), [("full", ["pixels"] * 2), ("head", [*["pixels"] * 2, *["features"] * 3])]
)
def test_damaged_store_entries_are_computed_again(tmp_path: Path, freeze: str, damaged: list[str]) -> None:
    for index in range(40):
        (folder := tmp_path / "data" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (6 * index, 120, 250 - 6 * index)).save(folder / f"{index}.png")
    data = ("data=image_folder", f"data.root={tmp_path / 'data'}", "data.val_fraction=0.2", "data.test_fraction=0.2")
    store = ("store.enabled=true", f"store.path={tmp_path / 'store'}")

    def train(name: str) -> tuple[dict[str, float], list[str]]:
        loading.forget()
        config, screen = compose(*SMALL, *TINY, *data, *store, "device=cpu", f"freeze={freeze}"), FakeScreen()
        return execute_run(config, tmp_path / name, screen=screen)[0], screen.lines

    whole, messages = train("whole")
    loading.forget()
    entries = [path for kind in {*damaged} for path in (tmp_path / "store").glob(f"{kind}/*/*/{kind}")]
    for path in entries:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 8
        path.write_bytes(content)
    again, later_messages = train("again")
    assert not [line for line in messages if "computed again" in line]
    told = [line.partition(" has changed: computed again") for line in later_messages]
    assert sorted(line.split()[-1] for line, found, _ in told if found) == sorted(damaged)
    assert {key: again[key] for key in ("test/loss", VAL)} == {key: whole[key] for key in ("test/loss", VAL)}
