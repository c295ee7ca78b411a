"""A typed key that nothing reads is refused or named; one that some run of the sweep reads is as good as any."""

from __future__ import annotations

import pytest

from frostline.core.config_keys import flatten
from frostline.core.errors import UserError
from frostline.sweeps import unused_keys
from small import compose, plain_config

MISTAKES = [
    ("data.root=pics", [], "data=image_folder", ["data=image_folder"]),
    ("data.layout=splits", ["data=table"], "data=image_folder", ["data=image_folder"]),
    ("data.download=true", ["data=image_folder"], "data=cifar10", ["data=cifar10"]),
    ("augment.scale=[0.5,1.0]", [], "augment=standard", ["augment=trivial"]),
    ("augment.padding=0.1", ["augment=standard"], "augment.crop=pad", ["augment=crop_flip"]),
    ("augment.flip=true", [], "data.flip=true", ["data.flip=true"]),
    ("schedule.final=0", [], "schedule=cosine", ["schedule=onecycle"]),
    ("schedule.gamma=0.5", ["schedule=cosine"], "schedule=step", ["schedule=step"]),
    ("train.focal_gamma=3", [], "train.loss=focal", ["train.loss=focal"]),
    ("freeze_mode.k=[5]", [], "freeze=knn", ["freeze=knn"]),
    (f"model.sha256={'0' * 64}", ["model.weights=null"], "model.weights=", []),
]
NOTED = [
    ("features.views=2", [], "augment=standard", ["augment=standard"]),
    ("schedule.span=run", [], "schedule=cosine", ["schedule.warmup=0.1"]),
    ("data.skip_bad=true", [], "data=image_folder", ["data=image_folder"]),
    ("data.missing_classes=ok", [], "data=image_folder", ["data=shards"]),
    ("data.range=minmax", [], "data=image_folder", ["data=image_folder"]),
    ("data.pixels=exact", [], "augment=standard", ["augment=crop_flip"]),
    ("data.flip=true", [], "augment.flip=true", ["augment=standard"]),
    (
        "optimizer.decay_norm_and_bias=true",
        ["optimizer.weight_decay=0"],
        "weight_decay",
        ["optimizer.weight_decay=0.1"],
    ),
    ("train.patience=9", [], "more epochs", ["epochs=10"]),
    ("store.path=/s", ["store.enabled=false"], "store.enabled=true", []),
]


def test_keys_of_hydra_are_noted_where_no_sweep_reads_them() -> None:
    typed = {"hydra.sweep.dir": "x", "hydra/launcher": "basic", "hydra.searchpath": "[file:///own]"}
    said = unused_keys.check(typed, [compose()])
    assert [line.partition(" ")[0] for line in said] == ["hydra.sweep.dir=x", "hydra/launcher=basic"]


def checked(override, *sweep):
    """Return what is said of `override` in a sweep of runs with further overrides."""
    key, _, value = override.partition("=")
    return unused_keys.check({key: value, "lr": "0.1"}, [compose(override, *more) for more in sweep])


@pytest.mark.slow
@pytest.mark.parametrize(("override", "chosen", "wanted", "reading"), MISTAKES)
def test_what_would_make_it_another_run_is_refused_and_where_some_run_reads_it_it_is_fine(
    override, chosen, wanted, reading
):
    with pytest.raises(UserError) as refused:
        checked(override, chosen)
    assert str(refused.value).startswith(f"{override}: expected ") and wanted in str(refused.value)
    assert checked(override, chosen, reading) == []


@pytest.mark.slow
@pytest.mark.parametrize(("override", "chosen", "wanted", "reading"), NOTED)
def test_what_is_merely_without_effect_is_named(override, chosen, wanted, reading):
    (line,) = checked(override, chosen)
    assert line.startswith(f"{override} has no effect: ") and wanted in line
    assert checked(override, chosen, reading) == []


def test_values_in_mistakes_stand_there_as_people_type_them():
    with pytest.raises(UserError, match=r"with data.folds=null nothing reads it$"):
        checked("data.fold=2", [])


def test_to_switch_something_off_is_no_mistake():
    assert (
        checked("augment.flip=false", [])
        == checked("data.download=false", [])
        == checked("features.views=null", [])
        == []
    )


def test_every_rule_is_about_keys_that_there_are():
    keys = set(flatten({key: value for key, value in plain_config().items() if key != "hydra"}))
    assert {key for rule in (*unused_keys._MISTAKES, *unused_keys._NOTES) for key in rule.keys.split()} <= keys
