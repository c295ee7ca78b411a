"""The ranking of backbones by `advise`, and the sweep that it suggests."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest

from frostline.report import advice
from frostline.runs.appraisal import Appraisal, Border
from frostline.runs.costs import Cost
from frostline.sweeps.advice import BackboneComparison, CellSearch, ComparedBackbone, compose_grid
from frostline.sweeps.search_budget import Budget

IMAGES = 200


def border(right: int, *, stage: str = "stage1", shift: int = 0) -> Border:
    """Return a probe that classifies `right` images correctly, beginning with image `shift`."""
    answers = tuple(shift <= number < shift + right for number in range(IMAGES))
    return Border(stage, "as it is", 8, 0.5, right / IMAGES, 0.1, answers)


def backbone(name: str, *borders: Border, parameters: int = 10, too_large: tuple[str, ...] = ()) -> ComparedBackbone:
    modes = [mode for mode in ("head", "full") if mode not in too_large]
    costs = tuple(Cost(mode, "cpu", 5, 3.0 * (mode == "head"), 2.0, 10**9) for mode in modes)
    return ComparedBackbone(
        name, {"model": name}, Appraisal(parameters, borders, {"stem": 0.5}, None, 0.01), costs, too_large
    )


def comparison_of(*backbones: ComparedBackbone, **typed: str) -> BackboneComparison:
    values = {"model": ",".join(one.name for one in backbones), "data": "digits", **typed, "freeze": "head,full,probe"}
    counts = {"train": 300, "val": IMAGES, "classes": 10}
    return BackboneComparison(backbones, values, ("probe",), 2, "digits", {"train": 1000, "val": 400}, counts, ())


WORSE, GOOD = backbone("resnet18", border(120)), backbone("resnet34", border(180), border(150, stage="stage2"))
NEAR = backbone("resnet50", border(60), border(177, stage="stage2", shift=10))


def test_backbones_rank_by_best_stage_and_may_tie() -> None:
    ranked = advice.standings([WORSE, NEAR, GOOD])
    assert [one.backbone.name for one in ranked] == ["resnet34", "resnet50", "resnet18"]
    assert [one.best.tied for one in ranked] == [True, True, False]
    assert [one.best.border.stage for one in ranked] == ["stage1", "stage2", "stage1"]
    assert ranked[2].best.behind == pytest.approx(0.3) and 0.3 in ranked[2].best.behind_interval
    assert ranked[0].best.interval.low < 0.9 < ranked[0].best.interval.high
    equal = [backbone("large", border(180), parameters=20), backbone("small", border(180))]
    assert [one.backbone.name for one in advice.standings(equal)] == ["small", "large"]


def test_image_groups_widen_the_intervals() -> None:
    ranked = advice.standings([GOOD, WORSE])
    alike = [with_groups(one, IMAGES // 10) for one in (GOOD, WORSE)]
    grouped = advice.standings(alike)
    assert [one.backbone.name for one in grouped] == ["resnet34", "resnet18"] and not grouped[1].best.tied
    spans = [
        within.high - within.low
        for one in (ranked[1], grouped[1])
        for within in (one.best.interval, one.best.behind_interval)
    ]
    assert spans[2] > 2 * spans[0] and spans[3] > 2 * spans[1]
    (limits,) = [line for line in advice.sentences(comparison_of(*alike)) if line.startswith("Limits: ")]
    assert limits.endswith("; the intervals cover the choice of the 20 groups of images alone.")
    assert advice.standings([with_groups(one, 1) for one in (GOOD, WORSE)])[1].best.tied


def test_best_of_ten_similar_backbones_is_kept() -> None:
    """The first of many may lead by chance, so the interval must allow for comparing each with the best."""
    random, left, clear = np.random.default_rng(0), [], []
    for _ in range(150):
        answers = random.normal(size=IMAGES) + random.normal(size=(10, IMAGES)) < 1.2
        borders = [Border("top", "as it is", 8, 0.5, float(row.mean()), 0.1, tuple(row.tolist())) for row in answers]
        several = [with_groups(one, IMAGES // 2) for one in map(backbone, "abcdefghij", borders)]
        tied = {one.backbone.name: one.best.tied for one in advice.standings(several)}
        left.append(tied["a"])
        clear.append(not all(tied.values()))
    assert np.mean(left) >= 0.95 and np.mean(clear) < 0.25  # 0.90 and 0.63 if each interval has 95% of its own


def with_groups(one: ComparedBackbone, count: int) -> ComparedBackbone:
    groups = tuple(number * count // IMAGES for number in range(IMAGES))
    return replace(one, appraisal=replace(one.appraisal, groups=groups))


def test_best_backbone_under_the_head_stays_in_next_sweep() -> None:
    resnet50 = backbone("resnet50", border(150))
    ranked = advice.standings([GOOD, resnet50, backbone("resnet34", border(180), border(100, stage="stage2"))])
    assert [(one.best.tied, one.top.tied, one.left) for one in ranked[-1:]] == [(False, True, True)]
    assert "model=resnet34,resnet50 " in advice.next_sweep(comparison_of(GOOD, resnet50))


@pytest.mark.slow
def test_next_sweep_omits_worse_backbones_and_composes() -> None:
    command = advice.next_sweep(comparison_of(WORSE, NEAR, GOOD, **{"experiment_name": "a b"}))
    program, *typed = shlex.split(command)[1:]
    assert (program, typed[0]) == ("train.py", "-m")
    assert dict(one.split("=", 1) for one in typed[1:]) == {
        **{"model": "resnet34,resnet50", "data": "digits", "experiment_name": "a b"},
        **{"freeze": "head,full,probe", "lr": "1e-4,1e-3,1e-2"},
    }
    assert len(compose_grid(typed[1:])) == 2 * (2 * 3 + 1)
    assert "lr=0.5,0.1 " in advice.next_sweep(comparison_of(NEAR, GOOD, lr="0.5,0.1"))


def test_next_sweep_omits_modes_that_fit_no_backbone() -> None:
    small = backbone("resnet34", border(180), too_large=("full",))
    assert "freeze=head,probe" in advice.next_sweep(comparison_of(small))
    assert "freeze=head,full,probe" in advice.next_sweep(comparison_of(small, NEAR))
    perfect = backbone("resnet34", border(IMAGES))
    assert "freeze=head,full,probe" in advice.next_sweep(comparison_of(perfect))


def test_time_of_next_sweep_counts_features_once() -> None:
    runs = 2 * 3  # modes that were given, times the suggested learning rates
    assert advice.seconds_of_next(comparison_of(WORSE, GOOD)) == pytest.approx((3.0 + runs * 10) + runs * 10)
    assert advice.seconds_of_next(comparison_of(GOOD, lr="0.1")) == pytest.approx((3.0 + 2 * 10) + 2 * 10)


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [(Budget("trials", 4, 1), 4 * 10), (Budget("epochs", 7, 5), 7 * 2), (Budget("seconds", 8, 0), 8)],
)
def test_next_search_has_ranges_and_costs_its_budget_per_cell(budget: Budget, seconds: float) -> None:
    of_grid = comparison_of(GOOD, search="tpe")
    found = replace(of_grid, search=CellSearch(budget, confirm=3))
    assert advice.seconds_of_next(found) == pytest.approx(3.0 + 2 * 2 * (seconds + 3 * 10))
    assert advice.next_sweep(found).endswith(" lr=auto")


def test_advice_states_its_limits_and_serializes_to_json() -> None:
    found = comparison_of(WORSE, NEAR, GOOD)
    text = " ".join(advice.sentences(found))
    assert "By the best probe of any stage, these cannot be told apart: resnet34, resnet50." in text
    assert "By the probe under the head, resnet50 is first." in text
    assert "Spearman" in text and advice.next_sweep(found) in text
    assert "300 of 1,000 train and 200 of 400 val images" in advice.sample_sentence(found)
    facts = json.loads(json.dumps(advice.facts(found), allow_nan=False))
    assert [one["left"] for one in facts["backbones"]] == [True, True, False]
    assert facts["next"] == advice.next_sweep(found)
    assert facts["backbones"][0]["costs"][0]["run"] == 13.0
