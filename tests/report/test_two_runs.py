"""Two single runs are compared image by image if they were tested on the same images, and only then."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import written_sweeps
from frostline.core.errors import UserError
from frostline.records import sweep_record
from frostline.records.layout import PREDICTIONS
from frostline.records.result import Result
from frostline.report import predictions
from frostline.report.paired_difference import paired
from frostline.report.two_runs import compare_runs


def runs(folder: Path, *tested: dict[str, str], **grid: list) -> list[Result]:
    """Return the runs of a written sweep over a `grid`; their provenances have the data in `tested`."""
    grid = grid or {"freeze_mode": ["head", "full"]}
    found = sweep_record.read(written_sweeps.sweep(folder / "sweep", grid)).results
    for run, data in zip(found, tested, strict=True):
        (Path(run.folder) / "provenance.json").write_text(json.dumps({"data": data}))
    return [*found]


def test_same_test_images_are_paired_whatever_the_runs_learned_from(tmp_path):
    head, full = runs(tmp_path, {"fingerprint": "a", "test": "t"}, {"fingerprint": "b", "test": "t"})
    found = compare_runs(full, head)
    one, two = (predictions.read(run.folder) for run in (full, head))
    assert one and two and found.difference.interval == paired(one.right, two.right, None)[0]
    assert found.difference.how == "one seed, paired bootstrap over 200 test images" and found.outcome == "better"
    scores = [f"{100 * run.metrics['test/accuracy']:.1f}%" for run in (full, head)]
    first = f"{full.name} is surely better than {head.name}: {scores[0]} against {scores[1]} on the test split (+"
    assert found.verdict.startswith(first) and found.verdict.endswith(f"; {found.difference.how}).")
    assert compare_runs(head, full).outcome == "worse" and " is surely worse than " in compare_runs(head, full).verdict


@pytest.mark.parametrize(
    "tested",
    [
        ({"fingerprint": "a", "test": "t"}, {"fingerprint": "b", "test": "u"}),
        ({}, {"fingerprint": "b", "test": "t"}),
        ({}, {}),
    ],
)
def test_nothing_is_paired_unless_the_records_tell_of_the_same_images(tested, tmp_path):
    """The images have the same numbers, which says nothing of images in other data."""
    head, full = runs(tmp_path, *tested)
    found = compare_runs(full, head)
    assert (found.outcome, found.difference.paired) == ("other images", False)
    assert found.difference.how == "one seed, 200 test images each, not paired"
    assert found.verdict.startswith("Not comparable: ") and "nothing is paired" in found.verdict
    fewer = replace(head, images={**head.images, "test": 150})
    assert compare_runs(full, fewer).difference.how == "one seed, 200 test images and 150 test images, not paired"


def test_folds_are_compared_only_with_themselves(tmp_path):
    grid = {"freeze_mode": ["head", "full"], "data.fold": [0, 1]}
    tested = [{"fingerprint": f"{fold}", "test": f"{fold}"} for fold in (0, 1, 0, 1)]
    head, other, full, _ = runs(tmp_path, *tested, **grid)
    assert compare_runs(head, full).difference.how == "fold 0 alone, paired bootstrap over 200 test images"
    apart = compare_runs(head, other)
    assert (apart.outcome, apart.difference.interval) == ("other images", None)
    assert "points, no fold in common)" in apart.verdict


def test_other_metrics_than_accuracy(tmp_path):
    same = {"fingerprint": "a", "test": "t"}
    head, full = runs(tmp_path, same, same, freeze_mode=["head", "full"], select=["val/macro_f1"])
    found = compare_runs(full, head)
    assert found.difference.how == "one seed, paired jackknife over 200 test images"
    assert " in macro F1 on the test split (+" in found.verdict and found.outcome == "better"
    save_file(load_file(Path(head.folder) / PREDICTIONS) | {"ids": np.arange(200)}, Path(head.folder) / PREDICTIONS)
    assert compare_runs(full, head).difference.interval is None


def test_runs_that_cannot_be_compared_are_one_line(tmp_path):
    same = {"fingerprint": "a", "test": "t"}
    head, full = runs(tmp_path, same, same)
    with pytest.raises(UserError, match=r"^run=head .*: expected another run, and this is the same one as head "):
        compare_runs(head, replace(head, folder=str(tmp_path)))
    with pytest.raises(UserError, match=r"^run=full .*: expected a run with select=val/accuracy like head .*, not"):
        compare_runs(head, replace(full, choices={**full.choices, "select": "val/loss"}))
    with pytest.raises(UserError, match=r"^run=full .*: expected a finished run, and this one is KILLED"):
        compare_runs(head, replace(full, status="KILLED"))
    with pytest.raises(UserError, match=r"^run=full .*: expected a run with a score on the test split, where its mAP"):
        compare_runs(head, replace(full, choices={**full.choices, "select": "val/map"}))
    twin = replace(full, name=head.name)
    assert compare_runs(twin, head).verdict.startswith(f"{head.name} in {full.folder} is surely better than ")
