"""Trials of a quasi-random sequence are drawn once and are the same in every process."""

from __future__ import annotations

from inspect import signature
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection

from frostline.core.config import SearchConfig
from frostline.core.open_options import OPTIONS
from frostline.sweeps import samplers
from small import compose, raises_one_line

SPACE = {"lr": FloatDistribution(1e-4, 1.0, log=True), "optimizer.weight_decay": FloatDistribution(0.0, 0.1)}


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one with each drawn trial. No sequence is cached before."""
    count: list[int] = []
    real = optuna.Study.ask

    def ask(study: optuna.Study, space: dict[str, Any]) -> optuna.Trial:
        count.append(1)
        return real(study, space)

    monkeypatch.setattr(optuna.Study, "ask", ask)
    monkeypatch.setattr(samplers, "_SEQUENCES", {})
    return count


def draw(search: SearchConfig, number: int) -> dict[str, float]:
    return samplers.drawn_aside(search, [StudyDirection.MAXIMIZE], [], SPACE, number).params


@pytest.mark.parametrize(("name", "options"), OPTIONS["search"].items())
def test_options_known_without_optuna_are_accepted(name: str, options: str) -> None:
    if name != "grid":
        known = signature(samplers._SAMPLERS[name]).parameters
        assert {*options.split()} <= known.keys() - samplers._UNFIT


@pytest.mark.parametrize("typed", ["a", "-1", "2.5", "null"])
def test_first_trials_are_a_whole_number(typed: str) -> None:
    with raises_one_line(r"^search\.options\.n_startup_trials=.*: expected a whole number from 0$"):
        samplers.check_options(compose("search=tpe", f"search.options.n_startup_trials={typed}").search)


def test_trial_of_a_sequence_is_drawn_once(draws: list[int]) -> None:
    search = compose("search=qmc").search
    found = [draw(search, number) for number in range(20)]
    assert len({str(one) for one in found}) == len(draws) == 20
    assert draw(search, 7) == found[7] and len(draws) == 20
    samplers._SEQUENCES.clear()  # in another process
    assert draw(search, 11) == found[11] and len(draws) == 32
    assert draw(compose("search=qmc", "search.seed=1").search, 11) != found[11]
