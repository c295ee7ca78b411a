"""Execute one run, from its config to its final metrics."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from frostline.core import files, memory
from frostline.core.config import Config
from frostline.core.errors import user_error
from frostline.core.metrics import ACCURACY, METRICS
from frostline.data import loading
from frostline.models import adapters
from frostline.models.freeze_guard import Guard
from frostline.records import layout, provenance, result
from frostline.records.recording import Record
from frostline.report import predictions
from frostline.runs import evaluation, network_cache, robustness, selection, speed
from frostline.runs.announcement import announce, write_origin
from frostline.runs.checkpoints import checkpoint_on_failure
from frostline.runs.final_weights import conclude, draft_of
from frostline.runs.other_ranks import start_others
from frostline.runs.plan import Plan
from frostline.runs.run_context import RunContext
from frostline.runs.setup import Setup, assemble
from frostline.runs.solve import solve
from frostline.runs.train import learn
from frostline.training import sharding
from frostline.training.evaluation import Evaluation
from frostline.training.neighbours import Neighbours
from frostline.training.state import Progress

_Outcome = tuple[dict[str, float], dict[str, int]]
"""The final metrics of a run, and the number of images in each split."""


def execute(config: Config, run: RunContext, record: Record | None) -> _Outcome:
    """Execute one run and return its final metrics and its number of images per split.

    Without a `record` this is a dry run: it writes `plan.json` and nothing else.

    A run that does not fit into GPU memory is tried once more with all pixels and features in host memory, which
    changes no bit of the result; UserError if the second attempt does not fit either. Damaged entries of the store are
    computed again.
    """
    attempt, say = partial(_within_memory, config, run, record), partial(run.screen.say, style="yellow")
    return loading.despite_damage(attempt, say, "; the run resumes from its last checkpoint")


def _within_memory(config: Config, run: RunContext, record: Record | None) -> _Outcome:
    """Attempt a run; if GPU memory does not suffice, attempt it once more with pixels and features on the host."""
    with suppress(torch.OutOfMemoryError):
        return _attempt(config, run, record)
    run.screen.say("  out of GPU memory: trying once more with pixels and features in host memory", "yellow")
    try:
        return _attempt(replace(config, store=replace(config.store, memory_gb=0.0)), run, record)
    except torch.OutOfMemoryError as error:
        less = "precision=bf16, a smaller eval_batch_size and a smaller model.image_size need less, too"
        told = f"a size whose steps fit into GPU memory; {less}"
        raise user_error("batch_size", config.batch_size, told) from error


def _attempt(config: Config, run: RunContext, record: Record | None) -> _Outcome:
    folder = run.folder
    setup = assemble(config, folder, meta=record is None, screen=run.screen, fetch=run.fetch)
    plan = announce(setup, run)
    if record is None:
        return {result.PARAMETERS: float(plan.trainable_parameters)}, plan.images
    write_origin(setup, plan, folder, record)
    guard = Guard(setup.model.module)
    with (
        checkpoint_on_failure(folder, record),
        start_others(setup, folder) as (setup, learner),
        draft_of(setup, learner, folder, run.sweep or folder) as draft,
    ):
        merged = adapters.merge_targets(setup.model.module)  # adapters that the network keeps are not among them
        if config.freeze_mode.solver != "knn":
            draft.begin({name: tensor for name, tensor in learner.immutable.items() if name not in merged})
        if config.freeze_mode.solver is None:
            progress, chosen, voters = learn(setup, learner, guard, run, record), dict[str, float](), None
        else:
            progress, chosen, voters = solve(setup, learner, guard, run, record)
        scored, final, of_adapters = conclude(setup, progress, folder, draft, voters)
        shifted = _shifted(setup, progress, run, voters) if config.eval.shift else {}
    metrics = _all_scores(folder) | _metrics(setup, plan, progress, scored) | chosen | of_adapters | shifted
    metrics[result.BYTES] = float(speed.bytes_per_task(learner, folder, voters))
    if voters is None and not sharding.any_sharded(setup.model.module):  # the other ranks have ended
        metrics[result.SPEED] = speed.images_per_second(setup)
    record.metrics(metrics)
    record.tag(layout.FROZEN_TAG, guard.verdict())
    if plan.adapter:
        record.tag(layout.ADAPTER_TAG, plan.adapter)
    _record_files(folder, final, record)
    if len(progress.epochs) == config.epochs:  # else a lockstep group may go on training this network's head
        network_cache.keep(setup, learner)
    return metrics, plan.images


def _shifted(setup: Setup, progress: Progress, run: RunContext, voters: Neighbours | None) -> dict[str, float]:
    """Measure the network on corrupted test images, write every score to the run's folder, and return the metrics."""
    under = robustness.measure(setup, progress.best_phase, run.screen.say, voters)
    files.write_json(run.folder / layout.SHIFT, under)
    return robustness.metrics(under)


def _all_scores(folder: Path) -> dict[str, float]:
    """Return every metric of the test split that the run's predictions define, whichever one `select` names."""
    found = predictions.read(str(folder))
    return {} if found is None else found.metrics()


def _metrics(setup: Setup, plan: Plan, progress: Progress, scored: Evaluation) -> dict[str, float]:
    shared, others = evaluation.without_shared(setup.data.test, setup.data.train, scored.logits)
    by, best = METRICS[setup.config.select], progress.best_epoch_metrics
    metrics = {
        "best/epoch": float(progress.best_epoch),
        result.VAL: best[ACCURACY.epoch],
        by.val: best[by.epoch],
        result.TEST: scored.accuracy,
        by.test: selection.value(by, scored, setup.data.test.labels),
        "test/loss": scored.loss,
        result.SECONDS: progress.seconds,
        result.EPOCHS: float(len(progress.epochs)),
        "cost/images_per_second": progress.images / progress.seconds,
        "cost/peak_memory_bytes": float(memory.peak(setup.device)),
        result.PARAMETERS: float(plan.trainable_parameters),
        result.IMAGES: float(setup.views.seen),
    }
    if selection.EFFECTIVE in best:
        metrics[result.VAL_EFFECTIVE] = best[selection.EFFECTIVE]
    if selection.MARGIN in best:
        metrics[result.VAL_MARGIN] = best[selection.MARGIN]
    if (test := setup.data.test).groups is not None:
        metrics[result.GROUPS] = float(len(test.groups.unique()))
        metrics[result.EFFECTIVE] = selection.effective_images(scored, test)
    if progress.pruned:
        metrics[result.PRUNED] = float(len(progress.epochs))
    if shared:
        metrics |= {result.SHARED: float(shared)} | ({result.WITHOUT: others} if others is not None else {})
    return metrics


def _record_files(folder: Path, final: str | None, record: Record) -> None:
    """Make the files of the run's folder artifacts of its record; `final` is the sha256 of the weights, if kept."""
    if final is not None:
        record.tag(layout.FINAL_TAG, final)
        provenance.write(folder, {"weights": {**provenance.read(folder)["weights"], "final": final}})
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in (*layout.OF_RECORD, *layout.OF_OWNER):
            record.artifact(path)
    for path in sorted((folder / layout.ADAPTER).glob("*")):
        record.artifact(path, layout.ADAPTER)
