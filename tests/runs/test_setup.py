"""Data, metrics and class weights are checked before training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import one_hot

from frostline.core.errors import UserError
from frostline.data import loading
from frostline.models.weights import GLYPHS
from frostline.runs import checks, data_facts, initial_weights, plan, setup
from frostline.store import hashing
from small import SMALL, FakeScreen, compose, load_data


@pytest.mark.parametrize(
    ("select", "split", "words"),
    [("val/auroc", "val", "validation"), ("val/map", "test", "test"), ("val/macro_f1", "val", "validation")],
)
def test_selecting_metric_must_be_defined(monkeypatch: pytest.MonkeyPatch, select: str, split: str, words: str) -> None:
    real = setup.load_data

    def without_classes(*arguments: Any) -> Any:
        data = real(*arguments)
        labels = getattr(data, split).labels
        none = torch.zeros(len(labels), len(data.classes), dtype=torch.bool)
        labels = none if select == "val/macro_f1" else labels.clamp(max=0)
        return replace(data, **{split: replace(getattr(data, split), labels=labels)})

    monkeypatch.setattr(setup, "load_data", without_classes)
    with pytest.raises(UserError, match=f"^select={select}: expected .*: every class has all {words} images or none"):
        setup.assemble(compose(*SMALL, f"select={select}"), Path(), meta=True, screen=FakeScreen())


@pytest.mark.parametrize(
    ("choice", "line"),
    [
        (
            "select=val/balanced_accuracy",
            "select=val/balanced_accuracy: expected val/map, val/macro_f1 or another metric",
        ),
        ("freeze=centroid", "freeze_mode=centroid: expected probe, knn or another mode"),
    ],
)
def test_choices_for_one_class_per_image_are_refused(monkeypatch: pytest.MonkeyPatch, choice: str, line: str) -> None:
    real = setup.load_data

    def several(*arguments: Any) -> Any:
        data = real(*arguments)
        labels = {name: one_hot(split.labels, len(data.classes)).bool() for name, split in data.splits.items()}
        return replace(data, **{name: replace(split, labels=labels[name]) for name, split in data.splits.items()})

    monkeypatch.setattr(setup, "load_data", several)
    with pytest.raises(UserError, match=f"^{line}: (an image|images)"):
        setup.assemble(compose(*SMALL, choice), Path(), meta=True, screen=FakeScreen())


def test_weights_file_is_identified_by_its_hash(tmp_path: Path) -> None:
    shutil.copyfile(GLYPHS, file := tmp_path / "w.safetensors")
    settled = checks.check(compose(*SMALL, f"model.weights={file}")).auto
    assert settled["model.sha256"] == hashing.of_file(file)
    assert "model.sha256" not in checks.check(compose(*SMALL)).auto


def test_balanced_weights_equal_sklearn_and_default_to_one() -> None:
    config, data = compose(*SMALL, "train.class_weights=balanced"), load_data(source="digits", limit=100)
    several = torch.arange(len(data.train))[:, None] % torch.arange(1, len(data.classes) + 1) == 0
    several[:, 2] = False
    counts = several.sum(0)
    found = setup.class_weights(config, replace(data, train=replace(data.train, labels=several)))
    assert found is not None and found[0] == found[2] == 1  # all images are of class 0 and none of class 2
    assert found[1] == (len(several) - counts[1]) / counts[1] and found[4] > found[3] > 2

    labels = data.train.labels.where(data.train.labels != 2, 0)
    found = setup.class_weights(config, replace(data, train=replace(data.train, labels=labels)))
    present = np.unique(labels)
    expected = dict(zip(present, compute_class_weight("balanced", classes=present, y=labels.numpy()), strict=True))
    assert found == pytest.approx([expected.get(label, 1) for label in range(len(data.classes))])


def test_weight_of_an_unknown_class_lists_the_classes() -> None:
    data = load_data(source="digits", limit=100)
    line = r"^train\.class_weights=cat: expected classes of the data, 0, 1, 2, .*"
    with pytest.raises(UserError, match=line):
        setup.class_weights(compose(*SMALL, "train.class_weights={cat: 10.0}"), data)


def test_steps_have_the_options_of_the_config() -> None:
    options = {"label_smoothing": 0.1, "clip_norm": 2.0, "mixup": 0.3, "cutmix": 0.4, "drop_last": True}
    texts = [f"train.{name}={str(value).lower()}" for name, value in options.items()]
    config = compose(*SMALL, *texts, "train.sampling=balanced", "epochs=3", "eval_batch_size=7", "seed=5")
    found = setup.recipe(config, load_data(source="digits", limit=100))
    assert {name: getattr(found, name) for name in options} == options
    assert (found.sampling, found.epochs, found.batch_size, found.eval_batch_size, found.seed) == (
        "balanced",
        3,
        8,
        7,
        5,
    )


def test_weights_are_those_of_a_run_of_a_folder_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("glyphs", "some_run", "of_hub"):  # `glyphs` are the embedded weights whatever lies here
        (tmp_path / folder).mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "of_hub" / name).touch()
    fetched = tmp_path / "initial" / "best.safetensors"
    expected = {
        None: (None, False),
        "glyphs": ("glyphs", False),
        "IMAGENET1K_V1": ("IMAGENET1K_V1", False),
        "of_hub": ("of_hub", True),
        "own.pth": ("own.pth", True),
        "some_run": (str(fetched), True),
        "runs:/0a": (str(fetched), True),
    }
    config = compose(*SMALL)
    for given, (used, local) in expected.items():
        named = replace(config, model=replace(config.model, weights=given))
        assert initial_weights.weights_of(named, tmp_path, lambda _, folder: folder / "best.safetensors") == used
        assert initial_weights.on_disk(given) is local, given
    with pytest.raises(UserError, match="runs cannot be fetched here"):
        initial_weights.weights_of(named, tmp_path, initial_weights.no_runs)


@pytest.mark.parametrize(
    "look", [checks.check, lambda config, fetch: data_facts.open_data(config, FakeScreen(), fetch)]
)
def test_weights_of_a_run_are_named_as_typed(look: Callable[..., object]) -> None:
    def fetch(_: Any, folder: Path) -> Path:
        return Path(shutil.copyfile(GLYPHS, folder / "best.safetensors"))

    line = "^model.weights=runs:/0a: expected weights of resnet18 of torchvision, not of shufflenet_v2_x0_5 of"
    with pytest.raises(UserError, match=line):
        look(compose(*SMALL, "model=resnet18", "model.weights=runs:/0a"), fetch)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("freeze=full", "batch_size=1"), "batch_size=1: expected at least 2, since with one image of 32 pixels"),
        (("+optimizer.options.epss=1",), "optimizer.options.epss=1: expected an option of adam"),
    ],
)
def test_steps_that_must_fail_are_refused_before_training(options: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        checks.check(compose(*SMALL, *options))


def test_unreadable_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", "photos/cat")

    monkeypatch.setattr(loading, "load", load)
    with pytest.raises(UserError, match=r"^data\.root=.*: expected a readable folder, and photos/cat is not$"):
        checks.check(compose(*SMALL))


def test_plan_says_when_which_stage_learns_and_how_fast() -> None:
    options = ("freeze=gradual", "epochs=6", "lr=0.1", "optimizer.weight_decay=0.01")
    made = setup.assemble(compose(*SMALL, *options), Path(), meta=True, screen=FakeScreen())
    told = plan.describe(made, "some")
    assert [(phase.first_epoch, phase.last_epoch) for phase in told.phases] == [(1, 1), (2, 2), (3, 4), (5, 5), (6, 6)]
    assert told.trainable_parameters == told.parameters == sum(stage.parameters for stage in told.phases[0].stages)
    for number, phase in enumerate(told.phases):  # one more stage learns in each
        head, *others = reversed(phase.stages)
        assert (head.lr, head.weight_decay, head.norm) == ((0.1, 0.1), (0.0, 0.01), "-")
        for stage in others[number:]:
            assert (stage.learning, stage.lr, stage.norm) == (0, None, "frozen")
        for depth, stage in enumerate(others[:number], 1):
            assert stage.lr == pytest.approx((0.1 / 2.6**depth,) * 2, rel=1e-3)
            assert (stage.learning, stage.weight_decay, stage.norm) == (stage.parameters, (0.0, 0.01), "batch")
