"""Sweep folders in the real format, written without training anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file
from scipy.special import log_softmax

from frostline.core.metrics import ACCURACY, METRICS, Metric
from frostline.records.result import VAL_MARGIN
from frostline.report import confusion_matrix, mistakes, predictions
from frostline.runs import evaluation

CLASSES = ("cat", "<script>alert('no')</script>", "naïve Straße", "数字 七", 'quo"te & <b>')
QUALITY = {"head": 0.90, "full": 0.95, "lp_ft": 0.94, "gradual": 0.93}
SECONDS = {"head": 2.0, "full": 12.0, "lp_ft": 9.0, "gradual": 8.0}
IMAGES = 200


def sweep(
    folder: Path,
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 1,
    classes: Sequence[str] = CLASSES,
    states: Mapping[int, str] = {},
    epochs: int = 10,
    shift: bool = False,
    tracker: Mapping[str, str] | None = None,
) -> Path:
    """Write a sweep over `grid` (`freeze_mode`, `lr`, ...) and seeds; `states` has the states of some runs, by number.

    A state is `FAILED`, `KILLED`, `RUNNING` (half-way, no result) or `WAITING` (not started). Accuracy depends on the
    freeze mode and has its best lr at 1e-3.
    """
    folder.mkdir(parents=True)
    keys = [*grid, "seed"]
    points = [dict(zip(keys, point, strict=True)) for point in product(*grid.values(), range(seeds))]
    base = {"model": "small", "freeze_mode": "head", "optimizer": "adam", "data": "digits", "lr": 0.001}
    runs = []
    for number, point in enumerate(points):
        choices = base | point
        name = " ".join([str(choices["freeze_mode"]), *(f"{k}={v}" for k, v in point.items() if k != "freeze_mode")])
        runs.append({"name": name, "choices": choices, "folder": str(number)})
        state = states.get(number, "FINISHED")
        if state != "WAITING":
            _run(folder / str(number), number, name, choices, state, classes, epochs, shift)
    (folder / "sweep.json").write_text(json.dumps({"tracker": tracker, "runs": runs}))
    return folder


def accuracy_of(choices: Mapping[str, Any]) -> float:
    """Return the expected accuracy of a run."""
    off = abs(math.log10(choices["lr"]) + 3) * 0.06
    return QUALITY.get(choices["freeze_mode"], 0.9) - off - 0.01 * float(choices.get("weight_decay", 0) > 0)


def _value(by: Metric, accuracy: float) -> float:
    """Return a plausible value of a metric for this accuracy."""
    return accuracy if by.sign > 0 else 1 - accuracy


def _run(
    folder: Path, number: int, name: str, choices: dict, state: str, classes: Sequence[str], epochs: int, shift: bool
) -> None:
    folder.mkdir()
    random = np.random.default_rng(number)
    truth, by = accuracy_of(choices), METRICS[choices.get("select", ACCURACY.epoch)]
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"lr": choices["lr"], "epochs": epochs, "seed": choices["seed"]})
    )
    typed = [f"freeze={choices['freeze_mode']}", f"lr={choices['lr']}"]
    (folder / "provenance.json").write_text(json.dumps({"command": typed}))
    done = epochs if state == "FINISHED" else epochs // 2
    with (folder / "metrics.jsonl").open("w") as journal:
        for epoch in range(1, done + 1):
            grown = truth * (1 - 0.5**epoch)
            phase = 2 if choices["freeze_mode"] == "lp_ft" and epoch > epochs // 2 else 1
            row = {"epoch": epoch, "phase": phase, "train/loss": 1 / epoch, "train/accuracy": min(1.0, grown + 0.02)}
            row |= {by.epoch: _value(by, grown), "val/loss": 1.1 / epoch, "val/accuracy": grown}
            journal.write(json.dumps(row) + "\n")
    if state == "RUNNING":
        return
    result = {"job": number, "name": name, "folder": str(folder), "run_id": f"{number:032x}", "status": state}
    result |= {"reason": None, "choices": choices, "metrics": {}, "images": {}}
    if state == "FINISHED":
        accuracy = _test(folder, random, truth, classes)
        seconds = SECONDS.get(choices["freeze_mode"], 5.0) * (1 + random.random() / 10)
        parameters = 10_250.0 if choices["freeze_mode"] == "head" else 352_042.0
        result["metrics"] = {
            "best/epoch": float(epochs),
            by.val: _value(by, truth * (1 - 0.5**epochs)),
            **({} if by == ACCURACY else {VAL_MARGIN: 0.05}),
            "best/val_accuracy": truth * (1 - 0.5**epochs) + random.normal(0, 0.004),
            "test/accuracy": accuracy,
            "test/loss": 0.3,
            "cost/train_seconds": seconds,
            "cost/trainable_parameters": parameters,
            "cost/peak_memory_bytes": 4e8 + parameters * 12,
            "cost/bytes_per_task": 4 * parameters,
            "cost/inference_images_per_second": 1e3,
            "cost/backbone_images": 0.0 if parameters < 2e4 else 5e3,
        }
        if by != ACCURACY and (said := predictions.read(str(folder))):
            measured = said.measured(by)
            assert measured is not None
            result["metrics"][by.test] = measured.value
        result["images"] = {"train": 1000, "val": IMAGES, "test": IMAGES}
        if shift:
            steps = {kind: [truth - 0.05 * severity for severity in range(1, 6)] for kind in ("noise", "blur", "jpeg")}
            (folder / "shift.json").write_text(json.dumps(steps))
    else:
        result["reason"] = "Diverged: <b>loss</b> is nan"
    (folder / "result.json").write_text(json.dumps(result))


def _test(folder: Path, random: np.random.Generator, truth: float, classes: Sequence[str]) -> float:
    """Write the files of the test and return its accuracy; all runs have the same images."""
    labels, ids = np.arange(IMAGES) % len(classes), np.arange(IMAGES) * 3
    hardness = np.random.default_rng(99).random(IMAGES)  # the same images are hard for all runs
    wrong = hardness + random.normal(0, 0.03, IMAGES) > truth
    said = np.where(wrong, (labels + 1 + (hardness * 1000).astype(int) % 2) % len(classes), labels)
    logits = random.normal(0, 0.3, (IMAGES, len(classes))).astype(np.float32)
    logits[np.arange(IMAGES), said] += 2.5
    said = logits.argmax(1)
    first, chances = (part.numpy() for part in evaluation.most_probable(torch.from_numpy(logits), 2))
    said_of = {"top_classes": first, "top_log_probabilities": chances, "labels": labels, "ids": ids}
    said_of["label_log_probabilities"] = log_softmax(logits, 1)[np.arange(IMAGES), labels]
    save_file(said_of | {"logits": logits}, folder / "test_predictions.safetensors")
    confusion_matrix.write(folder, confusion_matrix.count(classes, labels, said))
    shown = [{"class": name, "images": int((labels == i).sum())} for i, name in enumerate(classes)]
    (folder / "per_class.json").write_text(json.dumps(shown))
    rows = mistakes.choose(said, labels, chances[:, 0] - chances[:, 1])
    pixels = np.random.default_rng(5).integers(0, 255, (IMAGES, 3, 8, 8), np.uint8)
    mistakes.write(folder, pixels[rows], ids[rows])
    return float((said == labels).mean())
