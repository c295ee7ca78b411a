"""What a run leaves when it has learned: its best weights, its adapters apart, and how they do on the test split."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

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
from frostline.training.state import Learner, Progress

_AGREES = 1e-3
"""Largest difference of an answer after adapters are merged, as a part of the largest answer."""


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
    setup: Setup, progress: Progress, folder: Path, draft: Draft, voters: nn.Module | None = None
) -> tuple[Evaluation, str | None, dict[str, float]]:
    """Leave the best weights and how they do on the test split in `folder`.

    Return that, the sha256 of the file, and the metrics of adapters. Where `voters` classify in place of the head there
    are no weights that do, and so no file. Raises `Diverged` if the loss is not finite.
    """
    state.put(setup.model.module, progress.best)
    merged, metrics = leave_adapters(setup, folder)
    plain = setup.model.module.state_dict().keys()
    kept = {name: tensor for name, tensor in progress.best.items() if name in plain}
    best = {**kept, **merged}
    saved = draft.finish(best) if voters is None else None
    if setup.ranks is not None and voters is None:
        setup.ranks.take_best(best, merges=bool(merged))
    scored = score(setup, progress.best_phase, voters)
    if not math.isfinite(scored.loss):  # what is nan has no largest logit, and would be right by chance
        raise Diverged(f"the test loss is {scored.loss}; try a smaller lr or train.clip_norm")
    evaluation.write(folder, scored.logits, setup.data.test, setup.data.classes, setup.images.test.pictures)
    return scored, saved.result() if saved else None, metrics


def leave_adapters(setup: Setup, folder: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
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
        merged, said["error"] = merge(setup)
        metrics[MERGE_ERROR] = said["error"]
    (place := folder / layout.ADAPTER).mkdir(exist_ok=True)
    tensorfile.save(place / "adapter_model.safetensors", tensors, said)
    files.write_json(place / "adapter_config.json", facts)
    return merged, metrics | {ADAPTER_BYTES: float((place / "adapter_model.safetensors").stat().st_size)}


@torch.no_grad()
def merge(setup: Setup) -> tuple[dict[str, Tensor], float]:
    """Make adapters part of the network's own tensors; return these by name, and how much that changed of 1.

    RuntimeError if the network's answers to some pictures of the validation split are others after that.
    """
    module, val = setup.model.module, setup.images.val
    views = val.inputs(torch.arange(min(len(val.labels), setup.config.batch_size)), 1)
    with evaluating(module):
        before, merged, after = module(views), adapters.merge(module), module(views)
    error = float((after - before).abs().max() / before.abs().max())
    if not error <= _AGREES:
        kind = setup.config.freeze_mode.adapter.kind
        raise RuntimeError(f"the network with its {kind} adapters merged answers otherwise: by {error:.1g} of 1")
    return {name: tensor.cpu() for name, tensor in merged.items()}, error


def score(setup: Setup, phase: int, instead: nn.Module | None = None) -> Evaluation:
    """Return what `frost_line.score` does of the test split, with the line of `phase`."""
    return frost_line.score(setup, frost_line.draw(setup, phase), setup.images.test, instead)
