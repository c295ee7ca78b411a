"""Metrics of splits whose images come in groups."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.report import predictions, statistics
from small import SMALL, TINY, compose, execute_run


@pytest.mark.parametrize(("mode", "by"), [("head", "accuracy"), ("centroid", "macro_f1")])
def test_run_records_groups_and_effective_images(tmp_path: Path, mode: str, by: str) -> None:
    random = np.random.default_rng(0)
    lines = [("path", "label", "split", "patient")]
    for number in range(60):
        pixels = (random.normal(120, 40, (8, 8, 3)) + 20 * (number % 2)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        split = ("train", "val", "test")[number // 20]
        patient = f"p{number // 5}" if number < 40 else "Straße\t3" if number < 50 else f"p{number // 59}"
        lines.append((f"{number}.png", "ab"[number % 2], split, patient))
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(lines)
    data = ("data=table", f"data.root={tmp_path / 't.csv'}", "data.options.group=patient", "data.limit=null")
    config = compose(*SMALL, *TINY, f"freeze={mode}", f"select=val/{by}", *data)
    metrics, _ = execute_run(config, folder := tmp_path / "run")
    found = predictions.read(str(folder))
    assert found is not None and found.groups is not None and len({*found.groups.tolist()}) == 3
    assert metrics["test/groups"] == 3
    own = {"group": r"Straße\t3", "images": 10, "accuracy": found.right[:10].mean()}  # the others are smaller
    assert json.loads((folder / "per_group.json").read_text()) == [own]
    assert metrics["test/effective_images"] == statistics.effective_images(found.right, found.groups)
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = epochs[int(metrics["best/epoch"]) - 1]
    assert metrics["best/val_effective_images"] == best["val/effective_images"]
    assert all(0 < line["val/effective_images"] < 20 for line in epochs)
    assert metrics.get("best/val_margin_of_error") == best.get("val/margin_of_error")
    assert ("val/margin_of_error" in best) == (by != "accuracy")
