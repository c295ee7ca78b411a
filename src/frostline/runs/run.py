"""One run, from its config to its metrics: the only place where all parts meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from frostline.core import files, machine
from frostline.core.config import KEPT, LEARNED, Config
from frostline.core.errors import user_error
from frostline.core.labels import class_counts
from frostline.core.metrics import ACCURACY, METRICS
from frostline.data import loading
from frostline.models import adapters, base_weights, build, freezing, kept_adapters, peft_layout
from frostline.models.freezing import Guard
from frostline.records import layout, provenance
from frostline.records.recording import Record
from frostline.records.result import (
    ADAPTER_BYTES,
    ADAPTER_PARAMETERS,
    BYTES,
    EPOCHS,
    IMAGES,
    MERGE_ERROR,
    PARAMETERS,
    PRUNED,
    SECONDS,
    SHARED,
    SPEED,
    TEST,
    VAL,
    WITHOUT,
)
from frostline.report.terminal import Screen
from frostline.runs import evaluation, frost_line, network_cache, robustness, selection, speed
from frostline.runs.other_ranks import others
from frostline.runs.plan import Plan, describe
from frostline.runs.setup import Fetch, Setup, assemble, no_runs
from frostline.runs.solve import solve
from frostline.runs.split_views import Images, approximations, look
from frostline.runs.train import Judge, handing_over, learn
from frostline.store import hashing, tensorfile
from frostline.store.mapped import DamagedEntry
from frostline.store.tensorfile import Draft
from frostline.training import sharding, state
from frostline.training.dataset import outputs
from frostline.training.evaluation import Evaluation, evaluate, evaluating
from frostline.training.state import Learner, Progress

_MOST = 0.8
"""Share of one class in train from which on accuracy hides how the others do."""
_Made = tuple[dict[str, float], dict[str, int]]
"""The final metrics of a run, and its number of images per split."""
_AGREES = 1e-3
"""Largest difference of an answer after adapters are merged, as a part of the largest answer."""


def execute(
    config: Config,
    *,
    name: str,
    folder: Path,
    record: Record | None,
    screen: Screen,
    previous: Path | None = None,
    fetch: Fetch = no_runs,
    siblings: Callable[[], Sequence[Config]] = tuple,
    judge: Judge | None = None,
    sweep: Path | None = None,
) -> tuple[dict[str, float], dict[str, int]]:
    """Carry out one run in `folder` and return its final metrics and its number of images per split.

    Without a `record` it is a dry run: it plans, and writes nothing but `plan.json`. It goes on from the checkpoint in
    `folder`, else in the folder `previous`, if one is there. `siblings` are runs that this process carries out next and
    that differ from it in what steps alone read: their heads may be trained in lockstep with its own. A `judge` may end
    it before its last epoch: it is finished then, with what it has. In the folder of its `sweep`, else in its own, lies
    what runs with `save_weights=learned` share.

    What does not fit into a GPU's memory is tried once more with all pixels and features kept by the host, which
    changes no bit; UserError if it does not fit so either. What turns out to be damaged in the store is made again.
    """

    def attempt(config: Config) -> _Made:
        return _attempt(config, name, folder, record, screen, previous, fetch, siblings, judge, sweep or folder)

    try:
        return _within_memory(config, attempt, screen)
    except DamagedEntry as error:
        damage = str(error)
    screen.say(f"  store: {damage}: it is made again, and the run goes on from its last checkpoint", "yellow")
    loading.forget()
    return _within_memory(config, attempt, screen)


def _within_memory(config: Config, attempt: Callable[[Config], _Made], screen: Screen) -> _Made:
    """Attempt a run, once more with nothing kept on the device if a GPU has no memory for it."""
    with suppress(torch.OutOfMemoryError):
        return attempt(config)
    screen.say("  out of memory: tried once more with pixels and features kept by the host", "yellow")
    try:
        return attempt(replace(config, store=replace(config.store, memory_gb=0.0)))
    except torch.OutOfMemoryError as error:
        told = "so few that a step fits into the GPU's memory; precision=bf16 and a smaller model.image_size need less"
        raise user_error("batch_size", config.batch_size, told) from error


def _attempt(
    config: Config,
    name: str,
    folder: Path,
    record: Record | None,
    screen: Screen,
    previous: Path | None,
    fetch: Fetch,
    siblings: Callable[[], Sequence[Config]],
    judge: Judge | None,
    sweep: Path,
) -> tuple[dict[str, float], dict[str, int]]:
    at_hand = network_cache.of_process().take
    setup = assemble(config, folder, meta=record is None, screen=screen, fetch=fetch, at_hand=at_hand)
    plan = announce(setup, name, folder, screen)
    if record is None:
        return {PARAMETERS: float(plan.trainable_parameters)}, plan.images
    write_origin(setup, plan, folder, record)
    images, guard = look(setup), Guard(setup.model.module)
    with (
        handing_over(folder, record),
        others(setup, images, folder) as (setup, learner),
        draft_of(setup, learner, folder, sweep) as draft,
    ):
        merged = adapters.touched(setup.model.module)  # of what stays, nothing
        if config.freeze_mode.solver != "knn":
            draft.begin({name: tensor for name, tensor in learner.still.items() if name not in merged})
        if config.freeze_mode.solver is None:
            progress = learn(setup, learner, images, guard, folder, previous, record, screen, siblings, judge)
            voters = None
        else:
            progress, voters = solve(setup, learner, images, guard, folder, record, screen)
        scored, final, of_adapters = conclude(setup, progress, images, folder, draft, voters)
        shifted = _shifted(setup, progress, images, folder, screen, voters) if config.eval.shift else {}
    metrics = _metrics(setup, plan, progress, scored, images) | of_adapters | shifted
    metrics[BYTES] = float(speed.bytes_per_task(learner, folder, voters))
    if voters is None and not sharding.any_shared(setup.model.module):  # nobody else is there any more
        metrics[SPEED] = speed.images_per_second(setup)
    record.metrics(metrics)
    record.tag(layout.FROZEN_TAG, guard.verdict())
    if plan.adapter:
        record.tag(layout.ADAPTER_TAG, plan.adapter)
    if final is not None:
        record.tag(layout.FINAL_TAG, final)
        provenance.write(folder, {"weights": {**provenance.read(folder)["weights"], "final": final}})
    _hand_in(folder, record)
    if len(progress.epochs) == config.epochs:  # else the steps of others may go on with the head that is in it
        network_cache.of_process().keep(setup, learner)
    return metrics, plan.images


def _shifted(
    setup: Setup, progress: Progress, images: Images, folder: Path, screen: Screen, voters: nn.Module | None
) -> dict[str, float]:
    """Return the metrics of corrupted test pictures, and leave all of them in `folder`."""
    under = robustness.measure(setup, progress.best_phase, images, screen.say, voters)
    files.write_json(folder / layout.SHIFT, under)
    return robustness.metrics(under)


def _metrics(setup: Setup, plan: Plan, progress: Progress, scored: Evaluation, images: Images) -> dict[str, float]:
    """Return what a run came to and what it cost."""
    shared, others = evaluation.without_shared(setup.data.test, setup.data.train, scored.logits)
    by, best = METRICS[setup.config.select], progress.best_epoch_line
    metrics = {
        "best/epoch": float(progress.best_epoch),
        VAL: best[ACCURACY.epoch],
        by.val: best[by.epoch],
        TEST: scored.accuracy,
        by.test: selection.value(by, scored, setup.data.test.labels),
        "test/loss": scored.loss,
        SECONDS: progress.seconds,
        EPOCHS: float(len(progress.epochs)),
        "cost/images_per_second": progress.images / progress.seconds,
        "cost/peak_memory_bytes": float(machine.peak_memory(setup.device)),
        PARAMETERS: float(plan.trainable_parameters),
        IMAGES: float(images.seen),
    }
    if progress.pruned:
        metrics[PRUNED] = float(len(progress.epochs))
    if shared:
        metrics |= {SHARED: float(shared)} | ({WITHOUT: others} if others is not None else {})
    return metrics


def _hand_in(folder: Path, record: Record) -> None:
    """Make what the run left in its folder artifacts of its record."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in (*layout.OF_RECORD, *layout.OF_OWNER):
            record.artifact(path)
    for path in sorted((folder / layout.ADAPTER).glob("*")):
        record.artifact(path, layout.ADAPTER)


def announce(setup: Setup, name: str, folder: Path, screen: Screen) -> Plan:
    """Return what the run is about to do, shown on `screen` and written to `plan.json`."""
    plan = describe(setup, name)
    screen.plan(plan, whole=setup.config.dry_run)
    if setup.config.model.weights is None and plan.trainable_parameters < plan.parameters:
        screen.say("  note: what is frozen here is random, since model.weights=null", "yellow")
    if plan.uncut:
        why = "more than one tensor crosses the border above them, or the forward pass cannot be traced"
        screen.say(f"  note: computed in every epoch, though frozen: {plan.uncut} ({why})")
    if hidden := _hidden_classes(setup):
        screen.say(f"  note: {hidden}", "yellow")
    for approximated in approximations(setup):
        screen.say(f"  note: an approximation, {approximated}", "yellow")
    if skipped := setup.data.counts.get("skipped"):
        screen.say(f"  note: {skipped:,} broken pictures are left out, since data.skip_bad=true", "yellow")
    files.write_json(folder / layout.PLAN, asdict(plan))
    return plan


def _hidden_classes(setup: Setup) -> str | None:
    """Return the note that accuracy hides how classes do, where one is most of train or a picture has several."""
    config, data = setup.config, setup.data
    if config.select != ACCURACY.epoch:
        return None
    if data.multi_label:
        return "a picture counts as accurate where all of its classes are right: select=val/map looks at each class"
    counts = class_counts(data.train.labels, len(data.classes))
    share, largest = float(counts.max() / counts.sum()), data.classes[int(counts.argmax())]
    if share < _MOST:
        return None
    how = "select=val/macro_f1 and train.class_weights=balanced look at every class alike"
    return f"accuracy hides how the other classes do, as {share:.0%} of train is {largest}: {how}"


def write_origin(setup: Setup, plan: Plan, folder: Path, record: Record) -> None:
    """Write down what the run starts from: data, weights, machine and settings."""
    data, fingerprint = setup.config.data, setup.data.fingerprint
    record.dataset(name=data.name, source=data.source, digest=fingerprint, images=plan.images)
    record.tag(layout.FINGERPRINT_TAG, fingerprint)
    record.tag(layout.DATA_TAG, json.dumps(setup.data.counts))
    if approximated := approximations(setup):
        record.tag(layout.APPROXIMATION_TAG, "; ".join(approximated))
    if setup.data.findings:
        files.write_json(folder / layout.FINDINGS, [asdict(finding) for finding in setup.data.findings])
    initial = hashing.of_tensors(setup.model.module.state_dict(keep_vars=True))
    facts = {
        "data": {"name": data.name, "fingerprint": fingerprint, "images": dict(plan.images)},
        "weights": {"initial": initial, "final": None},
        **provenance.hardware(setup.device, setup.config.devices),
        **provenance.settings(setup.autocast),
    }
    provenance.write(folder, facts)
    for key, value in provenance.tags(provenance.read(folder)).items():
        record.tag(key, value)


def draft_of(setup: Setup, learner: Learner, folder: Path, sweep: Path) -> Draft:
    """Return the file of the best weights, to be written; what of them is no part of it is in `sweep` by then."""
    data, module = setup.data, setup.model.module
    of_data = {"levels": asdict(data.levels), **({"multi_label": True} if data.multi_label else {})}
    facts = {**build.metadata(setup.model, data.classes), **of_data}
    tensors = {name: sharding.placeholder(tensor) for name, tensor in adapters.without(module).items()}
    if setup.config.save_weights == LEARNED and setup.config.freeze_mode.solver != "knn":  # which keeps no weights
        heads = setup.model.structure.heads
        left = {name for name in tensors if base_weights.belongs(name, heads)}
        left -= learner.moving | adapters.touched(module)
        if not left.isdisjoint(name for name, _ in module.named_parameters()):
            facts[base_weights.KEY] = base_weights.keep(module, heads, sweep / layout.BASES)
            tensors = {name: tensor for name, tensor in tensors.items() if name not in left}
    return Draft(folder / layout.BEST, tensors, facts)


def conclude(
    setup: Setup, progress: Progress, images: Images, folder: Path, draft: Draft, voters: nn.Module | None = None
) -> tuple[Evaluation, str | None, dict[str, float]]:
    """Leave the best weights and how they do on the test split in `folder`.

    Return that, the sha256 of the file, and the metrics of adapters. Where `voters` classify in place of the head there
    are no weights that do, and so no file.
    """
    state.put(setup.model.module, progress.best)
    merged, metrics = leave_adapters(setup, images, folder)
    plain = setup.model.module.state_dict().keys()
    kept = {name: tensor for name, tensor in progress.best.items() if name in plain}
    best = {**kept, **merged}
    saved = draft.finish(best) if voters is None else None
    if setup.ranks is not None and voters is None:
        setup.ranks.take_best(best, merges=bool(merged))
    scored = score(setup, progress.best_phase, images, voters)
    evaluation.write(folder, scored.logits, setup.data.test, setup.data.classes, images.test.pictures)
    return scored, saved.result() if saved else None, metrics


def leave_adapters(setup: Setup, images: Images, folder: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Leave adapters alone in `folder`.

    Return by name the network's tensors that they were merged into, if any, and what they are in numbers.
    """
    module, heads, how = setup.model.module, setup.model.structure.heads, setup.config.freeze_mode.adapter
    if how.kind == "none":
        return {}, {}
    merged: dict[str, Tensor] = {}
    said: dict[str, float] = {}
    own = [part for path, part in module.named_modules() if path.rpartition(".")[2] == freezing.ADAPTER]
    metrics = {ADAPTER_PARAMETERS: float(sum(p.numel() for part in own for p in part.parameters()))}
    if how.kind in KEPT:
        tensors, facts = kept_adapters.alone(module, how, heads=heads)
        facts |= {"model": setup.model.name, "library": setup.model.library, "classes": list(setup.data.classes)}
    else:
        tensors, facts = peft_layout.adapters_alone(module, how, heads=heads)
        merged, said["error"] = merge(setup, images)
        metrics[MERGE_ERROR] = said["error"]
    (place := folder / layout.ADAPTER).mkdir(exist_ok=True)
    tensorfile.save(place / "adapter_model.safetensors", tensors, said)
    files.write_json(place / "adapter_config.json", facts)
    return merged, metrics | {ADAPTER_BYTES: float((place / "adapter_model.safetensors").stat().st_size)}


@torch.no_grad()
def merge(setup: Setup, images: Images) -> tuple[dict[str, Tensor], float]:
    """Make adapters part of the network's own tensors; return these by name, and how much that changed of 1.

    RuntimeError if the network's answers to some pictures of the validation split are others after that.
    """
    module = setup.model.module
    views = images.val.inputs(torch.arange(min(len(images.val.labels), setup.config.batch_size)), 1)
    with evaluating(module):
        before, merged, after = module(views), adapters.merge(module), module(views)
    error = float((after - before).abs().max() / before.abs().max())
    if not error <= _AGREES:
        kind = setup.config.freeze_mode.adapter.kind
        raise RuntimeError(f"the network with its {kind} adapters merged answers otherwise: by {error:.1g} of 1")
    return {name: tensor.cpu() for name, tensor in merged.items()}, error


def score(setup: Setup, phase: int, images: Images, instead: nn.Module | None = None) -> Evaluation:
    """Return how the model, as it is and with the line of `phase`, does on the test split.

    `instead` classifies in place of what lies above the line.
    """
    line = frost_line.draw(setup, phase, images)
    network, test = instead or line.above(setup.model.module), line.read(images.test)
    by = outputs if instead else line.by(images.test)
    return evaluate(network, test, batch_size=setup.recipe.eval_batch_size, autocast=line.autocast, by=by)
