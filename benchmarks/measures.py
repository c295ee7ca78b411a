"""The measurements, side by side in one process: each function returns rows of the table."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import ablation
import advice
import determinism
import fair
import fidelity
import images
import limit
import many
import ours
import replay
import safety
import search
import streaming
import tutorial
from bench import Bench, defaults, median_seconds, shown
from frostline.core.memory import keep_freed, reset_peak
from images import CIFAR, PHOTO, Kind
from table import Row, figures


class Clock:
    """Yields the first batches of a loader and times them, except those that fill the queues of its workers."""

    def __init__(self, batches: Any, bench: Bench, *, skip: int) -> None:
        self._batches, self._device = batches, bench.device
        self._each = bench.scale.batches
        self._skip = min(skip, len(batches) - 1)
        self._count = self._skip + self._each * bench.scale.rounds
        self._marks: list[tuple[float, int]] = []

    def __iter__(self) -> Iterator[Any]:
        images = 0
        for number, batch in enumerate(itertools.islice(self._batches, self._count)):
            if number >= self._skip and (number - self._skip) % self._each == 0:
                self._mark(images)
            yield batch
            images += len(batch[0])
        self._mark(images)

    def _mark(self, images: int) -> None:
        limit.wait(self._device)
        self._marks.append((time.perf_counter(), images))

    @property
    def seconds(self) -> float:
        """Seconds per image."""
        return median((t2 - t1) / (n2 - n1) for (t1, n1), (t2, n2) in itertools.pairwise(self._marks))


def _run_of(bench: Bench, train: float, score: Callable[[], object], counts: Sequence[int]) -> float:
    """Return the seconds of a whole run, given those of a training image and of one validation."""
    began = time.perf_counter()
    score()
    val = time.perf_counter() - began
    return bench.scale.epochs * (counts[0] * train + val) + val * counts[2] / counts[1]


def tutorial_run(bench: Bench, network: str, root: Path, counts: Sequence[int]) -> float:
    """Return the seconds of one run of `tutorial`."""
    defaults()
    train, val = (tutorial.loader(root, split, bench.side) for split in ("train", "val"))
    model = tutorial.network(network, images.CLASSES, bench.side).to(bench.device)
    clock = Clock(train, bench, skip=1)
    tutorial.train_epoch(model, clock, tutorial.learning(model, 1e-3), bench.device)
    return _run_of(bench, clock.seconds, lambda: tutorial.evaluate(model, val, bench.device), counts)


def fair_run(bench: Bench, network: str, root: Path, counts: Sequence[int], *, augment: bool) -> float:
    """Return the seconds of one run of `fair`, without the start of its workers."""
    defaults(benchmark=True)
    train, val = (fair.loader(root, split, bench.side, bench.device, augment=augment) for split in ("train", "val"))
    backbone, head = fair.network(network, images.CLASSES, bench.side, bench.device)
    clock = Clock(train, bench, skip=2 * (os.cpu_count() or 1) + 1)
    fair.train_epoch(backbone, head, clock, fair.learning(head, 1e-3), bench.device)

    def score() -> float:
        return fair.evaluate(backbone, head, val, bench.device)

    score()  # starts the workers
    return _run_of(bench, clock.seconds, score, counts)


def sweeps(bench: Bench) -> Iterator[Row]:
    """Measure the head sweep with the same deterministic transform, cold, and again warm."""
    for network, kind in bench.scale.sweeps:
        yield from _sweep(bench, network, kind)


def _sweep(bench: Bench, network: str, kind: Kind) -> Iterator[Row]:
    scale, counts = bench.scale, bench.scale.counts
    root = bench.data(kind, counts)
    recorded = "MLflow records it" if bench.mlflow else "without MLflow"
    runs = bench.heads(bench.chosen(network, root))
    cold = bench.sweep(runs)
    warm = bench.sweep(runs)
    theirs = {"tutorial": tutorial_run(bench, network, root, counts) * scale.runs}
    theirs["fair"] = fair_run(bench, network, root, counts, augment=False) * scale.runs
    setting = f"{network}, {kind}, {counts[0]:,} images"
    what = (
        f"{scale.runs} runs of {scale.epochs} epochs; ours in bf16, run in full, its store empty at first, {recorded}"
    )
    for name, seconds in theirs.items():
        yield bench.row(
            *(f"head sweep against {name}", setting, seconds / cold.seconds),
            ours=shown(cold.seconds),
            theirs=shown(seconds),
            unit="x",
            note=f"{what}; {name}: one run, multiplied",
        )
    yield from _pass(bench, network, setting, cold, warm)
    yield bench.row(
        *("images through the backbone, warm", setting, warm.backbone_images),
        ours=f"{warm.backbone_images}",
        theirs=f"cold {cold.backbone_images:,}",
        note="the same sweep again",
    )
    each = warm.seconds / scale.runs
    yield bench.row(
        *("a warm run", setting, each),
        ours=shown(warm.seconds),
        theirs="",
        unit=" s",
        note=f"the same sweep again, per run; {recorded}",
    )
    beyond = median(run.seconds - run.metrics["cost/train_seconds"] for run in warm.runs)
    yield bench.row(
        *("a warm run beyond its steps", setting, beyond),
        ours=shown(median(run.seconds for run in warm.runs)),
        theirs="",
        unit=" s",
        note="median over the runs of all but cost/train_seconds, from the config to the record",
    )


def _pass(bench: Bench, network: str, setting: str, cold: ours.Sweep, warm: ours.Sweep) -> Iterator[Row]:
    batch, images = bench.scale.forward_batch, sum(bench.scale.counts)
    defaults(benchmark=True)
    reset_peak(bench.device)  # malloc is as usual
    each = {
        dtype: median_seconds(bench, limit.forward_pass(network, batch, bench.side, bench.device, dtype)) / batch
        for dtype in (torch.bfloat16, torch.float32)
    }
    once = each[bench.precision] * images
    in_fp32 = cold.seconds / (each[torch.float32] * images)
    keep_freed(bench.device)
    work = limit.forward_pass(network, batch, bench.side, bench.device, bench.precision)
    kept = cold.seconds / (median_seconds(bench, work) / batch * images)
    yield bench.row(
        *("head sweep against one pass of the backbone", setting, cold.seconds / once),
        ours=shown(cold.seconds),
        theirs=shown(once),
        unit="x",
        note=f"all {images:,} images of the three splits; the pass: bf16, eval mode, one resident batch of {batch}, "
        f"multiplied; of a pass in float32 it would be {figures(in_fp32)}x, "
        f"of one for which freed memory is kept as it is for ours {figures(kept)}x. Warm, without the backbone, "
        f"the runs take {figures(warm.seconds / once)}x; decoding and extraction are the other "
        f"{figures((cold.seconds - warm.seconds) / once)}x",
    )


def augmented(bench: Bench) -> Iterator[Row]:
    """Measure the head sweep with a fresh random view per epoch, cold."""
    scale, network, counts = bench.scale, bench.scale.augmented, bench.scale.counts
    root = bench.data(PHOTO, counts)
    mine = bench.sweep(bench.heads(bench.chosen(network, root, augment="standard")))
    theirs = fair_run(bench, network, root, counts, augment=True) * scale.runs
    yield bench.row(
        *("head sweep, random augmentation, against fair", f"{network}, {PHOTO}, {counts[0]:,} images"),
        theirs / mine.seconds,
        ours=shown(mine.seconds),
        theirs=shown(theirs),
        unit="x",
        note=f"{scale.runs} runs of {scale.epochs} epochs, random resized crop and flip; ours in full, cold; "
        f"{mine.backbone_images:,} images through the backbone; fair: one run, multiplied",
    )


def command(bench: Bench) -> Iterator[Row]:
    """Measure the head sweep as a command, in a process of its own."""
    if not bench.mlflow or importlib.util.find_spec("hydra") is None:
        return
    scale, counts = bench.scale, bench.scale.counts
    network, kind = scale.sweeps[0]
    root = bench.data(kind, counts)
    base = bench.chosen(network, root)
    cold, _ = ours.command(bench.heads(base), bench.folder())
    warm, done = ours.command(bench.heads(base), bench.folder())
    longer, more = ours.command(bench.heads(base, times=2), bench.folder())
    theirs = tutorial_run(bench, network, root, counts) * scale.runs
    setting = f"{network}, {kind}, {counts[0]:,} images"
    yield bench.row(
        *("the command line against tutorial", setting, theirs / cold),
        ours=shown(cold),
        theirs=shown(theirs),
        unit="x",
        note="`python train.py -m ...`, cold: the start of Python, Hydra, MLflow and the report included",
    )
    images = round(sum(metrics["cost/backbone_images"] for metrics in (*done, *more)))
    each = (longer - warm) / scale.runs
    yield bench.row(
        *("one more warm run on the command line", setting, each),
        ours=shown(longer),
        theirs=f"{shown(warm)} with half the runs",
        unit=" s",
        note=f"its steps included; {images:,} images through the backbone",
    )
    yield bench.row(
        *("one more warm run on the command line, beyond its steps", setting, each - _steps(more)),
        ours=shown(each),
        theirs=f"steps {shown(_steps(more))}",
        unit=" s",
        note="without the median of cost/train_seconds; composing, recording and its part of the report included",
    )


def _steps(runs: Sequence[dict[str, float]]) -> float:
    """Return the seconds that the median run trained."""
    return median(metrics["cost/train_seconds"] for metrics in runs)


def extraction(bench: Bench) -> Iterator[Row]:
    """Measure features per second, against the forward pass of `tutorial`."""
    scale = bench.scale
    for network in scale.extracted:
        mine = median(
            ours.extraction_rate(
                bench.chosen(network, bench.data(CIFAR, scale.few), freeze_mode="head"), bench.folder()
            )
            for _ in range(scale.rounds)
        )
        theirs = 32 / median_seconds(bench, _tutorial_forward(bench, network))
        rates = {"ours": f"{figures(mine)} images/s", "theirs": f"{figures(theirs)} images/s"}
        setting = f"{scale.side} pixels"
        note = f"{scale.few[0]:,} resident images of {CIFAR}, their resize and the writing of the store included"
        yield bench.row(f"extraction {network}", setting, mine, **rates, unit=" images/s", note=note)
        note = "tutorial: its forward pass alone, train mode, float32, one resident batch of 32"
        yield bench.row(f"extraction {network} against tutorial", setting, mine / theirs, **rates, unit="x", note=note)


def _tutorial_forward(bench: Bench, network: str) -> Callable[[], object]:
    defaults()
    model: nn.Module = tutorial.network(network, images.CLASSES, bench.side).to(bench.device).train()
    inputs = torch.randn(32, 3, bench.side, bench.side, device=bench.device)
    return lambda: model(inputs)


def full(bench: Bench) -> Iterator[Row]:
    """Measure full fine-tuning, against the same steps without any input."""
    scale, batch = bench.scale, bench.scale.full_batch
    root = bench.data(PHOTO, scale.few)
    more = {"freeze_mode": "full", "batch_size": batch, "epochs": scale.full_epochs, "deterministic": False}
    chosen = bench.chosen(scale.full, root, **more)
    step = limit.training_step(scale.full, batch, bench.side, bench.device, bench.precision)
    mine, most = [], []
    for _ in range(scale.rounds):
        (run,) = bench.sweep([chosen]).runs
        mine.append(run.metrics["cost/images_per_second"])
        defaults(benchmark=True)
        most.append(batch / limit.seconds(step, bench.device, times=2 * (scale.few[0] // batch)))
    setting = f"{scale.full} at {scale.side}, batch {batch}"
    rates = {"ours": f"{figures(median(mine))} images/s", "theirs": f"{figures(median(most))} images/s"}
    note = (
        f"median of {scale.rounds} rounds; ours: cost/images_per_second of a run of {scale.full_epochs} epochs of "
        f"{scale.few[0]:,} images, its first step and its checkpoints included; limit: the steps of 2 epochs on one "
        "resident batch; both in bf16, with deterministic=false"
    )
    yield bench.row("full fine-tuning", setting, median(mine), **rates, unit=" images/s", note=note)
    yield bench.row("full fine-tuning against limit", setting, median(mine) / median(most), **rates, note=note)


def lockstep(bench: Bench) -> Iterator[Row]:
    """Measure the steps of a head sweep in lockstep, against those of one run and of all runs separately."""
    for network, kind in bench.scale.sweeps:
        base = bench.chosen(network, bench.data(kind, bench.scale.counts), bench.folder(), precision="fp32")
        bench.sweep(bench.heads(base)[:1])  # features are there from now on
        apart = {**base, "features.lockstep": False}
        settings = {"together": bench.heads(base), "apart": bench.heads(apart), "one": bench.heads(apart)[:1]}
        if bench.device.type == "cuda":
            settings["captured"] = bench.heads(base)[:1]
        times: dict[str, list[float]] = {name: [] for name in settings}
        for _ in range(bench.scale.rounds):
            for name, runs in settings.items():
                times[name].append(sum(run.metrics["cost/train_seconds"] for run in bench.sweep(runs).runs))
        seconds = {name: median(each) for name, each in times.items()}
        setting = f"{network}, {kind}, {bench.scale.counts[0]:,} images"
        what = f"cost/train_seconds of warm head runs ({bench.scale.runs} if all) of {bench.scale.epochs} epochs"
        for whose, theirs, measure in (
            ("together", "one", "the steps of all heads against those of one"),
            ("together", "apart", "the steps of all heads against alone"),
            ("captured", "one", "the captured steps of a head against single operations"),
        ):
            if whose in seconds:
                yield bench.row(
                    *(measure, setting, seconds[whose] / seconds[theirs]),
                    ours=shown(seconds[whose]),
                    theirs=shown(seconds[theirs]),
                    unit="x",
                    note=f"{what}, ours: {whose}; theirs: {theirs}, features.lockstep=false",
                )


def last_stage(bench: Bench) -> Iterator[Row]:
    """Measure the gain of caching at a stage boundary for a run that reads features, and for one that computes them."""
    scale, root = bench.scale, bench.data(PHOTO, bench.scale.few)
    more = {"freeze_mode": "last_stage", "epochs": 2 * scale.part_epochs}
    seconds: dict[str, list[float]] = {"cold": [], "warm": [], "uncached": []}
    for _ in range(scale.rounds):
        cached = bench.chosen(scale.part, root, **more)
        uncached = bench.chosen(scale.part, root, **more, **{"features.enabled": False})
        for name, chosen in (("cold", cached), ("warm", cached), ("uncached", uncached)):
            seconds[name].append(bench.sweep([chosen]).seconds)
    times = {name: median(each) for name, each in seconds.items()}
    filling = shown(times["cold"] - times["warm"])
    cold = f"the first run of a sweep, decoding included; to fill the store takes {filling} of it"
    for name, which, note in (("warm", ", its cut cached,", "any later run"), ("cold", " from an empty store", cold)):
        yield bench.row(
            *(f"last_stage{which} against uncached", f"{scale.part}, {scale.few[0]:,} images"),
            times["uncached"] / times[name],
            ours=shown(times[name]),
            theirs=shown(times["uncached"]),
            unit="x",
            note=f"one whole run of {2 * scale.part_epochs} epochs, scoring included; {note}; bf16",
        )


def mixed(bench: Bench) -> Iterator[Row]:
    """Measure the sweep `freeze=head,full lr=a,b` against its two full runs alone."""
    scale = bench.scale
    seconds = {}
    for modes in (("head", "full"), ("full",)):
        base = bench.chosen(scale.part, bench.data(PHOTO, scale.few), epochs=scale.part_epochs)
        runs = [{**base, "freeze_mode": mode, "lr": lr} for mode in modes for lr in (1e-3, 1e-4)]
        seconds[modes] = bench.sweep(runs).seconds
    whole, alone = seconds.values()
    yield bench.row(
        *("2x2 sweep against its full runs", f"{scale.part}, {scale.few[0]:,} images", whole / alone),
        ours=shown(whole),
        theirs=shown(alone),
        unit="x",
        note=f"{scale.part_epochs} epochs; both run in full, one after the other, each from an empty store",
    )


def decoding(bench: Bench) -> Iterator[Row]:
    """Measure decoding every image once into the store, against PIL alone."""
    root = bench.data(PHOTO, (bench.scale.decoded * 8 // 10, bench.scale.decoded // 10, bench.scale.decoded // 10))
    files = sorted(map(str, root.glob("*/*/*")))
    mine, theirs = [], []
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        list(pool.map(_decode, files[: 8 * cores]))  # starts the processes, and reads no file for the first time
        for _ in range(bench.scale.rounds):
            began = time.perf_counter()
            list(pool.map(_decode, files, chunksize=32))
            theirs.append(len(files) / (time.perf_counter() - began))
            mine.append(ours.decode_rate(bench.chosen("resnet18", root)))
    yield bench.row(
        *("decoding against plain decoding", f"{len(files):,} of {PHOTO}", median(mine) / median(theirs)),
        ours=f"{figures(median(mine))} images/s",
        theirs=f"{figures(median(theirs))} images/s",
        note=f"ours: found, checked, decoded, seen at {bench.side} pixels, hashed and stored; theirs: "
        f"PIL opens, decodes to RGB and makes an array, in {cores} processes that are up, nothing resized or kept. "
        f"{_parts(bench, files[0])}",
    )


def _parts(bench: Bench, file: str) -> str:
    """Return the time of each part of decoding an image on one core."""
    decoded = ours.decoded(file)
    levels = decoded.permute(1, 2, 0).contiguous().numpy()
    parts: dict[str, Callable[[], object]] = {
        "PIL": lambda: _decode(file),
        "ours decodes in": lambda: ours.decoded(file),
        "makes a view in": lambda: ours.seen(decoded, bench.side),
        "hashes in": lambda: hashlib.sha256(levels.data).digest(),
    }
    times = {name: limit.seconds(work, limit.CPU, times=50) * 1e3 for name, work in parts.items()}
    return "On one core " + ", ".join(f"{name} {figures(each)} ms" for name, each in times.items())


def _decode(file: str) -> tuple[int, ...]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).shape


def memory(bench: Bench) -> Iterator[Row]:
    """Measure the peak host memory of a run whose pixels are ten times larger than `store.memory_gb`."""
    count, side = bench.scale.watched, bench.side
    budget = count * 3 * side * side / 10
    peaks = []
    for samples in (count, max(100, count // 100)):
        split = (samples * 8 // 10, samples // 10, samples // 10)
        more = {"store.memory_gb": budget / 1e9, "model.image_size": side}
        more |= {"epochs": count // samples, "eval_batch_size": 10}  # as many steps and no larger batches in both
        chosen = bench.chosen("shufflenet_v2_x0_5", bench.data(PHOTO, split), freeze_mode="full", **more)
        peaks.append(max(ours.peak_memory(chosen, bench.folder()) for _ in range(bench.scale.rounds)))
    beyond = peaks[0] - peaks[1]
    yield bench.row(
        *("memory beyond a small run", f"{count:,} views of {side}x{side}", beyond / budget),
        ours=f"{beyond / 1e6:,.0f} MB",
        theirs=f"store.memory_gb {budget / 1e6:,.0f} MB",
        note="as a fraction of the budget; decoded, stored and trained on for an epoch, in "
        f"{peaks[0] / 1e6:,.0f} MB of PSS, mapped files counted; a hundredth of the images and as many steps take "
        f"{peaks[1] / 1e6:,.0f} MB; each the largest of {bench.scale.rounds} rounds",
    )


def machine_limits(bench: Bench) -> Iterator[Row]:
    """Measure the machine's speed of matrix products."""
    defaults()
    for dtype in (torch.bfloat16, torch.float32):
        times = bench.scale.batches
        rates = [
            limit.matrix_rate(bench.device, dtype, bench.scale.matrix, times=times) for _ in range(bench.scale.rounds)
        ]
        yield bench.row(
            *("matrix rate", str(dtype).removeprefix("torch."), median(rates) / 1e12),
            theirs="",
            unit=" TFLOP/s",
            note=f"products of {bench.scale.matrix} x {bench.scale.matrix} random numbers",
        )


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "machine": machine_limits,
    "sweep": sweeps,
    "augmented": augmented,
    "command": command,
    "extraction": extraction,
    "full": full,
    "lockstep": lockstep,
    "last_stage": last_stage,
    "mixed": mixed,
    "decoding": decoding,
    "fidelity": fidelity.fidelity,
    "scaled": fidelity.scaled,
    "memory": memory,
    "streaming": streaming.streaming,
    "determinism": determinism.determinism,
    "checkpoints": safety.checkpoints,
    "launcher": safety.launcher,
    "share": safety.share,
    "ablation": ablation.ablation,
    "advice": advice.advice,
    "many": many.many,
    "search": search.search,
    "replay": replay.replay,
}
