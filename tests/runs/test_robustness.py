"""Accuracy on corrupted test images with `eval.shift=true`."""

from __future__ import annotations

import json
from dataclasses import asdict
from statistics import fmean

import pytest
import torch

from frostline.data import corruptions
from frostline.data.corruptions import corrupt
from frostline.data.resize import center_crop
from frostline.runs import predict
from frostline.tracking import server
from small import load_data


@pytest.fixture(params=["0", "1"], ids=["head, on features", "full, on images"])
def run(trained, request):
    return trained.folder / request.param


def recorded_accuracies(run):
    return json.loads((run / "shift.json").read_text())


def accuracies(run, name, batch):
    """Return the accuracies of a finished run's network, computed again from its files in batches of this size."""
    network = predict.load(run, device="cpu")
    test = load_data(**asdict(network.config.data), center=network.center).test
    found = []
    for strength in corruptions.strengths(network.center.size)[name]:
        right = 0
        for rows in torch.arange(len(test)).split(batch):
            shown = center_crop(test.pixels[rows], network.center).float()
            shown = corrupt(name, strength, shown, test.ids[rows])
            right += (predict.logits(network, shown).argmax(1) == test.labels[rows]).sum().item()
        found.append(right / len(test))
    return found


@pytest.mark.slow
def test_accuracies_are_reproduced_with_another_batch_size(run):
    name = "noise" if run.name == "0" else "jpeg"
    expected = recorded_accuracies(run)[name]
    assert len(expected) == 5
    assert accuracies(run, name, 37) == pytest.approx(expected, abs=1.5 / 359)  # one image may differ by rounding


def test_metrics_are_means_over_severities(trained, run):
    result = json.loads((run / "result.json").read_text())
    recorded = server.client_of(trained.uri).get_run(result["run_id"]).data.metrics
    means = {f"shift/{name}": fmean(values) for name, values in recorded_accuracies(run).items()}
    means["shift/mean"] = fmean(means.values())
    assert set(recorded_accuracies(run)) == {"noise", "blur", "contrast", "pixelate", "jpeg"}
    for metrics in (result["metrics"], recorded):
        assert {key: value for key, value in metrics.items() if key.startswith("shift/")} == pytest.approx(means)


def test_corrupted_images_are_not_counted_as_cost(run):
    result = json.loads((run / "result.json").read_text())
    images = result["images"]
    assert result["metrics"]["cost/backbone_images"] <= 2 * (images["train"] + images["val"]) + images["test"]
