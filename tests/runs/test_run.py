"""A run for which a card's memory does not suffice is tried with less on it, and then says what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from emulated_card import EmulatedMachine
from frostline.core.errors import UserError
from frostline.data import loading
from frostline.records.result import VAL
from frostline.runs import frost_line
from frostline.store.device_budget import DeviceBudget
from frostline.training import gradient
from frostline.training.evaluation import Evaluation, evaluate, of_logits
from frostline.training.loop import Diverged
from small import SMALL, TINY, FakeScreen, compose, execute_run


def run(folder: Path) -> tuple[dict[str, float], list[str]]:
    """Return the metrics of a run on a card, and what it said."""
    screen = FakeScreen()
    with EmulatedMachine().running():
        config = compose(*SMALL, *TINY, "device=cuda", "freeze=full", "precision=fp32", "epochs=1", "data.limit=16")
        metrics, _ = execute_run(config, folder, screen=screen)
    return metrics, screen.lines


@pytest.mark.slow
def test_what_does_not_fit_is_tried_with_pixels_kept_by_the_host_and_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, said = run(tmp_path / "whole")
    assert not [line for line in said if "out of memory" in line]
    take = DeviceBudget.take

    def full(room: DeviceBudget, held: Any) -> Any:
        if held.nbytes <= room.free:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return take(room, held)

    monkeypatch.setattr(DeviceBudget, "take", full)
    again, said = run(tmp_path / "again")
    assert "  out of GPU memory: trying once more with pixels and features in host memory" in said
    assert {key: again[key] for key in ("test/loss", "best/val_accuracy")} == {
        key: whole[key] for key in ("test/loss", "best/val_accuracy")
    }


@pytest.mark.slow
def test_what_does_not_fit_at_all_says_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(gradient, "by_autograd", full)
    with pytest.raises(UserError, match=r"^batch_size=8: expected a size whose steps fit into GPU memory; "):
        run(tmp_path / "never")


@pytest.mark.slow
def test_a_test_image_of_which_numbers_are_nan_is_told_and_not_right_by_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(network: torch.nn.Module, data: Any, **how: Any) -> Evaluation:
        said = evaluate(network, data, **how).logits.clone()
        said[0] = torch.nan
        return of_logits(said, data.labels)

    monkeypatch.setattr(frost_line, "evaluate", spoiled)
    config = compose(*SMALL, *TINY, "freeze=head", "epochs=1", "data.limit=16", "device=cpu")
    with pytest.raises(Diverged, match="the test loss is nan"):
        execute_run(config, tmp_path / "run")


def test_what_turns_out_to_be_damaged_in_the_store_is_made_again_and_the_run_comes_to_the_same(tmp_path: Path) -> None:
    for index in range(40):
        (folder := tmp_path / "data" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (6 * index, 120, 250 - 6 * index)).save(folder / f"{index}.png")
    data = ("data=image_folder", f"data.root={tmp_path / 'data'}", "data.val_fraction=0.2", "data.test_fraction=0.2")
    store = ("store.enabled=true", f"store.path={tmp_path / 'store'}")

    def trained(name: str) -> tuple[dict[str, float], list[str]]:
        loading.forget()
        config, screen = compose(*SMALL, *TINY, *data, *store, "device=cpu", "freeze=full"), FakeScreen()
        return execute_run(config, tmp_path / name, screen=screen)[0], screen.lines

    whole, said = trained("whole")
    loading.forget()
    (pixels,) = (tmp_path / "store").glob("pixels/*/*/pixels")
    content = bytearray(pixels.read_bytes())
    content[5000] ^= 8
    pixels.write_bytes(content)
    again, told = trained("again")
    assert not [line for line in said if "computed again" in line]
    assert len([line for line in told if "pixels has changed: computed again" in line]) == 1
    assert {key: again[key] for key in ("test/loss", VAL)} == {key: whole[key] for key in ("test/loss", VAL)}
