"""What a run leaves of its test can be read again, by whoever may read the rest of its folder."""

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


def test_predictions_are_as_readable_as_the_other_files(tmp_path):
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
def test_what_is_read_of_predictions_is_what_was_said(tmp_path, classes, kept):
    random = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(60, classes, generator=random)
    labels = torch.randint(classes, (60,), generator=random)
    test = dataclasses.replace(split(labels, first=0), ids=torch.arange(60) * 700, groups=torch.arange(60) // 7 * 4900)
    evaluation.write(tmp_path, logits, test, [str(number) for number in range(classes)], test.pixels.__getitem__)
    found = predictions.read(str(tmp_path))
    assert found is not None and (found.logits is not None) == kept
    chances = logits.log_softmax(1)
    assert (found.said == logits.argmax(1).numpy()).all()
    for numbers, those in ((found.loss, -chances[range(60), labels]), (found.confidence, chances.max(1).values.exp())):
        assert numbers.dtype == np.float32
        np.testing.assert_allclose(numbers, those.numpy(), rtol=1e-5, atol=1e-6)
    for numbers, those in ((found.labels, labels), (found.ids, test.ids), (found.groups, test.groups)):
        assert numbers.dtype == np.int64 and (numbers == those.numpy()).all()
    if kept:
        assert found.logits is not None and (found.logits == logits.numpy()).all()
        assert (tmp_path / "test_predictions.safetensors").stat().st_size < 60 * (4 * 10 + 8 + 4 + 4) + 400
    else:
        assert load_file(tmp_path / "test_predictions.safetensors")["top_log_probabilities"].shape == (60, 5)


def test_logits_of_any_size_are_read_as_probabilities(tmp_path):
    logits = torch.tensor([[1e4, 0.0], [0.0, -1e4], [3e38, -3e38], [0.5, 0.5], [torch.inf, 0.0]])
    labels = torch.tensor([0, 1, 1, 1, 1])
    evaluation.write(
        tmp_path, logits, split(labels, first=0), ("cat", "dog"), split(labels, first=0).pixels.__getitem__
    )
    found = predictions.read(str(tmp_path))
    assert found is not None and found.said.tolist() == [0, 0, 0, 0, 0]
    assert found.confidence[:4].tolist() == [1.0, 1.0, 1.0, 0.5] and np.isnan(found.confidence[4])
    assert found.loss[:3].tolist() == [0.0, 1e4, np.inf] and abs(found.loss[3] - np.log(2)) < 1e-6


def test_the_most_probable_classes_are_those_of_the_softmax_and_the_first_that_of_argmax():
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    logits[3] = 0.5  # all the same
    first, chances = evaluation.most_probable(logits, 4)
    assert torch.equal(first[:, 0].long(), logits.argmax(1))
    assert torch.allclose(chances, logits.log_softmax(1).sort(1, descending=True).values[:, :4])


def test_the_accuracy_on_new_images_leaves_out_those_that_are_in_train_too() -> None:
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


_MANY = """
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
def test_ten_thousand_classes_take_less_than_a_gigabyte_and_five_megabytes_of_files(tmp_path):
    """What scoring, writing and reporting take; 10,000 images of them have 400 MB of logits."""
    code = [sys.executable, "-c", _MANY, str(tmp_path)]
    done = warm.run(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.8e6  # kB: twice the logits, which lie there once
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5e6
    said = json.loads((tmp_path / "confusion_matrix.json").read_text())
    assert sum(said["counts"]) == 10_000 and len(said["rows"]) == len(said["columns"]) == len(said["counts"])
