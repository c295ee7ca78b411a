"""What a sweep knows of its jobs is what Hydra composes for each, whichever of them it was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import hydra
import pytest
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from frostline.core.config_keys import digest
from frostline.core.errors import UserError
from frostline.core.project import config_folder, register_resolver
from frostline.sweeps import composer
from frostline.sweeps.compose import compose_trial
from frostline.sweeps.composer import Composer

GRID = [
    [f"freeze={mode}", f"lr={lr}", f"seed={seed}", "data.limit=40", f"optimizer.weight_decay={decay}"]
    for mode in ("head", "full", "probe")
    for lr, seed, decay in (("1e-3", 0, "0"), ("1", 1, "0"), ("0.2", 1, "1e-4"), ("0.2", 0, "1e-4"))
]


@pytest.fixture(autouse=True)
def _at_home() -> Iterator[None]:
    register_resolver()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


def whole(job: Sequence[str], *more: str) -> DictConfig:
    return hydra.compose("config", [*job, *more, "hydra.sweep.dir=/tmp/here"], return_hydra_config=True)


def test_jobs_of_a_kind_have_the_configs_that_hydra_composes_and_ask_it_once():
    asked: list[Sequence[str]] = []

    def counted(job: Sequence[str]) -> DictConfig:
        asked.append(job)
        return whole(job)

    jobs = Composer(counted)
    found = [jobs.job(job, number) for number, job in enumerate(GRID)]
    assert len(asked) == 3
    for number, job in enumerate(GRID):
        expected = composer.read(whole(job), job, number)
        assert found[number] == expected
        assert digest(found[number].config) == digest(expected.config)


def test_trials_of_a_search_are_composed_without_a_config_of_hydras_for_each(monkeypatch):
    asked: list[Sequence[str]] = []

    def counted(job: Sequence[str]) -> DictConfig:
        asked.append(job)
        return whole(job)

    monkeypatch.setattr(composer._Template, "filled", lambda *_: pytest.fail("one for each"))
    jobs, setting = Composer(counted), {"search": "tpe", "freeze": "full", "search.prune": "hyperband"}
    for number, lr in enumerate(("0.001", "0.0025", "1.0")):
        run = compose_trial({**setting, "lr": lr}, jobs, folder=str(number), shown=("lr",), marks={"trial": number})
        assert run.config == composer.read(whole(run.overrides), run.overrides, 0).config and len(asked) == 1
        assert run.choices["lr"] == float(lr) and run.name == f"full lr={float(lr):g} seed=0 trial={number}"


@pytest.mark.parametrize(
    ("before", "other"),
    [
        (["freeze=lora", "freeze_mode.adapter.rank=4"], ["freeze_mode.adapter.rank=8"]),
        (["data=table", "data.options.label=species"], ["data.options.label=genus"]),
        (["optimizer=sgd", "optimizer.options.momentum=0.5"], ["optimizer.options.momentum=1"]),
        (["optimizer=sgd", "optimizer.options.nesterov=true"], ["optimizer.options.nesterov=0"]),
    ],
)
def test_keys_in_sections_of_sections_and_in_mappings_are_composed_as_by_hydra(before, other):
    jobs = Composer(whole)
    for number, job in enumerate([before, before, [*before[:1], *other]]):
        expected = composer.read(whole(job), job, number)
        found = jobs.job(job, number)
        assert found == expected
        assert digest(found.config) == digest(expected.config)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("lr=-1.0", "^lr=-1.0: expected a finite number above 0"),
        ("seed=-1", "^seed=-1: expected a whole number from 0"),
        ("data.folds=1", "^data.folds=1: expected"),
    ],
)
def test_a_value_that_no_run_can_have_is_refused_whatever_came_before(bad, said):
    key = bad.partition("=")[0]
    good = {"lr": "lr=0.1", "seed": "seed=1", "data.folds": "data.folds=3"}[key]
    jobs = Composer(whole)
    jobs.job([good], 0)
    with pytest.raises(UserError, match=said):
        jobs.job([bad], 1)


def test_what_follows_from_other_keys_is_composed():
    def following(job: Sequence[str]) -> DictConfig:
        config = whole(job)
        OmegaConf.update(config, "data.split_seed", "${seed}")
        return config

    jobs = Composer(following)
    assert [jobs.job([f"seed={seed}"], seed).config.data.split_seed for seed in range(3)] == [0, 1, 2]


def test_a_folder_that_somebody_names_after_values_is_composed():
    jobs = Composer(lambda job: whole(job, "hydra.sweep.subdir=lr-${lr}"))
    assert [jobs.job([f"lr={lr}"], number).folder for number, lr in enumerate(("0.1", "0.2"))] == ["lr-0.1", "lr-0.2"]


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["freeze_mode.name=full"], "freeze_mode"),
        (["freeze_mode.name=mine", "freeze_mode.name=full"], "freeze_mode"),
        (["schedule.name=cosine"], "schedule"),
        (["data.name=cifar10"], "data"),
    ],
)
def test_the_name_of_another_option_is_refused_for_which_it_would_be_taken(names, group):
    jobs = Composer(whole)
    with pytest.raises(UserError, match=rf"^{names[-1]}: expected a name of its own, since this is {group}=\w+"):
        for number, name in enumerate(names):
            jobs.job([name], number)
    assert jobs.job(["data.name=birds", "freeze=full", "freeze_mode.name=full"], 0).config.data.name == "birds"


def test_a_solved_head_beside_options_that_it_does_not_read_is_composed():
    config = Composer(whole).job(["freeze=probe", "augment=standard", "schedule=cosine"], 0).config
    assert (config.freeze_mode.name, config.augment.name) == ("probe", "none")
