"""Runs whose heads can be trained in lockstep are grouped before the sweep and given to one worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from frostline.core.config import Config
from frostline.core.config_keys import digest
from frostline.records.result import Result
from frostline.records.sweep_facts import Interrupted, RunFacts
from frostline.sweeps import lockstep_groups
from frostline.sweeps.pool import Pool
from small import compose

STEPS = (
    ("lr=1e-3",),
    ("lr=1e-2", "seed=1", "train.label_smoothing=0.1"),
    ("schedule=cosine", "select=val/loss"),
    ("optimizer.weight_decay=0.1", "optimizer.decay_norm_and_bias=true", "train.patience=3"),
)
OTHERS = (
    ("epochs=7",),
    ("batch_size=7",),
    ("optimizer=sgd",),
    ("model=resnet18",),
    ("data.fraction=0.5",),
    ("data.root=elsewhere",),
    ("device=cuda",),
)
ALONE = (
    ("freeze=full",),
    ("freeze=last_stage",),
    ("freeze=lp_ft",),
    ("train.mixup=0.1",),
    ("train.clip_norm=1",),
    ("train.ema_decay=0.9",),
    ("train.loss=focal",),
    ("train.class_weights=balanced",),
    ("train.sampling=balanced",),
    ("features.enabled=false",),
    ("features.lockstep=false",),
)


def configs(*lines: Sequence[str]) -> list[Config]:
    return [compose("freeze=head", *line) for line in lines]


def facts(configs: Sequence[Config]) -> list[RunFacts]:
    return [RunFacts(str(n), {}, str(n), digest(config)) for n, config in enumerate(configs)]


def stacks(configs: Sequence[Config], workers: int = 1) -> list[int | None]:
    return [run.stack for run in lockstep_groups.stacked(configs, facts(configs), workers)]


def test_runs_that_differ_in_training_keys_form_a_stack() -> None:
    assert stacks(configs(*STEPS)) == [0, 0, 0, 0]


@pytest.mark.parametrize("other", OTHERS, ids=" ".join)
def test_runs_that_differ_in_features_form_other_stacks(other: Sequence[str]) -> None:
    assert stacks(configs(("lr=1",), ("lr=2",), other, (*other, "lr=2"))) == [0, 0, 1, 1]


@pytest.mark.parametrize("alone", ALONE, ids=" ".join)
def test_runs_without_plain_heads_on_kept_features_are_alone(alone: Sequence[str]) -> None:
    assert stacks(configs((*alone, "lr=1"), (*alone, "lr=2"))) == [None, None]


def test_stack_is_split_among_workers_if_large_enough() -> None:
    lines = [(f"seed={seed}",) for seed in range(10)]
    assert stacks(configs(*lines), 2) == [0] * 5 + [1] * 5
    assert stacks(configs(*lines[:6]), 3) == [0] * 4 + [1] * 2
    assert stacks(configs(*lines), 0) == [None] * 10


def test_finished_and_resumed_runs_are_in_no_stack() -> None:
    runs = configs(*STEPS)
    known = facts(runs)
    known[1] = replace(known[1], finished=Result(1, "1", "1", None, "FINISHED", None, {}, {}))
    known[2] = replace(known[2], previous=Interrupted(None, "before"))
    assert [run.stack for run in lockstep_groups.stacked(runs, known, 1)] == [0, None, None, 0]


def test_siblings_are_the_later_runs_of_a_stack() -> None:
    runs = configs(*STEPS, ("freeze=full",))
    known = lockstep_groups.stacked(runs, facts(runs), 1)
    for number, config in enumerate(runs[:4]):
        assert lockstep_groups.siblings(config, number, known) == runs[number + 1 : 4]
    assert lockstep_groups.siblings(runs[4], 4, known) == []


def test_stack_stays_with_its_worker() -> None:
    workers = [SimpleNamespace(stack=None), SimpleNamespace(stack=None)]
    pool = cast(Any, SimpleNamespace(_workers=workers))
    stack_of = {0: None, 1: 0, 2: 0, 3: 1, 4: 1, 5: 0}

    def next_for(worker: int, waiting: Sequence[int]) -> int | None:
        key = Pool._next_for(pool, cast(Any, workers[worker]), waiting, stack_of)
        if key is not None:
            workers[worker].stack = stack_of[key]
        return key

    assert next_for(0, [0, 1, 2, 3, 4, 5]) == 0
    assert next_for(1, [1, 2, 3, 4, 5]) == 1
    assert next_for(0, [2, 3, 4, 5]) == 3
    assert next_for(1, [2, 4, 5]) == 2
    assert next_for(0, [4, 5]) == 4
    assert next_for(0, [5]) is None  # left to the worker of its stack
    assert next_for(1, [5]) == 5
    workers[1] = SimpleNamespace(stack=None)  # a new worker after the old one died
    assert next_for(0, [5]) == 5


def test_cluster_jobs_group_heads_on_the_same_features() -> None:
    lines = (("lr=1e-3",), ("freeze=full",), ("lr=1e-2",), ("model=resnet18",), ("freeze=probe",))
    numbered = dict(enumerate(compose(*line) for line in lines))
    assert lockstep_groups.batches(numbered, "auto") == [[0, 2, 4], [1], [3]]
    assert lockstep_groups.batches(numbered, 2) == [[0, 1], [2, 3], [4]]
