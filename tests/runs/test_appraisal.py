"""The appraisal of a backbone on a sample of the data, and the estimated cost of a run."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from emulated_card import EmulatedMachine
from frostline.core.config import Config
from frostline.core.errors import UserError
from frostline.data import resize
from frostline.data.views import Views
from frostline.models import cut
from frostline.report.terminal import Screen
from frostline.runs import appraisal, costs, split_views
from frostline.runs.appraisal import Appraisal
from frostline.runs.setup import Setup, assemble
from small import SMALL, TINY, FakeScreen, compose, mode

FEW = (*SMALL, "epochs=3", "data.limit=60", "data.val_fraction=0.05", "precision=fp32")

PROBE = replace(mode("probe"), l2=[10.0, 1.0])


def setup_of(folder: Path, *overrides: str) -> Setup:
    config: Config = compose(*FEW, *overrides)
    return assemble(config, folder, meta=False, screen=cast(Screen, FakeScreen()))


def appraise(setup: Setup, images: int = 60) -> Appraisal:
    sample = appraisal.draw(setup.data, images, 0)
    return appraisal.appraise(setup, sample, probe=PROBE, knn=mode("knn"))


def test_each_sampled_image_passes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: Counter[tuple[str, int]] = Counter()
    inputs = Views.inputs

    def count_inputs(views: Views, index: torch.Tensor, epoch: int) -> torch.Tensor:
        passes.update((str(views.identity["split"]), row) for row in index.tolist())
        return inputs(views, index, epoch)

    monkeypatch.setattr(Views, "inputs", count_inputs)
    monkeypatch.setattr(appraisal, "_gradients", lambda *_: {})
    setup = setup_of(tmp_path, "freeze=head", "augment=standard")
    sample = appraisal.draw(setup.data, 60, 0)
    found = appraisal.appraise(setup, sample, probe=PROBE, knn=mode("knn"))
    expected = {("train", row) for row in sample.train.tolist()} | {("val", row) for row in sample.val.tolist()}
    assert set(passes) == expected and set(passes.values()) == {1} and len(expected) == 60
    assert [border.stage for border in found.borders] == ["stem", "stage1", "stage2", "stage3"]


def test_features_of_a_stage_equal_the_cut_network_output(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, "freeze=head")
    found = appraise(setup)
    structure, views = setup.model.structure, split_views.centred(setup, "val", setup.data.val)
    rows = appraisal.draw(setup.data, 60, 0).val
    passed = appraisal._activations_of(setup, "val", rows)
    for number, border in enumerate(found.borders, 1):
        lower, _ = cut.halves(setup.model.module, structure, structure.stages[:number])
        with torch.no_grad():
            outputs = lower(views.inputs(rows, 1))
        expected = outputs.mean((2, 3)) if outputs.dim() == 4 else outputs
        assert torch.allclose(passed[border.stage].tensor, expected, atol=1e-5)
        assert border.dimensions == expected.shape[1] and len(border.right) == len(rows)
        assert border.probe == sum(border.right) / len(rows)
    assert set(found.gradients) == set(structure.stages) and min(found.gradients.values()) > 0
    assert not any(
        parameter.requires_grad for name, parameter in setup.model.module.named_parameters() if "fc" not in name
    )


def test_sample_is_stratified_and_reproducible(tmp_path: Path) -> None:
    data = setup_of(tmp_path, "freeze=head", "data.limit=200", "data.val_fraction=0.1").data
    first, again, larger = (appraisal.draw(data, images, 0) for images in (80, 80, 120))
    assert torch.equal(first.train, again.train) and set(first.train.tolist()) <= set(larger.train.tolist())
    assert not torch.equal(first.train, appraisal.draw(data, 80, 1).train)
    for split, rows in ((data.train, first.train), (data.val, first.val)):
        counts = split.labels[rows].bincount(minlength=10)
        assert len(rows) == 40 and int(counts.min()) >= 3 and int(counts.max()) <= 5
    assert len(appraisal.draw(data, 10_000, 0).train) == len(data.train)
    with pytest.raises(UserError, match=r"^images=19: expected at least 20: two of each class, one for validation$"):
        appraisal.draw(data, 19, 0)


def test_convolutional_head_has_scores_without_gradients(tmp_path: Path) -> None:
    found = appraise(setup_of(tmp_path, "freeze=head", "model=squeezenet1_1", "model.weights=null"))
    assert found.gradients == {} and found.borders[-1].dimensions == 512


@pytest.mark.slow
def test_frozen_stages_cost_once_or_per_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs.machine, "timed", lambda device, work: (1.0, work()))  # all work takes one second
    monkeypatch.setattr(costs, "_time_steps", lambda setup, steps: (1.0, 1))
    setup = setup_of(tmp_path, "freeze=full")
    train, val, steps = len(setup.data.train), len(setup.data.val), setup.steps_per_epoch

    def cost(*overrides: str) -> costs.Cost:
        return costs.measure(setup_of(tmp_path, *overrides), 0.5)

    full, kept = cost("freeze=full"), cost("freeze=head")
    assert (kept.mode, full.mode, kept.epochs) == ("head", "full", 3)
    assert full.once == 0 and full.epoch == pytest.approx(steps + 0.5 * val)  # 0.5 seconds an image, given above
    fresh, passed = cost("freeze=head", "augment=standard"), cost("freeze=head", "features.enabled=false")
    below = kept.once / (train + val)
    assert below > 0 and fresh.once == pytest.approx(below * (3 * train + val))  # new views in each of three epochs
    assert passed.once == 0 and passed.epoch == pytest.approx(kept.epoch + kept.once)
    assert full.run == pytest.approx(3 * full.epoch) and kept.run == pytest.approx(kept.once + 3 * kept.epoch)
    assert kept.memory > 10**8


def test_phases_and_mixup_have_a_cost(tmp_path: Path) -> None:
    several = costs.measure(setup_of(tmp_path, "freeze=lp_ft", "epochs=4"), 0.01)
    assert several.once > 0 and several.epoch > 0
    mixed = costs.measure(setup_of(tmp_path, "freeze=head", "train.mixup=0.2"), 0.01)
    assert mixed.once == 0  # a mixed image depends on two images, so its features are not kept


@pytest.mark.slow
def test_appraisal_on_a_gpu_equals_that_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "_as_pillow", lambda device: False)
    monkeypatch.setattr(costs, "_STEPS", 1)
    found: list[Any] = []
    for device in ("cpu", "cuda"):
        with EmulatedMachine().running() if device == "cuda" else nullcontext():
            setup = setup_of(tmp_path, *TINY, "freeze=head", f"device={device}")
            found.append([(b.stage, b.probe, b.knn, b.right) for b in appraise(setup, 40).borders])
            if device == "cuda":
                assert costs.measure(setup_of(tmp_path, *TINY, "freeze=last_stage", "device=cuda"), 0.01).run > 0
    assert found[0] == found[1]
