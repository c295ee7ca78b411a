"""A typed key that no run reads is refused or noted."""

from __future__ import annotations

import pytest

from frostline.core.config_keys import flatten, is_within
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
    ("+search.options.multivariate=true", [], "search=tpe", ["search=tpe"]),
    ("+search.space.head.lr=0.1", [], "search=tpe", ["search=tpe"]),
    (f"model.sha256={'0' * 64}", ["model.weights=null"], "model.weights=", []),
    ("data.fold=2", [], "data.folds=5", ["data.folds=3"]),
    ("data.test_fraction=0.3", ["data.folds=5"], "data.folds=null", []),
    ("freeze_mode.adapter.where=[layer4]", [], "freeze=lora", ["freeze=ssf"]),
    ("freeze_mode.adapter.rank=4", ["freeze=ia3"], "freeze=lora", ["freeze=adapter"]),
    ("freeze_mode.adapter.alpha=8", ["freeze=adapter"], "freeze=lora or freeze=dora", ["freeze=dora"]),
    ("freeze_mode.adapter.dropout=0.1", ["freeze=dora"], "freeze=prompt", ["freeze=lora"]),
    ("freeze_mode.adapter.scale=0.5", ["freeze=lora"], "freeze=adapter", ["freeze=adapter"]),
    ("freeze_mode.adapter.tokens=4", ["freeze=adapter"], "freeze=prompt", ["freeze=prompt"]),
    ("freeze_mode.adapter.where_inputs=[layer4]", ["freeze=lora"], "freeze=ia3", ["freeze=ia3"]),
    ("trials=5", ["search=tpe", "search.budget=seconds", "search.amount=9"], "search.budget=trials", ["search=tpe"]),
    ("trials=5", ["search=tpe", "search.budget=epochs", "search.amount=9"], "=trials", ["search.budget=epochs"]),
    ("trials=5", [], "search=tpe", ["search=tpe", "search.budget=epochs"]),
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


def test_hydra_keys_are_noted_if_no_sweep_reads_them() -> None:
    typed = {"hydra.sweep.dir": "x", "hydra/launcher": "basic", "hydra.searchpath": "[file:///own]"}
    notes = unused_keys.check(typed, [compose()])
    assert [line.partition(" ")[0] for line in notes] == ["hydra.sweep.dir=x", "hydra/launcher=basic"]


def test_ranges_of_a_mode_are_refused_in_a_grid() -> None:
    with pytest.raises(UserError, match=r"^freeze_mode\.space\.lr\.adam=1: expected to be given with search=tpe"):
        unused_keys.check({"freeze_mode.space.lr.adam": "1"}, [compose()])


@pytest.mark.parametrize(("cluster", "unread"), [("local", ["gpus", "hours"]), ("ray", ["hours"]), ("slurm", [])])
def test_resources_of_jobs_are_noted_if_no_job_requests_them(cluster: str, unread: list[str]) -> None:
    notes = unused_keys.check({"cluster.gpus": "2", "cluster.hours": "2"}, [compose(f"cluster.name={cluster}")])
    assert [line.partition(" ")[0] for line in notes] == [f"cluster.{key}=2" for key in unread]


def check(override, *sweep):
    """Return the notes on `override` in a sweep whose runs have these further overrides."""
    key, _, value = override.partition("=")
    return unused_keys.check({key.lstrip("+"): value, "lr": "0.1"}, [compose(override, *more) for more in sweep])


@pytest.mark.slow
@pytest.mark.parametrize(("override", "chosen", "hint", "reading"), MISTAKES)
def test_unread_key_is_refused_unless_a_run_reads_it(override, chosen, hint, reading):
    with pytest.raises(UserError) as refused:
        check(override, chosen)
    assert str(refused.value).startswith(f"{override.lstrip('+')}: expected ") and hint in str(refused.value)
    assert check(override, chosen, reading) == []


@pytest.mark.slow
@pytest.mark.parametrize(("override", "chosen", "hint", "reading"), NOTED)
def test_key_without_effect_is_noted(override, chosen, hint, reading):
    (line,) = check(override, chosen)
    assert line.startswith(f"{override} has no effect: ") and hint in line
    assert check(override, chosen, reading) == []


def test_keys_of_training_steps_are_noted_if_all_heads_are_solved():
    solved = [compose("freeze=probe"), compose("freeze=knn")]
    assert unused_keys.check({"epochs": "3"}, solved) == [
        "epochs=3 has no effect: it needs a freeze mode that trains in steps, not knn and probe"
    ]
    assert unused_keys.check({"epochs": "3"}, [*solved, compose("freeze=head")]) == []


def test_messages_show_values_as_typed():
    with pytest.raises(UserError, match=r"with data.folds=null nothing reads it$"):
        check("data.fold=2", [])


def test_switching_an_option_off_is_accepted():
    for override in ("augment.flip=false", "data.download=false", "features.views=null"):
        assert check(override, []) == []


def test_rules_name_existing_keys():
    keys = flatten({key: value for key, value in plain_config().items() if key != "hydra"})
    named = {key for rule in (*unused_keys._MISTAKES, *unused_keys._NOTES) for key in rule.keys.split()}
    assert [name for name in named if not any(is_within(key, [name]) for key in keys)] == []
