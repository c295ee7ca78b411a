"""The config of a rerun is the recorded one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from frostline.core.config_keys import digest, flatten
from frostline.core.errors import UserError
from frostline.sweeps.recorded_configs import READ, configs_of, in_place
from small import compose


def test_recorded_sections_replace_the_defaults() -> None:
    options = ("optimizer=sgd", "freeze=lora", "freeze=probe", "data=glyphs", "optimizer=adamw")
    recorded = [compose(chosen, "lr=0.123") for chosen in options]
    older = {key: value for key, value in asdict(compose()).items() if key != "lr"}  # lr then has the default
    found = configs_of([*map(asdict, recorded), older], ["device=cpu"])
    assert [*map(digest, found)] == [*map(digest, recorded), digest(compose())]


def test_rerun_uses_the_recorded_number_of_devices() -> None:
    """The last bits of a run depend on the number of devices, and a rerun must reproduce them."""
    recorded = asdict(compose("freeze=full", "device=cpu", "devices=2", "fsdp=true"))
    for given, expected in (([], (2, True)), (["devices=1", "fsdp=false"], (1, False))):
        (found,) = configs_of([recorded], given)
        assert (found.devices, found.fsdp) == expected


@pytest.mark.parametrize("key", ["trials", "search.seed", "freeze_mode.space", "features.lockstep", "cluster", "lr"])
def test_key_that_reruns_do_not_read_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}=1: expected nothing but experiment_name, device, .*data\.download: "):
        configs_of([], ["device=cpu", f"{key}=1"])


@pytest.mark.parametrize(("weights", "recorded"), [("null", True), ("glyphs", True), ("moved.pt", False)])
def test_other_weights_than_a_file_with_the_recorded_sha256_are_refused(weights: str, recorded: bool) -> None:
    sha256 = "0" * 64 if recorded else None
    values = asdict(compose("model.weights=then.pt", f"model.sha256={sha256 or 'null'}"))
    expected = f"^model.weights={weights}: expected a file with the recorded sha256, {sha256 or 'and none is recorded'}"
    with pytest.raises(UserError, match=expected):
        configs_of([values], [f"model.weights={weights}"])


def test_weights_of_a_rerun_may_have_moved() -> None:
    values = asdict(compose("model.weights=then.pt", f"model.sha256={'0' * 64}"))
    for free in ([], [READ]):
        (found,) = configs_of([values], ["model.weights=now.pt"], *free)
        assert (found.model.weights, found.model.sha256) == ("now.pt", "0" * 64)


def test_mistake_that_hydra_finds_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^data\.root=a,b: expected one value, for one run"):
        configs_of([], ["data.root=a,b"])


def test_word_that_is_no_override_is_named_as_one() -> None:
    with pytest.raises(UserError, match=r"^0: expected key=value"):
        configs_of([], ["device=cpu", "0"])


@pytest.mark.parametrize(
    ("typed", "key", "found"),
    [
        (["data=table", "data.root=labels.csv"], "root", True),
        (["data=image_folder", "data.root=gone"], "root", False),
        (["data=shards", "data.root='sets/train-{0..9}.tar'"], "root", True),
        (["data=shards", "data.root='gone/train-{0..9}.tar'"], "root", False),
        (["data=hub", "data.root=owner/name"], "root", False),
        (["data=shards", "data.root='s3://bucket/*.tar'"], "root", False),
        (["data=hub", "data.root=owner/name", "data.options.splits=labels.csv"], "splits", True),
        (["model.weights=sets/best.safetensors"], "weights", True),
        (["model.weights=sets"], "weights", True),
        (["model.weights=runs:/sets"], "weights", False),
        (["model.weights=glyphs"], "weights", False),
    ],
)
def test_relative_paths_are_resolved_against_the_recorded_folder(
    tmp_path: Path, typed: list[str], key: str, found: bool
) -> None:
    (run := tmp_path / "run").mkdir()
    (tmp_path / "sets").mkdir()
    for name in ("labels.csv", "glyphs", "sets/best.safetensors"):  # glyphs names weights, also beside such a file
        (tmp_path / name).write_text("")
    recorded = asdict(compose(*typed))
    (run / "provenance.json").write_text(json.dumps({"directory": str(tmp_path)}))
    before, after = flatten(recorded), flatten(in_place(recorded, run))
    changed = {name: value for name, value in after.items() if value != before[name]}
    assert {name.rpartition(".")[2] for name in changed} == ({key} if found else set())
    assert all(value == f"{tmp_path}/{before[name]}" for name, value in changed.items())
    (run / "provenance.json").write_text("{}")
    assert in_place(recorded, run) == recorded  # older records have no directory
