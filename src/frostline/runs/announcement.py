"""Announce a run: show its plan, warn about its choices, and record the data and weights that it starts from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from frostline.core import files
from frostline.core.config_keys import is_read
from frostline.core.labels import class_counts
from frostline.core.metrics import ACCURACY
from frostline.data import splits
from frostline.data.names import counted
from frostline.records import layout, provenance
from frostline.records.recording import Record
from frostline.runs.plan import Plan, describe
from frostline.runs.run_context import RunContext
from frostline.runs.setup import Setup
from frostline.runs.split_views import approximations
from frostline.store import hashing

_MOST = 0.8
"""Share of the largest training class from which on accuracy hides the results of other classes."""


def announce(setup: Setup, run: RunContext) -> Plan:
    """Return the plan of the run; show it on the screen, with notes, and write it to `plan.json`."""
    plan = describe(setup, run.name)
    run.screen.plan(plan, whole=setup.config.dry_run)
    if plan.uncut:
        why = "more than one tensor crosses the border above them, or the forward pass cannot be traced"
        run.screen.say(f"  note: frozen, but computed in every epoch: {plan.uncut} ({why})")
    for warning in _warnings(setup, plan):
        run.screen.say(f"  note: {warning}", "yellow")
    files.write_json(run.folder / layout.PLAN, asdict(plan))
    return plan


def _warnings(setup: Setup, plan: Plan) -> Iterator[str]:
    """Yield warnings about the choices of a run."""
    if setup.config.model.weights is None and plan.trainable_parameters < plan.parameters:
        yield "frozen layers have random weights, since model.weights=null"
    reached = {span.phase for span in setup.timeline}
    if left := [str(number + 1) for number in range(len(setup.phases)) if number not in reached]:
        yield f"{len(setup.phases)} phases are more than there are steps: left out {', '.join(left)}"
    if hidden := _hidden_classes(setup):
        yield hidden
    yield from (f"an approximation, {approximated}" for approximated in approximations(setup))
    if skipped := setup.data.counts.get("skipped"):
        yield f"{counted(skipped, 'broken image is', 'broken images are')} left out, since data.skip_bad=true"


def _hidden_classes(setup: Setup) -> str | None:
    """Return the note that accuracy hides results per class, if one class dominates train or images have several."""
    config, data = setup.config, setup.data
    if config.select != ACCURACY.epoch:
        return None
    if data.multi_label:
        return "an image counts as correct only if all of its classes are right: select=val/map looks at each class"
    counts = class_counts(data.train.labels, len(data.classes))
    share, largest = float(counts.max() / counts.sum()), data.classes[int(counts.argmax())]
    if share < _MOST:
        return None
    how = "select=val/macro_f1 weighs all classes alike"
    if is_read("train.class_weights", config.freeze_mode.solver):
        how = "select=val/macro_f1 and train.class_weights=balanced weigh all classes alike"
    return f"accuracy hides the results of other classes, since {share:.0%} of train is {largest}: {how}"


def write_origin(setup: Setup, plan: Plan, folder: Path, record: Record) -> None:
    """Record what the run starts from: data, weights, machine and settings."""
    data, fingerprint = setup.config.data, setup.data.fingerprint
    test = splits.fingerprint([setup.data.test], setup.data.classes)  # stays when other images are learned from
    record.dataset(name=data.name, source=data.source, digest=fingerprint, images=plan.images)
    record.tag(layout.FINGERPRINT_TAG, fingerprint)
    record.tag(layout.DATA_TAG, json.dumps(setup.data.counts))
    if approximated := approximations(setup):
        record.tag(layout.APPROXIMATION_TAG, "; ".join(approximated))
    if setup.data.findings:
        found = [asdict(finding) for finding in setup.data.findings]
        files.write_alike(folder / layout.FINDINGS, files.json_text(found))
    initial = hashing.of_tensors(setup.model.module.state_dict(keep_vars=True))
    facts = {
        "data": {"name": data.name, "fingerprint": fingerprint, "test": test, "images": dict(plan.images)},
        "weights": {"initial": initial, "final": None},
        **provenance.hardware(setup.device, setup.config.devices),
        **provenance.settings(setup.autocast),
    }
    provenance.write(folder, facts)
    for key, value in provenance.tags(provenance.read(folder)).items():
        record.tag(key, value)
