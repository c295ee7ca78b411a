"""Allowed values of each config key by itself: limits of numbers, lists of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple

from frostline.core.config import LEARNED, WHOLE
from frostline.core.metrics import METRICS


class Limit(NamedTuple):
    """The values that a key may have."""

    allows: Callable[[Any], bool]
    expected: str
    """The same in words, for an error message."""


_COUNT = Limit(lambda v: v >= 1, "a whole number of at least 1")
_COUNT_OR_NULL = Limit(lambda v: v >= 1, "a whole number of at least 1, or null")
_FROM_0 = Limit(lambda v: v >= 0, "a whole number from 0")
_FRACTION = Limit(lambda v: 0 <= v < 1, "a fraction from 0 to below 1")
_NOT_NEGATIVE = Limit(lambda v: 0 <= v < inf, "a finite number from 0")
_POSITIVE = Limit(lambda v: 0 < v < inf, "a finite number above 0")
_POSITIVE_OR_NULL = Limit(lambda v: 0 < v < inf, "a finite number above 0, or null")

_SEED = Limit(lambda v: 0 <= v < 2**63, "a whole number from 0 to 2**63 - 1")

LIMITS: Mapping[str, Limit] = {
    **dict.fromkeys(("epochs", "batch_size", "eval_batch_size", "devices", "trials"), _COUNT),
    **dict.fromkeys(("cluster.cpus", "cluster.at_once"), _COUNT),
    **dict.fromkeys(("freeze_mode.adapter.rank", "freeze_mode.adapter.tokens"), _COUNT),
    **dict.fromkeys(("threads", "search.batch", "data.limit", "data.eval_limit", "data.shots"), _COUNT_OR_NULL),
    **dict.fromkeys(("train.patience", "features.views"), _COUNT_OR_NULL),
    **dict.fromkeys(("search.confirm", "data.fold", "data.split_seed", "cluster.gpus", "cluster.requeues"), _FROM_0),
    **dict.fromkeys(("schedule.warmup", "augment.padding", "data.val_fraction", "data.test_fraction"), _FRACTION),
    **dict.fromkeys(("train.label_smoothing", "freeze_mode.adapter.dropout"), _FRACTION),
    **dict.fromkeys(("optimizer.weight_decay", "train.focal_gamma", "train.mixup", "train.cutmix"), _NOT_NEGATIVE),
    **dict.fromkeys(("lr", "store.budget_gb", "freeze_mode.temperature"), _POSITIVE),
    **dict.fromkeys(("freeze_mode.adapter.alpha", "freeze_mode.adapter.scale"), _POSITIVE),
    **dict.fromkeys(("train.clip_norm", "store.memory_gb"), _POSITIVE_OR_NULL),
    "seed": _SEED,
    "data.subset_seed": Limit(_SEED.allows, f"{_SEED.expected}, or null"),
    "device": Limit(
        lambda v: re.fullmatch(r"auto|cpu|cuda(:\d+)?", v) is not None,
        "auto, cpu or, for GPUs of NVIDIA and AMD, cuda or cuda:<number>",
    ),
    "experiment_name": Limit(lambda v: 0 < len(v) <= 250 and v.isprintable(), "1 to 250 printable characters"),
    "search.seed": Limit(lambda v: 0 <= v < 2**15, "a whole number from 0 to 2**15 - 1"),
    "search.amount": Limit(lambda v: 0 < v < inf, "a number above 0"),
    "model.image_size": Limit(lambda v: 8 <= v <= 4096, "a whole number of pixels from 8 to 4096"),
    "model.sha256": Limit(
        lambda v: len(v) == 64 and set(v.lower()) <= set("0123456789abcdef"), "64 hexadecimal digits"
    ),
    "schedule.final": Limit(lambda v: 0 <= v <= 1, "a fraction from 0 to 1"),
    "schedule.gamma": Limit(lambda v: 0 < v <= 1, "a factor above 0, at most 1"),
    "schedule.milestones": Limit(
        lambda v: all(0 < m < 1 for m in v) and v == sorted(set(v)), "rising fractions between 0 and 1"
    ),
    "augment.scale": Limit(
        lambda v: len(v) == 2 and 0 < v[0] <= v[1] <= 1, "two fractions, 0 < smallest <= largest <= 1"
    ),
    "augment.ratio": Limit(lambda v: len(v) == 2 and 0 < v[0] <= v[1] < inf, "two ratios, 0 < smallest <= largest"),
    "augment.color": Limit(lambda v: 0 <= v <= 1, "a strength from 0 to 1"),
    "data.folds": Limit(lambda v: v >= 2, "a whole number of at least 2, or null"),
    "data.fraction": Limit(lambda v: 0 < v <= 1, "a fraction above 0, at most 1"),
    "data.pixels": Limit(
        lambda v: v in ("auto", "exact", "stored") or (v.isdecimal() and 8 <= int(v) <= 8192),
        "auto, exact, stored or a whole number of pixels from 8 to 8192",
    ),
    "data.max_pixels": Limit(lambda v: v >= 64, "a whole number of at least 64"),
    "train.ema_decay": Limit(lambda v: 0 < v < 1, "a fraction between 0 and 1, or null"),
    "checkpoint.every_seconds": Limit(lambda v: 0 < v < inf, "a finite number of seconds above 0, or null"),
    "cluster.hours": Limit(lambda v: 1 / 60 <= v < inf, "a number of hours, at least a minute"),
    "cluster.memory_gb": Limit(lambda v: v >= 1, "a whole number of GB of at least 1, or null"),
    "cluster.pack": Limit(
        lambda v: v == "auto" or (type(v) is int and v >= 1), "auto, or a whole number of at least 1"
    ),
    "freeze_mode.phases": Limit(lambda v: len(v) >= 1, "at least one phase"),
    "freeze_mode.l2": Limit(lambda v: all(0 < one < inf for one in v), "finite strengths above 0"),
    "freeze_mode.k": Limit(lambda v: all(one >= 1 for one in v), "whole numbers of at least 1"),
}
"""By key. They do not apply to null, which the type of the key allows or not."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "model.library": ("torchvision", "timm"),
    "select": tuple(METRICS),
    "search.name": ("grid", "random", "qmc", "tpe", "gp", "cmaes"),
    "search.budget": ("trials", "epochs", "seconds"),
    "search.prune": ("none", "median", "hyperband", "wilcoxon"),
    "cluster.name": ("local", "slurm", "ray"),
    "cluster.check": ("job", "here"),
    "precision": ("auto", "fp32", "bf16"),
    "compile": ("auto", "on", "off"),
    "save_weights": (WHOLE, LEARNED),
    "schedule.name": ("constant", "cosine", "onecycle", "step"),
    "schedule.span": ("phase", "run"),
    "train.loss": ("cross_entropy", "focal", "bce"),
    "train.sampling": ("shuffled", "balanced"),
    "data.range_of": ("set", "image"),
    "augment.crop": ("none", "random_resized", "pad"),
    "data.layout": ("auto", "classes", "splits"),
    "data.missing_classes": ("refuse", "ok"),
    "freeze_mode.norm_stats": ("learn", "frozen"),
    "freeze_mode.adapter.kind": ("none", "lora", "dora", "ia3", "ssf", "bottleneck", "prompt"),
}
"""Allowed names, by key."""
