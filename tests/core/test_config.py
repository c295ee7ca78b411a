"""The config schema: errors of one line; and the digest, which depends on all that decides a run's metrics."""

from __future__ import annotations

import copy
import json
import random
import re
import shlex
from dataclasses import asdict, is_dataclass
from functools import cache
from math import inf, isfinite, nan
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from hypothesis import given
from hypothesis import strategies as st

from frostline.core import hydra_errors
from frostline.core.config import ClusterConfig, Config
from frostline.core.config_keys import choices, digest, flatten, semantic
from frostline.core.errors import UserError, user_error
from frostline.core.objectives import several
from frostline.core.validation import parse
from small import compose, plain_config

BAD: dict[str, list[Any]] = {
    "lr": [nan, inf, -inf, 0.0, -1.0],
    "epochs": [0, -3],
    "seed": [-1, 2**63],
    "batch_size": [0, -1],
    "eval_batch_size": [0],
    "precision": ["fp16", "bf17", ""],
    "device": ["", "gpu", "CPU", "cuda:", "cuda:x", "mps"],
    "model.image_size": [0, 7, -64, 5000],
    "model.sha256": ["", "abc", "g" * 64],
    "optimizer.weight_decay": [nan, inf, -0.1],
    "schedule.name": ["cosin", "linear"],
    "schedule.span": ["epoch"],
    "schedule.warmup": [nan, 1.0, -0.1],
    "schedule.final": [nan, 1.5, -0.1],
    "schedule.gamma": [nan, 0.0, 2.0],
    "schedule.milestones": [[0.5, 0.5], [0.7, 0.2], [1.0], [nan]],
    "augment.crop": ["centre"],
    "augment.scale": [[0.5], [0.5, 0.1], [0.0, 1.0], [nan, 1.0], [0.5, 2.0]],
    "augment.ratio": [[2.0, 1.0], [0.0, 1.0], [1.0, inf]],
    "augment.padding": [nan, 1.0, -0.5],
    "augment.color": [nan, 2.0, -1.0],
    "data.val_fraction": [nan, 1.0, -0.1],
    "data.test_fraction": [nan, 1.0, -0.1],
    "data.split_seed": [-1],
    "data.fraction": [nan, 0.0, 1.5, -1.0],
    "data.limit": [0, -5],
    "data.shots": [0, -5],
    "data.eval_limit": [0, -5],
    "data.pixels": ["7", "10000", "-3", "much", ""],
    "cluster.gpus": [-1],
    "cluster.hours": [0.0, nan, inf, -1.0],
    "cluster.at_once": [0],
    "cluster.pack": [0, "all", 1.5],
    "cluster.check": ["always"],
    "freeze_mode.norm_stats": ["batch"],
    "freeze_mode.phases": [[]],
    "save_weights": ["all", "none", ""],
    "select": ["accuracy", "val/f1", "test/accuracy"],
    "data.range": ["auto", None, 7, [], [0], [0, 1, 2], [1, 1], [2, 1], [0, nan], [-inf, 0], ["0", "1"], [False, True]],
    "train.loss": ["hinge", ""],
    "train.focal_gamma": [nan, inf, -1.0],
    "train.class_weights": [
        "even",
        {},
        {"cat": 0.0},
        {"cat": "2"},
        {"cat": nan},
        {"cat": True},
        {True: 2.0},
        2,
        [1.0, 2.0],
    ],
    "devices": [0, -1, 33],
    "train.sampling": ["random"],
    "train.label_smoothing": [nan, 1.0, -0.1],
    "train.clip_norm": [nan, inf, 0.0, -1.0],
    "train.mixup": [nan, inf, -1.0],
    "train.cutmix": [nan, inf, -1.0],
    "train.ema_decay": [nan, 0.0, 1.0],
    "train.patience": [0, -1],
    "optimizer.options.momentum": [nan, inf],
    "optimizer.options.betas": [[0.9, nan]],
    "data.options.size": [nan],
}
CHECKED = [(key, value) for key, values in BAD.items() for value in values]


@cache
def _defaults() -> dict[str, Any]:
    return plain_config("freeze_mode=gradual", "optimizer=sgd")


def defaults() -> dict[str, Any]:
    return copy.deepcopy(_defaults())


def changed(key: str, value: Any) -> dict[str, Any]:
    """Return the defaults with `value` at the dotted `key`."""
    values = defaults()
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    inner[last] = value
    return values


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_valid() -> None:
    config = parse(defaults())
    assert asdict(config)["train"] == defaults()["train"]
    assert is_dataclass(config.freeze_mode.phases[1].rules[0])
    assert config.freeze_mode.phases[1].stepwise


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("device", "cuda:1", "cuda, auto or cpu with devices=2; an index names a single GPU"),
        ("compile", "on", "auto or off with devices=2: networks on several devices are not compiled"),
        ("batch_size", 1, "at most batch_size=1: each takes a share of it"),
    ],
)
def test_conflicts_with_several_devices_are_refused(key: str, value: Any, expected: str) -> None:
    parse({**defaults(), "devices": 2})
    wrong = ("devices", 2) if key == "batch_size" else (key, value)
    assert refusal({**changed(key, value), "devices": 2}) == f"{wrong[0]}={wrong[1]}: expected {expected}"


PHASE = {"share": 1.0, "rules": [{"match": "*"}]}
STEPS = {**PHASE, "stepwise": True}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("devices", 1, "fsdp=True: expected false with devices=1: a single device holds the whole network"),
        ("train.ema_decay", 0.9, "train.ema_decay=0.9: expected null with fsdp=true: no moving average is kept"),
        ("save_weights", "learned", "save_weights=learned: expected whole with fsdp=true: no process has all"),
        ("optimizer.name", "Adafactor", "optimizer.name=Adafactor: expected an elementwise optimizer with fsdp=true"),
        ("freeze_mode.name", "by steps", "freeze_mode=by steps: expected a mode of one phase with fsdp=true: sharded"),
        ("freeze_mode.phases", [STEPS], "freeze_mode=gradual: expected a mode of one phase with fsdp=true: sharded"),
        ("freeze_mode.phases", [PHASE] * 2, "freeze_mode=gradual: expected a mode of one phase with fsdp=true"),
    ],
)
def test_conflicts_with_fsdp_are_refused(key: str, value: Any, expected: str) -> None:
    values = {**changed(key, value), "fsdp": True}
    values["devices"] = 1 if key == "devices" else 2
    if not key.startswith("freeze_mode."):
        values["freeze_mode"]["phases"] = [PHASE]
        if key != "devices":
            parse({**values, "fsdp": False})
    assert refusal(values).startswith(expected)


@pytest.mark.parametrize(
    ("solver", "key", "value"), [("probe", "l2", []), ("knn", "k", []), ("knn", "temperature", None)]
)
def test_solver_without_a_value_that_it_reads_is_refused(solver: str, key: str, value: Any) -> None:
    values = plain_config(f"freeze={solver}")
    values["freeze_mode"][key] = value
    assert refusal(values) == f"freeze_mode.{key}={value}: expected a value: freeze_mode.solver={solver} reads it"


def test_solved_head_sees_plain_images_once() -> None:
    augment = ("augment.crop=pad", "augment.flip=true", "augment.color=0.4", "augment.trivial=true")
    config = parse(plain_config("freeze=probe", "epochs=7", "train.ema_decay=0.9", *augment))
    how = config.augment
    assert (how.crop, how.flip, how.color, how.trivial) == ("none", False, 0, False)
    assert config.epochs == 1 and config.train.ema_decay is None


def test_fsdp_search_refuses_unmeasured_objectives() -> None:
    values = changed("search.objective", ["val/accuracy", "cost/inference_images_per_second"])
    values["search"]["name"] = "tpe"
    values["freeze_mode"]["phases"] = [PHASE]
    parse({**values, "devices": 2})
    line = refusal({**values, "devices": 2, "fsdp": True})
    assert line.startswith("search.objective=cost/inference_images_per_second: expected another objective with")


@pytest.mark.parametrize("ends", [[0, 4095], [-1.5, 2.5]])
def test_range_of_two_values_is_accepted(ends: list[float]) -> None:
    assert parse(changed("data.range", ends)).data.range == ends


def test_numeric_class_names_become_strings() -> None:
    assert parse(changed("train.class_weights", {0: 2.0, "b": 1.0})).train.class_weights == {"0": 2.0, "b": 1.0}


@pytest.mark.parametrize(("key", "value"), CHECKED, ids=[f"{key}={value}" for key, value in CHECKED])
def test_bad_value_is_one_line_with_key_and_value(key: str, value: Any) -> None:
    line = refusal(changed(key, value))
    assert line.startswith(f"{key}={value}: expected ")
    assert len(line) > len(f"{key}={value}: expected ") + 5


BOTH = ["val/accuracy", "cost/train_seconds"]


@pytest.mark.parametrize(
    ("names", "changes", "line"),
    [
        (["val/acuracy", BOTH[1]], {}, r"search.objective=val/acuracy: expected two or more of .*val/accuracy"),
        ([BOTH[0], "cost/seconds"], {}, r"search.objective=cost/seconds: .*did you mean cost/train_seconds"),
        (BOTH[:1], {}, r"search.objective=val/accuracy: expected two or more"),
        (BOTH[:1] * 2, {}, r"search.objective=val/accuracy,val/accuracy: expected two or more different objectives"),
        (["val/loss", BOTH[1]], {}, r"search.objective=val/loss: expected val/accuracy .*select=val/loss"),
        (BOTH, {"prune": "median"}, r"search.prune=median: expected none with search.objective="),
        (BOTH, {"name": "cmaes"}, r"search=cmaes: expected tpe, gp, qmc or random"),
    ],
)
def test_invalid_objectives_are_refused(names: list[str], changes: dict[str, str], line: str) -> None:
    values = changed("search.objective", names)
    values["search"] |= {"name": "tpe", **changes}
    assert re.match(line, refusal(values))


def test_hyperband_needs_at_least_3_epochs() -> None:
    values = changed("search.prune", "hyperband")
    assert parse(values | {"epochs": 3}).search.prune == "hyperband"
    line = "search.prune=hyperband: expected none with epochs=2: its first rung is a third of all epochs"
    assert refusal(values | {"epochs": 2}) == line


def test_selection_metric_may_be_an_objective() -> None:
    values = changed("search.objective", ["val/loss", "val/accuracy", "cost/train_seconds"])
    values["select"] = "val/loss"
    assert [one.direction for one in several(parse(values).search.objective)] == ["minimize", "maximize", "minimize"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("share",), 0.0),
        (("share",), nan),
        (("lr_scale",), inf),
        (("lr_scale",), 0.0),
        (("rules", 1, "lr_scale"), nan),
        (("rules", 1, "lr_scale"), -1.0),
        (("rules", 1, "lr_decay"), 0.0),
        (("rules", 1, "lr_decay"), inf),
    ],
)
def test_bad_value_in_a_phase_names_its_index(path: tuple[Any, ...], value: float) -> None:
    values = defaults()
    inner = values["freeze_mode"]["phases"][1]
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    key = "freeze_mode.phases[1]" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    assert refusal(values).startswith(f"{key}={value}: expected a finite number")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("deterministic", "yes"),
        ("epochs", "5"),
        ("epochs", True),
        ("seed", 1.5),
        ("experiment_name", 7),
        ("optimizer.options", ["momentum"]),
        ("schedule.milestones", ["early"]),
        ("model", ["resnet18"]),
        ("train", None),
        ("data.splits", {"train": 1}),
    ],
)
def test_wrong_types_are_refused_without_hydra(key: str, value: Any) -> None:
    values = {name: inner for name, inner in plain_config().items() if name != "hydra"}
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value
    with pytest.raises(UserError, match=f"^{key}="):
        parse(values)


def test_error_with_a_hostile_value_is_one_bounded_line() -> None:
    error = user_error("precision", "bf16\n\x1b[2Jgone" + "x" * 10**6, "one of them")
    assert "\n" not in str(error) and "\x1b" not in str(error)
    assert "bf16\\n" in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize("other", [("limit", 50), ("fraction", 0.5)])
def test_shots_are_refused_beside_other_sizes_of_train(other: tuple[str, float]) -> None:
    values = changed("data.shots", 5)
    values["data"][other[0]] = other[1]
    with pytest.raises(UserError, match=r"^data\.shots=5: expected null beside data\.limit or data\.fraction$"):
        parse(values)


def test_optional_keys_accept_null() -> None:
    for key in ("model.weights", "model.image_size", "data.limit", "train.patience"):
        assert parse(changed(key, None))


@pytest.mark.parametrize("value", [1e-30, 1e30, 1])
def test_any_finite_lr_above_zero_is_accepted(value: float) -> None:
    assert parse(changed("lr", value)).lr == value


@given(st.floats())
def test_lr_must_be_finite_and_positive(value: float) -> None:
    if isfinite(value) and value > 0:
        assert digest(parse(changed("lr", value)))
    else:
        assert refusal(changed("lr", value)).startswith(f"lr={value}: ")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("epoch", "epochs"),
        ("batchsize", "batch_size"),
        ("batch", "batch_size"),
        ("num_epochs", "epochs"),
        ("model.nme", "model.name"),
        ("schedule.warm_up", "schedule.warmup"),
        ("train.labelsmoothing", "train.label_smoothing"),
        ("data.Limit", "data.limit"),
        ("search.trials", "trials"),
        ("train.lr", "lr"),
        ("learning_rate", "lr"),
        ("augmentation", "augment"),
        ("data.path", "data.root"),
        ("model.pretrained", "model.weights"),
    ],
)
def test_unknown_key_names_the_nearest_key(key: str, nearest: str) -> None:
    line = refusal(changed(key, 3))
    assert line.startswith(f"{key}=3: expected a key of the config")
    assert line.endswith(f"; did you mean {nearest}?")


def test_unknown_key_beside_data_of_any_options_names_the_nearest_key() -> None:
    line = str(hydra_errors.explain(ConfigCompositionException("Could not override 'epoch'."), ["data=dtd", "epoch=3"]))
    assert line == "epoch=3: expected a key of the config, see --help; did you mean epochs?"


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        (["optimizer.betas=[0.9,0.99]"], "+optimizer.options.betas"),
        (["optimizer=sgd", "momentum=0.8"], "optimizer.options.momentum"),
        (["optimizer.weightdecay=1"], "optimizer.weight_decay"),
    ],
)
def test_option_of_the_optimizer_is_found_where_it_is_typed(typed: list[str], nearest: str) -> None:
    key = typed[-1].partition("=")[0]
    line = str(hydra_errors.explain(ConfigCompositionException(f"Could not override '{key}'."), typed))
    assert line.endswith(f"; did you mean {nearest}?")


def test_unknown_source_option_names_the_nearest_one() -> None:
    error = ConfigCompositionException("Could not override 'data.options.seperator'.")
    line = str(hydra_errors.explain(error, ["data=table", "data.options.seperator=;"]))
    assert line.startswith("data.options.seperator=;: expected") and line.endswith(
        "did you mean data.options.separator?"
    )


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["data=image_folder"], "no such key, since data=image_folder has no options"),
        ([], "no such key, since data=digits has no options"),
        (["data=dtd"], "a + before it, as data.options has no such key yet: +data.options.groop=x"),
        (["data=mine"], "a + before it, as data.options has no such key yet: +data.options.groop=x"),
        (["data.source=slides"], "a + before it, as data.options has no such key yet: +data.options.groop=x"),
        (["experiment=small_data"], "a + before it, as data.options has no such key yet: +data.options.groop=x"),
    ],
)
def test_no_option_is_advised_that_a_source_refuses(typed: list[str], expected: str) -> None:
    error = ConfigCompositionException("Could not override 'data.options.groop'.")
    line = str(hydra_errors.explain(error, [*typed, "data.options.groop=x"]))
    assert line == f"data.options.groop=x: expected {expected}"


@pytest.mark.parametrize(
    ("typed", "owner", "nearest"),
    [
        (["optimizer.options.epss=1"], "optimizer=adam", "+optimizer.options.eps"),
        (["optimizer=sgd", "optimizer.options.momentumm=1"], "optimizer=sgd", "optimizer.options.momentum"),
        (["search=gp", "search.options.startup_trials=1"], "search=gp", "search.options.n_startup_trials"),
    ],
)
def test_unknown_option_is_not_advised_with_a_plus(typed: list[str], owner: str, nearest: str) -> None:
    key, _, value = typed[-1].partition("=")
    error = ConfigCompositionException(f"Could not override '{key}'.")
    line = str(hydra_errors.explain(error, typed))
    assert line.startswith(f"{key}={value}: expected an option of {owner} (") and line.endswith(
        f"; did you mean {nearest}?"
    )


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["search.options.foo=1"], "no such key, since search=grid has no options"),
        (["optimizer.name=adagrad", "optimizer.options.foo=1"], "a + before it, as"),
        (["optimizer=mine", "optimizer.options.foo=1"], "a + before it, as"),
        (["freeze_mode.space.foo=1"], "a + before it, as"),
    ],
)
def test_group_without_options_or_with_any_options(typed: list[str], expected: str) -> None:
    error = ConfigCompositionException(f"Could not override '{typed[-1].removesuffix('=1')}'.")
    assert str(hydra_errors.explain(error, typed)).startswith(f"{typed[-1]}: expected {expected}")


@pytest.mark.parametrize(
    ("typed", "within"),
    [
        ("optimizer.options.eps=1e-6", "optimizer.options"),
        ("optimizer.options={eps:1e-6}", "optimizer.options"),
        ("data.splits={train:x}", "data.splits"),
    ],
)
def test_missing_plus_is_explained(typed, within):
    with pytest.raises(ConfigCompositionException) as caught:
        compose(typed)
    line = str(hydra_errors.explain(caught.value, [typed]))
    assert line == f"{typed}: expected a + before it, as {within} has no such key yet: {shlex.quote(f'+{typed}')}"


@pytest.mark.parametrize(
    ("typed", "key", "where"),
    [
        (["optimizer=mine"], "optimizer.weight_decay", ", or in the file of optimizer=mine"),
        (["optimizer=sgd", "optimizer.weight_decay=???"], "optimizer.weight_decay", ""),
        (["model=timm"], "model.name", ""),
    ],
)
def test_value_missing_in_a_file_is_explained(typed: list[str], key: str, where: str) -> None:
    error = ConfigCompositionException(f"Missing mandatory value: {key}\n    full_key: {key}\n")
    line = str(hydra_errors.explain(error, typed))
    assert line == f"{key}=???: expected a value, as in {key}=<value>{where}"


def test_unknown_key_in_a_rule_is_one_line() -> None:
    values = defaults()
    values["freeze_mode"]["phases"][0]["rules"][0]["scale"] = 2
    assert refusal(values).startswith("freeze_mode.phases[0].rules[0].scale=2: expected a key")


@pytest.mark.parametrize(("typed", "nearest"), [("cosin", "cosine"), ("OneCycle", "onecycle"), ("Steps", "step")])
def test_misspelled_name_names_the_nearest(typed: str, nearest: str) -> None:
    line = refusal(changed("schedule.name", typed))
    assert "one of constant, cosine, onecycle, step" in line
    assert line.endswith(f"; did you mean {nearest}?")


def test_dissimilar_name_gets_no_hint() -> None:
    assert str(user_error("data", "zzz", "one of two", ["cifar10", "mnist"])) == "data=zzz: expected one of two"
    assert (
        str(user_error("m", "RESNET5O", "a model", ["resnet50"]))
        == "m=RESNET5O: expected a model; did you mean resnet50?"
    )


def test_abbreviated_name_gets_its_completion() -> None:
    line = refusal(changed("select", "val/acc"))
    assert line.endswith("; did you mean val/accuracy?")  # by edit distance val/auroc is nearer


# --- digest

IGNORED = (
    *("experiment_name", "device", "devices", "fsdp", "resume", "dry_run", "save_weights", "checkpoint.every_seconds"),
    *("tracking.uri", "tracking.artifacts", "tracking.system_metrics"),
    *("store.enabled", "store.path", "store.budget_gb", "store.memory_gb", "data.root", "data.download"),
    *("features.lockstep", "trials", "freeze_mode.space"),
    *(f"search.{key}" for key in ("name", "options", "seed", "batch", "confirm", "budget", "amount", "storage")),
    *("search.objective", "search.past", "search.space"),
    *(f"cluster.{key}" for key in ClusterConfig.__dataclass_fields__),
    *("freeze_mode.l2", "freeze_mode.k", "freeze_mode.temperature"),  # only solvers read them
)


def config() -> Config:
    found = parse(changed("data.splits", {"train": {"train": True}}))
    found.freeze_mode.space = {}  # so that it is one key
    return found


KEYS = sorted(flatten(asdict(config())))
LEAVES = [key for key in KEYS if not key.startswith(("data.splits.", "optimizer.options.")) and key != "data.options"]
STEP_LEAVES = [key for key in LEAVES if key != "freeze_mode.solver"]


def other(value: Any) -> Any:
    """Return a value of the same type that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, dict):
        return {**value, "lr": "interval(1e-5,1)"}
    if isinstance(value, list):
        return [*value, copy.deepcopy(value[-1]) if value else 0.5]
    assert value is None
    return 8


def put(target: Config, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    inner: Any = target
    for section in sections:
        inner = getattr(inner, section)
    setattr(inner, last, value)


def get(target: Config, key: str) -> Any:
    inner: Any = target
    for section in key.split("."):
        inner = getattr(inner, section)
    return inner


@pytest.mark.parametrize("key", LEAVES)
def test_digest_changes_with_every_semantic_key(key: str) -> None:
    one = config()
    put(one, key, other(get(one, key)))
    assert (digest(one) == digest(config())) == (key in IGNORED)
    assert (key in semantic(one)) == (key not in IGNORED)


@given(
    st.sets(st.sampled_from(STEP_LEAVES), min_size=1, max_size=4),
    st.sets(st.sampled_from(STEP_LEAVES), min_size=1, max_size=4),
)
def test_equal_digests_mean_equal_semantic_keys(first: set[str], second: set[str]) -> None:
    one, two = config(), config()
    for target, keys in ((one, first), (two, second)):
        for key in keys:
            put(target, key, other(get(target, key)))
    assert (digest(one) == digest(two)) == (first - set(IGNORED) == second - set(IGNORED))


def test_digest_changes_inside_lists_and_mappings() -> None:
    one, two, three = config(), config(), config()
    one.freeze_mode.phases[1].rules[0].lr_scale = 0.5
    two.optimizer.options["momentum"] = 0.8
    three.data.splits["train"]["train"] = False
    assert len({digest(c) for c in (config(), one, two, three)}) == 4


def test_digest_is_independent_of_key_order() -> None:
    def shuffled(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        keys = list(values)
        random.Random(0).shuffle(keys)
        return {key: shuffled(values[key]) for key in keys}

    assert digest(parse(shuffled(defaults()))) == digest(parse(defaults()))
    assert len(digest(parse(defaults()))) == 64


def test_flatten_keeps_every_leaf() -> None:
    nested = {"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": {}, "g": None}
    assert flatten(nested) == {"a.b": 1, "a.c.d": [1, {"e": 2}], "f": {}, "g": None}
    assert json.dumps(semantic(config()))


def test_choices_have_short_names() -> None:
    expected = {"model": "shufflenet_v2_x0_5", "freeze_mode": "gradual", "optimizer": "sgd", "data": "digits"}
    assert choices(parse(defaults())) == {**expected, "select": "val/accuracy", "lr": 1e-3, "seed": 0}


@pytest.mark.slow
@pytest.mark.parametrize("word", ["None", "none", "nil", ""])
@pytest.mark.parametrize("key", ["model.weights", "store.path", "tracking.uri"])
def test_none_is_refused_in_favour_of_null(key: str, word: str):
    with pytest.raises(UserError, match=rf"{key}={word}: expected .*; nothing is written null$"):
        compose(f"{key}='{word}'")
    assert "null" not in str(user_error("experiment_name", word, "a name"))
    assert str(user_error("data.limit", word, "a number")).endswith("; nothing is written null")
