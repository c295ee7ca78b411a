"""Duplicates: copies of an image stay in one split; copies across splits are reported and discounted."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_layouts import images, load

from frostline.core.errors import UserError
from frostline.data import duplicates
from frostline.data.findings import of_weights
from frostline.data.splits import Data
from frostline.records.result import SHARED, WITHOUT, Result
from frostline.report.verdict import answer
from numbered import disjoint, findings


def copies(root: Path, count: int, times: int) -> None:
    """Write images with random labels, each `times` times."""
    toss = random.Random(0)
    for number in range(count):
        place = root / toss.choice(("heads", "tails"))
        place.mkdir(parents=True, exist_ok=True)
        for copy in range(times):
            Image.new("RGB", (8, 8), (number, 7, 9)).save(place / f"{number}-{copy}.png")


def digests_by_split(found: Data) -> list[set[bytes]]:
    return [{row.numpy().tobytes() for row in split.digests} for split in (found.train, found.val, found.test)]


def test_copies_stay_together_in_stratified_splits(tmp_path: Path):
    copies(tmp_path, 60, 5)
    found = load(tmp_path)
    train, val, test = digests_by_split(found)
    assert disjoint(train, val, test)
    whole = torch.cat([split.labels for split in (found.train, found.val, found.test)]).bincount()
    for split, fraction in ((found.test, 0.2), (found.val, 0.16)):
        assert (split.labels.bincount() - whole * fraction).abs().max() <= 5
    (finding,) = findings(found, "are copies of others")
    assert len(finding.images) == len(found.train) - len(train)


def test_copies_in_two_classes_stay_together_and_are_reported(tmp_path: Path):
    images(tmp_path, "a", "b", each=10)
    shutil.copy(tmp_path / "a" / "3.png", tmp_path / "b" / "same.png")
    shutil.copy(tmp_path / "a" / "3.png", tmp_path / "a" / "3 again.png")
    found = load(tmp_path)
    train, val, test = digests_by_split(found)
    assert disjoint(train, val, test)
    (finding,) = findings(found, "different labels")
    assert finding.images == ("a/3 again.png (a) = a/3.png (a) = b/same.png (b)",)
    assert finding.about.endswith("(a/3 again.png (a) = b/same.png (b))")


def test_copies_alone_cannot_be_split(tmp_path: Path):
    for name in "ab":
        images(tmp_path, name, each=1)
        for index in range(4):
            shutil.copy(tmp_path / name / "0.png", tmp_path / name / f"copy{index}.png")
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.2: expected images that are no copies"):
        load(tmp_path)


def test_equal_files_are_found_by_content(tmp_path: Path):
    contents = [b"x" * 9000, b"x" * 8999 + b"y", b"x" * 9000, b"z" + b"x" * 8999, b"", b"", b"z" + b"x" * 8999]
    files = [tmp_path / str(number) for number in range(len(contents) + 1)]
    for file, content in zip(files, contents, strict=False):
        file.write_bytes(content)
    os.mkfifo(files[-1])
    files.append(tmp_path / "missing")
    assert duplicates.of_files(files).tolist() == [0, 1, 0, 3, 4, 4, 3, 7, 8]
    rows = torch.tensor([[1, 2], [3, 4], [1, 2]]).numpy()
    assert duplicates.of_rows(rows).tolist() == [0, 1, 0]


def test_copies_across_splits_are_reported(tmp_path: Path):
    images(tmp_path, "train/a", "train/b", "val/a", "val/b", "test/a", "test/b", each=4)
    with Image.open(tmp_path / "train" / "a" / "0.png") as image:
        image.save(tmp_path / "test" / "a" / "again.bmp")  # different bytes, equal pixels
    shutil.copy(tmp_path / "train" / "b" / "1.png", tmp_path / "val" / "b" / "again.png")
    found = load(tmp_path)
    about = {finding.about.partition(":")[0]: finding for finding in found.findings}
    assert about["1 of 9 images in test is in train, too (test/a/again.bmp = train/a/0.png)"].alarming
    assert "1 of 9 images in val is in train, too (val/b/again.png = train/b/1.png)" in about


def test_verdict_gives_accuracy_without_shared_images():
    def result(job: int, mode: str, metrics: dict[str, float]) -> Result:
        scores = {"best/val_accuracy": 0.9 - job / 10, "test/accuracy": 0.9 - job / 10, "cost/train_seconds": 1.0}
        choices = {"model": "m", "freeze_mode": mode, "optimizer": "sgd", "data": "d", "lr": 0.1, "seed": 0}
        images = {"train": 9, "val": 9, "test": 200}
        return Result(job, mode, "", None, "FINISHED", None, choices, {**scores, **metrics}, images)

    both = [result(0, "full", {SHARED: 12, WITHOUT: 0.5}), result(1, "head", {SHARED: 12, WITHOUT: 0.625})]
    assert "Without the 12 test images that are also in train, it is 50.0% against 62.5%." in answer(both)
    assert "Without the 12 test images that are also in train, it is 50.0%." in answer(both[:1])
    one = [result(0, "full", {SHARED: 1, WITHOUT: 0.5})]
    assert "Without the test image that is also in train, it is 50.0%." in answer(one)
    assert "Every test image is also in train" in answer([result(0, "full", {SHARED: 200})])
    assert "also in train" not in answer([result(0, "full", {}), result(1, "head", {})])


def test_weights_for_other_classes_are_reported():
    assert of_weights(["a", "b"], None, "w") == of_weights(["a", "b"], ["a", "b"], "w") == []
    assert of_weights(["a", "b"], ["x", "y"], "w") == []
    assert "the same classes in another order" in of_weights(["a", "b"], ["b", "a"], "w")[0].about
    assert "more classes" in of_weights(["a", "b"], ["b", "a", "c"], "w")[0].about
    told = "w was trained for only some of the classes (a, c; the data has a, b, c)"
    assert told in of_weights(["a", "b", "c"], ["a", "c"], "w")[0].about
