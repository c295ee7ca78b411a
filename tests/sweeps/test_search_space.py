"""Ranges in Hydra's words become what Optuna draws from; those that stand for no values are refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from frostline.core.errors import UserError
from frostline.sweeps import hydra_keys, search_space
from small import MODES, compose

RANGES: dict[str, Any] = {
    "lr=interval(1e-5,1)": FloatDistribution(1e-5, 1.0, log=True),  # by itself, since that spans more than a decade
    "lr=interval(0.01,0.1)": FloatDistribution(0.01, 0.1),
    "train.mixup=interval(0,10)": FloatDistribution(0.0, 10.0),
    "epochs=int(interval(1,8))": IntDistribution(1, 8),
    "epochs=tag(log,int(interval(1,8)))": IntDistribution(1, 8, log=True),
    "epochs=range(1,10,2)": IntDistribution(1, 9, step=2),
    "train.mixup=range(0,1,0.25)": FloatDistribution(0.0, 0.75, step=0.25),
    "freeze_mode.adapter.rank=choice(4,8,16)": CategoricalDistribution([4, 8, 16]),
    "schedule.span=choice(phase,run)": CategoricalDistribution(["phase", "run"]),
}
BAD = {
    "lr=interval(1,0)": "lower end below",
    "lr=interval(1,inf)": "both finite",
    "lr=interval(0,1)": "log scale",
    "train.mixup=tag(log,interval(0,1))": "log scale",
    "epochs=range(3,4)": "two values",
    "train.mixup=tag(log,range(0,1,0.25))": "no log scale",
    "epochs=choice(1,1)": "differ",
}


def parsed(*typed: str) -> tuple[list[Any], dict[str, Any]]:
    return hydra_keys.split(OverridesParser.create().parse_overrides([*typed]))


@pytest.mark.parametrize(("typed", "expected"), RANGES.items())
def test_a_range_is_what_hydra_says_it_is(typed: str, expected: object) -> None:
    ((key, one),) = parsed(typed)[1].items()
    assert search_space.distribution(key, one) == expected


@pytest.mark.parametrize(("typed", "why"), BAD.items())
def test_a_range_of_no_values_is_refused_with_what_was_typed(typed: str, why: str) -> None:
    ((key, one),) = parsed(typed)[1].items()
    with pytest.raises(UserError, match=why) as refused:
        search_space.distribution(key, one)
    assert str(refused.value).startswith(f"{typed}: expected ") and "\n" not in str(refused.value)


def test_what_has_commas_is_listed_and_of_a_key_that_is_given_twice_the_last_counts() -> None:
    listed, ranges = parsed("freeze=head,full", "lr=1e-3", "+lr=interval(1e-4,1)", "epochs=2", "lr=auto")
    assert [one.input_line for one in listed] == ["freeze=head,full", "epochs=2"]
    assert ranges["lr"].value() == "auto"


def test_a_range_of_one_mode_is_there_only_and_before_that_of_all() -> None:
    _, ranges = parsed("lr=interval(1e-4,1)", "search.space.full.lr=interval(1e-6,1e-3)")
    assert search_space.of_cell(compose("freeze=head"), {}, ranges)["lr"].low == 1e-4
    assert search_space.of_cell(compose("freeze=full"), {}, ranges)["lr"].high == 1e-3
    assert search_space.of_cell(compose("freeze=probe"), {}, ranges) == {}  # which reads no lr


def test_a_key_that_stands_with_a_mode_is_searched_there_unless_it_is_given() -> None:
    config = compose("freeze=lora")
    config.freeze_mode.space["freeze_mode.adapter.rank"] = "choice(4,8)"
    found = search_space.of_cell(config, {}, {})
    assert found == {"freeze_mode.adapter.rank": CategoricalDistribution([4, 8])}
    assert search_space.of_cell(config, {"freeze_mode.adapter.rank": "4"}, {}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_auto_is_the_range_of_each_mode_for_the_optimizer(optimizer: str) -> None:
    _, ranges = parsed("lr=auto")
    found = {
        mode: search_space.of_cell(compose(f"freeze={mode}", f"optimizer={optimizer}"), {}, ranges)["lr"]
        for mode in (*MODES, "lora", "prompt")
    }
    assert all(one.log and one.high / one.low >= 100 for one in found.values())
    assert found["head"].high > found["full"].high


def test_auto_for_another_optimizer_is_refused_with_those_that_there_are() -> None:
    config = compose("freeze=head", "optimizer.name=lion")
    with pytest.raises(UserError, match=r"^lr=auto: expected a range, since freeze_mode=head .*lion.*sgd, adam"):
        search_space.of_cell(config, {}, parsed("lr=auto")[1])


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("freeze=interval(0,1)", "a group has no range"),
        ("optimizer=choice(adam,sgd)", "a group has no range"),
        ("data.fraction=interval(0.1,1)", "one value"),
        ("seed=range(5)", "one value"),
        ("search.space.ful.lr=interval(1e-5,1)", "a freeze mode of this sweep .*did you mean full"),
        ("search.space.full=interval(1e-5,1)", "a key behind the mode"),
    ],
)
def test_what_cannot_be_searched_is_refused(typed: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        search_space.check_keys(parsed(typed)[1], ["head", "full"], ["optimizer", "freeze_mode"])


def test_what_cannot_be_searched_is_refused_in_a_file_too() -> None:
    config = compose("freeze=head")
    config.search.space["head"] = {"data": {"fraction": "interval(0.1,1)"}}
    with pytest.raises(UserError, match=r"^search\.space\.head\.data\.fraction=interval\(0\.1,1\): expected one value"):
        search_space.of_cell(config, {}, {})
    config = compose("freeze=head")
    config.freeze_mode.space["data"] = {"fraction": "interval(0.1,1)"}
    with pytest.raises(UserError, match=r"^freeze_mode\.space\.data\.fraction=interval\(0\.1,1\): expected one value"):
        search_space.of_cell(config, {}, {})


def test_ends_hold_each_end_and_each_choice() -> None:
    space = {"lr": FloatDistribution(1e-4, 1.0), "k": CategoricalDistribution([4, 8, 16]), "n": IntDistribution(1, 3)}
    found = search_space.ends(space)
    assert {point["lr"] for point in found} == {1e-4, 1.0} and {point["k"] for point in found} == {4, 8, 16}
    assert {point["n"] for point in found} == {1, 3}


def test_words_say_the_scale() -> None:
    assert search_space.words("lr", FloatDistribution(1e-5, 1.0, log=True)) == "lr from 1e-05 to 1 on a log scale"
    assert search_space.words("epochs", IntDistribution(1, 9, step=2)) == "epochs from 1 to 9 in steps of 2"
    assert search_space.words("k", CategoricalDistribution([4, 8])) == "k among 4, 8"
