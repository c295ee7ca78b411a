"""Test predictions are written, read again and summarised."""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import warm
from frostline.data.splits import Split
from frostline.report import predictions
from frostline.runs import evaluation
from frostline.store.rows import Rows


def test_prediction_files_respect_the_umask(tmp_path):
    labels = torch.tensor([0, 1, 0, 1])
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    sizes, digests = torch.full((4, 2), 8, dtype=torch.int32), torch.zeros(4, 32, dtype=torch.uint8)
    rows = Rows(pixels, torch.arange(4))
    test = Split(rows, False, sizes, labels, torch.arange(4) * 3, digests, "")
    before = os.umask(0o022)
    try:
        evaluation.write(tmp_path, torch.eye(2)[[0, 1, 1, 1]], test, ("cat", "dog"), rows.__getitem__)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    found = predictions.read(str(tmp_path))
    assert found is not None and found.labels.tolist() == [0, 1, 0, 1] and found.ids.tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize(("classes", "kept"), [(10, True), (20_000, False)])
def test_read_predictions_equal_written_logits(tmp_path, classes, kept):
    random = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(60, classes, generator=random)
    labels = torch.randint(classes, (60,), generator=random)
    ids = torch.arange(60) * (700 if kept else 2**40)
    test = dataclasses.replace(split(labels, first=0), ids=ids, groups=torch.arange(60) // 7 * 4900)
    evaluation.write(tmp_path, logits, test, [str(number) for number in range(classes)], test.pixels.__getitem__)
    found = predictions.read(str(tmp_path))
    assert found is not None and (found.logits is not None) == kept
    chances = logits.log_softmax(1)
    assert (found.predicted == logits.argmax(1).numpy()).all()
    loss, confidence = -chances[range(60), labels], chances.max(1).values.exp()
    for values, expected in ((found.loss, loss), (found.confidence, confidence)):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-5, atol=1e-6)
    for values, expected in ((found.labels, labels), (found.ids, test.ids), (found.groups, test.groups)):
        assert values.dtype == np.int64 and (values == expected.numpy()).all()
    if kept:
        assert found.logits is not None and (found.logits == logits.numpy()).all()
        assert (tmp_path / "test_predictions.safetensors").stat().st_size < 60 * (4 * 10 + 8 + 4 + 4) + 400
    else:
        assert load_file(tmp_path / "test_predictions.safetensors")["top_log_probabilities"].shape == (60, 5)


def test_read_predictions_of_several_labels_equal_those_of_torch(tmp_path):
    random = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(40, 3, generator=random), torch.rand(40, 3, generator=random) < 0.4
    labels[:9] = logits[:9] > 0  # some are right in all classes
    test = dataclasses.replace(split(labels, first=0), groups=torch.arange(40) // 20)
    evaluation.write(tmp_path, logits, test, ("cat", "dog", "bird"), test.pixels.__getitem__, {0: "a"})
    found = predictions.read(str(tmp_path))
    (row,) = json.loads((tmp_path / "per_group.json").read_text())
    assert found is not None and row == {"group": "a", "images": 20, "accuracy": found.right[:20].mean()}
    assert found.multi_label and found.logits is not None
    chances = logits.sigmoid()
    assert (found.predicted == (chances > 0.5).numpy()).all() and (found.labels == labels.numpy()).all()
    assert (found.right == ((chances > 0.5) == labels).all(1).numpy()).all() and 9 <= found.right.sum() < 40
    loss = torch.nn.functional.binary_cross_entropy(chances, labels.float(), reduction="none").mean(1)
    for values, expected in ((found.loss, loss), (found.confidence, chances.maximum(1 - chances))):
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_extreme_logits_give_valid_probabilities(tmp_path):
    logits = torch.tensor([[1e4, 0.0], [0.0, -1e4], [3e38, -3e38], [0.5, 0.5], [torch.inf, 0.0]])
    labels = torch.tensor([0, 1, 1, 1, 1])
    evaluation.write(
        tmp_path, logits, split(labels, first=0), ("cat", "dog"), split(labels, first=0).pixels.__getitem__
    )
    found = predictions.read(str(tmp_path))
    assert found is not None and found.predicted.tolist() == [0, 0, 0, 0, 0]
    assert found.confidence[:4].tolist() == [1.0, 1.0, 1.0, 0.5] and np.isnan(found.confidence[4])
    assert found.loss[:3].tolist() == [0.0, 1e4, np.inf] and abs(found.loss[3] - np.log(2)) < 1e-6


@pytest.mark.parametrize(("several", "expected"), [(False, [2, 1, 3]), (True, [2, 3, 1])])
def test_mistakes_are_shown_by_confusion_and_the_surest_first(tmp_path, monkeypatch, several, expected):
    shown, names = [], ("cat", "dog", "bird")
    monkeypatch.setattr(evaluation.mistakes, "write", lambda folder, images, ids: shown.append(ids.tolist()))
    labels = torch.tensor([0, 1, 1, 0, 1])
    logits = torch.tensor([[9.0, -9, -9], [1, -1, -50], [5, -5, -6], [-2, 2, -9], [-9, 9, -9]])
    test = split(torch.nn.functional.one_hot(labels, 3).bool() if several else labels, first=0)
    evaluation.write(tmp_path, logits, test, names, test.pixels.__getitem__)
    evaluation.write(tmp_path, logits[[0, 4]], split(test.labels[[0, 4]], first=0), names, test.pixels.__getitem__)
    assert shown == [expected]  # the second time all are right


def test_predictions_of_a_single_class_are_written(tmp_path):
    test = split(torch.zeros(3).long(), first=0)
    evaluation.write(tmp_path, torch.randn(3, 1), test, ("cat",), test.pixels.__getitem__)
    found = predictions.read(str(tmp_path))
    assert found is not None and found.right.all()


def test_most_probable_classes_equal_sorted_softmax():
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    logits[3] = 0.5  # all the same
    first, chances = evaluation.most_probable(logits, 4)
    assert torch.equal(first[:, 0].long(), logits.argmax(1))
    assert torch.allclose(chances, logits.log_softmax(1).sort(1, descending=True).values[:, :4])


def test_accuracy_without_images_shared_with_train() -> None:
    train, test = split(torch.tensor([0, 1, 0]), first=0), split(torch.tensor([0, 1, 1, 0]), first=2)
    right = torch.nn.functional.one_hot(test.labels, 2).float()
    wrong_where_new = torch.cat([right[:1], 1 - right[1:]])
    assert evaluation.without_shared(test, train, wrong_where_new) == (1, 0.0)
    assert evaluation.without_shared(test, split(torch.tensor([0]), first=9), right) == (0, 1.0)
    assert evaluation.without_shared(test, test, right) == (4, None)


def split(labels: torch.Tensor, *, first: int) -> Split:
    """Return images whose digests count up from `first`."""
    count = len(labels)
    digests = torch.arange(first, first + count, dtype=torch.uint8)[:, None].expand(count, 32).contiguous()
    rows = Rows(torch.zeros(count, 3, 2, 2, dtype=torch.uint8), torch.arange(count))
    return Split(rows, False, torch.full((count, 2), 2), labels, torch.arange(count), digests, "")


_MANY_CLASSES = """
import resource, sys, torch
from pathlib import Path
from frostline.data.splits import Split
from frostline.records.result import Result
from frostline.report import image_details
from frostline.report.cells import Cell
from frostline.runs.evaluation import write
from frostline.store import rows
from frostline.store import mapped
from frostline.training import evaluation

class Rows:
    known, labels = True, torch.arange(10_000)
    def prefetch(self, index, epoch): ...
    def inputs(self, index, epoch): return torch.randn(len(index), 4, generator=torch.Generator().manual_seed(0))

before, folder = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Path(sys.argv[1])
scored = evaluation.evaluate(torch.nn.Linear(4, 10_000), Rows(), batch_size=500, autocast=None)
pixels, sizes = torch.zeros(10_000, 3, 2, 2, dtype=torch.uint8), torch.full((10_000, 2), 2, dtype=torch.int32)
digests = torch.zeros(10_000, 32, dtype=torch.uint8)
test = Split(rows.Rows(pixels, Rows.labels), False, sizes, Rows.labels, torch.arange(10_000), digests, "")
write(folder, scored.logits, test, [f"class number {i}" for i in range(10_000)], pixels.__getitem__)
del scored
run = Result(0, "run", str(folder), None, "FINISHED", None, {}, {})
found = image_details.of_cell(Cell({}, (run,)))
assert len(found["shown"]) == 100 and len(found["images"]) == 10_000 and "ece" in found["calibration"]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_10000_classes_need_bounded_memory_and_disk(tmp_path):
    """Scoring, writing and reporting of 10,000 images, whose logits have 400 MB."""
    code = [sys.executable, "-c", _MANY_CLASSES, str(tmp_path)]
    done = warm.run(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.8e6  # kB: twice the logits, which are in memory once
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5e6
    matrix = json.loads((tmp_path / "confusion_matrix.json").read_text())
    assert sum(matrix["counts"]) == 10_000 and len(matrix["rows"]) == len(matrix["columns"]) == len(matrix["counts"])
