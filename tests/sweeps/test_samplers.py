"""Of a quasi-random sequence each trial is drawn once, whichever is asked for, and is the same in any process."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection

from frostline.core.config import SearchConfig
from frostline.sweeps import samplers
from small import compose

SPACE = {"lr": FloatDistribution(1e-4, 1.0, log=True), "optimizer.weight_decay": FloatDistribution(0.0, 0.1)}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what grows by one with each trial that is drawn; no sequence is known before."""
    count: list[int] = []
    real = optuna.Study.ask

    def ask(study: optuna.Study, space: dict[str, Any]) -> optuna.Trial:
        count.append(1)
        return real(study, space)

    monkeypatch.setattr(optuna.Study, "ask", ask)
    monkeypatch.setattr(samplers, "_SEQUENCES", {})
    return count


def drawn(search: SearchConfig, number: int) -> dict[str, float]:
    return samplers.drawn_aside(search, [StudyDirection.MAXIMIZE], [], SPACE, number).params


def test_a_trial_of_a_sequence_is_drawn_once(asked: list[int]) -> None:
    search = compose("search=qmc").search
    found = [drawn(search, number) for number in range(20)]
    assert len({str(one) for one in found}) == len(asked) == 20
    assert drawn(search, 7) == found[7] and len(asked) == 20
    samplers._SEQUENCES.clear()  # in another process
    assert drawn(search, 11) == found[11] and len(asked) == 32
    assert drawn(compose("search=qmc", "search.seed=1").search, 11) != found[11]
