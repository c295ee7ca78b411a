"""Composed jobs and trials have the configs that Hydra composes."""

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
def _with_config_folder() -> Iterator[None]:
    register_resolver()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


def hydra_compose(job: Sequence[str], *more: str) -> DictConfig:
    return hydra.compose("config", [*job, *more, "hydra.sweep.dir=/tmp/here"], return_hydra_config=True)


def counting_composer() -> tuple[Composer, list[Sequence[str]]]:
    """Return a composer, and a list to which each job that Hydra composes is added."""
    composed_jobs: list[Sequence[str]] = []
    return Composer(lambda job: (composed_jobs.append(job), hydra_compose(job))[1]), composed_jobs


def test_jobs_equal_hydras_configs_with_one_composition_per_mode():
    jobs, composed_jobs = counting_composer()
    found = [jobs.job(job, number) for number, job in enumerate(GRID)]
    assert len(composed_jobs) == 3
    for number, job in enumerate(GRID):
        expected = composer.read(hydra_compose(job), job, number)
        assert found[number] == expected
        assert digest(found[number].config) == digest(expected.config)


def test_trials_of_a_search_share_one_composition(monkeypatch):
    monkeypatch.setattr(composer._Template, "filled", lambda *_: pytest.fail("a config for each trial"))
    jobs, composed_jobs = counting_composer()
    setting = {"search": "tpe", "freeze": "full", "search.prune": "hyperband"}
    for number, lr in enumerate(("0.001", "0.0025", "1.0")):
        run = compose_trial({**setting, "lr": lr}, jobs, folder=str(number), shown=("lr",), marks={"trial": number})
        expected = composer.read(hydra_compose(run.overrides), run.overrides, 0)
        assert run.config == expected.config and len(composed_jobs) == 1
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
def test_nested_keys_and_mappings_equal_hydras_configs(before, other):
    jobs = Composer(hydra_compose)
    for number, job in enumerate([before, before, [*before[:1], *other]]):
        expected = composer.read(hydra_compose(job), job, number)
        found = jobs.job(job, number)
        assert found == expected
        assert digest(found.config) == digest(expected.config)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("lr=-1.0", "^lr=-1.0: expected a finite number above 0"),
        ("seed=-1", "^seed=-1: expected a whole number from 0"),
        ("data.folds=1", "^data.folds=1: expected"),
    ],
)
def test_invalid_value_is_refused_after_a_valid_job(bad, message):
    key = bad.partition("=")[0]
    good = {"lr": "lr=0.1", "seed": "seed=1", "data.folds": "data.folds=3"}[key]
    jobs = Composer(hydra_compose)
    jobs.job([good], 0)
    with pytest.raises(UserError, match=message):
        jobs.job([bad], 1)


def test_interpolated_values_are_composed():
    def with_interpolation(job: Sequence[str]) -> DictConfig:
        config = hydra_compose(job)
        OmegaConf.update(config, "data.split_seed", "${seed}")
        return config

    jobs = Composer(with_interpolation)
    assert [jobs.job([f"seed={seed}"], seed).config.data.split_seed for seed in range(3)] == [0, 1, 2]


def test_folder_names_with_values_are_composed():
    jobs = Composer(lambda job: hydra_compose(job, "hydra.sweep.subdir=lr-${lr}"))
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
def test_name_of_another_option_is_refused(names, group):
    jobs = Composer(hydra_compose)
    with pytest.raises(UserError, match=rf"^{names[-1]}: expected a name of its own, since this is {group}=\w+"):
        for number, name in enumerate(names):
            jobs.job([name], number)
    assert jobs.job(["data.name=birds", "freeze=full", "freeze_mode.name=full"], 0).config.data.name == "birds"


def test_options_that_a_solved_head_does_not_read_are_dropped():
    config = Composer(hydra_compose).job(["freeze=probe", "augment=standard", "schedule=cosine"], 0).config
    assert (config.freeze_mode.name, config.augment.name) == ("probe", "none")
