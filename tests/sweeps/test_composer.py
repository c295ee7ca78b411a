"""What is composed from a template is what Hydra composes, key by key; and what Hydra refuses is refused by Hydra."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from frostline.core.project import config_folder
from frostline.sweeps import composer as module
from frostline.sweeps.composer import Composer

Whole = Callable[[Sequence[str]], DictConfig]


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    """Yield what composes a job of a sweep in the way of Hydra's own sweeper."""
    OmegaConf.register_new_resolver("project_root", lambda: ".", replace=True)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        overrides = ["hydra.sweep.dir=elsewhere"]
        master = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
        once = functools.cache(lambda job: pickle.dumps(loader.load_sweep_config(master, [*job])))
        yield lambda job: pickle.loads(once(tuple(job)))


def counted(whole: Whole) -> tuple[Composer, list[Sequence[str]]]:
    asked: list[Sequence[str]] = []
    return Composer(lambda job: (asked.append(job), whole(job))[1]), asked


def facts(node: Any) -> list[Any]:
    """Return all there is to know of a config: values as they stand, types, and what may be done to it."""
    own = [type(node).__name__, str(node._metadata.ref_type), node._metadata.optional, node._metadata.flags]
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_interpolation():
        return [*own, node._value()]
    keys = list(node) if isinstance(node, DictConfig) else range(len(node))
    return [*own, *([key, facts(node._get_node(key))] for key in keys)]


def everything(config: DictConfig) -> list[Any]:
    return [*facts(config), OmegaConf.get_cache(config)]


JOBS = {
    "numbers": [["lr=1e-3", "seed=0"], ["lr=0.1", "seed=1"], ["lr=1", "seed=2"]],
    "words": [["data.root=/a", "lr=1"], ["data.root='/b c, d=e'", "lr=2"], ["data.root=x\\\\y", "lr=3"]],
    "switches": [["deterministic=true", "epochs=3"], ["deterministic=false", "epochs=4"]],
    "options of an optimizer": [["optimizer=adam", "+optimizer.options.x=1", "lr=1"], ["optimizer=sgd", "lr=2"]],
    "of groups": [["freeze=head", "lr=1"], ["freeze=full", "lr=1"], ["freeze=head", "lr=2"], ["freeze=full", "lr=2"]],
    "of Hydra": [
        ["lr=1", "hydra.job.chdir=false"],
        ["lr=2", "hydra.job.chdir=false"],
        ["lr=3", "hydra.job.chdir=true"],
    ],
    "null in between": [
        ["train.clip_norm=1.0"],
        ["train.clip_norm=null"],
        ["train.clip_norm=2"],
        ["model.weights=null"],
    ],
    "lists and interpolations": [
        ["threads=1"],
        ["data.root=${experiment_name}"],
        ["data.root=plain"],
        ["batch_size=8"],
    ],
    "one key twice": [["lr=1", "lr=2"], ["lr=3", "lr=4"]],
    "quotes": [["experiment_name='a b'"], ['experiment_name="1e-3"'], ["experiment_name=true"], ["experiment_name=1"]],
}


@pytest.mark.slow
@pytest.mark.parametrize("jobs", JOBS.values(), ids=JOBS)
def test_a_job_has_the_config_that_hydra_composes(jobs: list[list[str]], whole: Whole) -> None:
    composer, _ = counted(whole)
    for job in jobs:
        try:
            expected = everything(whole(job))
        except Exception as refused:
            with pytest.raises(type(refused)) as same:
                composer(job)
            assert str(same.value) == str(refused)
        else:
            assert everything(composer(job)) == expected, job
            assert composer(job) is composer(job)


def test_hydra_is_asked_once_for_each_combination_of_groups(whole: Whole) -> None:
    composer, asked = counted(whole)
    jobs = [
        [f"freeze={mode}", f"lr={lr}", f"seed={n}"] for mode in ("head", "full") for lr in (1, 2, 3) for n in (0, 1)
    ]
    assert len({OmegaConf.to_yaml(composer(job)) for job in jobs}) == len(jobs)
    assert asked == [jobs[0], jobs[6]]


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["lr=abc", "lerning_rate=1", "freeze=hed", "epochs=1.5", "model.name={a: 1}"])
def test_what_does_not_fit_is_refused_by_hydra(bad: str, whole: Whole) -> None:
    composer, _ = counted(whole)
    for good in (["lr=1"], ["freeze=head"], ["epochs=1"], ["model.name=resnet18"]):
        composer(good)
    with pytest.raises(Exception) as expected:
        whole([bad])
    with pytest.raises(type(expected.value)) as found:
        composer([bad])
    assert str(found.value) == str(expected.value)


def test_what_is_done_to_one_config_does_not_reach_the_next(whole: Whole) -> None:
    composer, _ = counted(whole)
    composer(["lr=1"]).hydra.sweep.dir = "moved"
    assert composer(["lr=2"]).hydra.sweep.dir == "elsewhere"


def test_without_the_private_function_of_hydra_every_job_is_composed_by_it(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an upgrade of Hydra may take away: `hydra._internal.config_loader_impl.get_overrides_dirname`."""
    monkeypatch.setattr(module, "get_overrides_dirname", None)
    composer, asked = counted(whole)
    jobs = [[f"lr={lr}"] for lr in (1, 2, 3)]
    assert [composer(job).lr for job in jobs] == [1, 2, 3] and asked == jobs
