"""Jobs composed from a cached template equal those that Hydra composes."""

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

Compose = Callable[[Sequence[str]], DictConfig]


@pytest.fixture(scope="module")
def hydra_compose() -> Iterator[Compose]:
    """Yield a function that composes a job as Hydra's own sweeper does."""
    OmegaConf.register_new_resolver("project_root", lambda: ".", replace=True)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        overrides = ["hydra.sweep.dir=elsewhere"]
        master = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
        once = functools.cache(lambda job: pickle.dumps(loader.load_sweep_config(master, [*job])))
        yield lambda job: pickle.loads(once(tuple(job)))


def counting_composer(hydra_compose: Compose) -> tuple[Composer, list[Sequence[str]]]:
    composed_jobs: list[Sequence[str]] = []
    return Composer(lambda job: (composed_jobs.append(job), hydra_compose(job))[1]), composed_jobs


def facts(node: Any) -> list[Any]:
    """Return the values, types and flags of all nodes of a config, without resolving interpolations."""
    own = [type(node).__name__, str(node._metadata.ref_type), node._metadata.optional, node._metadata.flags]
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_interpolation():
        return [*own, node._value()]
    keys = list(node) if isinstance(node, DictConfig) else range(len(node))
    return [*own, *([key, facts(node._get_node(key))] for key in keys)]


def facts_and_cache(config: DictConfig) -> list[Any]:
    return [*facts(config), OmegaConf.get_cache(config)]


JOBS = {
    "numbers": [["lr=1e-3", "seed=0"], ["lr=0.1", "seed=1"], ["lr=1", "seed=2"]],
    "strings": [["data.root=/a", "lr=1"], ["data.root='/b c, d=e'", "lr=2"], ["data.root=x\\\\y", "lr=3"]],
    "booleans": [["deterministic=true", "epochs=3"], ["deterministic=false", "epochs=4"]],
    "options of an optimizer": [["optimizer=adam", "+optimizer.options.x=1", "lr=1"], ["optimizer=sgd", "lr=2"]],
    "groups": [["freeze=head", "lr=1"], ["freeze=full", "lr=1"], ["freeze=head", "lr=2"], ["freeze=full", "lr=2"]],
    "Hydra's own keys": [
        ["lr=1", "hydra.job.chdir=false"],
        ["lr=2", "hydra.job.chdir=false"],
        ["lr=3", "hydra.job.chdir=true"],
    ],
    "null": [
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
def test_job_config_equals_that_of_hydra(jobs: list[list[str]], hydra_compose: Compose) -> None:
    composer, _ = counting_composer(hydra_compose)
    for job in jobs:
        try:
            expected = facts_and_cache(hydra_compose(job))
        except Exception as refused:
            with pytest.raises(type(refused)) as same:
                composer(job)
            assert str(same.value) == str(refused)
        else:
            assert facts_and_cache(composer(job)) == expected, job


def test_hydra_composes_once_per_combination_of_groups(hydra_compose: Compose) -> None:
    composer, composed_jobs = counting_composer(hydra_compose)
    jobs = [
        [f"freeze={mode}", f"lr={lr}", f"seed={n}"] for mode in ("head", "full") for lr in (1, 2, 3) for n in (0, 1)
    ]
    assert len({OmegaConf.to_yaml(composer(job)) for job in jobs}) == len(jobs)
    assert composed_jobs == [jobs[0], jobs[6]]


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["lr=abc", "lerning_rate=1", "freeze=hed", "epochs=1.5", "model.name={a: 1}"])
def test_invalid_override_raises_hydras_error(bad: str, hydra_compose: Compose) -> None:
    composer, _ = counting_composer(hydra_compose)
    for good in (["lr=1"], ["freeze=head"], ["epochs=1"], ["model.name=resnet18"]):
        composer(good)
    with pytest.raises(Exception) as expected:
        hydra_compose([bad])
    with pytest.raises(type(expected.value)) as found:
        composer([bad])
    assert str(found.value) == str(expected.value)


def test_changing_a_config_does_not_affect_the_next(hydra_compose: Compose) -> None:
    composer, _ = counting_composer(hydra_compose)
    composer(["lr=1"]).hydra.sweep.dir = "moved"
    assert composer(["lr=2"]).hydra.sweep.dir == "elsewhere"


def test_without_hydras_private_function_hydra_composes_all(
    hydra_compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade of Hydra may remove `hydra._internal.config_loader_impl.get_overrides_dirname`."""
    monkeypatch.setattr(module, "get_overrides_dirname", None)
    composer, composed_jobs = counting_composer(hydra_compose)
    jobs = [[f"lr={lr}"] for lr in (1, 2, 3)]
    assert [composer(job).lr for job in jobs] == [1, 2, 3] and composed_jobs == jobs
