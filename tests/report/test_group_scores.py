"""Accuracy per group of test images: of a run, and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from frostline.core import files
from frostline.records import sweep_record
from frostline.records.result import Result
from frostline.report import group_scores, page_data, predictions, statistics
from frostline.report.cells import Cell
from frostline.report.contest import contests
from written_sweeps import IMAGES, sweep

MODES = ("full", "head")


def test_rows_equal_those_of_pandas() -> None:
    random = np.random.default_rng(0)
    groups, right = random.choice([3, 70, 500, 501], 300, p=[0.5, 0.3, 0.15, 0.05]), random.random(300) < 0.7
    of_names = pd.DataFrame({"right": right, "group": pd.Series(groups).map({70: "b", 500: "c", 3: "a"})})
    expected = of_names.groupby("group")["right"].agg(["size", "mean"]).sort_values("mean")  # without the fourth
    found = group_scores.rows(right, groups, {70: "b", 500: "c", 3: "a"})
    assert [tuple(row.values()) for row in found] == [*expected.itertuples(name=None)]
    assert found == json.loads(json.dumps(found))


def test_report_has_the_means_over_seeds_of_all_folds(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "s", {"freeze_mode": MODES, "data.fold": [0, 1]}, seeds=2)
    tested = []
    results = sweep_record.read(folder).results
    for run in results:
        said = predictions.read(run.folder)
        assert said is not None
        fold = run.choices["data.fold"]
        site = np.minimum(np.arange(IMAGES) // 14, 12)  # the last site has 32 images
        names = {number: f"{number:02}_of_{fold}" for number in range(12 + fold)}  # in fold 0 it has no name
        files.write_json(Path(run.folder) / "per_group.json", group_scores.rows(said.right, site, names))
        named = pd.Series(site).map(names)
        tested.append(pd.DataFrame({"mode": run.choices["freeze_mode"], "group": named, "right": said.right}))
    expected = pd.concat(tested).groupby(["mode", "group"])["right"].agg(["mean", "size"])
    expected["size"] //= 2  # seeds
    of_first = expected.loc["full"].sort_values("mean", kind="stable")
    found = page_data.collect(results, contests(results), page=tmp_path, tracker=None)["groups"][0]["groups"]
    assert found["count"] == len(of_first) == 25 and found["others"] == 32
    accuracies = [score[0] for score in found["scores"][0]]
    assert accuracies == pytest.approx(of_first["mean"].tolist()[:20]) and len(accuracies) == 20
    for mode, scores, worst in zip(MODES, found["scores"], found["worst"], strict=True):
        assert worst[1] == pytest.approx(expected.loc[mode]["mean"].min())
        assert expected.loc[(mode, worst[0]), "mean"] == pytest.approx(worst[1])
        for name, images, (accuracy, low, high) in zip(found["names"], found["images"], scores, strict=True):
            assert (accuracy, images) == pytest.approx(
                (expected.loc[(mode, name), "mean"], expected.loc[(mode, name), "size"])
            )
            within = statistics.wilson(accuracy * images, images)
            assert (low, high) == pytest.approx((within.low, within.high))


@pytest.mark.parametrize(
    "told",
    [
        None,
        "[",
        "{}",
        "[1]",
        '[{"group": "a", "images": 12, "accuracy": 0.5}, {"group": "b", "images": "12", "accuracy": 0.5}]',
        '[{"group": "a", "images": 12, "accuracy": 0.5}, {"group": "b", "images": 12, "accuracy": NaN}]',
    ],
)
def test_fewer_than_two_recorded_groups_are_no_table(tmp_path: Path, told: str | None) -> None:
    if told is not None:
        (tmp_path / "per_group.json").write_text(told)
    run = Result(0, "run", str(tmp_path), None, "FINISHED", None, {}, {"test/accuracy": 0.5}, {"test": 24})
    assert group_scores.of_cells([Cell({}, (run,))]) is None
