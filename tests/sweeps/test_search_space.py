"""Ranges in Hydra's syntax become Optuna distributions; invalid ranges are refused in one line."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from frostline.core.errors import UserError
from frostline.sweeps import hydra_overrides, search_space
from small import MODES, compose

RANGES: dict[str, Any] = {
    "lr=interval(1e-5,1)": FloatDistribution(1e-5, 1.0, log=True),  # log scale, because it spans more than a decade
    "lr=interval(0.01,0.1)": FloatDistribution(0.01, 0.1),
    "train.mixup=interval(0,10)": FloatDistribution(0.0, 10.0),
    "epochs=int(interval(1,8))": IntDistribution(1, 8),
    "epochs=tag(log,int(interval(1,8)))": IntDistribution(1, 8, log=True),
    "epochs=range(1,10,2)": IntDistribution(1, 9, step=2),
    "train.mixup=range(0,1,0.25)": FloatDistribution(0.0, 0.75, step=0.25),
    "train.mixup=range(0.2,0.9,0.1)": FloatDistribution(0.2, 0.8, step=0.1),
    "train.mixup=range(1,0,-0.1)": FloatDistribution(0.1, 1.0, step=0.1),
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


def split_overrides(*typed: str) -> tuple[list[Any], dict[str, Any]]:
    return hydra_overrides.split(OverridesParser.create().parse_overrides([*typed]))


@pytest.mark.parametrize(("typed", "expected"), RANGES.items())
def test_range_becomes_a_distribution(typed: str, expected: object) -> None:
    ((key, one),) = split_overrides(typed)[1].items()
    assert search_space.distribution(key, one) == expected


@pytest.mark.parametrize(("typed", "why"), BAD.items())
def test_invalid_range_is_refused(typed: str, why: str) -> None:
    ((key, one),) = split_overrides(typed)[1].items()
    with pytest.raises(UserError, match=why) as refused:
        search_space.distribution(key, one)
    assert str(refused.value).startswith(f"{typed}: expected ") and "\n" not in str(refused.value)


def test_comma_lists_are_no_ranges_and_last_key_counts() -> None:
    listed, ranges = split_overrides("freeze=head,full", "lr=1e-3", "+lr=interval(1e-4,1)", "epochs=2", "lr=auto")
    assert [one.input_line for one in listed] == ["freeze=head,full", "epochs=2"]
    assert ranges["lr"].value() == "auto"


def test_range_of_a_mode_precedes_the_common_range() -> None:
    _, ranges = split_overrides("lr=interval(1e-4,1)", "search.space.full.lr=interval(1e-6,1e-3)")
    assert search_space.of_cell(compose("freeze=head"), {}, ranges)["lr"].low == 1e-4
    assert search_space.of_cell(compose("freeze=full"), {}, ranges)["lr"].high == 1e-3
    assert search_space.of_cell(compose("freeze=probe"), {}, ranges) == {}  # probe reads no lr


def test_whole_number_needs_a_range_of_whole_numbers() -> None:
    _, ranges = split_overrides("epochs=interval(1,2.5)")
    with pytest.raises(UserError, match=r"^epochs=interval\(1,2\.5\): expected whole numbers: range\(1,3\) or int\("):
        search_space.of_cell(compose("freeze=head"), {}, ranges)
    _, ranges = split_overrides("epochs=int(interval(1,2))")
    assert search_space.of_cell(compose("freeze=head"), {}, ranges) == {"epochs": IntDistribution(1, 2)}


def test_modes_own_range_applies_unless_key_is_given() -> None:
    config = compose("freeze=lora")
    config.freeze_mode.space["freeze_mode.adapter.rank"] = "choice(4,8)"
    found = search_space.of_cell(config, {}, {})
    assert found == {"freeze_mode.adapter.rank": CategoricalDistribution([4, 8])}
    assert search_space.of_cell(config, {"freeze_mode.adapter.rank": "4"}, {}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_auto_lr_range_depends_on_mode_and_optimizer(optimizer: str) -> None:
    _, ranges = split_overrides("lr=auto")
    found = {
        mode: search_space.of_cell(compose(f"freeze={mode}", f"optimizer={optimizer}"), {}, ranges)["lr"]
        for mode in (*MODES, "lora", "prompt")
    }
    assert all(one.log and one.high / one.low >= 100 for one in found.values())
    assert found["head"].high > found["full"].high


def test_auto_lr_beside_other_values_is_refused() -> None:
    for typed in ("lr=auto,1e-3", "lr=choice(0.001,auto)"):
        with pytest.raises(UserError, match=rf"^{re.escape(typed)}: expected auto alone, which is a range, or numbers"):
            search_space.of_cell(compose("freeze=head"), {}, split_overrides(typed)[1])


def test_auto_lr_for_unknown_optimizer_is_refused() -> None:
    config = compose("freeze=head", "optimizer.name=lion")
    with pytest.raises(UserError, match=r"^lr=auto: expected a range, since freeze_mode=head .*lion.*sgd, adam"):
        search_space.of_cell(config, {}, split_overrides("lr=auto")[1])


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("freeze=interval(0,1)", "a group has no range"),
        ("optimizer=choice(adam,sgd)", "a group has no range"),
        ("data.fraction=interval(0.1,1)", "one value"),
        ("seed=range(5)", "one value"),
        ("freeze_mode.space.lr.adam=interval(0.1,1)", "one value"),
        ("cluster.gpus=range(1,3)", "one value"),
        ("search.space.ful.lr=interval(1e-5,1)", "a freeze mode of this sweep .*did you mean full"),
        ("search.space.full=interval(1e-5,1)", "a key behind the mode"),
    ],
)
def test_keys_that_cannot_be_searched_are_refused(typed: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        search_space.check_keys(split_overrides(typed)[1], ["head", "full"], ["optimizer", "freeze_mode"])


def test_unsearchable_keys_in_a_file_are_refused() -> None:
    config = compose("freeze=head")
    config.search.space["head"] = {"data": {"fraction": "interval(0.1,1)"}}
    with pytest.raises(UserError, match=r"^search\.space\.head\.data\.fraction=interval\(0\.1,1\): expected one value"):
        search_space.of_cell(config, {}, {})
    config = compose("freeze=head")
    config.freeze_mode.space["data"] = {"fraction": "interval(0.1,1)"}
    with pytest.raises(UserError, match=r"^freeze_mode\.space\.data\.fraction=interval\(0\.1,1\): expected one value"):
        search_space.of_cell(config, {}, {})


def test_ends_contain_each_end_and_each_choice() -> None:
    space = {"lr": FloatDistribution(1e-4, 1.0), "k": CategoricalDistribution([4, 8, 16]), "n": IntDistribution(1, 3)}
    found = search_space.ends(space)
    assert {point["lr"] for point in found} == {1e-4, 1.0} and {point["k"] for point in found} == {4, 8, 16}
    assert {point["n"] for point in found} == {1, 3}


def test_recorded_value_outside_of_a_range_or_between_its_steps_is_none() -> None:
    whole, stepped = IntDistribution(2, 10, step=4), FloatDistribution(0.2, 0.8, step=0.1)
    assert [search_space.value_of(text, whole) for text in ("2", "10", "5", "14", "6.0")] == [2, 10, None, None, None]
    texts = ("0.2", "0.30000000000000004", "0.8", "0.25", "0.9", "nan", "", "null")
    assert [search_space.value_of(text, stepped) for text in texts] == [0.2, pytest.approx(0.3), 0.8, *[None] * 5]
    assert search_space.value_of("0", FloatDistribution(1e-5, 1.0, log=True)) is None


def test_range_in_words_states_the_scale() -> None:
    assert search_space.words("lr", FloatDistribution(1e-5, 1.0, log=True)) == "lr from 1e-05 to 1 on a log scale"
    assert search_space.words("epochs", IntDistribution(1, 9, step=2)) == "epochs from 1 to 9 in steps of 2"
    assert search_space.words("k", CategoricalDistribution([4, 8])) == "k among 4, 8"
