"""Heads trained in lockstep end with the same bits as alone, whatever happens to the other runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emulated_card import EmulatedMachine
from frostline.core.config import Config
from frostline.core.config_keys import digest
from frostline.core.interrupts import Terminated
from frostline.models.build import build
from frostline.records import layout
from frostline.records.result import SECONDS
from frostline.runs import lockstep_runs
from frostline.training import captured_step, checkpoint, checkpoint_timing
from frostline.training.features import Features
from frostline.training.lockstep import Stack
from frostline.training.loop import Diverged
from frostline.training.steps import PlainStepper, Step
from small import SMALL, TINY, FakeRecord, FakeScreen, compose, execute_run

TOGETHER = (
    ("lr=1e-2",),
    ("lr=3e-2", "seed=1", "train.label_smoothing=0.1"),
    ("lr=1e-3", "schedule=cosine", "optimizer.weight_decay=0.1"),
    ("lr=3e-1", "seed=1", "schedule=onecycle", "train.patience=1"),
)
SEEDS = (("seed=0",), ("seed=1", "train.patience=1"), ("seed=2", "train.label_smoothing=0.1"))
"""Runs of one learning rate, which share an optimizer."""


@dataclass
class RunOutcome:
    """The results of a run."""

    journal: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]
    messages: list[str]
    tags: dict[str, str]
    seconds: float


def assert_same(found: Sequence[RunOutcome], expected: Sequence[RunOutcome]) -> None:
    """Assert that the runs have the same epochs and the same weights, bit for bit."""
    for one, other in zip(found, expected, strict=True):
        assert one.journal == other.journal and one.weights.keys() == other.weights.keys()
        assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


RunAlone = Callable[[Sequence[Config]], list[RunOutcome]]


@pytest.fixture(autouse=True)
def _without_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockstep_runs, "_group", None)


def run(folder: Path, config: Config, siblings: Sequence[Config] = ()) -> RunOutcome:
    record, screen = FakeRecord(), FakeScreen()
    metrics, _ = execute_run(config, folder, record, screen, siblings=lambda: siblings)
    journal = [json.loads(line) for line in (folder / layout.METRICS).read_text().splitlines()]
    return RunOutcome(journal, load_file(folder / layout.BEST), screen.lines, record.tags, metrics[SECONDS])


def configs(*common: str, lines: Sequence[Sequence[str]] = TOGETHER) -> list[Config]:
    return [compose(*SMALL, "freeze=head", *common, *line) for line in lines]


def run_in_lockstep(folder: Path, several: Sequence[Config]) -> list[RunOutcome]:
    return [run(folder / f"together {i}", one, several[i + 1 :]) for i, one in enumerate(several)]


@pytest.fixture(scope="module")
def run_alone(tmp_path_factory: pytest.TempPathFactory) -> RunAlone:
    """Return a function that carries out runs one by one, each once for all tests."""
    folder = tmp_path_factory.mktemp("alone")
    done: dict[str, RunOutcome] = {}

    def run_each(several: Sequence[Config]) -> list[RunOutcome]:
        for key, config in ((digest(config), config) for config in several):
            done[key] = done.get(key) or run(folder / key, config)
        return [done[digest(config)] for config in several]

    return run_each


@pytest.mark.slow
@pytest.mark.parametrize(
    "common",
    [
        ("optimizer=adam",),
        ("optimizer=sgd", "batch_size=5"),
        ("optimizer.name=rmsprop", "model=mobilenet_v3_small", "model.weights=null", "augment=standard"),
    ],
    ids=" ".join,
)
def test_lockstep_runs_equal_runs_alone(run_alone: RunAlone, common: Sequence[str], tmp_path: Path) -> None:
    several = configs(*common)
    if "model.weights=null" in common:  # then the features depend on the seed
        several = [one for one in several if one.seed == several[0].seed]
    ran = run_in_lockstep(tmp_path, several)
    assert_same(ran, run_alone(several))
    assert {one.tags[layout.LOCKSTEP_TAG] for one in ran} == {str(len(several))}
    others = "1 other run" if len(several) == 2 else f"{len(several) - 1} other runs"
    assert f"  in lockstep with {others} on the same features" in ran[0].messages
    for one in ran[1:]:
        assert f"  in lockstep: its head was trained together with {others}" in one.messages


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_lockstep_seeds_of_one_lr_equal_runs_alone(run_alone: RunAlone, optimizer: str, tmp_path: Path) -> None:
    several = configs(f"optimizer={optimizer}", "lr=1e-2", lines=SEEDS)
    ran = run_in_lockstep(tmp_path, several)
    assert_same(ran, run_alone(several))
    assert {one.tags[layout.LOCKSTEP_TAG] for one in ran} == {str(len(several))}


@pytest.mark.slow
def test_captured_lockstep_steps_equal_single_operations(
    run_alone: RunAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured_step, "_AFTER", 1)
    lines = [("lr=1e-2",), ("lr=1e-2", "seed=1", "schedule=cosine"), ("lr=3e-2",)]
    tiny = build("test_resnet", library="timm", weights=None, num_classes=10, seed=0)  # one backbone for all seeds
    save_file(tiny.module.state_dict(), tmp_path / "tiny.safetensors")
    common = (*TINY, f"model.weights={tmp_path / 'tiny.safetensors'}", "device=cuda", "precision=fp32", "epochs=1")
    several = configs(*common, lines=lines)
    with EmulatedMachine().running() as card:
        one_by_one = run_alone(configs(*common, "features.lockstep=false", lines=lines))
        assert not card.launches["graph"]
        ran = run_in_lockstep(tmp_path, several)
        assert card.launches["graph"]
        by_itself = run(tmp_path / "by itself", several[1])
    assert_same([*ran, by_itself], [*one_by_one, one_by_one[1]])
    assert {one.tags[layout.LOCKSTEP_TAG] for one in ran} == {str(len(several))}
    assert layout.LOCKSTEP_TAG not in by_itself.tags and not [line for line in by_itself.messages if "lockstep" in line]


@pytest.mark.slow
def test_each_head_is_captured_if_products_round_differently(
    run_alone: RunAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agrees = Stack._agrees_on
    monkeypatch.setattr(Stack, "_agrees_on", lambda self, *batch: len(self.members) == 1 and agrees(self, *batch))
    monkeypatch.setattr(captured_step, "_AFTER", 1)
    lines = [("lr=1e-2",), ("lr=3e-2", "train.label_smoothing=0.1")]
    common = (*TINY, "device=cuda", "precision=fp32", "epochs=1")
    with EmulatedMachine().running() as card:
        (by_itself,) = run_alone(configs(*common, "features.lockstep=false", lines=lines[:1]))
        first, second = configs(*common, lines=lines)
        ran = run(tmp_path, first, [second])
        assert card.launches["graph"]
    assert_same([ran], [by_itself])
    assert layout.LOCKSTEP_TAG not in ran.tags
    assert [line for line in ran.messages if "not in lockstep" in line]


@pytest.mark.slow
def test_steps_of_lockstep_runs_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dict.fromkeys((Stack, PlainStepper), 0)

    def counting(kind: Any) -> None:
        steps = kind.steps

        def counted(self: Any, *arguments: Any) -> Iterator[Step]:
            for step in steps(self, *arguments):
                made[kind] += 1
                yield step

        monkeypatch.setattr(kind, "steps", counted)

    for kind in made:
        counting(kind)
    several = configs()
    run_in_lockstep(tmp_path, several)
    assert made == {Stack: several[0].epochs * 24 // several[0].batch_size, PlainStepper: 0}


@pytest.mark.slow
def test_training_time_is_shared_among_lockstep_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Features.inputs

    def slow(self: Features, index: torch.Tensor, epoch: int) -> torch.Tensor:
        time.sleep(0.05 * self.first)  # the time to compute the features
        self.first = False
        return inputs(self, index, epoch)

    monkeypatch.setattr(Features, "first", True, raising=False)
    monkeypatch.setattr(Features, "inputs", slow)
    config, *others = configs("epochs=1")
    ran = run(tmp_path / "first", config, others), run(tmp_path / "second", others[0], others[1:])
    assert all(one.seconds >= 0.05 / len(TOGETHER) for one in ran)
    assert ran[0].seconds == ran[1].seconds  # else noise would decide which is cheaper


@pytest.mark.slow
def test_next_run_leads_after_early_stopping(run_alone: RunAlone, tmp_path: Path) -> None:
    lines = [("lr=1e-9", "train.patience=1"), *TOGETHER]
    several = configs("epochs=3", lines=lines)
    ran = run_in_lockstep(tmp_path, several)
    assert_same(ran, run_alone(several))
    assert len(ran[0].journal) == 2 and len(ran[1].journal) == 3
    assert "  in lockstep with 4 other runs on the same features" in ran[0].messages
    assert "  in lockstep with 3 other runs on the same features" in ran[1].messages


@pytest.mark.slow
def test_diverging_run_does_not_affect_others(run_alone: RunAlone, tmp_path: Path) -> None:
    several = configs("optimizer=sgd", lines=[("lr=1e38",), ("lr=1e-2",), ("lr=1e37",), ("lr=1e-3",)])
    expected = run_alone(several[1::2])
    found = []
    for i, one in enumerate(several):
        if i % 2:
            found.append(run(tmp_path / f"together {i}", one, several[i + 1 :]))
        else:
            with pytest.raises(Diverged):
                run(tmp_path / f"together {i}", one, several[i + 1 :])
    assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("lines", [TOGETHER, SEEDS], ids=["several learning rates", "one learning rate"])
def test_interrupted_run_resumes_alone(
    run_alone: RunAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Sequence[Sequence[str]]
) -> None:
    several = configs(lines=lines)
    expected = run_alone(several)
    save = checkpoint.save

    def killed(*arguments: Any) -> Path:
        save(*arguments)
        raise Terminated

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_timing, "_WORTH", 0)
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(Terminated):
            run(tmp_path / "together 0", several[0], several[1:])
    lockstep_runs._group = None  # as in another process
    ran = run_in_lockstep(tmp_path, several)
    assert_same(ran, expected)
    assert any(line.startswith("  resumes after epoch 1") for line in ran[0].messages)
    assert layout.LOCKSTEP_TAG not in ran[0].tags and ran[1].tags[layout.LOCKSTEP_TAG] == str(len(several) - 1)


@pytest.mark.slow
def test_failure_within_an_epoch_does_not_affect_others(
    run_alone: RunAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several, calls = configs(), 0

    def fails(_: object) -> bool:
        nonlocal calls
        calls += 1
        if calls == 5:  # in the second epoch of three steps
            raise OSError("a disk that is gone")
        return False

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_timing.CheckpointWriter, "due", fails)
        with pytest.raises(OSError, match="a disk that is gone"):
            run(tmp_path / "together 0", several[0], several[1:])
    ran = [run(tmp_path / f"together {i}", several[i], several[i + 1 :]) for i in range(1, len(several))]
    assert_same(ran, run_alone(several[1:]))
    assert all(one.tags[layout.LOCKSTEP_TAG] == str(len(several)) for one in ran)  # from the first epoch


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "in_lockstep"), [("baddbmm", True), ("sum", False)])
def test_heads_get_the_bits_of_runs_alone_if_batched_operations_round_differently(
    run_alone: RunAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, *, in_lockstep: bool
) -> None:
    several, function = configs(), getattr(torch, operation)
    expected = run_alone(several)
    monkeypatch.setattr(torch, operation, lambda *of, **options: function(*of, **options).mul_(1 + 1e-6))
    ran = run_in_lockstep(tmp_path, several)
    assert_same(ran, expected)
    assert {layout.LOCKSTEP_TAG in one.tags for one in ran} == {in_lockstep}
    note = "  note: not in lockstep, since here heads side by side are rounded differently from each alone"
    assert (note in ran[0].messages) != in_lockstep


@pytest.mark.slow
def test_no_lockstep_with_different_features(run_alone: RunAlone, tmp_path: Path) -> None:
    several = configs("model.weights=null", lines=[("seed=0",), ("seed=1",)])
    ran = run_in_lockstep(tmp_path, several)
    assert not any(layout.LOCKSTEP_TAG in one.tags for one in ran)
    assert_same(ran, run_alone(several))


def test_results_are_taken_over_only_from_the_same_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    stack: Any = None
    member: Any = object()
    group = lockstep_runs.Group(stack, {"key": member}, {"weights": "a"})
    monkeypatch.setattr(lockstep_runs, "_group", group)
    assert lockstep_runs._member("key", {"weights": "a"}) is member
    assert lockstep_runs._member("key", {"weights": "b"}) is None
    assert lockstep_runs._group is None
