"""Whole runs on an emulated GPU: the bits of the CPU, no waits within steps, and a limited number of launches."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from emulated_card import MEMORY, EmulatedMachine, MixedDevices
from frostline.core import machine
from frostline.data import resize
from frostline.report.terminal import Screen
from frostline.runs import robustness, setup
from frostline.store.store import Store
from frostline.training import features, gradient, schedule, steps
from small import ADAPTED, KEPT_MODES, MODES, TINY, compose, epochs_of, load_data, score

QUICK = (
    *(*TINY, "batch_size=20", "epochs=1", "threads=1"),
    *("data.limit=48", "data.val_fraction=0.04", "data.test_fraction=0.03"),
)
FEW = {"limit": 20, "val_fraction": 0.01, "test_fraction": 0.01}
EMULATED = (
    *("batch_size=12", "epochs=2", "precision=fp32", f"lr={2**-10}"),
    *(f"data.{key}={value}" for key, value in FEW.items()),
)
"""Options of emulated runs: two steps per epoch, and float32 since bfloat16 is slow on most CPUs.

The learning rate is exact in float32, the type of a GPU's learning rates.
"""
SELDOM = {"sums.read", "evaluation.evaluate_logits", "machine._arrived", "device_budget.take"}
"""Functions that may wait for the GPU: once per epoch, or once per batch of the backbone."""
WAITS = 3
"""Waits of the host per epoch: for the sums of its steps, those of the evaluation, and its logits."""
IN_FULL = ("train.ema_decay=0.9", "train.clip_norm=1.0", "train.label_smoothing=0.1", "augment=trivial")
MIXED = ("freeze=full", "optimizer=sgd", "train.mixup=0.4", "train.cutmix=1.0", "augment=standard", "augment.color=0.4")
GRADUAL = ("freeze=gradual", "epochs=6", "optimizer=rmsprop")
HALF = ("freeze=last_stage", "precision=bf16")
BY_ITSELF = ("freeze=full", *IN_FULL, "precision=auto")
"""In bfloat16, the default of a GPU."""
FITS = [
    ("freeze=full", *IN_FULL),
    MIXED,
    ("freeze=head",),
    ("freeze=last_stage", "train.ema_decay=0.9", "optimizer=adamw", "channels_last=false"),
]
"""Runs whose data are on the GPU after the first epoch."""
COMING = [
    ("freeze=head", "augment=standard", "augment.color=0.4", "features.views=2"),
    ("freeze=full", "store.memory_gb=1e-6", "augment=crop_flip"),
]
"""Runs that compute features in every epoch, or whose pixels come from the host."""
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
    """Use the CPU's batch size of the backbone on GPUs as well, since the CPU computes here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_BATCH_ELSEWHERE", features._BATCH["cpu"])
        yield


@pytest.fixture(autouse=True)
def _restore_torch() -> Iterator[None]:
    """Restore torch's settings."""
    before, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    tf32, threads = torch.backends.cudnn.allow_tf32, torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_num_threads(threads)


def run(
    folder: Path,
    device: str,
    *overrides: str,
    shift: bool = False,
    after_epoch: Callable[[], object] = lambda: None,
) -> tuple[list[Any], int]:
    """Return a run's epoch results, test loss and, with `shift`, corrupted tests; and its number of backbone images."""
    whole = setup.assemble(compose(*QUICK, f"device={device}", *overrides), folder, meta=False, screen=Screen())
    whole = replace(whole, store=Store(folder / f"store-{device[:4]}", budget=1 << 30, say=print))
    epochs = []
    for epoch in epochs_of(whole):
        epochs.append(epoch)
        after_epoch()
    found: list[Any] = [(e.phase, e.train_loss, e.train_accuracy, e.val.loss, e.val.accuracy) for e in epochs]
    found.append(score(whole, epochs[-1].phase).loss)
    if shift:
        found.append(robustness.measure(whole, epochs[-1].phase, lambda text: None))
    return found, whole.views.seen


@dataclass(frozen=True)
class Emulated:
    """The results and counts of a run on an emulated GPU."""

    found: list[Any]
    seen: int
    machine: EmulatedMachine
    waits: Counter[str]
    """Waits of the last epoch, as are `sent` and `launches`."""
    sent: Counter[str]
    launches: int


def emulate(folder: Path, *overrides: str, shift: bool = False, free: int = MEMORY) -> Emulated:
    """Execute a run on an emulated GPU with `free` bytes of memory."""
    epochs: list[tuple[Counter[str], Counter[str], int]] = []
    with EmulatedMachine(free=free).running() as gpu:

        def note() -> None:
            epochs.append((Counter(gpu.waits), Counter(gpu.sent), gpu.launches.total()))

        found, seen = run(folder, "cuda", *EMULATED, *overrides, shift=shift, after_epoch=note)
    before, after = epochs[-2:]
    return Emulated(found, seen, gpu, after[0] - before[0], after[1] - before[1], after[2] - before[2])


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Emulated]:
    """Return a function like `emulate` that executes each run once for all tests."""

    @functools.cache
    def once(*overrides: str, **options: Any) -> Emulated:
        return emulate(tmp_path_factory.mktemp("card"), *overrides, **options)

    return once


@pytest.mark.parametrize("overrides", [*FITS, *COMING, *OTHERS], ids=" ".join)
def test_gpu_run_equals_cpu_run(
    tmp_path: Path,
    overrides: tuple[str, ...],
    emulated: Callable[..., Emulated],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = emulated(*overrides)
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    assert run(tmp_path, "cpu", *EMULATED, *overrides) == (gpu.found, gpu.seen)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", MORE_MODES)
def test_gpu_run_of_every_mode_equals_cpu_run(tmp_path: Path, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_float32", float)  # layer_decay's 0.65 is not exact in float32
    gpu = emulate(tmp_path / "gpu", f"freeze={chosen}")
    assert gpu.waits.total() <= WAITS + (chosen == "lp_ft")  # checks frozen weights after its first phase
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    assert run(tmp_path / "cpu", "cpu", *EMULATED, f"freeze={chosen}") == (gpu.found, gpu.seen)


def test_corrupted_images_are_equal_on_gpu_and_cpu(
    tmp_path: Path, emulated: Callable[..., Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = emulated("freeze=head", shift=True)
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    assert run(tmp_path, "cpu", *EMULATED, "freeze=head", shift=True) == (gpu.found, gpu.seen)


@pytest.mark.parametrize("overrides", [*FITS, BY_ITSELF, HALF], ids=" ".join)
def test_epoch_waits_for_results_and_sends_only_indices(
    overrides: tuple[str, ...], emulated: Callable[..., Emulated]
) -> None:
    gpu = emulated(*overrides)
    assert gpu.waits.total() <= WAITS
    assert {what.partition(": ")[2] for what in gpu.waits} == {"sums.read", "evaluation.evaluate_logits"}
    data = load_data(source="digits", **FEW)
    samples = len(data.train.labels) + len(data.val.labels)
    assert gpu.sent.total() <= 3 * 8 * samples + 512  # int64 indices of samples, and of those they are mixed with
    assert {where.partition(".")[0] for where in +gpu.machine.doubles} <= {"sums", "evaluation"}  # once per epoch
    assert not +gpu.machine.sorts


@pytest.mark.parametrize("overrides", [*COMING, *OTHERS[1:]], ids=" ".join)
def test_steps_with_other_inputs_or_losses_do_not_wait(
    overrides: tuple[str, ...], emulated: Callable[..., Emulated]
) -> None:
    waits = emulated(*overrides).waits
    assert {what.partition(": ")[2] for what in waits} <= SELDOM and waits.total() <= WAITS + 2


def test_features_are_sent_in_their_own_type(emulated: Callable[..., Emulated]) -> None:
    half, whole = (emulated(*overrides).machine.sent["device_budget.take"] for overrides in (HALF, FITS[3]))
    assert 0 < 2 * half == whole


def test_weights_of_images_are_looked_up_without_a_wait(tmp_path: Path) -> None:
    lines = ["path,label,split,weight"]
    for number in range(30):
        Image.new("RGB", (8, 8), (8 * number, 0, 0)).save(tmp_path / f"{number}.png")
        split = "val" if number > 27 else "test" if number > 25 else "train"
        lines.append(f"{number}.png,{number % 2},{split},{number + 1}")
    (tmp_path / "weighted.csv").write_text("\n".join(lines))
    data = ("data=table", f"data.root={tmp_path / 'weighted.csv'}", "data.options.weight=weight", "data.limit=null")
    assert emulate(tmp_path / "run", "freeze=head", *data).waits.total() <= WAITS


def test_freeze_guard_waits_once_per_phase(emulated: Callable[..., Emulated]) -> None:
    gpu = emulated(*GRADUAL)
    phases = {phase for phase, *_ in gpu.found[:-1]}
    waits = sum(count for what, count in gpu.machine.waits.items() if "freeze_guard" in what)
    assert waits == len(phases) - 1 == 5  # the last phase freezes nothing


@pytest.mark.parametrize(("optimizer", "most"), [("adamw", 11), ("sgd", 9)])
def test_step_of_a_head_launches_few_operations(tmp_path: Path, optimizer: str, most: int) -> None:
    choice = ("freeze=head", f"optimizer={optimizer}")
    few, many = (emulate(tmp_path / str(n), *choice, f"data.limit={n}").launches for n in (24, 48))  # 2 and 4 steps
    assert (many - few) / 2 <= most


def test_every_operation_has_a_cuda_kernel(emulated: Callable[..., Emulated]) -> None:
    keys = ("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if not has("aten::convolution_backward", "CUDA"):
        pytest.skip("this torch is built without CUDA")
    runs = (emulated(*BY_ITSELF), emulated(*HALF), emulated(*MIXED), emulated("freeze=head", shift=True))
    kinds = {kind for one in runs for kind in one.machine.kinds}
    assert len(kinds) > 100
    assert not [name for name in kinds if not any(has(name, key) for key in keys)]


def test_free_memory_does_not_change_results(tmp_path: Path, emulated: Callable[..., Emulated]) -> None:
    assert emulated(*HALF).found == emulate(tmp_path, *HALF, free=100 << 10).found


def test_gpu_without_bfloat16_uses_float32() -> None:
    for supported, expected in ((True, "bf16"), (False, "fp32")):
        with EmulatedMachine(bf16=supported).running():
            assert machine.meaning_of_auto("cuda")["precision"] == expected


def test_run_on_the_second_gpu_starts_cuda_only_there(tmp_path: Path) -> None:
    with EmulatedMachine(2).running() as gpu:
        run(tmp_path, "cuda:1", *EMULATED, "freeze=head", "epochs=1")
    assert gpu.contexts == {1}


def test_dropout_is_seeded_on_the_gpu_of_its_inputs() -> None:
    with EmulatedMachine(2).running() as gpu:
        steps.seed_dropout(torch.device("cuda:1"), 7)
        assert gpu.seeded == {1}
        steps.seed_dropout(torch.device("cuda"), 7)
    assert gpu.seeded == {0, 1}


FAULTS = {
    "a value read in a step": lambda part, *_: part.labels.sum().item(),
    "a wait for all work": lambda part, *_: machine.synchronize(part.labels.device),
    "a wait for an index": lambda part, inputs, labels: inputs[torch.arange(2)],
    "a blocking copy": lambda part, inputs, labels: torch.ones(3).to(inputs.device),
    "a copy of pageable memory": lambda part, inputs, labels: torch.ones(1000).to(inputs.device, non_blocking=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_added_waits_in_a_step_are_counted(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_autograd = gradient.by_autograd

    def faulty(network: Any, inputs: Any, targets: Any, *rest: Any) -> Any:
        FAULTS[fault](targets, inputs, targets.labels)
        return by_autograd(network, inputs, targets, *rest)

    monkeypatch.setattr(gradient, "by_autograd", faulty)
    assert emulate(tmp_path, "freeze=full").waits.total() > WAITS


def test_tensors_of_two_devices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_autograd = gradient.by_autograd

    def mixing(network: Any, inputs: Any, *rest: Any) -> Any:
        return by_autograd(network, inputs + torch.ones(3, 1, 1), *rest)

    monkeypatch.setattr(gradient, "by_autograd", mixing)
    with EmulatedMachine().running(), pytest.raises(MixedDevices):
        run(tmp_path, "cuda", *EMULATED, "freeze=full")


def test_emulation_refuses_what_a_gpu_refuses() -> None:
    with EmulatedMachine().running() as gpu:
        torch.ones(1000).pin_memory().to("cuda", non_blocking=True)
        assert not gpu.waits
        ones = torch.ones(3, device="cuda")
        assert (ones + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2] and float(ones.sum()) == 3
        assert set(gpu.waits) == {"to the host: outside", "_local_scalar_dense: outside"}
        pooled = nn.functional.adaptive_avg_pool2d(torch.ones(1, 1, 4, 4, device="cuda").requires_grad_(), 2)
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="deterministic"):
            pooled.sum().backward()
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.ones(3, device="cuda:1")


def test_tests_of_steps_on_a_real_gpu_pass_on_the_emulated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import test_real_card as real  # imports this module

    with EmulatedMachine().running():
        real.test_head_steps_do_not_wait()
        real.test_failed_capture_leaves_memory_and_generator_usable()
        real.test_captured_steps_have_the_bits_of_single_operations(monkeypatch, 4, 2)


def test_torch_refuses_reset_before_cuda_starts() -> None:
    """The emulation raises here because torch does, with or without a GPU."""
    if not torch.backends.cuda.is_built() or torch.cuda.is_initialized():
        pytest.skip("needs a torch with CUDA that has not started")
    with pytest.raises(RuntimeError, match=r"nvalid (device )?argument"):
        torch.cuda.reset_peak_memory_stats(torch.device("cuda:1"))
