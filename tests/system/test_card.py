"""Whole runs on a card that is emulated: the bits of the CPU, no wait in a step, and launches that are counted."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from emulated_card import MEMORY, EmulatedMachine, MixedDevices
from frostline.core import machine
from frostline.data import resize
from frostline.models import freeze_guard
from frostline.report.terminal import Screen
from frostline.runs import robustness, setup, train
from frostline.runs.final_weights import score
from frostline.store.store import Store
from frostline.training import features, gradient, schedule, steps
from frostline.training.loop import EpochResult
from frostline.training.state import Progress
from small import ADAPTED, KEPT_MODES, MODES, TINY, compose, load_data

QUICK = (
    *(*TINY, "batch_size=20", "epochs=1", "threads=1"),
    *("data.limit=48", "data.val_fraction=0.04", "data.test_fraction=0.03"),
)
FEW = {"limit": 20, "val_fraction": 0.01, "test_fraction": 0.01}
EMULATED = (
    *("batch_size=12", "epochs=2", "precision=fp32", f"lr={2**-10}"),
    *(f"data.{key}={value}" for key, value in FEW.items()),
)
"""Where the card is emulated: a step and two thirds in an epoch; in float32, since bfloat16 is slow on most CPUs.

The learning rate is a number that a float32 has, as it is on a card.
"""
SELDOM = {"sums.read", "evaluation.of_logits", "machine._arrived", "device_budget.take"}
"""Functions that may wait for the card: once in an epoch, or once for a batch of the backbone."""
WAITS = 3
"""How often the host waits in an epoch: for the sums of its steps, for those of the evaluation, and for its logits."""
IN_FULL = ("train.ema_decay=0.9", "train.clip_norm=1.0", "train.label_smoothing=0.1", "augment=trivial")
MIXED = ("freeze=full", "optimizer=sgd", "train.mixup=0.4", "train.cutmix=1.0", "augment=standard", "augment.color=0.4")
GRADUAL = ("freeze=gradual", "epochs=6", "optimizer=rmsprop")
HALF = ("freeze=last_stage", "precision=bf16")
BY_ITSELF = ("freeze=full", *IN_FULL, "precision=auto")
"""In bfloat16, as a card chooses."""
FITS = [
    ("freeze=full", *IN_FULL),
    MIXED,
    ("freeze=head",),
    ("freeze=last_stage", "train.ema_decay=0.9", "optimizer=adamw", "channels_last=false"),
]
"""Runs that have all they need on the card after their first epoch."""
COMING = [
    ("freeze=head", "augment=standard", "augment.color=0.4", "features.views=2"),
    ("freeze=full", "store.memory_gb=1e-6", "augment=crop_flip"),
]
"""Runs that compute features anew in every epoch, or whose pixels come from the host."""
SKEWED = ("train.loss=focal", "train.class_weights=balanced", "train.sampling=balanced", "select=val/macro_f1")
OTHERS = [
    GRADUAL,
    ("freeze=head", "store.memory_gb=1e-6", *SKEWED),
    ("freeze=head", "features.enabled=false"),
    ("freeze=head", "data.folds=3", "data.fold=1", "train.class_weights=balanced"),
]
MORE_MODES = sorted({*MODES, *ADAPTED, *KEPT_MODES} - {"head", "last_stage", "full", "gradual", "prompt"})


@pytest.fixture(scope="module", autouse=True)
def _small_batches() -> Iterator[None]:
    """Let the backbone see as few images at once on a card as on a CPU, which computes here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_BATCH_ELSEWHERE", features._BATCH["cpu"])
        yield


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
    learner, guard = train.learner_of(whole), freeze_guard.Guard(whole.model.module)
    silent = cast(Screen, Silent())
    events = train.fit_phases(whole, learner, guard, silent, progress=Progress(), pause=lambda: False)
    epochs = []
    for event in events:
        if isinstance(event, EpochResult):
            epochs.append(event)
            after_epoch()
    found: list[Any] = [(e.phase, e.train_loss, e.train_accuracy, e.val.loss, e.val.accuracy) for e in epochs]
    found.append(score(whole, epochs[-1].phase).loss)
    if shift:
        found.append(robustness.measure(whole, epochs[-1].phase, lambda text: None))
    return found, whole.views.seen


@dataclass(frozen=True)
class Emulated:
    """What came of a run on an emulated card."""

    found: list[Any]
    seen: int
    machine: EmulatedMachine
    waits: Counter[str]
    """Those of its last epoch."""
    sent: Counter[str]
    launches: int


def emulate(folder: Path, *overrides: str, shift: bool = False, free: int = MEMORY) -> Emulated:
    """Carry out a run on an emulated card with so many bytes `free`."""
    epochs: list[tuple[Counter[str], Counter[str], int]] = []
    with EmulatedMachine(free=free).running() as there:

        def note() -> None:
            epochs.append((Counter(there.waits), Counter(there.sent), there.launches.total()))

        found, seen = run(folder, "cuda", *EMULATED, *overrides, shift=shift, after_epoch=note)
    before, after = epochs[-2:]
    return Emulated(found, seen, there, after[0] - before[0], after[1] - before[1], after[2] - before[2])


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Emulated]:
    """Return what carries out a run on an emulated card; several tests look at the same one."""

    @functools.cache
    def once(*overrides: str, **options: Any) -> Emulated:
        return emulate(tmp_path_factory.mktemp("card"), *overrides, **options)

    return once


@pytest.mark.parametrize("overrides", [*FITS, *COMING, *OTHERS], ids=" ".join)
def test_a_run_on_a_card_is_the_run_on_the_cpu(
    tmp_path: Path,
    overrides: tuple[str, ...],
    emulated: Callable[..., Emulated],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = emulated(*overrides)
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    assert run(tmp_path, "cpu", *EMULATED, *overrides) == (there.found, there.seen)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", MORE_MODES)
def test_a_run_of_every_mode_on_a_card_is_that_on_the_cpu_and_no_step_waits(
    tmp_path: Path, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_float32", float)  # which 0.65 of layer_decay's is not
    there = emulate(tmp_path / "there", f"freeze={chosen}")
    assert there.waits.total() <= WAITS + (chosen == "lp_ft")  # whose first phase ends with a look at what it froze
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    assert run(tmp_path / "here", "cpu", *EMULATED, f"freeze={chosen}") == (there.found, there.seen)


def test_corrupted_images_are_the_same_on_a_card(
    tmp_path: Path, emulated: Callable[..., Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = emulated("freeze=head", shift=True)
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    assert run(tmp_path, "cpu", *EMULATED, "freeze=head", shift=True) == (there.found, there.seen)


@pytest.mark.parametrize("overrides", [*FITS, BY_ITSELF, HALF], ids=" ".join)
def test_where_all_fits_an_epoch_waits_for_its_results_and_sends_an_order_alone(
    overrides: tuple[str, ...], emulated: Callable[..., Emulated]
) -> None:
    there = emulated(*overrides)
    assert there.waits.total() <= WAITS
    assert {what.partition(": ")[2] for what in there.waits} == {"sums.read", "evaluation.of_logits"}
    data = load_data(source="digits", **FEW)
    samples = len(data.train.labels) + len(data.val.labels)
    assert there.sent.total() <= 3 * 8 * samples + 512  # int64 numbers of rows, and of what they are mixed with
    assert not +there.machine.sorts


@pytest.mark.parametrize("overrides", COMING, ids=" ".join)
def test_no_step_waits_where_features_are_computed_anew_or_pixels_come_from_the_host(
    overrides: tuple[str, ...], emulated: Callable[..., Emulated]
) -> None:
    waits = emulated(*overrides).waits
    assert {what.partition(": ")[2] for what in waits} <= SELDOM and waits.total() <= WAITS + 2


def test_the_guard_waits_once_in_a_phase(emulated: Callable[..., Emulated]) -> None:
    there = emulated(*GRADUAL)
    phases = {phase for phase, *_ in there.found[:-1]}
    waits = sum(count for what, count in there.machine.waits.items() if "freeze_guard" in what)
    assert waits == len(phases) - 1 == 5  # the last phase freezes nothing


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_of_a_head_launches_a_dozen_operations(tmp_path: Path, optimizer: str) -> None:
    choice = ("freeze=head", f"optimizer={optimizer}")
    few, many = (emulate(tmp_path / str(n), *choice, f"data.limit={n}").launches for n in (24, 48))  # two steps, and 4
    assert (many - few) / 2 <= 12


def test_torch_has_a_cuda_kernel_for_every_operation(emulated: Callable[..., Emulated]) -> None:
    keys = ("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if not has("aten::convolution_backward", "CUDA"):
        pytest.skip("this torch is built without CUDA")
    runs = (emulated(*BY_ITSELF), emulated(*HALF), emulated(*MIXED), emulated("freeze=head", shift=True))
    kinds = {kind for one in runs for kind in one.machine.kinds}
    assert len(kinds) > 100
    assert not [name for name in kinds if not any(has(name, key) for key in keys)]


def test_how_much_memory_is_free_makes_no_difference_to_a_bit(
    tmp_path: Path, emulated: Callable[..., Emulated]
) -> None:
    assert emulated(*HALF).found == emulate(tmp_path, *HALF, free=100 << 10).found


def test_a_card_without_bfloat16_computes_in_float32_and_the_plan_says_so() -> None:
    for there, expected in ((True, "bf16"), (False, "fp32")):
        with EmulatedMachine(bf16=there).running():
            assert machine.meaning_of_auto("cuda")["precision"] == expected


def test_a_run_on_the_second_card_starts_cuda_there_alone(tmp_path: Path) -> None:
    with EmulatedMachine(2).running() as there:
        run(tmp_path, "cuda:1", *EMULATED, "freeze=head", "epochs=1")
    assert there.contexts == {1}


def test_what_a_dropout_draws_is_seeded_on_the_card_of_its_inputs() -> None:
    with EmulatedMachine(2).running() as there:
        steps.seed_dropout(torch.device("cuda:1"), 7)
        assert there.seeded == {1}
        steps.seed_dropout(torch.device("cuda"), 7)
    assert there.seeded == {0, 1}


FAULTS = {
    "a number read in a step": lambda part, *_: part.labels.sum().item(),
    "a wait for an index": lambda part, inputs, labels: inputs[torch.arange(2)],
    "a copy that is waited for": lambda part, inputs, labels: torch.ones(3).to(inputs.device),
    "a copy of pageable memory": lambda part, inputs, labels: torch.ones(1000).to(inputs.device, non_blocking=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wait_that_somebody_adds_to_a_step_is_noticed(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_autograd = gradient.by_autograd

    def faulty(network: Any, inputs: Any, targets: Any, *rest: Any) -> Any:
        FAULTS[fault](targets, inputs, targets.labels)
        return by_autograd(network, inputs, targets, *rest)

    monkeypatch.setattr(gradient, "by_autograd", faulty)
    assert emulate(tmp_path, "freeze=full").waits.total() > WAITS


def test_tensors_of_two_devices_are_refused_as_by_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_autograd = gradient.by_autograd

    def mixing(network: Any, inputs: Any, *rest: Any) -> Any:
        return by_autograd(network, inputs + torch.ones(3, 1, 1), *rest)

    monkeypatch.setattr(gradient, "by_autograd", mixing)
    with EmulatedMachine().running(), pytest.raises(MixedDevices):
        run(tmp_path, "cuda", *EMULATED, "freeze=full")


def test_the_emulation_refuses_what_a_card_refuses() -> None:
    with EmulatedMachine().running() as there:
        torch.ones(1000).pin_memory().to("cuda", non_blocking=True)
        assert not there.waits
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
