"""Every option of every config group composes, sets all fields of its schema, and opens with a comment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_type_hints

import hydra
import pytest
import torchvision
import yaml
from hydra import initialize_config_dir
from omegaconf import OmegaConf

import hydra_plugins.frostline_sweeper  # noqa: F401  # what a run of Hydra finds by itself
import small
from frostline.core.config import Config
from frostline.core.config_keys import digest, flatten
from frostline.core.validation import parse
from small import ADAPTED, BASE, CONF, KEPT_MODES, MODES, compose, plain_config

GROUPS = ("augment", "data", "freeze_mode", "model", "optimizer", "schedule", "search")
OPTIONS = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in GROUPS}
OPTIONS["freeze_mode"].sort(key=(*ADAPTED, *KEPT_MODES, *MODES).__contains__, reverse=True)  # solvers last
OPTIONS["model"].sort(key=("shufflenet_glyphs", "timm").__contains__, reverse=True)  # these set more than a name
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
TOGETHER = [dict(zip(GROUPS, names, strict=True)) for names in zip_longest(*(OPTIONS[group] for group in GROUPS))]
ROWS = max(len(options) for group, options in OPTIONS.items() if group != "model")
"""Number of rows that Hydra composes; the remaining rows have networks only, which differ just in their name."""


def values(group: str, name: str) -> dict[str, Any]:
    """Return the values of an option for its group; one with `@package _global_` may set other keys, too."""
    text = (CONF / group / f"{name}.yaml").read_text()
    given = yaml.safe_load(text)
    return given[group] if text.startswith("# @package _global_") else given


@pytest.mark.slow
@pytest.mark.parametrize("chosen", TOGETHER[:ROWS], ids=lambda chosen: chosen["model"])
def test_every_option_composes(chosen: dict[str, str | None]) -> None:
    names = {group: name for group, name in chosen.items() if name}
    asked = ["model.name=resnet10t"] if chosen["model"] == "timm" else []
    config = compose(*(f"{group}={name}" for group, name in names.items()), *asked)
    for group, name in names.items():
        section = flatten(asdict(config)[group])
        if group != "freeze_mode":  # the schema completes its lists of rules
            given = {key: value for key, value in flatten(values(group, name)).items() if value != "???"}
            assert given.items() <= section.items()
        if group != "model" or name in torchvision.models.list_models():
            assert section["name"] == name


@pytest.mark.parametrize(
    "typed",
    [
        ("freeze=lora", "optimizer=sgd", "model=timm"),
        ("model=swin_t", "schedule=onecycle", "freeze=probe", "augment=trivial", "data=glyphs"),
    ],
    ids=" ".join,
)
def test_group_choices_compose_as_in_hydra(typed: tuple[str, ...]) -> None:
    ours, theirs = (OmegaConf.to_container(read(typed)) for read in (small._composed, small.hydra_config))
    assert ours == theirs


def test_values_are_set_as_in_hydra() -> None:
    values = ("model.weights=null", "optimizer.options={momentum:0.9}", "freeze_mode.l2=[10,1]", "data.root='a b'")
    typed = ("freeze=probe", "optimizer=sgd", "lr=1", "seed=3", "lr=1e-2", *values)
    assert plain_config(*typed) == OmegaConf.to_container(small.hydra_config(typed), resolve=True)


def test_remaining_networks_are_valid_and_free_of_hydra_directives() -> None:
    defaults = plain_config()
    for name in (chosen["model"] for chosen in TOGETHER[ROWS:]):
        assert name is not None
        text = (CONF / "model" / f"{name}.yaml").read_text()
        assert "@package" not in text and "defaults:" not in text and "${" not in text
        config = parse({**defaults, "model": {**BASE["model"], **yaml.safe_load(text)}})
        assert config.model.name == name or name not in torchvision.models.list_models()


@pytest.mark.parametrize("group", GROUPS)
def test_options_set_required_fields_and_have_a_comment(group: str) -> None:
    schema = get_type_hints(Config)[group]
    needed = {item.name for item in fields(schema) if item.default is MISSING and item.default_factory is MISSING}
    assert OPTIONS[group]
    base = BASE.get(group, {})
    for name in OPTIONS[group]:
        given = values(group, name)
        assert needed <= base.keys() | given.keys() <= {item.name for item in fields(schema)}
        assert not {key for key in base if key in given and base[key] == given[key]}, "repeats a default"
        assert (CONF / group / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", ["full", "probe"])
def test_freeze_is_short_for_freeze_mode(name: str) -> None:
    short, long = plain_config(f"freeze={name}"), plain_config(f"freeze_mode={name}")
    assert short == long
    assert short["freeze_mode"]["name"] == name
    assert "freeze" not in short


def test_defaults_are_feature_extraction_without_downloads() -> None:
    config = compose()
    assert (config.data.source, config.model.weights, config.freeze_mode.name) == ("digits", "glyphs", "head")
    assert config.deterministic
    assert config.device == "auto"
    assert not config.data.flip


def test_equal_lrs_have_one_digest() -> None:
    assert compose("lr=1e-4").lr == 1e-4
    assert digest(compose("lr=1e-4")) == digest(compose("lr=0.0001"))
    assert digest(compose("lr=1e-4")) != digest(compose())


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_compose_and_document_their_command(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    opening = "".join(opening_comment(text))
    assert f"python train.py experiment={name}" in opening
    assert "expect" in opening.lower()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("config", overrides=[f"experiment={name}"], return_hydra_config=True)
    swept = composed.hydra.sweeper.get("params") or {}
    for key, choice in swept.items():  # the first value of each
        first = str(choice).split(",")[0].replace("range(5)", "0")
        assert parse(plain_config(f"experiment={name}", f"{key}={first}"))
    assert compose(f"experiment={name}").experiment_name


def opening_comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line


def test_options_contain_no_machine_paths() -> None:
    for path in CONF.rglob("*.yaml"):
        text = path.read_text()
        assert not any(place in text for place in ("/home/", "/root/", "/work/", "/tmp/", "localhost")), path


def test_conf_contains_only_groups() -> None:
    assert {path.name for path in Path(CONF).iterdir()} == {*GROUPS, "cluster", "experiment", "hydra", "config.yaml"}
