"""Train one run: from its newest checkpoint, epoch by epoch, to its best weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

from frostline.core import interrupts
from frostline.core.config import Config
from frostline.core.config_keys import digest
from frostline.core.metrics import METRICS
from frostline.models.freeze_guard import Guard
from frostline.records import journal, layout
from frostline.records.recording import Paused, Record
from frostline.records.trial_tags import Decision, Judge
from frostline.report.terminal import Screen
from frostline.runs import checkpoints, frost_line, selection
from frostline.runs.compiling import compiled
from frostline.runs.lockstep_runs import LockstepStepper
from frostline.runs.run_context import RunContext
from frostline.runs.setup import Setup
from frostline.training import optim, state
from frostline.training.averaging import MovingAverage
from frostline.training.checkpoint_timing import CheckpointWriter
from frostline.training.loop import EpochResult, TrainingLoop, TrainingPosition
from frostline.training.ranks import LeadingStepper
from frostline.training.schedule import Span
from frostline.training.state import Learner, Progress
from frostline.training.steps import PhaseParts, PlainStepper, Stepper


def learn(setup: Setup, learner: Learner, guard: Guard, run: RunContext, record: Record) -> Progress:
    """Train from the run's newest checkpoint, if there is one, and return the progress.

    If its judge says so, the run ends before its last epoch, or raises `Paused` after writing a checkpoint.
    """
    config, origin = setup.config, checkpoints.origin_of(setup, learner)
    whose = {"config": digest(config), **origin}
    progress = checkpoints.resume(setup, learner, whose, guard, run)
    checkpoints.rewind_record(progress, run.folder, record)
    stepper = LockstepStepper(setup, learner, origin, run, _alone(setup, learner))
    place, every = run.folder / layout.CHECKPOINT, config.checkpoint.every_seconds
    writer = CheckpointWriter(place, size=learner.size, every=every, say=run.screen.say)
    with writer, interrupts.deferred():

        def save() -> None:
            writer.save(*checkpoints.capture(setup, learner, progress, whose, guard))

        events = fit_phases(setup, learner, guard, run.screen, progress=progress, pause=writer.due, stepper=stepper)
        decision = _decision(progress, run.judge, config)  # if it was killed before it could end
        while decision is Decision.CONTINUE and (event := next(events, None)):
            if isinstance(event, EpochResult):
                record_epoch(event, progress, learner, setup, run, record)
                decision = _decision(progress, run.judge, config)
            else:
                progress.position = event
            if isinstance(event, TrainingPosition) or writer.is_worthwhile():
                save()
            interrupts.raise_deferred()
        if decision is Decision.PAUSE:
            save()
    if decision is not Decision.CONTINUE:
        guard.check()
    if stepper.max_runs_per_step > 1:
        record.tag(layout.LOCKSTEP_TAG, str(stepper.max_runs_per_step))
    _end_early(decision, progress, config.search.prune, record, run.screen)
    return progress


def _end_early(decision: Decision, progress: Progress, prune: str, record: Record, screen: Screen) -> None:
    """Report and record that a trial was stopped early; raises `Paused` if it pauses."""
    epochs = len(progress.epochs)
    if decision is Decision.PAUSE:
        screen.say(f"  waits after epoch {epochs} (search.prune={prune})")
        raise Paused(epochs, progress.seconds)
    progress.pruned = decision is Decision.STOP
    if progress.pruned:
        screen.say(f"  stopped early by search.prune={prune}")
        record.tag(layout.PRUNED_TAG, f"after epoch {epochs} by {prune}")


def _alone(setup: Setup, learner: Learner) -> Stepper:
    """Return the stepper of a run that trains without lockstep."""
    if setup.ranks is None:
        return PlainStepper(learner.optimizer, setup.recipe)
    return LeadingStepper(setup.ranks, learner.optimizer, setup.recipe, setup.views.train)


def _decision(progress: Progress, judge: Judge | None, config: Config) -> Decision:
    """Return the judge's decision on a trial after its latest epoch; CONTINUE before the first and after the last."""
    epoch = len(progress.epochs)
    if judge is None or not 0 < epoch < config.epochs:
        return Decision.CONTINUE
    return judge(epoch, progress.epochs[-1][config.select])


def learner_of(setup: Setup) -> Learner:
    """Return the network with its optimizer and, if the config has one, the moving average of its weights."""
    config, module = setup.config, setup.model.module
    optimizer = optim.build(config.optimizer.name, setup.param_groups, lr=config.lr, options=config.optimizer.options)
    ema = MovingAverage(module, decay) if (decay := config.train.ema_decay) else None
    return Learner(module, optimizer, ema, state.mutable_names(module, setup.enter, setup.phases))


def fit_phases(
    setup: Setup,
    learner: Learner,
    guard: Guard,
    screen: Screen,
    *,
    progress: Progress,
    pause: Callable[[], bool],
    stepper: Stepper,
) -> Iterator[EpochResult | TrainingPosition]:
    """Yield what the training loop yields, from the position of `progress` to the last epoch or the end of patience."""
    config = setup.config

    def before_step(step: int, span: Span) -> None:
        setup.rates.set(learner.optimizer.param_groups, step, span)
        screen.advance(step / setup.steps_per_epoch)

    training = TrainingLoop(
        labels=setup.data.train.labels,
        stepper=stepper,
        timeline=setup.timeline,
        enter=functools.partial(_entered, setup, learner, screen.say),
        before_step=before_step,
        after_step=learner.average,
        recipe=setup.recipe,
        guard=guard,
        pause=pause,
    )
    events, patience = training.fit(progress.position), config.train.patience
    while not progress.exhausted(patience) and (event := next(events, None)):
        yield event
    guard.check()
    if progress.exhausted(patience) and len(progress.epochs) < config.epochs:
        screen.say(f"  stopped: {_why_stopped(setup, progress)}")


def _why_stopped(setup: Setup, progress: Progress) -> str:
    """Return in words why a run ended when its patience was exhausted."""
    words, since = METRICS[setup.config.select].words, progress.best_epoch
    phase, last = progress.epochs[-1]["phase"], setup.timeline[-1].phase + 1
    early = f"; this was phase {phase} of {last}, and later phases never began" if phase < last else ""
    return f"no better {words} on validation since epoch {since}{early}"


def _entered(setup: Setup, learner: Learner, say: Callable[[str], None], phase: int) -> PhaseParts:
    """Enter a phase and return its parts, the trained one compiled if that pays."""
    config, train = setup.config, setup.views.train
    parts = frost_line.parts(setup, phase, learner.ema and learner.ema.module)
    span = next(span for span in setup.timeline if span.phase == phase)
    images, epoch = (span.end - span.start) * config.batch_size, span.start // setup.steps_per_epoch + 1
    choice, counted = config.compile if config.devices == 1 else "off", train.seen
    part = compiled(parts.train, choice, images=images, batch_size=config.batch_size, epoch=epoch, say=say)
    if not part.data.cached:  # do not count images of a trial forward pass
        train.seen = counted
    return replace(parts, train=part)


def record_epoch(
    epoch: EpochResult, progress: Progress, learner: Learner, setup: Setup, run: RunContext, record: Record
) -> None:
    """Make an epoch part of the run's progress, and tell its journal, its record and the screen of it."""
    by = METRICS[setup.config.select]
    progress.add(epoch, learner, by, selection.of_epoch(by, epoch.val, setup.data.val))
    line = progress.epochs[-1]
    journal.append_epoch(run.folder, line)
    record.metrics({key: value for key, value in line.items() if "/" in key}, step=epoch.epoch)
    config, chosen_by = setup.config, (by, line[by.epoch])
    run.screen.epoch(epoch, epochs=config.epochs, phases=len(setup.phases), chosen_by=chosen_by)
