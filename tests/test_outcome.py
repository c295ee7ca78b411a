"""What a run leaves of its test can be read again, by whoever may read the rest of its folder."""

from __future__ import annotations

import os

import torch

from frostline import comparison, outcome
from frostline.data import Split


def test_predictions_are_as_readable_as_the_other_files(tmp_path):
    labels = torch.tensor([0, 1, 0, 1])
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    test = Split(pixels, torch.full((4, 2), 8, dtype=torch.int32), labels, torch.arange(4) * 3, "")
    before = os.umask(0o022)
    try:
        outcome.write(tmp_path, torch.eye(2)[[0, 1, 1, 1]], test, ("cat", "dog"))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    found = comparison.predictions(str(tmp_path))
    assert found is not None and found.labels.tolist() == [0, 1, 0, 1] and found.ids.tolist() == [0, 3, 6, 9]
