"""Stages: ordered from stem to head, with a single tensor crossing each border."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch.fx
import torchvision
import yaml
from torch import nn
from torch.fx import Node

from families import CLASSES, MEMBERS, member
from frostline.core.errors import UserError
from frostline.models.build import Model, build
from frostline.models.stages import FAMILIES, Structure, structure_of
from frostline.models.torchvision_models import NAMES
from small import CONF, ONE_OF_EACH_FAMILY


@cache
def on_meta(name: str) -> Model:
    return build(name, weights=None, num_classes=CLASSES, seed=0, meta=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_has_a_stage(name: str) -> None:
    model = on_meta(name)
    structure = model.structure
    parameters = {path: structure.stage_of(path) for path, _ in model.module.named_parameters()}
    buffers = {path: structure.stage_of(path) for path, _ in model.module.named_buffers()}

    inner = tuple(f"stage{i + 1}" for i in range(len(structure.stages) - 2))
    assert structure.stages == ("stem", *inner, "head")
    assert set(parameters.values()) == set(structure.stages)
    assert set(buffers.values()) <= set(structure.stages)

    head = model.module.get_submodule(structure.heads[0])
    assert isinstance(head, nn.Linear | nn.Conv2d)
    assert head.weight.shape[0] == CLASSES
    in_head = {path for path, stage in (parameters | buffers).items() if stage == "head"}
    assert in_head == {f"{structure.heads[0]}.{leaf}" for leaf, _ in head.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layers_are_ordered_by_stage(name: str) -> None:
    model = on_meta(name)
    layers = [path for path, layer in model.module.named_modules() if not list(layer.children())]
    levels = [model.structure.stages.index(model.structure.stage_of(path)) for path in layers]
    assert levels == sorted(levels)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_one_tensor_crosses_each_border(name: str) -> None:
    model = on_meta(name)
    nodes = list(torch.fx.Tracer().trace(model.module).nodes)
    levels = levels_of(nodes, model.structure)
    for border in range(len(model.structure.stages) - 1):
        crossing = [n for n in levels if levels[n] <= border and any(levels[u] > border for u in n.users)]
        assert any(is_cut(node, border, levels) for node in crossing), (model.structure.stages[border], crossing)


def levels_of(nodes: list[Node], structure: Structure) -> dict[Node, int]:
    """Return the level of each node; a node that is no layer has the highest level of its inputs."""
    levels: dict[Node, int] = {}
    for node in nodes:
        below = max((levels[n] for n in node.all_input_nodes), default=0)
        levels[node] = structure.stages.index(structure.stage_of(str(node.target))) if is_layer(node) else below
        assert levels[node] >= below, f"{node} runs after a layer of a higher stage"
    return levels


def is_layer(node: Node) -> bool:
    return node.op in ("call_module", "get_attr") and not str(node.target).startswith("_tensor_constant")


def is_cut(cut: Node, border: int, levels: dict[Node, int]) -> bool:
    """Return whether layers below the border reach layers above it only through `cut`."""
    reached = [n for n in levels if is_layer(n) and levels[n] > border]
    for node in reached:
        below = [n for n in node.all_input_nodes if n is not cut]
        if any(n.op == "placeholder" or (is_layer(n) and levels[n] <= border) for n in below):
            return False
        reached.extend(n for n in below if n not in reached)
    return True


@pytest.mark.slow
def test_every_torchvision_network_has_a_documented_option() -> None:
    assert set(NAMES) == set(torchvision.models.list_models(module=torchvision.models))
    options = {path.stem: path.read_text() for path in (CONF / "model").glob("*.yaml")}
    ours = {name for name, text in options.items() if "library: timm" not in text}
    assert ours == {*NAMES, "shufflenet_glyphs"}
    for name in NAMES:
        assert yaml.safe_load(options[name]) == {"name": name}
        model = on_meta(name)
        head = model.module.get_submodule(model.structure.heads[0])
        count = sum(parameter.numel() for parameter in model.module.parameters())
        count += sum((1000 - CLASSES) * parameter[0].numel() for parameter in head.parameters())
        assert f": {count:,} parameters with ImageNet's 1,000 classes, {model.input.size} pixels." in options[name]


def test_tests_cover_all_families() -> None:
    for models in (map(on_meta, ONE_OF_EACH_FAMILY), map(member, MEMBERS)):
        assert {type(model.module).__name__ for model in models} == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet50", {"bn1": "stem", "maxpool": "stem", "layer1.0": "stage1", "layer4": "stage4", "avgpool": "stage4"}),
        ("densenet121", {"features.transition1": "stage1", "features.norm5": "stage4", "classifier": "head"}),
        ("vgg11", {"features.0": "stem", "features.2": "stem", "features.3": "stage1", "features.20": "stage4"}),
        ("vgg16", {"avgpool": "stage4", "classifier.0": "stage5", "classifier.3": "stage5", "classifier.5": "head"}),
        ("vit_b_16", {"class_token": "stem", "encoder.pos_embedding": "stem", "encoder.ln": "stage4"}),
        ("vit_l_16", {"encoder.layers.encoder_layer_5": "stage1", "encoder.layers.encoder_layer_6": "stage2"}),
        ("mobilenet_v3_small", {"features.1": "stage1", "features.4": "stage3", "features.12": "stage4"}),
        ("efficientnet_b0", {"features.1": "stage1", "features.5": "stage4", "features.8": "stage5"}),
        ("convnext_tiny", {"features.2": "stage2", "features.3": "stage2", "classifier.0": "stage4"}),
        ("swin_t", {"features.2.norm": "stage2", "norm": "stage4", "head": "head"}),
        ("squeezenet1_0", {"features.5": "stage1", "features.6": "stage1", "features.7": "stage2"}),
        ("shufflenet_v2_x0_5", {"conv1.0": "stem", "stage2": "stage1", "conv5": "stage3"}),
    ],
)
def test_layers_are_in_the_expected_stages(name: str, stages: dict[str, str]) -> None:
    structure = on_meta(name).structure
    assert {path: structure.stage_of(path) for path in stages} == stages


@pytest.mark.parametrize("path", ["", "classifier", "features", "nothing.of.this.name"])
def test_path_across_stages_raises_key_error(path: str) -> None:
    with pytest.raises(KeyError):
        on_meta("vgg11").structure.stage_of(path)


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="model=Sequential: expected an architecture of a known family"):
        structure_of(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("changes", "refused"), [({"stem": "bn1"}, "conv1.weight has 0"), ({"top": "bn1"}, "bn1.weight has 2")]
)
def test_family_that_gives_a_tensor_no_stage_or_two_is_refused(changes: dict[str, str], refused: str) -> None:
    with pytest.raises(UserError, match=f"gives each tensor one stage, and {refused}$"):
        structure_of(on_meta("resnet18").module, replace(FAMILIES["ResNet"], **changes))
