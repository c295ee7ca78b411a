"""A run with `eval.shift=true` says how its network does on corrupted test images."""

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


def said(run):
    return json.loads((run / "shift.json").read_text())


def accuracies(run, name, batch):
    """Return what the network of a finished run reaches, worked out anew from its files, in batches of another size."""
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
def test_accuracies_are_those_of_the_kept_weights_in_batches_of_any_size(run):
    name = "noise" if run.name == "0" else "jpeg"
    expected = said(run)[name]
    assert len(expected) == 5
    assert accuracies(run, name, 37) == pytest.approx(expected, abs=1.5 / 359)  # at most an image on the edge


def test_metrics_are_means_over_severities(trained, run):
    result = json.loads((run / "result.json").read_text())
    recorded = server.client_of(trained.uri).get_run(result["run_id"]).data.metrics
    means = {f"shift/{name}": fmean(values) for name, values in said(run).items()}
    means["shift/mean"] = fmean(means.values())
    assert set(said(run)) == {"noise", "blur", "contrast", "pixelate", "jpeg"}
    for metrics in (result["metrics"], recorded):
        assert {key: value for key, value in metrics.items() if key.startswith("shift/")} == pytest.approx(means)


def test_corrupted_images_are_no_part_of_the_runs_costs(run):
    result = json.loads((run / "result.json").read_text())
    images = result["images"]
    assert result["metrics"]["cost/backbone_images"] <= 2 * (images["train"] + images["val"]) + images["test"]
