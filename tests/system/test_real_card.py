"""Tests that need a GPU: `make gpu` runs them, and `make test` on machines with one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_card import IN_FULL, run
from torch import nn

from frostline.core import machine
from frostline.data.resize import CenterCrop, center_crop, resized_crop
from frostline.models import cut, freezing, fuse
from frostline.models.build import build
from frostline.training import captured_step, gradient, optim
from frostline.training.criterion import Targets
from frostline.training.lockstep import Stack
from frostline.training.steps import PlainStepper, Recipe, TrainedPart, seed_dropout
from heads import BATCH, make_heads
from small import ONE_OF_EACH_FAMILY, Samples, mode

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("default")]  # what torch warns of on a GPU is shown
CARD = torch.device("cuda")
RUNS = [
    ("freeze=head", "augment=trivial"),
    ("freeze=full", *IN_FULL),
    ("freeze=last_stage", "augment=standard", "train.ema_decay=0.9", "epochs=2"),
    ("freeze=full", "train.mixup=0.4", "train.cutmix=1.0", "optimizer=sgd"),
]


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    machine.prepare_torch(deterministic=True, threads=None)


@pytest.mark.parametrize("overrides", RUNS, ids=" ".join)
def test_repeated_run_gives_equal_bits(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    first, again = (run(tmp_path / name, "cuda", *overrides, shift=True) for name in ("first", "again"))
    assert first == again


@pytest.mark.parametrize("overrides", RUNS, ids=" ".join)
def test_float32_run_is_close_to_the_cpu(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    cpu, seen_on_cpu = run(tmp_path / "cpu", "cpu", *overrides, "precision=fp32")
    gpu, seen_on_gpu = run(tmp_path / "gpu", "cuda", *overrides, "precision=fp32")
    assert seen_on_cpu == seen_on_gpu
    assert gpu[0][1] == pytest.approx(cpu[0][1], rel=0.02)  # loss of the first epoch: views differ by up to 1/255


def test_gpu_is_chosen_by_its_number(tmp_path: Path) -> None:
    assert run(tmp_path / "named", "cuda:0", "freeze=head") == run(tmp_path / "any", "cuda", "freeze=head")


def test_place_of_pixels_does_not_change_results(tmp_path: Path) -> None:
    roomy = run(tmp_path / "roomy", "cuda", "freeze=last_stage", "epochs=2", "store.memory_gb=4")
    tight = run(tmp_path / "tight", "cuda", "freeze=last_stage", "epochs=2", "store.memory_gb=1e-6")
    assert roomy[0] == tight[0]


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_every_family_is_reproducible_with_a_close_fast_copy(name: str) -> None:
    with torch.random.fork_rng(devices=[0]):  # of all, with several it would warn
        model = build(name, weights=None, num_classes=5, seed=0, memory_format=torch.channels_last)
        module, side = model.module.to(CARD), model.input.size
        generator = torch.Generator(CARD).manual_seed(0)
        images = torch.randn(4, 3, side, side, device=CARD, generator=generator)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.arange(4, device=CARD)
        for chosen in (mode("head"), mode("full")):
            (phase,) = freezing.resolve(module, model.structure, chosen.phases, chosen.name)
            freezing.freeze(module, model.structure, phase, norm_stats=chosen.norm_stats)
            if chosen.name == "head":
                lower = cut.halves(module, model.structure, cut.stages_below(model.structure, phase))[0]
                fast = fuse.fast_copy(lower, torch.bfloat16, CARD, torch.channels_last)
                with torch.inference_mode():
                    wanted, found = lower(images).float(), fast(images.bfloat16()).float()
                assert (wanted - found).norm() < 0.2 * wanted.norm()
        found = []
        for _ in range(2):
            module.zero_grad(set_to_none=True)
            seed_dropout(CARD, 1)
            gradient.by_autograd(module, images, Targets(labels, labels, 1.0, 0.0), torch.bfloat16)
            found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
        assert len(found[0]) == len(list(module.parameters()))
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_views_are_close_to_the_cpu(interpolation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, 97, 140), dtype=torch.uint8, generator=generator)
    how = CenterCrop(size=64, resize=73, interpolation=interpolation)
    cpu, gpu = center_crop(pixels, how).float(), center_crop(pixels.to(CARD), how).float().cpu()
    assert (cpu - gpu).abs().max() <= 1
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9]]).repeat(8, 1)
    cpu = resized_crop(pixels, boxes, 48, interpolation=interpolation)
    gpu = resized_crop(pixels.to(CARD), boxes.to(CARD), 48, interpolation=interpolation).cpu()
    assert (cpu - gpu).abs().max() <= 1


@pytest.mark.parametrize(("heads", "seeds"), [(1, 1), (16, 1), (16, 4)])
def test_captured_steps_have_the_bits_of_single_operations(
    monkeypatch: pytest.MonkeyPatch, heads: int, seeds: int
) -> None:
    def trained(after: int) -> list[torch.Tensor]:
        monkeypatch.setattr(captured_step, "_AFTER", after)
        notes: list[str] = []
        members, data = make_heads(heads, seeds, dim=2048, device="cuda")
        stack, batches = Stack(members, data, notes.append), torch.arange(len(data.labels)).split(BATCH)
        for epoch in range(1, 6):
            for _ in stack.steps(batches, epoch, (epoch - 1) * len(batches)):
                pass
        assert not notes
        return [parameter.detach().cpu() for one in members for parameter in one.head.linear.parameters()]

    replayed: list[torch.cuda.CUDAGraph] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replayed.append(graph) or replay(graph))
    captured = trained(2)
    assert len(replayed) == 5 * 4 - 3 and len(set(replayed)) == 1  # all but the optimizer's first step and two more
    assert all(map(torch.equal, captured, trained(10**6)))


@pytest.mark.parametrize("dim", [512, 2048])
@pytest.mark.parametrize("seeds", [1, 4])
def test_heads_in_lockstep_get_the_bits_of_each_alone(seeds: int, dim: int) -> None:
    members, data = make_heads(16, seeds, dim=dim, device="cuda")
    assert Stack(members, data).agrees(torch.arange(len(data.labels)).split(BATCH), 1, 0)


def head_steps(count: int) -> Callable[[], None]:
    """Return a function that trains a head on the GPU with so many steps."""
    linear = nn.Linear(2048, 10).to(CARD)
    features = torch.randn(32 * count, 2048, device=CARD)
    data = Samples(features, torch.randint(10, (32 * count,), device=CARD), cached=True)
    built = optim.build("adam", [{"params": list(linear.parameters()), "scales": (1.0,)}], lr=1e-3, options={})
    batches = list(torch.arange(32 * count).split(32))
    part, recipe = TrainedPart(linear, data, None), Recipe(1, 32, 256, 0)

    def train() -> None:
        for _ in PlainStepper(built, recipe).steps(part, batches, 1, 0):
            pass

    return train


def test_head_steps_do_not_wait() -> None:
    train = head_steps(70)  # more than are fetched together
    train()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
        try:
            train()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_head_steps_launch_12_kernels() -> None:
    train = head_steps(200)
    train()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiled:  # else torch 2.11 warns
        train()
        torch.cuda.synchronize()
    launches = ("cudaLaunchKernel", "cuLaunchKernel")  # and the same with attributes, as on recent cards
    launched = sum(event.count for event in profiled.key_averages() if event.key.startswith(launches))
    assert 0 < launched <= 12 * 200


def test_failed_capture_leaves_memory_and_generator_usable() -> None:  # last: it may fail others
    def waiting(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        inputs.sum().item()
        return inputs + targets

    notes: list[str] = []
    ones = torch.ones(3, device=CARD)
    for function in (waiting, torch.add):
        step = captured_step.CapturedStep(function, lambda: [ones], notes.append)
        for _ in range(captured_step._AFTER + 2):
            assert step(ones, ones).tolist() == [2, 2, 2]
        torch.cuda.empty_cache()
        assert nn.functional.dropout(ones, 0.5).sum() in (0, 2, 4, 6)
    assert len(notes) == 1 and "captur" in notes[0]
