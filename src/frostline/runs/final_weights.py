"""Finish a run: write its best weights and its adapters, and evaluate on the test split."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from frostline.core import files
from frostline.core.config import KEPT, LEARNED
from frostline.models import adapters, base_weights, build, freezing, kept_adapters, peft_layout
from frostline.records import layout
from frostline.records.result import ADAPTER_BYTES, ADAPTER_PARAMETERS, MERGE_ERROR
from frostline.runs import evaluation, frost_line
from frostline.runs.setup import Setup
from frostline.store import tensorfile
from frostline.store.tensorfile import Draft
from frostline.training import sharding, state
from frostline.training.evaluation import Evaluation, evaluating
from frostline.training.loop import Diverged
from frostline.training.neighbours import Neighbours
from frostline.training.state import Learner, Progress

_AGREES = 1e-3
"""Largest change of a logit when adapters are merged, relative to the largest logit."""


def draft_of(setup: Setup, learner: Learner, folder: Path, sweep: Path) -> Draft:
    """Return the draft of the best weights' file; tensors that it leaves out are written to the folder `sweep`."""
    data, module = setup.data, setup.model.module
    of_data = {"levels": asdict(data.levels), **({"multi_label": True} if data.multi_label else {})}
    facts = {**build.metadata(setup.model, data.classes), **of_data}
    tensors = {name: sharding.placeholder(tensor) for name, tensor in adapters.without(module).items()}
    if setup.config.save_weights == LEARNED and setup.config.freeze_mode.solver != "knn":  # kNN keeps no weights
        heads = setup.model.structure.heads
        left = {name for name in tensors if base_weights.belongs(name, heads)}
        left -= learner.mutable | adapters.merge_targets(module)
        if not left.isdisjoint(name for name, _ in module.named_parameters()):
            facts[base_weights.KEY] = base_weights.keep(module, heads, sweep / layout.BASES)
            tensors = {name: tensor for name, tensor in tensors.items() if name not in left}
    return Draft(folder / layout.BEST, tensors, facts)


def conclude(
    setup: Setup, progress: Progress, folder: Path, draft: Draft, voters: Neighbours | None
) -> tuple[Evaluation, str | None, dict[str, float]]:
    """Write the best weights and their test results to `folder`.

    Return the test evaluation, the sha256 of the weights file, and the metrics of adapters. If `voters` classify
    instead of the head, there is no weights file, and its sha256 is None. Raises `Diverged` if the test loss is not
    finite.
    """
    state.load(setup.model.module, progress.best)
    merged, metrics = leave_adapters(setup, folder)
    plain = setup.model.module.state_dict().keys()
    kept = {name: tensor for name, tensor in progress.best.items() if name in plain}
    best = {**kept, **merged}
    saved = draft.finish(best) if voters is None else None
    if setup.ranks is not None and voters is None:
        setup.ranks.send_best(best, merges=bool(merged))
    scored = frost_line.score(setup, frost_line.draw(setup, progress.best_phase), setup.views.test, voters)
    if not math.isfinite(scored.loss):  # argmax of nan would be right by chance
        raise Diverged(f"the test loss is {scored.loss}; try a smaller lr or train.clip_norm")
    data = setup.data
    evaluation.write(folder, scored.logits, data.test, data.classes, setup.views.test.images, data.group_names)
    return scored, saved.result() if saved else None, metrics


def leave_adapters(setup: Setup, folder: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Write the adapters, without the network, to `folder`, and merge them into the network if possible.

    Return by name the tensors into which they were merged, and the metrics of adapters.
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
        merged, said["error"] = merge(setup)
        metrics[MERGE_ERROR] = said["error"]
    (place := folder / layout.ADAPTER).mkdir(exist_ok=True)
    tensorfile.save(place / "adapter_model.safetensors", tensors, said)
    files.write_json(place / "adapter_config.json", facts)
    return merged, metrics | {ADAPTER_BYTES: float((place / "adapter_model.safetensors").stat().st_size)}


@torch.no_grad()
def merge(setup: Setup) -> tuple[dict[str, Tensor], float]:
    """Merge adapters into the network's own tensors; return these by name, and the relative change of logits.

    RuntimeError if that change exceeds `_AGREES` on a batch of validation images.
    """
    module, val = setup.model.module, setup.views.val
    views = val.inputs(torch.arange(min(len(val.labels), setup.config.batch_size)), 1)
    with evaluating(module):
        before, merged, after = module(views), adapters.merge(module), module(views)
    largest = before.abs().max().clamp(min=torch.finfo(before.dtype).tiny)  # all are 0 if a ReLU before them died
    error = float((after - before).abs().max() / largest)
    if not error <= _AGREES:
        kind = setup.config.freeze_mode.adapter.kind
        raise RuntimeError(f"merging the {kind} adapters changed the network's logits by {error:.1g} of the largest")
    return {name: tensor.cpu() for name, tensor in merged.items()}, error
