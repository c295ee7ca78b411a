"""Whole runs on a card that is emulated: the bits of the CPU, no wait in a step, and launches that are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from emulated_card import EmulatedMachine, MixedDevices
from frostline.core import machine
from frostline.data import resize
from frostline.models import freezing
from frostline.report.terminal import Screen
from frostline.runs import robustness, setup, split_views, train
from frostline.runs.run import score
from frostline.store.store import Store
from frostline.training import gradient
from frostline.training.loop import EpochResult
from frostline.training.state import Progress
from small import compose, load_data

FEW = {"limit": 48, "val_fraction": 0.04, "test_fraction": 0.03}
QUICK = (
    *("model.image_size=32", "batch_size=20", "epochs=1", "threads=1"),
    *(f"data.{key}={value}" for key, value in FEW.items()),
)
SELDOM = {"steps.read", "evaluation.evaluate", "features._compute", "room.take"}
"""Functions that may wait for the card: once in an epoch, or once for a batch of the backbone."""
WAITS = 3
"""How often the host waits in an epoch: for the sums of its steps, for those of the evaluation, and for its logits."""
IN_FULL = ("train.ema_decay=0.9", "train.clip_norm=1.0", "train.label_smoothing=0.1", "augment=trivial")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave torch's settings as they were."""
    before, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    tf32, threads = torch.backends.cudnn.allow_tf32, torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_num_threads(threads)


class Silent:
    def advance(self, done: float) -> None:
        pass

    def say(self, text: str, style: str = "") -> None:
        pass


def run(
    folder: Path,
    device: str,
    *overrides: str,
    shift: bool = False,
    after_epoch: Callable[[], object] = lambda: None,
) -> tuple[list[Any], int]:
    """Return what a run's epochs, its test and, with `shift`, corrupted tests came to, and how many images it saw."""
    whole = setup.assemble(compose(*QUICK, f"device={device}", *overrides), folder, meta=False, screen=Screen())
    whole = replace(whole, store=Store(folder / f"store-{device[:4]}", budget=1 << 30, say=print))
    images, learner, guard = split_views.look(whole), train.learner_of(whole), freezing.Guard(whole.model.module)
    silent = cast(Screen, Silent())
    events = train.fit_phases(whole, learner, images, guard, silent, progress=Progress(), pause=lambda: False)
    epochs = []
    for event in events:
        if isinstance(event, EpochResult):
            epochs.append(event)
            after_epoch()
    found: list[Any] = [(e.phase, e.train_loss, e.train_accuracy, e.val.loss, e.val.accuracy) for e in epochs]
    found.append(score(whole, epochs[-1].phase, images).loss)
    if shift:
        found.append(robustness.measure(whole, epochs[-1].phase, images, lambda text: None))
    return found, images.seen


@pytest.mark.parametrize(
    "overrides",
    [
        ("freeze=full", *IN_FULL),
        ("freeze=full", "train.mixup=0.4", "train.cutmix=1.0", "augment=standard", "optimizer=sgd"),
        ("freeze=head", "epochs=2", "augment=standard", "augment.color=0.4", "features.views=2"),
        ("freeze=last_stage", "augment=crop_flip", "optimizer=adamw", "channels_last=false"),
        ("freeze=gradual", "epochs=6", "optimizer=rmsprop"),
        ("freeze=head", "store.memory_gb=1e-6"),
        ("freeze=full", "store.memory_gb=1e-6"),
        ("freeze=head", "features.enabled=false"),
    ],
    ids=" ".join,
)
def test_a_run_on_a_card_is_the_run_on_the_cpu(
    tmp_path: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    here, seen = run(tmp_path, "cpu", *overrides, "precision=fp32")
    with EmulatedMachine().running():
        assert run(tmp_path, "cuda", *overrides, "precision=fp32") == (here, seen)


def test_corrupted_pictures_are_the_same_on_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    here = run(tmp_path, "cpu", "freeze=head", "precision=fp32", shift=True)
    with EmulatedMachine().running():
        assert run(tmp_path, "cuda", "freeze=head", "precision=fp32", shift=True) == here


def last_epoch(folder: Path, *overrides: str) -> tuple[Counter[str], Counter[str], int, EmulatedMachine]:
    """Return the waits, the bytes sent and the launches of the third epoch of a run, and the machine it was on."""
    seen: list[tuple[Counter[str], Counter[str], int]] = []
    with EmulatedMachine().running() as there:

        def note() -> None:
            seen.append((Counter(there.waits), Counter(there.sent), there.launches.total()))

        run(folder, "cuda", *overrides, "epochs=3", after_epoch=note)
    before, after = seen[1:]
    return after[0] - before[0], after[1] - before[1], after[2] - before[2], there


FITS = [
    ("freeze=full", *IN_FULL, "train.mixup=0.4"),
    ("freeze=full", "optimizer=sgd", "augment=standard", "augment.color=0.4"),
    ("freeze=head",),
    ("freeze=last_stage", "train.ema_decay=0.9"),
]


@pytest.mark.parametrize("overrides", FITS, ids=" ".join)
def test_where_all_fits_an_epoch_waits_for_its_results_and_sends_an_order_alone(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    waits, sent, _, last = last_epoch(tmp_path, *overrides)
    assert waits.total() <= WAITS
    assert {what.partition(": ")[2] for what in waits} == {"steps.read", "evaluation.evaluate"}
    data = load_data(source="digits", **FEW)
    samples = len(data.train.labels) + len(data.val.labels)
    assert sent.total() <= 3 * 8 * samples + 512  # int64 numbers of rows, and of what they are mixed with
    assert not +last.sorts


COMING = [("freeze=head", "augment=standard"), ("freeze=full", "store.memory_gb=1e-6")]


@pytest.mark.parametrize("overrides", COMING, ids=" ".join)
def test_no_step_waits_where_features_are_computed_anew_or_pixels_come_from_the_host(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    waits, *_ = last_epoch(tmp_path, *overrides)
    assert {what.partition(": ")[2] for what in waits} <= SELDOM and waits.total() <= WAITS + 2


def test_the_guard_waits_once_in_a_phase(tmp_path: Path) -> None:
    with EmulatedMachine().running() as there:
        run(tmp_path, "cuda", "freeze=last_stage")
    assert sum(count for what, count in there.waits.items() if "freezing" in what) == 1


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_of_a_head_launches_a_dozen_operations(tmp_path: Path, optimizer: str) -> None:
    choice = ("freeze=head", f"optimizer={optimizer}")
    few, many = (last_epoch(tmp_path / str(n), *choice, f"data.limit={n}")[2] for n in (40, 80))  # two steps, and four
    assert (many - few) / 2 <= 12


def test_torch_has_a_cuda_kernel_for_every_operation(tmp_path: Path) -> None:
    keys = ("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if not has("aten::convolution_backward", "CUDA"):
        pytest.skip("this torch is built without CUDA")
    with EmulatedMachine().running() as there:
        run(tmp_path, "cuda", "freeze=full", *IN_FULL, "train.cutmix=1.0")
        run(tmp_path, "cuda", "freeze=head", shift=True)
    assert len(there.kinds) > 100
    assert not [name for name in there.kinds if not any(has(name, key) for key in keys)]


def test_how_much_memory_is_free_makes_no_difference_to_a_bit(tmp_path: Path) -> None:
    choice = ("freeze=last_stage", "epochs=2", "precision=bf16")
    found = []
    for free in (80 << 30, 100 << 10):
        with EmulatedMachine(free=free).running():
            found.append(run(tmp_path / str(free), "cuda", *choice)[0])
    assert found[0] == found[1]


def test_a_card_without_bfloat16_computes_in_float32_and_the_plan_says_so(tmp_path: Path) -> None:
    for there, expected in ((True, "bf16"), (False, "fp32")):
        with EmulatedMachine(bf16=there).running():
            assert machine.meaning_of_auto("cuda")["precision"] == expected


def test_a_run_on_the_second_card_starts_cuda_there_alone(tmp_path: Path) -> None:
    with EmulatedMachine(2).running() as there:
        run(tmp_path, "cuda:1", "freeze=head")
    assert there.contexts == {1}


FAULTS = {
    "a number read in a step": lambda part, *_: part.labels.sum().item(),
    "a wait for an index": lambda part, inputs, labels: inputs[torch.arange(2)],
    "a copy that is waited for": lambda part, inputs, labels: torch.ones(3).to(inputs.device),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wait_that_somebody_adds_to_a_step_is_noticed(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_autograd = gradient.by_autograd

    def faulty(network: Any, inputs: Any, targets: Any, autocast: Any) -> Any:
        FAULTS[fault](targets, inputs, targets.labels)
        return by_autograd(network, inputs, targets, autocast)

    monkeypatch.setattr(gradient, "by_autograd", faulty)
    waits, *_ = last_epoch(tmp_path, "freeze=full")
    assert waits.total() > WAITS


def test_tensors_of_two_devices_are_refused_as_by_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_autograd = gradient.by_autograd

    def mixing(network: Any, inputs: Any, *rest: Any) -> Any:
        return by_autograd(network, inputs + torch.ones(3, 1, 1), *rest)

    monkeypatch.setattr(gradient, "by_autograd", mixing)
    with EmulatedMachine().running(), pytest.raises(MixedDevices):
        run(tmp_path, "cuda", "freeze=full")


def test_the_emulation_refuses_what_a_card_refuses() -> None:
    with EmulatedMachine().running() as there:
        ones = torch.ones(3, device="cuda")
        assert (ones + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2] and float(ones.sum()) == 3
        assert set(there.waits) == {"to the host: outside", "_local_scalar_dense: outside"}
        pooled = nn.functional.adaptive_avg_pool2d(torch.ones(1, 1, 4, 4, device="cuda").requires_grad_(), 2)
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="deterministic"):
            pooled.sum().backward()
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.ones(3, device="cuda:1")


def test_torch_itself_resets_nothing_of_a_numbered_card_before_it_has_started() -> None:
    """What the emulation says here is what torch says, with or without a card."""
    if not torch.backends.cuda.is_built() or torch.cuda.is_initialized():
        pytest.skip("needs a torch with CUDA that has not started")
    with pytest.raises(RuntimeError, match=r"nvalid (device )?argument"):
        torch.cuda.reset_peak_memory_stats(torch.device("cuda:1"))
