"""A run on several devices equals the run on one to rounding, is recorded once, and reports failed processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from frostline.core.errors import UserError
from frostline.data import loading
from frostline.records import layout
from frostline.records.result import SPEED
from frostline.runs import other_ranks
from frostline.store import entries
from frostline.training import checkpoint_timing, evaluation
from frostline.training.features import Backbone
from frostline.training.ranks import Origin, RankDied, Ranks
from small import SMALL, FakeRecord, FakeScreen, compose, execute_run

BACKBONE = "cost/backbone_images"
STEADY = ("optimizer=sgd", "lr=1e-2")  # Adam would amplify gradients that are only rounding errors
RUN = (*SMALL, "device=cpu", *STEADY)
PARTLY = (*RUN, "freeze=last_stage", "augment=standard", "train.ema_decay=0.5", "train.class_weights=balanced")
PARTLY = (*PARTLY, "eval_batch_size=4")
SHIFTED = (*RUN, "freeze=lora", "epochs=1", "eval_batch_size=4", "eval.shift=true")
VIT = ("model=timm", "model.name=test_vit", "model.weights=null")
FULL = (*RUN, *VIT, "freeze=full", "optimizer=adamw", "lr=1e-3", "train.clip_norm=0.5", "eval_batch_size=4")
BY_PHASES = (*RUN, "freeze=lp_ft", "freeze_mode.norm_stats=frozen", "optimizer.options={momentum:0.9}")


@dataclass
class RunOutcome:
    """The results of a run."""

    epochs: list[dict[str, Any]]
    weights: dict[str, Tensor]
    metrics: dict[str, float]
    record: FakeRecord
    messages: list[str]
    computed: int
    """Batches that the first process passed through frozen stages."""
    scored: int
    """Batches that the first process scored."""
    logits: Tensor
    """Logits of the test split."""


def test_others_do_not_read_what_the_first_process_found_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store without write permission a damaged entry stays, and each process would read it again."""
    started: list[Callable[..., None]] = []

    def begin(follow: Callable[..., None], *about: object, **more: object) -> None:
        started.append(follow)
        raise InterruptedError

    setup: Any = SimpleNamespace(config=compose(*SMALL, "device=cpu", "devices=2"), weights=None)
    monkeypatch.setattr(other_ranks, "Ranks", begin)
    monkeypatch.setattr(entries, "_distrusted", {"damaged"})
    with pytest.raises(InterruptedError), other_ranks.start_others(setup, Path()):
        pass
    monkeypatch.setattr(entries, "_distrusted", another := set[object]())
    monkeypatch.setattr(other_ranks.signal, "signal", begin)
    with pytest.raises(InterruptedError):
        started[0](None, 1)
    assert another == {"damaged"}


class StepHook(FakeScreen):
    """A screen that calls a function before every step."""

    def __init__(self, before_step: Callable[[float], object]) -> None:
        super().__init__()
        self._before_step = before_step

    def advance(self, epochs: float) -> None:
        self._before_step(epochs)


def run(
    folder: Path,
    *overrides: str,
    before_step: Callable[[float], object] = lambda epochs: None,
    while_scoring: Callable[[], object] = lambda: None,
) -> RunOutcome:
    """Carry out a run with a store of its own."""
    folder.mkdir(exist_ok=True)
    loading.forget()
    record, screen, computed, scored = FakeRecord(), StepHook(before_step), 0, 0
    call, logits_function = Backbone.__call__, evaluation.logits_function

    def counted(backbone: Backbone, views: Tensor) -> Tensor:
        nonlocal computed
        computed += 1
        return call(backbone, views)

    def counting_logits_function(module: nn.Module, autocast: torch.dtype | None) -> Callable[[Tensor], Tensor]:
        compute_logits = logits_function(module, autocast)

        def counts(inputs: Tensor) -> Tensor:
            nonlocal scored
            scored += 1
            while_scoring()
            return compute_logits(inputs)

        return counts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "__call__", counted)
        patch.setattr(evaluation, "logits_function", counting_logits_function)
        config = compose(*overrides, "store.enabled=true", f"store.path={folder / 'store'}")
        metrics, _ = execute_run(config, folder, record, screen)
    epochs = [json.loads(line) for line in (folder / layout.METRICS).read_text().splitlines()]
    logits = load_file(folder / layout.PREDICTIONS)["logits"]
    return RunOutcome(epochs, load_file(folder / layout.BEST), metrics, record, screen.lines, computed, scored, logits)


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], RunOutcome]:
    """Return the runs on one device by their options."""
    return {options: run(tmp_path_factory.mktemp("alone"), *options) for options in (PARTLY, BY_PHASES, SHIFTED, FULL)}


def assert_same(ran: RunOutcome, other: RunOutcome) -> None:
    """Assert that two runs are equal to rounding."""
    assert [epoch.keys() for epoch in ran.epochs] == [epoch.keys() for epoch in other.epochs]
    for epoch, expected in zip(ran.epochs, other.epochs, strict=True):
        assert epoch == pytest.approx(expected, abs=2e-6)
    for name, tensor in other.weights.items():
        torch.testing.assert_close(ran.weights[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "devices"), [(PARTLY, 2), (BY_PHASES, 2), (SHIFTED, 2)], ids=["partly", "by phases", "shifted"]
)
def test_run_on_several_devices_equals_one_device(
    options: tuple[str, ...], devices: int, on_one_device: dict[tuple[str, ...], RunOutcome], tmp_path: Path
) -> None:
    before = set(multiprocessing.active_children())
    ran, one = run(tmp_path, *options, f"devices={devices}"), on_one_device[options]
    assert_same(ran, one)
    assert [point[:2] for point in ran.record.points] == [point[:2] for point in one.record.points]
    assert ran.record.files == one.record.files
    assert ran.record.tags[layout.FROZEN_TAG] == one.record.tags[layout.FROZEN_TAG]
    assert ran.record.tags[layout.DEVICE_TAG] == f"{devices} x cpu"
    assert ran.metrics[BACKBONE] == one.metrics[BACKBONE]
    assert ran.computed < one.computed or options is SHIFTED  # other processes compute the rest
    assert ran.scored < one.scored * 2 / 3 or options is BY_PHASES  # BY_PHASES has one batch of each split
    torch.testing.assert_close(ran.logits, one.logits, rtol=1e-4, atol=1e-4)
    assert {key: value for key, value in ran.metrics.items() if "shift/" in key} == pytest.approx(
        {key: value for key, value in one.metrics.items() if "shift/" in key}
    )
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.slow
def test_run_of_a_killed_process_resumes_on_one_device(
    on_one_device: dict[tuple[str, ...], RunOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_timing, "_WORTH", 0)
    before = set(multiprocessing.active_children())

    reached = 0.0

    def note_position(epochs: float) -> None:
        nonlocal reached
        reached = epochs

    def kill() -> None:
        if reached > 1.5:
            process, *_ = set(multiprocessing.active_children()) - before
            os.kill(cast(int, process.pid), signal.SIGKILL)

    with pytest.raises(RankDied, match=r"^process \d of 3 was killed by signal 9 \(out of memory\?\)$"):
        run(tmp_path, *PARTLY, "devices=3", before_step=note_position, while_scoring=kill)
    assert set(multiprocessing.active_children()) <= before
    ran = run(tmp_path, *PARTLY)
    assert any(line.startswith("  resumes after epoch 1") for line in ran.messages)
    assert_same(ran, on_one_device[PARTLY])


@pytest.mark.slow
def test_features_that_only_the_first_process_keeps(
    on_one_device: dict[tuple[str, ...], RunOutcome], tmp_path: Path
) -> None:
    ran = run(tmp_path, *BY_PHASES, "devices=2", "store.budget_gb=1e-6")
    assert any("is kept in memory only" in line and "through" in line for line in ran.messages)
    assert_same(ran, on_one_device[BY_PHASES])


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_sharded_run_equals_one_device(
    on_one_device: dict[tuple[str, ...], RunOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_timing, "_WORTH", 0)
    shares = ("devices=2", "fsdp=true")

    def stop(epochs: float) -> None:
        if epochs > 1.5:
            raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path / "run", *FULL, *shares, "checkpoint.every_seconds=1e-9", before_step=stop)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for folder, several in (("run", shares), ("copy", ())):
        ran = run(tmp_path / folder, *FULL, *several)
        assert any(line.startswith("  resumes after step 2 of epoch 2") for line in ran.messages)
        assert_same(ran, on_one_device[FULL])
        torch.testing.assert_close(ran.logits, on_one_device[FULL].logits, rtol=1e-4, atol=1e-4)
        assert (SPEED in ran.metrics) == (not several)


def send_refusal(pipe: Connection, rank: int) -> None:
    pipe.send(UserError("data.root=there: expected a folder"))


def send_other_origin(pipe: Connection, rank: int) -> None:
    pipe.send(Origin("other data", "weights"))


@pytest.mark.parametrize(
    ("follow", "error", "line"),
    [
        (send_refusal, UserError, "data.root=there: expected a folder"),
        (send_other_origin, RankDied, "process 2 of 2 has other data or weights than the first"),
        (os._exit, RankDied, "process 2 of 2 exited with status 1"),
    ],
)
def test_error_of_another_rank_is_raised(
    follow: Callable[[Connection, int], None], error: type[Exception], line: str
) -> None:
    several = Ranks(follow, 2, load=other_ranks.__name__)
    try:
        with pytest.raises(error, match=f"^{line}$"):
            several.join(torch.device("cpu"), Origin("data", "weights"))
    finally:
        several.close()
