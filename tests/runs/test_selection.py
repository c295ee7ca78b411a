"""Selection metrics, also of splits whose images come in groups."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from frostline.core.metrics import LOSS, METRICS, Metric
from frostline.report import predictions, statistics
from frostline.runs import selection
from frostline.training.evaluation import evaluate_logits
from small import SMALL, TINY, compose, execute_run

if TYPE_CHECKING:
    from frostline.data.splits import Split

LABELS = torch.arange(60) % 3
NOISE = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
LOGITS = 2 * one_hot(LABELS) + NOISE


def val(labels: torch.Tensor, groups: torch.Tensor | None = None) -> Split:
    return cast("Split", SimpleNamespace(labels=labels, groups=groups))


@pytest.mark.parametrize("by", METRICS.values(), ids=lambda by: by.name)
def test_better_results_rank_first_then_those_with_less_loss(by: Metric) -> None:
    better, worse, surer = (evaluate_logits(logits, LABELS) for logits in (LOGITS, NOISE, 1.2 * LOGITS))
    assert selection.rank(by, better, LABELS) < selection.rank(by, worse, LABELS)
    assert surer.loss < better.loss and selection.rank(by, surer, LABELS) < selection.rank(by, better, LABELS)
    value = selection.of_epoch(by, better, val(LABELS))[by.epoch]
    assert value == selection.value(by, better, LABELS)
    assert by != LOSS or value == better.loss


def test_margin_of_error_counts_groups_not_images() -> None:
    def margin(copies: int, groups: torch.Tensor | None = None) -> float:
        labels, logits = LABELS.repeat_interleave(copies), LOGITS.repeat_interleave(copies, 0)
        return selection.of_epoch(LOSS, evaluate_logits(logits, labels), val(labels, groups))[selection.MARGIN]

    assert margin(4) == pytest.approx(margin(1) / 2)
    assert margin(4, torch.arange(60).repeat_interleave(4)) == pytest.approx(margin(1), rel=0.05)


def test_margin_of_error_is_left_out_where_it_is_unknown() -> None:
    one_group = selection.of_epoch(LOSS, evaluate_logits(LOGITS, LABELS), val(LABELS, torch.zeros(60).long()))
    undefined = selection.of_epoch(LOSS, evaluate_logits(LOGITS * math.nan, LABELS), val(LABELS))
    assert selection.MARGIN not in one_group and selection.MARGIN not in undefined


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
    assert metrics["test/accuracy"] == pytest.approx(found.right.mean())
    own = {"group": r"Straße\t3", "images": 10, "accuracy": found.right[:10].mean()}  # the others are smaller
    assert json.loads((folder / "per_group.json").read_text()) == [own]
    assert metrics["test/effective_images"] == statistics.effective_images(found.right, found.groups)
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = epochs[int(metrics["best/epoch"]) - 1]
    assert metrics["best/val_effective_images"] == best["val/effective_images"]
    assert all(0 < line["val/effective_images"] < 20 for line in epochs)
    assert metrics.get("best/val_margin_of_error") == best.get("val/margin_of_error")
    assert ("val/margin_of_error" in best) == (by != "accuracy")
