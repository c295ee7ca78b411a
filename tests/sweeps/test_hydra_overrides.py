"""The command line is expanded into jobs, and its mistakes are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from frostline.core.config import Config
from frostline.core.errors import UserError
from frostline.sweeps.compose import compose_grid, compose_one
from frostline.sweeps.hydra_overrides import as_read, as_typed, in_folds, points, without_effect


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["data.folds=2"], [(2, 0), (2, 1)]),
        (["++data.folds=2"], [(2, 0), (2, 1)]),
        (["data.folds=2,3"], [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]),
        (["data.folds=2,null"], [(2, 0), (2, 1), (None, 0)]),
        (["data.folds=3", "data.fold=1"], [(3, 1)]),
        (["data.folds=3", "++data.fold=2,0"], [(3, 2), (3, 0)]),
    ],
)
def test_each_fold_is_a_job(typed: list[str], expected: list[tuple[int | None, int]]) -> None:
    found = [run.config.data for run in compose_grid(["freeze=head", *typed])]
    assert [(data.folds, data.fold) for data in found] == expected


@pytest.mark.parametrize(
    ("jobs", "fold", "expected"),
    [
        ([["lr=1"], ["lr=2"]], 0, [["lr=1", "data.fold=0"], ["lr=1", "data.fold=1"], ["lr=2", "data.fold=0"]]),
        ([["data.fold=1"]], 1, [["data.fold=1"]]),
        ([["lr=1"]], 1, [["lr=1"]]),
    ],
)
def test_folds_in_a_config_file_are_expanded(jobs: list[list[str]], fold: int, expected: list[list[str]]) -> None:
    def config_of(job: Sequence[str]) -> Config:
        return replace(plain, data=replace(plain.data, folds=None if "lr=2" in job else 2, fold=fold))

    plain = compose_one([])
    assert in_folds(jobs, config_of) == expected


@pytest.mark.parametrize(
    "typed", ["val/accuracy,cost/train_seconds", "[val/accuracy,cost/train_seconds]", "val/accuracy", "null"]
)
def test_several_objectives_are_one_value(typed: str) -> None:
    parsed = OverridesParser.create().parse_overrides([as_read(f"search.objective={typed}")])
    (job,) = points(parsed)
    names = None if typed == "null" else typed.strip("[]").split(",")
    assert parsed[0].value() == names and len(job) == 1


@pytest.mark.parametrize("typed", ["lr=auto", "+lr=auto", "lr=choice(1,2)", "model=auto"])
def test_lr_auto_is_shown_as_typed(typed: str) -> None:
    assert as_typed(as_read(typed)) == typed


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["lr=1", "seed=0", "+lr=2"], ["lr=1 has no effect: lr=2 comes after it"]),
        (["lr=1,2", "lr=3", "lr=choice(auto)"], ["lr=1,2 has no effect: lr=auto ", "lr=3 has no effect: lr=auto "]),
        (["search.storage=mysql://me:word@a/b", "search.storage=null"], ["search.storage=mysql://a/b has no effect"]),
        (["lr=1", "++lr=1", "~data.options.a", "~data.options.b"], []),
    ],
)
def test_replaced_values_are_told(typed: list[str], told: list[str]) -> None:
    lines = without_effect(typed)
    assert len(lines) == len(told) and all(map(str.startswith, lines, told))


@pytest.mark.parametrize("typed", ["lr=auto", "lr=interval(1e-5,1)"])
def test_ranges_are_left_out_of_a_search_and_refused_in_a_grid(typed: str) -> None:
    (run,) = compose_grid(["freeze=head", "search=tpe", as_read(typed)])
    assert run.config.search.name == "tpe"
    with pytest.raises(UserError, match="since a grid has no ranges; search=tpe searches them"):
        compose_grid(["freeze=head", as_read(typed)])


@pytest.mark.parametrize("typed", ["freeze =head", " lr=1", "+data.options.x\t=1"])
def test_blank_around_a_key_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match="expected no blanks around the key: "):
        compose_one([typed])


@pytest.mark.parametrize("typed", ["freeze=" + "a/" * 3000, "freeze=head," + "ü" * 130, "hydra/launcher=" + "a" * 300])
def test_overlong_option_name_is_refused(typed: str) -> None:
    for compose in (compose_one, compose_grid):
        with pytest.raises(UserError, match="expected the name of an option, see --help"):
            compose([typed])


def test_search_path_must_be_a_list() -> None:
    with pytest.raises(UserError, match=r"^hydra\.searchpath=here: expected a list of folders in brackets"):
        compose_one(["hydra.searchpath=here"])
