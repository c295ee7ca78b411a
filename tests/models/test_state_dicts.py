"""State dicts in other programs' checkpoints: unambiguous ones are unwrapped, others refused with candidates."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from frostline.core.errors import UserError
from frostline.models import state_dicts
from frostline.models.build import Model, build

CLASSES = 3


@functools.cache
def network(seed: int = 0, name: str = "shufflenet_v2_x0_5") -> nn.Module:
    torch.manual_seed(seed)
    return get_model(name, num_classes=CLASSES)


def state(prefix: str = "", seed: int = 0) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in network(seed).state_dict().items()}


def headless(prefix: str = "") -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state(prefix).items() if not name.startswith(f"{prefix}fc.")}


def read(path: Path, content: Any, classes: int = CLASSES, name: str = "shufflenet_v2_x0_5") -> Model:
    torch.save(content, path)
    return build(name, weights=str(path), num_classes=classes, seed=1)


def refusal(path: Path, content: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(model: Model, without: str = "no head") -> bool:
    own = model.module.state_dict()
    return all(torch.equal(own[name], t) for name, t in state().items() if not name.startswith(without))


LINEAR = {"weight": state()["fc.weight"], "bias": state()["fc.bias"]}
OTHER = {"epoch": 7, "best": 0.5, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}}
OTHER["sums"] = {0: torch.ones(1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "content", "loaded"),
    [
        (".pth", state(), "head fc taken"),
        (".bin", state("module."), "names after `module.`; head fc taken"),
        (".pth", state("_orig_mod."), "names after `_orig_mod.`; head fc taken"),
        (".pth", state("module._orig_mod."), "names after `module.`; head fc taken"),
        (
            ".pth.tar",
            {"state_dict": state("module."), **OTHER},
            "under `state_dict`, names after `module.`; head fc taken",
        ),
        (".pt", {"model": state(), **OTHER}, "under `model`; head fc taken"),
        (".pt", {"model_state_dict": state(), **OTHER}, "under `model_state_dict`; head fc taken"),
        (".pt", {"ema": {"shadow": state()}, **OTHER}, "under `ema.shadow`; head fc taken"),
        (".pth", {"epoch": 3, **state()}, "head fc taken"),
        (".pth", {"state_dict": state(), "ema": state()}, "under `state_dict`; head fc taken"),
        (
            ".ckpt",
            {"state_dict": {**state("model.backbone."), "model.projector.weight": torch.ones(2)}},
            "under `state_dict`, names after `model.backbone.`; head fc taken; left out 1: model.projector.weight",
        ),
        (".pth", {**headless(), **{f"fc.1.{n}": t for n, t in LINEAR.items()}}, "head fc taken from fc.1"),
    ],
)  # fmt: skip
def test_unambiguous_state_dict_is_unwrapped_and_reported(tmp_path, suffix, content, loaded):
    model = read(tmp_path / f"w{suffix}", content)
    assert same(model) and model.loaded == loaded


@pytest.mark.parametrize(
    ("content", "loaded"),
    [
        (headless("encoder."), "names after `encoder.`; head fc new"),
        ({**headless(), "fc.0.weight": torch.ones(9, 1024), "fc.2.weight": torch.ones(CLASSES, 9)},
         "head fc new (not fc.0.weight 9x1024, fc.2.weight 3x9)"),
        ({**headless(), "fc.0.weight": torch.ones(1024, 1024), **{f"fc.2.{n}": t for n, t in LINEAR.items()}},
         "head fc new (not fc.0.weight 1024x1024, fc.2.weight 3x1024, fc.2.bias 3)"),
    ],
)  # fmt: skip
def test_unfitting_head_is_new_and_reported(tmp_path, content, loaded):
    model = read(tmp_path / "w.pth", content)
    assert same(model, without="fc.") and model.loaded == loaded
    other = read(tmp_path / "w.pth", state(), classes=5)
    assert same(other, without="fc.") and other.loaded == "head fc new (not fc.weight 3x1024, fc.bias 3)"


def test_file_that_contains_itself_is_searched_once():
    content: dict[str, Any] = {"a": {"b": {"c": {"d": {"model": {"weight": torch.ones(1)}}}}}}
    content["whole"] = content
    assert [*state_dicts.tables(content)] == ["a.b.c.d.model"]


def test_classifier_of_a_replaced_block_is_the_head(tmp_path):
    ours = network(0, "mobilenet_v2").state_dict()
    theirs = {name.replace("classifier.1.", "classifier."): tensor for name, tensor in ours.items()}
    model = read(tmp_path / "w.pth", theirs, name="mobilenet_v2")
    assert model.loaded == "head classifier.1 taken from classifier"
    assert torch.equal(model.module.classifier[1].weight, ours["classifier.1.weight"])


OWN = {"a.weight": torch.zeros(2), "a.num_batches_tracked": torch.tensor(0), "head.weight": torch.zeros(3)}
ONE, TWO = torch.ones(2), torch.full((2,), 2.0)


def reading(content: dict[str, Any]) -> state_dicts.Reading:
    return state_dicts.find(state_dicts.tables(content), OWN, ["head"], adapt=dict, source="w.pth")


@pytest.mark.parametrize(
    ("content", "ways"),
    [
        ({"model": {"m.a.weight": ONE}, "ema": {"a.weight": TWO}}, "under `model`, names after `m.`; under `ema`"),
        ({"q.a.weight": ONE, "k.a.weight": TWO}, "names after `q.`; names after `k.`"),
        ({"a.weight": ONE, "momentum.a.weight": TWO}, "the file as it is; names after `momentum.`"),
        ({"m.a.weight": ONE, "m._orig_mod.a.weight": TWO}, "names after `m.`; names after `m._orig_mod.`"),
        ({name: {"a.weight": t, "head.weight": torch.ones(9)} for name, t in (("x", ONE), ("y", TWO))},
         "under `x`; under `y`"),
    ],
)  # fmt: skip
def test_several_networks_in_a_file_are_refused(content: dict[str, Any], ways: str) -> None:
    with pytest.raises(UserError, match=f"^model.weights=w.pth: .* but 2 different ones fit: {ways}$"):
        reading(content)


def test_file_with_no_tensor_of_the_network_is_read_as_it_is() -> None:
    assert reading({"b": ONE}).plain


def test_file_is_adapted_as_it_is_even_if_a_prefix_fits_more_names() -> None:
    content = {"old.weight": ONE, "m.a.weight": torch.ones(9)}
    found = state_dicts.find(
        state_dicts.tables(content),
        OWN,
        ["head"],
        adapt=lambda tensors: {name.replace("old.", "a."): tensor for name, tensor in tensors.items()},
        source="w.pth",
    )
    assert found.plain and found.tensors["a.weight"] is ONE


def test_layers_beside_a_head_are_not_in_its_place() -> None:
    own = {"classifier.0.weight": ONE, "classifier.6.weight": TWO}
    assert state_dicts.heads_in(["classifier.6"], own, own) == ({"classifier.6.weight": TWO}, ["classifier.6.weight"])


def test_head_of_several_tensors_is_taken_whole_or_not_at_all() -> None:
    own = {"head.norm.weight": ONE, "head.fc.weight": TWO}
    assert state_dicts.heads_in(["head"], own, own) == (own, [*own])
    assert state_dicts.heads_in(["head"], own, {"head.fc.weight": TWO}) == ({}, ["head.fc.weight"])


def test_heads_are_taken_together() -> None:
    own = {"head.weight": ONE, "dist.weight": TWO}
    assert state_dicts.heads_in(["head", "dist"], own, own) == (own, [*own])
    assert state_dicts.heads_in(["head", "dist"], own, {"head.weight": ONE}) == ({}, ["head.weight"])
    assert [state_dicts.within(name, ["head", "dist"]) for name in (*own, "header.weight")] == [True, True, False]


def test_missing_weights_are_named_for_the_nearest_fit(tmp_path):
    short = state("module.")
    del short["module.conv1.0.weight"]
    message = refusal(tmp_path / "w.pth", {"state_dict": short})
    assert "(under `state_dict`, names after `module.`): weights do not fit" in message
    assert "1 missing: conv1.0.weight" in message and "unexpected" not in message
    assert "a state dict" in refusal(tmp_path / "w.pth", {"epoch": 3, "state_dict": {}})


def test_torchscript_is_refused_with_an_export_command(tmp_path):
    with pytest.warns((FutureWarning, DeprecationWarning)):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(UserError) as caught:
        build("resnet18", weights=str(tmp_path / "w.pt"), num_classes=2, seed=0)
    message = str(caught.value)
    assert "TorchScript" in message and "weights_only" not in message
    command = (
        message.partition("by ")[2].replace("w.pt'", f"{tmp_path}/w.pt'").replace("weights.pth", f"{tmp_path}/w.pth")
    )
    with pytest.warns((FutureWarning, DeprecationWarning)):
        exec(command, {"torch": torch})
    assert torch.load(tmp_path / "w.pth", weights_only=True).keys() == {"weight", "bias"}


def test_other_objects_are_refused_by_name(tmp_path):
    message = refusal(tmp_path / "w.pth", {"state_dict": state(), "args": argparse.Namespace(lr=1)})
    assert "holds other objects (argparse.Namespace)" in message
