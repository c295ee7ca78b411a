"""Freeze modes: the right parameters learn, and frozen tensors stay bit-identical."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from frostline.core.config import FreezeModeConfig
from frostline.core.errors import UserError
from frostline.models import adapters, freezing
from frostline.models.build import Model
from frostline.models.stages import of_levels
from frostline.training.evaluation import evaluate
from small import MODES, images, mode, network, phase, resolve, train

FAMILIES = ("shufflenet_v2_x0_5", "resnet18", "vit_b_16", "vgg11", "convnext_tiny", "densenet121", "mobilenet_v3_small")
NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
KEEPS_STATISTICS = nn.BatchNorm2d


@cache
def on_meta(name: str) -> Model:
    return network(name, meta=True)


def owner(model: Model, name: str) -> nn.Module:
    return model.module.get_submodule(name.rpartition(".")[0])


def distance(model: Model, name: str) -> int:
    """Return how many stages below the head a tensor lies, 0 for the head's own."""
    stages = model.structure.stages
    return len(stages) - 1 - stages.index(model.structure.stage_of(name))


def expected(model: Model, chosen: str) -> list[dict[str, float]]:
    """Return the scale of every parameter in every phase, computed independently from the modes' definitions."""
    stages = len(model.structure.stages)
    every = [name for name, _ in model.module.named_parameters()]
    far = {name: distance(model, name) for name in every}
    head = {name: float(far[name] == 0) for name in every}

    def learn(*also: str) -> dict[str, float]:
        return {name: float(far[name] == 0 or name in also) for name in every}

    if chosen == "norm":
        return [learn(*(name for name in every if isinstance(owner(model, name), NORMS)))]
    if chosen == "bias":
        return [learn(*(name for name in every if name.rpartition(".")[2] in ("bias", "in_proj_bias")))]
    if chosen == "gradual":
        reached = [{n: 0.3846 ** far[n] if far[n] <= k else 0.0 for n in every} for k in range(1, stages)]
        return [head, *reached]
    return {
        "head": [head],
        "full": [dict.fromkeys(every, 1.0)],
        "last_stage": [learn(*(n for n in every if far[n] == 1))],
        "last_two_stages": [learn(*(n for n in every if far[n] in (1, 2)))],
        "first_stage": [learn(*(n for n in every if far[n] in (stages - 1, stages - 2)))],
        "lp_ft": [head, dict.fromkeys(every, 0.1)],
        "layer_decay": [{n: 0.65 ** far[n] for n in every}],
    }[chosen]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("chosen", MODES)
def test_mode_sets_scales_and_requires_grad(name: str, chosen: str) -> None:
    model = on_meta(name)
    if (name, chosen) == ("vgg11", "norm"):  # it has no norm layers, and must not train as `head` does
        with pytest.raises(UserError, match=r"^freeze_mode=norm: .*\*/norm/\*"):
            resolve(model, mode(chosen))
        return
    phases = resolve(model, mode(chosen))
    assert [p.scales for p in phases] == [pytest.approx(scales) for scales in expected(model, chosen)]
    for now, scales in zip(phases, expected(model, chosen), strict=True):
        freezing.freeze(model.module, model.structure, now, norm_stats=mode(chosen).norm_stats)
        learning = {n for n, p in model.module.named_parameters() if p.requires_grad}
        assert learning == now.learning == {n for n, scale in scales.items() if scale > 0}


@pytest.mark.parametrize("name", FAMILIES)
def test_head_and_full_train_the_right_parameters(name: str) -> None:
    model = on_meta(name)
    head = model.module.get_submodule(model.structure.heads[0])
    for chosen, part in (("head", head), ("full", model.module)):
        (only,) = resolve(model, mode(chosen))
        freezing.freeze(model.module, model.structure, only, norm_stats=mode(chosen).norm_stats)
        trainable = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
        assert trainable == sum(p.numel() for p in part.parameters())


def must_not_change(model: Model, learning: set[str], norm_stats: str) -> set[str]:
    """Return the tensors that must not change, computed independently."""
    frozen = {name for name, _ in model.module.named_parameters()} - learning
    for name, _ in model.module.named_buffers():
        layer = name.rpartition(".")[0]
        if norm_stats == "frozen" or not {f"{layer}.weight", f"{layer}.bias"} & learning:
            frozen.add(name)
    return frozen


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8).clone()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        *(("shufflenet_v2_x0_5", chosen) for chosen in MODES),
        *(
            ("densenet121", "norm"),
            ("mobilenet_v3_small", "gradual"),
            ("squeezenet1_1", "last_stage"),
            ("resnet18", "bias"),
        ),
    ],
)
def test_only_unfrozen_tensors_change(name: str, chosen: str) -> None:
    model = network(name)
    model.module.train()(images(4).tensor)  # changes the running statistics
    scales = expected(model, chosen)
    before: dict[str, Tensor] = {}
    seen: list[int] = []

    def compare() -> None:
        if not seen:
            return
        learning = {n for n, scale in scales[seen[-1]].items() if scale > 0}
        frozen = must_not_change(model, learning, mode(chosen).norm_stats)
        moved = {n for n, tensor in model.module.state_dict().items() if not torch.equal(bits(tensor), before[n])}
        assert not moved & frozen
        rest = set(before) - frozen - moved
        # The scale before a depthwise convolution with batch norm has no gradient, because the norm cancels it.
        assert all(isinstance(owner(model, n), nn.BatchNorm2d) for n in rest)
        assert len(rest) < len(moved) / 4

    def entered(number: int) -> None:
        compare()
        seen.append(number)
        before.update({n: bits(tensor) for n, tensor in model.module.state_dict().items()})

    options = {"momentum": 0.9, "nesterov": True}
    data = images(16)
    settings = {"epochs": len(scales), "lr": 0.05, "weight_decay": 0.1, "options": options, "clip_norm": 1.0}
    list(train(model, mode(chosen), data, **settings, entered=entered))
    compare()
    assert seen == list(range(len(scales)))


def test_refrozen_weights_stop_despite_optimizer_state() -> None:
    everything, head = phase(rules=[{"match": "*"}]), mode("head").phases[0]
    thaw = FreezeModeConfig("thaw", "learn", [everything, head])
    model = network()
    kept: dict[str, Tensor] = {}

    def entered(number: int) -> None:
        if number == 1:
            kept.update({n: bits(t) for n, t in model.module.state_dict().items() if not n.startswith("fc.")})

    results = train(model, thaw, images(16), epochs=2, optimizer="adamw", weight_decay=0.5, entered=entered)
    assert [result.phase for result in results] == [0, 1]
    assert kept
    assert all(torch.equal(bits(model.module.state_dict()[n]), tensor) for n, tensor in kept.items())


def norm_modes(model: Model) -> dict[str, bool]:
    return {path: part.training for path, part in model.module.named_modules() if isinstance(part, KEEPS_STATISTICS)}


@pytest.mark.parametrize("chosen", MODES)
def test_norm_layers_use_batch_statistics_only_where_learning(chosen: str) -> None:
    model = network()
    for now, scales in zip(resolve(model, mode(chosen)), expected(model, chosen), strict=True):
        freezing.freeze(model.module, model.structure, now, norm_stats=mode(chosen).norm_stats)
        learning = mode(chosen).norm_stats == "learn"
        right = {path: learning and scales[f"{path}.weight"] > 0 for path in norm_modes(model)}
        assert norm_modes(model) == right
        every = [part.training for part in model.module.modules()]
        evaluate(model.module, images(4), batch_size=4, autocast=None)
        assert norm_modes(model) == right
        assert every == [part.training for part in model.module.modules()]


@pytest.mark.parametrize(
    ("stem", "norm_stats", "learns"), [(1.0, "learn", True), (0.0, "learn", False), (1, "frozen", 0)]
)
def test_norm_without_parameters_learns_with_its_stage(stem: float, norm_stats: str, learns: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(4, 2))
    structure = of_levels(module, {name: int(name[0] == "3") for name in module.state_dict()}, ("3",))
    scales = {name: stem if name[0] == "0" else 1.0 for name, _ in module.named_parameters()}
    freezing.freeze(module, structure, freezing.Phase(1.0, scales), norm_stats=norm_stats)
    assert module[1].training == learns and module[3].training


@pytest.mark.parametrize(
    ("learns", "trains"), [("0.weight", False), ("1.adapter.scale", False), ("1.weight", True), ("1.bias", True)]
)
def test_norm_keeps_its_statistics_where_only_others_of_its_stage_learn(learns: str, trains: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    structure = of_levels(module, {name: int(name[0] == "3") for name in module.state_dict()}, ("3",))
    structure = adapters.insert(module, structure, mode("ssf").adapter, seed=0, side=1)
    scales = {name: float(name in (learns, "3.weight")) for name, _ in module.named_parameters()}
    freezing.freeze(module, structure, freezing.Phase(1.0, scales), norm_stats="learn")
    assert learns in scales and module[0].training and module[1].training == trains


@pytest.mark.parametrize("name", ["vgg11", "mobilenet_v3_small", "convnext_tiny"])
def test_dropout_is_active_only_in_learning_stages(name: str) -> None:
    model = on_meta(name)
    (only,) = resolve(model, mode("head"))
    freezing.freeze(model.module, model.structure, only, norm_stats="frozen")
    active = [path for path, part in model.module.named_modules() if part.training]
    assert active
    assert all(model.structure.stage_of(path) == "head" for path in active)


@pytest.mark.parametrize(
    ("chosen", "line"), [("head", "fc"), ("last_stage", "conv5"), ("last_two_stages", "stage4"), ("bias", "conv1.0")]
)
def test_no_graph_is_built_below_the_frost_line(chosen: str, line: str) -> None:
    model = network()
    (only,) = resolve(model, mode(chosen))
    lowest = min(only.learning, key=lambda name: -distance(model, name))
    freezing.freeze(model.module, model.structure, only, norm_stats=mode(chosen).norm_stats)
    needs: dict[str, tuple[bool, bool]] = {}
    for path, part in model.module.named_modules():
        if not list(part.children()):
            part.register_forward_hook(
                lambda part, given, out, path=path: needs.update({path: (given[0].requires_grad, out.requires_grad)})
            )
    model.module(images(2).tensor)
    below = [path for path in needs if distance(model, path) > distance(model, lowest)]
    assert all(needs[path] == (False, False) for path in below)
    assert needs["fc"][1]
    assert bool(below) == (chosen != "bias")


def test_head_inputs_need_no_gradient() -> None:
    for name in ("shufflenet_v2_x0_5", "resnet18", "mobilenet_v3_small"):
        model = network(name)
        (only,) = resolve(model, mode("head"))
        freezing.freeze(model.module, model.structure, only, norm_stats="frozen")
        seen: list[bool] = []
        head = model.module.get_submodule(model.structure.heads[0])
        head.register_forward_pre_hook(lambda part, given, seen=seen: seen.append(given[0].requires_grad))
        assert model.module(images(2).tensor).requires_grad
        assert seen == [False]


def test_freezing_drops_gradients() -> None:
    model = network()
    full, head = resolve(model, mode("full"))[0], resolve(model, mode("head"))[0]
    freezing.freeze(model.module, model.structure, full, norm_stats="learn")
    model.module(images(2).tensor).sum().backward()
    freezing.freeze(model.module, model.structure, head, norm_stats="frozen")
    assert {n for n, p in model.module.named_parameters() if p.grad is not None} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"match": "heads/*"}, {"match": "*"}], ["freeze_mode=own", "heads/*", "stage-1", "model (bias, conv2d, "]),
        ([{"match": "head/*"}, {"match": "stage9/*"}, {"match": "*"}], ["freeze_mode=own", "stage9/*"]),
        ([{"match": "stage-4/*"}, {"match": "*"}], ["freeze_mode=own", "stage-4/*"]),
        ([{"match": "head/*"}], ["freeze_mode=own", "covers conv1.0.weight", "'*'"]),
        ([], ["freeze_mode=own", "covers conv1.0.weight"]),
        ([{"match": "*", "lr_scale": 0.0}], ["freeze_mode=own: expected some parameter to learn in every phase, by"]),
    ],
)
def test_rules_that_do_not_fit_the_network_are_refused(rules: list[dict[str, object]], words: list[str]) -> None:
    own = FreezeModeConfig("own", "learn", [phase(rules=[{"match": "*"}]), phase(rules=rules)])
    with pytest.raises(UserError) as caught:
        resolve(on_meta("shufflenet_v2_x0_5"), own)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_first_matching_rule_decides() -> None:
    rules = [{"match": "*/bn*"}, {"match": "stage-1/*", "lr_scale": 0.5}, {"match": "head/*"}, {"match": "*"}]
    rules[0] = {"match": "stage4/norm/*", "lr_scale": 0.25}
    own = FreezeModeConfig("own", "learn", [phase(rules=rules, lr_scale=2.0)])
    (only,) = resolve(on_meta("resnet18"), own)
    assert only.scales["layer4.0.bn1.weight"] == 0.5
    assert only.scales["layer4.0.conv1.weight"] == 1.0
    assert only.scales["layer3.0.bn1.weight"] == only.scales["fc.weight"] == 2.0
