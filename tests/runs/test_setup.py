"""What a run works with is checked before anything trains."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from frostline.core.errors import UserError
from frostline.models.weights import GLYPHS
from frostline.runs import checks, setup
from frostline.store import hashing
from small import SMALL, Told, compose


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
        setup.assemble(compose(*SMALL, "select=val/auroc"), Path(), meta=True, screen=Told())


def test_weights_of_a_file_are_told_by_what_is_in_it(tmp_path: Path) -> None:
    shutil.copyfile(GLYPHS, file := tmp_path / "w.safetensors")
    told = checks.check(compose(*SMALL, f"model.weights={file}")).auto
    assert told["model.sha256"] == hashing.of_file(file)
    assert "model.sha256" not in checks.check(compose(*SMALL)).auto
