"""Results of a hyperparameter search: optimism, flat optima, importances, Pareto front, and the page."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from frostline.core.metrics import LOSS
from frostline.records import trial_tags
from frostline.records.result import Result
from frostline.report import html
from frostline.report.answer_data import of_results
from frostline.report.cells import SUBSET
from frostline.report.contest import contests
from frostline.report.pareto import Point, front
from frostline.report.studies import flat, studies
from frostline.report.verdict import answer

SPACE = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "optimizer.weight_decay": FloatDistribution(0.0, 0.1),
    "augment.flip": CategoricalDistribution([True, False]),
}


def accuracy_of(lr: float, decay: float) -> float:
    return 0.9 - 0.05 * (math.log10(lr) + 2) ** 2 - decay


def search_results(folder: Path, *, trials: int = 30, keys: int = 3, objective: tuple[str, ...] = ()) -> list[Result]:
    """Return the runs of a search over two modes. Every fifth trial is pruned.

    The best trial is confirmed with fresh seeds, on which it is two points worse.
    """
    draw, found = random.Random(1), list[Result]()
    space = dict([*SPACE.items()][:keys])
    for mode in ("head", "full"):
        best: Result | None = None
        for number in range(trials + 3):
            values = {
                "lr": 10 ** draw.uniform(-5, 0),
                "optimizer.weight_decay": draw.uniform(0, 0.1),
                "augment.flip": draw.random() < 0.5,
            }
            value = accuracy_of(values["lr"], values["optimizer.weight_decay"])
            marks = {"trial": number}
            if number >= trials:
                assert best is not None
                values, marks = {key: best.choices.get(key) for key in SPACE}, {"confirms": best.choices["trial"]}
                value = best.metrics["best/val_accuracy"] - 0.02 + 0.001 * (number - trials)
            chosen = {key: values[key] for key in space}
            seed = max(0, number - trials + 1)
            choices = {"model": "small", "freeze_mode": mode, "data": "digits", **chosen, "seed": seed}
            choices |= {"search": "tpe", "study": mode, "space": {k: distribution_to_json(v) for k, v in space.items()}}
            choices |= {"objective": [*objective]} if objective else {}
            metrics = {"best/val_accuracy": value, "test/accuracy": value, "cost/train_seconds": draw.uniform(1, 9)}
            if number % 5 == 4 and number < trials:
                metrics["search/pruned_after"] = 2.0
            images = {"train": 100, "val": 400, "test": 400}
            where = str(folder / f"{mode}-{number}")
            run = Result(len(found), where, where, None, "FINISHED", None, choices | marks, metrics, images)
            found.append(run)
            if number < trials and "search/pruned_after" not in metrics:
                best = max(filter(None, (best, run)), key=lambda one: one.metrics["best/val_accuracy"])
    return found


@pytest.mark.parametrize(
    "space",
    [
        {"lr": "x"},
        {"lr": "{}"},
        {"lr": "5"},
        {"lr": json.dumps({"name": "FloatDistribution", "attributes": {"low": 2, "high": 1}})},
        {"lr": json.dumps({"name": "FloatDistribution", "attributes": {"depth": 2}})},
        {"lr": distribution_to_json(CategoricalDistribution([1, 2]))},
        {"optimizer.weight_decay": distribution_to_json(SPACE["optimizer.weight_decay"])},
    ],
)
def test_report_of_a_search_leaves_out_a_damaged_space(tmp_path: Path, space: dict[str, str]) -> None:
    results = [
        replace(run, choices={**run.choices, "space": space}) for run in search_results(tmp_path, trials=12, keys=1)
    ]
    assert [(study.space, study.as_good) for study in studies(results)] == [({}, {})] * 2
    assert "is as good" not in answer(results) and of_results(results)["contests"][0]["search"][0]["as_good"] == {}


def test_report_of_a_search_leaves_out_a_space_that_a_run_lacks(tmp_path: Path) -> None:
    results = search_results(tmp_path, trials=3, keys=1)
    del results[1].choices["lr"]
    assert [[*study.space] for study in studies(results)] == [[], ["lr"]]


def test_optimism_of_best_trial_is_reported_everywhere(tmp_path: Path) -> None:
    results = search_results(tmp_path)
    (contest,) = contests(results)
    head, full = studies(results)
    assert full.optimism is not None and full.optimism.gap == pytest.approx(0.019)
    assert full.best == max((one for one in full.trials if one.state == "complete"), key=lambda one: one.value or 0)
    assert f"chance made it look {100 * full.optimism.gap:.1f} points better" in answer(results)
    search_facts = {one["cell"]: one for one in of_results(results)["contests"][0]["search"]}
    assert search_facts["full"]["best"]["by_chance"] == pytest.approx(0.019)
    assert search_facts["head"]["trials"] == {"complete": 24, "pruned": 6, "failed": 0}
    assert head.trials and contest.contenders
    page = html.write(tmp_path / "report.html", results, title="search").read_text()
    section = page[page.index('<section id="search">') : page.index('<section id="cost">')]
    assert section.count("+1.90 points") == 2


@pytest.mark.parametrize("drawn", [lambda seed: seed, lambda seed: 4], ids=["each its own", "all the same"])
def test_fresh_seeds_confirm_a_trial_with_draws_of_training_images(drawn: Callable[[int], int], tmp_path: Path) -> None:
    usual = search_results(tmp_path)
    found = [replace(run, choices=run.choices | {SUBSET: drawn(run.choices["seed"])}) for run in usual]
    assert answer(found) == answer(usual)


def test_counts_of_one_are_singular(tmp_path: Path) -> None:
    results = [run for run in search_results(tmp_path, trials=1) if run.choices["seed"] < 2]
    for run in results:
        run.metrics["cost/epochs"] = 1.0
    text = answer(results)
    assert "Used: full 1 trial, 1 epoch, " in text and "; head 1 trial, 1 epoch, " in text
    assert text.count("its fresh seed ") == 2 and "its fresh seeds" not in text


def test_importances_equal_those_of_optuna(tmp_path: Path) -> None:
    head, _ = studies(search_results(tmp_path))
    study = optuna.create_study(direction="maximize")
    for trial in head.trials:
        if trial.state == "complete":
            params = {key: trial.run.choices[key] for key in SPACE}
            study.add_trial(optuna.create_trial(params=params, distributions=SPACE, value=trial.value))
    expected = optuna.importance.get_param_importances(study)
    assert head.importances == pytest.approx(expected)
    by_loss = [
        replace(
            run,
            choices=run.choices | {"select": "val/loss"},
            metrics=run.metrics | {LOSS.val: 1 - run.metrics["best/val_accuracy"], LOSS.test: 0.5},
        )
        for run in search_results(tmp_path)
    ]
    assert studies(by_loss)[0].importances == pytest.approx(expected)


@pytest.mark.parametrize(("trials", "keys", "known"), [(12, 2, True), (11, 2, False), (12, 1, False)])
def test_importances_need_two_keys_and_ten_complete_trials(tmp_path: Path, trials: int, keys: int, known: bool) -> None:
    head, _ = studies(search_results(tmp_path, trials=trials, keys=keys))
    assert bool(head.importances) == known


def test_confirmed_trial_stays_the_best_one(tmp_path: Path) -> None:
    """A longer search may find a better trial later, but the fresh seeds are those of the confirmed one."""
    results = search_results(tmp_path)
    confirmed, better = studies(results)[0].best, results[2]
    assert confirmed is not None and confirmed.run is not better
    assert {confirmed.number} == {run.choices["confirms"] for run in results[:33] if "confirms" in run.choices}
    better.metrics["best/val_accuracy"] = 0.99
    assert studies(results)[0].best == confirmed
    open_yet, _ = studies([run for run in results if "trial" in run.choices])
    assert open_yet.best is not None and open_yet.best.run is better and open_yet.optimism is None
    assert [trial.number for trial in studies(results[::-1])[0].trials] == [*range(30)]


def test_failed_trials_are_never_as_good(tmp_path: Path) -> None:
    results = search_results(tmp_path, keys=1)
    results[5].metrics["best/val_accuracy"] = math.nan
    lost = [replace(run, status="FAILED", metrics={}) for run in results if "trial" in run.choices]
    (head, _), (none, _) = studies([*lost[:3], *results[3:]]), studies(lost)
    assert [trial.number for trial in head.trials if trial.value is None] == [0, 1, 2, 5]
    assert head.count("failed") == 4 and head.as_good and (none.best, none.error, none.as_good) == (None, None, {})
    for trials, known in ((2, False), (3, True)):
        assert [bool(study.as_good) for study in studies(search_results(tmp_path, trials=trials))] == [known] * 2


def test_categorical_choices_are_shown_as_typed(tmp_path: Path) -> None:
    results = search_results(tmp_path, trials=12, keys=2)
    known = {"augment.scale": CategoricalDistribution(["[0.5,1]", "[0.1,1]", "null"])}
    for number, run in enumerate(results):
        run.choices["space"] = {key: distribution_to_json(one) for key, one in known.items()}
        run.choices["augment.scale"] = ([0.5, 1.0], [0.1, 1.0], None)[number % 3]
    head, _ = studies(results)
    assert [trial.at["augment.scale"] for trial in head.trials] == ["[0.5,1]", "[0.1,1]", "null"] * 4


def test_advice_at_the_edge_depends_on_the_range(tmp_path: Path) -> None:
    for low, high, more in (
        (1e-5, 1.0, "No larger lr of head was tried, though the range goes on to 1: more trials may do better."),
        (1e-3, 1.0061e-3, "No larger lr of head was tried: a wider range may do better."),
    ):
        results = search_results(tmp_path, trials=4, keys=1)[:4]
        for number, run in enumerate(results):
            run.choices["space"] = {"lr": distribution_to_json(FloatDistribution(low, high, log=True))}
            run.choices["lr"] = 1.0e-3 + 2e-6 * number
            run.metrics["best/val_accuracy"] = 0.5 + 0.001 * number
        text = answer(results)
        assert more in text and "any lr from" not in text


def test_as_good_values_are_within_one_standard_error(tmp_path: Path) -> None:
    head, _ = studies(search_results(tmp_path))
    assert head.best is not None and head.best.value is not None and head.error is not None
    alike = [one for one in head.trials if one.value is not None and one.value >= head.best.value - head.error]
    for key in ("lr", "optimizer.weight_decay"):
        values = [one.run.choices[key] for one in alike]
        assert head.as_good[key] == (min(values), max(values))
    assert head.as_good["augment.flip"] == [
        one for one in (True, False) if one in {t.run.choices["augment.flip"] for t in alike}
    ]
    alone, _ = studies(search_results(tmp_path, keys=1))
    low, high = alone.as_good["lr"]
    within = [one for one in alone.trials if low <= one.run.choices["lr"] <= high]
    assert all(alone.score(one) >= max(map(alone.score, alone.trials)) - alone.error for one in within)


def test_page_has_trials_and_interpolated_maps(tmp_path: Path) -> None:
    results = search_results(tmp_path)
    page = html.write(tmp_path / "report.html", results, title="search").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    drawn = data["groups"][0]["search"]
    assert drawn["keys"]["lr"] == {"log": True, "choices": None}
    assert drawn["keys"]["augment.flip"]["choices"] == [True, False]
    for one in drawn["studies"]:
        assert one["number"] == [*range(30)] and one["state"].count(trial_tags.STATES.index("pruned")) == 6
        for number, run in enumerate(one["run"]):
            assert one["at"]["lr"][number] == pytest.approx(results[run].choices["lr"], rel=1e-4)
            assert one["value"][number] == pytest.approx(results[run].metrics["best/val_accuracy"], rel=1e-4)
        (field,) = one["maps"]
        known = [value for row in field["z"] for value in row if value is not None]
        assert min(one["value"]) <= min(known) < max(known) <= max(one["value"])
        ends = {axis: (field[f"{axis}s"][0], field[f"{axis}s"][-1]) for axis in "xy"}
        assert {field[axis]: ends[axis] for axis in "xy"} == {
            "lr": pytest.approx((1e-5, 1.0)),
            "optimizer.weight_decay": pytest.approx((0.0, 0.1)),
        }
    assert {run["status"] for run in data["runs"]} == {"FINISHED", "PRUNED"}


def test_flat_range_ends_at_the_first_worse_value() -> None:
    scored = [(1e-4, 0.5), (1e-3, 0.95), (1e-2, 0.96), (1e-1, 0.955), (0.3, 0.9), (1.0, 0.96)]
    assert flat(scored[::-1], 0.02) == (1e-3, 1e-1)
    assert flat(scored, 0.0) == (1e-2, 1e-2)
    assert flat(scored, 1.0) == (1e-4, 1.0)


def test_diverged_trial_ends_the_flat_range() -> None:
    assert flat([(1e-3, 0.9), (1e-2, -math.inf), (1e-1, 0.9)], 0.5) == (1e-3, 1e-3)


@pytest.mark.parametrize(("cost", "late"), [(5.0, 5.5), (0.0, 0.1)])
def test_equal_costs_leave_a_hypervolume(tmp_path: Path, cost: float, late: float) -> None:
    results = search_results(tmp_path, trials=5, keys=1, objective=("val/accuracy", "cost/train_seconds"))
    found = front([replace(run, metrics=run.metrics | {"cost/train_seconds": cost}) for run in results])
    assert found is not None and found.reference[1] == pytest.approx(late)
    assert max(volumes[-1] for volumes in found.hypervolume.values()) == pytest.approx(1)


def test_pareto_front_and_hypervolume_over_all_cells(tmp_path: Path) -> None:
    results = search_results(tmp_path, trials=20, keys=1, objective=("val/accuracy", "cost/train_seconds"))
    found = front(results)
    assert found is not None and len(found.points) == 2 * 16
    assert found.best == tuple(sorted(found.best, key=lambda point: -point.values[0]))
    lacking = [replace(run, metrics=run.metrics.copy()) for run in results]
    for run in lacking:
        del run.metrics["cost/train_seconds"]
    assert front(lacking) is None

    def beaten(point: Point) -> bool:
        (score, cost) = point.values
        return any(
            one.values != point.values and one.values[0] >= score and one.values[1] <= cost for one in found.points
        )

    assert {id(point) for point in found.best} == {id(point) for point in found.points if not beaten(point)}
    low, late = found.reference
    (scores, costs) = zip(*(point.values for point in found.points), strict=True)
    beyond = [(max(values) - min(values)) / 10 for values in (scores, costs)]
    assert (low, late) == pytest.approx((min(scores) - beyond[0], max(costs) + beyond[1]))
    box = (max(one.values[0] for one in found.points) - low) * (late - min(one.values[1] for one in found.points))
    for name, volumes in found.hypervolume.items():
        steps = sorted((one.values[1], one.values[0]) for one in found.points if one.study.name == name)
        ends, best, area = [*(cost for cost, _ in steps[1:]), late], low, 0.0
        for (cost, score), end in zip(steps, ends, strict=True):
            best = max(best, score)
            area += (best - low) * (end - cost)
        assert volumes == sorted(volumes) and volumes[-1] == pytest.approx(area / box)
    sentence = f"{len(found.best)} of 32 trials are on the Pareto front of validation accuracy and training time (s)"
    assert sentence in answer(results)
    pareto = of_results(results)["contests"][0]["pareto"]
    assert [one["direction"] for one in pareto["objectives"]] == ["maximize", "minimize"]
    assert [tuple(one["values"]) for one in pareto["front"]] == [point.values for point in found.best]
    page = html.write(tmp_path / "report.html", results, title="search").read_text()
    assert page.count('"front":{') == 1 and "front" not in of_results(search_results(tmp_path))["contests"][0]
