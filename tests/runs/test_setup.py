"""What a run works with is checked before anything trains."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from frostline.core.errors import UserError
from frostline.models.weights import GLYPHS
from frostline.runs import checks, setup
from frostline.store import hashing
from small import SMALL, FakeScreen, compose, load_data


@pytest.mark.parametrize(("split", "words"), [("val", "validation"), ("test", "test")])
def test_auroc_needs_two_classes_to_choose_by_and_to_compare_by(
    monkeypatch: pytest.MonkeyPatch, split: str, words: str
) -> None:
    real = setup.load_data

    def of_one_class(*arguments: Any) -> Any:
        data = real(*arguments)
        one = getattr(data, split)
        return replace(data, **{split: replace(one, labels=one.labels.clamp(max=0))})

    monkeypatch.setattr(setup, "load_data", of_one_class)
    with pytest.raises(UserError, match=f"^select=val/auroc: expected .*: every class has all {words} images or none"):
        setup.assemble(compose(*SMALL, "select=val/auroc"), Path(), meta=True, screen=FakeScreen())


def test_weights_of_a_file_are_told_by_what_is_in_it(tmp_path: Path) -> None:
    shutil.copyfile(GLYPHS, file := tmp_path / "w.safetensors")
    told = checks.check(compose(*SMALL, f"model.weights={file}")).auto
    assert told["model.sha256"] == hashing.of_file(file)
    assert "model.sha256" not in checks.check(compose(*SMALL)).auto


def test_balanced_weights_are_those_of_sklearn_and_1_where_there_is_nothing_to_balance() -> None:
    config, data = compose(*SMALL, "train.class_weights=balanced"), load_data(source="digits", limit=100)
    several = torch.arange(len(data.train))[:, None] % torch.arange(1, len(data.classes) + 1) == 0
    several[:, 2] = False
    counts = several.sum(0)
    found = setup.class_weights(config, replace(data, train=replace(data.train, labels=several)))
    assert found is not None and found[0] == found[2] == 1  # all are of the first, none of the third
    assert found[1] == (len(several) - counts[1]) / counts[1] and found[4] > found[3] > 2

    labels = data.train.labels.where(data.train.labels != 2, 0)
    found = setup.class_weights(config, replace(data, train=replace(data.train, labels=labels)))
    there = np.unique(labels)
    expected = dict(zip(there, compute_class_weight("balanced", classes=there, y=labels.numpy()), strict=True))
    assert found == pytest.approx([expected.get(label, 1) for label in range(len(data.classes))])


def test_a_weight_of_no_class_is_told_with_those_that_there_are() -> None:
    data = load_data(source="digits", limit=100)
    line = r"^train\.class_weights=cat: expected classes of the data, 0, 1, 2, .*"
    with pytest.raises(UserError, match=line):
        setup.class_weights(compose(*SMALL, "train.class_weights={cat: 10.0}"), data)
