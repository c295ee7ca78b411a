"""A run resumed from a checkpoint ends with the bits of an uninterrupted run."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from emulated_card import EmulatedMachine
from frostline.core import interrupts
from frostline.core.metrics import LOSS
from frostline.store import hashing
from frostline.training import checkpoint, checkpoint_timing, optim, state
from frostline.training.averaging import MovingAverage
from frostline.training.evaluation import Evaluation
from frostline.training.loop import EpochResult, TrainingPosition
from frostline.training.state import CheckpointMismatch, Learner, Progress
from small import SMALL, TINY, FakeRecord, FakeScreen, compose, execute_run, last_checkpoint

TIMES = ("cost/train_seconds", "cost/images_per_second", "cost/peak_memory_bytes", "cost/backbone_images")


class Killed(BaseException):
    """Simulates the end of the process."""


def attempt(folder: Path, *overrides: str, stop: int | None = None, **options: Any) -> dict[str, Any] | None:
    """Return the results of a run, or None if it is interrupted or killed after its checkpoint number `stop`."""
    record, screen = FakeRecord(), FakeScreen()
    saves, save = 0, checkpoint.save

    def dying(*arguments: Any) -> Path:
        nonlocal saves
        path = save(*arguments)
        saves += 1
        if saves == stop:
            raise Killed
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", dying)
        patch.setattr(checkpoint_timing, "_WORTH", 0)
        try:
            metrics, _ = execute_run(compose(*SMALL, *TINY, *overrides), folder, record, screen, **options)
        except (Killed, KeyboardInterrupt):
            return None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": {key: value for key, value in metrics.items() if key not in TIMES},
        "points": [point for point in record.points if point[0] not in TIMES],
        "tags": record.tags,
        "journal": lines,
        "weights": load_file(folder / "best.safetensors"),
        "said": screen.lines,
    }


def run(folder: Path, *overrides: str, **options: Any) -> dict[str, Any]:
    """Return the results of a run, which must finish."""
    results = attempt(folder, *overrides, **options)
    assert results is not None
    return results


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("metrics", "points", "tags", "journal"):
        assert one[key] == other[key], key
    assert one["weights"].keys() == other["weights"].keys()
    assert all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])


RECIPES = {
    "head adam": ("freeze=head", "optimizer=adam"),
    "full sgd, momentum and onecycle": ("freeze=full", "optimizer=sgd", "schedule=onecycle", "lr=1e-2"),
    "gradual with a schedule per phase": ("freeze=gradual", "schedule=cosine", "epochs=3"),
    "lp_ft averaged": ("freeze=lp_ft", "train.ema_decay=0.9"),
    "full mixed and augmented": ("freeze=full", "train.mixup=0.2", "train.cutmix=1", "augment=standard"),
    "patience": ("freeze=head", "lr=1e-8", "epochs=9", "train.patience=2"),
    "weighted and sampled": (
        *("freeze=head", "train.class_weights=balanced", "train.sampling=balanced", "train.drop_last=true"),
        *("select=val/macro_f1", "train.patience=3", "batch_size=5"),
    ),
    "norm layers clipped": ("freeze=norm", "train.clip_norm=0.1", "train.label_smoothing=0.1"),
}


@pytest.fixture(scope="module")
def default_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of an uninterrupted run with the defaults."""
    return run(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def full_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of an uninterrupted run of full fine-tuning."""
    return run(tmp_path_factory.mktemp("full") / "run", "freeze=full")


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with the defaults that ended after its first epoch."""
    folder = tmp_path_factory.mktemp("died") / "run"
    assert attempt(folder, stop=1) is None
    return folder


@pytest.fixture
def part(interrupted_run: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder."""
    return shutil.copytree(interrupted_run, tmp_path / "part")


def test_skipped_phases_are_reported(tmp_path: Path) -> None:
    found = run(tmp_path / "run", "freeze=gradual", "epochs=1", "batch_size=1000")
    assert "  note: 6 phases are more than there are steps: left out 1, 2, 3, 5, 6" in found["said"]


def test_early_stop_before_the_last_phase_is_reported(tmp_path: Path) -> None:
    ended = run(tmp_path / "run", "freeze=lp_ft", "lr=1e-8", "epochs=8", "train.patience=1")
    assert ended["said"][-1].startswith("  stopped: no better accuracy on validation since epoch 1; ")
    assert ended["said"][-1].endswith("this was phase 1 of 2, and later phases never began")


STEPWISE = ("full sgd, momentum and onecycle", "lp_ft averaged", "full mixed and augmented")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted({*RECIPES} - {*STEPWISE}))
def test_run_interrupted_after_every_epoch_has_the_same_bits(recipe: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", *RECIPES[recipe])
    for _ in whole["journal"]:
        assert attempt(tmp_path / "often", *RECIPES[recipe], stop=1) is None
    last = run(tmp_path / "often", *RECIPES[recipe])
    assert f"  resumes after epoch {len(whole['journal'])}" in last["said"]
    assert_same(whole, last)


@pytest.mark.slow
def test_interrupted_gpu_run_has_the_same_bits(tmp_path: Path) -> None:
    chosen = (*RECIPES["lp_ft averaged"], "device=cuda", "precision=fp32", "store.enabled=false")
    with EmulatedMachine().running():
        whole = run(tmp_path / "whole", *chosen)
        assert attempt(tmp_path / "part", *chosen, stop=1) is None
        last = run(tmp_path / "part", *chosen)
    assert any(line.startswith("  resumes after") for line in last["said"])
    assert_same(whole, last)


@pytest.mark.slow
def test_backbone_images_before_an_interruption_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TIMES", ())
    fold = ("freeze=head", "data.folds=3", "data.fold=1", "store.enabled=true")
    assert attempt(tmp_path / "often", *fold, f"store.path={tmp_path / 'one'}", stop=1) is None
    last = run(tmp_path / "often", *fold, f"store.path={tmp_path / 'one'}")
    whole = run(tmp_path / "whole", *fold, f"store.path={tmp_path / 'other'}")
    assert last["metrics"]["cost/backbone_images"] == whole["metrics"]["cost/backbone_images"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("recipe", STEPWISE)
def test_run_interrupted_after_every_step_has_the_same_bits(recipe: str, tmp_path: Path) -> None:
    short = (*RECIPES[recipe], "data.limit=16")
    overrides = (*short, "checkpoint.every_seconds=1e-9")
    whole = run(tmp_path / "whole", *short)
    deaths = 0
    while attempt(tmp_path / "often", *overrides, stop=1) is None:
        deaths += 1
    assert deaths == 2 * 2 + 2  # two steps in an epoch, and its end
    assert_same(whole, run(tmp_path / "often", *overrides))


OPTIMIZERS = sorted(
    name.lower()
    for name, found in vars(torch.optim).items()
    if isinstance(found, type) and name.lower() not in optim._UNFIT
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_torch_optimizer_can_be_restored(name: str, tmp_path: Path) -> None:
    def learner() -> Learner:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        groups = [{"name": str(i), "params": list(part.parameters())} for i, part in enumerate(module)]
        return Learner(module, optim.build(name, groups, lr=0.1, options={}), None, frozenset(module.state_dict()))

    def steps(one: Learner, count: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for _ in range(count):
            one.optimizer.zero_grad()
            one.module(torch.randn(5, 4, generator=draw)).square().sum().backward()
            one.optimizer.step()

    first, second = learner(), learner()
    steps(first, 3, seed=1)
    checkpoint.save(tmp_path / "checkpoint", *state.capture(first, Progress()))
    found = last_checkpoint(tmp_path, print)
    state.restore(second, *found)
    for one in (first, second):
        steps(one, 3, seed=2)
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_optimizer_state_takes_the_memory_format_of_the_weights(name: str) -> None:
    """A checkpoint of a CPU, resumed where weights are channels_last."""

    def learner(layout: torch.memory_format) -> Learner:
        module = nn.Conv2d(4, 3, 2, bias=False).to(memory_format=layout)
        nn.init.ones_(module.weight)
        options = {} if name == "adam" else {"momentum": 0.9}
        groups = [{"name": "all", "params": [module.weight]}]
        return Learner(module, optim.build(name, groups, lr=0.1, options=options), None, frozenset({"weight"}))

    def step(one: Learner) -> Tensor:
        (weight,) = one.module.parameters()
        weight.grad = torch.empty_like(weight).copy_(torch.arange(1.0, 49.0).view(weight.shape))
        one.optimizer.step()
        return weight.detach()

    first, second = learner(torch.contiguous_format), learner(torch.channels_last)
    step(first)
    tensors, facts = state.capture(first, Progress())
    state.restore(second, copy.deepcopy(tensors), facts)
    torch.testing.assert_close(step(second), step(first))


def test_best_epoch_keeps_the_weights_that_were_evaluated() -> None:
    """The moving average's, copied, of the first of the epochs with the least loss."""
    module = nn.Linear(2, 1)
    averaged = MovingAverage(module, 0.5)
    learner = Learner(module, torch.optim.SGD(module.parameters()), averaged, frozenset({"weight"}))
    progress, found = Progress(), Evaluation(0.0, 0.0, torch.zeros(1, 1))
    for number, loss in enumerate((0.4, 0.3, 0.3, 0.5), 1):
        for network, value in ((module, -1.0), (averaged.module, float(number))):
            nn.init.constant_(network.weight, value)
        epoch = EpochResult(number, number // 2, 0.0, 0.0, found, seconds=1.0, images=5)
        progress.add(epoch, learner, LOSS, {LOSS.epoch: loss})
    assert progress.best.keys() == {"weight"} and progress.best["weight"].tolist() == [[2.0, 2.0]]
    assert (progress.best_epoch, progress.best_value, progress.best_phase) == (2, 0.3, 1)
    assert (progress.position, progress.seconds, progress.images) == (TrainingPosition(5), 4.0, 20)
    assert [progress.exhausted(patience) for patience in (None, 3, 2)] == [False, False, True]


def test_average_takes_in_the_weights_of_each_step() -> None:
    module = nn.Linear(2, 1)
    optimizer, ema = torch.optim.SGD(module.parameters()), MovingAverage(module, 0.25)
    learner = Learner(module, optimizer, ema, frozenset({"weight"}))
    for value, average in ((1.0, 1.0), (3.0, 2.5), (2.5, 2.5)):
        nn.init.constant_(module.weight, value)
        learner.average()
        assert learner.eval_module.state_dict()["weight"].tolist() == [[average, average]]
    assert learner.immutable.keys() == {"bias"} and learner.size == 4 * module.weight.nbytes


def test_tensors_that_learn_in_any_phase_are_mutable() -> None:
    module = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))

    def enter(phase: int) -> None:
        module.requires_grad_(False)[phase].requires_grad_(True)

    assert state.mutable_names(module, enter, range(2)) == {"0.weight", "1.weight"}


def test_checkpoint_with_other_tensors_or_epochs_is_refused() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    mutable, groups = frozenset({"1.weight", "1.bias"}), [{"name": "top", "params": [*module[1].parameters()]}]
    learner = Learner(module, optim.build("sgd", groups, lr=0.1, options={}), MovingAverage(module, 0.9), mutable)
    tensors, facts = state.capture(learner, Progress(best=state.copy(module, mutable)))
    state.restore(learner, tensors, facts)
    for name in ("model/1.weight", "ema/module.1.weight", "best/1.weight"):
        without = {other: tensor for other, tensor in tensors.items() if other != name}
        for changed in (without, {**tensors, name: torch.zeros(9)}):
            with pytest.raises(CheckpointMismatch, match=r"^its tensors differ from those of this run"):
                state.restore(learner, changed, facts)
    with pytest.raises(CheckpointMismatch, match=r"^its epochs contradict its position"):
        state.restore(learner, tensors, {**facts, "position": {**facts["position"], "epoch": 2}})
    for others, its in ((tensors, {}), ({**tensors, "other": torch.zeros(1)}, facts)):
        with pytest.raises(CheckpointMismatch, match=r"^it lacks values that this run needs \(KeyError: "):
            state.restore(learner, others, its)


def test_checkpoint_has_only_learning_parameters(tmp_path: Path) -> None:
    assert attempt(tmp_path / "part", "freeze=head", stop=1) is None
    found = last_checkpoint(tmp_path / "part", print)
    assert {name for name in found[0] if name.startswith(("model/", "best/"))} == {
        *("model/fc.weight", "model/fc.bias", "best/fc.weight", "best/fc.bias")
    }


@pytest.mark.slow
def test_damaged_checkpoint_resumes_from_the_previous_one(full_results: dict[str, Any], tmp_path: Path) -> None:
    assert attempt(tmp_path / "part", "freeze=full", stop=2) is None
    newest = checkpoint.newest(tmp_path / "part" / "checkpoint")[0]
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    again = run(tmp_path / "part", "freeze=full")
    assert any(line.startswith(f"  skipped: {newest}") for line in again["said"])
    assert "  resumes after epoch 1" in again["said"]
    assert_same(full_results, again)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["lr=2e-3", "data.limit=32", "model.name=test_efficientnet", "batch_size=12"])
def test_checkpoint_of_another_config_is_reported_and_skipped(change: str, part: Path, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", change)
    again = run(part, change)
    assert any("skipped" in line and "made with different config" in line for line in again["said"])
    assert_same(whole, again)


def test_checkpoint_with_other_frozen_weights_is_skipped(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "of_tensors", lambda tensors: "0" * 64)
    again = run(part)
    assert any("made with different frozen weights" in line for line in again["said"])


def test_checkpoint_of_a_previous_folder_is_used_and_kept(
    default_results: dict[str, Any], part: Path, tmp_path: Path
) -> None:
    again = run(tmp_path / "after", previous=part)
    assert "  resumes after epoch 1" in again["said"]
    assert_same(default_results, again)
    assert last_checkpoint(part, print) is not None


@pytest.mark.slow
def test_interrupt_finishes_the_step_and_saves_it(
    full_results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the fifth step: the step is finished and saved, and the run resumes after it."""
    steps = 0
    step = torch.optim.Adam.step

    def interrupted(self: torch.optim.Adam, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            interrupts._arrived(15, None)
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    assert attempt(tmp_path / "part", "freeze=full") is None
    assert steps == 5
    monkeypatch.undo()
    again = run(tmp_path / "part", "freeze=full")
    assert "  resumes after step 2 of epoch 2" in again["said"]
    assert_same(full_results, again)


def test_failed_checkpoint_is_reported_and_the_run_continues(
    default_results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    other = run(tmp_path / "full")
    assert any("no checkpoint could be written" in line and "No space" in line for line in other["said"])
    assert_same(default_results, other)
