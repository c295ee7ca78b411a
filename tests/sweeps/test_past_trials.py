"""Earlier runs teach a search what they came to, whichever keys they name: what they do not name, they did not read."""

from __future__ import annotations

from optuna.distributions import CategoricalDistribution, FloatDistribution

from frostline.core.config_keys import semantic
from frostline.sweeps import past_trials, unused_keys
from frostline.sweeps.resume import Past
from small import compose


def past(config, accuracy, *, all_keys=False):
    told = semantic(config) if all_keys else unused_keys.read_by(config)
    params = {key: str(value) for key, value in told.items()}
    return Past("0" * 32, "FINISHED", {}, params=params, metrics={"best/val_accuracy": accuracy})


def seen(config, space, *runs):
    return sorted((*values.values(), *came_to) for values, came_to, _ in past_trials.observations(runs, config, space))


def test_a_search_learns_from_runs_that_differ_in_what_is_searched_alone():
    cell, space = compose("search=tpe", "augment=standard"), {"lr": FloatDistribution(1e-4, 1e-1, log=True)}
    same = compose("augment=standard", "lr=0.01")
    other = [compose("augment=standard", "lr=0.02", key) for key in ("epochs=9", "schedule=cosine", "augment.crop=pad")]
    runs = [past(same, 0.5), *(past(one, 0.6) for one in other), Past("1" * 32, "FINISHED", {})]
    assert seen(cell, space, *runs) == [(0.01, 0.5)]
    assert seen(cell, space, past(same, 0.5, all_keys=True)) == [(0.01, 0.5)]


def test_what_a_run_did_not_read_may_be_anything_where_what_decides_that_is_searched():
    cell = compose("search=tpe", "augment=standard", "augment.crop=pad", "augment.padding=0.25")
    space = {"augment.crop": CategoricalDistribution(["none", "pad"])}
    mine = ("augment=standard", "augment.padding=0.25")
    runs = [compose(*mine, "augment.crop=pad"), compose("augment=standard", "augment.crop=none")]
    wrong = compose("augment=standard", "augment.crop=pad", "augment.padding=0.5")
    assert seen(cell, space, *(past(one, 0.5) for one in runs), past(wrong, 0.9)) == [("none", 0.5), ("pad", 0.5)]
