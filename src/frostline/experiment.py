"""One run, from its config to its metrics: the only place where all parts meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from frostline import environment, journal, models, optim, outcome, training, weights
from frostline.config import Config
from frostline.freezing import Guard
from frostline.report import Screen
from frostline.setup import Setup, assemble, describe, look
from frostline.tracking import Record
from frostline.training import EpochResult, Span
from frostline.views import Views


def run(
    config: Config, *, name: str, folder: Path, record: Record | None, screen: Screen
) -> tuple[dict[str, float], dict[str, int]]:
    """Carry out one run in `folder` and return its final metrics and its number of images per split.

    Without a `record` it is a dry run: it plans, and writes nothing but `plan.json`.
    """
    setup = assemble(config, folder, meta=record is None)
    plan = describe(setup, name)
    screen.plan(plan)
    if config.model.weights is None and plan.trainable_parameters < plan.parameters:
        screen.say("  note: what is frozen here is random, since model.weights=null", "yellow")
    outcome.write_json(folder / "plan.json", asdict(plan))
    if record is None:
        return {"cost/trainable_parameters": float(plan.trainable_parameters)}, plan.images
    record.dataset(name=config.data.name, source=config.data.source, digest=setup.data.fingerprint, images=plan.images)
    record.tag("frostline.fingerprint", setup.data.fingerprint)

    train, val, test = look(setup)
    guard = Guard(setup.model.module)
    best, costs = learn(setup, train, val, guard, folder, record, screen)
    setup.model.module.load_state_dict(weights.read(folder / outcome.BEST))
    scored = training.evaluate(setup.model.module, test, setup.recipe)
    metrics = {
        "best/epoch": float(best.epoch),
        "best/val_accuracy": best.val.accuracy,
        "test/accuracy": scored.accuracy,
        "test/loss": scored.loss,
        **costs,
        "cost/peak_memory_bytes": float(environment.peak_memory(setup.device)),
        "cost/trainable_parameters": float(plan.trainable_parameters),
        "cost/backbone_images": float(train.seen + val.seen + test.seen),
    }
    record.metrics(metrics)
    record.tag("frostline.frozen", guard.verdict())
    outcome.write(folder, scored.logits, setup.data.test, setup.data.classes)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in journal.OWN:
            record.artifact(path)
    return metrics, plan.images


def learn(
    setup: Setup, train: Views, val: Views, guard: Guard, folder: Path, record: Record, screen: Screen
) -> tuple[EpochResult, dict[str, float]]:
    """Train, keep the weights of the best epoch in `folder`, and return that epoch and what the training cost."""
    best, seconds, seen = None, 0.0, 0
    for epoch, module in fit(setup, train, val, guard, screen):
        seconds, seen = seconds + epoch.seconds, seen + epoch.images
        keep(epoch, setup, folder, record, screen)
        if best is None or epoch.val.accuracy > best.val.accuracy:
            best = epoch
            weights.save(folder / outcome.BEST, module.state_dict(), models.metadata(setup.model, setup.data.classes))
        if setup.config.train.patience and epoch.epoch - best.epoch >= setup.config.train.patience:
            screen.say(f"  stopped: no better validation accuracy since epoch {best.epoch}")
            break
    assert best is not None  # a run has at least one epoch
    return best, {"cost/train_seconds": seconds, "cost/images_per_second": seen / seconds}


def fit(
    setup: Setup, train: Views, val: Views, guard: Guard, screen: Screen
) -> Iterator[tuple[EpochResult, nn.Module]]:
    """Yield the result of every epoch, and the network that it was scored with."""
    config, module = setup.config, setup.model.module
    optimizer = optim.build(config.optimizer.name, setup.groups, lr=config.lr, options=config.optimizer.options)
    decay = config.train.ema_decay
    ema = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
    total = config.epochs * setup.steps_per_epoch

    def before_step(step: int, span: Span) -> None:
        at, of = (step, total) if config.schedule.span == "run" else (step - span.start, span.end - span.start)
        optim.set_lr(optimizer, lr=config.lr, phase=span.phase, factor=optim.factor(config.schedule, at, of))
        screen.advance(step / setup.steps_per_epoch)

    for epoch in training.fit(
        module,
        train,
        val,
        optimizer=optimizer,
        timeline=setup.timeline,
        enter=setup.enter,
        before_step=before_step,
        recipe=setup.recipe,
        guard=guard,
        ema=ema,
    ):
        yield epoch, module if ema is None else ema.module


def keep(epoch: EpochResult, setup: Setup, folder: Path, record: Record, screen: Screen) -> None:
    """Write an epoch's metrics to the run's journal and record, and its line to the screen."""
    metrics = {
        "train/loss": epoch.train_loss,
        "train/accuracy": epoch.train_accuracy,
        "val/loss": epoch.val.loss,
        "val/accuracy": epoch.val.accuracy,
    }
    journal.append(folder, {"epoch": epoch.epoch, "phase": epoch.phase + 1, **metrics})
    record.metrics(metrics, step=epoch.epoch)
    screen.epoch(
        epoch=epoch.epoch,
        epochs=setup.config.epochs,
        phase=f"phase {epoch.phase + 1}/{len(setup.phases)}" if len(setup.phases) > 1 else "",
        train_loss=epoch.train_loss,
        train_accuracy=epoch.train_accuracy,
        val_loss=epoch.val.loss,
        val_accuracy=epoch.val.accuracy,
        seconds=epoch.seconds,
    )
