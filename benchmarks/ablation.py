"""Ablation of our optimisations: the same work with and without each, in turn in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median

import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig
from torch import nn

import limit
from bench import Bench
from frostline.core import project
from frostline.core.memory import keep_freed, release_freed
from frostline.models import build, cut, fuse
from frostline.store import tensorfile
from frostline.sweeps.composer import Composer
from frostline.training import gradient
from frostline.training.criterion import Targets
from frostline.training.gradient import Head
from images import CLASSES
from table import Row, figures

_JOBS, _STEPS, _IMAGES = 64, 200, 32


def ablation(bench: Bench) -> Iterator[Row]:
    """Measure all optimisations."""
    yield from templates(bench)
    yield from drafts(bench)
    yield from heads(bench)
    if bench.device.type == "cpu":
        yield from memory(bench)
    if bench.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512":  # else bf16 is emulated
        yield from convolutions(bench)


def _row(bench: Bench, what: str, setting: str, ours: Callable[[], object], theirs: Callable[[], object]) -> Row:
    """Return the times of both sides, `rounds` of each in turn."""
    pairs = []
    for _ in range(bench.scale.rounds):
        pairs.append([limit.seconds(work, bench.device, times=1) for work in (ours, theirs)])
    with_it, without = (median(side) for side in zip(*pairs, strict=True))
    return bench.row(
        *(f"short cut: {what}", setting, without / with_it),
        ours=f"{figures(with_it * 1e3)} ms",
        theirs=f"{figures(without * 1e3)} ms",
        unit="x",
        note="without it, divided by with it; medians",
    )


def templates(bench: Bench) -> Iterator[Row]:
    """Time the composition of a grid from templates against job by job."""
    jobs = [[f"freeze={mode}", f"lr={lr}"] for mode in ("head", "full") for lr in range(1, _JOBS // 2 + 1)]
    project.register_resolver()
    with initialize_config_dir(str(project.config_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", ["hydra.sweep.dir=elsewhere"], RunMode.MULTIRUN)
        some = jobs if bench.scale.rounds > 1 else jobs[:4]

        def whole(job: Sequence[str]) -> DictConfig:
            return loader.load_sweep_config(master, list(job))

        yield _row(
            *(bench, "templates", f"{len(some)} jobs composed"),
            lambda: [Composer(whole)(job) for job in some[:1]] and list(map(Composer(whole), some)),
            lambda: [whole(job) for job in some],
        )


def drafts(bench: Bench) -> Iterator[Row]:
    """Time the final write of a head run's weights: only the changed ones, the rest written earlier, against all."""
    network = limit.network(bench.scale.full, bench.side, torch.device("cpu"))
    moved = {name: part[:CLASSES].clone() for name, part in network.state_dict().items() if name.startswith("fc.")}
    tensors = {**network.state_dict(), **moved}
    folder = bench.folder()
    folder.mkdir(parents=True)

    @contextmanager
    def begun() -> Iterator[tensorfile.Draft]:
        with tensorfile.Draft(folder / "draft.safetensors", tensors, {}) as draft:
            draft.begin({name: tensor for name, tensor in tensors.items() if name not in moved})
            assert draft._begun is not None
            draft._begun.result()
            yield draft

    seconds = []
    for _ in range(bench.scale.rounds):
        with begun() as draft:
            ours = limit.seconds(partial(_finished, draft, moved), bench.device, times=1, warm=False)
        theirs = limit.seconds(
            lambda: tensorfile.save(folder / "whole.safetensors", tensors, {}), bench.device, times=1
        )
        seconds.append((ours, theirs))
    with_it, without = (median(side) for side in zip(*seconds, strict=True))
    yield bench.row(
        *(
            "short cut: weights written while the rest learns",
            f"{bench.scale.full}, its head learns",
            without / with_it,
        ),
        ours=f"{figures(with_it * 1e3)} ms",
        theirs=f"{figures(without * 1e3)} ms",
        unit="x",
        note="what a run waits for at its end; medians",
    )


def _finished(draft: tensorfile.Draft, moved: dict[str, torch.Tensor]) -> str:
    return draft.finish(moved).result()


def heads(bench: Bench) -> Iterator[Row]:
    """Time steps of a head on features, in closed form against autograd."""
    linear = nn.Linear(512, 10).to(bench.device)
    inputs = torch.randn(_IMAGES, 512, device=bench.device)
    labels = torch.randint(0, 10, (_IMAGES,), device=bench.device)
    targets, head = Targets(labels, labels, 1.0, 0.0), Head((), linear)

    def closed() -> None:
        for _ in range(_STEPS):
            gradient.of_head(head, inputs, labels, 0.0)

    def autograd() -> None:
        for _ in range(_STEPS):
            linear.zero_grad(set_to_none=True)
            gradient.by_autograd(linear, inputs, targets, None)

    yield _row(
        bench,
        "closed-form gradient of a head",
        f"{_STEPS} steps of {_IMAGES} images, 512 features each",
        closed,
        autograd,
    )


def _backbone(bench: Bench, network: str) -> tuple[nn.Module, torch.Tensor]:
    model = build.build(network, weights=None, num_classes=10, seed=0)
    lower, _ = cut.halves(model.module, model.structure, model.structure.stages[:-1])
    images = torch.rand(_IMAGES, 3, bench.side, bench.side).contiguous(memory_format=torch.channels_last)
    return lower.eval(), images


def convolutions(bench: Bench) -> Iterator[Row]:
    """Time features with convolutions fused with the next operations, against folded norms alone."""
    lower, images = _backbone(bench, bench.scale.full)
    images, how = images.bfloat16(), (torch.bfloat16, bench.device, torch.channels_last)
    fused, available = fuse.fast_copy(lower, *how), fuse.has_onednn
    fuse.has_onednn = lambda: False
    try:
        plain = fuse.fast_copy(lower, *how)
    finally:
        fuse.has_onednn = available
    with torch.inference_mode():
        yield _row(
            *(bench, "fused convolutions", f"{bench.scale.full}, {_IMAGES} images, bf16"),
            lambda: fused(images),
            lambda: plain(images),
        )


def memory(bench: Bench) -> Iterator[Row]:
    """Time features while malloc keeps freed memory, against returning it to the system."""
    lower, images = _backbone(bench, "resnet18")

    def keeping() -> None:
        keep_freed(bench.device)
        lower(images)

    def giving_back() -> None:
        release_freed()
        lower(images)

    with torch.inference_mode():
        yield _row(bench, "retained memory", f"resnet18, {_IMAGES} images, float32", keeping, giving_back)
    release_freed()
